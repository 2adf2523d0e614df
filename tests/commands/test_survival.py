"""Real processes of the real program, killed and started again.

Each ends bit for bit where an undisturbed run ends: weights, batch statistics
and optimizer of the best and the last model, and the history.
"""

import csv
import io
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from lambda_keras.training.checkpoints import list_checkpoints

ROOT = Path(__file__).parents[2]
BOMB = Path(__file__).with_name("bomb.py")
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

FLAGS = (
    "train",
    "--model=resnet_tiny",
    "--labels=100",
    "--batch_size=25",
    "--checkpoint_seconds=0",
    "--deterministic",
)


def start(directory, *flags, bomb=None):
    program = ["-m", "lambda_keras"]
    if bomb is not None:
        program = [BOMB, *map(str, bomb)]
    return subprocess.Popen(
        [
            *(sys.executable, *program, *FLAGS, *flags),
            f"--output_dir={directory}",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory.parent,
        env=ENVIRONMENT,
    )


def run(directory, *flags, bomb=None):
    """Returns the exit status and the standard error of a process."""
    process = start(directory, *flags, bomb=bomb)
    _, error = process.communicate(timeout=300)
    return process.returncode, error


def state(path):
    """Reads every array of a model's file: weights, statistics, optimizer."""
    arrays = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content) as file:
        file.visititems(keep)
    return arrays


def history(directory):
    with open(directory / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    clock = ("seconds", "images_per_second")
    return [{k: row[k] for k in row if k not in clock} for row in rows]


def assert_same_end(directory, other):
    for name in "best.keras", "last.keras":
        values, expected = state(directory / name), state(other / name)
        assert values.keys() == expected.keys()
        assert len(values) > 100
        for key, value in values.items():
            np.testing.assert_array_equal(value, expected[key], err_msg=key)
    assert history(directory) == history(other)
    assert sorted(path.name for path in directory.iterdir()) == [
        "best.keras",
        "history.csv",
        "last.keras",
        "recipe.json",
        "results.png",
        "saved_model",
        "summary.json",
    ]


def undisturbed(directory, *flags):
    status, error = run(directory, *flags, "--checkpoint_seconds=3600")
    assert (status, error) == (0, "")
    return directory


@pytest.mark.tf_only
def test_a_run_survives_what_happens_to_it(tmp_path):
    """Killed while it saves, terminated, out of disk space, and then some."""
    flags = ["--epochs=3"]
    reference = undisturbed(tmp_path / "undisturbed", *flags)
    directory = tmp_path / "run"
    checkpoints = directory / "checkpoints"

    status, error = run(directory, *flags, bomb=("checkpoint", 6, KILL))
    assert (status, error) == (-KILL, "")
    assert list(checkpoints.glob(".partial-*/*"))

    status, error = run(directory, *flags, bomb=("step", 2, TERM))
    assert status == 128 + TERM
    assert not list(checkpoints.glob(".partial-*"))
    assert error == (
        f"lambda-keras train: stopped by SIGTERM; {directory} keeps "
        "best.keras, checkpoints, history.csv; the same command with "
        f"--output_dir={directory} goes on from there\n"
    )
    newest, before = list_checkpoints(checkpoints)
    assert (newest.stem, before.stem) == ("step-00000007", "step-00000006")

    status, error = run(directory, *flags, bomb=("disk", 1_000_000, 0))
    assert status == 1
    assert error.count("\n") == 1
    assert error.endswith(f"; the last good checkpoint is {newest}\n")
    assert list_checkpoints(checkpoints) == [newest, before]

    newest.write_bytes(newest.read_bytes()[:-1000])
    process = start(directory, *flags)
    printed, error = process.communicate(timeout=300)
    assert (process.returncode, error) == (0, "")
    assert f"Passed over {newest}: A checkpoint must be whole" in printed
    assert f"Goes on after step 6 of 12: {before}" in printed
    assert_same_end(directory, reference)


# Where a process kills itself, in this order, and how often it is there before.
POINTS = [
    # The first epoch is always the best so far.
    ("best.keras", 1),
    ("step", 1),
    ("step", 3),
    ("checkpoint", 2),
    ("rename", 2),
    ("renamed", 2),
    ("validation", 1),
    ("validation", 5),
    ("history", 1),
    ("last.keras", 1),
    ("export", 1),
    ("end", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "flags"),
    [
        ("tensorflow", ()),
        ("tensorflow", ("--model=lambda_resnet_tiny", "--strategy=one_device")),
        (
            "tensorflow",
            (
                "--average_momentum=0.9",
                "--precision=mixed_bfloat16",
                "--steps_per_execution=2",
                "--dropout_rate=0.2",
                "--drop_path_rate=0.2",
                "--mixup_alpha=0.2",
            ),
        ),
        ("jax", ()),
    ],
)
@pytest.mark.tf_only
def test_killed_at_every_point(engine, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ENVIRONMENT, "KERAS_BACKEND", engine)
    flags = ["--epochs=6", *flags]
    reference = undisturbed(tmp_path / "undisturbed", *flags)
    directory = tmp_path / "run"
    lines = [f"{engine} {' '.join(flags)}"]
    for point, number in POINTS:
        status, error = run(directory, *flags, bomb=(point, number, KILL))
        assert (status, error) == (-KILL, ""), point
        found = list_checkpoints(directory / "checkpoints")
        newest = found[0].stem if found else "no checkpoint"
        lines.append(f"  killed at {point} {number}: {newest}")
    assert run(directory, *flags) == (0, "")
    assert_same_end(directory, reference)
    with capsys.disabled():
        print("", *lines, "  ends bit for bit the same", sep="\n")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.tf_only
def test_killed_at_random_until_it_finishes(seed, tmp_path, capsys):
    """From outside, at any time after the first new checkpoint."""
    flags = ["--epochs=8"]
    reference = undisturbed(tmp_path / "undisturbed", *flags)
    directory, draw, kills = tmp_path / "run", random.Random(seed), []
    while True:
        # The names are in the order of the steps.
        before = list_checkpoints(directory / "checkpoints")[:1]
        process = start(directory, *flags)
        while process.poll() is None:
            newest = list_checkpoints(directory / "checkpoints")[:1]
            if newest > before:
                time.sleep(draw.uniform(0, 0.5))
                process.kill()
                break
            time.sleep(0.001)
        _, error = process.communicate(timeout=300)
        if process.returncode == 0:
            break
        assert process.returncode == -KILL, error
        kills.append(newest[0].stem)
        # The latest checkpoint may be lost as well.
        if draw.random() < 0.3:
            list_checkpoints(directory / "checkpoints")[0].unlink()
    assert len(kills) >= 3
    assert_same_end(directory, reference)
    with capsys.disabled():
        print(f"\n{len(kills)} kills, at {', '.join(kills)}")
