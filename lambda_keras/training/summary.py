"""What a run measured, with all that it takes to place the figures."""

import os
import platform
from typing import Any

import keras
import numpy as np
import sklearn
import tensorflow as tf

import lambda_keras


def versions() -> dict[str, str]:
    """The versions of what a run's figures depend on."""
    # Asked of the modules: TensorFlow's has several distributions.
    modules = [lambda_keras, keras, tf, np, sklearn]
    if keras.backend.backend() == "jax":
        import jax

        modules.append(jax)
    return {
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in modules},
    }


def device(count: int = 1) -> dict[str, Any]:
    """What the engine computes on: accelerators, or the processor's cores.

    Args:
        count: How many accelerators are in use.
    """
    find = _jax_device if keras.backend.backend() == "jax" else _tf_device
    kind, name = find()
    if kind != "CPU":
        return {"kind": kind, "name": name, "count": count}
    return processor()


def processor() -> dict[str, Any]:
    """The processor and its cores, also where there are accelerators."""
    # A container may have been given fewer than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return {"kind": "CPU", "name": _processor_name(), "count": cores}


def _jax_device():
    import jax

    first = jax.devices()[0]
    return first.platform.upper(), first.device_kind


def _tf_device():
    if tf.config.list_logical_devices("TPU"):
        return "TPU", "TPU"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return "GPU", details.get("device_name", "GPU")
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
