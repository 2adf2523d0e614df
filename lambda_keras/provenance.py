"""With what a figure was measured: software, device and processor."""

import os
import platform
import sys
from typing import Any

import keras

# What figures depend on, by the names of the modules.
_ALWAYS = ("lambda_keras", "keras", "numpy")
_ENGINES = {
    "tensorflow": ("tensorflow",),
    "jax": ("jax", "jaxlib", "libtpu"),
    "torch": ("torch",),
}
# Beside an engine: tf.data makes the batches that any of them trains on.
_OTHERS = ("tensorflow", "sklearn")


def versions() -> dict[str, str]:
    """Returns the versions of what this process' figures depend on.

    Returns:
        Versions by the names of modules: those that are loaded of the engine
        and of what feeds it.
    """
    engine = _ENGINES[keras.backend.backend()]
    # Asked of the modules: TensorFlow's has several distributions.
    modules = [
        sys.modules[name]
        for name in dict.fromkeys((*_ALWAYS, *engine, *_OTHERS))
        if name in sys.modules
    ]
    return {
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in modules},
    }


def device(count: int = 1) -> dict[str, Any]:
    """Returns what the engine computes on.

    Args:
        count: How many accelerators are in use.

    Returns:
        Kind, name and number: of accelerators, or of the processor's cores.
    """
    find = {
        "tensorflow": _tf_device,
        "jax": _jax_device,
        "torch": _torch_device,
    }
    kind, name = find.get(keras.backend.backend(), lambda: ("CPU", ""))()
    if kind != "CPU":
        return {"kind": kind, "name": name, "count": count}
    return processor()


def processor() -> dict[str, Any]:
    """Returns the processor and its cores, also where there are accelerators.

    Returns:
        Kind, name and number, as `device` does.
    """
    # A container may have been given fewer than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return {"kind": "CPU", "name": _processor_name(), "count": cores}


def _jax_device():
    import jax

    first = jax.devices()[0]
    return first.platform.upper(), first.device_kind


def _tf_device():
    import tensorflow as tf

    if tf.config.list_logical_devices("TPU"):
        return "TPU", "TPU"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return "GPU", details.get("device_name", "GPU")
    return "CPU", ""


def _torch_device():
    import torch

    if torch.cuda.is_available():
        return "GPU", torch.cuda.get_device_name(0)
    return "CPU", ""


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # Not Linux.
    return platform.processor() or platform.machine()
