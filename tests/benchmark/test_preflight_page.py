import dataclasses

import pytest

from lambda_keras.benchmark.comparison import Calibration
from lambda_keras.benchmark.preflight import TrainingPlan
from lambda_keras.benchmark.preflight_page import fit_line
from lambda_keras.benchmark.preflight_page import page
from lambda_keras.benchmark.preflight_page import suite_page
from tests.benchmark.tpu_programs import FITTING
from tests.benchmark.tpu_programs import TOO_LARGE
from tests.benchmark.tpu_programs import estimate_of

PLAN = TrainingPlan("paper_350ep", 350, 4096, 1_281_167, price=1.2)
CALIBRATIONS = [
    Calibration("lambda_resnet_50@128", 64, 2500.0, 2370.0),
    Calibration("lambda_resnet_152@256", 32, 285.0, 264.0),
    Calibration("efficientnet_b7@600", 16, 37.0, 21.0),
]


def lines_of(*arguments):
    """The page's lines, by their first words."""
    text = page(*arguments)
    lines = [line.strip().split("  ") for line in text.splitlines()]
    return {
        line[0]: [cell.strip() for cell in line[1:] if cell.strip()]
        for line in lines
    }


def test_the_page_says_what_each_number_is():
    lines = lines_of(estimate_of(FITTING, candidate="mine:own@256"), [], PLAN)
    assert "mine:own@256: one training step of 1,024 images in bf16" in lines
    assert "v5e-8: 8 chips of TPU v5e, 128 images each" in lines
    how = "jax 1.2.3 and libtpu 4.5.6: compiled here in 61 s; no TPU took part"
    assert how in lines
    fits = "It fits: 4.00 GiB of a chip's 16.00 GiB, 12.00 GiB (75%) are left."
    assert fits in lines
    assert lines["Memory"] == ["per chip"]
    assert lines["peak"] == ["4.00 GiB", "what must fit"]
    assert lines["temporary"][0] == "3.00 GiB"
    assert lines["arguments"][0] == "1.00 GiB"
    assert lines["MaxText's formula"][0] == "5.50 GiB"
    assert lines["floating-point operations"] == ["1.97 TFLOP"]
    assert lines["bytes read and written"] == ["16.38 GB"]
    assert lines["40 all-reduce"] == ["120.00 MB", "between devices"]
    assert lines["operations at peak"] == ["10.00 ms", "197 TFLOP/s of bf16"]
    assert lines["bytes at peak"] == ["20.00 ms", "819 GB/s"]
    assert lines["roofline"] == ["20.00 ms", "the greater of the two"]
    assert lines["compiler's estimate"] == ["25.00 ms", "40% of peak FLOP/s"]
    assert lines["Images per second"] == ["estimate", "by roofline"]
    assert lines["a chip"] == ["5,120", "6,400"]
    assert lines["all of v5e-8"] == ["40,960", "51,200"]


def test_the_plan_is_counted_in_hours_and_money():
    text = page(estimate_of(FITTING), [], PLAN)
    title = (
        "Recipe paper_350ep: 350 epochs of 1,281,167 images; its own batches"
    )
    assert f"{title} have 4,096\n" in text
    lines = lines_of(estimate_of(FITTING), [], PLAN)
    # 350 * 1,281,167 / 40,960 images a second, in hours; on 8 chips
    assert lines["hours"] == ["3.0", "by the estimate"]
    assert lines["chip-hours"] == ["24.3"]
    assert lines["cost"] == ["29.19", "at 1.2 a chip-hour"]
    without = PLAN._replace(price=None, batch_size=1024)
    text = page(estimate_of(FITTING), [], without)
    assert "cost" not in text and "its own batches" not in text
    assert "Recipe" not in page(estimate_of(FITTING), [])


def test_two_cores_of_a_chip_share_it():
    program = dataclasses.replace(FITTING, topology="v3-8", optimal_seconds=0.1)
    lines = lines_of(estimate_of(program), [])
    assert "v3-8: 8 cores of TPU v3, 128 images each" in lines
    assert lines["Memory"] == ["per core", "per chip"]
    assert lines["peak"][:2] == ["4.00 GiB", "8.00 GiB"]
    assert lines["floating-point operations"] == ["1.97 TFLOP", "3.94 TFLOP"]
    # Both at the same time
    assert lines["compiler's estimate"][0] == "100.00 ms"
    assert lines["compiler's estimate"][1].endswith("of peak FLOP/s")
    assert lines["a core"][0] == "1,280"
    assert lines["a chip"][0] == "2,560"
    assert lines["all of v3-8"][0] == "10,240"


def test_one_core_is_not_multiplied():
    program = dataclasses.replace(
        FITTING, topology="v3-1", optimal_seconds=0.1, collectives={}
    )
    lines = lines_of(estimate_of(program, 32), [])
    assert "v3-1: 1 core of TPU v3, 32 images each" in lines
    assert lines["Memory"] == ["per core"]
    assert lines["collectives"] == ["0", "devices exchange nothing"]
    assert lines["a core"][0] == "320"
    assert "a chip" not in lines and "all of v3-1" not in lines
    assert "DataParallel" not in page(estimate_of(program, 32), [])


def test_half_a_chip_is_called_so():
    core = dataclasses.replace(FITTING, topology="v2-1", optimal_seconds=0.1)
    lines = lines_of(estimate_of(core, 32), [], PLAN)
    assert lines["chip-hours"][1] == "of half a chip, which nobody rents out"
    assert lines_of(estimate_of(FITTING), [], PLAN)["chip-hours"] == ["24.3"]


def test_an_estimate_without_some_operations_is_marked():
    program = dataclasses.replace(FITTING, optimal_seconds=-5.975)
    lines = lines_of(estimate_of(program), [], PLAN)
    assert lines["compiler's estimate *"][0] == "25.00 ms"
    assert lines["Images per second"] == ["estimate *", "by roofline"]
    assert lines["all of v5e-8"] == ["40,960", "51,200"]
    assert lines["hours"] == ["3.0", "by the estimate *"]
    text = page(estimate_of(program), [])
    note = (
        "* The compiler's estimate without 6 operations that it does not know."
    )
    assert note in " ".join(text.split())
    assert "no estimate" not in text
    one = dataclasses.replace(FITTING, optimal_seconds=-0.975)
    assert "without 1 operation that" in page(estimate_of(one), [])
    assert "*" not in page(estimate_of(FITTING), [])


def test_without_an_estimate_the_roofline_is_given_and_why():
    program = dataclasses.replace(FITTING, optimal_seconds=-3.99)
    text = page(estimate_of(program), [], PLAN)
    lines = lines_of(estimate_of(program), [], PLAN)
    assert lines["compiler's estimate"] == ["no estimate", "see below"]
    assert lines["a chip"] == ["-", "6,400"]
    assert lines["hours"] == ["2.4", "by the roofline"]
    words = " ".join(text.split())
    assert "the compiler's sum is -3.99 s" in words
    assert "it adds -1 for every operation that it does not know" in words
    assert "*" not in text
    silent = dataclasses.replace(FITTING, optimal_seconds=None)
    text = page(estimate_of(silent), [])
    assert "There is no estimate of the time from this compiler." in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "batch statistics are those of the whole batch"),
        ({}, "keras.distribution.DataParallel"),
        ({}, "The time that data takes between chips is in no figure"),
        ({}, "stay on the chip are counted as if they went to memory, so a"),
        ({"loops": 1}, "has 1 loop, whose operations"),
        ({"loops": 3}, "has 3 loops, whose operations"),
        ({"loops": 3}, "there is no estimate of the time, and the roofline is"),
        ({"loops": 3, "optimal_seconds": -0.975}, "has 3 loops"),
        ({"cached": True}, "libtpu 4.5.6: compiled earlier (cached); no TPU"),
    ],
)
def test_what_limits_the_figures_is_said(changes, words):
    program = dataclasses.replace(FITTING, **changes)
    text = page(estimate_of(program), [])
    assert words in " ".join(text.split())
    assert max(map(len, text.splitlines())) < 80


def test_float32_has_the_peak_of_bfloat16():
    note = "in which JAX multiplies float32"
    assert note in page(estimate_of(FITTING, precision="float32"), [])
    assert note not in page(estimate_of(FITTING), [])


def test_estimates_are_called_so_beside_their_calibration():
    estimate = estimate_of(FITTING, candidate="lambda_resnet_152@256")
    words = " ".join(page(estimate, CALIBRATIONS).split())
    assert "compiler's count or estimate, not a measurement" in words
    assert "on TPU v3: 1.05 to 1.08 for LambdaResNets and 1.76 to" in words
    assert "for EfficientNets (this model: 1.08)." in words
    assert "this model" not in page(estimate_of(FITTING), CALIBRATIONS)
    assert "are read off a figure, to 0.02 s for 1,024 images" in words
    assert "which models its small points are is inferred" in words
    assert "On other TPUs, and for inference, nothing is known." in words
    assert "no record of it" in " ".join(page(estimate, []).split())


def test_what_does_not_fit_is_one_line():
    assert fit_line(estimate_of(TOO_LARGE)) == (
        "does not fit: 20.00 GiB are needed of a chip's 16.00 GiB, "
        "4.00 GiB too much"
    )


def test_where_memory_is_not_known_only_the_peak_is_said():
    program = dataclasses.replace(FITTING, available_bytes=None)
    assert fit_line(estimate_of(program)) == "fits: 4.00 GiB of a chip's memory"
    assert "fits: 4.00 GiB of a chip's memory." in page(
        estimate_of(program), []
    )


def test_a_suite_marks_estimates_without_some_operations():
    marked = dataclasses.replace(FITTING, optimal_seconds=-5.975)
    estimates = [
        estimate_of(FITTING, candidate="whole"),
        estimate_of(marked, candidate="partly"),
        estimate_of(TOO_LARGE, candidate="none"),
    ]
    _, table, note = suite_page(estimates, []).split("\n\n")
    assert table.count("5,120 *") == 1 and table.count("5,120") == 2
    assert note == (
        "* The compiler's estimate without operations that it does not know: "
        "6 of partly."
    )


def test_a_suite_is_a_table():
    core = dataclasses.replace(FITTING, topology="v3-1", optimal_seconds=0.1)
    unknown = dataclasses.replace(core, optimal_seconds=-1.0)
    huge = dataclasses.replace(TOO_LARGE, topology="v3-1")
    text = suite_page(
        [
            estimate_of(core, 32, candidate="lambda_resnet_152@256"),
            estimate_of(unknown, 16, candidate="mine"),
            estimate_of(huge, 8, candidate="other"),
        ],
        CALIBRATIONS,
    )
    words, table = text.split("\n\n")
    assert "One training step in bf16 on v3-1 (1 core of TPU v3)" in words
    assert "only the paper's were measured" in words
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
    ]
    assert dict(zip(header, rows[0])) == {
        "model": "lambda_resnet_152@256",
        "images/core": "32",
        "peak memory": "4.00 GiB",
        "estimated img/s": "320",
        "by roofline": "879",
        "paper's img/s": "264",
        "estimate/paper": "1.08",
    }
    assert rows[1] == ["mine", "16", "4.00 GiB", "-", "440", "-", "-"]
    assert rows[2] == ["other", "8", "does not fit", "-", "-", "-", "-"]
