import csv
import math

import pytest

from lambda_keras.training.callbacks import Checkpoints
from lambda_keras.training.callbacks import FailOnDivergence
from lambda_keras.training.callbacks import HistoryFile


class FakeModel:
    """Saves the number of the epoch in the place of weights."""

    epoch = 0
    fails = False

    class optimizer:
        learning_rate = 0.25

    def save(self, path):
        path.write_text(str(self.epoch))
        if self.fails:
            raise OSError("the disk is full")


def run_epochs(callback, logs):
    callback.set_model(FakeModel())
    for epoch, epoch_logs in enumerate(logs):
        callback.model.epoch = epoch + 1
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, epoch_logs)


def validation(*pairs):
    return [{"val_accuracy": a, "val_loss": b} for a, b in pairs]


@pytest.mark.parametrize(
    ("logs", "best"),
    [
        (validation((0.5, 1.0), (0.7, 2.0), (0.6, 0.5)), 2),
        # The lower loss decides between equal accuracies, then the earlier.
        (validation((0.7, 1.0), (0.7, 0.9), (0.7, 0.95)), 2),
        (validation((0.7, 1.0), (0.7, 1.0)), 1),
    ],
)
def test_best_is_by_validation_accuracy_then_loss(logs, best, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    run_epochs(checkpoints, logs)
    checkpoints.on_train_end()
    assert (tmp_path / "best.keras").read_text() == str(best)
    assert (tmp_path / "last.keras").read_text() == str(len(logs))
    assert checkpoints.best_epoch == best


@pytest.mark.parametrize(("save_seconds", "last"), [(0.0, 2), (3600.0, 1)])
def test_last_is_written_as_often_as_asked(save_seconds, last, tmp_path):
    checkpoints = Checkpoints(tmp_path, save_seconds=save_seconds)
    run_epochs(checkpoints, validation((0.5, 1.0), (0.4, 1.0)))
    assert (tmp_path / "last.keras").read_text() == str(last)


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    run_epochs(checkpoints, validation((0.5, 1.0)))
    checkpoints.model.fails = True
    with pytest.raises(OSError, match="the disk is full"):
        checkpoints.on_epoch_end(1, *validation((0.6, 1.0)))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.keras", "last.keras"]
    assert (tmp_path / "best.keras").read_text() == "1"


def test_history_has_a_row_per_epoch(tmp_path):
    path = tmp_path / "history.csv"
    run_epochs(HistoryFile(path), [{"loss": 2.0}, {"loss": 1.0 / 3.0}])
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["loss"]) for row in rows] == [
        ("1", "2"),
        ("2", "0.333333"),
    ]
    assert {row["learning_rate"] for row in rows} == {"0.25"}
    assert all(float(row["seconds"]) >= 0 for row in rows)
    assert [entry.name for entry in tmp_path.iterdir()] == ["history.csv"]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_training(loss):
    callback = FailOnDivergence()
    callback.on_train_batch_end(0, {"loss": 1e30})
    with pytest.raises(FloatingPointError, match=rf"Received: loss={loss}"):
        callback.on_train_batch_end(1, {"loss": loss})
