"""What a served model is asked and what it answers."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from lambda_keras.serving.images import NO_ANSWER
from lambda_keras.serving.images import OK
from lambda_keras.serving.images import STATUSES
from lambda_keras.serving.images import RequestPreprocessing
from lambda_keras.serving.images import read_images

IMAGES = "serving_default"
UINT8_IMAGES = "serving_uint8"
IMAGE_BYTES = "serving_bytes"

LABELS_FILE = "labels.txt"


class ServedModel(tf.Module):
    """A classifier with the functions that servers call.

    Each takes a batch of any size, also an empty one, and returns a dict:

    - `probabilities`: float32 `(images, classes)`;
    - `classes`: int32 `(images, top_k)`, the numbers of the likeliest classes,
      the likeliest first;
    - `scores`: float32 `(images, top_k)`, their probabilities;

    and for encoded images also

    - `labels`: string `(images, top_k)`, the names of these classes;
    - `status`: string `(images,)`, `"ok"` or what is wrong with an image. An
      image that is not ok has the classes -1, empty labels, and scores and
      probabilities 0.

    Args:
        model: A Keras model, on TensorFlow, from one batch of images, pixels
            from 0 to 255, to probabilities.
        labels_file: A text file with the name of one class per line.
        preprocessing: What is done to encoded images.
        top_k: How many classes to name.

    Raises:
        ValueError: If the model does not give probabilities.
    """

    def __init__(
        self,
        model: keras.Model,
        labels_file: str | os.PathLike[str],
        preprocessing: RequestPreprocessing,
        top_k: int = 5,
    ):
        super().__init__()
        check_classifier(model)
        shape, num_classes = tuple(model.input_shape), model.output_shape[-1]
        if not all(
            size in (None, given)
            for size, given in zip(shape[1:], preprocessing.image_shape)
        ):
            raise ValueError(
                "`preprocessing` must make what the model takes, images of "
                f"shape {shape[1:]}. Received: image_shape="
                f"{preprocessing.image_shape}"
            )
        if top_k < 1:
            raise ValueError(
                f"`top_k` must be at least 1. Received: top_k={top_k}"
            )
        # Not the model itself: as an attribute it would be taken up in the
        # SavedModel, with a second copy of its variables.
        self._predict = functools.partial(model, training=False)
        self._shape = shape
        self._variables = [variable.value for variable in model.variables]
        self._preprocessing = preprocessing
        self._top_k = min(top_k, num_classes)
        self._labels = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                os.fspath(labels_file),
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
            ),
            default_value="",
        )
        self.serve_images = tf.function(
            self._serve_images,
            input_signature=[tf.TensorSpec(shape, tf.float32, "images")],
            autograph=False,
        )
        self.serve_uint8_images = tf.function(
            lambda images: self.serve_images(tf.cast(images, tf.float32)),
            input_signature=[tf.TensorSpec(shape, tf.uint8, "images")],
            autograph=False,
        )
        self.serve_bytes = tf.function(
            self._serve_bytes,
            input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")],
            autograph=False,
        )
        self._check_probabilities()

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Returns what `tf.saved_model.save` takes, by names of signatures."""
        return {
            IMAGES: self.serve_images.get_concrete_function(),
            UINT8_IMAGES: self.serve_uint8_images.get_concrete_function(),
            IMAGE_BYTES: self.serve_bytes.get_concrete_function(),
        }

    def _serve_images(self, images):
        # Servers do not compare shapes with the signature, and reshaping makes
        # of one image of twice the size four.
        images = tf.ensure_shape(images, self._shape)
        count = tf.shape(images)[0]
        # Convolutions on a processor do not take an empty batch.
        is_empty = tf.cast(count == 0, tf.int32)
        images = tf.pad(images, [[0, is_empty], [0, 0], [0, 0], [0, 0]])
        probabilities = tf.cast(self._predict(images)[:count], tf.float32)
        scores, classes = tf.math.top_k(probabilities, self._top_k)
        return {
            "probabilities": probabilities,
            "classes": classes,
            "scores": scores,
        }

    def _serve_bytes(self, image_bytes):
        images, statuses = read_images(image_bytes, self._preprocessing)
        answers = self.serve_images(tf.cast(images, tf.float32))
        is_good = statuses == STATUSES.index(OK)
        # In half precision an unusual image may overflow.
        is_finite = tf.reduce_all(
            tf.math.is_finite(answers["probabilities"]), axis=-1
        )
        statuses = tf.where(
            is_good & ~is_finite, STATUSES.index(NO_ANSWER), statuses
        )
        is_good = (is_good & is_finite)[:, None]
        blank = {"probabilities": 0.0, "classes": -1, "scores": 0.0}
        answers = {
            name: tf.where(is_good, answer, blank[name])
            for name, answer in answers.items()
        }
        classes = tf.cast(answers["classes"], tf.int64)
        return answers | {
            "labels": self._labels.lookup(classes),
            "status": tf.gather(tf.constant(STATUSES), statuses),
        }

    def _check_probabilities(self):
        grey = tf.fill((1, *self._preprocessing.image_shape), 128.0)
        total = float(
            tf.reduce_sum(self.serve_images(grey)["probabilities"], axis=-1)[0]
        )
        # Half precision has three decimals.
        if not abs(total - 1) < 1e-2:
            raise ValueError(
                "`model` must give probabilities, which sum to 1. "
                f"Received: a sum of {total:.3g}"
            )


def check_classifier(model: keras.Model) -> None:
    """Raises an error unless a model can be served.

    Args:
        model: The model.

    Raises:
        ValueError: If it does not take one batch of images, of any size, to
            one batch of vectors.
    """
    # A model of a class of its own has none of these.
    tensors = [
        *(getattr(model, "inputs", None) or ()),
        *(getattr(model, "outputs", None) or ()),
    ]
    shapes = [tuple(tensor.shape) for tensor in tensors]
    # One tensor may be in a list or a dict, which `ServedModel` does not open.
    output = getattr(model, "output", None)
    if (
        [len(shape) for shape in shapes] != [4, 2]
        or isinstance(output, (list, tuple, dict))
        or shapes[0][0] is not None
        # With fewer than two classes there is nothing to tell apart.
        or shapes[1][1] < 2
    ):
        raise ValueError(
            "`model` must be functional or sequential, and give one vector of "
            "probabilities per image, in batches of any size. "
            f"Received: model={model.name}, with the shapes {shapes}"
        )


def write_labels(
    path: str | os.PathLike[str], class_names: Sequence[str], num_classes: int
) -> None:
    """Writes the names of the classes, one per line.

    Args:
        path: The file.
        class_names: The names, in the order of the classes; where there are
            none, their numbers are written.
        num_classes: How many the model has.

    Raises:
        ValueError: If there are not as many, or if a name has several lines.
    """
    names = list(class_names) or [str(index) for index in range(num_classes)]
    if len(names) != num_classes:
        raise ValueError(
            f"`class_names` must be one for each of {num_classes} classes. "
            f"Received: {len(names)} names"
        )
    for name in names:
        # TensorFlow takes no empty line either.
        if name.splitlines() != [name]:
            raise ValueError(
                f"A name of a class must be a line. Received: {name!r}"
            )
    try:
        text = "".join(f"{name}\n" for name in names).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Names of classes must be text. Received: {error.object!r}"
        ) from error
    Path(path).write_bytes(text)
