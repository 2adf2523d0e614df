"""What the commands do; each module is loaded when its command is given."""

import contextlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# The command line imports this before anything that takes long.
STARTED_AT = time.monotonic()

MISTAKE, FAILED, DOES_NOT_FIT = 2, 1, 3


class CommandError(Exception):
    """Ends the program with one line on standard error.

    Args:
        message: What went wrong.
        status: The exit status: `MISTAKE` in the arguments, `FAILED`, or
            `DOES_NOT_FIT` for a program that a TPU has no memory for.
    """

    def __init__(self, message: object, status: int = MISTAKE):
        super().__init__(" ".join(str(message).split()))
        self.status = status


@contextlib.contextmanager
def resumable(directory: Path, *errors: type[BaseException]) -> Iterator[None]:
    """Says, where a block is cut short, that the same command goes on.

    Args:
        directory: What the command goes on from.
        *errors: What ends the block as `FAILED`.
    """
    again = (
        "the same command with "
        f"--output_dir={shlex.quote(str(directory))} goes on from there"
    )
    try:
        yield
    except errors as error:
        raise CommandError(f"{error}; {again}", status=FAILED) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; {again}") from None


def program() -> str:
    """Returns what to type for this program, which may not be on the path."""
    name = "lambda-keras"
    if shutil.which(name):
        return name
    # Beside Python, in an environment that was not activated.
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return shlex.quote(os.path.relpath(beside))
    return f"{shlex.quote(sys.executable)} -m lambda_keras"
