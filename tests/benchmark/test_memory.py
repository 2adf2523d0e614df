import dataclasses

import keras
import pytest

from lambda_keras.benchmark import memory
from lambda_keras.benchmark.children import OUT_OF_MEMORY
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.memory import COMPILED
from lambda_keras.benchmark.memory import COUNTED
from lambda_keras.benchmark.memory import RUN
from lambda_keras.benchmark.memory import Figure
from lambda_keras.benchmark.memory import list_figures
from lambda_keras.benchmark.memory import measure
from lambda_keras.benchmark.settings import MemoryBenchmark

DEVICE = {"kind": "CPU", "name": "a processor", "count": 2}
COUNT = Figure("global", "layer", COUNTED, None, 64, 128, "float32")
TRAINING = Figure("global", "layer", RUN, "train", 64, 8, "float32")
COMPILING = Figure(
    *("lambda", "layer", COMPILED, "train", 4, 2, "float32", "v3-1")
)


@pytest.fixture
def child(monkeypatch):
    """Stands in for child processes: `answers` are returned or raised."""

    class Child:
        def __init__(self):
            self.answers, self.calls = [], []

        def call(self, function, **arguments):
            self.calls.append((function, arguments))
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    one = Child()
    monkeypatch.setattr(memory, "call_in_child", one.call)
    return one


def test_the_papers_counting_is_a_record():
    record = measure(COUNT, DEVICE)
    assert record.values == (64 * 2**30,)
    assert (record.benchmark, record.unit) == ("memory", "bytes")
    assert record.name == "Global self-attention"
    assert record.settings["counting"] == "paper"
    assert record.settings["spec"] == "global_attention_resnet_v1_50"
    # No device has counted it.
    assert record.device["kind"] == "none"


def test_a_run_is_a_record_of_its_device(child):
    child.answers = [{"peak_memory_bytes": 5, "peak_memory_of": "process"}]
    record = measure(TRAINING, DEVICE)
    assert record.values == (5,)
    assert record.device == DEVICE
    assert record.settings["peak_memory_of"] == "process"
    (call,) = child.calls
    assert call[0].endswith(":run_program")
    assert call[1]["environment"]["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_what_does_not_fit_is_a_record_too(child):
    child.answers = [ChildError(OUT_OF_MEMORY)]
    record = measure(TRAINING, DEVICE)
    assert (record.values, record.error) == ((), OUT_OF_MEMORY)
    child.answers = [ChildError("a segmentation fault")]
    with pytest.raises(ChildError, match="a segmentation fault"):
        measure(TRAINING, DEVICE)


def test_a_compiler_without_memory_says_nothing_of_the_tpu(child):
    child.answers = [ChildError(OUT_OF_MEMORY, "RESOURCE_EXHAUSTED: vmem")]
    record = measure(COMPILING, DEVICE)
    assert (record.values, record.error) == ((), OUT_OF_MEMORY)
    assert record.device["kind"] == "TPU"
    child.answers = [ChildError(OUT_OF_MEMORY, "killed")]
    with pytest.raises(ChildError, match="no memory to compile in"):
        measure(COMPILING, DEVICE)


def test_a_run_tries_half_as_many_until_it_fits(child):
    child.answers = [
        ChildError(OUT_OF_MEMORY),
        {"peak_memory_bytes": 5, "peak_memory_of": "process"},
    ]
    attempts = list(TRAINING.attempts())
    assert [figure.batch for figure in attempts] == [8, 4, 2, 1]
    assert list(COUNT.attempts()) == [COUNT]
    records = [measure(attempt, DEVICE) for attempt in attempts[:2]]
    assert TRAINING.find_what_fits([]) is None
    # There is more to try.
    assert TRAINING.find_what_fits(records[:1]) is None
    assert TRAINING.find_what_fits(records) == records[1]
    failed = [
        dataclasses.replace(records[0], batch_size=figure.batch)
        for figure in attempts
    ]
    assert TRAINING.find_what_fits(failed).error == OUT_OF_MEMORY


@pytest.mark.parametrize(
    "other",
    [
        *({"row": "axial"}, {"program": "stack"}, {"counting": RUN}),
        *({"mode": "infer"}, {"size": 8}, {"batch": 4}),
        *({"precision": "bf16"}, {"topology": "v5e-1"}),
    ],
)
def test_a_record_is_found_by_all_that_decides_it(other):
    record = measure(COUNT, DEVICE)
    assert COUNT.find([record]) == record
    assert dataclasses.replace(COUNT, **other).find([record]) is None


def test_a_row_has_what_there_is_to_say():
    figures = list_figures(
        MemoryBenchmark(programs="stack,layer,model", topology="v5e-1")
    )
    assert len(figures) == len(set(figures))

    def ways(row, program):
        return [
            (one.counting, one.mode, one.batch)
            for one in figures
            if (one.row, one.program) == (row, program)
        ]

    compiled, run = (COMPILED, "train", 128), (RUN, "train", 8)
    counted = (COUNTED, None, 128)
    assert ways("global", "stack") == [counted, compiled, run]
    assert ways("lambda_auto", "stack") == [compiled, run]
    assert ways("lambda_shared", "model") == [counted]
    assert ways("lambda_shared", "layer") == []
    assert ways("axial", "layer") == [
        *((COUNTED, None, 256), (COMPILED, "infer", 256)),
        *((COMPILED, "train", 256), run),
    ]
    tpus = {one.topology for one in figures if one.counting == COMPILED}
    assert tpus == {"v5e-1"}
    chosen = list_figures(MemoryBenchmark(rows="axial", figures="paper"))
    assert [one.program for one in chosen] == ["stack", "layer"]
    assert {(one.row, one.counting) for one in chosen} == {("axial", COUNTED)}


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="about JAX only")
@pytest.mark.tpu_backend
def test_programs_are_compiled_for_a_tpu(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    record = measure(COMPILING, DEVICE)
    assert record.settings["fits"]
    # One weight more than the input's 2 x 4 x 4 x 256 numbers there must be.
    assert record.value > 2**15
    assert record.settings["temporary_memory_bytes"] > 0
    assert record.device == {
        "kind": "TPU",
        "name": "TPU v3 core",
        "count": 1,
        "compiled_only": True,
    }
    too_large = dataclasses.replace(
        COMPILING, row="global", size=64, batch=256, mode="infer"
    )
    record = measure(too_large, DEVICE)
    assert not record.settings["fits"]
    # Its maps alone, in float32; the compiler may count copies of them.
    assert record.value > 128 * 2**30
    assert 15 < record.settings["available_bytes"] / 2**30 < 16
