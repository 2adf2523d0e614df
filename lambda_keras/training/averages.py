"""Moving averages of a model's weights."""

import contextlib
import functools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from lambda_keras.layers.precision import wide_dtype
from lambda_keras.training.checkpoints import to_host


class WeightAverages(keras.callbacks.Callback):
    """Keeps an exponential moving average of weights and batch statistics.

    After step `t` of the optimizer, each average becomes

    ```python
    m = min(momentum, (1 + t) / (10 + t))
    average = m * average + (1 - m) * weight
    ```

    so that the initial weights are soon forgotten. An evaluation within
    `Model.fit`, or one that is given this callback, sees the averages; the
    weights that training goes on with are back afterwards. `use_ema` of
    Keras' optimizers averages no batch statistics, and its averages replace
    the weights when `fit` ends.

    With `steps_per_execution` of N, averages see every N-th weights, with a
    momentum of `m**N`. Under `tf.distribute`, batch statistics of
    `lambda_keras.layers.BatchNormalization` are the same on all replicas;
    of those of Keras, the first replica's are averaged.

    Put it before callbacks that look at the averages.

    Args:
        momentum: Float above 0 and below 1. The part of an average that a
            step keeps.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> model.compile("sgd", "mse")
    >>> averages = WeightAverages(momentum=0.99)
    >>> x, y = np.ones((8, 3)), np.zeros((8, 2))
    >>> history = model.fit(x, y, callbacks=[averages], verbose=0)
    >>> with averages.applied():
    ...     model.save("averaged.keras")
    """

    def __init__(self, momentum: float):
        super().__init__()
        if not 0 < momentum < 1:
            raise ValueError(
                "`momentum` must be above 0 and below 1. "
                f"Received: momentum={momentum}"
            )
        self.momentum = momentum
        self._weights: list[keras.Variable] = []
        self._averages: list[keras.Variable] = []
        # What the averages took the place of, while they are in the model.
        self._replaced: list[np.ndarray] | None = None
        self._evaluates = False
        self._update: Callable[[], Any] | None = None

    def set_model(self, model: keras.Model) -> None:
        if self._averages and model is not self.model:
            raise ValueError(
                "`WeightAverages` must stay with one model. "
                f"Received: model={model.name}"
            )
        super().set_model(model)
        self._make_averages()

    def on_train_begin(self, logs=None):
        # An evaluation that failed has left the averages in the model.
        self.restore()
        self._make_averages()
        # Made anew, for the model may have been compiled anew.
        self._update = self._make_update() if self._averages else None

    def on_train_batch_end(self, batch, logs=None):
        # On JAX, this also brings the variables up to date.
        model = self.model
        if self._update is None and model.built:
            # There were no weights before the first batch.
            self._make_averages()
            self._update = self._make_update()
        self._update()

    def on_test_begin(self, logs=None):
        if self._averages and self._replaced is None:
            self._apply()
            self._evaluates = True

    def on_test_end(self, logs=None):
        if self._evaluates:
            self.restore()

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the averages into the model for the length of a block."""
        self._check_averages()
        is_outermost = self._replaced is None
        if is_outermost:
            self._apply()
        try:
            yield
        finally:
            if is_outermost:
                self.restore()

    def restore(self) -> None:
        """Puts back the weights that averages took the place of, if any."""
        if self._replaced is not None:
            _assign(self._weights, self._replaced)
        self._replaced = None
        self._evaluates = False

    def get_state(self) -> list[np.ndarray]:
        """Returns the averages, in the order of the model's weights."""
        self._check_averages()
        return [to_host(average) for average in self._averages]

    def set_state(self, state: Sequence[np.ndarray]) -> None:
        """Takes over averages that `get_state` returned.

        Args:
            state: One array per average.

        Raises:
            ValueError: If they are those of another model.
        """
        self._check_averages()
        expected = [tuple(average.shape) for average in self._averages]
        received = [np.shape(average) for average in state]
        if received != expected:
            raise ValueError(
                f"`state` must hold arrays of the shapes {expected}. "
                f"Received: shapes {received}"
            )
        _assign(self._averages, state)

    def _make_averages(self):
        if self._averages or not self.model.built:
            return
        self._weights = [
            weight
            for weight in self.model.weights
            # No counters.
            if keras.backend.is_float_dtype(weight.dtype)
        ]
        self._averages = [
            # In half precision, small changes would be lost.
            self._make_variable(weight, wide_dtype(weight.dtype))
            for weight in self._weights
        ]

    def _make_variable(self, value, dtype):
        scope = contextlib.nullcontext()
        if keras.backend.backend() == "tensorflow":
            scope = self.model.distribute_strategy.scope()
        with scope:
            return keras.Variable(to_host(value), dtype=dtype, trainable=False)

    def _check_averages(self):
        if not self._averages:
            raise ValueError(
                "`WeightAverages` must be given a model that is built, by "
                "`set_model` or by `fit`. Received: no weights"
            )

    def _apply(self):
        self._replaced = _copies(self._weights)
        _assign(self._weights, _copies(self._averages))

    def _make_update(self) -> Callable[[], None]:
        """Returns a function to call after one step or several."""
        optimizer = self.model.optimizer
        counted = self._make_variable(
            optimizer.iterations,
            keras.backend.standardize_dtype(optimizer.iterations.dtype),
        )
        moved: Callable = functools.partial(_moved, 1 - self.momentum)

        def update():
            steps, averages = moved(
                ops.convert_to_tensor(optimizer.iterations),
                ops.convert_to_tensor(counted),
                [ops.convert_to_tensor(weight) for weight in self._weights],
                [ops.convert_to_tensor(average) for average in self._averages],
            )
            counted.assign(steps)
            _assign(self._averages, averages)

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            strategy = self.model.distribute_strategy
            return tf.function(lambda: strategy.run(update))
        if keras.backend.backend() == "jax":
            import jax

            moved = jax.jit(moved)
        return update


def _copies(variables):
    """Copies what variables hold, which an evaluation on JAX overwrites."""
    arrays = [to_host(variable) for variable in variables]
    if keras.backend.backend() != "jax":
        return arrays
    import jax

    # To assign a NumPy array, JAX would compare it with that of every other
    # process, but a process may save a model alone.
    return [
        jax.make_array_from_callback(
            array.shape, variable.value.sharding, array.__getitem__
        )
        for array, variable in zip(arrays, variables)
    ]


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _moved(least_rate, steps, counted, weights, averages):
    """Returns the number of steps, and averages that have made them all."""
    step = ops.cast(steps, "float32")
    # `rate` is 1 - m: near 1, a momentum has few digits left.
    rate = ops.maximum(least_rate, 9 / (10 + step))
    passed = step - ops.cast(counted, "float32")
    rate = -ops.expm1(passed * ops.log1p(-rate))
    return ops.copy(steps), [
        average
        + ops.cast(rate, average.dtype)
        * (ops.cast(weight, average.dtype) - average)
        for weight, average in zip(weights, averages, strict=True)
    ]
