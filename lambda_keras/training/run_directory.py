"""The directory that a run writes to."""

import datetime
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lambda_keras.training.recipe import Recipe


def default_directory(
    model: str, recipe: Recipe, now: datetime.datetime
) -> Path:
    """Names a directory under `runs/` by time, model, data set and seed.

    Args:
        model: The name of the model.
        recipe: The settings of the run.
        now: The time when it starts.

    Returns:
        A relative path.

    Example:

    >>> now = datetime.datetime(2021, 2, 17, 9, 30)
    >>> default_directory("resnet_tiny", Recipe(), now)
    PosixPath('runs/20210217-093000-resnet_tiny-digits-seed0')
    """
    return Path(
        "runs",
        f"{now:%Y%m%d-%H%M%S}-{model}-{recipe.dataset}-seed{recipe.seed}",
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
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise FileExistsError(
            "`output_dir` must be new or an empty directory. "
            f"Received: output_dir={directory}"
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
            f"({error.strerror}). Received: output_dir={directory}"
        ) from error
