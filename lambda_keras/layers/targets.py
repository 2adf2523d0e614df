"""What a program is for: a device, an engine, and how it is compiled."""

import contextlib
import dataclasses
from collections.abc import Iterator

import keras

DEVICES = ("cpu", "gpu", "tpu")


@dataclasses.dataclass(frozen=True)
class Target:
    """What decides how fast a contraction is, beside its shapes.

    Attributes:
        device: `"cpu"`, `"gpu"` or `"tpu"`.
        engine: Keras' backend.
        jit_compile: Whether XLA compiles the program.
        chip: What JAX calls the TPU, if the program is for one alone; kernels
            are not divided between several.

    Raises:
        ValueError: If there is no such device.
    """

    device: str
    engine: str
    jit_compile: bool
    chip: str | None = None

    def __post_init__(self):
        if self.device not in DEVICES:
            raise ValueError(
                f"`device` must be one of {DEVICES}. "
                f"Received: device={self.device!r}"
            )


# Not of a thread: a strategy's replicas are traced in threads of their own.
_given: list[dict] = []


@contextlib.contextmanager
def target(
    device: str | None = None,
    jit_compile: bool | None = None,
    chip: str | None = None,
) -> Iterator[None]:
    """Says what the programs that are traced in a block are for.

    Nothing in a program that is being traced tells that it is compiled for
    another device than those of this machine, or, on TensorFlow, that XLA
    will compile it.

    Args:
        device: `"cpu"`, `"gpu"` or `"tpu"`; `None` is the engine's default.
        jit_compile: Whether XLA will compile it; `None` is as Keras does by
            default: on TensorFlow everywhere but on CPUs.
        chip: What JAX calls the one TPU that it is for, as `"TPU v5 lite"`.

    Example:

    >>> layer = LambdaLayer(128)
    >>> with target("tpu"):
    ...     plan = layer.plan((8, 64, 64, 128))
    """
    if chip is not None and device is None:
        raise ValueError(
            f"`chip` needs a `device`. Received: chip={chip!r}, device=None"
        )
    given = {"device": device, "jit_compile": jit_compile, "chip": chip}
    _given.append(given)
    try:
        current_target()  # Raises what is wrong before anything is traced.
        yield
    finally:
        # Not the last one: another thread's may have come since.
        _given[:] = [each for each in _given if each is not given]


def current_target() -> Target:
    """Returns what programs are traced for now."""
    engine = keras.backend.backend()
    device = jit_compile = chip = None
    for each in _given:
        if each["device"]:
            device, chip = each["device"], each["chip"]
        if each["jit_compile"] is not None:
            jit_compile = each["jit_compile"]
    if device is None:
        device = _default_device(engine)
        chip = _default_chip(engine, device)
    if jit_compile is None:
        jit_compile = engine == "jax" or (
            engine == "tensorflow" and device != "cpu"
        )
    return Target(device, engine, jit_compile, chip)


def _default_chip(engine, device):
    one = engine == "jax" and keras.distribution.distribution() is None
    if one and device == "tpu":
        import jax

        # The kernel's compiler takes no 64-bit indices.
        if jax.device_count() == 1 and not jax.config.jax_enable_x64:
            return jax.devices()[0].device_kind
    return None


def _default_device(engine):
    if engine == "jax":
        import jax

        platform = jax.default_backend()
        return platform if platform in DEVICES else "gpu"
    if engine == "tensorflow":
        import tensorflow as tf

        for kind in ("TPU", "GPU"):
            if tf.config.list_logical_devices(kind):
                return kind.lower()
        return "cpu"
    if engine == "torch":
        import torch

        return "gpu" if torch.cuda.is_available() else "cpu"
    return "cpu"
