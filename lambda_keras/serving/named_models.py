"""Named models with weights from elsewhere, that predict without an export."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras

from lambda_keras.models import ModelSpec
from lambda_keras.models import build_model
from lambda_keras.serving.images import choose_preprocessing
from lambda_keras.serving.prediction import BytesModel
from lambda_keras.serving.signatures import LABELS_FILE
from lambda_keras.serving.signatures import ServedModel
from lambda_keras.serving.signatures import write_labels
from lambda_keras.weights import describe_weights


def build_named_model(
    spec: ModelSpec,
    weights: str | os.PathLike[str],
    image_size: int | None = None,
) -> keras.Model:
    """Builds a model of as many classes as its weights have.

    Args:
        spec: The spec of the model.
        weights: `"imagenet"`, or a file of weights.
        image_size: Height and width of the images. By default that of the
            weights.

    Returns:
        A Keras model from images, pixels from 0 to 255, to probabilities.

    Raises:
        ValueError: If the weights cannot be read or are of another model.
        OSError: If they cannot be downloaded.
    """
    spec, classes, size, path = describe_weights(weights, spec)
    if classes is None:
        raise ValueError(
            "`weights` must be those of a model with a classifier. "
            f"Received: weights={weights}"
        )
    if image_size is not None:
        size = image_size, image_size
    return build_model(
        spec,
        input_shape=(*size, len(spec.mean)),
        classes=classes,
        weights=path,
    )


def serve_in_memory(
    model: keras.Model, class_names: Sequence[str] = (), top_k: int = 5
) -> BytesModel:
    """Gives a model what an export would give it, without one.

    Args:
        model: A Keras model, on TensorFlow, from one batch of images, pixels
            from 0 to 255, to probabilities.
        class_names: The names of the classes; by default their numbers.
        top_k: How many of the likeliest classes are named.

    Returns:
        A `BytesModel`, which shows the model what its spec says of an image.

    Raises:
        ValueError: If the model does not give probabilities.

    Example:

    ```python
    model = build_named_model(get_spec("LambdaResNet50TS"), "imagenet")
    served = serve_in_memory(model, imagenet_class_names())
    for prediction in served.predict([*find_inputs("photos").read()]):
        print(prediction.name, prediction.labels[0])
    ```
    """
    with tempfile.TemporaryDirectory() as scratch:
        labels = Path(scratch, LABELS_FILE)
        write_labels(labels, class_names, model.output_shape[-1])
        # It reads the file now, and not again.
        served = ServedModel(model, labels, choose_preprocessing(model), top_k)

    def serve(image_bytes):
        return served.serve_bytes(image_bytes)

    return BytesModel(serve, min(top_k, model.output_shape[-1]))
