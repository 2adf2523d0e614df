import csv
import dataclasses
import re

import pytest

from lambda_keras.benchmark import report
from lambda_keras.benchmark.comparison import compare
from lambda_keras.benchmark.report import to_markdown
from lambda_keras.benchmark.report import write_report
from tests.benchmark.model_records import CPU
from tests.benchmark.model_records import estimated
from tests.benchmark.model_records import failed
from tests.benchmark.model_records import measured

L50, B0 = "lambda_resnet_50@128", "efficientnet_b0@224"
L350, B7 = "lambda_resnet_350@320", "efficientnet_b7@600"


@pytest.fixture(scope="module")
def records():
    return [
        *measured(L50, 98.0, 100.0, 102.0),
        *measured(B0, 48.0, 50.0, 51.0, flops_per_image=4e9),
        *measured("my:model@32", 1234.5, 1234.5, 1234.5),
        failed(L50, 1024),
        *measured(L50, 300.0, 303.0, 306.0, mode="infer"),
        estimated(L50, 2500.0, batch_size=64),
        estimated(B0, 1700.0, batch_size=64),
        estimated(B7, None),
    ]


@pytest.fixture(scope="module")
def written(records, tmp_path_factory):
    """A directory with a report, and what was returned."""
    directory = tmp_path_factory.mktemp("work") / "new" / "report"
    return directory, write_report(records, directory)


def tables(text):
    """Every table as a list of dictionaries; the cells are stripped."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in block.splitlines()
        ]
        found.append([dict(zip(lines[0], line)) for line in lines[2:]])
    return found


def section(text, heading):
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_measured_rows_are_all_there(records):
    text = section(
        to_markdown(compare(records)),
        "NVIDIA L4, training, bf16, JAX: measured",
    )
    rows, _ = tables(text)
    assert rows[0] == {
        "model": L50,
        "top-1, % (paper)": "77.4\N{DAGGER}",
        "batch": "64",
        "images/s": "100",
        "spread": "4.0%",
        "s/1,024 images": "10.2",
        "GFLOP/image": "2.00",
        "TFLOP/s": "0.200",
        "of peak": "0%",
        "memory, GB": "3.00",
        "compile, s": "41.0",
    }
    assert [row["model"] for row in rows] == [L50, B0, "my:model@32"]
    assert rows[2]["images/s"] == "1,234"
    assert rows[2]["top-1, % (paper)"] == "-"
    assert (
        f"Attempts without a figure:\n\n- {L50}, batch 1,024: out of memory"
        in text
    )
    assert "Measured on 2026-11-22 with python 3.11, keras 3.15" in text
    assert "random images that stay on the device. Repeats: 3, each" in text


def test_speed_ups_stand_beside_the_papers(records):
    _, pairs = tables(
        section(
            to_markdown(compare(records)),
            "NVIDIA L4, training, bf16, JAX: measured",
        )
    )
    (pair,) = pairs
    assert pair["EfficientNet"] == B0 and pair["LambdaResNet"] == L50
    assert pair["times as fast"] == "2.00"
    assert pair["of any two repeats"] == "1.92 to 2.12"
    assert pair["in the paper (training)"] == "1.69"


def test_estimates_are_called_estimates_and_held_against_the_paper(records):
    text = to_markdown(compare(records))
    text = section(
        text, "One TPU v3 core, training, bf16, JAX, v3-1: compiler's estimate"
    )
    rows, (pair,) = tables(text)
    assert rows[0]["images/s"] == "2,500"
    assert rows[0]["images/s per core, paper"] == "2,370"
    assert [row["estimate / paper"] for row in rows] == ["1.05", "1.21"]
    assert "spread" not in rows[0]
    assert pair["times as fast, compiler's estimate"] == "1.47"
    assert "of any two repeats" not in pair
    assert "Estimated on 2026-11-22" in text
    assert f"- {B7}, batch 32: no estimate" in text


def test_it_begins_with_whose_the_accuracies_are(records):
    text = to_markdown(compare(records))
    title, first, *_ = text.split("\n\n")
    assert title.startswith("# ")
    assert first.startswith("**No accuracy below was measured: nothing was")
    assert "quoted from LambdaNetworks (Bello, 2021, arXiv 2102.08602)" in first
    assert "4.4 times" in text and "3.2 times" in text and "9.5 times" in text
    assert "It was measured on no device." in text
    measured_alone = to_markdown(compare(records[:3]))
    assert "estimate" not in measured_alone.lower()


def test_accuracies_that_cannot_be_told_apart_are_marked():
    records = measured(L350, 2.0) + measured(B7, 1.0)
    text = to_markdown(compare(records))
    assert tables(text)[1][0]["top-1, %"] == "84.68\\*"
    assert "\\* Read off the figure to about 0.03 %" in text
    text = to_markdown(compare(measured(L50, 2.0) + measured(B0, 1.0)))
    assert "\\*" not in text


def test_memory_of_a_process_is_called_so():
    records = measured(L50, 1.0, device=CPU, peak_memory_of="process")
    ((row,),) = tables(to_markdown(compare(records)))
    assert row["memory of the process, GB"] == "3.00"


def test_repeats_and_days_that_differ_are_named():
    records = measured(L50, 1.0, 2.0) + measured(
        B0, 1.0, 2.0, 3.0, date="2026-11-24T00:00:00+00:00"
    )
    text = to_markdown(compare(records))
    assert "on 2026-11-22 to 2026-11-24 with" in text
    assert "Repeats: 2 to 3, each" in text


def test_the_csv_has_a_row_for_each_model_mode_precision_and_batch(written):
    with open(written[0] / "report.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["mode"], row["batch"]) for row in rows] == [
        (L50, "train", "64"),
        (L50, "train", "1024"),
        (B0, "train", "64"),
        ("my:model@32", "train", "64"),
        (L50, "infer", "64"),
        (L50, "train", "64"),
        (B0, "train", "64"),
        (B7, "train", "32"),
    ]
    first, ladder, *_, estimate, none = rows
    assert first["kind"] == "measured"
    assert float(first["images_per_second"]) == 100
    assert float(first["spread"]) == pytest.approx(0.04)
    assert (first["repeats"], first["compile_seconds"]) == ("3", "41.0")
    assert float(first["peak_memory_bytes"]) == 3e9
    assert float(first["flops_per_image"]) == 2e9
    assert float(first["flops_per_second"]) == 2e11
    assert float(first["share_of_peak"]) == pytest.approx(0.2 / 121)
    assert float(first["paper_top_1"]) == 77.4
    on_8_cores = first["paper_images_per_second_on_8_tpu_v3_cores"]
    assert float(on_8_cores) == pytest.approx(1024 / 0.054)
    assert (ladder["error"], ladder["images_per_second"]) == (
        "out of memory",
        "",
    )
    assert estimate["kind"] == none["kind"] == "compiler's estimate"
    assert (estimate["device"], estimate["strategy"]) == ("TPU v3", "v3-1")


def test_what_is_returned_is_what_is_written(written):
    directory, text = written
    assert (directory / "report.md").read_text() == text
    assert "![Time against accuracy](pareto.png)" in text
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["pareto.png", "report.csv", "report.md"]


def test_without_a_point_of_the_paper_there_is_no_picture(tmp_path):
    text = write_report(measured("my:model@32", 1.0, device=CPU), tmp_path)
    assert "pareto.png" not in text
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["report.csv", "report.md"]


def test_failures_alone_are_a_report(tmp_path):
    text = write_report([failed(L50, 8)], tmp_path)
    assert f"- {L50}, batch 8: out of memory" in text
    assert not tables(text)


def test_all_files_appear_or_none(records, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(report, "draw_pareto", fail)
    (tmp_path / "report.csv").write_text("an older one")
    with pytest.raises(OSError, match="no space"):
        write_report(records, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.csv"]
    assert (tmp_path / "report.csv").read_text() == "an older one"


def test_records_of_something_else_are_refused(tmp_path):
    (record,) = measured(L50, 1.0)
    record = dataclasses.replace(record, benchmark="input")
    with pytest.raises(ValueError, match=r"throughput.*benchmark=input"):
        write_report([record], tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_points_that_are_inferred_are_marked():
    printed, inferred = "lambda_resnet_152@224", "lambda_resnet_50@128"
    mark = "\N{DAGGER}"
    for model, is_marked in ((printed, False), (inferred, True)):
        text = to_markdown(compare(measured(model, 100.0)))
        assert (f"{mark} Which model this point" in text) == is_marked
        (rows,) = tables(text)
        assert (mark in rows[0]["top-1, % (paper)"]) == is_marked


def test_it_says_which_batch_normalization_each_side_has():
    text = to_markdown(compare(measured("efficientnet_b0@224", 100.0)))
    assert "EfficientNets are those of keras.applications" in text
    text = to_markdown(compare(measured("lambda_resnet_50@128", 100.0)))
    assert "keras.applications" not in text


def test_estimates_of_less_than_the_step_are_listed():
    whole = estimated(L50, 2500.0, unknown_operations=0)
    text = to_markdown(compare([whole]))
    assert "less than the whole step" not in text
    part = estimated(L50, 2500.0, unknown_operations=6)
    text = to_markdown(compare([part]))
    line = "- lambda_resnet_50@128, batch 32: without 6 operations"
    assert "less than the whole step" in text
    assert line in text
