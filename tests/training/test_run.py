"""Runs of a few small steps, stopped and continued in one process."""

import csv
import dataclasses
import os
import shutil
import signal

import keras
import numpy as np
import pytest

from lambda_keras.data.dataset import Affine
from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.dataset import Split
from lambda_keras.layers import BatchNormalization
from lambda_keras.layers import Dropout
from lambda_keras.training import preparation
from lambda_keras.training import run
from lambda_keras.training.callbacks import Checkpoints
from lambda_keras.training.checkpoints import CheckpointError
from lambda_keras.training.checkpoints import list_checkpoints
from lambda_keras.training.preparation import prepare
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.stopping import Stopped
from lambda_keras.training.strategy import TensorFlowDistribution
from tests.replicas import two_replicas

# Three steps in each of two epochs.
RECIPE = Recipe(
    epochs=2,
    batch_size=8,
    learning_rate=0.05,
    checkpoint_seconds=0.0,
    keep_checkpoints=100,
)


def small_dataset(*args, **kwargs):
    generator = np.random.default_rng(0)

    def split(count):
        labels = np.arange(count) % 3
        images = generator.integers(0, 128, (count, 4, 4, 1)) + 60 * (
            labels[:, None, None, None] == np.arange(4)[:, None, None]
        )
        return Split(images.astype("uint8"), labels.astype("int32"))

    return ImageDataset(
        name="small",
        class_names=("a", "b", "c"),
        train=split(25),
        validation=split(9),
        test=split(10),
        augmentation=Affine(shift=0.1),
    )


def small_model(spec, input_shape, classes, **kwargs):
    """With all kinds of state: weights, batch statistics, a random seed."""
    model = keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(8, name="dense"),
            BatchNormalization(momentum=0.8),
            Dropout(0.3),
            keras.layers.Dense(
                classes, "softmax", dtype="float32", name="predictions"
            ),
        ]
    )
    model.dtype_policy = keras.config.dtype_policy()
    return model


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(preparation, "load_dataset", small_dataset)
    monkeypatch.setattr(preparation, "build_model", small_model)
    yield
    keras.config.set_dtype_policy("float32")


def fit(directory, recipe=RECIPE):
    """As a process of its own would: with nothing left from an earlier one."""
    keras.utils.clear_session(free_memory=False)
    directory.mkdir(exist_ok=True)
    said = []
    fitted = run.fit(prepare(recipe), directory, verbose=0, say=said.append)
    return fitted, said


def weights(path):
    return keras.saving.load_model(path).get_weights()


def history(directory):
    """What `history.csv` says, but for what depends on the clock."""
    with open(directory / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row.pop("seconds")) > 0
        # Nothing if all steps of an epoch were the first of a process.
        assert float(row.pop("images_per_second") or 1) > 0
    return rows


def assert_same_end(directory, other):
    for name in "best.keras", "last.keras":
        pairs = zip(
            weights(directory / name), weights(other / name), strict=True
        )
        for value, expected in pairs:
            np.testing.assert_array_equal(value, expected)
    assert history(directory) == history(other)


def continued(directory, step, tmp_path, recipe=RECIPE):
    """Goes on in a copy of the run that has none of the later checkpoints."""
    other = tmp_path / f"from_{step}"
    shutil.copytree(directory, other)
    name = f"step-{step:08d}.npz"
    for path in list_checkpoints(other / "checkpoints"):
        if path.name > name:
            path.unlink()
    fitted, said = fit(other, recipe)
    (line,) = said
    assert line.startswith(f"Goes on after step {step} of ")
    assert line.endswith(f": {other / 'checkpoints' / name}")
    assert fitted.record.resumed == 1
    return other


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "load_dataset", small_dataset)
        patch.setattr(preparation, "build_model", small_model)
        directory = tmp_path_factory.mktemp("runs") / "undisturbed"
        return fit(directory)[0], directory


def test_a_run_leaves_the_best_and_the_last_model_and_its_history(undisturbed):
    fitted, directory = undisturbed
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["best.keras", "checkpoints", "history.csv", "last.keras"]
    rows = history(directory)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} < rows[0].keys()
    assert float(rows[1]["learning_rate"]) == pytest.approx(0, abs=1e-8)
    assert len(fitted.history["loss"]) == 2
    assert fitted.record.best_epoch in (1, 2)
    assert fitted.images_per_second > 0
    test = small_dataset().test
    predicted = fitted.model.predict(test.images, verbose=0).argmax(axis=-1)
    assert fitted.test["accuracy"] == pytest.approx(
        np.mean(predicted == test.labels)
    )


def test_a_checkpoint_is_written_after_every_step_if_asked(undisturbed):
    found = list_checkpoints(undisturbed[1] / "checkpoints")
    assert len(found) == 6


# Within an epoch, between its last step and validation, and after the end.
@pytest.mark.parametrize("step", [2, 3, 6])
def test_a_continued_run_ends_where_an_undisturbed_one_does(
    step, undisturbed, tmp_path
):
    other = continued(undisturbed[1], step, tmp_path)
    assert_same_end(other, undisturbed[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"average_momentum": 0.9, "precision": "mixed_bfloat16"},
        {"precision": "mixed_float16", "clip_norm": 1.0},
        {"steps_per_execution": 3, "optimizer": "sgd", "mixup_alpha": 0.2},
        {"pseudo": "teacher", "pseudo_share": 0.25},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_everything_that_has_a_state_is_continued(
    changes, monkeypatch, tmp_path
):
    pseudo = small_dataset().train
    soft = np.eye(3, dtype="float32")[pseudo.labels] * 0.7 + 0.1
    monkeypatch.setattr(
        preparation,
        "load_split",
        lambda *args: (Split(pseudo.images, soft), ()),
    )
    recipe = Recipe(**{**vars(RECIPE), **changes})
    directory = tmp_path / "undisturbed"
    fit(directory, recipe)
    step = 3 if "steps_per_execution" in changes else 4
    other = continued(directory, step, tmp_path, recipe)
    assert_same_end(other, directory)


def test_a_run_does_not_go_on_with_other_images(
    undisturbed, monkeypatch, tmp_path
):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed[1], directory)

    def one_less(*args, **kwargs):
        dataset = small_dataset()
        return dataclasses.replace(dataset, train=dataset.train.part(0, 24))

    monkeypatch.setattr(preparation, "load_dataset", one_less)
    with pytest.raises(CheckpointError, match=r"'train': 25.*'train': 24"):
        fit(directory)


@pytest.mark.tf_only
def test_replicas_continue_too(monkeypatch, tmp_path):
    distribution = TensorFlowDistribution("mirrored", two_replicas())
    monkeypatch.setattr(
        preparation, "create_distribution", lambda **kwargs: distribution
    )
    recipe = Recipe(**{**vars(RECIPE), "average_momentum": 0.9})
    directory = tmp_path / "undisturbed"
    fit(directory, recipe)
    other = continued(directory, 4, tmp_path, recipe)
    assert_same_end(other, directory)


def test_a_run_may_be_stopped_by_a_signal_at_any_step(
    monkeypatch, undisturbed, tmp_path
):
    """SIGTERM within an epoch, then Ctrl-C in validation."""
    directory = tmp_path / "run"
    recipe = Recipe(**{**vars(RECIPE), "checkpoint_seconds": 3600.0})
    batch_end = Checkpoints.on_train_batch_end
    test_batch_end = Checkpoints.on_test_batch_end

    def terminated(self, batch, logs=None):
        if self.books.record.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        batch_end(self, batch, logs)

    def interrupted(self, batch, logs=None):
        os.kill(os.getpid(), signal.SIGINT)
        test_batch_end(self, batch, logs)

    for name, method, number, step in (
        ("on_train_batch_end", terminated, signal.SIGTERM, 2),
        ("on_test_batch_end", interrupted, signal.SIGINT, 3),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, name, method)
            with pytest.raises(Stopped) as stopped:
                fit(directory, recipe)
        assert stopped.value.signal_number == number
        (newest, *_) = list_checkpoints(directory / "checkpoints")
        assert newest.name == f"step-{step:08d}.npz"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    fitted, _ = fit(directory, recipe)
    assert fitted.record.resumed == 2
    assert_same_end(directory, undisturbed[1])


def test_a_state_that_is_no_number_is_never_saved(tmp_path):
    recipe = Recipe(**{**vars(RECIPE), "learning_rate": 1e30})
    with pytest.raises(FloatingPointError, match=r"at step \d+, learning_rate"):
        fit(tmp_path, recipe)
    for path in list_checkpoints(tmp_path / "checkpoints"):
        with np.load(path) as file:
            floats = [file[key] for key in file if file[key].dtype.kind == "f"]
        assert all(np.isfinite(array).all() for array in floats)
