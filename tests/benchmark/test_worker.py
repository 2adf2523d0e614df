"""What one measurement says is right."""

import itertools
import json
import os
import time
import types
from pathlib import Path

import keras
import numpy as np
import pytest

from lambda_keras.benchmark import engines
from lambda_keras.benchmark import hardware
from lambda_keras.benchmark import worker
from lambda_keras.benchmark.children import call_in_child
from lambda_keras.benchmark.engines import process_peak_memory
from lambda_keras.benchmark.hardware import find_hardware
from lambda_keras.benchmark.photographs import write_photographs
from lambda_keras.benchmark.worker import describe
from lambda_keras.benchmark.worker import measure
from lambda_keras.training.strategy import Distribution
from tests.benchmark.models import FLOPS
from tests.benchmark.models import LESS_SECONDS
from tests.benchmark.models import SECONDS

PLAIN = "tests.benchmark.models:plain@2"
SLEEPING = "tests.benchmark.models:sleeping@2"

jax_only = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="about JAX alone"
)


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_model_of_known_cost_is_measured_right(mode):
    for _ in range(3):
        figures = measure(SLEEPING, mode, 8, seconds=1.0)
        times = [8 / rate for rate in figures["rates"]]
        # Of the step that no other program held up: what is timed too much
        # is so in all of them.
        if min(times) < 1.05 * SECONDS:
            break
    assert SECONDS <= min(times) < 1.05 * SECONDS
    assert 3 <= len(times) <= 5
    rate = np.median(figures["rates"])
    assert figures["step_seconds"] == pytest.approx(np.median(times))
    assert figures["compile_seconds"] > 0
    flops = FLOPS * (3 if mode == "train" else 1)
    assert figures["flops_per_image"] == flops
    assert figures["flops_per_second"] == pytest.approx(flops * rate)
    # Kernels, offsets and scales; not the moving statistics.
    assert figures["parameters"] == 12 * 64 + 2 * 64 + 64 * 10 + 10
    json.dumps(figures)


def test_half_precision_and_the_share_of_the_peak(monkeypatch):
    h100 = find_hardware("NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(hardware, "find_hardware", lambda name: h100)
    given = {"mode": "infer", "batch_size": 2, "seconds": 0.01}
    half = measure(PLAIN, precision="bf16", **given)
    assert half["image_dtype"] == "bfloat16"
    achieved = half["flops_per_second"]
    assert half["peak_share"] == pytest.approx(achieved / 989e12)
    assert achieved == pytest.approx(np.median(half["rates"]) * FLOPS)
    single = measure(PLAIN, precision="float32", **given)
    assert single["image_dtype"] == "float32"
    assert single["flags"]["XLA_FLAGS"] == os.environ["XLA_FLAGS"]
    # Nobody has said what the peak is.
    assert single["peak_share"] is None


def test_on_a_processor_the_peak_of_memory_is_that_of_the_process():
    before = process_peak_memory()
    # As much as was free of it, and 100 million bytes.
    touched = np.ones(before - resident_memory() + 100_000_000, "int8")
    grown = process_peak_memory()
    assert grown - before == pytest.approx(100_000_000, rel=0.2)
    del touched
    assert process_peak_memory() == pytest.approx(grown, rel=0.01)
    figures = measure(PLAIN, "infer", 2, seconds=0.01)
    assert figures["peak_memory_of"] == "process"
    assert figures["peak_memory_bytes"] >= 0.99 * grown


def resident_memory():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_of_devices_that_can_tell_the_peak_of_memory_is_the_highest(
    monkeypatch,
):
    monkeypatch.setattr(worker, "create_engine", with_memory)
    figures = measure(PLAIN, "infer", 2, seconds=0.01)
    assert figures["peak_memory_of"] == "device"
    assert figures["peak_memory_bytes"] == 123


def with_memory(*arguments):
    engine = engines.create_engine(*arguments)
    engine.peak_memory = lambda: 123
    return engine


@pytest.mark.parametrize("error", [ValueError, AttributeError])
def test_a_model_that_cannot_be_counted_has_no_flops(error, monkeypatch):
    def refuse(model):
        raise error

    monkeypatch.setattr(worker, "count_flops", refuse)
    figures = measure(PLAIN, "infer", 2, seconds=0.01)
    assert figures["flops_per_image"] is None
    assert figures["flops_per_second"] is figures["peak_share"] is None
    assert figures["rates"]


@pytest.mark.parametrize(
    ("input", "warm_up", "rates"),
    [(None, 1.0, [8.0, 4.0, 2.0]), ("folder:x", 10.0, [3.0])],
    ids=["random images", "a data set"],
)
def test_steps_to_warm_up_do_not_count(input, warm_up, rates, monkeypatch):
    calls = []

    def timed(step, seconds, steps, least=3):
        calls.append((seconds, steps, least))
        return [0.25, 0.5, 1.25 if input else 1.0] if len(calls) == 2 else [9.0]

    monkeypatch.setattr(worker, "time_steps", timed)
    monkeypatch.setattr(worker, "_load", lambda *_: None)
    monkeypatch.setattr(
        worker, "_read", lambda dataset, model, arrays, _: iter([arrays])
    )
    figures = measure(PLAIN, "infer", 2, input=input)
    assert calls == [(warm_up, 50, 2), (10.0, 50, 3)]
    assert figures["rates"] == rates


def test_waiting_for_data_counts(monkeypatch):
    asked = []

    def read(dataset, model, arrays, distribution):
        for number in itertools.count():
            asked.append(time.perf_counter())
            # Several come at a time, as from a pipeline.
            time.sleep(0.2 if number % 2 else 0)
            yield arrays

    monkeypatch.setattr(worker, "_load", lambda *_: None)
    monkeypatch.setattr(worker, "_read", read)
    figures = measure(PLAIN, "infer", 4, input="folder:x", steps=10)
    (rate,) = figures["rates"]
    # Five of ten steps waited.
    assert 0.1 <= 4 / rate <= (time.perf_counter() - asked[-10]) / 10


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_real_pipeline_feeds_the_model(mode, tmp_path, monkeypatch):
    # Whose graph takes ten seconds to make, and is tested with the pipeline.
    monkeypatch.setattr(worker, "RANDAUGMENT", {})
    write_photographs(tmp_path, 40)
    source = f"folder:{tmp_path}"
    figures = measure(
        "tests.benchmark.models:plain@32",
        mode,
        4,
        precision="bf16",
        input=source,
        steps=4,
    )
    (rate,) = figures["rates"]
    assert figures["image_dtype"] == "bfloat16"
    # The mean of the steps, over which the reading is spread.
    assert figures["step_seconds"] == pytest.approx(4 / rate)


def test_no_image_counts_that_was_not_read(tmp_path):
    write_photographs(tmp_path, 40)
    dataset = worker._load(f"folder:{tmp_path}", None)
    count = len(dataset.train)
    size = count // 2 + 1

    def read(size, channels=3):
        arrays = (np.zeros((size, 8, 8, channels), "float32"),)
        model = types.SimpleNamespace(output_shape=(None, 10))
        return worker._read(dataset, model, arrays, Distribution())

    # One batch is full; what is left for a second one would be filled up.
    (first,), (second,) = itertools.islice(read(size), 2)
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match=f"from 1 to {count}.*={count + 1}"):
        read(count + 1)
    with pytest.raises(ValueError, match=r"3 channels.*a model of 1"):
        read(1, channels=1)


@jax_only
def test_who_reads_images_takes_nothing_of_a_gpu(monkeypatch):
    import tensorflow as tf

    hidden = []
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda *given: hidden.append(given)
    )
    with pytest.raises(ValueError, match="nowhere"):
        describe("none", input="folder:nowhere")
    assert hidden == [([], "GPU")]


def test_what_there_is_to_compute_with():
    described = describe("none")
    assert described["replicas"] == 1
    assert described["device"]["kind"] in ("CPU", "GPU", "TPU")
    assert described["versions"]["keras"] == keras.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "tpu", "tpu": "local"}, "`?strategy.* tpu|tpu.*left out"),
        ({"strategy": "none", "input": "digits"}, "must be of encoded images"),
        (
            {"strategy": "none", "input": "folder:nowhere"},
            "`input` must be.*must name a folder.*input=folder:nowhere",
        ),
        ({"strategy": "none", "models": ["nowhere:f@8"]}, "can be imported"),
    ],
)
def test_what_there_is_not_is_said_early(arguments, message):
    with pytest.raises(ValueError, match=message):
        describe(**arguments)


@pytest.mark.tf_only
def test_mirrored_devices_share_a_batch():
    # In a process of its own: one has room for one strategy.
    check_replicas(*call_in_child(f"{__name__}:measure_four_processors"))


@jax_only
def test_jax_needs_no_tensorflow():
    described, figures = call_in_child(
        "tests.benchmark.without_tensorflow:measure_plain"
    )
    assert figures["rates"]
    assert "jax" in described["versions"]
    assert "tensorflow" not in described["versions"]


@jax_only
def test_all_devices_of_jax_share_a_batch():
    # JAX is told at its start how many devices to make of a processor.
    answers = call_in_child(
        f"{__name__}:measure_mirrored",
        environment={
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4 "
            "--xla_backend_optimization_level=0",
        },
    )
    check_replicas(*answers)


def measure_four_processors():
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 4,
    )
    answers = measure_mirrored()
    with pytest.raises(ValueError, match=r"multiple of 4.*batch_size=6"):
        measure(PLAIN, "infer", 6, strategy="mirrored")
    return answers


def measure_mirrored():
    given = {"batch_size": 8, "strategy": "mirrored", "seconds": 0.01}
    model = "tests.benchmark.models:napping@2"
    return (
        describe("mirrored"),
        [measure(model, mode, **given) for mode in ("train", "infer")],
    )


def check_replicas(described, measured):
    assert described["replicas"] == 4
    # The images of all of them count. JAX sleeps once for all; TensorFlow
    # calls Python for one after the other.
    seconds = LESS_SECONDS * (1 if keras.backend.backend() == "jax" else 4)
    for figures in measured:
        assert figures["step_seconds"] >= seconds
        times = [8 / rate for rate in figures["rates"]]
        assert figures["step_seconds"] == pytest.approx(np.median(times))
