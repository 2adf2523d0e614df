"""Exports that come to grief: no server ever sees half a version."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lambda_keras.serving.export import export_version
from lambda_keras.serving.images import RequestPreprocessing
from tests.serving.models import CLASS_NAMES
from tests.serving.models import random_images
from tests.serving.models import tiny_classifier

pytestmark = pytest.mark.tf_only

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("export_program.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def model():
    return tiny_classifier()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "tiny.keras"
    model.save(path)
    return path


@pytest.fixture
def export(file, tmp_path):
    """Exports to the directory `models` in processes that a mishap ends."""
    process = subprocess.Popen(
        [sys.executable, PROGRAM, file, tmp_path / "models"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )

    def export(mishap="none", number=0):
        process.stdin.write(f"{mishap} {number}\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield export
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def seen_by_servers(directory):
    """The files of everything that TensorFlow Serving takes for a version."""
    if not directory.exists():
        return {}
    return {
        int(version.name): {
            path.relative_to(version).as_posix(): path.read_bytes()
            for path in version.rglob("*")
            if path.is_file()
        }
        for version in directory.iterdir()
        if version.name.isdigit()
    }


def assert_whole(directory, expected):
    """Checks that all versions are whole, and the old ones as they were."""
    versions = seen_by_servers(directory)
    assert versions.keys() >= expected.keys()
    for number, files in versions.items():
        if number in expected:
            assert files == expected[number]
        elif expected:
            first = next(iter(expected.values()))
            assert files.keys() == first.keys()
            # It is the same model.
            name = "variables/variables.data-00000-of-00001"
            assert files[name] == first[name]
            assert json.loads(files["model.json"])["version"] == number
    return versions


def assert_answers(directory, model):
    """Checks that all versions answer what the model does."""
    from tests.serving.runtimes import Signatures

    images = random_images(3)
    expected = model.predict(images.astype("float32"), verbose=0)
    for number in seen_by_servers(directory):
        served = Signatures(directory / str(number))
        answers = served.ask("serving_uint8", images)
        np.testing.assert_allclose(
            answers["probabilities"], expected, atol=1e-6
        )


def come_to_grief(export, directory, mishaps):
    """Exports after each other, and looks at what is there in between."""
    versions = seen_by_servers(directory)
    for mishap, number in mishaps:
        result = export(mishap, number)
        versions = assert_whole(directory, versions)
        if mishap == "kill":
            assert result["status"] == -signal.SIGKILL
        elif mishap == "limit":
            assert result["status"] == 1
            # Nothing is left but empty directories, which are hidden, and one
            # line says what is wrong.
            assert not list(directory.glob(".partial-*/*"))
            line = result["error"][-1]
            assert line.startswith("lambda-keras export: "), result
            assert "File too large" in line
        elif mishap == "none":
            assert result["status"] == 0, result
            assert not list(directory.glob(".partial-*/*"))
    return versions


def test_killed_and_out_of_disk_space(export, model, tmp_path):
    """At several points, and the next export is as if nothing had been."""
    directory = tmp_path / "models"
    # In a directory that was not there before.
    assert export("kill", 5)["status"] == -signal.SIGKILL
    assert seen_by_servers(directory) == {}
    points = export()["seen"]
    assert points > 20
    mishaps = [
        *(("kill", number) for number in range(4, points, 12)),
        *(("late", milliseconds) for milliseconds in (200, 600)),
        # Too few for the variables, and for the graph.
        *(("limit", size) for size in (2_000, 100_000)),
        ("none", 0),
    ]
    versions = come_to_grief(export, directory, mishaps)
    assert max(versions) >= 2
    assert_answers(directory, model)


@pytest.mark.slow
def test_killed_at_every_point(export, model, tmp_path, capsys):
    directory = tmp_path / "models"
    mishaps = [
        *(("kill", number) for number in range(1, export()["seen"])),
        *(("late", milliseconds) for milliseconds in range(20, 2000, 40)),
        *(("limit", size) for size in (50, 500, 2_000, 10_000, 200_000)),
        ("none", 0),
    ]
    versions = come_to_grief(export, directory, mishaps)
    assert_answers(directory, model)
    with capsys.disabled():
        print(f"\n{len(mishaps)} mishaps, {len(versions)} versions, all whole")


def test_two_at_once(model, tmp_path):
    """The second is told, and the first goes on."""
    options = {
        "preprocessing": RequestPreprocessing((8, 8, 3)),
        "class_names": CLASS_NAMES,
        "warm_up": False,
    }

    def export_meanwhile(version):
        with pytest.raises(FileExistsError, match="`output_dir` must not be"):
            export_version(model, tmp_path, **options)

    export_version(model, tmp_path, check=export_meanwhile, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.slow
def test_two_processes_at_once(file, model, tmp_path):
    """Each has a version of its own, or is told that it comes too early."""
    directory = tmp_path / "new" / "models"
    command = [
        *(sys.executable, "-m", "lambda_keras", "export"),
        *(f"--model={file}", f"--output_dir={directory}"),
    ]
    done = 0
    for _ in range(5):
        processes = [
            subprocess.Popen(
                command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
            )
            for _ in range(2)
        ]
        for process in processes:
            _, error = process.communicate(timeout=300)
            if process.returncode:
                assert "`output_dir` must not be" in error
            done += process.returncode == 0
        assert sorted(seen_by_servers(directory)) == list(range(1, done + 1))
    assert done >= 5
    assert_answers(directory, model)


def test_a_directory_that_cannot_be_written_to(model, tmp_path):
    read_only = tmp_path / "models"
    read_only.mkdir(mode=0o555)
    if os.access(read_only, os.W_OK):
        # The administrator writes to all but what the kernel forbids.
        read_only = Path("/proc/self")
    message = r"that can be written to \(.+\)\. Received: output_dir="
    with pytest.raises(PermissionError, match=message):
        export_version(
            model,
            read_only,
            preprocessing=RequestPreprocessing((8, 8, 3)),
            class_names=CLASS_NAMES,
        )


@pytest.mark.parametrize("obstacle", ["file", "empty", "foreign"])
def test_what_stands_where_the_version_should_be_stays(
    obstacle, model, tmp_path
):
    target = tmp_path / "3"
    if obstacle == "file":
        target.write_text("mine")
    else:
        target.mkdir()
    if obstacle == "foreign":
        (target / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match=r"Received: version=3, output"):
        export_version(
            model,
            tmp_path,
            version=3,
            preprocessing=RequestPreprocessing((8, 8, 3)),
            class_names=CLASS_NAMES,
        )
    assert sorted(tmp_path.rglob("*")) == before
