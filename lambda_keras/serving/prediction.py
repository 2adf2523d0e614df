"""Labels for many images, by a model that takes their files."""

import dataclasses
import itertools
import os
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import tensorflow as tf

from lambda_keras.messages import first_line
from lambda_keras.serving.ahead import map_ahead
from lambda_keras.serving.prediction_inputs import EncodedImage
from lambda_keras.serving.signatures import IMAGE_BYTES

# What is used of the answers.
ANSWERS = ("classes", "labels", "scores", "status")
# While the network computes one batch, the images of the next are decoded.
BATCHES_AT_A_TIME = 2


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Args:
        name: What the image is called.
        status: `"ok"`, or why there is nothing below.
        classes: The numbers of the likeliest classes, the likeliest first.
        labels: Their names.
        scores: Their probabilities.
    """

    name: str
    status: str
    classes: Sequence[int]
    labels: Sequence[str]
    scores: Sequence[float]


class BytesModel:
    """A model that takes JPEG and PNG files.

    Args:
        serve: Function of `image_bytes` that returns what the signature for
            encoded images does; see `ServedModel`.
        top_k: How many classes it names.
    """

    def __init__(
        self, serve: Callable[..., Mapping[str, tf.Tensor]], top_k: int
    ):
        self._serve = serve
        self.top_k = top_k

    def predict(self, images: Sequence[EncodedImage]) -> list[Prediction]:
        """Predicts one batch.

        Args:
            images: The images, of which some may not have been read.

        Returns:
            A prediction for each.
        """
        encoded = tf.constant([image.content for image in images], tf.string)
        answers = self._serve(image_bytes=encoded)
        rows = zip(*(answers[name].numpy().tolist() for name in ANSWERS))
        return [
            _interpret(image, *answer) for image, answer in zip(images, rows)
        ]


def load_version(directory: str | os.PathLike[str]) -> BytesModel:
    """Loads an exported version.

    Args:
        directory: The directory of the version.

    Returns:
        A `BytesModel`.

    Raises:
        ValueError: If `lambda-keras export` has not written it, or if it
            cannot be read.
    """
    try:
        loaded = tf.saved_model.load(os.fspath(directory))
    # Of a broken one TensorFlow raises what comes, an `IndexError` too.
    except Exception as error:
        raise ValueError(
            "`model` must be a SavedModel that can be read "
            f"({first_line(error)}). Received: model={directory}"
        ) from error
    signature = loaded.signatures.get(IMAGE_BYTES)
    outputs = signature and signature.structured_outputs
    if not outputs or not {*ANSWERS} <= {*outputs}:
        raise ValueError(
            "`model` must be a version that `lambda-keras export` wrote, "
            f"with the signature {IMAGE_BYTES}. Received: model={directory}"
        )

    def serve(image_bytes):
        # A signature does not keep alive what it is of.
        return loaded.signatures[IMAGE_BYTES](image_bytes=image_bytes)

    return BytesModel(serve, outputs["classes"].shape[1])


def _interpret(image, classes, labels, scores, status):
    # The graph was given an empty string for it.
    status = image.status or status.decode()
    if classes[0] < 0:
        return Prediction(image.name, status, (), (), ())
    names = [label.decode(errors="replace") for label in labels]
    return Prediction(image.name, status, classes, names, scores)


def predict_images(
    model: BytesModel, images: Iterable[EncodedImage], batch_size: int
) -> Generator[list[Prediction]]:
    """Predicts images batch by batch, in order.

    While some batches are predicted, the next one is read, and the one before
    them may be written; no more than these are in memory.

    Args:
        model: The model.
        images: The images.
        batch_size: How many are predicted together.

    Yields:
        The predictions of each batch.

    Example:

    ```python
    model = load_version("models/mine/1")
    inputs = find_inputs("photos")
    for predictions in predict_images(model, inputs.read(), 32):
        print(predictions[0].name, predictions[0].labels[0])
    ```
    """
    return map_ahead(
        model.predict,
        _batches(images, batch_size),
        BATCHES_AT_A_TIME,
        ahead=BATCHES_AT_A_TIME,
    )


def _batches(images, size):
    images = iter(images)
    while batch := list(itertools.islice(images, size)):
        yield batch
