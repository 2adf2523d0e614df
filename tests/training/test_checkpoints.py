import json

import keras
import numpy as np
import pytest

from lambda_keras.training.checkpoints import CheckpointError
from lambda_keras.training.checkpoints import capture
from lambda_keras.training.checkpoints import checkpoint_path
from lambda_keras.training.checkpoints import list_checkpoints
from lambda_keras.training.checkpoints import newest_checkpoint
from lambda_keras.training.checkpoints import read_checkpoint
from lambda_keras.training.checkpoints import write_checkpoint


def build(units=3):
    """A model with a random seed and batch statistics among its variables."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(units, name="dense"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.5, name="dropout"),
        ]
    )
    model.compile(keras.optimizers.Adam(name="adam"), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v.value)) for v in variables]


def fill(model, seed):
    """Gives every variable values of its own."""
    generator = np.random.default_rng(seed)
    for variable in [*model.variables, *model.optimizer.variables]:
        draws = generator.integers(1, 100, variable.shape) / 7
        variable.assign(draws.astype(variable.dtype))


@pytest.fixture
def model():
    model = build()
    fill(model, 1)
    return model


def write(model, directory, step, keep=2, averages=(), **facts):
    checkpoint = capture(model, averages, step, facts)
    return write_checkpoint(directory, checkpoint, keep)


def test_every_bit_comes_back(model, tmp_path):
    averages = [np.float32([1 / 3, 2 / 3]), np.int32(7)]
    facts = {"history": [{"loss": 0.1}], "best": 1}
    path = write(model, tmp_path, 120, averages=averages, **facts)
    assert (
        path == tmp_path / "step-00000120.npz" == checkpoint_path(tmp_path, 120)
    )
    expected = values(model)
    fill(model, 2)
    checkpoint = read_checkpoint(path)
    checkpoint.assign("model", model.variables)
    checkpoint.assign("optimizer", model.optimizer.variables)
    for value, wanted in zip(values(model), expected, strict=True):
        assert value.dtype == wanted.dtype
        np.testing.assert_array_equal(value, wanted)
    assert checkpoint.step == 120
    assert checkpoint.facts == facts
    for value, wanted in zip(checkpoint.arrays["averages"], averages):
        np.testing.assert_array_equal(value, wanted)
    # Dropout's seed is a variable of the model like any other.
    assert any("seed" in name for name in checkpoint.names["model"])


def test_what_is_captured_does_not_change_with_the_model(model):
    checkpoint = capture(model, [], 1, {})
    before = [array.copy() for array in checkpoint.arrays["model"]]
    fill(model, 2)
    for array, earlier in zip(checkpoint.arrays["model"], before):
        np.testing.assert_array_equal(array, earlier)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_of_no_use_is_not_saved(value, model):
    kernel = np.zeros((4, 3))
    kernel[1, 2] = value
    model.get_layer("dense").kernel.assign(kernel)
    message = r"must stay finite.*dense/kernel \(model\)$"
    with pytest.raises(FloatingPointError, match=message):
        capture(model, [], 1, {})


def test_the_last_ones_are_kept(model, tmp_path):
    (tmp_path / "step-notes.txt").touch()
    for step in 8, 9, 10, 100_000_000:
        write(model, tmp_path, step, keep=2)
    names = [path.name for path in list_checkpoints(tmp_path)]
    # By number: the names alone would have the other order.
    assert names == ["step-100000000.npz", "step-00000010.npz"]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_leaves_the_earlier_ones(model, tmp_path, monkeypatch):
    write(model, tmp_path, 1, keep=1)

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="No space left"):
        write(model, tmp_path, 2, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.npz"]


def test_a_broken_file_is_passed_over_with_a_line(model, tmp_path):
    for step in 1, 2, 3:
        write(model, tmp_path, step, keep=3)
    newest = checkpoint_path(tmp_path, 3)
    newest.write_bytes(newest.read_bytes()[:-100])
    checkpoint_path(tmp_path, 2).write_bytes(b"")
    lines = []
    path, checkpoint = newest_checkpoint(tmp_path, lines.append)
    assert (path.name, checkpoint.step) == ("step-00000001.npz", 1)
    assert [line.split(": ")[0] for line in lines] == [
        f"Passed over {newest}",
        f"Passed over {checkpoint_path(tmp_path, 2)}",
    ]
    assert "must be whole" in lines[0]


def test_a_flipped_bit_is_noticed(model, tmp_path):
    path = write(model, tmp_path, 1)
    content = bytearray(path.read_bytes())
    kernel = model.get_layer("dense").get_weights()[0]
    content[content.index(kernel.tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"Received: path={path}$"):
        read_checkpoint(path)


def test_nothing_in_a_file_is_executed(tmp_path):
    path = tmp_path / "step-00000001.npz"
    np.savez(path, about=np.array({"format": 1}, dtype=object))
    with pytest.raises(CheckpointError, match="allow_pickle=False"):
        read_checkpoint(path)


def test_another_format_is_named(tmp_path):
    path = tmp_path / "step-00000001.npz"
    np.savez(path, about=np.array(json.dumps({"format": 2})))
    with pytest.raises(CheckpointError, match="Received: format=2, path="):
        read_checkpoint(path)


def test_there_may_be_none(tmp_path):
    assert newest_checkpoint(tmp_path / "none", print) is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: build(units=2),
            r"dense/kernel of shape \(4, 2\) at this place. Received: .*"
            r"dense/kernel of shape \(4, 3\)$",
        ),
        (
            lambda: keras.Sequential([keras.Input((4,))]),
            r"this model must have 0 variables. Received: \d+$",
        ),
    ],
)
def test_another_models_checkpoint_is_refused(other, message, model, tmp_path):
    checkpoint = read_checkpoint(write(model, tmp_path, 1))
    other = other()
    before = [np.array(variable) for variable in other.get_weights()]
    with pytest.raises(CheckpointError, match=message):
        checkpoint.assign("model", other.variables)
    for value, earlier in zip(other.get_weights(), before):
        np.testing.assert_array_equal(value, earlier)
