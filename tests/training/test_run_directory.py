import datetime

import pytest

from lambda_keras.files import write_aside
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.run_directory import default_directory
from lambda_keras.training.run_directory import run_directory


def test_default_name_tells_time_model_data_and_seed():
    now = datetime.datetime(2021, 2, 17, 9, 5, 1)
    path = default_directory("resnet_tiny", Recipe(seed=7), now)
    assert path.as_posix() == "runs/20210217-090501-resnet_tiny-digits-seed7"


@pytest.mark.parametrize("name", ["", "new", "new/run"])
def test_new_and_empty_directories_are_accepted(name, tmp_path):
    with run_directory(tmp_path / name) as directory:
        assert directory == tmp_path / name
        assert not any(directory.iterdir())
    assert directory.is_dir()


def test_what_could_be_lost_or_not_written_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in tmp_path, file:
        message = f"new or an empty directory. Received: output_dir={path}$"
        with pytest.raises(FileExistsError, match=message):
            with run_directory(path):
                pass
    path = file / "run"
    with pytest.raises(PermissionError, match=f"output_dir={path}$"):
        with run_directory(path):
            pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failure_before_the_first_file_leaves_no_directory(tmp_path):
    with pytest.raises(KeyboardInterrupt), run_directory(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir())


def test_a_failure_keeps_what_was_saved(tmp_path):
    with pytest.raises(KeyboardInterrupt), run_directory(tmp_path / "run"):
        (tmp_path / "run" / "best.keras").touch()
        raise KeyboardInterrupt
    assert (tmp_path / "run" / "best.keras").exists()


def test_an_empty_directory_of_the_users_is_not_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), run_directory(tmp_path):
        raise KeyboardInterrupt
    assert tmp_path.is_dir()


def test_write_aside_shows_whole_files_only(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), write_aside(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "earlier"
    with write_aside(path) as temporary:
        # Savers look at the suffix.
        assert temporary.name == "file.txt"
        temporary.write_text("whole")
        assert path.read_text() == "earlier"
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_write_aside_moves_directories_too(tmp_path):
    with write_aside(tmp_path / "saved_model") as temporary:
        temporary.mkdir()
        (temporary / "fingerprint.pb").touch()
    assert [entry.name for entry in (tmp_path / "saved_model").iterdir()] == [
        "fingerprint.pb"
    ]
