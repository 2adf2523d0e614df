import keras
import pytest

from lambda_keras.layers import LambdaLayer
from lambda_keras.models import build_model
from lambda_keras.models import count_flops
from lambda_keras.models import count_parameters

layers = keras.layers


@pytest.mark.parametrize(
    "layer, flops",
    [
        # Two for each kernel entry and output position, by hand.
        (layers.Conv2D(5, 3, padding="same"), 2 * 27 * 5 * 64),
        (layers.Conv2D(5, 3, strides=2, padding="same"), 2 * 27 * 5 * 16),
        (layers.DepthwiseConv2D(3), 2 * 27 * 36),
        (layers.Dense(7), 2 * 3 * 7 * 64),
        (layers.BatchNormalization(), 0),
        (layers.ReLU(), 0),
    ],
)
def test_layers_count_two_for_each_multiply_add(layer, flops):
    model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    assert count_flops(model) == flops


def test_layers_that_count_themselves_are_asked():
    layer = LambdaLayer(8, receptive_field=3)
    model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    assert count_flops(model) == layer.flops((None, 8, 8, 3)) > 0


def test_models_inside_models_are_counted():
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Dense(7)])
    outer = keras.Sequential([keras.Input((8, 8, 3)), inner, layers.Dense(1)])
    assert count_flops(outer) == 2 * 3 * 7 * 64 + 2 * 7 * 64


def test_parameters_count_whether_they_are_frozen_or_not():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Normalization(),
            layers.Conv2D(5, 3),
            layers.BatchNormalization(),
        ]
    )
    expected = 27 * 5 + 5 + 2 * 5
    assert count_parameters(model) == expected
    assert model.count_params() > expected
    model.trainable = False
    assert count_parameters(model) == expected


def test_what_cannot_be_counted_is_refused():
    flexible = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(5, 3)]
    )
    with pytest.raises(ValueError, match=r"known spatial sizes.*conv2d"):
        count_flops(flexible)
    unknown = keras.Sequential(
        [keras.Input((8, 3)), layers.EinsumDense("abc,cd->abd", (None, 4))]
    )
    with pytest.raises(ValueError, match=r"Expected layers.*EinsumDense"):
        count_flops(unknown)


def test_resnet_50_is_what_the_literature_counts():
    with keras.StatelessScope(initialize_variables=False):
        model = build_model("resnet_v1_50")
    # 4.09 billion multiply-adds: torchvision's figure for its ResNet-50,
    # which like ours strides in the 3x3 convolution.
    assert count_flops(model) / 2e9 == pytest.approx(4.09, abs=0.005)


def test_a_layer_with_a_context_is_counted_with_it():
    layer = LambdaLayer(8, receptive_field=3)
    inputs, context = keras.Input((8, 3)), keras.Input((5, 2))
    model = keras.Model([inputs, context], layer(inputs, context=context))
    assert count_flops(model) == layer.flops((None, 8, 3), (None, 5, 2)) > 0
