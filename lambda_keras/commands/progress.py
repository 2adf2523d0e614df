"""How long work shows that it goes on."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Says on standard error what is done; overwritten on a terminal.

    Yields:
        A function of a line. On a terminal the line stands until the next
        one, or until the block's end; an empty one clears it, for others to
        print. Elsewhere a line that says the same again is left out.

    Example:

    ```python
    with progress() as tell:
        for name in names:
            tell(name)
            measure(name)
    ```
    """
    started, width, last = time.monotonic(), 0, ""

    def tell(line):
        nonlocal width, last
        stamped = line and f"[{time.monotonic() - started:4.0f} s] {line}"
        if sys.stderr.isatty():
            # What goes on in a second line could not be overwritten.
            stamped = stamped[: shutil.get_terminal_size().columns - 1]
            end = "" if line else "\r"
            padded = f"\r{stamped.ljust(width)}{end}"
            print(padded, end="", file=sys.stderr, flush=True)
            width = len(stamped)
        elif line and line != last:
            print(stamped, file=sys.stderr, flush=True)
            last = line

    try:
        yield tell
    finally:
        if width:
            tell("")
