"""What the commands do; each module is loaded when its command is given."""

import time

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
