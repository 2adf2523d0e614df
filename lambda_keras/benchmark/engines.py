"""What the engines do differently to place, compile, run and weigh a step."""

import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any
from typing import Protocol

import keras
import numpy as np

from lambda_keras.benchmark.steps import jax_step
from lambda_keras.benchmark.steps import tensorflow_step
from lambda_keras.training.strategy import Distribution

Batch = tuple[Any, ...]


class Engine(Protocol):
    """A step of a model on one engine.

    Attributes:
        compile_cached: Whether the compiled step was read from a file.
        jit_compile: Whether XLA compiles the step as a whole.
    """

    compile_cached: bool
    jit_compile: bool

    def place(self, batch: Batch) -> Batch:
        """Puts arrays of a global batch where the step reads them."""

    def receive(self, batch: Batch) -> Batch:
        """Makes a batch of tf.data one for the step."""

    def prepare(self, batch: Batch) -> float:
        """Compiles the step for batches like this one; returns seconds."""

    def run(self, batch: Batch) -> list[np.ndarray]:
        """Runs a step to its end; returns the results of each replica."""

    def peak_memory(self) -> int | None:
        """Returns the most bytes that a device had in use, if it can tell."""


def create_engine(
    model: keras.Model, mode: str, distribution: Distribution
) -> Engine:
    """Makes the step of a model on Keras' engine.

    Args:
        model: The model, made in the scope of the distribution.
        mode: `"train"` or `"infer"`.
        distribution: The devices.

    Returns:
        An `Engine`, to be used in the scope of the distribution.

    Raises:
        ValueError: If the engine is neither TensorFlow nor JAX.
    """
    engines: dict[str, Callable[..., Engine]] = {
        "tensorflow": TensorFlowEngine,
        "jax": JaxEngine,
    }
    name = keras.backend.backend()
    if name not in engines:
        raise ValueError(
            f"The engine must be one of: {', '.join(engines)}. "
            f"Received: KERAS_BACKEND={name}"
        )
    return engines[name](model, mode, distribution)


class JaxEngine:
    """A step on JAX, on one device or with the batch shared out."""

    jit_compile = True

    def __init__(self, model, mode, distribution):
        import jax

        self.compile_cached = False
        self._step = jax_step(model, mode)
        self._state = self._step.state
        self._compiled = None
        self._devices = jax.local_devices()[: distribution.num_replicas]

    def place(self, batch: Batch) -> Batch:
        import jax

        sharing = keras.distribution.distribution()
        if sharing is None:
            return tuple(map(jax.device_put, batch))
        return tuple(
            jax.device_put(
                array, sharing.get_data_layout(array.shape).backend_layout
            )
            for array in batch
        )

    def receive(self, batch: Batch) -> Batch:
        return self.place(tuple(map(np.asarray, batch)))

    def prepare(self, batch: Batch) -> float:
        import jax

        shardings = None
        if keras.distribution.distribution() is not None:
            # As Keras does. Else the compiler may spread the state otherwise
            # after the step than before.
            states = jax.tree.map(lambda array: array.sharding, self._state)
            shardings = (None, states)
        compiled = jax.jit(
            self._step.function, donate_argnums=0, out_shardings=shardings
        )
        started = time.perf_counter()
        lowered = compiled.lower(self._state, batch)
        events: list[str] = []
        jax.monitoring.register_event_listener(
            lambda event, **_: events.append(event)
        )
        self._compiled = lowered.compile()
        self.compile_cached = "/jax/compilation_cache/cache_hits" in events
        return time.perf_counter() - started

    def run(self, batch: Batch) -> list[np.ndarray]:
        outputs, self._state = self._compiled(self._state, batch)
        return [np.asarray(outputs)]

    def peak_memory(self) -> int | None:
        stats = [device.memory_stats() or {} for device in self._devices]
        peaks = [each.get("peak_bytes_in_use") for each in stats]
        return None if None in peaks else max(peaks)


class TensorFlowEngine:
    """A step on TensorFlow, on one device or under a strategy."""

    compile_cached = False

    def __init__(self, model, mode, distribution):
        self.jit_compile = model.jit_compile or distribution.name == "tpu"
        self._step = tensorflow_step(model, mode)
        self._strategy = model.distribute_strategy
        self._replicas = distribution.num_replicas

    def place(self, batch: Batch) -> Batch:
        import tensorflow as tf

        if not tf.distribute.has_strategy():
            return tuple(map(tf.constant, batch))
        devices = self._strategy.extended.worker_devices
        size = len(batch[0]) // self._replicas

        def part(array, context):
            number = context.replica_id_in_sync_group
            with tf.device(devices[number]):
                return tf.constant(array[number * size : (number + 1) * size])

        return tuple(
            self._strategy.experimental_distribute_values_from_function(
                functools.partial(part, array)
            )
            for array in batch
        )

    def receive(self, batch: Batch) -> Batch:
        return batch

    def prepare(self, batch: Batch) -> float:
        started = time.perf_counter()
        self.run(batch)
        first = time.perf_counter() - started
        # The first run makes the graph, compiles it, and is a step, too.
        others = []
        for _ in range(2):
            started = time.perf_counter()
            self.run(batch)
            others.append(time.perf_counter() - started)
        return max(0.0, first - statistics.median(others))

    def run(self, batch: Batch) -> list[np.ndarray]:
        outputs = self._step(batch)
        return [
            part.numpy()
            for part in self._strategy.experimental_local_results(outputs)
        ]

    def peak_memory(self) -> int | None:
        import tensorflow as tf

        peaks = []
        for kind in ("GPU", "TPU"):
            devices = tf.config.list_logical_devices(kind)
            for device in devices[: self._replicas]:
                try:
                    info = tf.config.experimental.get_memory_info(device.name)
                except (ValueError, tf.errors.OpError):
                    return None  # Not every device can tell.
                peaks.append(info["peak"])
        return max(peaks, default=None)


def process_peak_memory() -> int:
    """Returns the most memory, in bytes, that this process ever had in use."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                # Not `ru_maxrss`, which begins with that of the parent.
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # Not Linux.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if os.uname().sysname == "Darwin" else peak * 1024
