import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras.layers import BatchNormalization
from tests import reference
from tests.reference import as_numpy


@pytest.mark.parametrize("shape", [(6, 3), (4, 5, 3), (2, 4, 3, 3)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)]
)
def test_inference_uses_the_moving_statistics(shape, dtype, tolerance):
    layer = BatchNormalization(epsilon=1e-5, dtype=dtype)
    layer.build(shape)
    reference.randomize(layer)
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    gamma, beta, mean, variance = map(as_numpy, layer.weights)
    np.testing.assert_allclose(
        as_numpy(layer(x)),
        (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta,
        rtol=tolerance,
        atol=tolerance,
    )


def test_training_uses_and_remembers_the_moments_of_the_batch():
    layer = BatchNormalization(momentum=0.9, epsilon=1e-5, dtype="float64")
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(8, 5, 3))
    outputs = as_numpy(layer(x, training=True))
    mean, variance = reference.moments(x)
    np.testing.assert_allclose(
        outputs, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-10
    )
    np.testing.assert_allclose(as_numpy(layer.moving_mean), 0.1 * mean)
    np.testing.assert_allclose(
        as_numpy(layer.moving_variance), 0.9 + 0.1 * variance
    )


@pytest.mark.parametrize(
    ("mean", "moving_mean", "tolerance"),
    [
        (0.0, 0.0, 1e-5),
        # The square of 30 takes three digits of a variance of 1, and sums
        # of TensorFlow on a CPU take another one.
        (30.0, 0.0, 1e-2),
        (100.0, 0.0, 1e-1),
        # float32 itself has four digits left of such inputs.
        (1000.0, 990.0, 1e-3),
    ],
)
def test_a_mean_far_from_the_moving_one_costs_digits(
    mean, moving_mean, tolerance
):
    layer = BatchNormalization(epsilon=1e-5)
    layer.build((None, 3))
    layer.moving_mean.assign(np.full(3, moving_mean))
    x = np.random.default_rng(0).normal(mean, 1.0, size=(4096, 3))
    exact = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
    outputs = as_numpy(layer(x.astype("float32"), training=True))
    np.testing.assert_allclose(outputs, exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("channels", [3, 1])
def test_masked_positions_do_not_count(channels):
    layer = BatchNormalization(momentum=0.0, epsilon=1e-5, dtype="float64")
    x = np.random.default_rng(0).normal(size=(4, 5, channels))
    mask = np.arange(5) < np.array([[5], [3], [1], [4]])
    mean, variance = reference.moments(x, mask)
    x[~mask] = np.nan
    outputs = as_numpy(layer(x, mask=mask, training=True))
    np.testing.assert_allclose(
        outputs[mask], ((x - mean) / np.sqrt(variance + 1e-5))[mask], rtol=1e-10
    )
    np.testing.assert_allclose(as_numpy(layer.moving_mean), mean)
    np.testing.assert_allclose(as_numpy(layer.moving_variance), variance)


def test_a_batch_of_nothing_leaves_the_statistics():
    layer = BatchNormalization(momentum=0.5)
    layer.build((None, 5, 3))
    reference.randomize(layer)
    before = [as_numpy(v) for v in layer.non_trainable_variables]
    x = np.ones((4, 5, 3), "float32")
    outputs = layer(x, mask=np.zeros((4, 5), bool), training=True)
    assert np.isfinite(as_numpy(outputs)).all()
    for variable, value in zip(
        layer.non_trainable_variables, before, strict=True
    ):
        # Moving towards oneself rounds.
        np.testing.assert_allclose(as_numpy(variable), value, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_normalized_in_float32(dtype):
    layer = BatchNormalization(dtype=f"mixed_{dtype}")
    # The sum of these squares is beyond float16.
    x = 300 * np.random.default_rng(0).normal(size=(256, 2)).astype("float32")
    outputs = layer(x, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype
    outputs = as_numpy(ops.cast(outputs, "float32"))
    np.testing.assert_allclose(outputs.mean(axis=0), 0, atol=1e-2)
    np.testing.assert_allclose(outputs.std(axis=0), 1, atol=1e-2)


@pytest.mark.parametrize("changes", [{"center": False}, {"scale": False}])
def test_offset_and_scale_may_be_left_out(changes):
    layer = BatchNormalization(**changes, epsilon=1e-5)
    layer.build((None, 3))
    reference.randomize(layer)
    theirs = keras.layers.BatchNormalization(**changes, epsilon=1e-5)
    theirs.build((None, 3))
    theirs.set_weights(layer.get_weights())
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    np.testing.assert_allclose(
        as_numpy(layer(x)), as_numpy(theirs(x)), rtol=1e-5, atol=1e-6
    )


def test_frozen_statistics_stay():
    layer = BatchNormalization(trainable=False)
    x = np.random.default_rng(0).normal(3, 2, size=(6, 3)).astype("float32")
    # As in Keras: epsilon 1e-3, moving statistics of 0 and 1.
    np.testing.assert_allclose(
        as_numpy(layer(x, training=True)), x / np.sqrt(1.001), rtol=1e-5
    )


def test_configuration_is_that_of_keras():
    layer = BatchNormalization(momentum=0.7, name="norm")
    clone = BatchNormalization.from_config(layer.get_config())
    assert clone.get_config() == layer.get_config()
    theirs = keras.layers.BatchNormalization(momentum=0.7, name="norm")
    assert layer.get_config() == theirs.get_config()


def test_synchronized_is_kept():
    layer = BatchNormalization(synchronized=True)
    assert layer.get_config()["synchronized"] is True
    outputs = layer(np.ones((4, 3)), training=True)
    np.testing.assert_allclose(as_numpy(outputs), 0)


def test_renormalization_is_refused():
    with pytest.raises(ValueError, match=r"not supported\. Received: renorm"):
        BatchNormalization(renorm=True)


def test_a_mask_for_the_whole_batch_counts_for_each_example():
    x = np.random.default_rng(0).normal(size=(4, 6, 3)).astype("float32")
    mask = np.array([[True, False, True, True, False, True]])
    one, each = BatchNormalization(), BatchNormalization()
    np.testing.assert_allclose(
        as_numpy(one(x, training=True, mask=mask)),
        as_numpy(each(x, training=True, mask=np.repeat(mask, 4, axis=0))),
        rtol=1e-6,
    )
    for ours, theirs in zip(one.weights, each.weights, strict=True):
        np.testing.assert_allclose(as_numpy(ours), as_numpy(theirs), rtol=1e-6)


@pytest.mark.parametrize(
    ("axis", "shape"), [(-1, (6,)), (-1, (4, 6, 3)), (1, (4, 6))]
)
def test_a_mask_of_another_shape_is_refused(axis, shape):
    x = np.ones((4, 6, 3), "float32")
    BatchNormalization()(x, training=True, mask=np.ones((4, 6), bool))
    with pytest.raises(ValueError, match=r"without the channels.*Received: m"):
        BatchNormalization(axis=axis)(
            x, training=True, mask=np.ones(shape, bool)
        )
