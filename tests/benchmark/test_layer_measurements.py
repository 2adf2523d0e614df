"""The plan against the times of implementations that are committed.

Where one is not committed, on the larger maps, it takes so many operations or
bytes that it cannot be fastest.
"""

from pathlib import Path

import keras
import pytest

import lambda_keras
from lambda_keras.benchmark.layer_candidates import ENGINES
from lambda_keras.benchmark.layer_candidates import KERAS_RUNS
from lambda_keras.benchmark.layer_candidates import OURS
from lambda_keras.benchmark.layer_candidates import TENSORFLOW
from lambda_keras.benchmark.layer_candidates import find_candidate
from lambda_keras.benchmark.layer_reference import TRAINING
from lambda_keras.benchmark.layer_shapes import STANDARD_SHAPES
from lambda_keras.benchmark.layer_shapes import find_shape
from lambda_keras.benchmark.records import read_records
from lambda_keras.layers import LambdaLayer
from lambda_keras.layers.targets import target

RESULTS = Path(lambda_keras.__file__).parent / "benchmark/results/layer_cpu"
RUNS = [run for run in KERAS_RUNS if ENGINES[run] == keras.backend.backend()]


def measured():
    """By shape, mode and run: milliseconds of each implementation."""
    times = {}
    for record in read_records(RESULTS / "records.jsonl"):
        candidate = find_candidate(record.name)
        if candidate.kind == OURS and record.values:
            shape, mode = record.settings["shape"], record.settings["mode"]
            of_run = times.setdefault((shape, mode, candidate.run), {})
            # Of two that are the same program, `auto` and what it takes.
            name = record.settings["implementation"]
            of_run[name] = min(record.value, of_run.get(name, record.value))
    return times


TIMES = measured()


@pytest.mark.parametrize(
    ("name", "mode", "run"),
    [
        place
        for place, times in TIMES.items()
        if place[-1] in RUNS and len(times) > 1
    ],
)
def test_what_is_planned_was_fastest_or_nearly_so(name, mode, run):
    shape = find_shape(name)
    layer = LambdaLayer(**shape.layer_arguments)
    with target(jit_compile=run != TENSORFLOW):
        plan = layer.plan(shape.inputs_shape, training=mode == TRAINING)
    times = TIMES[name, mode, run]
    assert times[plan.implementation] <= 1.15 * min(times.values())


def test_every_standard_shape_was_measured_in_every_way():
    ways = {(mode, run) for _, mode, run in TIMES}
    assert len(ways) == 2 * len(KERAS_RUNS)
    assert set(TIMES) == {
        (name, *way) for name in STANDARD_SHAPES for way in ways
    }
