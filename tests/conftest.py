"""Sets the engine up before the first test module imports Keras."""

import os
from importlib.metadata import version
from importlib.util import find_spec

import pytest

# The oracle is compared in float64, which JAX otherwise rounds to float32.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On a GPU the two processes share its memory, and float32 means float32: the
# default TF32 keeps ten bits of the mantissa.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")


# Those whose XLA is known to know `OLDER_EMITTERS`.
KNOWN_VERSIONS = {"jaxlib": "0.10.", "tensorflow": "2.21."}
OLDER_EMITTERS = "--xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    runs_tests = config.option.dist == "no" or hasattr(config, "workerinput")
    if not runs_tests:
        check_engines()
        return

    os.environ.setdefault("XLA_FLAGS", xla_flags())
    import keras

    if keras.backend.backend() == "jax":
        # Has XLA read its flags, which tests for TPUs take away.
        keras.ops.zeros(())

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Four replicas for tf.distribute on any machine. TensorFlow refuses
        # to change this after its first operation.
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 4,
        )


def xla_flags():
    """Returns what has XLA compile in a fifth of the time.

    The tests wait for it to compile rather than for what it compiled.
    """
    flags = "--xla_backend_optimization_level=0"
    # A flag that it does not know ends a process.
    if all(
        find_spec(name) and version(name).startswith(known)
        for name, known in KNOWN_VERSIONS.items()
    ):
        flags += f" {OLDER_EMITTERS}"
    return flags


def check_engines():
    missing = [name for name in ("tensorflow", "jax") if not find_spec(name)]
    if missing:
        raise pytest.UsageError(
            "The tests run on TensorFlow and on JAX; not installed: "
            f"{', '.join(missing)}. Install both with `pip install -e "
            '".[tf,test]"`, or run one engine in this process, for example '
            "`KERAS_BACKEND=jax pytest --dist=no`."
        )


def pytest_collection_modifyitems(items):
    for item in items:
        for marker, (is_met, reason) in REQUIREMENTS.items():
            if item.get_closest_marker(marker) and not is_met():
                item.add_marker(pytest.mark.skip(reason=reason))


def is_tensorflow():
    import keras

    return keras.backend.backend() == "tensorflow"


def is_for_any_engine():
    # JAX has fewer tests, so that its process is done sooner.
    return os.environ.get("PYTEST_XDIST_WORKER") in (None, "jax")


def has_gpu():
    if is_tensorflow():
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    import jax

    return jax.default_backend() == "gpu"


REQUIREMENTS = {
    "tf_only": (is_tensorflow, "about TensorFlow only"),
    "tf_data": (is_for_any_engine, "runs once, beside JAX"),
    "reference": (lambda: find_spec("torch"), "torch is not installed"),
    "gpu": (has_gpu, "no GPU"),
    "tpu_backend": (lambda: find_spec("libtpu"), "libtpu is not installed"),
}


@pytest.fixture(autouse=True)
def flags_of_libtpu(request, monkeypatch):
    """Keeps from libtpu the flags that are for this machine's XLA."""
    if request.node.get_closest_marker("tpu_backend"):
        monkeypatch.delenv("XLA_FLAGS", raising=False)


@pytest.fixture(autouse=True)
def fresh_state():
    """Gives each test the same seeds and layer names, whatever ran before."""
    import keras

    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
