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
    modules = (lambda_keras, keras, tf, np, sklearn)
    return {
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in modules},
    }


def device() -> dict[str, Any]:
    """What TensorFlow computes on: the first GPU, or the processor's cores."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        name = details.get("device_name", "GPU")
        return {"kind": "GPU", "name": name, "count": 1}
    # A container may have been given fewer than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return {"kind": "CPU", "name": _processor_name(), "count": cores}


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # Not Linux.
    return platform.processor() or platform.machine()
