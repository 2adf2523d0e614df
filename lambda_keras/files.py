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
        os.replace(temporary, path)
