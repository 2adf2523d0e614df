"""The models compute what timm's do, at full size, in both precisions.

Weights are random, batch statistics too. Each test prints its deviations:
`pytest -m reference -rP tests/weights`.
"""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras import cli
from lambda_keras.models import get_spec
from lambda_keras.weights.safetensors_files import write_tensors
from lambda_keras.weights.timm import read_timm
from lambda_keras.weights.timm import recognize
from lambda_keras.weights.timm_tensors import list_timm_tensors
from tests.golden.make_timm import IMAGE_SIZES
from tests.golden.make_timm import golden_path
from tests.golden.make_timm import make_golden
from tests.golden.stream import draw_images
from tests.gradients import gradients
from tests.timm_models import STAGES
from tests.timm_models import TIMM_NAMES
from tests.timm_models import deviation
from tests.timm_models import keras_outputs
from tests.timm_models import make_keras_model
from tests.timm_models import make_timm_model
from tests.timm_models import timm_outputs
from tests.timm_models import timm_state

pytestmark = [pytest.mark.reference, pytest.mark.slow]

TOLERANCES = {"float32": 1e-4, "float64": 1e-8}
# Keras' mean of float64 is float32 on JAX: what is behind the pooling, and
# all gradients, come no closer there.
AFTER_POOLING = 1e-6 if keras.backend.backend() == "jax" else 1e-8

# Its own, and one that timm takes: a strided lambda layer needs even maps
# there, which 50ts does not have. Timm sizes global tables when it makes the
# model.
SIZES = {
    "lambda_resnet_26t": [(256, 256), (224, 288)],
    "lambda_resnet_26rpt": [(256, 256), (192, 224)],
    "lambda_resnet_50ts": [(256, 256), (240, 272)],
}


def make_timm(name, size=None):
    is_global = get_spec(name).needs_image_size
    return make_timm_model(name, **({"img_size": size} if is_global else {}))


def report(case, deviations):
    for name, value in deviations.items():
        print(f"{case} {name}: {value:.1e}")


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    "name, size", [(name, size) for name in SIZES for size in SIZES[name]]
)
def test_logits_and_features_agree(name, size, dtype, tmp_path):
    theirs = make_timm(name, size)
    write_tensors(tmp_path / "timm.safetensors", timm_state(theirs))
    ours = make_keras_model(
        tmp_path / "timm.safetensors", name, size, dtype=dtype
    )
    images = draw_images((1, *size, 3))
    expected = timm_outputs(
        theirs.double() if dtype == "float64" else theirs, images
    )
    received = keras_outputs(ours, images)
    deviations = {
        key: deviation(received[key], expected[key]) for key in expected
    }
    report(f"{name} {size} {dtype}", deviations)
    assert list(deviations) == ["c2", "c3", "c4", "c5", "logits"]
    assert deviations["logits"] < max(TOLERANCES[dtype], AFTER_POOLING)
    assert max(deviations[key] for key in STAGES) < TOLERANCES[dtype]


class Shift(keras.layers.Layer):
    """Adds a weight to the images: its gradient is that of the images."""

    def __init__(self, shape):
        super().__init__(dtype="float64")
        self.shift = self.add_weight(shape=shape, initializer="zeros")

    def call(self, inputs):
        return inputs + self.shift


@pytest.fixture
def double_inputs():
    """Lets gradients reach the images in float64."""
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


@pytest.mark.usefixtures("double_inputs")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", TIMM_NAMES)
def test_gradients_agree(name, training, tmp_path):
    import torch

    size = (64, 64)
    theirs = make_timm(name, size)
    write_tensors(tmp_path / "timm.safetensors", timm_state(theirs))
    ours = make_keras_model(
        tmp_path / "timm.safetensors", name, size, dtype="float64"
    )
    # Of one image, PyTorch's own gradient of what is sliced and normalized is
    # not the slope of its outputs (2.13 on a CPU, by finite differences).
    images = draw_images((4, *size, 3)).astype("float64")
    factors = np.random.RandomState(0).normal(size=(4, 1000))

    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).requires_grad_()
    logits = theirs.double().train(training)(inputs)
    (logits * torch.from_numpy(factors)).sum().backward()
    expected = {
        key: weight.grad.numpy() for key, weight in theirs.named_parameters()
    }
    expected["images"] = inputs.grad.permute(0, 2, 3, 1).numpy()

    inputs = keras.Input(batch_shape=images.shape, dtype="float64")
    shift = Shift(images.shape)
    shifted = keras.Model(inputs, ours(shift(inputs)))
    values = gradients(
        shifted,
        images,
        lambda logits: ops.sum(logits * factors),
        training=training,
    )
    by_path = {
        weight.path: value
        for weight, value in zip(shifted.trainable_weights, values, strict=True)
    }
    tensors = list_timm_tensors(get_spec(name))
    received = {
        key: by_path[shift.shift.path]
        if key == "images"
        else tensors[key].to_timm(by_path)
        for key in expected
    }
    deviations = {
        key: deviation(received[key], expected[key]) for key in expected
    }
    worst = max(deviations, key=deviations.get)
    report(
        f"{name} {size} float64 training={training}, gradient by",
        {key: deviations[key] for key in ("images", worst)},
    )
    assert deviations[worst] < AFTER_POOLING


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_a_round_trip_through_convert_is_bitwise(name, tmp_path):
    from safetensors.torch import load_file

    theirs = make_timm(name, (256, 256))
    write_tensors(tmp_path / "timm.safetensors", timm_state(theirs))
    assert recognize(tmp_path / "timm.safetensors") == get_spec(name)
    files = ("timm.safetensors", "model.keras", "back.safetensors")
    for source, target in itertools.pairwise(tmp_path / file for file in files):
        cli.main(["convert", f"--from={source}", f"--to={target}"])
    expected = theirs.state_dict()
    received = load_file(tmp_path / "back.safetensors")
    assert set(received) == set(expected)
    for key, tensor in received.items():
        assert tensor.dtype == expected[key].dtype
        assert tensor.shape == expected[key].shape
        if not key.endswith("num_batches_tracked"):
            assert tensor.numpy().tobytes() == expected[key].numpy().tobytes()
        else:
            assert tensor == 0
    theirs.load_state_dict(received)


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_parameters_are_timm_s(name, tmp_path):
    theirs = make_timm(name, (256, 256))
    parameters = sum(x.numel() for x in theirs.parameters())
    spec = get_spec(name)
    assert spec.parameters == parameters
    expected = {key: x.shape for key, x in timm_state(theirs).items()}
    write_tensors(tmp_path / "timm.safetensors", timm_state(theirs))
    arrays = read_timm(tmp_path / "timm.safetensors", spec)
    assert {
        key: tensor.to_timm(arrays).shape
        for key, tensor in list_timm_tensors(spec).items()
    } == expected
    statistics = ("/moving_mean", "/moving_variance")
    assert parameters == sum(
        x.size for key, x in arrays.items() if not key.endswith(statistics)
    )


@pytest.mark.parametrize("size", IMAGE_SIZES, ids=str)
@pytest.mark.parametrize("name", TIMM_NAMES)
def test_golden_files_are_what_timm_computes(name, size):
    with np.load(golden_path(name, size)) as golden:
        made = make_golden(name, size)
        assert set(golden) == set(made)
        for key, expected in made.items():
            if key in ("names", "shapes"):
                assert golden[key].tolist() == expected
            else:
                assert deviation(golden[key], expected) < 1e-6
