"""Squeeze-and-excitation gives what its equation gives, and says no clearly."""

import keras
import numpy as np
import pytest

from lambda_keras.layers import SqueezeExcite
from tests.gradients import gradients
from tests.reference import as_numpy
from tests.reference import randomize
from tests.reference_attention import squeeze_excite


def expected(layer, inputs):
    weights = {
        f"{name}/{weight}": as_numpy(getattr(getattr(layer, name), weight))
        for name in ("reduce", "expand")
        for weight in ("kernel", "bias")
    }
    return squeeze_excite(inputs, weights)


def prepare(shape, ratio=0.25, dtype="float32", kernel_scale=1.0):
    layer = SqueezeExcite(ratio, dtype=dtype)
    layer.build((None, *shape))
    randomize(layer, kernel_scale=kernel_scale)
    generator = np.random.default_rng(1)
    return layer, generator.normal(size=(2, *shape))


@pytest.mark.parametrize(
    "shape", [(7, 8), (3, 5, 8), (2, 3, 4, 8), (3, 5, 3)], ids=str
)
def test_matches_the_equation(shape):
    layer, inputs = prepare(shape)
    np.testing.assert_allclose(
        as_numpy(layer(inputs)), expected(layer, inputs), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("ratio", "channels", "reduced"),
    [(0.25, 64, 16), (1 / 16, 256, 16), (0.25, 10, 2), (0.25, 3, 1), (1, 8, 8)],
)
def test_ratio_rounds_down_to_one_at_least(ratio, channels, reduced):
    layer, _ = prepare((4, 4, channels), ratio)
    assert layer.reduce.units == reduced
    assert layer.count_params() == 2 * channels * reduced + channels + reduced
    assert layer.flops((None, 4, 4, channels)) == 4 * channels * reduced


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_pools_in_float32(dtype):
    layer, inputs = prepare((64, 64, 8), dtype=dtype, kernel_scale=0.1)
    # The sum over 4,096 positions is beyond the largest float16, 65,504.
    inputs = 20 + inputs
    outputs = layer(inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
    np.testing.assert_allclose(
        as_numpy(keras.ops.cast(outputs, "float32")),
        expected(layer, inputs),
        # The mean, the hidden layer and the gate are rounded to the 8 bits of
        # bfloat16; a sum in half precision would be off by far more.
        rtol=0.05,
    )


def test_every_weight_gets_a_gradient():
    # As wide as the input, because narrow bottlenecks can be all negative.
    layer, inputs = prepare((3, 5, 8), ratio=1)
    model = keras.Sequential([keras.Input((3, 5, 8)), layer])
    assert [np.abs(g).max() > 0 for g in gradients(model, inputs)] == [True] * 4


def test_one_layer_serves_every_size():
    inputs = keras.Input((None, None, 8))
    layer = SqueezeExcite()
    model = keras.Model(inputs, layer(inputs))
    randomize(layer)
    assert model.output_shape == (None, None, None, 8)
    for size in (3, 6):
        x = np.random.default_rng(1).normal(size=(2, size, size, 8))
        np.testing.assert_allclose(
            as_numpy(model(x)), expected(layer, x), rtol=1e-5, atol=1e-6
        )


def test_configuration_makes_the_same_layer():
    layer = SqueezeExcite(0.5, activation="silu", name="gate")
    config = keras.saving.serialize_keras_object(layer)
    clone = keras.saving.deserialize_keras_object(config)
    assert clone.get_config() == layer.get_config()
    assert clone.activation is keras.activations.silu


@pytest.mark.parametrize("ratio", [0, -0.25, 1.5])
def test_ratios_outside_the_range(ratio):
    with pytest.raises(ValueError, match=f"above 0 and at most 1.*={ratio}"):
        SqueezeExcite(ratio)


def test_wrong_shapes():
    layer, inputs = prepare((3, 5, 8))
    with pytest.raises(ValueError, match="expected axis -1"):
        layer(inputs[..., :4])
    with pytest.raises(ValueError, match="expected ndim=4"):
        layer(inputs[:, 0])
    with pytest.raises(ValueError, match=r"spatial, channels.*\(None, 8\)"):
        SqueezeExcite().build((None, 8))
    with pytest.raises(ValueError, match="known number of channels"):
        SqueezeExcite().build((None, 4, 4, None))
