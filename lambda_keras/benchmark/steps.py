"""The training and the inference step that are measured, on both engines."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from lambda_keras.training.optimization import SGD

MODES = ("train", "infer")

# Momentum and decay of ResNet-RS (arXiv 2103.07579), for all models alike.
_MOMENTUM, _L2, _LABEL_SMOOTHING = 0.9, 4e-5, 0.1


def compile_model(model: keras.Model, **arguments: Any) -> keras.Model:
    """Gives a model the loss and the optimizer that all are measured with.

    Args:
        model: A classifier that returns probabilities.
        **arguments: Further arguments of `Model.compile`.

    Returns:
        The model, whose optimizer has its variables.
    """
    model.compile(
        SGD(learning_rate=0.1, momentum=_MOMENTUM, l2=_L2),
        keras.losses.CategoricalCrossentropy(label_smoothing=_LABEL_SMOOTHING),
        **arguments,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def batch_arrays(
    model: keras.Model, mode: str, batch_size: int, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Makes a batch of random images and labels.

    Args:
        model: The model.
        mode: `"train"` for images and one-hot labels, `"infer"` for images.
        batch_size: The number of images.
        seed: Of the random numbers.

    Returns:
        Arrays; the images have the dtype that the model computes in.
    """
    generator = np.random.default_rng(seed)
    shape = (batch_size, *model.input_shape[1:])
    images = generator.integers(0, 256, shape, "uint8")
    images = images.astype(_image_dtype(model))
    if mode == "infer":
        return (images,)
    classes = model.output_shape[-1]
    labels = generator.integers(0, classes, batch_size)
    return images, np.eye(classes, dtype="float32")[labels]


def batch_shapes(
    model: keras.Model, mode: str, batch_size: int
) -> tuple[tuple[tuple[int, ...], Any], ...]:
    """Returns shape and dtype of each array that `batch_arrays` makes."""
    images = (batch_size, *model.input_shape[1:]), _image_dtype(model)
    if mode == "infer":
        return (images,)
    return images, ((batch_size, model.output_shape[-1]), np.dtype("float32"))


def _image_dtype(model):
    # As the input pipeline makes them for such a model.
    import ml_dtypes  # With every engine.

    name = model.dtype_policy.compute_dtype
    half = {"bfloat16": ml_dtypes.bfloat16}
    return np.dtype(half.get(name, "float32"))


class Step(NamedTuple):
    """A step and where it starts from.

    Attributes:
        function: Called as `function(state, batch)`; returns the loss (as
            Keras reports it: the mean of the steps so far) or the
            probabilities, and the state after the step.
        state: Lists of arrays, to be donated.
    """

    function: Callable[[Any, Any], tuple[Any, Any]]
    state: Any


def jax_step(model: keras.Model, mode: str) -> Step:
    """Makes the step that Keras compiles on the JAX engine.

    Args:
        model: A model; for training, one that `compile_model` returned.
        mode: One of `MODES`.

    Returns:
        A `Step`. Training computes the loss and its gradient and updates
        weights, batch statistics and the optimizer.

    Example:

    ```python
    step = jax_step(compile_model(model), "train")
    compiled = jax.jit(step.function, donate_argnums=0)
    loss, state = compiled(step.state, batch_arrays(model, "train", 8))
    ```
    """

    def values(variables):
        return [variable.value for variable in variables]

    weights = (
        values(model.trainable_variables),
        values(model.non_trainable_variables),
    )
    if mode == "infer":

        def infer(state, batch):
            outputs, _ = model.stateless_call(*state, *batch, training=False)
            return outputs, state

        return Step(infer, weights)

    def train(state, batch):
        logs, state = model.train_step(state, batch)
        return logs["loss"], state

    optimizer = values(model.optimizer.variables)
    return Step(train, (*weights, optimizer, values(model.metrics_variables)))


def tensorflow_step(
    model: keras.Model, mode: str
) -> Callable[[tuple[Any, ...]], Any]:
    """Makes the step that Keras runs on the TensorFlow engine.

    It runs on all replicas of the strategy that the model was made under, and
    is compiled by XLA where Keras does so by default: on an accelerator
    without a strategy, and on a TPU.

    Args:
        model: A model; for training, one that `compile_model` returned.
        mode: One of `MODES`.

    Returns:
        A function of a batch, or one for each replica. It returns the loss
        (the mean of the steps so far) or the probabilities of each replica.
    """
    import tensorflow as tf

    strategy = model.distribute_strategy

    def train(*batch):
        return model.train_step(batch)["loss"]

    def infer(images):
        return model(images, training=False)

    function = train if mode == "train" else infer
    return tf.function(
        lambda batch: strategy.run(function, args=batch),
        jit_compile=model.jit_compile,
        autograph=False,
    )
