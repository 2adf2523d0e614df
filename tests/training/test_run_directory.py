import dataclasses
import datetime
import json
import os

import pytest

from lambda_keras.training.recipe import Recipe
from lambda_keras.training.run_directory import default_directory
from lambda_keras.training.run_directory import run_directory

RECIPE = Recipe(epochs=3)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("digits", "digits"),
        ("folder:/data/my photos/", "my-photos"),
        ("tfds:imagenette/160px:1.0.0", "imagenette-160px-1.0.0"),
    ],
)
def test_default_name_tells_time_model_data_and_seed(dataset, name):
    now = datetime.datetime(2021, 2, 17, 9, 5, 1)
    path = default_directory(
        "resnet_tiny", Recipe(dataset=dataset, seed=7), now
    )
    assert path.as_posix() == f"runs/20210217-090501-resnet_tiny-{name}-seed7"


@pytest.mark.parametrize("name", ["", "new", "new/run"])
def test_new_and_empty_directories_are_accepted(name, tmp_path):
    with run_directory(tmp_path / name, RECIPE) as directory:
        assert directory == tmp_path / name
        assert [path.name for path in directory.iterdir()] == ["recipe.json"]
    recipe = json.loads((directory / "recipe.json").read_text())
    assert Recipe(**recipe) == RECIPE


def stopped_run(directory, recipe=RECIPE):
    with run_directory(directory, recipe):
        (directory / "history.csv").touch()
    return directory


def test_a_run_that_was_stopped_is_taken_up_again(tmp_path):
    directory = stopped_run(tmp_path / "run")
    (directory / ".partial-x").mkdir()
    # What does not change how it ends may be another.
    recipe = dataclasses.replace(
        RECIPE, output_dir="run", checkpoint_seconds=5.0, max_bad_images=0.5
    )
    with run_directory(directory, recipe):
        names = sorted(path.name for path in directory.iterdir())
        assert names == ["history.csv", "recipe.json"]


def test_settings_that_differ_are_named(tmp_path):
    directory = stopped_run(tmp_path / "run")
    recipe = dataclasses.replace(RECIPE, epochs=4, weights="a.keras")
    message = (
        r"other settings.*: epochs=4 \(there 3\), weights=a.keras "
        rf"\(there None\). Received: output_dir={directory}$"
    )
    with pytest.raises(ValueError, match=message):
        with run_directory(directory, recipe):
            pass
    assert (directory / "history.csv").exists()


def test_a_run_of_a_version_with_fewer_settings_may_be_continued(tmp_path):
    directory = stopped_run(tmp_path / "run")
    older = {k: v for k, v in vars(RECIPE).items() if k != "freeze"}
    (directory / "recipe.json").write_text(json.dumps(older))
    with run_directory(directory, RECIPE):
        pass
    recipe = dataclasses.replace(RECIPE, weights="a", freeze="backbone")
    with pytest.raises(ValueError, match=r"freeze=backbone \(there nothing"):
        with run_directory(directory, recipe):
            pass


def test_a_recipe_that_cannot_be_read_is_an_error(tmp_path):
    directory = stopped_run(tmp_path / "run")
    (directory / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=r"recipe\.json that can be read"):
        with run_directory(directory, RECIPE):
            pass


def test_a_finished_run_is_refused(tmp_path):
    directory = stopped_run(tmp_path / "run")
    (directory / "summary.json").touch()
    with pytest.raises(FileExistsError, match="new or an empty directory"):
        with run_directory(directory, RECIPE):
            pass


@pytest.mark.skipif(os.name == "nt", reason="no such locks on Windows")
def test_a_run_that_is_going_on_is_left_alone(tmp_path):
    with run_directory(tmp_path / "run", RECIPE) as directory:
        (directory / ".partial-x").mkdir()
        with pytest.raises(
            FileExistsError, match=r"still writing to\. Received"
        ):
            with run_directory(directory, RECIPE):
                pass
        names = sorted(path.name for path in directory.iterdir())
        assert names == [".partial-x", "recipe.json"]


def test_what_could_be_lost_or_not_written_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in tmp_path, file:
        message = f"new or an empty directory. Received: output_dir={path}$"
        with pytest.raises(FileExistsError, match=message):
            with run_directory(path, RECIPE):
                pass
    path = file / "run"
    with pytest.raises(PermissionError, match=f"output_dir={path}$"):
        with run_directory(path, RECIPE):
            pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failure_before_the_first_file_leaves_no_directory(tmp_path):
    path = tmp_path / "a" / "b"
    with pytest.raises(KeyboardInterrupt), run_directory(path, RECIPE):
        assert path.is_dir()
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir())


def test_a_failure_keeps_what_was_saved(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), run_directory(path, RECIPE):
        (tmp_path / "run" / "best.keras").touch()
        raise KeyboardInterrupt
    assert (tmp_path / "run" / "best.keras").exists()


def test_an_empty_directory_of_the_users_is_not_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), run_directory(tmp_path, RECIPE):
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir())
