import csv
import math

import keras
import numpy as np
import pytest

from lambda_keras.training.callbacks import BestModel
from lambda_keras.training.callbacks import Bookkeeper
from lambda_keras.training.callbacks import Checkpoints
from lambda_keras.training.callbacks import HistoryFile
from lambda_keras.training.callbacks import Record
from lambda_keras.training.callbacks import save_model
from lambda_keras.training.checkpoints import list_checkpoints


class FakeModel:
    """Saves the number of the epoch in the place of weights."""

    epoch = 0
    fails = False

    class optimizer:
        iterations = keras.Variable(5, dtype="int32")

    def save(self, path):
        path.write_text(str(self.epoch))
        if self.fails:
            raise OSError("the disk is full")


@pytest.fixture
def clock(monkeypatch):
    """Time passes by hand."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def books():
    books = Bookkeeper(Record(), 8, schedule=lambda step: np.float32(step / 10))
    books.set_model(FakeModel())
    return books


def logs(loss=1.0, accuracy=0.5, val_loss=1.0, val_accuracy=0.5):
    return {
        "loss": loss,
        "accuracy": accuracy,
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
    }


def test_books_leave_out_the_first_step_of_each_epoch(books, clock):
    """It compiles, or waits for the first images."""
    # From the end of one step to the end of the next, in seconds.
    for epoch, durations in enumerate([[30.0, 2.0, 2.0], [10.0, 1.0, 1.0]]):
        books.on_epoch_begin(epoch)
        for batch, seconds in enumerate(durations):
            clock[0] += seconds
            books.on_train_batch_end(batch, {"loss": 1.0})
        clock[0] += 5.0  # Validation.
        books.on_epoch_end(epoch, logs())
    record = books.record
    assert (record.step, record.epoch, record.seconds) == (6, 2, 56.0)
    assert (record.timed_steps, record.timed_seconds) == (4, 6.0)
    assert books.images_per_second() == pytest.approx(8 * 4 / 6)
    rows = record.history
    assert [row["images_per_second"] for row in rows] == [4.0, 8.0]
    assert [row["seconds"] for row in rows] == [39.0, 17.0]
    assert [row["learning_rate"] for row in rows] == [0.5, 0.5]


def test_books_count_the_steps_of_an_execution(books, clock):
    books.on_epoch_begin(0)
    for batch in 3, 7:
        clock[0] += 2.0
        # Keras gives the number of the last one.
        books.on_train_batch_end(batch, {"loss": 1.0})
    assert books.record.step == 8
    assert books.images_per_second() == 8 * 4 / 2.0


def test_an_epoch_of_two_processes_is_one_epoch(clock):
    record = Record(step=7, history=[{}], seconds=50.0, epoch_seconds=20.0)
    books = Bookkeeper(record, 8, schedule=float)
    books.set_model(FakeModel())
    books.on_epoch_begin(1)
    clock[0] += 3.0
    books.on_train_batch_end(0, {"loss": 1.0})
    books.on_epoch_end(1, logs())
    assert (record.step, record.seconds) == (8, 53.0)
    assert record.history[-1]["seconds"] == 23.0
    assert record.history[-1]["images_per_second"] is None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_training(loss, books):
    books.on_epoch_begin(0)
    books.on_train_batch_end(0, {"loss": 1e30})
    # The learning rate that led there, not that of the step to come.
    message = rf"Received: loss={loss} at step 2, learning_rate=0.4$"
    with pytest.raises(FloatingPointError, match=message):
        books.on_train_batch_end(1, {"loss": loss})
    with pytest.raises(FloatingPointError, match=f"Received: val_loss={loss}"):
        books.on_epoch_end(0, logs(val_loss=loss))


@pytest.mark.parametrize(
    ("pairs", "best"),
    [
        ([(0.5, 1.0), (0.7, 2.0), (0.6, 0.5)], 2),
        # The lower loss decides between equal accuracies, then the earlier.
        ([(0.7, 1.0), (0.7, 0.9), (0.7, 0.95)], 2),
        ([(0.7, 1.0), (0.7, 1.0)], 1),
    ],
)
def test_best_is_by_validation_accuracy_then_loss(pairs, best, tmp_path):
    record = Record()
    callback = BestModel(tmp_path / "best.keras", record)
    callback.set_model(FakeModel())
    for epoch, (accuracy, loss) in enumerate(pairs):
        callback.model.epoch = epoch + 1
        record.history.append(logs(val_accuracy=accuracy, val_loss=loss))
        callback.on_epoch_end(epoch)
    assert (tmp_path / "best.keras").read_text() == str(best)
    assert record.best_epoch == best


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    path, model = tmp_path / "best.keras", FakeModel()
    save_model(model, path)
    model.epoch, model.fails = 1, True
    with pytest.raises(OSError, match="the disk is full"):
        save_model(model, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.keras"]
    assert path.read_text() == "0"


def test_only_one_process_writes(tmp_path, books):
    record = books.record
    callback = BestModel(tmp_path / "best.keras", record, writes=False)
    callback.set_model(FakeModel())
    record.history.append(logs())
    callback.on_epoch_end(0)
    assert record.best_epoch == 1
    checkpoints = Checkpoints(
        tmp_path, books, seconds=0.0, keep=2, facts=dict, writes=False
    )
    checkpoints.set_params({"steps": 1})
    checkpoints.on_train_batch_end(0)
    checkpoints.save()
    assert not any(tmp_path.iterdir())


def test_history_has_a_row_per_epoch(tmp_path):
    path = tmp_path / "history.csv"
    record = Record()
    callback = HistoryFile(path, record)
    for loss, speed in (2.0, None), (1 / 3, 1234.5678):
        record.history.append(
            {"loss": loss, "images_per_second": speed, "seconds": 0.25}
        )
        callback.on_epoch_end(0)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [tuple(row.values()) for row in rows] == [
        ("1", "2", "", "0.250"),
        ("2", "0.333333", "1234.57", "0.250"),
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["history.csv"]


@pytest.mark.parametrize(
    ("seconds", "saved"), [(0.0, [3, 2, 1]), (25.0, [3]), (3600.0, [])]
)
def test_checkpoints_are_as_far_apart_as_asked(
    seconds, saved, clock, books, tmp_path
):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    checkpoints = Checkpoints(
        tmp_path, books, seconds=seconds, keep=9, facts=dict
    )
    checkpoints.set_model(model)
    checkpoints.set_params({"steps": 4})
    for batch in range(3):
        clock[0] += 10.0
        books.record.step = batch + 1
        checkpoints.on_train_batch_end(batch)
    found = [int(path.stem[5:]) for path in list_checkpoints(tmp_path)]
    assert found == saved


def test_weights_that_are_no_numbers_are_not_saved(books, tmp_path):
    """The loss of a step is that of the weights before it."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    checkpoints = Checkpoints(tmp_path, books, seconds=0.0, keep=9, facts=dict)
    checkpoints.set_model(model)
    checkpoints.set_params({"steps": 4})
    books.record.step = 1
    checkpoints.on_train_batch_end(0)
    model.set_weights([np.full((2, 1), np.nan), np.zeros(1)])
    books.record.step = 2
    message = r"NaN or infinity in .*kernel \(model\) at step 2, learning_rate="
    with pytest.raises(FloatingPointError, match=message):
        checkpoints.on_train_batch_end(1)
    assert [path.stem for path in list_checkpoints(tmp_path)] == [
        "step-00000001"
    ]
