import types

import keras
import numpy as np
import pytest

from lambda_keras.models import decode_predictions
from lambda_keras.models import get_spec
from lambda_keras.models import preprocess_input
from lambda_keras.models.imagenet import evaluation_crop
from lambda_keras.models.imagenet import imagenet_class_names


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_images_are_scaled_to_mean_0_and_deviation_1_of_imagenet(dtype):
    x = np.full((2, 4, 5, 3), [0, 128, 255], dtype)
    before = x.copy()
    outputs = preprocess_input(x)
    expected = (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert isinstance(outputs, np.ndarray)
    assert outputs.dtype == "float32"
    np.testing.assert_allclose(outputs, expected, rtol=1e-5)
    np.testing.assert_array_equal(x, before)


def test_a_spec_has_its_own_mean_and_deviation():
    outputs = preprocess_input(np.full((8, 8, 1), 255.0), (0.5,), (0.25,))
    np.testing.assert_allclose(outputs, 2, rtol=1e-6)
    with pytest.raises(ValueError, match=r"1 channels.*x.shape=\(8, 8, 3\)"):
        preprocess_input(np.ones((8, 8, 3)), (0.5,), (0.25,))


@pytest.mark.parametrize(
    "name", ["LambdaResNet26T", "LambdaResNet26RPT", "LambdaResNet50TS"]
)
def test_a_named_model_has_its_own_mean_and_deviation(name):
    x = np.full((1, 2, 2, 3), [0, 128, 255], "uint8")
    spec = get_spec(name)
    outputs = preprocess_input(x, model=name)
    np.testing.assert_allclose(
        outputs, (x / 255 - spec.mean) / spec.std, rtol=1e-5
    )
    # All of them have ImageNet's.
    np.testing.assert_array_equal(outputs, preprocess_input(x))


def test_the_mean_is_that_of_the_model_unless_it_is_given():
    x = np.full((8, 8, 1), 255.0)
    outputs = preprocess_input(x, model="lambda_resnet_tiny")
    np.testing.assert_allclose(outputs, 1, rtol=1e-6)
    outputs = preprocess_input(x, std=(0.25,), model="lambda_resnet_tiny")
    np.testing.assert_allclose(outputs, 2, rtol=1e-6)
    with pytest.raises(ValueError, match=r"3 channels.*x.shape=\(8, 8, 1\)"):
        preprocess_input(x, model="LambdaResNet50TS")
    with pytest.raises(ValueError, match="Received: name='LambdaResNet51'"):
        preprocess_input(x, model="LambdaResNet51")


def test_the_crop_is_that_of_the_model():
    assert evaluation_crop("lambda_resnet_26t") == (0.94, "bicubic")
    assert evaluation_crop("lambda_resnet_26rpt") == (0.94, "bicubic")
    assert evaluation_crop("lambda_resnet_50ts") == (0.95, "bicubic")
    for name in "lambda_resnet_50", "my_model":
        assert evaluation_crop(name) == (None, "bilinear")


def test_tensors_stay_tensors():
    x = keras.ops.ones((1, 2, 2, 3))
    outputs = preprocess_input(x)
    assert keras.ops.is_tensor(outputs)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(outputs),
        preprocess_input(np.ones((1, 2, 2, 3))),
        rtol=1e-6,
    )


def test_preprocessing_runs_inside_tf_data_on_every_backend():
    tf = pytest.importorskip("tensorflow")
    x = np.full((3, 2, 2, 3), 255, "uint8")
    dataset = tf.data.Dataset.from_tensor_slices(x).map(preprocess_input)
    for outputs in dataset.as_numpy_iterator():
        np.testing.assert_allclose(outputs, preprocess_input(x[0]), rtol=1e-6)


# What holds the list of classes of Keras, which it downloads.
KERAS_NAMES = keras.applications.imagenet_utils.decode_predictions.__globals__


@pytest.fixture
def class_index(monkeypatch):
    """A list of classes in the place of Keras'."""
    classes = {str(i): (f"n{i:08}", f"class_{i}") for i in range(1000)}
    monkeypatch.setitem(KERAS_NAMES, "CLASS_INDEX", classes)


def test_predictions_are_decoded_by_keras(class_index):
    predictions = np.zeros((1, 1000))
    predictions[0, [7, 3]] = 0.75, 0.25
    assert decode_predictions(predictions, top=2) == [
        [("n00000007", "class_7", 0.75), ("n00000003", "class_3", 0.25)]
    ]
    with pytest.raises(ValueError, match=r"\(samples, 1000\)"):
        decode_predictions(predictions[:, :10])


def test_all_names_come_in_the_order_of_the_classes(class_index):
    names = imagenet_class_names()
    assert names == tuple(f"class_{index}" for index in range(1000))


def test_without_a_network_the_names_are_what_is_missing(monkeypatch, capsys):
    def get_file(name, origin, **_):
        print(f"Downloading data from {origin}")
        raise Exception(f"URL fetch failure on {origin}: None -- no network")

    files = types.SimpleNamespace(get_file=get_file)
    monkeypatch.setitem(KERAS_NAMES, "file_utils", files)
    monkeypatch.setitem(KERAS_NAMES, "CLASS_INDEX", None)
    message = "imagenet_class_index.json, or be .* Received: URL fetch failure"
    with pytest.raises(OSError, match=message):
        decode_predictions(np.eye(1000)[:1])
    with pytest.raises(OSError, match=message):
        imagenet_class_names()
    # Standard output is for predictions.
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Downloading data" in printed.err
