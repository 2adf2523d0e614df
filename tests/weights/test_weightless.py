"""Models of names and shapes alone."""

import gc
import weakref

import pytest

from lambda_keras.models import build_model
from lambda_keras.weights.weightless import build_weightless
from tests.weights.small_models import GLOBAL


def test_names_and_shapes_are_those_of_the_model():
    arguments = {"input_shape": (64, 48, 3), "classes": 3}
    model = build_weightless(GLOBAL, **arguments)
    expected = build_model(GLOBAL, **arguments)
    assert [(x.path, x.shape) for x in model.weights] == [
        (x.path, x.shape) for x in expected.weights
    ]
    assert [x.get_config() for x in model.layers] == [
        x.get_config() for x in expected.layers
    ]


def test_nothing_is_left_to_be_given_values_later():
    model = build_weightless(GLOBAL)
    weights = [weakref.ref(weight) for weight in model.weights]
    del model
    gc.collect()
    assert not any(weight() for weight in weights)


def test_errors_are_those_of_the_builder():
    with pytest.raises(ValueError, match="Received: classes=0"):
        build_weightless(GLOBAL, classes=0)
