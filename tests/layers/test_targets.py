import keras
import pytest

from lambda_keras.layers.targets import Target
from lambda_keras.layers.targets import current_target
from lambda_keras.layers.targets import target

ENGINE = keras.backend.backend()


def test_programs_are_for_this_machine_by_default():
    # The tests run on a processor, for which Keras has XLA compile on JAX.
    assert current_target() == Target("cpu", ENGINE, ENGINE == "jax")


def test_what_is_not_said_is_that_device_s_default():
    default = current_target()
    with target("tpu"):
        assert current_target() == Target("tpu", ENGINE, True)
        with target(jit_compile=False):
            assert current_target() == Target("tpu", ENGINE, False)
        with target("gpu", True):
            assert current_target() == Target("gpu", ENGINE, True)
    with target(jit_compile=True):
        assert current_target() == Target("cpu", ENGINE, True)
    assert current_target() == default


def test_a_chip_is_that_of_the_device_it_is_said_with():
    with target("tpu", chip="TPU v5 lite"):
        with target(jit_compile=True):
            assert current_target().chip == "TPU v5 lite"
        with target("tpu"):
            assert current_target().chip is None
    assert current_target().chip is None


def test_an_error_within_leaves_nothing_behind():
    default = current_target()
    with pytest.raises(ZeroDivisionError), target("tpu"):
        1 / 0  # noqa: B018
    assert current_target() == default


def test_there_are_three_devices():
    with pytest.raises(
        ValueError, match=r"`device` must be one of .* Received: device='npu'"
    ):
        with target("npu"):
            pass


def test_a_chip_without_a_device_is_a_mistake():
    with target("tpu", chip="TPU v5 lite"):
        assert current_target().chip == "TPU v5 lite"
    with pytest.raises(
        ValueError, match=r"`chip` needs a `device`\. Received: chip='TPU v5"
    ):
        with target(chip="TPU v5 lite"):
            pass
