"""Files that appear whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial-"


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
        prefix=PARTIAL, dir=path.parent
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


@contextlib.contextmanager
def made_directory(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Makes a directory, and takes it back if the block leaves nothing there.

    So do the parents that are missing. One that was there stays, whatever
    happens.

    Args:
        directory: The directory to write to.

    Raises:
        PermissionError: If it cannot be made or written to.
    """
    directory = Path(directory)
    missing = [
        path for path in (directory, *directory.parents) if not path.exists()
    ]
    try:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # Permissions do not tell all: a file system may be read-only or
            # full.
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            raise PermissionError(
                "`output_dir` must be in a directory that can be written to "
                f"({error.strerror}). Received: output_dir={directory}"
            ) from error
        yield
    except BaseException:
        for path in missing:
            if not path.exists():
                continue
            if any(path.iterdir()):
                break
            path.rmdir()
        raise


def remove_leftovers(directory: str | os.PathLike[str]) -> None:
    """Removes what a killed process had only half written."""
    for path in Path(directory).rglob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps a second process out of a directory, where the system can.

    One that is still saving when the next is started would be disturbed.

    Args:
        path: The directory, or a file of it.

    Raises:
        FileExistsError: If another process is there.
    """
    try:
        import fcntl
    except ImportError:  # Not on Windows.
        yield
        return
    # Unlike a file object, a descriptor may be that of a directory.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            directory = path if path.is_dir() else path.parent
            raise FileExistsError(
                "`output_dir` must not be one that another process is still "
                f"writing to. Received: output_dir={directory}"
            ) from None
        except OSError:
            pass  # Some file systems have no locks.
        yield
    finally:
        os.close(descriptor)
