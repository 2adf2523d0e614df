"""Every named model, at a reduced width and depth, does what models do."""

import keras
import numpy as np
import pytest

from lambda_keras.models import build_model
from tests.gradients import gradients
from tests.models.variants import REPRESENTATIVES
from tests.models.variants import VARIANTS
from tests.models.variants import images
from tests.models.variants import outputs
from tests.models.variants import wake

# JAX compiles each model for several seconds, where TensorFlow just runs it.
ON_JAX = pytest.mark.slow if keras.backend.backend() == "jax" else ()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in REPRESENTATIVES else ON_JAX)
        for name in VARIANTS
    ],
)
def variant(request):
    keras.utils.set_random_seed(0)
    spec = VARIANTS[request.param]
    model = build_model(spec, classes=10, classifier_activation=None)
    return wake(model), images(spec)


def test_logits_are_finite_and_tell_images_apart(variant):
    model, x = variant
    logits = outputs(model, x)
    assert logits.shape == (4, 10)
    assert np.all(np.isfinite(logits))
    assert np.all(logits[0] != logits[1])


def test_a_gradient_reaches_every_weight(variant):
    model, x = variant
    # In training, because without the batch's statistics the keys of a model
    # with random weights are so large that their softmax is flat.
    for variable, gradient in zip(
        model.trainable_variables,
        gradients(model, x, training=True),
        strict=True,
    ):
        assert np.all(np.isfinite(gradient)), variable.path
        assert np.any(gradient), variable.path


def test_a_saved_model_computes_the_same(variant, tmp_path):
    model, x = variant
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(loaded, x), outputs(model, x))
