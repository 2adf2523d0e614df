import itertools

import pytest

from lambda_keras.serving.signatures import IMAGE_BYTES
from lambda_keras.serving.signatures import IMAGES
from lambda_keras.serving.signatures import UINT8_IMAGES

pytestmark = pytest.mark.tf_only

SIGNATURES = (IMAGES, UINT8_IMAGES, IMAGE_BYTES)


def read_requests(version):
    """Reads the file as TensorFlow Serving does: requests and arrays."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    from lambda_keras.serving.warm_up import REQUESTS_FILE

    requests = []
    for record in tf.data.TFRecordDataset(str(version / REQUESTS_FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        ((name, proto),) = request.inputs.items()
        tensor = tf.io.parse_tensor(proto.SerializeToString(), proto.dtype)
        requests.append((request.model_spec, name, tensor.numpy()))
    return requests


def test_each_signature_is_asked_at_each_batch_size(version):
    from lambda_keras.serving.warm_up import BATCH_SIZES
    from lambda_keras.serving.warm_up import MAX_REQUESTS

    requests = read_requests(version)
    assert {(spec.signature_name, len(a)) for spec, _, a in requests} == {
        *itertools.product(SIGNATURES, BATCH_SIZES)
    }
    assert {spec.name for spec, _, _ in requests} == {"photographs"}
    assert 1 in BATCH_SIZES
    assert sum(len(array) for _, _, array in requests) == 252
    assert len(requests) <= MAX_REQUESTS


# A server does not load a version of which one request fails.
def test_the_saved_model_answers_them_all(version):
    from tests.serving.runtimes import Session

    session = Session(version)
    for spec, name, array in read_requests(version):
        assert session.inputs[spec.signature_name] == [name]
        answers = session.ask(spec.signature_name, array)
        # A server that batches splits every output into rows.
        assert {len(rows) for rows in answers.values()} == {len(array)}
        assert set(answers.get("status", [b"ok"])) == {b"ok"}


@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 20, 1)])
def test_encoded_images_are_files_like_those_to_come(tmp_path, shape):
    import tensorflow as tf

    from lambda_keras.serving.images import RequestPreprocessing
    from lambda_keras.serving.warm_up import write_warm_up_requests

    write_warm_up_requests(tmp_path, "any", RequestPreprocessing(shape))
    formats = {}
    for _, name, array in read_requests(tmp_path):
        if name == "image_bytes":
            (file,) = set(array)
            kind = "JPEG" if tf.io.is_jpeg(file) else "PNG"
            formats.setdefault(len(array), []).append(kind)
            height, width, channels = tf.io.decode_image(file).shape
            # A photograph has more pixels than the model takes.
            assert (height, channels) == (2 * shape[0], shape[2])
            assert width / height == pytest.approx(4 / 3, abs=0.02)
            assert len(file) > height * width * channels / 20
    assert set(map(tuple, formats.values())) == {("JPEG", "PNG")}


def test_batches_take_little_room(tmp_path):
    from lambda_keras.serving.images import RequestPreprocessing
    from lambda_keras.serving.warm_up import write_warm_up_requests

    shape = (224, 224, 3)
    path = write_warm_up_requests(tmp_path, "any", RequestPreprocessing(shape))
    # The float32 images of the largest batch alone would be 19 MB.
    assert path.stat().st_size < 4e6


@pytest.mark.parametrize(
    ("batch_sizes", "message"),
    [
        ([1, 0], r"at least 1\. Received: batch_sizes=\(1, 0\)"),
        (range(1, 252), "at most 250, .* Received: 251 batch sizes"),
    ],
)
def test_batch_sizes_that_no_server_would_take(tmp_path, batch_sizes, message):
    from lambda_keras.serving.images import RequestPreprocessing
    from lambda_keras.serving.warm_up import write_warm_up_requests

    with pytest.raises(ValueError, match=message):
        write_warm_up_requests(
            tmp_path, "any", RequestPreprocessing((8, 8, 3)), batch_sizes
        )
    assert not list(tmp_path.iterdir())


def test_what_is_not_installed_is_said(monkeypatch):
    import importlib.util

    from lambda_keras.serving.warm_up import check_warm_up

    check_warm_up()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = r'needs tensorflow-serving-api: pip install "lambda_keras\[export'
    with pytest.raises(ValueError, match=message):
        check_warm_up()
