import keras
import numpy as np
import pytest

from lambda_keras.training.optimization import build_optimizer
from lambda_keras.training.optimization import build_schedule
from lambda_keras.training.recipe import Recipe


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (5, 0.2),
        (10, 0.4),
        (55, 0.2),  # half of the decay: half of the peak
        (100, 0.0),
    ],
)
def test_schedule_rises_to_the_peak_and_ends_at_zero(step, expected):
    recipe = Recipe(epochs=10, learning_rate=0.4, warmup_share=0.1)
    schedule = build_schedule(recipe, steps_per_epoch=10)
    np.testing.assert_allclose(float(schedule(step)), expected, atol=1e-6)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.4), (5, 0.2), (10, 0)])
def test_schedule_without_warm_up_starts_at_the_peak(step, expected):
    recipe = Recipe(epochs=1, learning_rate=0.4, warmup_share=0.0)
    schedule = build_schedule(recipe, steps_per_epoch=10)
    np.testing.assert_allclose(float(schedule(step)), expected, atol=1e-6)


def test_weight_decay_leaves_normalisation_and_biases_alone():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, bias_initializer="ones"),
            keras.layers.BatchNormalization(beta_initializer="ones"),
        ]
    )
    before = {weight.name: weight.numpy() for weight in model.trainable_weights}
    recipe = Recipe(learning_rate=0.5, weight_decay=0.1, warmup_share=0.0)
    build_optimizer(recipe, steps_per_epoch=10).apply(
        [keras.ops.zeros(weight.shape) for weight in model.trainable_weights],
        model.trainable_weights,
    )
    after = {weight.name: weight.numpy() for weight in model.trainable_weights}
    np.testing.assert_allclose(after["kernel"], 0.95 * before["kernel"])
    for name in ("bias", "gamma", "beta"):
        np.testing.assert_array_equal(after[name], before[name])
