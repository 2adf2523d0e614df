"""Versions of a model: directories that are numbers, as servers take them."""

import os
from pathlib import Path

SAVED_MODEL_FILE = "saved_model.pb"


def list_versions(directory: str | os.PathLike[str]) -> dict[int, Path]:
    """Finds the versions in a directory, by their numbers, ascending.

    What a server would take for one, whatever is in it: 007 is version 7.

    Args:
        directory: The directory of a model's versions; it may be missing.
    """
    directory = Path(directory)
    if not directory.is_dir():
        return {}
    found = {
        int(path.name): path
        for path in directory.iterdir()
        if path.name.isascii() and path.name.isdigit() and path.is_dir()
    }
    return dict(sorted(found.items()))


def next_version(directory: str | os.PathLike[str]) -> int:
    """Returns the number after that of the newest version, at first 1."""
    return max(list_versions(directory), default=0) + 1


def find_version(path: str | os.PathLike[str]) -> Path:
    """Finds a version by its own path or by that of the model.

    Args:
        path: The directory of a version, or that of versions, of which the
            newest is taken.

    Returns:
        The directory of the version.

    Raises:
        ValueError: If it is neither.

    Example:

    ```python
    find_version("models/mine")  # models/mine/12
    find_version("models/mine/3")  # models/mine/3
    ```
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(
            "`model` must be a directory that `lambda-keras export` wrote. "
            f"Received: model={path}, which is no directory"
        )
    candidates = (path, *list(list_versions(path).values())[-1:])
    for candidate in candidates:
        if (candidate / SAVED_MODEL_FILE).is_file():
            return candidate
    raise ValueError(
        "`model` must be a directory that `lambda-keras export` wrote: a "
        f"version, or that of versions. Received: model={path}, without "
        f"{SAVED_MODEL_FILE} in {' and in '.join(map(str, candidates))}"
    )
