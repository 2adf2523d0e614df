import dataclasses

import numpy as np
import pytest
from matplotlib.image import imread

from lambda_keras.benchmark.memory import COMPILED
from lambda_keras.benchmark.memory import COUNTED
from lambda_keras.benchmark.memory import list_figures
from lambda_keras.benchmark.memory import measure
from lambda_keras.benchmark.memory_picture import draw_memory
from lambda_keras.benchmark.memory_report import gibibytes
from lambda_keras.benchmark.memory_report import to_markdown
from lambda_keras.benchmark.settings import MemoryBenchmark

GIB = 2**30
DEVICE = {"kind": "CPU", "name": "Old Faithful", "count": 2}
TPU = {"kind": "TPU", "name": "TPU v3 core", "count": 1, "compiled_only": True}
SETTINGS = MemoryBenchmark(programs="stack", rows="global,axial,lambda_k8")
FACTS = {
    "available_bytes": 15.5 * GIB,
    "versions": {"libtpu": "0.0.52"},
}


def found(settings):
    """Records of all figures; global attention fits nowhere."""
    records = []
    for figure in list_figures(settings):
        fits = figure.row != "global"
        if figure.counting == COUNTED:
            records.append(measure(figure, DEVICE))
        elif figure.counting == COMPILED:
            value = 3.25 * GIB if fits else 600 * GIB
            temporary = GIB if fits else None
            facts = {"fits": fits, "temporary_memory_bytes": temporary}
            records.append(figure.record([value], TPU, **FACTS, **facts))
        else:
            for attempt in figure.attempts():
                if not fits or attempt.batch > 4:
                    error = "out of memory"
                    records.append(attempt.record([], DEVICE, error=error))
                else:
                    records.append(
                        attempt.record(
                            [0.5 * GIB], DEVICE, peak_memory_of="process"
                        )
                    )
                    break
    return records


@pytest.fixture(scope="module")
def records():
    return found(SETTINGS)


def cells(text, layer):
    (line,) = [x for x in text.splitlines() if x.startswith(f"| {layer} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_has_all_ways_side_by_side(records):
    text = to_markdown(SETTINGS, records, {})
    assert cells(text, "layer") == [
        *("layer", "space", "paper", "the paper's counting"),
        *("v3-1, training (temporary)", "CPU, training"),
    ]
    assert cells(text, "Axial self-attention")[1:] == [
        *("blhn√n", "4.8", "4.82", "3.25 (1.00)", "0.500 at batch 4"),
    ]
    assert cells(text, "Global self-attention")[2:] == [
        *("120", "123", "600, too much by 584", "does not fit"),
    ]
    assert "128 images of 224 pixels, float32" in text


def test_it_says_where_the_counting_is_not_the_papers(records):
    text = to_markdown(SETTINGS, records, {})
    assert (
        "the counting gives the paper's figures, but for 1: "
        "Lambda layer, k=8 is 0.960, where the paper has 0.95." in text
    )
    others = dataclasses.replace(SETTINGS, rows="global,axial")
    assert "gives the paper's figures." in to_markdown(others, records, {})
    # The paper has none at another batch.
    others = dataclasses.replace(SETTINGS, batch=64)
    assert "gives the paper's figures" not in to_markdown(others, [], {})


def test_it_says_how_figures_were_found(records):
    text = to_markdown(SETTINGS, records, {})
    assert "compiled and not run, for each TPU v3 core" in text
    assert "(libtpu 0.0.52), which lets a program have 15.5" in text
    assert "on 2 x Old Faithful" in text
    assert "what was resident at the peak" in text
    assert f"; {records[0].date[:10]}." in text
    older = dataclasses.replace(records[0], date="2021-02-17T09:30:00+00:00")
    text = to_markdown(SETTINGS, [older, *records[1:]], {})
    assert f"; 2021-02-17 to {records[1].date[:10]}." in text
    on_gpu = [
        dataclasses.replace(
            record, settings={**record.settings, "peak_memory_of": "device"}
        )
        for record in records
    ]
    assert "the device's own statistics" in to_markdown(SETTINGS, on_gpu, {})


def test_what_could_not_be_found_is_said_in_its_place(records):
    figures = list_figures(SETTINGS)
    (missing,) = [
        one for one in figures if (one.row, one.counting) == ("axial", COMPILED)
    ]
    kept = [record for record in records if not missing.find([record])]
    text = to_markdown(SETTINGS, kept, {missing: "libtpu is not installed"})
    assert cells(text, "Axial self-attention")[4] == "libtpu is not installed"
    assert (
        cells(to_markdown(SETTINGS, kept, {}), "Axial self-attention")[4] == ""
    )


def test_the_example_of_one_layer_says_what_its_figure_is():
    settings = MemoryBenchmark(programs="layer", rows="global,lambda")
    text = to_markdown(settings, found(settings), {})
    assert (
        "256 x 8 x 64^4 numbers: 128 GiB in float32, 64 in bfloat16, 32 at one"
        in text
    )
    assert cells(text, "layer")[1:4] == [
        *("the paper's counting", "v3-1, inference (temporary)"),
        "v3-1, training (temporary)",
    ]
    assert cells(text, "Lambda layer")[1:4] == [
        *("1.00", "3.25 (1.00)", "3.25 (1.00)"),
    ]


def test_models_are_counted_with_their_own_layers():
    settings = MemoryBenchmark(
        programs="model", figures="paper", rows="lambda,lambda_shared"
    )
    text = to_markdown(settings, found(settings), {})
    # Not the 1.92 and 0.625 of the paper's counting.
    assert cells(text, "Lambda layer") == ["Lambda layer", "2.51"]
    assert "at the size before the stride" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (123.4, "123"),
        (1234, "1,234"),
        (12.345, "12.3"),
        (0.0405, "0.0405"),
        (1, "1.00"),
    ],
)
def test_figures_have_three_digits(value, text):
    assert gibibytes(value * GIB) == text


def test_the_picture_has_a_panel_for_each_program(records, tmp_path):
    both = dataclasses.replace(SETTINGS, programs="stack,layer")
    for name, settings in (("one", SETTINGS), ("two", both)):
        draw_memory(tmp_path / f"{name}.png", settings, found(settings))
    one, two = (imread(tmp_path / f"{x}.png") for x in ("one", "two"))
    assert two.shape[0] > 1.5 * one.shape[0]
    # Colours of the three ways, in red, green and blue.
    for color in ("#9a9a9a", "#1f5fa8", "#c8742c"):
        wanted = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        close = np.abs(one[..., :3] - wanted).max(axis=-1) < 0.01
        assert close.sum() > 200, color
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("one.png", "two.png"),
    ]
