import keras
import numpy as np
import pytest

from lambda_keras.models import build_model
from lambda_keras.serving.precision import cast_model

pytestmark = pytest.mark.tf_only

TINY = {"input_shape": (8, 8, 1), "classes": 10}


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (4, 8, 8, 1)).astype("float32")


def opened(model):
    """Lets each block do something, which is built to be its shortcut."""
    for weight in model.weights:
        if weight.path.endswith("norm3/gamma"):
            weight.assign(np.ones(weight.shape))
    return model


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_layers_get_the_precisions_that_the_builder_gives_them(precision):
    spec = "se_resnet_50"
    small = {"input_shape": (32, 32, 3), "classes": 10, "width": 4}
    built = build_model(spec, dtype=f"mixed_{precision}", **small)
    cast = cast_model(build_model(spec, **small), precision)
    # Of layers inside of layers, too.
    assert cast.get_config() == built.get_config()
    assert cast.get_layer("c5").compute_dtype == precision
    assert all(weight.dtype == "float32" for weight in cast.weights)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_weights_are_the_same_and_come_back(precision, images):
    model = opened(build_model("lambda_resnet_tiny", **TINY))
    expected = model.predict(images, verbose=0)
    cast = cast_model(model, precision)
    assert cast.name == model.name
    half = cast.predict(images, verbose=0)
    assert half.dtype == "float32"
    assert 0 < np.abs(half - expected).max() < 0.05
    back = cast_model(cast, "float32").predict(images, verbose=0)
    np.testing.assert_array_equal(back, expected)


def test_a_model_of_that_precision_is_returned_as_it_is():
    model = build_model("lambda_resnet_tiny", **TINY)
    assert cast_model(model, "float32") is model
    half = build_model("lambda_resnet_tiny", dtype="mixed_bfloat16", **TINY)
    assert cast_model(half, "bfloat16") is half


def test_without_a_pooling_the_last_layer_stays(images):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(8),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    cast = cast_model(model, "bfloat16")
    assert [layer.compute_dtype for layer in cast.layers] == [
        *("float32", "bfloat16", "bfloat16", "float32")
    ]


def test_models_in_models_are_cast_too(images):
    inner = build_model(
        "lambda_resnet_tiny", include_top=False, input_shape=(8, 8, 1)
    )
    outer = opened(
        keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                inner,
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )
    )
    cast = cast_model(outer, "float16")
    (inside,) = (x for x in cast.layers if isinstance(x, keras.Model))
    assert inside.get_layer("c5").compute_dtype == "float16"
    assert inside.get_layer("preprocessing").compute_dtype == "float32"
    assert cast_model(cast, "float16") is cast
    expected = outer.predict(images, verbose=0)
    np.testing.assert_allclose(
        cast.predict(images, verbose=0), expected, atol=0.01
    )
    back = cast_model(cast, "float32")
    np.testing.assert_array_equal(back.predict(images, verbose=0), expected)


def test_float32_is_that_of_all_layers():
    """Also of those that a model of one's own had in half precision."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Rescaling(1 / 255, dtype="mixed_bfloat16"),
            keras.layers.Conv2D(2, 3, dtype="mixed_bfloat16"),
            keras.layers.GlobalAveragePooling2D(dtype="mixed_bfloat16"),
            keras.layers.Dense(2, dtype="mixed_bfloat16"),
        ]
    )
    for precision in "float32", "bfloat16":
        cast = cast_model(model, precision)
        assert [layer.compute_dtype for layer in cast.layers] == [
            *("float32", precision, "float32", "float32")
        ]


class OfMyOwn(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.first, self.last = keras.layers.Dense(3), keras.layers.Dense(3)

    def call(self, inputs):
        return self.last(self.first(inputs))


@pytest.mark.parametrize(
    ("make", "precision", "message"),
    [
        (OfMyOwn, "float16", "made anew .* Received: model=mine, precision="),
        (
            lambda: build_model("lambda_resnet_tiny", **TINY),
            "int8",
            "one of: float32, bfloat16, float16. Received: precision=int8",
        ),
    ],
)
def test_what_cannot_be_cast(make, precision, message):
    with pytest.raises(ValueError, match=message):
        cast_model(make(), precision)
