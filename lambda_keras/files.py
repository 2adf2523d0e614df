"""Files that appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def write_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path of the same name, renamed to `path` at the end.

    The temporary path lies in a hidden directory beside `path`, so that the
    rename stays within one file system. When the block fails, nothing is left.
    What is renamed is on the disk, also if the machine is switched off then.

    Args:
        path: The file or directory to write. An existing file is replaced.

    Example:

    ```python
    with write_aside("run/best.keras") as temporary:
        model.save(temporary)
    ```
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(
        prefix=".partial-", dir=path.parent
    ) as directory:
        temporary = Path(directory) / path.name
        yield temporary
        for file in (temporary, *temporary.rglob("*")):
            if file.is_file():
                _write_through(file)
        os.replace(temporary, path)


def _write_through(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
