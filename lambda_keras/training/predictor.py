"""Trained models that predict, whatever file they were read from."""

import json
import os
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from lambda_keras.data.dataset import Shard
from lambda_keras.training.model_files import find_model
from lambda_keras.training.model_files import load_model
from lambda_keras.training.model_files import unreadable
from lambda_keras.training.run_directory import SUMMARY
from lambda_keras.training.strategy import Distribution

if TYPE_CHECKING:
    import tensorflow as tf


class PredictorError(ValueError):
    """A model, or the images for it, are not what they have to be."""


MakeBatches = Callable[[Shard], "tf.data.Dataset"]


class Predictor:
    """A trained model, of whatever file; see `load_predictor`.

    Attributes:
        path: The file or directory that it was read from.
        image_shape: Height, width and channels of its images; None where any
            will do.
        num_classes: The number of its classes.
        class_names: Their names, where the run that it is from says them.
        name: That of the Keras model, where it is known.
    """

    class_names: tuple[str, ...] = ()
    name = ""

    def __init__(
        self, path: Path, image_shape: tuple[int | None, ...], num_classes: int
    ):
        self.path = path
        self.image_shape = image_shape
        self.num_classes = num_classes

    def measure(
        self,
        make: MakeBatches,
        steps: int,
        build_metrics: Callable[[], list[keras.metrics.Metric]],
        callback: keras.callbacks.Callback,
        verbose: int = 0,
    ) -> dict[str, float]:
        """Measures metrics, weighted as the batches say.

        Args:
            make: Function of the part of each batch that is wanted.
            steps: The number of batches.
            build_metrics: Makes the metrics.
            callback: Told when a batch is done.
            verbose: As in `Model.evaluate`.

        Returns:
            The metrics by name.
        """
        raise NotImplementedError

    def predict(
        self,
        make: MakeBatches,
        steps: int,
        callback: keras.callbacks.Callback,
    ) -> list[np.ndarray]:
        """Predicts every example of some batches.

        Args:
            make: Function of the part of each batch that is wanted.
            steps: The number of batches.
            callback: Told when a batch is done.

        Returns:
            Probabilities `(examples, classes)` and, just as it came and in
            the same order, all that the batches have beside images.
        """
        raise NotImplementedError


class KerasPredictor(Predictor):
    """A Keras model on one device or several.

    Args:
        path: Where it was read from.
        model: The model, made in the scope of `distribution`.
        distribution: What computes.
    """

    def __init__(
        self, path: Path, model: keras.Model, distribution: Distribution
    ):
        outputs = model.output_shape
        if not isinstance(outputs, tuple) or len(outputs) != 2:
            raise ValueError(
                "`model` must give one vector of probabilities per image. "
                f"Received: model={path}, output_shape={outputs}"
            )
        super().__init__(path, tuple(model.input_shape[1:]), outputs[-1])
        self.name = model.name
        self.model = model
        self.distribution = distribution
        self._beside: keras.Model | None = None

    def measure(self, make, steps, build_metrics, callback, verbose=0):
        with self.distribution.scope():
            self.model.compile(
                loss="categorical_crossentropy",
                weighted_metrics=build_metrics(),
            )
            return self.model.evaluate(
                self.distribution.distribute(make),
                # A distributed dataset does not say how many it has.
                steps=steps,
                callbacks=[callback],
                verbose=verbose,
                return_dict=True,
            )

    def predict(self, make, steps, callback):
        with self.distribution.scope():
            if self._beside is None:
                self._beside = _pass_through(self.model, make(Shard()))
            return self._beside.predict(
                self.distribution.distribute(
                    lambda shard: make(shard).map(lambda *batch: (batch,))
                ),
                steps=steps,
                callbacks=[callback],
                verbose=0,
            )


def _pass_through(model, batches):
    """Adds outputs that are inputs, so that all come in the same order."""
    images, *others = [
        keras.Input(spec.shape[1:], dtype=spec.dtype.name)
        for spec in batches.element_spec
    ]
    outputs = [model(images), *others]
    if keras.distribution.distribution() is not None:
        outputs = [Everywhere()(output) for output in outputs]
    return keras.Model([images, *others], outputs)


class Everywhere(keras.layers.Layer):
    """Gives each device all of a batch.

    On JAX a process of several could not read the other processes' part.
    """

    def call(self, inputs):
        return keras.distribution.distribute_tensor(
            inputs,
            keras.distribution.TensorLayout(
                [None] * len(inputs.shape),
                keras.distribution.distribution().device_mesh,
            ),
        )

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class SavedModelPredictor(Predictor):
    """A SavedModel on one device; TensorFlow runs it, whatever the engine.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path):
        import tensorflow as tf

        try:
            loaded = tf.saved_model.load(os.fspath(path))
            self._serve = loaded.signatures["serving_default"]
            (self._input,) = self._serve.structured_input_signature[1]
            outputs = self._serve.structured_outputs
            # Those of `lambda-keras export` also name the likeliest classes.
            (self._output,) = {*outputs} & {"probabilities"} or outputs
        except Exception as error:
            raise unreadable(path, error) from error
        # The signature is a method of this object and does not keep it.
        self._loaded = loaded
        image = self._serve.structured_input_signature[1][self._input]
        classes = self._serve.structured_outputs[self._output].shape[-1]
        super().__init__(path, tuple(image.shape[1:]), classes)
        self._dtype = image.dtype
        self.name = _read_name(path)

    def measure(self, make, steps, build_metrics, callback, verbose=0):
        metrics = build_metrics()
        for index, (images, labels, weights) in enumerate(make(Shard())):
            predictions = self._run(images)
            for metric in metrics:
                metric.update_state(
                    labels.numpy(), predictions, weights.numpy()
                )
            callback.on_test_batch_end(index)
        return {metric.name: float(metric.result()) for metric in metrics}

    def predict(self, make, steps, callback):
        outputs = []
        for index, (images, *others) in enumerate(make(Shard())):
            outputs.append((self._run(images), *(x.numpy() for x in others)))
            callback.on_predict_batch_end(index)
        return [np.concatenate(parts) for parts in zip(*outputs)]

    def _run(self, images):
        import tensorflow as tf

        outputs = self._serve(**{self._input: tf.cast(images, self._dtype)})
        return outputs[self._output].numpy()


def _read_name(directory):
    """Returns what the export or the run that left a SavedModel says."""
    for path in directory / "model.json", directory.parent / SUMMARY:
        try:
            return str(json.loads(path.read_text())["model"])
        # Not there, or of another program.
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ""


def load_predictor(
    path: str | os.PathLike[str],
    distribution: Distribution,
    image_shape: tuple[int | None, ...],
    class_names: Sequence[str],
    architecture: str | None = None,
    raw_weights: bool = False,
) -> Predictor:
    """Loads a trained model from any file that a run leaves behind.

    Args:
        path: A run directory (its `best.keras`, before there is one its
            `last.keras`, else its newest checkpoint), a `.keras` file, a
            training checkpoint `step-*.npz`, the directory of a SavedModel,
            or a `.weights.h5` file.
        distribution: What is to compute.
        image_shape: Height, width and channels of the images; None where any
            size will do.
        class_names: One name per class; empty where they are not known.
        architecture: The name of the model, for a file of weights.
        raw_weights: Of a training checkpoint, take the weights themselves and
            not their averages.

    Returns:
        A `Predictor`.

    Raises:
        ValueError: If there is no such model, or if images of this shape or
            this number of classes are not what it was made for.

    Example:

    ```python
    predictor = load_predictor(
        "runs/mine", create_distribution(), (8, 8, 1), list("0123456789")
    )
    ```
    """
    path = find_model(path, architecture)
    if path.is_dir():
        if distribution.num_replicas > 1:
            raise ValueError(
                "`strategy` must be none or one_device for a SavedModel. "
                f"Received: strategy={distribution.name}, model={path}"
            )
        predictor: Predictor = SavedModelPredictor(path)
    else:
        with distribution.scope():
            model, known_names = load_model(
                path,
                image_shape,
                architecture=architecture,
                raw_weights=raw_weights,
            )
            predictor = KerasPredictor(path, model, distribution)
        predictor.class_names = known_names
    _check_fits(predictor, image_shape, tuple(class_names))
    return predictor


def _check_fits(predictor, image_shape, class_names):
    # Where either is None, any size will do.
    fits = len(image_shape) == len(predictor.image_shape) and all(
        None in sizes or sizes[0] == sizes[1]
        for sizes in zip(predictor.image_shape, image_shape)
    )
    if not fits:
        raise ValueError(
            f"`model` must be one for images of shape {image_shape}. Received: "
            f"model={predictor.path}, for images of shape "
            f"{predictor.image_shape}"
        )
    if class_names and len(class_names) != predictor.num_classes:
        raise ValueError(
            f"`model` must be one for {len(class_names)} classes. Received: "
            f"model={predictor.path}, for {predictor.num_classes} classes"
        )
    if class_names and predictor.class_names not in ((), class_names):
        raise ValueError(
            f"`model` must be one for the classes {show_some(class_names)}. "
            f"Received: model={predictor.path}, for the classes "
            f"{show_some(predictor.class_names)}"
        )


def show_some(names: Sequence[str]) -> str:
    """Returns the first of the names of classes, for messages."""
    return ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])
