import shutil

import numpy as np
import pytest

from lambda_keras.serving.images import OK
from lambda_keras.serving.prediction import Prediction
from lambda_keras.serving.prediction import load_version
from lambda_keras.serving.prediction import predict_images
from lambda_keras.serving.prediction_inputs import MISSING
from lambda_keras.serving.prediction_inputs import EncodedImage
from tests.serving.image_files import good_files
from tests.serving.image_files import photograph
from tests.serving.image_files import png
from tests.serving.models import CLASS_NAMES

pytestmark = pytest.mark.tf_only


@pytest.fixture(scope="module")
def model(version):
    return load_version(version)


def encoded(count):
    """Images of different sizes, each with another answer."""
    return [
        EncodedImage(f"{i}.png", png(photograph(30 + 9 * i, 80 - i)))
        for i in range(count)
    ]


def test_predictions_are_what_the_signature_answers(model, version):
    import tensorflow as tf

    files = good_files()
    images = [EncodedImage(name, file) for name, file in files.items()]
    predictions = model.predict(images)
    loaded = tf.saved_model.load(str(version))
    answers = loaded.signatures["serving_bytes"](
        image_bytes=tf.constant([*files.values()])
    )
    assert [prediction.name for prediction in predictions] == [*files]
    for index, prediction in enumerate(predictions):
        probabilities = answers["probabilities"][index].numpy()
        order = np.argsort(-probabilities, kind="stable")[: model.top_k]
        assert prediction.status == OK
        assert list(prediction.classes) == order.tolist()
        assert prediction.labels == [CLASS_NAMES[i] for i in order]
        np.testing.assert_allclose(
            prediction.scores, probabilities[order], rtol=1e-6
        )


def test_what_was_not_read_or_is_no_image_has_no_labels(model):
    good = encoded(1)[0]
    predictions = model.predict(
        [
            EncodedImage("a", status=MISSING),
            good,
            EncodedImage("c", b"GIF89a"),
            EncodedImage("d", b""),
            EncodedImage("e", good.content[:300]),
        ]
    )
    none = ((), (), ())
    assert [predictions[i] for i in (0, 2, 3, 4)] == [
        Prediction("a", "missing", *none),
        Prediction("c", "unsupported format", *none),
        Prediction("d", "empty", *none),
        Prediction("e", "unreadable", *none),
    ]
    assert predictions[1] == model.predict([good])[0]


@pytest.fixture(scope="module")
def alone(model):
    """The answer to each image by itself."""
    return [model.predict([image])[0] for image in encoded(8)]


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_images_keep_their_order_in_batches_of_any_size(
    batch_size, model, alone
):
    images = encoded(8)
    batches = list(predict_images(model, images, batch_size))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    predictions = [one for batch in batches for one in batch]
    assert [one.name for one in predictions] == [f"{i}.png" for i in range(8)]
    assert len({one.scores[0] for one in predictions}) == 8
    for one, expected in zip(predictions, alone):
        assert one.classes == expected.classes
        np.testing.assert_allclose(one.scores, expected.scores, rtol=1e-5)


def test_few_batches_are_in_memory(model):
    taken, (image,) = [], encoded(1)

    def images():
        for number in range(40):
            taken.append(number)
            yield image

    for number, batch in enumerate(predict_images(model, images(), 4), 1):
        # Those that are predicted, those that wait, and the one in hand.
        assert len(taken) <= 4 * (number + 2)
        assert len(batch) == 4
    assert len(taken) == 40


def test_something_else_than_a_version_is_refused(version, tmp_path):
    import tensorflow as tf

    with pytest.raises(
        ValueError,
        match="`model` must be a SavedModel that can be read .*Received: "
        f"model={tmp_path}$",
    ):
        load_version(tmp_path)

    other = tmp_path / "other"
    tf.saved_model.save(tf.Module(), str(other))
    with pytest.raises(
        ValueError,
        match=f"the signature serving_bytes. Received: model={other}",
    ):
        load_version(other)

    broken = tmp_path / "broken"
    shutil.copytree(version, broken)
    (variables,) = broken.glob("variables/*.data-*")
    variables.write_bytes(variables.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"can be read \(.+\). Received: model"
    ):
        load_version(broken)
