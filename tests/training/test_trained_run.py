import json

import pytest

from lambda_keras.training.trained_run import TrainedRun
from lambda_keras.training.trained_run import find_run

RECIPE = {"dataset": "tfds:cifar10", "data_dir": "tfds", "image_size": None}


def write(directory, recipe, summary=None):
    """Makes a run with a model and a checkpoint, and returns the paths."""
    paths = [directory / "best.keras", directory / "checkpoints" / "step-1.npz"]
    paths[1].parent.mkdir(parents=True)
    for path in paths:
        path.touch()
    (directory / "recipe.json").write_text(json.dumps(recipe))
    if summary is not None:
        (directory / "summary.json").write_text(json.dumps(summary))
    return paths


def test_a_finished_run_says_what_it_did(tmp_path):
    paths = write(tmp_path / "run", RECIPE, {"crop": "whole"})
    # A link may be anywhere.
    paths.append(tmp_path / "link.keras")
    paths[-1].symlink_to(paths[0])
    for path in paths:
        assert find_run(path) == TrainedRun("tfds:cifar10", "tfds", "whole")


@pytest.mark.parametrize(
    ("dataset", "image_size", "crop"),
    [
        ("digits", None, "whole"),
        ("folder:photos", None, "center"),
        ("tfrecord:shards", 64, "center"),
        ("tfds:imagenet2012", 224, "center"),
        # It may have files or arrays.
        ("tfds:cifar10", None, None),
    ],
)
def test_a_run_that_goes_on_crops_as_its_recipe_says(
    tmp_path, dataset, image_size, crop
):
    recipe = {**RECIPE, "dataset": dataset, "image_size": image_size}
    path, _ = write(tmp_path / "run", recipe)
    assert find_run(path).crop == crop


def test_a_model_may_be_from_no_run(tmp_path):
    (tmp_path / "best.keras").touch()
    assert find_run(tmp_path / "best.keras") is None


@pytest.mark.parametrize("name", ["recipe.json", "summary.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_run_that_cannot_be_read_is_refused(tmp_path, name, content):
    path, _ = write(tmp_path / "run", RECIPE, {"crop": "whole"})
    (tmp_path / "run" / name).write_text(content)
    if (name, content) == ("summary.json", "{}"):
        # As those of earlier versions: the recipe has to do.
        assert find_run(path).crop is None
        return
    message = rf"run that can be read \(.*\)\. Received: model={path}$"
    with pytest.raises(ValueError, match=message):
        find_run(path)
