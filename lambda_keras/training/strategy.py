"""What a run computes on: one device, several, or several machines."""

import contextlib
import os
import socket
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING
from typing import Any

import keras

from lambda_keras.data.dataset import Shard
from lambda_keras.messages import first_line
from lambda_keras.training.recipe import STRATEGIES

if TYPE_CHECKING:
    import tensorflow as tf

# Long enough for a far network, short enough to wait for.
CONNECT_SECONDS = 5


class Distribution:
    """One device, and the base of those that share the work.

    Build, compile, fit and evaluate within `scope()`: TensorFlow makes the
    variables of every device there, and JAX looks for the devices at every
    step. Leave `jit_compile` of `Model.compile` alone: what
    `tf.distribute` runs on a TPU is compiled anyhow, and elsewhere Keras
    cannot compile around it.

    Attributes:
        name: The strategy that it came from.
        num_replicas: How many devices share each batch.
        num_parts: Of how many parts, made one by one, a batch consists.
        is_remote: Whether batches are made on machines other than this one.
        is_chief: Whether this process writes what a run leaves behind.
    """

    num_replicas = 1
    num_parts = 1
    is_remote = False
    is_chief = True

    def __init__(self, name: str = "none"):
        self.name = name

    def scope(self) -> AbstractContextManager:
        """A context in which models are spread over the devices."""
        return contextlib.nullcontext()

    def distribute(self, make: "Callable[[Shard], tf.data.Dataset]") -> Any:
        """Makes the batches of every device.

        Args:
            make: Function of the part of each batch that is wanted.

        Returns:
            What `Model.fit`, `evaluate` and `predict` take.
        """
        return make(Shard())

    def check(self, batch_size: int, steps_per_execution: int = 1) -> None:
        """Raises a `ValueError` for settings that cannot be shared out."""
        if batch_size % self.num_replicas:
            raise ValueError(
                f"`batch_size` must be a multiple of {self.num_replicas}, the "
                f"number of devices. Received: batch_size={batch_size}"
            )

    def describe(self) -> str:
        """Says in a few words what computes."""
        return "one device"


class TensorFlowDistribution(Distribution):
    """The devices of a `tf.distribute` strategy.

    Args:
        name: What `strategy` is called.
        strategy: A `tf.distribute.Strategy`.
        is_remote: Whether its devices are on machines other than this one.
    """

    def __init__(
        self,
        name: str,
        strategy: "tf.distribute.Strategy",
        is_remote: bool = False,
    ):
        super().__init__(name)
        self.strategy = strategy
        self.num_replicas = strategy.num_replicas_in_sync
        self.num_parts = self.num_replicas
        self.is_remote = is_remote

    def scope(self) -> AbstractContextManager:
        return self.strategy.scope()

    def distribute(self, make: "Callable[[Shard], tf.data.Dataset]") -> Any:
        pieces = 1

        def make_shard(context):
            nonlocal pieces
            shard = shard_of(context)
            pieces = shard.pieces
            return make(shard)

        elements = self.strategy.distribute_datasets_from_function(make_shard)

        class Steps(type(elements)):  # type: ignore[misc]
            """Counts steps, which take an element for each replica."""

            @property
            def cardinality(self):
                count = super().cardinality
                # Negative where it is not known, or there is no end.
                return count // pieces if count > 0 else count

        # Keras knows such a dataset by the names of its classes, and takes
        # its elements for steps: a second evaluation would find no data.
        elements.__class__ = Steps
        return elements

    def check(self, batch_size: int, steps_per_execution: int = 1) -> None:
        import tensorflow as tf

        super().check(batch_size, steps_per_execution)
        # Keras loops over steps in a graph that replicas on threads of their
        # own cannot enter; a TPU has no such threads.
        if (
            isinstance(self.strategy, tf.distribute.MirroredStrategy)
            and self.num_replicas > 1
            and steps_per_execution > 1
        ):
            raise ValueError(
                "`steps_per_execution` must be 1 when several devices are "
                "mirrored: Keras cannot do more there. Received: "
                f"steps_per_execution={steps_per_execution}"
            )

    def describe(self) -> str:
        import tensorflow as tf

        (device, *_) = self.strategy.extended.worker_devices
        kind = tf.DeviceSpec.from_string(device).device_type
        return f"{self.num_replicas} x {kind} ({self.name})"


class JaxDistribution(Distribution):
    """All devices of all JAX processes, each with a part of every batch.

    Args:
        name: The strategy that it came from.
    """

    def __init__(self, name: str):
        import jax

        super().__init__(name)
        self.num_replicas = jax.device_count()
        self.num_parts = jax.process_count()
        self.is_chief = jax.process_index() == 0
        # A dataset is made for its process, so Keras is not to split it.
        self._data_parallel = keras.distribution.DataParallel(
            auto_shard_dataset=False
        )

    def scope(self) -> AbstractContextManager:
        return self._data_parallel.scope()

    def distribute(self, make: "Callable[[Shard], tf.data.Dataset]") -> Any:
        import jax

        return make(Shard(jax.process_index(), jax.process_count()))

    def describe(self) -> str:
        import jax

        kind = jax.default_backend().upper()
        text = f"{self.num_replicas} x {kind} ({self.name})"
        if jax.process_count() > 1:
            text += f", process {jax.process_index()} of {jax.process_count()}"
        return text


def keep_gpus_from_tensorflow() -> None:
    """Leaves all GPUs to another engine, if there is one.

    TensorFlow makes the batches only then, and would take their memory.
    """
    if keras.backend.backend() != "tensorflow":
        hide_gpus()


def hide_gpus() -> None:
    """Leaves all GPUs alone; call it before TensorFlow computes anything."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")


def create_distribution(
    strategy: str = "auto",
    tpu: str | None = None,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Distribution:
    """Finds the devices to compute on.

    Call it before anything is computed: TensorFlow connects to a TPU, and
    JAX to other processes, only at the start.

    Args:
        strategy: `"auto"`: a TPU, else all GPUs, else one device. `"tpu"`.
            `"mirrored"`: all devices of this machine. `"multiworker"`:
            several processes, on JAX. `"one_device"`; on TensorFlow by
            `OneDeviceStrategy`. `"none"`: one device without a strategy.
        tpu: On TensorFlow, a TPU's name, its address as `host:port`, or
            `"local"`; by default what the environment variable `TPU_NAME`
            says, else the machine's own.
        coordinator: For `"multiworker"`, `host:port` of the first process.
            What is not given is read from `KERAS_DISTRIBUTION_JOB_ADDRESSES`,
            `KERAS_DISTRIBUTION_NUM_PROCESSES` and
            `KERAS_DISTRIBUTION_PROCESS_ID`, or found by JAX, which knows TPU
            slices and some schedulers.
        num_processes: For `"multiworker"`, the number of processes.
        process_id: For `"multiworker"`, the number of this one, from 0.

    Returns:
        A `Distribution`.

    Raises:
        ValueError: If what is asked for is not there.

    Example:

    >>> create_distribution("none").num_replicas
    1
    """
    if strategy not in STRATEGIES:
        raise ValueError(
            f"`strategy` must be one of: {', '.join(STRATEGIES)}. "
            f"Received: strategy={strategy}"
        )
    if strategy == "none":
        return Distribution()
    engine = keras.backend.backend()
    if engine == "tensorflow":
        return _on_tensorflow(strategy, tpu)
    if tpu not in (None, "local"):
        raise ValueError(
            "`tpu` must be left out on an engine other than TensorFlow: the "
            f"TPU is that of the machine. Received: tpu={tpu}"
        )
    if engine == "jax":
        return _on_jax(strategy, (coordinator, num_processes, process_id))
    if strategy in ("auto", "one_device"):
        return Distribution()
    raise ValueError(
        f"`strategy` must be auto, one_device or none on {engine}. "
        f"Received: strategy={strategy}"
    )


def _on_tensorflow(strategy: str, tpu: str | None) -> Distribution:
    import tensorflow as tf

    tpu = tpu or os.environ.get("TPU_NAME")
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    if strategy == "multiworker":
        raise ValueError(
            "`strategy` cannot be multiworker on TensorFlow, where Keras "
            "cannot fit a model in several processes: set KERAS_BACKEND=jax. "
            f"Received: strategy={strategy}"
        )
    if strategy == "auto":
        if tpu or tf.config.list_physical_devices("TPU"):
            strategy = "tpu"
        elif num_gpus > 1:
            strategy = "mirrored"
        else:
            return Distribution()
    if strategy == "tpu":
        return TensorFlowDistribution(
            strategy, _connect(tpu or "local"), tpu not in (None, "local")
        )
    if strategy == "mirrored":
        return TensorFlowDistribution(
            strategy, tf.distribute.MirroredStrategy()
        )
    return TensorFlowDistribution(
        strategy,
        tf.distribute.OneDeviceStrategy("GPU:0" if num_gpus else "CPU:0"),
    )


def _connect(tpu: str) -> "tf.distribute.TPUStrategy":
    """Starts a TPU, or says in a line why it cannot."""
    import grpc
    import tensorflow as tf

    address = tpu
    host, colon, port = tpu.removeprefix("grpc://").rpartition(":")
    # TensorFlow itself would wait for minutes, or for ever.
    try:
        if colon:
            address = f"grpc://{host}:{port}"
            with grpc.insecure_channel(f"{host}:{port}") as channel:
                ready = grpc.channel_ready_future(channel)
                ready.result(timeout=CONNECT_SECONDS)
        elif tpu != "local":
            # Only Google's machines can look names up.
            host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
            socket.create_connection((host, 80), CONNECT_SECONDS).close()
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(
            address
        )
    # From `ImportError` to `tf.errors.OpError`, by what is missing.
    except Exception as error:
        reason = str(error) or f"no answer within {CONNECT_SECONDS} seconds"
        reason = textwrap.shorten(reason, width=100, placeholder="...")
        raise ValueError(
            f"`strategy` cannot be tpu: no TPU was found ({reason}). "
            f"Received: strategy=tpu, tpu={tpu}"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def shard_of(context: "tf.distribute.InputContext") -> Shard:
    """Says which part of every batch an input pipeline of TensorFlow makes."""
    return Shard(
        index=context.input_pipeline_id,
        count=context.num_input_pipelines,
        pieces=context.num_replicas_in_sync // context.num_input_pipelines,
    )


def _on_jax(strategy: str, processes: tuple) -> Distribution:
    import jax

    if strategy == "multiworker":
        try:
            keras.distribution.initialize(*processes)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                "`strategy` cannot be multiworker: "
                f"{first_line(error)} Received: "
                "coordinator={}, num_processes={}, process_id={}".format(
                    *processes
                )
            ) from error
    if strategy == "tpu" and jax.default_backend() != "tpu":
        raise ValueError(
            "`strategy` cannot be tpu: JAX found no TPU, but "
            f"{jax.default_backend().upper()}. Received: strategy=tpu"
        )
    # With `DataParallel` over one device, Keras would compile each step thrice.
    if strategy == "one_device" or jax.device_count() == 1:
        return Distribution("none" if strategy == "auto" else strategy)
    if strategy == "auto":
        strategy = "tpu" if jax.default_backend() == "tpu" else "mirrored"
    return JaxDistribution(strategy)
