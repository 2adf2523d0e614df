import keras
import numpy as np
import pytest

from lambda_keras.training.callbacks import Bookkeeper
from lambda_keras.training.callbacks import Record
from lambda_keras.training.progress import ProfileWindow
from lambda_keras.training.progress import Progress
from lambda_keras.training.progress import ProgressBar
from lambda_keras.training.progress import Scalars
from lambda_keras.training.progress import show_duration


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def books():
    return Bookkeeper(Record(), 32, schedule=lambda step: np.float32(0.25))


def take_steps(callbacks, count, clock, seconds, epoch=0):
    for callback in callbacks:
        callback.on_epoch_begin(epoch)
    for batch in range(count):
        for callback in callbacks:
            callback.on_train_batch_begin(batch)
        clock[0] += seconds
        for callback in callbacks:
            callback.on_train_batch_end(batch, {"loss": 0.5})


def test_speed_and_time_left_are_said_now_and_then(books, clock, capsys):
    progress = Progress(books, total_steps=10_000, within_epochs=True)
    take_steps([books, progress], 25, clock, seconds=4.0)
    # 8 images per second; after the first step, 4 seconds each.
    assert capsys.readouterr().out.splitlines() == [
        "Step 15 of 10,000, loss 0.5000: 8 images/s per device, "
        "11 h 5 min left."
    ]


def test_a_bar_is_not_broken(books, clock, capsys):
    progress = Progress(books, total_steps=100)
    take_steps([books, progress], 25, clock, seconds=4.0)
    assert capsys.readouterr().out == ""
    clock[0] += 20.0  # Validation, which the other epochs have too.
    progress.on_epoch_end(0)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Step 25 of 100: 8 images/s per device, 6 min ")


def test_a_run_of_seconds_says_nothing(books, clock, capsys):
    progress = Progress(books, total_steps=100, within_epochs=True)
    take_steps([books, progress], 100, clock, seconds=0.5)
    progress.on_epoch_end(0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (61, "1 min 1 s"),
        (3599.7, "1 h 0 min"),
        (86400 * 3 + 3600 * 5, "3 d 5 h"),
    ],
)
def test_durations_have_two_units(seconds, text):
    assert show_duration(seconds) == text


def test_the_bar_of_a_continued_epoch_is_that_of_the_epoch(capsys):
    bar = ProgressBar(epochs=5, steps_per_epoch=10)
    # What `Model.fit` says of the last four steps of the second epoch.
    bar.set_params({"verbose": 2, "epochs": 2, "steps": 4})
    bar.on_train_begin()
    bar.on_epoch_begin(1)
    for batch in range(4):
        bar.on_train_batch_end(batch, {"loss": 0.5})
    bar.on_epoch_end(1, {"loss": 0.5})
    printed = capsys.readouterr().out
    assert printed.startswith("Epoch 2/5\n10/10 - ")


def test_scalars_count_the_steps_of_the_run(books, clock, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util.tensor_util import make_ndarray

    books.record.step = 90  # An earlier process took them.
    scalars = Scalars(tmp_path, books, every=10)
    books.set_model(FakeModel())
    take_steps([books, scalars], 25, clock, seconds=4.0)
    logs = {"loss": 0.5, "val_loss": 0.75}
    books.on_epoch_end(0, logs)
    scalars.on_epoch_end(0, logs)
    events = {}
    for name in "train", "validation":
        reader = event_accumulator.EventAccumulator(str(tmp_path / name))
        reader.Reload()
        for tag in reader.Tags()["tensors"]:
            events[f"{name}/{tag}"] = [
                (event.step, make_ndarray(event.tensor_proto).item())
                for event in reader.Tensors(tag)
            ]
    assert events == {
        "train/step_loss": [(100, 0.5), (110, 0.5)],
        "train/loss": [(115, 0.5)],
        "train/learning_rate": [(115, 0.25)],
        "train/images_per_second_per_device": [(115, 8.0)],
        "validation/loss": [(115, 0.75)],
    }


class FakeModel:
    class optimizer:
        iterations = keras.Variable(115, dtype="int32")


def test_the_window_is_what_is_profiled(books, clock, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        "lambda_keras.training.progress._profiler",
        lambda: (
            lambda directory: calls.append((books.record.step, directory)),
            lambda: calls.append((books.record.step, None)),
        ),
    )
    window = ProfileWindow(tmp_path, books, "3,5")
    take_steps([books, window], 10, clock, seconds=1.0)
    window.on_train_end()
    assert calls == [(2, str(tmp_path)), (5, None)]


# JAX' own ends the process where a libtpu of another version is installed.
@pytest.mark.tf_only
def test_the_profiler_of_the_engine_writes_something(books, clock, tmp_path):
    window = ProfileWindow(tmp_path, books, "1,1")
    take_steps([books, window], 2, clock, seconds=1.0)
    assert [path for path in tmp_path.rglob("*") if path.is_file()]
