from pathlib import Path

import keras
import numpy as np
import pytest

from lambda_keras.layers import LambdaLayer
from lambda_keras.serving.saved_model import SavedModelError
from lambda_keras.serving.saved_model import check_saved_model
from lambda_keras.serving.saved_model import compare
from lambda_keras.serving.saved_model import export_file
from lambda_keras.serving.saved_model import export_saved_model

pytestmark = pytest.mark.tf_only


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model with a lambda layer, images, and the model's SavedModel."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1), name="images"),
            keras.layers.Rescaling(1 / 255),
            LambdaLayer(4, num_heads=2, key_dim=2, receptive_field=3),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    directory = tmp_path_factory.mktemp("export") / "saved_model"
    export_saved_model(model, directory)
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), "uint8")
    return directory, images, model.predict(images.astype("float32"), verbose=0)


def test_predictions_agree_in_a_process_without_keras(exported):
    directory, images, expected = exported
    agreement = check_saved_model(directory, images, expected)
    assert (agreement.examples, agreement.same_class) == (5, 5)
    assert agreement.largest_difference <= 1e-6


def test_another_models_predictions_are_an_error(exported):
    directory, images, expected = exported
    message = r"must predict as the model does: .* Received: Agreement\("
    with pytest.raises(SavedModelError, match=message):
        check_saved_model(directory, images, np.roll(expected, 1, axis=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda expected: expected[:, :2],
            r"shape \(5, 3\)\. Received: shape=\(5, 2",
        ),
        (lambda expected: expected + 0.01, "within 0.0001"),
        (lambda expected: expected * np.nan, "within 0.0001"),
        (lambda expected: 1 - expected, "the same class for all 5"),
    ],
)
def test_what_counts_as_a_disagreement(exported, change, message):
    _, _, expected = exported
    assert compare("here", expected, expected).largest_difference == 0
    with pytest.raises(SavedModelError, match=message):
        compare("here", expected, change(expected))


def test_a_directory_that_is_no_saved_model(tmp_path, exported):
    _, images, expected = exported
    message = (
        r"in a process without Keras\. Received: OSError: .*saved_model.pb"
    )
    with pytest.raises(SavedModelError, match=message):
        check_saved_model(tmp_path, images, expected)


def test_a_file_is_exported_in_a_process_of_its_own(tmp_path):
    """As it is for models that another engine has trained."""
    import tensorflow as tf

    model = keras.Sequential(
        [
            keras.Input((4, 4, 1), name="images"),
            LambdaLayer(4, num_heads=2, key_dim=2, receptive_field=3),
        ]
    )
    model.save(tmp_path / "model.keras")
    target = tmp_path / "saved_model"
    checked = export_file(tmp_path / "model.keras", target, check=Path.exists)
    assert checked
    images = np.random.default_rng(0).uniform(size=(2, 4, 4, 1))
    serve = tf.saved_model.load(target).signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]
    (output,) = serve(**{name: tf.constant(images, tf.float32)}).values()
    np.testing.assert_allclose(
        output, model.predict(images, verbose=0), atol=1e-6
    )


def test_a_file_that_cannot_be_exported(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"nothing")
    with pytest.raises(SavedModelError, match="that TensorFlow can export"):
        export_file(tmp_path / "model.keras", tmp_path / "saved_model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
