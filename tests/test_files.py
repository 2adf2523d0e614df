import os

import pytest

from lambda_keras.files import locked
from lambda_keras.files import made_directory
from lambda_keras.files import remove_leftovers
from lambda_keras.files import write_aside


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


def test_what_was_half_written_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "whole").touch()
    for place in tmp_path, tmp_path / "checkpoints":
        (place / ".partial-x").mkdir()
        (place / ".partial-x" / "file").touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {
        "checkpoints",
        "whole",
    }


def test_a_made_directory_is_taken_back_while_it_is_empty(tmp_path):
    (tmp_path / "there").mkdir()
    for inside in "", "file":
        path = tmp_path / "there" / "a" / "b"
        with pytest.raises(KeyboardInterrupt), made_directory(path):
            assert path.is_dir()
            if inside:
                (path / inside).touch()
            raise KeyboardInterrupt
        assert path.exists() is bool(inside)
    assert (tmp_path / "there").exists()


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    message = r"can be written to \(Not a directory\)\. Received: output_dir="
    with pytest.raises(PermissionError, match=message):
        with made_directory(tmp_path / "file" / "a"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="no such locks on Windows")
def test_a_lock_keeps_a_second_one_out(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in tmp_path, file:
        with locked(path):
            message = f"still writing to. Received: output_dir={tmp_path}$"
            with pytest.raises(FileExistsError, match=message):
                with locked(path):
                    pass
        with locked(path):
            pass
