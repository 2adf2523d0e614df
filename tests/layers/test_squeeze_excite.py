"""Squeeze-and-excitation gives what its equation gives, and says no clearly."""

import keras
import numpy as np
import pytest

from lambda_keras.layers import BatchNormalization
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


def with_norm(shape, dtype="float64"):
    """A layer that normalizes, and the two layers that it stands for."""
    norm = BatchNormalization(momentum=0.9, epsilon=1e-3, dtype=dtype)
    both = SqueezeExcite(norm=norm, dtype=dtype)
    both.build((None, *shape))
    randomize(both)
    pair = keras.Sequential(
        [
            keras.Input(shape, dtype=norm.compute_dtype),
            BatchNormalization(momentum=0.9, epsilon=1e-3, dtype=dtype),
            SqueezeExcite(dtype=dtype),
        ]
    )
    weights = [*norm.weights, *both.reduce.weights, *both.expand.weights]
    for theirs, ours in zip(pair.weights, weights, strict=True):
        theirs.assign(ours)
    inputs = np.random.default_rng(1).normal(2, 3, size=(4, *shape))
    return both, pair, inputs


@pytest.mark.parametrize("shape", [(7, 8), (3, 5, 8), (2, 3, 4, 8)], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_normalizes_first(shape, training):
    both, pair, inputs = with_norm(shape)
    # Keras' Dense computes in float32 on JAX, whatever the dtype is.
    tolerance = 1e-5
    np.testing.assert_allclose(
        as_numpy(both(inputs, training=training)),
        as_numpy(pair(inputs, training=training)),
        rtol=tolerance,
        atol=tolerance,
    )
    for name in ("moving_mean", "moving_variance"):
        np.testing.assert_allclose(
            as_numpy(getattr(both.norm, name)),
            as_numpy(getattr(pair.layers[0], name)),
            rtol=tolerance,
        )


@pytest.mark.parametrize("training", [False, True])
def test_normalizing_has_the_same_gradients(training):
    both, pair, inputs = with_norm((3, 5, 8))
    ours = gradients(both, inputs, training=training)
    theirs = gradients(pair, inputs, training=training)
    # The layer's own weights come before those of its norm or after.
    order = [
        next(i for i, v in enumerate(both.trainable_variables) if v is weight)
        for weight in (
            *both.norm.trainable_variables,
            *both.reduce.trainable_variables,
            *both.expand.trainable_variables,
        )
    ]
    for index, gradient in zip(order, theirs, strict=True):
        # As above: Keras' Dense.
        np.testing.assert_allclose(
            ours[index], gradient, rtol=0, atol=1e-5 * np.abs(gradient).max()
        )


@pytest.mark.parametrize("training", [False, True])
def test_normalizing_in_half_precision_computes_in_float32(training):
    both, _, inputs = with_norm((16, 16, 8), "mixed_float16")
    # The sum of their squares is beyond the largest float16.
    inputs = 20 * inputs
    outputs = both(inputs, training=training)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    exact, _, _ = with_norm((16, 16, 8), "float32")
    np.testing.assert_allclose(
        as_numpy(keras.ops.cast(outputs, "float32")),
        as_numpy(exact(inputs, training=training)),
        rtol=1e-2,
        atol=1e-2,
    )


def test_a_frozen_norm_keeps_its_statistics():
    both, pair, inputs = with_norm((3, 5, 8))
    both.norm.trainable = False
    before = as_numpy(both.norm.moving_mean)
    np.testing.assert_allclose(
        as_numpy(both(inputs, training=True)),
        as_numpy(pair(inputs, training=False)),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_array_equal(as_numpy(both.norm.moving_mean), before)


def test_norm_must_be_ours():
    SqueezeExcite(norm=BatchNormalization())
    with pytest.raises(ValueError, match=r"`norm` to be None or a.*norm=<"):
        SqueezeExcite(norm=keras.layers.BatchNormalization())
    with pytest.raises(ValueError, match=r"last axis.*Received: norm.axis=1"):
        SqueezeExcite(norm=BatchNormalization(axis=1))


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
    norm = BatchNormalization(momentum=0.7, name="norm")
    layer = SqueezeExcite(0.5, activation="silu", norm=norm, name="gate")
    config = keras.saving.serialize_keras_object(layer)
    clone = keras.saving.deserialize_keras_object(config)
    assert clone.get_config() == layer.get_config()
    assert clone.activation is keras.activations.silu
    assert clone.norm.momentum == 0.7
    # A configuration serves more than once.
    config = layer.get_config()
    for _ in range(2):
        assert SqueezeExcite.from_config(config).norm.momentum == 0.7
    plain = SqueezeExcite()
    assert SqueezeExcite.from_config(plain.get_config()).norm is None


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
