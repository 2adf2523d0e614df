"""The directory that a run writes to."""

import datetime
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lambda_keras.training.recipe import Recipe


def default_directory(recipe: Recipe, now: datetime.datetime) -> Path:
    """Names a directory under `runs/` by time, model, data set and seed.

    Args:
        recipe: The settings of the run.
        now: The time when it starts.

    Returns:
        A relative path.

    Example:

    >>> default_directory(Recipe(), datetime.datetime(2021, 2, 17, 9, 30))
    PosixPath('runs/20210217-093000-lambda_resnet_tiny-digits-seed0')
    """
    return Path(
        "runs",
        f"{now:%Y%m%d-%H%M%S}-{recipe.model}-{recipe.dataset}"
        f"-seed{recipe.seed}",
    )


@contextmanager
def run_directory(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Makes the directory, and takes it back if a failed block left it empty.

    A run that has saved something keeps it, whatever happens next.

    Args:
        directory: A path that is new or an empty directory. Parents that are
            missing are made, and taken back, too.

    Raises:
        OSError: If it is not empty, or cannot be made or written to.
    """
    directory = Path(directory)
    if directory.is_dir() and any(directory.iterdir()):
        raise FileExistsError(
            f"`output_dir` must be new or empty. Received: {directory}"
        )
    missing = [
        path for path in (directory, *directory.parents) if not path.exists()
    ]
    try:
        _make_writable(directory)
        yield directory
    except BaseException:
        for path in missing:
            if not path.exists():
                continue
            if any(path.iterdir()):
                break
            path.rmdir()
        raise


def _make_writable(directory):
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Permissions do not tell all: a file system may be read-only or full.
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise PermissionError(
            "`output_dir` must be in a directory that can be written to "
            f"({error.strerror}). Received: {directory}"
        ) from error
