"""What memory this process has and had, as Linux tells it."""

import contextlib
import ctypes
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Of mallopt, as glibc's malloc.h has them.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_STATUS, _MEMORY = "/proc/self/status", "/proc/meminfo"
# The part of what is free that a process may ask for: the rest is for what
# the system itself does meanwhile.
_SHARE = 0.9
_WEIGHINGS = 3


def read_field(path: str | os.PathLike[str], field: str) -> int:
    """Returns a figure of a file of `/proc`, in bytes.

    Args:
        path: The file.
        field: The name that the figure has there.

    Raises:
        OSError: If there is no such file.
    """
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        raise OSError(
            "a processor's memory is read from /proc, which only Linux has"
        ) from None
    (kilobytes,) = re.findall(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(kilobytes)


def available_memory() -> int:
    """Returns how many bytes this machine has free for programs."""
    return read_field(_MEMORY, "MemAvailable")


def peak_growth(run: Callable[[], Any]) -> int:
    """Finds how many more bytes are resident at most while a function runs.

    Those of its results count, what compilers, engines and earlier calls hold
    does not.

    Args:
        run: The function. It is called more than once, first as a warm-up:
            libraries take their work space in a first call.

    Returns:
        The largest growth of some calls: what an earlier call freed too late,
        and a later one takes again, does not show.
    """
    _return_what_is_freed()
    growths = []
    for _ in range(_WEIGHINGS):
        run()
        # Threads of an engine may free a moment later.
        time.sleep(0.05)
        before = _forget_peak()
        results = run()
        growths.append(read_field(_STATUS, "VmHWM") - before)
        del results
    return max(growths)


def _forget_peak():
    """Starts the peak anew; returns how many bytes are resident now."""
    # What was freed would be used again, and not show.
    release_memory()
    Path("/proc/self/clear_refs").write_text("5")
    return read_field(_STATUS, "VmRSS")


def release_memory() -> None:
    """Gives back to the system what was freed, where the C library can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _return_what_is_freed():
    """Has memory go back to the system as soon as it is freed.

    What is taken again then shows, and all that is taken takes longer.
    """
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        for threshold in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            library.mallopt(threshold, 65536)


def limit_memory() -> None:
    """Lets this process have no more memory than is free now.

    What asks for more gets an error, in the place of others being killed.
    Should the system run out all the same, this process is the first to go.
    """
    import resource

    go_first()
    try:
        own = read_field(_STATUS, "VmData")
        limit = own + int(_SHARE * available_memory())
    except OSError:
        return  # Not Linux.
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def go_first() -> None:
    """Makes this process the one to be killed should memory run out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
