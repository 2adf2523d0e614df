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
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from absl import flags

from lambda_keras import __version__
from lambda_keras.benchmark.settings import InputBenchmark
from lambda_keras.benchmark.settings import LayerBenchmark
from lambda_keras.benchmark.settings import MemoryBenchmark
from lambda_keras.benchmark.settings import Preflight
from lambda_keras.benchmark.settings import Report
from lambda_keras.benchmark.settings import ThroughputBenchmark
from lambda_keras.commands import FAILED
from lambda_keras.commands import CommandError
from lambda_keras.serving.settings import ExportSettings
from lambda_keras.serving.settings import PredictSettings
from lambda_keras.settings import Settings
from lambda_keras.settings import setting
from lambda_keras.training.recipe import Devices
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.recipes import RECIPES
from lambda_keras.training.recipes import find_recipe
from lambda_keras.training.settings import ConvertSettings
from lambda_keras.training.settings import EvaluateSettings
from lambda_keras.training.settings import PseudoLabelSettings

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
        engines: The engines of Keras that it runs on, the default first.
    """

    summary: str
    module: str
    settings: type
    packages: tuple[str, ...]
    extra: str
    engines: tuple[str, ...] = ("tensorflow",)


@dataclasses.dataclass(frozen=True)
class RecipeChoice(Settings):
    """The flags beside those of a `Recipe`, which say what to start from."""

    recipe: str = setting(
        RECIPES[0],
        f"Where to start from: {', '.join(RECIPES)}, or the path of a .py file "
        "like theirs. Other flags change its settings.",
    )
    print_recipe: bool = setting(
        False, "Print all settings, as such a file, and do nothing else."
    )


COMMANDS = {
    "train": Command(
        summary="Trains a model on images and writes a run directory.",
        module="lambda_keras.commands.train",
        settings=Recipe,
        packages=("tensorflow", "sklearn", "matplotlib"),
        extra="tf",
        engines=("tensorflow", "jax"),
    ),
    "evaluate": Command(
        summary="Measures a checkpoint or a SavedModel on images.",
        module="lambda_keras.commands.evaluate",
        settings=EvaluateSettings,
        packages=("tensorflow", "sklearn"),
        extra="tf",
        engines=("tensorflow", "jax"),
    ),
    "pseudo_label": Command(
        summary="Labels images with a trained model, to train another.",
        module="lambda_keras.commands.pseudo_label",
        settings=PseudoLabelSettings,
        packages=("tensorflow", "sklearn", "matplotlib"),
        extra="tf",
        engines=("tensorflow", "jax"),
    ),
    "convert": Command(
        summary="Turns timm's weights into Keras models, and back.",
        module="lambda_keras.commands.convert",
        settings=ConvertSettings,
        packages=("safetensors",),
        extra="weights",
        engines=("tensorflow", "jax"),
    ),
    "export": Command(
        summary="Turns a trained model into what servers run.",
        module="lambda_keras.commands.export",
        settings=ExportSettings,
        packages=("tensorflow",),
        extra="export",
    ),
    "predict": Command(
        summary="Labels image files with a trained model.",
        module="lambda_keras.commands.predict",
        settings=PredictSettings,
        packages=("tensorflow",),
        extra="tf",
    ),
    "benchmark input": Command(
        summary="Measures how fast images are read and augmented.",
        module="lambda_keras.commands.benchmark_input",
        settings=InputBenchmark,
        packages=("tensorflow", "sklearn", "matplotlib"),
        extra="tf",
    ),
    "benchmark throughput": Command(
        summary="Measures the speed of LambdaResNets and EfficientNets.",
        module="lambda_keras.commands.benchmark_throughput",
        settings=ThroughputBenchmark,
        packages=("matplotlib",),
        extra="bench",
        engines=("tensorflow", "jax"),
    ),
    "benchmark layer": Command(
        summary="Compares layers and their contractions, side by side.",
        module="lambda_keras.commands.benchmark_layer",
        settings=LayerBenchmark,
        packages=("matplotlib",),
        extra="bench",
        engines=("tensorflow", "jax"),
    ),
    "benchmark memory": Command(
        summary="Makes the paper's table of memory anew, from programs.",
        module="lambda_keras.commands.benchmark_memory",
        settings=MemoryBenchmark,
        packages=("matplotlib",),
        extra="bench",
        engines=("jax",),
    ),
    "benchmark report": Command(
        summary="Draws what was measured beside the paper's figures.",
        module="lambda_keras.commands.benchmark_report",
        settings=Report,
        packages=("matplotlib",),
        extra="bench",
        engines=("tensorflow", "jax"),
    ),
    "preflight": Command(
        summary="Compiles for a TPU, without one: does it fit, how fast.",
        module="lambda_keras.commands.preflight",
        settings=Preflight,
        packages=("libtpu",),
        extra="preflight",
        engines=("jax",),
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; ends in `SystemExit` if there is anything wrong.

    Args:
        argv: The arguments after the program's name; by default `sys.argv`'s.
    """
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    prefix = PROGRAM
    try:
        if arguments[0] in ("--help", "-h", "help"):
            print(_overview())
        elif arguments[0] == "--version":
            print(f"{PROGRAM} {__version__}")
        else:
            name, arguments = _split_command(arguments)
            command = _find_command(name)
            prefix = f"{PROGRAM} {name}"
            if {"--help", "-h", "-help"} & set(arguments):
                print(_command_help(name, command))
            else:
                settings = parse(command, prefix, arguments)
                if settings is not None:
                    _run(command, settings)
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
        An instance of `command.settings`, or None if it was to be printed.
    """
    values = _define_flags(command)
    try:
        _, *rest = values([prefix, *arguments])
    except flags.Error as error:
        raise CommandError(error) from None
    positional = _positional(command)
    if rest and positional is None:
        raise CommandError(
            f"expected flags as --name=value. Received: {' '.join(rest)}"
        )
    given = {
        field.name: values[_flag(field)].value
        for field in dataclasses.fields(command.settings)
        if field is not positional and values[_flag(field)].present
    }
    if rest:
        given[positional.name] = tuple(rest)
    try:
        if command.settings is not Recipe:
            return command.settings(**given)
        recipe = find_recipe(values["recipe"].value, **given)
    except ValueError as error:
        raise CommandError(error) from None
    if not values["print_recipe"].value:
        return recipe
    print(_as_file(recipe))
    return None


def _as_file(recipe: Recipe) -> str:
    """Returns a program that `--recipe` takes and that gives this recipe."""
    return "\n".join(
        [
            f"from {Recipe.__module__} import {Recipe.__name__}",
            "",
            f"RECIPE = {Recipe.__name__}(",
            *(f"    {name}={value!r}," for name, value in vars(recipe).items()),
            ")",
        ]
    )


def _fields(command: Command) -> list[dataclasses.Field]:
    """Returns what the command has flags for, those about devices last."""
    fields = list(dataclasses.fields(command.settings))
    if command.settings is Recipe:
        fields = [*dataclasses.fields(RecipeChoice), *fields]
    devices = {field.name for field in dataclasses.fields(Devices)}
    return sorted(fields, key=lambda field: field.name in devices)


def _positional(command: Command) -> dataclasses.Field | None:
    """Returns the field that takes the arguments that are no flags."""
    for field in dataclasses.fields(command.settings):
        if field.metadata["positional"]:
            return field
    return None


def _flag(field: dataclasses.Field) -> str:
    """Returns the name of a field's flag: `from_` is one, `from` cannot be."""
    return field.name.removesuffix("_")


def _define_flags(command: Command) -> flags.FlagValues:
    values = flags.FlagValues()
    # Flags may stand after anything, and nothing else is accepted.
    values.set_gnu_getopt(True)
    define: dict[type, Callable[..., typing.Any]] = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
    }
    for field in _fields(command):
        if field.metadata["positional"]:
            continue
        # `str | None` is a string without a default.
        kinds = typing.get_args(field.type) or (field.type,)
        define[kinds[0]](
            _flag(field),
            field.default,
            field.metadata["help"],
            flag_values=values,
        )
    return values


def _split_command(arguments: list[str]) -> tuple[str, list[str]]:
    """Takes the command off the arguments; some have two words."""
    name, *rest = arguments
    starts_command = any(known.startswith(f"{name} ") for known in COMMANDS)
    if starts_command and rest and not rest[0].startswith("-"):
        return f"{name} {rest[0]}", rest[1:]
    return name, rest


def _find_command(name: str) -> Command:
    if name in COMMANDS:
        return COMMANDS[name]
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    first, _, second = name.partition(" ")
    family = [known for known in COMMANDS if known.startswith(f"{first} ")]
    if family and not (second and near):
        near = [", ".join(family[:-1]) + f" or {family[-1]}"]
    hint = f"did you mean {near[0]}?" if near else "--help lists them."
    raise CommandError(f"there is no command {name!r}; {hint}")


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _run(command: Command, settings: typing.Any) -> None:
    """Loads the command's module, and with it the engine; then runs it."""
    installed = [name for name in command.engines if _is_installed(name)]
    default = (installed or command.engines)[0]
    backend = os.environ.setdefault("KERAS_BACKEND", default)
    if backend not in command.engines:
        raise CommandError(
            f"the engine must be {' or '.join(command.engines)}. "
            f"Received: KERAS_BACKEND={backend}"
        )
    missing = [
        name
        for name in dict.fromkeys((backend, *command.packages))
        if not _is_installed(name)
    ]
    if missing:
        raise CommandError(
            f"not installed: {', '.join(missing)}; "
            f'pip install "lambda_keras[{command.extra}]" brings what it needs.'
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with held_back_stderr():
        module = importlib.import_module(command.module)
    with plain_warnings():
        module.run(settings)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Shows warnings as a line for people, and not where in the code they are.

    One may say that weights were resampled, which is nobody's mistake.
    """
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


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
        *(f"  {name:20} {item.summary}" for name, item in COMMANDS.items()),
        "",
        f"{PROGRAM} COMMAND --help explains its flags, and",
        f"{PROGRAM} --version prints the version.",
    ]
    return "\n".join(lines)


def _command_help(name: str, command: Command) -> str:
    positional = _positional(command)
    usage = f"Usage: {PROGRAM} {name} [--flag=value ...]"
    if positional is not None:
        usage += f" [{positional.metadata['positional']} ...]"
    lines = [command.summary, "", usage, ""]
    for field in _fields(command):
        default = "" if field.default is None else f"={field.default}"
        is_flag = field is not positional
        lines.append(
            f"  --{_flag(field)}{default}"
            if is_flag
            else f"  {field.metadata['positional']} ..."
        )
        lines += textwrap.wrap(
            field.metadata["help"],
            width=79,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
        )
    return "\n".join(lines)
