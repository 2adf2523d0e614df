import keras
import numpy as np
import pytest

from lambda_keras.benchmark.candidates import EFFICIENTNETS
from lambda_keras.benchmark.candidates import Candidate
from lambda_keras.benchmark.candidates import find_candidate
from lambda_keras.models import MODEL_SPECS
from lambda_keras.models import count_flops
from lambda_keras.models import count_parameters
from lambda_keras.models import preprocess_input
from tests.reference import as_numpy


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("LambdaResNet152@256", "lambda_resnet_152@256"),
        ("lambda_resnet_152@256", "lambda_resnet_152@256"),
        ("lambdaresnet50", "lambda_resnet_50@224"),
        ("EfficientNetB5", "efficientnet_b5@456"),
        ("efficientnetV2S@300", "efficientnet_v2_s@300"),
        ("tests.benchmark.models:plain@8", "tests.benchmark.models:plain@8"),
    ],
)
def test_models_are_found_however_they_are_written(text, name):
    candidate = find_candidate(text)
    assert str(candidate) == name
    assert find_candidate(str(candidate)) == candidate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("LambdaResNet51", r"closest are.*lambda_resnet_50.*=LambdaResNet51"),
        ("EfficientNetB0@", "after @ must be an integer above 0"),
        ("EfficientNetB0@0", "after @ must be an integer above 0"),
        ("EfficientNetB0@2.5", "after @ must be an integer above 0"),
        ("a.module:function", "needs an image size, as a.module:function@224"),
        ("nowhere:f@8", r"\(ModuleNotFoundError: No module.*=nowhere:f"),
        ("tests.benchmark.models:f@8", "AttributeError.*has no attribute"),
        (":f@8", r"Expected module:function"),
        ("", "The closest are"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        find_candidate(text)


def test_a_module_is_left_alone_where_it_might_take_an_accelerator():
    candidate = find_candidate("nowhere:f@8", imports=False)
    assert str(candidate) == "nowhere:f@8"


@pytest.mark.parametrize(
    ("program", "error"),
    [("x =", "SyntaxError"), ("raise RuntimeError('no')", "RuntimeError: no")],
)
def test_a_module_that_fails_is_a_mistake(
    program, error, tmp_path, monkeypatch
):
    (tmp_path / "failing_module.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=rf"can be imported \({error}"):
        find_candidate("failing_module:build@8")


def test_families():
    families = {
        text: find_candidate(text).family
        for text in ("LambdaResNet50", "EfficientNetB0", "ResNet50")
    }
    assert families == {
        "LambdaResNet50": "LambdaResNet",
        "EfficientNetB0": "EfficientNet",
        "ResNet50": "other",
    }


def test_every_efficientnet_is_one_of_keras():
    sizes = {}
    for name, (function, size, dropout_rate) in EFFICIENTNETS.items():
        assert callable(getattr(keras.applications, function))
        assert function.lower() == name.replace("_", "")
        assert 0 < dropout_rate <= 0.5
        sizes[function] = size
    assert not {*EFFICIENTNETS} & {*MODEL_SPECS}
    assert sizes["EfficientNetB7"] == 600 and len(sizes) == 15


@pytest.fixture(scope="module")
def efficientnet():
    with pytest.MonkeyPatch.context() as patch:
        # Random numbers of a hundred shapes would take their time.
        for name in ("VarianceScaling", "Zeros", "Ones"):
            patch.setattr(
                getattr(keras.initializers, name),
                "__call__",
                lambda self, shape, dtype=None: np.zeros(shape, dtype),
            )
        return find_candidate("EfficientNetB0@32").build("mixed_bfloat16")


def test_an_efficientnet_is_that_of_keras(efficientnet):
    # By Keras 5,330,571, with the moving statistics and 7 numbers of its
    # preprocessing; 5.3 million and 0.39 billion multiply-adds at 224 pixels
    # by the paper (arXiv 1905.11946), which rounds some sizes otherwise.
    assert efficientnet.count_params() == 5_330_571 - 7
    assert count_parameters(efficientnet) == 5_288_548
    at_224 = 49 * count_flops(efficientnet.get_layer("body"))
    assert at_224 / 2 == pytest.approx(0.39e9, rel=0.07)


def test_an_efficientnet_has_the_ends_of_our_models(efficientnet):
    kinds = [type(layer).__name__ for layer in efficientnet.layers]
    assert kinds == [
        *("InputLayer", "Rescaling", "Functional"),
        *("GlobalAveragePooling2D", "Dropout", "Dense"),
    ]
    _, *ends, dense = efficientnet.layers
    body = ends.pop(1)
    # Its own rates: before the classifier, and of stochastic depth, which
    # grows to 0.2 over 16 blocks; the last one has no shortcut.
    assert ends[-1].rate == 0.2
    rates = [
        layer.rate
        for layer in body.layers
        if isinstance(layer, keras.layers.Dropout)
    ]
    assert rates[-1] == pytest.approx(0.2 * 14 / 16) and len(rates) == 9
    assert {layer.compute_dtype for layer in (*ends, dense)} == {"float32"}
    assert {layer.compute_dtype for layer in body.layers} == {"bfloat16"}
    assert efficientnet.dtype_policy.name == "mixed_bfloat16"
    assert efficientnet.input.dtype == efficientnet.output.dtype == "float32"
    assert efficientnet.output_shape == (None, 1000)
    names = {type(layer).__name__ for layer in body.layers}
    assert "BatchNormalization" in names
    assert not {"Rescaling", "Normalization"} & names


def test_an_efficientnet_normalizes_as_our_models_do(efficientnet):
    images = np.array([0, 128, 255], "float32")[:, None, None, None]
    images = np.broadcast_to(images, (3, 2, 2, 3))
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for normalize in (efficientnet.layers[1], preprocess_input):
        normalized = as_numpy(normalize(images))
        np.testing.assert_allclose(normalized, expected, rtol=1e-5)


def test_a_models_own_function_gets_shape_and_precision():
    before = keras.config.dtype_policy()
    model = find_candidate("tests.benchmark.models:plain@4").build(
        "mixed_bfloat16"
    )
    assert model.input_shape == (None, 4, 4, 3)
    assert model.dtype_policy.name == "mixed_bfloat16"
    assert keras.config.dtype_policy() is before


def test_a_function_must_return_a_classifier():
    candidate = Candidate("tests.benchmark.models:shapeless", 4)
    with pytest.raises(
        ValueError, match=r"must return a keras.Model.*Received"
    ):
        candidate.build()
