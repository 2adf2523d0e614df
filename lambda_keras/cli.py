"""The command line: `lambda-keras COMMAND --flag=value ...`.

It answers `--help` and mistakes in the flags before TensorFlow is loaded, so
the modules imported here need neither it nor Keras.
"""

import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import os
import sys
import tempfile
import textwrap
import typing
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from absl import flags

from lambda_keras import __version__
from lambda_keras.commands import FAILED
from lambda_keras.commands import CommandError
from lambda_keras.training.recipe import Recipe

PROGRAM = "lambda-keras"
# As the shells have it: 128 and the number of the signal.
INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of the program.

    Args:
        summary: What it does, in a sentence.
        module: The module whose `run` does it.
        settings: A dataclass; each of its fields becomes a flag.
        packages: What must be installed, as import names.
        extra: The extra that installs them.
    """

    summary: str
    module: str
    settings: type
    packages: tuple[str, ...]
    extra: str


COMMANDS = {
    "train": Command(
        summary="Trains a model on images and writes a run directory.",
        module="lambda_keras.commands.train",
        settings=Recipe,
        packages=("tensorflow", "sklearn", "matplotlib"),
        extra="tf",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; ends in `SystemExit` if there is anything wrong.

    Args:
        argv: The arguments after the program's name; by default `sys.argv`'s.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    prefix = PROGRAM
    try:
        if name in ("--help", "-h", "help"):
            print(_overview())
        elif name == "--version":
            print(f"{PROGRAM} {__version__}")
        else:
            command = _find_command(name)
            prefix = f"{PROGRAM} {name}"
            if {"--help", "-h", "-help"} & set(arguments):
                print(_command_help(name, command))
            else:
                _run(command, parse(command, prefix, arguments[1:]))
        sys.stdout.flush()
    except CommandError as error:
        print(f"{prefix}: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None
    except BrokenPipeError:
        # Who reads has gone, as `| head` does; Python would say so at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILED) from None
    except KeyboardInterrupt as error:
        print(f"\n{prefix}: interrupted{error}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def parse(
    command: Command, prefix: str, arguments: Sequence[str]
) -> typing.Any:
    """Turns flags into the command's settings.

    Args:
        command: The command.
        prefix: The name that absl expects before the arguments.
        arguments: The arguments after the command's name.

    Returns:
        An instance of `command.settings`.
    """
    values = _define_flags(command.settings)
    try:
        _, *rest = values([prefix, *arguments])
    except flags.Error as error:
        raise CommandError(error) from None
    if rest:
        raise CommandError(
            f"expected flags as --name=value. Received: {' '.join(rest)}"
        )
    given = {
        field.name: values[field.name].value
        for field in dataclasses.fields(command.settings)
    }
    try:
        return command.settings(**given)
    except ValueError as error:
        raise CommandError(error) from None


def _define_flags(settings: type) -> flags.FlagValues:
    values = flags.FlagValues()
    # Flags may stand after anything, and nothing else is accepted.
    values.set_gnu_getopt(True)
    define: dict[type, Callable[..., typing.Any]] = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
    }
    types = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        # `str | None` is a string without a default.
        kinds = typing.get_args(types[field.name]) or (types[field.name],)
        define[kinds[0]](
            field.name,
            field.default,
            field.metadata["help"],
            flag_values=values,
        )
    return values


def _find_command(name: str) -> Command:
    if name in COMMANDS:
        return COMMANDS[name]
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "--help lists them."
    raise CommandError(f"there is no command {name!r}; {hint}")


def _run(command: Command, settings: typing.Any) -> None:
    """Loads the command's module, and with it the engine; then runs it."""
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise CommandError(
            "the engine must be TensorFlow (tf.data, SavedModel). "
            f"Received: KERAS_BACKEND={backend}"
        )
    missing = [
        name for name in command.packages if not importlib.util.find_spec(name)
    ]
    if missing:
        raise CommandError(
            f"not installed: {', '.join(missing)}; "
            f'pip install "lambda_keras[{command.extra}]" brings what it needs.'
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with held_back_stderr():
        module = importlib.import_module(command.module)
    module.run(settings)


@contextlib.contextmanager
def held_back_stderr() -> Iterator[None]:
    """Keeps standard error silent, unless the block fails.

    TensorFlow greets from C++ with lines that no log level hides, hence the
    file descriptor and not `sys.stderr`.
    """
    sys.stderr.flush()
    visible = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            sys.stderr.flush()
            held.seek(0)
            os.write(visible, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(visible, 2)
            os.close(visible)


def _overview() -> str:
    lines = [
        f"LambdaNetworks for Keras, version {__version__}.",
        "",
        f"Usage: {PROGRAM} COMMAND [--flag=value ...]",
        "",
        *(f"  {name:8} {item.summary}" for name, item in COMMANDS.items()),
        "",
        f"{PROGRAM} COMMAND --help explains its flags, and",
        f"{PROGRAM} --version prints the version.",
    ]
    return "\n".join(lines)


def _command_help(name: str, command: Command) -> str:
    lines = [
        command.summary,
        "",
        f"Usage: {PROGRAM} {name} [--flag=value ...]",
        "",
    ]
    for field in dataclasses.fields(command.settings):
        default = "" if field.default is None else f"={field.default}"
        lines.append(f"  --{field.name}{default}")
        lines += textwrap.wrap(
            field.metadata["help"],
            width=79,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
        )
    return "\n".join(lines)
