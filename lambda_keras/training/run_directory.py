"""The directory that a run writes to."""

import contextlib
import dataclasses
import datetime
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from lambda_keras.files import locked
from lambda_keras.files import made_directory
from lambda_keras.files import remove_leftovers
from lambda_keras.files import write_aside
from lambda_keras.settings import Settings
from lambda_keras.training.recipe import Recipe

RECIPE, SUMMARY = "recipe.json", "summary.json"

# What a run may be continued with another value of: it ends the same.
FREE = (
    "output_dir",
    "data_dir",
    "max_bad_images",
    "checkpoint_seconds",
    "keep_checkpoints",
    "tensorboard",
    "profile_steps",
    "tpu",
    "coordinator",
    "process_id",
)


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
    kind, _, place = recipe.dataset.partition(":")
    # `folder:/data/my photos` is called `my-photos`.
    name = place if kind == "tfds" else Path(place).name
    dataset = re.sub(r"[^\w.]+", "-", name or kind)
    return Path(
        "runs", f"{now:%Y%m%d-%H%M%S}-{model}-{dataset}-seed{recipe.seed}"
    )


@contextlib.contextmanager
def run_directory(
    directory: str | os.PathLike[str],
    recipe: Settings,
    summary: str = SUMMARY,
) -> Iterator[Path]:
    """Makes the directory of a run, or takes up one that was stopped.

    If a failed block left nothing but the recipe there, all of it is taken
    back. A run that has saved something keeps it, whatever happens next.

    Args:
        directory: A path that is new, an empty directory, or that of a run
            with the same settings which has not ended. Parents that are
            missing are made, and taken back, too.
        recipe: The settings.
        summary: The name of the file that a finished run has.

    Raises:
        OSError: If it is something else, cannot be made or written to, or if
            another process is writing to it.
        ValueError: If the run there has other settings.
    """
    directory = Path(directory)
    _check_is_ours(directory, recipe, summary)
    with made_directory(directory):
        if not (directory / RECIPE).exists():
            with write_aside(directory / RECIPE) as temporary:
                temporary.write_text(json.dumps(vars(recipe), indent=2) + "\n")
        # The lock comes first: what another process has there stays.
        with locked(directory / RECIPE), _recipe_alone_removed(directory):
            remove_leftovers(directory)
            yield directory


def _check_is_ours(directory, recipe, summary):
    if not directory.exists():
        return
    is_run = (directory / RECIPE).is_file()
    is_finished = (directory / summary).exists()
    is_empty = directory.is_dir() and not any(directory.iterdir())
    if is_finished:
        raise FileExistsError(
            "`output_dir` must be new or an empty directory: what was begun "
            f"in this one is finished. Received: output_dir={directory}"
        )
    if not (is_run or is_empty):
        raise FileExistsError(
            "`output_dir` must be new or an empty directory. "
            f"Received: output_dir={directory}"
        )
    if is_run:
        _check_same(directory, recipe)


def _check_same(directory, recipe):
    try:
        there = json.loads((directory / RECIPE).read_text())
    except ValueError as error:
        raise ValueError(
            f"`output_dir` must have a {RECIPE} that can be read ({error}). "
            f"Received: output_dir={directory}"
        ) from error
    # What a version did not know, it did as is the default.
    defaults = {x.name: x.default for x in dataclasses.fields(recipe)}
    there = {**defaults, **there}
    names = {*there}
    differing = [
        f"{name}={getattr(recipe, name, None)} (there {there.get(name)})"
        for name in sorted(names - {*FREE})
        if getattr(recipe, name, None) != there.get(name)
    ]
    if differing:
        raise ValueError(
            "`output_dir` has a run with other settings, which only they can "
            f"continue: {', '.join(differing)}. "
            f"Received: output_dir={directory}"
        )


@contextlib.contextmanager
def _recipe_alone_removed(directory):
    try:
        yield
    except BaseException:
        if {path.name for path in directory.glob("*")} == {RECIPE}:
            (directory / RECIPE).unlink()
        raise
