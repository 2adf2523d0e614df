"""What the commands do; each module is loaded when its command is given."""

import os
import shlex
import shutil
import sys
import time
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
