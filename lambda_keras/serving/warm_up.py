"""Requests that TensorFlow Serving runs before it takes others."""

import importlib.util
import os
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from lambda_keras.serving.images import RequestPreprocessing
from lambda_keras.serving.signatures import IMAGE_BYTES
from lambda_keras.serving.signatures import IMAGES
from lambda_keras.serving.signatures import UINT8_IMAGES

# Where TensorFlow Serving looks, and how many it takes: more are an error,
# and the version is not loaded.
REQUESTS_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_REQUESTS = 1000
# Those that the batching parameters of the example allow.
BATCH_SIZES = (1, 2, 4, 8, 16, 32)

GREY = 128


def check_warm_up() -> None:
    """Raises an error unless requests for warming up can be written.

    Raises:
        ValueError: If TensorFlow Serving's messages are not installed.
    """
    if importlib.util.find_spec("tensorflow_serving") is None:
        raise ValueError(
            "`warm_up` needs tensorflow-serving-api: pip install "
            '"lambda_keras[export]". Received: warm_up=True'
        )


def write_warm_up_requests(
    version_directory: str | os.PathLike[str],
    model_name: str,
    preprocessing: RequestPreprocessing,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Path:
    """Writes requests of each signature at each batch size.

    What TensorFlow sets up when it first meets a shape would otherwise be
    waited for by the first who asks. A server loads no version of which a
    request for warming up fails.

    Args:
        version_directory: The SavedModel.
        model_name: The name that the model is served under.
        preprocessing: Of the model; says how large its images are.
        batch_sizes: How many images a request has.

    Returns:
        The path of the file, a TFRecord of `PredictionLog` messages.

    Raises:
        ValueError: If a batch would be empty, or if there are more requests
            than TensorFlow Serving takes.
        ModuleNotFoundError: If tensorflow-serving-api is not installed.

    Example:

    ```python
    write_warm_up_requests(
        "models/digits/1", "digits", RequestPreprocessing((8, 8, 1), "whole")
    )
    ```

    Reference:

    - [SavedModel Warmup](
      https://www.tensorflow.org/tfx/serving/saved_model_warmup)
    """
    # The messages alone: no other module needs this package.
    from tensorflow_serving.apis import predict_pb2
    from tensorflow_serving.apis import prediction_log_pb2

    inputs = list(_inputs(preprocessing))
    if not all(size >= 1 for size in batch_sizes):
        raise ValueError(
            "`batch_sizes` must be at least 1. "
            f"Received: batch_sizes={tuple(batch_sizes)}"
        )
    if len(inputs) * len(batch_sizes) > MAX_REQUESTS:
        raise ValueError(
            f"`batch_sizes` must be at most {MAX_REQUESTS // len(inputs)}, "
            f"for {MAX_REQUESTS} requests. "
            f"Received: {len(batch_sizes)} batch sizes"
        )
    path = Path(version_directory, REQUESTS_FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for batch_size in batch_sizes:
            for signature, name, value, dtype, shape in inputs:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = model_name
                request.model_spec.signature_name = signature
                request.inputs[name].CopyFrom(
                    # One value for all of a tensor: a batch of images takes
                    # no more room than its shape.
                    tf.make_tensor_proto(value, dtype, (batch_size, *shape))
                )
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(request)
                writer.write(log.SerializeToString())
    return path


def _inputs(
    preprocessing: RequestPreprocessing,
) -> Iterator[tuple[str, str, Any, tf.DType, tuple[int, ...]]]:
    """Yields signature, input, value, dtype and shape without the batch."""
    shape = preprocessing.image_shape
    yield IMAGES, "images", GREY, tf.float32, shape
    yield UINT8_IMAGES, "images", GREY, tf.uint8, shape
    picture = _picture(*shape)
    for encoded in (tf.io.encode_jpeg(picture), tf.io.encode_png(picture)):
        yield IMAGE_BYTES, "image_bytes", encoded.numpy(), tf.string, ()


def _picture(height, width, channels):
    """Draws what takes as long to decode as a photograph: smooth, with grain.

    Twice as high as the model's images, and as wide as photographs are.
    """
    blobs = tf.random.stateless_uniform((6, 8, channels), (0, 0), 0, 255)
    size = (2 * height, max(2 * height * 4 // 3, width))
    smooth = tf.image.resize(blobs, size, tf.image.ResizeMethod.BICUBIC)
    grain = tf.random.stateless_normal(smooth.shape, (0, 1), stddev=4.0)
    return tf.image.convert_image_dtype(
        tf.clip_by_value((smooth + grain) / 255, 0, 1), tf.uint8
    )
