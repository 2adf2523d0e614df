"""Models train on several replicas as they do on one device."""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest

from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from tests.models.variants import images
from tests.models.variants import wake
from tests.replicas import two_replicas

pytestmark = pytest.mark.tf_only

# Two stages, of which the second mixes and strides.
SPEC = dataclasses.replace(
    get_spec("lambda_resnet_tiny"),
    depths=(1, 1),
    strides=(1, 2),
    mixer_blocks=((), (0,)),
    width=8,
)


def batch():
    x = images(SPEC, count=16)
    # Brighter on the second replica, so that statistics differ.
    x[8:] = 128 + x[8:] / 2
    return x, np.arange(16) % 10


def trained(scope, **arguments):
    with scope:
        keras.utils.set_random_seed(0)
        model = wake(build_model(SPEC, classes=10, **arguments))
        model.compile(
            keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy"
        )
    x, y = batch()
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    return model


def test_two_replicas_train_like_one_device():
    mirrored = trained(two_replicas().scope(), sync_batch_norm=True)
    single = trained(contextlib.nullcontext())
    for ours, theirs in zip(mirrored.weights, single.weights, strict=True):
        # Two steps, summed in another order.
        np.testing.assert_allclose(
            ours.numpy(),
            theirs.numpy(),
            rtol=1e-3,
            atol=1e-4,
            err_msg=ours.path,
        )


def test_a_saved_model_is_the_one_that_was_evaluated(tmp_path):
    model = trained(two_replicas().scope())
    x, y = batch()
    evaluated = model.evaluate(x, y, batch_size=16, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, y, batch_size=16, verbose=0) == pytest.approx(
        evaluated, rel=1e-4
    )
