import dataclasses

import pytest

from lambda_keras.benchmark.comparison import calibration
from lambda_keras.benchmark.comparison import compare
from lambda_keras.benchmark.comparison import fastest
from lambda_keras.benchmark.comparison import speed_ups
from tests.benchmark.model_records import CPU
from tests.benchmark.model_records import GPU
from tests.benchmark.model_records import TPU
from tests.benchmark.model_records import estimated
from tests.benchmark.model_records import failed
from tests.benchmark.model_records import measured

L50, B0 = "lambda_resnet_50@128", "efficientnet_b0@224"
L50_160, B1 = "lambda_resnet_50@160", "efficientnet_b1@240"


def only_rows(records):
    (rows,) = compare(records).values()
    return rows


def test_repeats_are_one_row_and_steps_are_not_repeats():
    (row,) = only_rows(measured(L50, 100.0, 108.0, 102.0))
    assert row.figures == [100.0, 108.0, 102.0]
    assert row.images_per_second == 102.0
    assert row.spread == pytest.approx(8 / 102)
    assert row.seconds == pytest.approx(1024 / 102)
    assert row.compile_seconds == 41.0
    assert row.errors == []
    # Within one process alone nothing is known of others.
    assert only_rows(measured(L50, 100.0))[0].spread is None


@pytest.mark.parametrize(
    "other",
    [
        {"mode": "infer"},
        {"precision": "float32"},
        {"engine": "tensorflow"},
        {"strategy": "mirrored"},
        {"input": "tfds:imagenette"},
        {"device": CPU},
        {"device": {**GPU, "count": 2}},
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_apart(other):
    records = measured(L50, 10.0) + measured(B0, 5.0, **other)
    first, second = compare(records).values()
    assert [row.candidate for row in first + second] == [L50, B0]
    assert not speed_ups(first) and not speed_ups(second)


def test_estimates_are_apart_from_measurements():
    real = measured(L50, 10.0, device=TPU, strategy="v3-1")
    setups = list(compare([*real, estimated(B0, 5.0)]))
    assert [setup.is_estimate for setup in setups] == [False, True]


def test_rows_stand_in_the_order_of_the_papers_curve():
    names = ["my:model@32", B1, B0, "lambda_resnet_152@224", L50]
    records = [each for name in names for each in measured(name, 1.0)]
    records += measured(L50, 1.0, batch_size=8)
    assert [(row.candidate, row.batch_size) for row in only_rows(records)] == [
        (L50, 8),
        (L50, 64),
        ("lambda_resnet_152@224", 64),
        (B0, 64),
        (B1, 64),
        ("my:model@32", 64),
    ]


def test_a_failure_is_a_row_without_a_figure():
    large, small = only_rows([failed(L50, 512), *measured(L50, 9.0)])[::-1]
    assert (large.images_per_second, large.errors) == (None, ["out of memory"])
    assert large.seconds is large.spread is large.flops_per_second is None
    assert (small.images_per_second, small.errors) == (9.0, [])
    # The search for a batch size times nothing that counts.
    (row,) = only_rows(measured(L50, 7.0, kind="ladder") + measured(L50, 9.0))
    assert row.figures == [9.0]


def test_other_records_are_no_part_of_it():
    (record,) = measured(L50, 9.0)
    assert compare([dataclasses.replace(record, benchmark="input")]) == {}


def test_what_was_found_in_a_cache_was_not_compiled():
    first, second = measured(L50, 9.0, 9.0)
    second = dataclasses.replace(
        second,
        settings={
            **second.settings,
            "compile_seconds": 0.1,
            "compile_cached": True,
        },
    )
    assert only_rows([first, second])[0].compile_seconds == 40.0
    assert only_rows([second])[0].compile_seconds is None


def test_the_share_of_the_peak_is_of_all_devices():
    device = {**GPU, "count": 2}
    (row,) = only_rows(measured(L50, 1000.0, device=device))
    assert row.flops_per_second == 2e12
    # An L4 has 121 TFLOP/s.
    assert row.peak_share == pytest.approx(2 / (2 * 121))
    (row,) = only_rows(measured(L50, 1000.0, precision="float32"))
    assert row.peak_share is None
    (row,) = only_rows(measured(L50, 1000.0, device=CPU))
    assert row.peak_share is None
    (row,) = only_rows(measured(L50, 1000.0, flops_per_image=None))
    assert row.flops_per_second is row.peak_share is None


def test_the_memory_is_what_the_greediest_repeat_took():
    records = measured(L50, 1.0) + measured(L50, 1.0, peak_memory_bytes=7)
    (row,) = only_rows([*records, *measured(L50, 1.0, peak_memory_bytes=None)])
    assert row.peak_memory_bytes == 3_000_000_000
    (row,) = only_rows(measured(L50, 1.0, peak_memory_bytes=None))
    assert row.peak_memory_bytes is None


def test_a_compilers_figures_are_of_one_device():
    (row,) = only_rows([estimated(L50, 800.0, batch_size=64, cores=8)])
    # 4e12 for the 8 images of a core.
    assert row.flops_per_image == 5e11
    assert row.flops_per_second == 800 * 5e11
    assert row.peak_share == pytest.approx(800 * 5e11 / (8 * 61.5e12))


def test_the_batch_size_that_counts_is_the_fastest():
    records = [
        *measured(L50, 10.0, batch_size=8),
        *measured(L50, 30.0, batch_size=16),
        *measured(L50, 20.0, batch_size=32),
        failed(L50, 64),
        failed(B0, 64),
    ]
    assert [row.batch_size for row in fastest(only_rows(records))] == [16]


def test_a_speed_up_has_the_spread_of_both():
    records = measured(L50, 98.0, 100.0, 103.0) + measured(B0, 50.0, 40.0, 45.0)
    (pair,) = speed_ups(only_rows(records))
    assert pair.efficientnet.candidate == B0
    assert pair.lambda_resnet.candidate == L50
    assert pair.ratio == pytest.approx(100 / 45)
    assert pair.limits == pytest.approx((98 / 50, 103 / 40))
    assert pair.paper_ratio == pytest.approx(0.091 / 0.054)


def test_speed_ups_are_of_what_was_measured():
    # Of the models that reach B0, the second has no figure.
    records = [*measured(L50, 20.0), failed(L50_160, 64), *measured(B0, 10.0)]
    (pair,) = speed_ups(only_rows(records))
    assert pair.lambda_resnet.candidate == L50
    assert not speed_ups(only_rows(measured(L50, 20.0) + measured(B1, 9.0)))


def test_calibration_is_for_a_core_of_the_papers_device():
    records = [
        # In the order of the curve, whichever it is here
        estimated(B0, 1700.0, batch_size=64),
        estimated(L50, 8 * 2500.0, batch_size=512, cores=8),
        estimated("lambda_resnet_50@224", 900.0),
        estimated(L50_160, None),
        estimated(B1, 9.0, mode="infer"),
        estimated(B1, 9.0, precision="float32"),
        dataclasses.replace(
            estimated(B1, 9.0), device={**TPU, "name": "TPU v4"}
        ),
        *measured(B1, 9.0, device=TPU),
    ]
    first, second = calibration(records)
    assert (first.candidate, first.batch_size) == (L50, 64)
    assert first.estimated == 2500.0
    assert first.paper == pytest.approx(1024 / 0.054 / 8)
    assert first.ratio == pytest.approx(2500 / 2370, abs=0.001)
    assert (second.candidate, second.ratio) == (
        B0,
        pytest.approx(1700 / (1024 / 0.091 / 8)),
    )
    # One for each model
    (best,) = calibration([estimated(B0, 1.0, 8), estimated(B0, 2.0, 16)])
    assert (best.estimated, best.batch_size) == (2.0, 16)


@pytest.mark.parametrize(
    ("record", "device", "text"),
    [
        (measured(L50, 1.0)[0], "NVIDIA L4", "training, bf16, JAX"),
        (
            measured(
                L50,
                1.0,
                device={**GPU, "count": 4},
                mode="infer",
                engine="tensorflow",
                strategy="mirrored",
                input="tfds:imagenette",
            )[0],
            "4 x NVIDIA L4",
            "inference, bf16, TensorFlow, mirrored, tfds:imagenette",
        ),
        (
            measured(L50, 1.0, device=CPU, precision="float32")[0],
            "2 cores of a processor",
            "training, float32, JAX",
        ),
        (estimated(L50, 1.0), "one TPU v3 core", "training, bf16, JAX, v3-1"),
        (
            estimated(L50, 1.0, cores=8),
            "8 x TPU v3 core",
            "training, bf16, JAX, v3-8",
        ),
        (
            dataclasses.replace(
                estimated(L50, 1.0), device={**TPU, "name": "TPU v5 lite"}
            ),
            "one TPU v5e",
            "training, bf16, JAX, v3-1",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_setup_in_words(record, device, text):
    (setup,) = compare([record])
    assert (setup.device_text, setup.text) == (device, text)
