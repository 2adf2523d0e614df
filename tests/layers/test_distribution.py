"""Layers on two replicas compute what they compute on one device."""

import contextlib

import keras
import numpy as np
import pytest

from lambda_keras.layers import BatchNormalization
from lambda_keras.layers import Dropout
from lambda_keras.layers import LambdaLayer
from lambda_keras.layers import StochasticDepth
from tests import reference
from tests.reference import as_numpy
from tests.replicas import two_replicas

pytestmark = pytest.mark.tf_only


def run_on_replicas(function, *arrays) -> list[list[np.ndarray]]:
    """Calls a function on halves of arrays; returns what each half gives."""
    import tensorflow as tf

    strategy = two_replicas()

    def split(array):
        halves = np.split(array, 2)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(
                halves[context.replica_id_in_sync_group]
            )
        )

    @tf.function
    def step(*values):
        return strategy.run(function, args=values)

    results = strategy.experimental_local_results(step(*map(split, arrays)))
    return [
        [as_numpy(tensor) for tensor in tf.nest.flatten(result)]
        for result in results
    ]


def values_on_replicas(variable) -> list[np.ndarray]:
    return [
        v.numpy()
        for v in two_replicas().experimental_local_results(variable.value)
    ]


def uneven_batch() -> np.ndarray:
    """A batch whose halves have different means and deviations."""
    x = np.random.default_rng(0).normal(size=(8, 6, 3))
    x[4:] = 3 * x[4:] + 5
    return x


def test_moving_statistics_are_the_mean_of_the_replicas(tmp_path):
    with two_replicas().scope():
        model = keras.Sequential(
            [
                keras.Input((6, 3), dtype="float64"),
                BatchNormalization(momentum=0.9, dtype="float64"),
            ]
        )
    (layer,) = model.layers
    x = uneven_batch()
    outputs = run_on_replicas(lambda x: layer(x, training=True), x)
    halves = [reference.moments(half) for half in np.split(x, 2)]
    for (output,), half, (mean, variance) in zip(
        outputs, np.split(x, 2), halves, strict=True
    ):
        np.testing.assert_allclose(
            output, (half - mean) / np.sqrt(variance + 1e-3), rtol=1e-10
        )
    mean, variance = np.mean(halves, axis=0)
    for variable, expected in [
        (layer.moving_mean, 0.1 * mean),
        (layer.moving_variance, 0.9 + 0.1 * variance),
    ]:
        for value in values_on_replicas(variable):
            np.testing.assert_allclose(value, expected, rtol=1e-10)
    # What is saved is what was evaluated.
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    (outputs,) = zip(*run_on_replicas(layer, x), strict=True)
    np.testing.assert_allclose(
        as_numpy(loaded(x)), np.concatenate(outputs), rtol=1e-10
    )


@pytest.mark.parametrize("masked", [False, True])
def test_synchronized_statistics_are_those_of_one_device(masked):
    layers = []
    for scope in (two_replicas().scope(), contextlib.nullcontext()):
        with scope:
            layers.append(
                BatchNormalization(synchronized=True, dtype="float64")
            )
            layers[-1].build((None, 6, 3))
    replicated, single = layers
    x = uneven_batch()
    # Of the second half, most is padding.
    mask = np.arange(6) < np.arange(8, 0, -1)[:, None]
    if masked:
        halves = run_on_replicas(
            lambda x, mask: replicated(x, mask=mask, training=True), x, mask
        )
        expected = single(x, mask=mask, training=True)
    else:
        halves = run_on_replicas(lambda x: replicated(x, training=True), x)
        expected = single(x, training=True)
    outputs = np.concatenate([half for (half,) in halves])
    np.testing.assert_allclose(outputs, as_numpy(expected), rtol=1e-10)
    for variable, expected in zip(
        replicated.non_trainable_variables,
        single.non_trainable_variables,
        strict=True,
    ):
        for value in values_on_replicas(variable):
            np.testing.assert_allclose(value, as_numpy(expected), rtol=1e-10)


@pytest.mark.parametrize("layer_class", [Dropout, StochasticDepth])
def test_masks_differ_by_replica_and_step(layer_class):
    with two_replicas().scope():
        layer = layer_class(0.5, seed=1)
    x = np.ones((128, 1), "float32")

    def two_steps(x):
        return [layer(x, training=True) for _ in range(2)]

    masks = [mask for half in run_on_replicas(two_steps, x) for mask in half]
    for i, mask in enumerate(masks):
        # Four standard deviations of 64 draws.
        assert abs(np.mean(mask > 0) - 0.5) < 0.25
        for other in masks[i + 1 :]:
            # Equal in half of the places, by chance.
            assert 0.25 < np.mean(mask == other) < 0.75
    # The state is one, so that a saved model goes on where it stopped.
    first, second = values_on_replicas(layer.seed_generator.state)
    np.testing.assert_array_equal(first, second)


def trained(scope, synchronized: bool) -> keras.Model:
    with scope:
        # Integers, because `fit` adds up what replicas get, to build a model.
        x, mask = keras.Input((6, 3)), keras.Input((6,), dtype="int32")
        layer = LambdaLayer(
            4,
            key_dim=2,
            receptive_field=5,
            synchronized=synchronized,
            dtype="float64",
        )
        # A context, because Keras divides the loss by what is not masked of
        # a replica, and the mask of a context is not one of the outputs.
        model = keras.Model([x, mask], layer(x, context=x, mask=mask))
        reference.randomize(model)
        model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "mse")
    # The second half is mostly padding.
    visible = np.arange(6) < np.arange(8, 0, -1)[:, None]
    model.fit(
        [uneven_batch(), visible.astype("int32")],
        np.random.default_rng(1).normal(size=(8, 6, 4)),
        batch_size=8,
        epochs=3,
        shuffle=False,
        verbose=0,
    )
    return model


def test_lambda_layer_trains_like_on_one_device():
    replicated = trained(two_replicas().scope(), synchronized=True)
    single = trained(contextlib.nullcontext(), synchronized=True)
    for variable, expected in zip(
        replicated.variables, single.variables, strict=True
    ):
        np.testing.assert_allclose(
            as_numpy(variable),
            as_numpy(expected),
            rtol=1e-8,
            atol=1e-10,
            err_msg=variable.path,
        )


def test_lambda_layer_is_the_same_on_every_replica():
    model = trained(two_replicas().scope(), synchronized=False)
    for variable in model.variables:
        first, second = values_on_replicas(variable)
        np.testing.assert_array_equal(first, second, err_msg=variable.path)
        assert np.isfinite(first).all()
