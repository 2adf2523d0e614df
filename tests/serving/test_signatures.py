import keras
import numpy as np
import pytest

from lambda_keras.serving.images import RequestPreprocessing
from lambda_keras.serving.signatures import ServedModel
from lambda_keras.serving.signatures import write_labels
from tests.serving.models import CLASS_NAMES
from tests.serving.models import random_images
from tests.serving.models import tiny_classifier

pytestmark = pytest.mark.tf_only

PREPROCESSING = RequestPreprocessing((8, 8, 3), crop="whole")


def serve(directory, model, top_k=3, preprocessing=PREPROCESSING):
    labels = directory / "labels.txt"
    write_labels(labels, CLASS_NAMES, len(CLASS_NAMES))
    return ServedModel(model, labels, preprocessing, top_k)


@pytest.fixture(scope="module")
def model():
    return tiny_classifier()


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    return serve(tmp_path_factory.mktemp("served"), model)


@pytest.fixture(scope="module")
def signatures(served, tmp_path_factory):
    """The signatures after a way through files, in plain TensorFlow."""
    import tensorflow as tf

    directory = tmp_path_factory.mktemp("saved") / "1"
    tf.saved_model.save(served, directory, served.signatures())
    loaded = tf.saved_model.load(directory)
    yield loaded.signatures
    # The signatures do not keep what they are of.
    del loaded


def as_arrays(answers):
    return {name: answer.numpy() for name, answer in answers.items()}


def encode_png(images):
    import tensorflow as tf

    return tf.stack([tf.io.encode_png(image) for image in images])


def test_the_signatures_and_their_inputs(signatures):
    assert {
        name: [
            (spec.name, spec.dtype.name, spec.shape.as_list())
            for spec in function.structured_input_signature[1].values()
        ]
        for name, function in signatures.items()
    } == {
        "serving_default": [("images", "float32", [None, 8, 8, 3])],
        "serving_uint8": [("images", "uint8", [None, 8, 8, 3])],
        "serving_bytes": [("image_bytes", "string", [None])],
    }


def test_answers_are_the_models_probabilities_and_the_likeliest(
    model, signatures
):
    import tensorflow as tf

    images = random_images(5)
    floats = images.astype("float32")
    expected = model.predict(floats, verbose=0)
    order = np.argsort(-expected, axis=-1)[:, :3]
    for answers in (
        signatures["serving_default"](images=tf.constant(floats)),
        signatures["serving_uint8"](images=tf.constant(images)),
        # What is in a PNG of the model's size is left as it is.
        signatures["serving_bytes"](image_bytes=encode_png(images)),
    ):
        answers = as_arrays(answers)
        np.testing.assert_allclose(
            answers["probabilities"], expected, atol=1e-6
        )
        np.testing.assert_array_equal(answers["classes"], order)
        assert answers["classes"].dtype == "int32"
        np.testing.assert_array_equal(
            answers["scores"],
            np.take_along_axis(answers["probabilities"], order, axis=-1),
        )


def test_encoded_images_are_answered_with_labels_and_a_status(signatures):
    import tensorflow as tf

    good = encode_png(random_images(2))
    requests = tf.stack([good[0], "", "<html>", good[1]])
    answers = as_arrays(signatures["serving_bytes"](image_bytes=requests))
    assert answers["status"].tolist() == [
        b"ok",
        b"empty",
        b"unsupported format",
        b"ok",
    ]
    for bad in 1, 2:
        assert answers["classes"][bad].tolist() == [-1, -1, -1]
        assert answers["labels"][bad].tolist() == [b"", b"", b""]
        assert not answers["scores"][bad].any()
        assert not answers["probabilities"][bad].any()
    for place, index in (0, 0), (3, 1):
        alone = signatures["serving_bytes"](image_bytes=good[index][None])
        assert answers["labels"][place].tolist() == [
            CLASS_NAMES[number].encode() for number in answers["classes"][place]
        ]
        np.testing.assert_array_equal(
            answers["classes"][place], alone["classes"][0]
        )


def test_a_batch_of_none_is_answered_with_none(signatures):
    import tensorflow as tf

    images = random_images(0)
    for answers in (
        signatures["serving_default"](images=tf.constant(images, tf.float32)),
        signatures["serving_uint8"](images=tf.constant(images)),
        signatures["serving_bytes"](image_bytes=tf.zeros((0,), tf.string)),
    ):
        assert answers["probabilities"].shape == (0, 6)
        assert answers["classes"].shape == (0, 3)


def test_no_more_classes_are_named_than_there_are(model, tmp_path):
    served = serve(tmp_path, model, top_k=10)
    answers = served.serve_uint8_images(random_images(1))
    assert answers["classes"].shape == (1, 6)
    assert sorted(answers["classes"].numpy()[0]) == list(range(6))


def test_arguments_that_do_not_fit(model, tmp_path):
    for options, message in (
        ({"top_k": 0}, r"`top_k` must be at least 1\. Received: top_k=0"),
        (
            {"preprocessing": RequestPreprocessing((16, 16, 3))},
            r"images of shape \(8, 8, 3\)\. Received: image_shape=\(16, 16, 3",
        ),
        (
            {"preprocessing": RequestPreprocessing((8, 8, 1))},
            "`preprocessing` must make what the model takes",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            serve(tmp_path, model, **options)


def test_what_is_no_classifier_is_refused(model, tmp_path):
    images = keras.Input((8, 8, 3), name="images")
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    logits = keras.layers.Dense(6, bias_initializer="ones")(pooled)
    probabilities = keras.layers.Softmax()(logits)
    one = keras.layers.Dense(1, activation="sigmoid")(pooled)
    for output, message in (
        (one, "one vector of probabilities per image"),
        (logits, r"which sum to 1\. Received: a sum of "),
        (images, r"in batches of any size\. Received: model="),
        ([probabilities, probabilities], "one vector of probabilities per"),
        ({"probabilities": probabilities}, "one vector of probabilities per"),
    ):
        with pytest.raises(ValueError, match=message):
            serve(tmp_path, keras.Model(images, output))

    four = keras.Input((8, 8, 3), batch_size=4)
    other = keras.Input((8, 8, 3))
    for inputs, output in (
        (four, model(four)),
        ([images, other], model(images + other)),
    ):
        with pytest.raises(ValueError, match="in batches of any size"):
            serve(tmp_path, keras.Model(inputs, output))

    class Subclassed(keras.Model):
        def call(self, images):
            return keras.ops.softmax(images)

    with pytest.raises(ValueError, match="must be functional or sequential"):
        serve(tmp_path, Subclassed())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("ant", "bee"), r"for each of 3 classes\. Received: 2 names"),
        (("ant", "bee\nwasp", "cat"), r"must be a line\. Received: 'bee"),
        (("ant", "bee\r", "cat"), "must be a line"),
        (("ant", "", "cat"), r"must be a line\. Received: ''"),
        (("ant", "bee", "\udcff"), "must be text. Received: "),
    ],
)
def test_labels_are_a_line_for_each_class(tmp_path, names, message):
    path = tmp_path / "labels.txt"
    with pytest.raises(ValueError, match=message):
        write_labels(path, names, 3)
    assert not path.exists()
    write_labels(path, ("ant", "garden bee", "Käfer"), 3)
    assert path.read_text("utf-8") == "ant\ngarden bee\nKäfer\n"
    write_labels(path, (), 3)
    assert path.read_text("utf-8") == "0\n1\n2\n"
