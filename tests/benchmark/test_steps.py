import keras
import numpy as np
import pytest

from lambda_keras.benchmark.steps import batch_arrays
from lambda_keras.benchmark.steps import batch_shapes
from lambda_keras.benchmark.steps import compile_model
from lambda_keras.benchmark.steps import jax_step
from lambda_keras.benchmark.steps import tensorflow_step
from tests.benchmark.models import plain
from tests.reference import as_numpy

STEPS = 3


@pytest.fixture
def model():
    return compile_model(plain((2, 2, 3)))


def run_steps(model, mode, batches):
    """Returns what each step did, and the weights after the last one."""
    if keras.backend.backend() == "jax":
        import jax

        function, state = jax_step(model, mode)
        compiled = jax.jit(function, donate_argnums=0)
        results = []
        for batch in batches:
            result, state = compiled(state, batch)
            results.append(np.asarray(result))
        weights = [np.asarray(array) for array in (*state[0], *state[1])]
        return results, weights
    step = tensorflow_step(model, mode)
    results = [step(batch).numpy() for batch in batches]
    variables = model.trainable_variables + model.non_trainable_variables
    return results, [as_numpy(variable.value) for variable in variables]


def values(variables):
    return [as_numpy(variable.value) for variable in variables]


def test_the_training_step_is_that_of_keras(model):
    other = compile_model(plain((2, 2, 3)))
    other.set_weights(model.get_weights())
    batches = [batch_arrays(model, "train", 4, seed=i) for i in range(STEPS)]
    losses = [
        other.train_on_batch(*batch, return_dict=True)["loss"]
        for batch in batches
    ]
    variables = model.trainable_variables + model.non_trainable_variables
    before = values(variables)
    results, after = run_steps(model, "train", batches)
    # The mean of the steps so far, as the progress bar of Keras has it.
    means = np.cumsum(losses) / np.arange(1, STEPS + 1)
    np.testing.assert_allclose(results, means, rtol=1e-5)
    expected = values(other.trainable_variables + other.non_trainable_variables)
    for name, start, end, other_end in zip(
        [variable.path for variable in variables], before, after, expected
    ):
        np.testing.assert_allclose(end, other_end, rtol=1e-4, atol=1e-6)
        # Weights and moving statistics alike.
        assert not np.allclose(start, end, rtol=1e-4, atol=1e-6), name


def test_inference_is_that_of_keras_and_changes_nothing(model):
    batches = [batch_arrays(model, "infer", 4, seed=i) for i in range(2)]
    variables = model.trainable_variables + model.non_trainable_variables
    before = values(variables)
    expected = [as_numpy(model(*batch, training=False)) for batch in batches]
    results, after = run_steps(model, "infer", batches)
    np.testing.assert_allclose(results, expected, rtol=1e-5)
    assert not np.allclose(results[0], results[1], rtol=1e-3)
    for start, end in zip(before, after):
        np.testing.assert_array_equal(start, end)


def test_all_models_have_the_same_loss_and_optimizer(model):
    config = model.optimizer.get_config()
    assert (config["momentum"], config["l2"]) == (0.9, 4e-5)
    assert model.loss.get_config()["label_smoothing"] == 0.1
    # One of momentum for each weight, the step and the learning rate.
    assert len(model.optimizer.variables) == len(model.trainable_weights) + 2


def test_a_batch_has_the_shapes_it_says():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = plain((2, 2, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    images, labels = batch_arrays(model, "train", 64)
    assert images.dtype.name == "bfloat16" and labels.dtype == "float32"
    assert images.shape == (64, 2, 2, 3) and labels.shape == (64, 10)
    assert 0 <= images.min() < 20 and 230 < images.max() <= 255
    np.testing.assert_array_equal(labels.sum(axis=-1), 1)
    assert len(np.unique(labels.argmax(axis=-1))) > 5
    for mode, arrays in ("train", (images, labels)), ("infer", (images,)):
        shapes = batch_shapes(model, mode, 64)
        assert shapes == tuple((each.shape, each.dtype) for each in arrays)
        made = batch_arrays(model, mode, 64)
        assert all(map(np.array_equal, made, arrays))
    other = batch_arrays(model, "train", 64, seed=1)
    assert not np.array_equal(other[0], images)
