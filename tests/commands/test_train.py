import csv
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from lambda_keras import cli
from lambda_keras.training.stopping import Stopped

pytestmark = pytest.mark.tf_only

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The shortest run of the real program, and what it said."""
    directory = tmp_path_factory.mktemp("work") / "a run"
    process = subprocess.run(
        [
            *(sys.executable, "-m", "lambda_keras", "train"),
            *("--epochs=1", "--batch_size=64", "--seed=3"),
            f"--output_dir={directory}",
        ],
        capture_output=True,
        text=True,
        cwd=directory.parent,
        env=ENVIRONMENT,
    )
    return process, directory


@pytest.fixture
def summary(finished):
    return json.loads((finished[1] / "summary.json").read_text())


def test_the_program_is_quiet_about_everything_else(finished):
    process, directory = finished
    assert process.stderr == ""
    assert process.returncode == 0
    assert list(directory.parent.iterdir()) == [directory]


def test_every_file_is_there_and_nothing_else(finished):
    names = sorted(path.name for path in finished[1].iterdir())
    assert names == [
        "best.keras",
        "history.csv",
        "last.keras",
        "recipe.json",
        "results.png",
        "saved_model",
        "summary.json",
    ]


def test_summary_says_what_was_measured_with_what(finished, summary):
    assert summary["model"] == "lambda_resnet_tiny"
    assert summary["images"] == {"train": 1258, "validation": 179, "test": 360}
    assert summary["recipe"]["epochs"] == 1
    assert summary["seed"] == 3
    assert summary["class_names"] == list("0123456789")
    assert (summary["strategy"], summary["replicas"]) == ("none", 1)
    assert summary["images_per_second_per_device"] > 0
    assert (summary["resumed"], summary["bad_images"]) == (0, 0)
    wrong = summary["test_errors"] / summary["images"]["test"]
    assert summary["test_accuracy"] == pytest.approx(1 - wrong, abs=1e-6)
    assert (summary["frozen_parameters"], summary["fresh_layers"]) == (0, [])
    assert 0 < summary["seconds"]["fit"] < summary["seconds"]["all"]
    assert summary["versions"]["keras"] == keras.__version__
    assert summary["device"]["kind"] in ("CPU", "GPU", "TPU")
    assert summary["saved_model"]["same_class"] == 360
    assert summary["saved_model"]["largest_difference"] < 1e-4


def test_what_is_printed_is_what_is_in_the_summary(finished, summary):
    printed = finished[0].stdout
    assert f"Test accuracy {summary['test_accuracy']:.4f}" in printed
    assert f"{summary['parameters']:,} parameters" in printed
    assert "agrees on 360 of 360 test images" in printed


def test_the_next_commands_can_be_typed_as_they_are(finished):
    process, directory = finished
    commands = process.stdout.partition("Next:\n")[2].splitlines()
    arguments = [
        command.partition("lambda_keras ")[2]
        or command.partition("lambda-keras ")[2]
        for command in commands
    ]
    assert arguments == [
        "train --model=resnet_tiny",
        "train --model=attention_tiny",
        "train --model=lambda_resnet_tiny --seed=4",
        f"export {shlex.quote(f'--model={directory}')} "
        "--output_dir=models/lambda_resnet_tiny",
    ]
    answer = subprocess.run(
        f"{commands[0]} --help",
        shell=True,
        cwd=directory.parent,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert answer.stdout.startswith("Trains a model")


def test_the_checkpoint_is_the_model_that_was_measured(finished, summary):
    from lambda_keras.data.digits import load_digits

    model = keras.saving.load_model(finished[1] / "best.keras")
    assert summary["parameters"] == sum(
        weight.numpy().size for weight in model.trainable_weights
    )
    test = load_digits().test
    predicted = model.predict(test.images, verbose=0).argmax(axis=-1)
    assert np.sum(predicted != test.labels) == summary["test_errors"]


def test_history_has_the_epoch(finished, summary):
    with open(finished[1] / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["epoch"] == "1"
    assert float(row["val_accuracy"]) == pytest.approx(
        summary["validation_accuracy"], abs=1e-5
    )


def test_a_finished_run_is_never_written_over(finished, capsys):
    directory = finished[1]
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["train", f"--output_dir={directory}"])
    assert exit_info.value.code == 2
    assert "must be new or an empty directory" in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert after == before


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; {} keeps best.keras\n"),
        (Stopped(signal.SIGTERM), 143, "by SIGTERM; {} keeps best.keras\n"),
        (FloatingPointError("The loss must"), 1, "train: The loss must"),
    ],
)
def test_a_run_that_stops_says_what_it_keeps(
    error, status, message, capsys, monkeypatch, tmp_path
):
    from lambda_keras.training import run

    def stop(prepared, directory, verbose):
        (directory / "best.keras").touch()
        raise error

    monkeypatch.setattr(run, "fit", stop)
    directory = tmp_path / "run"
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["train", f"--output_dir={directory}"])
    assert exit_info.value.code == status
    assert message.format(directory) in capsys.readouterr().err
    assert (directory / "best.keras").exists()


def test_interrupted_before_anything_is_saved(capsys, monkeypatch, tmp_path):
    from lambda_keras.training import run

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "fit", stop)
    with pytest.raises(SystemExit):
        cli.main(["train", f"--output_dir={tmp_path / 'run'}"])
    assert capsys.readouterr().err.endswith("lambda-keras train: interrupted\n")
    assert not any(tmp_path.iterdir())


def test_what_is_frozen_and_what_starts_anew_is_said(
    capsys, monkeypatch, tmp_path
):
    from lambda_keras.models import build_model
    from lambda_keras.models import count_parameters
    from lambda_keras.training import run

    model = build_model(
        "resnet_tiny", width=4, input_shape=(8, 8, 1), classes=3
    )
    model.save(tmp_path / "trained.keras")

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "fit", stop)
    with pytest.raises(SystemExit):
        cli.main(
            [
                *("train", "--model=resnet_tiny", "--width=4"),
                f"--weights={tmp_path / 'trained.keras'}",
                f"--output_dir={tmp_path / 'run'}",
                "--freeze=backbone",
            ]
        )
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'trained.keras'}; predictions starts anew." in printed
    # All but a matrix and offsets for three classes.
    frozen = count_parameters(model) - 128 * 3 - 3
    assert f"\n{frozen:,} parameters are frozen, and with them the" in printed
