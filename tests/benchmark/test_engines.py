import types

import keras
import numpy as np
import pytest

from lambda_keras.benchmark.engines import create_engine
from lambda_keras.benchmark.steps import batch_arrays
from lambda_keras.training.strategy import Distribution
from lambda_keras.training.strategy import TensorFlowDistribution
from tests.benchmark.models import plain
from tests.reference import as_numpy
from tests.replicas import two_replicas


@pytest.fixture
def model():
    return plain((2, 2, 3))


def test_a_step_ends_with_its_results_in_host_memory(model):
    engine = create_engine(model, "infer", Distribution())
    (images,) = batch_arrays(model, "infer", 4)
    # Before JAX is given the weights for good.
    expected = as_numpy(model(images))
    batch = engine.place((images,))
    assert engine.prepare(batch) > 0
    for _ in range(2):
        (outputs,) = engine.run(batch)
        assert type(outputs) is np.ndarray
        np.testing.assert_allclose(outputs, expected, rtol=1e-5)


def test_an_engine_that_is_not_there(model, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match=r"tensorflow, jax.*=torch"):
        create_engine(model, "infer", Distribution())


def test_a_processor_cannot_tell_its_peak_of_memory(model):
    engine = create_engine(model, "infer", Distribution())
    assert engine.peak_memory() is None


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="about JAX")
@pytest.mark.parametrize(("peaks", "peak"), [((5, 7), 7), ((5, None), None)])
def test_the_peak_of_jax_is_that_of_the_fullest_device(peaks, peak, model):
    engine = create_engine(model, "infer", Distribution())
    engine._devices = [
        types.SimpleNamespace(
            memory_stats=lambda peak=peak: (
                None if peak is None else {"peak_bytes_in_use": peak}
            )
        )
        for peak in peaks
    ]
    assert engine.peak_memory() == peak


@pytest.mark.tf_only
def test_the_peak_of_tensorflow_is_that_of_the_device(model, monkeypatch):
    import tensorflow as tf

    engine = create_engine(model, "infer", Distribution())
    devices = {"GPU": [types.SimpleNamespace(name="/device:GPU:0")]}
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda kind: devices.get(kind, [])
    )
    monkeypatch.setattr(
        tf.config.experimental,
        "get_memory_info",
        lambda name: {"current": 5, "peak": {"/device:GPU:0": 7}[name]},
    )
    assert engine.peak_memory() == 7


@pytest.mark.tf_only
def test_every_replica_gets_its_part_of_a_batch_on_its_device():
    distribution = TensorFlowDistribution("mirrored", two_replicas())
    with distribution.scope():
        model = plain((2, 2, 3))
        engine = create_engine(model, "train", distribution)
        arrays = batch_arrays(model, "train", 8)
        batch = engine.place(arrays)
    for array, placed in zip(arrays, batch, strict=True):
        parts = distribution.strategy.experimental_local_results(placed)
        np.testing.assert_array_equal(np.concatenate(parts), array)
        numbers = [part.device.rpartition(":")[2] for part in parts]
        assert numbers == ["0", "1"]
