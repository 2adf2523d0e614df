"""The builder's arguments, as in `keras.applications` and beyond."""

import dataclasses
import inspect
import math

import keras
import numpy as np
import pytest
from keras import ops

import lambda_keras.models
from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.models import preprocess_input
from tests.models.variants import VARIANTS
from tests.models.variants import images
from tests.models.variants import outputs
from tests.models.variants import wake

# One block a stage, of which c5's mixes and strides.
SMALL = dataclasses.replace(
    get_spec("lambda_resnet_50"),
    depths=(1, 1, 1, 1),
    mixer_blocks=((), (), (), (0,)),
    width=8,
    image_size=32,
)


@pytest.fixture
def weightless():
    """Models inside have shapes and no weights, which take time to draw."""
    with keras.StatelessScope(initialize_variables=False):
        yield


@pytest.mark.parametrize(
    "arguments, input_shape, output_shape",
    [
        ({}, (32, 32, 3), (1000,)),
        ({"classes": 1}, (32, 32, 3), (1,)),
        ({"input_shape": (64, 33, 3)}, (64, 33, 3), (1000,)),
        ({"input_shape": (None, None, 3)}, (None, None, 3), (1000,)),
        ({"include_top": False}, (None, None, 3), (None, None, 256)),
        (
            {"include_top": False, "input_shape": (64, 33, 3)},
            (64, 33, 3),
            (2, 2, 256),
        ),
        ({"include_top": False, "pooling": "avg"}, (None, None, 3), (256,)),
        ({"include_top": False, "pooling": "max"}, (None, None, 3), (256,)),
        (
            {"input_shape": (32, 32, 4), "include_preprocessing": False},
            (32, 32, 4),
            (1000,),
        ),
        (
            {"width": 16, "include_top": False},
            (None, None, 3),
            (None, None, 512),
        ),
    ],
)
def test_shapes_follow_the_arguments(
    weightless, arguments, input_shape, output_shape
):
    model = build_model(SMALL, **arguments)
    assert model.input_shape == (None, *input_shape)
    assert model.output_shape == (None, *output_shape)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pooling": "mean"}, "None, 'avg' or 'max'.*pooling='mean'"),
        ({"classes": 0}, "positive integer.*classes=0"),
        ({"classes": 10.0}, "positive integer.*classes=10.0"),
        (
            {"classifier_activation": "hardmax"},
            "activation of Keras.*classifier_activation='hardmax'",
        ),
        ({"input_shape": (32, 32)}, r"height, width, channels.*\(32, 32\)"),
        ({"input_shape": (32, 32, None)}, "known number of channels"),
        ({"input_shape": (32, 32, 1)}, "normalizes 3 channels.*32, 32, 1"),
        ({"input_shape": (31, 32, 3)}, "at least 32x32.*31, 32, 3"),
        (
            {"weights": "imagenet"},
            "these models: lambda_resnet_26t.*'imagenet'",
        ),
        ({"weights": "gone.weights.h5"}, "exists.*gone.weights.h5"),
        ({"weights": "weights.pth"}, "or .keras file. .*weights='weights.pth'"),
        ({"drop_path_rate": 1.0}, "less than 1.*drop_path_rate=1.0"),
        ({"dropout_rate": -1}, "at least 0.*dropout_rate=-1"),
        ({"implementation": "fast"}, "must be one of.*'fast'"),
    ],
)
def test_wrong_arguments_are_refused(weightless, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(SMALL, **arguments)


@pytest.mark.parametrize("name", ["global_attention", "axial_attention"])
def test_weights_that_depend_on_the_image_size_want_it_known(name):
    spec = VARIANTS[f"{name}_resnet_50"]
    with keras.StatelessScope(initialize_variables=False):
        model = build_model(spec, include_top=False)
    assert model.input_shape == (None, 32, 32, 3)
    with pytest.raises(ValueError, match=r"depend on the height.*None, None"):
        build_model(spec, include_top=False, input_shape=(None, None, 3))


@pytest.mark.parametrize("name", ["lambda_resnet_50", "lambda_resnet_v1_50"])
@pytest.mark.parametrize("size", [(64, 64), (67, 45)])
def test_stages_end_in_layers_of_their_name_and_stride(weightless, name, size):
    model = build_model(VARIANTS[name], input_shape=(*size, 3))
    for stage, stride in enumerate([4, 8, 16, 32]):
        shape = model.get_layer(f"c{stage + 2}").output.shape
        sizes = [math.ceil(length / stride) for length in size]
        assert shape == (None, *sizes, 4 * 16 * 2**stage)


def test_options_reach_the_layers(weightless):
    model = build_model(
        SMALL,
        drop_path_rate=0.5,
        dropout_rate=0.2,
        sync_batch_norm=True,
        implementation="convolution",
    )
    rates = [
        model.get_layer(f"c{stage}_block0_drop_path").rate
        for stage in (2, 3, 4, 5)
    ]
    assert rates == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert model.get_layer("dropout").rate == 0.2
    mixer = model.get_layer("c5_block0_lambda")
    assert mixer.implementation == "convolution"
    assert mixer.synchronized
    norms = [
        getattr(layer, "norm", layer)
        for layer in model.layers
        if layer.name.endswith("_se") or "norm" in layer.name
    ]
    assert norms
    assert all(norm.synchronized for norm in norms)


def test_squeeze_and_excitation_stands_in_the_blocks_that_do_not_mix(
    weightless,
):
    model = build_model(SMALL)
    names = {layer.name for layer in model.layers}
    assert {f"c{stage}_block0_se" for stage in (2, 3, 4)} <= names
    assert "c5_block0_se" not in names


def test_every_block_starts_out_as_its_shortcut():
    model = build_model(SMALL)
    gammas = {
        weight.path: ops.convert_to_numpy(weight)
        for weight in model.trainable_weights
        if weight.name == "gamma"
    }
    assert gammas
    for path, gamma in gammas.items():
        assert np.all(gamma == (0 if "norm3" in path else 1)), path


def test_preprocessing_is_the_same_inside_and_outside():
    inside = wake(build_model(SMALL, classes=10))
    outside = build_model(SMALL, classes=10, include_preprocessing=False)
    outside.set_weights(inside.get_weights())
    x = images(SMALL)
    np.testing.assert_allclose(
        outputs(outside, preprocess_input(x)), outputs(inside, x), rtol=1e-5
    )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_classifier_activation_is_applied_to_the_logits(activation):
    model = build_model(SMALL, classes=10, classifier_activation=activation)
    logits = build_model(SMALL, classes=10, classifier_activation=None)
    logits.set_weights(model.get_weights())
    x = images(SMALL)
    expected = keras.activations.get(activation)(outputs(logits, x))
    np.testing.assert_allclose(
        outputs(model, x), ops.convert_to_numpy(expected), rtol=1e-5
    )


def test_implementations_share_weights_and_results():
    x = images(SMALL)
    first = wake(build_model(SMALL, classifier_activation=None))
    results = []
    for implementation in ("query_first", "convolution"):
        model = build_model(
            SMALL, classifier_activation=None, implementation=implementation
        )
        model.set_weights(first.get_weights())
        results.append(outputs(model, x))
    scale = np.abs(results[0]).max()
    np.testing.assert_allclose(results[0], results[1], atol=1e-5 * scale)


def test_one_backbone_takes_images_of_any_size():
    flexible = wake(build_model(SMALL, include_top=False, pooling="avg"))
    fixed = build_model(
        SMALL, include_top=False, pooling="avg", input_shape=(32, 48, 3)
    )
    fixed.set_weights(flexible.get_weights())
    x = images(SMALL)
    assert outputs(flexible, x).shape == (4, 256)
    wide = np.concatenate([x, x[:, :, :16]], axis=2)
    np.testing.assert_allclose(
        outputs(flexible, wide), outputs(fixed, wide), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_ends_before_the_head(dtype):
    model = build_model(SMALL, classes=10, dtype=dtype)
    half = dtype.removeprefix("mixed_")
    assert model.get_layer("preprocessing").compute_dtype == "float32"
    assert model.get_layer("stem_conv0").compute_dtype == half
    assert model.get_layer("c5").output.dtype == half
    assert model.get_layer("avg_pool").output.dtype == "float32"
    assert model.output.dtype == "float32"
    assert {weight.dtype for weight in model.weights} >= {"float32"}
    predictions = outputs(wake(model), images(SMALL))
    assert predictions.dtype == "float32"
    assert np.all(np.isfinite(predictions))


def test_the_global_policy_is_the_default():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = build_model(SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("c2").output.dtype == "bfloat16"
    assert model.output.dtype == "float32"


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_weights_are_read_from_a_file(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    model = wake(build_model(SMALL, classes=10))
    model.save(path) if suffix == ".keras" else model.save_weights(path)
    # The rates of stochastic depth and dropout may be others.
    loaded = build_model(
        SMALL, classes=10, weights=path, drop_path_rate=0.2, dropout_rate=0.0
    )
    for ours, theirs in zip(
        loaded.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_classifier_of_other_classes_starts_anew_and_says_so(tmp_path):
    path = tmp_path / "model.keras"
    model = wake(build_model(SMALL, classes=10))
    model.save(path)
    with pytest.warns(UserWarning, match="keeps its random weights"):
        other = build_model(SMALL, classes=11, weights=path)
    backbone = build_model(SMALL, include_top=False, weights=path)
    for ours, theirs in zip(
        other.get_weights()[:-2], backbone.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_of_another_architecture_are_refused(tmp_path):
    path = tmp_path / "model.weights.h5"
    build_model(SMALL, classes=10).save_weights(path)
    with pytest.raises(ValueError, match="does not hold weights of `resnet_50"):
        build_model("resnet_50", width=8, classes=10, weights=path)


FUNCTIONS = [name for name in lambda_keras.models.__all__ if "ResNet" in name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_named_functions_build_the_spec_of_their_name(name, monkeypatch):
    function = getattr(lambda_keras.models, name)
    built = []
    monkeypatch.setattr(
        "lambda_keras.models.lambda_resnet.build_model",
        lambda *args, **kwargs: built.append((args, kwargs)),
    )
    function(False, pooling="max")
    assert built == [((get_spec(name).name, False), {"pooling": "max"})]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_named_functions_are_documented_with_the_figures_of_their_spec(name):
    function = getattr(lambda_keras.models, name)
    spec = get_spec(name)
    assert list(inspect.signature(function).parameters)[:7] == [
        "include_top",
        "weights",
        "input_shape",
        "pooling",
        "classes",
        "classifier_activation",
        "name",
    ]
    for fact in (
        f"Instantiates the {name} architecture.",
        "values from 0 to\n255",
        f"{spec.parameters / 1e6:.1f} million",
        f"{spec.flops / 1e9:.1f} billion",
        f"`({spec.image_size}, {spec.image_size}, 3)`",
    ):
        assert fact in function.__doc__


@pytest.mark.tf_only
def test_an_exported_model_needs_only_tensorflow(tmp_path):
    import tensorflow as tf

    model = wake(build_model(SMALL, classes=10))
    model.export(tmp_path / "saved_model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    x = images(SMALL)
    np.testing.assert_allclose(loaded.serve(x), outputs(model, x), rtol=1e-5)


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match=r"channels last: call .*_first'"):
            build_model(SMALL)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_an_unknown_implementation_is_refused_without_lambda_layers_too():
    with pytest.raises(ValueError, match=r"Received: implementation='fast'"):
        build_model("resnet_tiny", implementation="fast")


@pytest.mark.usefixtures("weightless")
def test_float16_has_its_loss_scaled():
    model = build_model(SMALL, dtype="mixed_float16")
    assert model.dtype_policy.name == "mixed_float16"
