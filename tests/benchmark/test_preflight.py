import dataclasses
import json

import pytest

from lambda_keras.benchmark.preflight import TrainingPlan
from lambda_keras.benchmark.preflight import find_largest
from lambda_keras.benchmark.preflight import read_estimate
from lambda_keras.benchmark.preflight import shipped_calibration
from lambda_keras.benchmark.records import append_records
from lambda_keras.benchmark.records import read_records
from tests.benchmark.tpu_programs import FITTING
from tests.benchmark.tpu_programs import GIB
from tests.benchmark.tpu_programs import TOO_LARGE
from tests.benchmark.tpu_programs import estimate_of


def test_the_roofline_is_the_greater_of_operations_and_memory():
    estimate = estimate_of(FITTING)
    assert estimate.compute_seconds == pytest.approx(0.010)
    assert estimate.memory_seconds == pytest.approx(0.020)
    assert estimate.roofline_seconds == pytest.approx(0.020)
    by_roofline = estimate.roofline_images_per_second
    assert by_roofline == pytest.approx(1024 / 0.020)
    busy = dataclasses.replace(FITTING, flops=1.97e13)
    assert estimate_of(busy).roofline_seconds == pytest.approx(0.100)


def test_a_core_of_a_v3_has_half_of_its_chip():
    core = estimate_of(dataclasses.replace(FITTING, topology="v3-8"))
    assert core.compute_seconds == pytest.approx(1.97e12 / 61.5e12)
    assert core.memory_seconds == pytest.approx(16.38e9 / 450e9)


def test_images_per_second_are_those_of_all_devices():
    estimate = estimate_of(FITTING)
    assert estimate.seconds == 0.025
    assert estimate.images_per_second == pytest.approx(1024 / 0.025)


@pytest.mark.parametrize("seconds", [-3.99, -3.0, -1.0, 0.0, 0.0005, 0.0179])
def test_less_than_the_roofline_is_no_estimate(seconds):
    program = dataclasses.replace(FITTING, optimal_seconds=seconds)
    assert estimate_of(program).seconds is None
    assert estimate_of(program).images_per_second is None


@pytest.mark.parametrize("seconds", [0.0181, 0.02, 0.5])
def test_from_the_roofline_on_it_is_one(seconds):
    program = dataclasses.replace(FITTING, optimal_seconds=seconds)
    assert estimate_of(program).seconds == seconds


@pytest.mark.parametrize(
    ("total", "unknown", "seconds"),
    [
        (-0.975, 1, 0.025),
        (-2.975, 3, 0.025),
        (-299.98, 300, 0.02),
        (-3.99, 4, None),
        (0.025, 0, 0.025),
        (1.025, 0, 1.025),
        (None, 0, None),
    ],
)
def test_operations_that_are_not_known_are_left_out(total, unknown, seconds):
    program = dataclasses.replace(FITTING, optimal_seconds=total)
    estimate = estimate_of(program)
    assert estimate.unknown_operations == unknown
    assert estimate.seconds == (seconds and pytest.approx(seconds))
    record = estimate.to_record()
    assert record.settings["unknown_operations"] == unknown
    assert record.settings["optimal_seconds"] == total
    assert record.error == (None if seconds else "no estimate")
    if seconds:
        assert record.value == pytest.approx(1024 / seconds)


def test_of_long_steps_it_is_not_known_how_many_are_left_out():
    # 0.7 s without one operation, or 1.7 s without two
    long = dataclasses.replace(FITTING, bytes=0.6 * 819e9)
    total = dataclasses.replace(long, optimal_seconds=-0.3)
    assert estimate_of(total).seconds is None
    total = dataclasses.replace(long, optimal_seconds=0.7)
    assert estimate_of(total).seconds == 0.7


def test_loops_count_once_so_there_is_no_estimate():
    estimate = estimate_of(dataclasses.replace(FITTING, loops=1))
    assert estimate.seconds is None
    record = estimate.to_record()
    assert (record.error, record.values) == ("no estimate", ())


def test_maxtexts_formula():
    # arguments 1 + outputs 2 + temporary 3 - alias 0.5
    assert estimate_of(FITTING).maxtext_bytes == 5.5 * GIB


def test_a_plan_takes_hours_and_costs_what_its_chips_cost():
    plan = TrainingPlan("mine", 90, 4096, 1_281_167, price=1.2)
    assert plan.hours(10_000.0) == pytest.approx(90 * 1_281_167 / 3.6e7)
    assert plan.cost(hours=3.0, chips=4) == pytest.approx(14.4)
    # Half a chip, for a core by itself
    assert plan.cost(hours=3.0, chips=0.5) == pytest.approx(1.8)


def search(largest, start):
    """Returns what is found, and what was tried."""
    tried = []

    def fits(size):
        tried.append(size)
        return size <= largest

    return find_largest(fits, start=start, most=1024), tried


@pytest.mark.parametrize("largest", [1, 31, 32, 63, 64, 100, 128, 1000])
@pytest.mark.parametrize("start", [1, 32, 128])
def test_the_largest_that_fits_is_found(largest, start):
    step = 1 if largest < 64 else 8
    found = largest - largest % step
    size, tried = search(largest, start)
    assert size == found
    assert tried[0] == start
    # No size is compiled twice, and it is proven that more is too many.
    assert len(set(tried)) == len(tried)
    assert {found, found + step} <= set(tried)
    assert len(tried) <= 17


@pytest.mark.parametrize("start", [65, 100, 105])
def test_a_start_between_the_steps_loses_no_more_than_a_step(start):
    for largest in range(64, 260):
        size, tried = search(largest, start)
        assert largest - 8 < size <= largest
        assert len(set(tried)) == len(tried)


def test_a_search_ends_where_it_is_told_to():
    assert find_largest(lambda size: True, start=16, most=100) == 100
    assert find_largest(lambda size: True, start=200, most=100) == 100
    assert find_largest(lambda size: False, start=16, most=100) is None


def test_a_record_says_that_it_is_an_estimate():
    record = estimate_of(FITTING, candidate="lambda_resnet_50@128").to_record()
    assert record.benchmark == "preflight"
    assert record.name == "lambda_resnet_50@128"
    assert record.unit == "images/s"
    assert record.values == pytest.approx((1024 / 0.025,))
    assert record.error is None
    assert record.batch_size == 1024
    assert record.device == {
        "kind": "TPU",
        "name": "TPU v5 lite",
        "count": 8,
        "compiled_only": True,
    }
    assert record.versions["libtpu"] == "4.5.6"
    assert record.versions["jax"] == "1.2.3"
    expected = {
        "estimate": True,
        "mode": "train",
        "precision": "bf16",
        "topology": "v5e-8",
        "fits": True,
        "estimated_seconds": 0.025,
        "flops": 1.97e12,
        "bytes": 16.38e9,
        "peak_memory_bytes": 4 * GIB,
        "temporary_memory_bytes": 3 * GIB,
        "compile_seconds": 61.0,
        "compile_cached": False,
        "libtpu": "4.5.6",
        "collectives": FITTING.collectives,
    }
    assert expected.items() <= record.settings.items()
    assert record.settings["roofline_seconds"] == pytest.approx(0.020)


@pytest.mark.parametrize(
    ("program", "error"),
    [
        (TOO_LARGE, "does not fit"),
        (dataclasses.replace(FITTING, optimal_seconds=-1.0), "no estimate"),
    ],
)
def test_a_record_says_why_it_has_no_value(program, error):
    record = estimate_of(program).to_record()
    assert record.values == ()
    assert record.error == error
    assert record.settings["estimated_seconds"] is None
    assert json.loads(record.to_json())["value"] is None


@pytest.mark.parametrize("program", [FITTING, TOO_LARGE])
def test_an_estimate_is_read_as_it_was_written(program, tmp_path):
    estimate = estimate_of(program, mode="infer", precision="float32")
    append_records(tmp_path / "records.jsonl", [estimate.to_record()])
    (record,) = read_records(tmp_path / "records.jsonl")
    again = read_estimate(record)
    bare = dataclasses.replace(program, versions={})
    assert again == dataclasses.replace(estimate, program=bare)


def test_estimates_are_held_against_the_paper(tmp_path):
    assert shipped_calibration(tmp_path) == []
    assert shipped_calibration(tmp_path / "missing") == []
    core = dataclasses.replace(FITTING, topology="v3-1", optimal_seconds=0.1)
    known = estimate_of(core, 40, candidate="lambda_resnet_152@256")
    other = estimate_of(core, 40, candidate="mine:own@256")
    (tmp_path / "v3").mkdir()
    append_records(
        tmp_path / "v3" / "records.jsonl",
        [known.to_record(), other.to_record()],
    )
    (row,) = shipped_calibration(tmp_path)
    assert row.candidate == "lambda_resnet_152@256"
    assert row.estimated == pytest.approx(400)
    # 1,024 images in 0.485 s on 8 cores
    assert row.ratio == pytest.approx(400 / (1024 / 0.485 / 8))
