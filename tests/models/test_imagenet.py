import keras
import numpy as np
import pytest

from lambda_keras.models import decode_predictions
from lambda_keras.models import preprocess_input


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


def test_predictions_are_decoded_by_keras(monkeypatch):
    decode = keras.applications.imagenet_utils.decode_predictions
    # In the place of the list of classes, which Keras downloads.
    classes = {str(i): (f"n{i:08}", f"class_{i}") for i in range(1000)}
    monkeypatch.setitem(decode.__globals__, "CLASS_INDEX", classes)
    predictions = np.zeros((1, 1000))
    predictions[0, [7, 3]] = 0.75, 0.25
    assert decode_predictions(predictions, top=2) == [
        [("n00000007", "class_7", 0.75), ("n00000003", "class_3", 0.25)]
    ]
    with pytest.raises(ValueError, match=r"\(samples, 1000\)"):
        decode_predictions(predictions[:, :10])
