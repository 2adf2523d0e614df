import pytest

from lambda_keras.serving.versions import find_version
from lambda_keras.serving.versions import list_versions
from lambda_keras.serving.versions import next_version


def make(directory, *names):
    for name in names:
        (directory / name).mkdir(parents=True)
        (directory / name / "saved_model.pb").touch()


def test_versions_are_numbers_and_nothing_else(tmp_path):
    make(tmp_path, "10", "1", "007", "latest", ".partial-x", "²")
    (tmp_path / "11").touch()
    assert list(list_versions(tmp_path).items()) == [
        (1, tmp_path / "1"),
        (7, tmp_path / "007"),
        (10, tmp_path / "10"),
    ]
    assert next_version(tmp_path) == 11


def test_the_first_version_is_1(tmp_path):
    assert next_version(tmp_path) == 1
    assert next_version(tmp_path / "new") == 1


def test_a_version_is_found_by_its_path_or_as_the_newest(tmp_path):
    make(tmp_path, "2", "10")
    assert find_version(tmp_path) == tmp_path / "10"
    assert find_version(tmp_path / "2") == tmp_path / "2"


def test_what_is_no_version(tmp_path):
    with pytest.raises(ValueError, match=r"export` wrote\. .*no directory$"):
        find_version(tmp_path / "missing")
    (tmp_path / "3").mkdir()
    message = rf"without saved_model\.pb in {tmp_path} and in {tmp_path}/3$"
    with pytest.raises(ValueError, match=message):
        find_version(tmp_path)
