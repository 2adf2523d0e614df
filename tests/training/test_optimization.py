import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras.training.optimization import SGD
from lambda_keras.training.optimization import AdamW
from lambda_keras.training.optimization import LossScaleOptimizer
from lambda_keras.training.optimization import build_optimizer
from lambda_keras.training.optimization import build_schedule
from lambda_keras.training.optimization import peak_learning_rate
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


@pytest.mark.parametrize(
    ("reference_batch_size", "expected"), [(None, 0.1), (256, 1.6), (4096, 0.1)]
)
def test_learning_rate_is_in_proportion_to_the_batch(
    reference_batch_size, expected
):
    recipe = Recipe(
        learning_rate=0.1,
        batch_size=4096,
        reference_batch_size=reference_batch_size,
        warmup_share=0.0,
    )
    assert peak_learning_rate(recipe) == pytest.approx(expected)
    peak = float(build_schedule(recipe, steps_per_epoch=10)(0))
    assert peak == pytest.approx(expected)


def make_model():
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, bias_initializer="ones"),
            keras.layers.BatchNormalization(beta_initializer="ones"),
        ]
    )


def values(model):
    return {
        weight.name: np.array(weight.numpy())
        for weight in model.trainable_weights
    }


def gradients(model, value):
    return [ops.full(w.shape, value) for w in model.trainable_weights]


def test_adamw_multiplies_weights_by_the_decay():
    model = make_model()
    before = values(model)
    recipe = Recipe(learning_rate=0.5, weight_decay=0.1, warmup_share=0.0)
    build_optimizer(recipe, steps_per_epoch=10).apply(
        gradients(model, 0.0), model.trainable_weights
    )
    after = values(model)
    np.testing.assert_allclose(after["kernel"], 0.95 * before["kernel"])
    for name in ("bias", "gamma", "beta"):
        np.testing.assert_array_equal(after[name], before[name])


def test_sgd_decays_through_the_momentum():
    model = make_model()
    expected = {name: value.copy() for name, value in values(model).items()}
    velocity = dict.fromkeys(expected, 0.0)
    optimizer = SGD(learning_rate=0.5, momentum=0.9, l2=0.1)
    for step in range(3):
        gradient = 0.1 * (step + 1)
        optimizer.apply(gradients(model, gradient), model.trainable_weights)
        for name, weight in expected.items():
            decay = 0.1 * weight if name == "kernel" else 0.0
            velocity[name] = 0.9 * velocity[name] - 0.5 * (gradient + decay)
            expected[name] = weight + velocity[name]
    for name, value in values(model).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5)


def test_the_recipe_decides_the_optimizer():
    adamw = build_optimizer(Recipe(weight_decay=0.3, clip_norm=2.0), 10)
    assert (type(adamw), adamw.weight_decay, adamw.clip_norm) == (
        AdamW,
        0.3,
        2.0,
    )
    recipe = Recipe(optimizer="sgd", momentum=0.8, weight_decay=4e-5)
    sgd = build_optimizer(recipe, 10)
    assert (type(sgd), sgd.momentum, sgd.l2, sgd.clip_norm) == (
        SGD,
        0.8,
        4e-5,
        None,
    )
    # Decay that bypasses the momentum would come on top.
    assert sgd.weight_decay is None
    scaled = build_optimizer(Recipe(precision="mixed_float16"), 10)
    assert type(scaled) is LossScaleOptimizer
    assert type(scaled.inner_optimizer) is AdamW


def test_adamw_without_clipping_is_that_of_keras():
    results = []
    for optimizer in (
        AdamW(learning_rate=0.1, weight_decay=0.02),
        keras.optimizers.AdamW(learning_rate=0.1, weight_decay=0.02),
    ):
        keras.utils.set_random_seed(0)
        model = make_model()
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
        for step in range(3):
            optimizer.apply(
                gradients(model, 0.1 * step), model.trainable_weights
            )
        results.append(values(model))
    for name, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][name])


@pytest.mark.parametrize(
    ("clip_norm", "expected"),
    [
        (None, 4.0),
        (1.0, 1.0),
        (5.0, 4.0),  # No longer than it was.
    ],
)
@pytest.mark.parametrize("optimizer_class", [SGD, AdamW])
def test_the_norm_of_all_gradients_together_is_limited(
    optimizer_class, clip_norm, expected
):
    received = []

    class Spy(optimizer_class):
        def update_step(self, gradient, variable, learning_rate):
            received.append(ops.convert_to_numpy(gradient))

    variables = [keras.Variable(np.zeros(4)), keras.Variable(np.zeros((2, 6)))]
    Spy(learning_rate=0.1, clip_norm=clip_norm).apply(
        [ops.ones(4), -ops.ones((2, 6))], variables
    )
    norm = np.sqrt(sum(np.sum(gradient**2) for gradient in received))
    assert norm == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(received[0], expected / 4, rtol=1e-6)
    np.testing.assert_allclose(received[1], -expected / 4, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_clipping_does_not_hide_a_gradient_that_is_no_number(bad):
    variable = keras.Variable(np.zeros(2))
    SGD(learning_rate=0.1, clip_norm=1.0).apply(
        [ops.convert_to_tensor([bad, 1.0])], [variable]
    )
    assert np.isnan(variable.numpy()).any()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_saved_optimizer_goes_on_as_it_was(name, precision, tmp_path):
    recipe = Recipe(
        optimizer=name,
        learning_rate=0.5,
        weight_decay=0.1,
        clip_norm=0.5,
        warmup_share=0.0,
        precision=precision,
    )
    model = make_model()
    model.compile(build_optimizer(recipe, steps_per_epoch=10), "mse")
    x = np.random.default_rng(0).normal(size=(4, 3))
    y = np.arange(8.0).reshape(4, 2)
    model.fit(x, y, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is type(model.optimizer)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for both in (model, loaded):
        both.fit(x, y, shuffle=False, verbose=0)
    # Also what is not decayed: Keras' optimizers forget it.
    for ours, theirs in zip(
        loaded.trainable_weights, model.trainable_weights, strict=True
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
