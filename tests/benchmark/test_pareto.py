import itertools

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from lambda_keras.benchmark.comparison import compare
from lambda_keras.benchmark.paper_curve import CURVE
from lambda_keras.benchmark.paper_curve import EFFICIENTNET
from lambda_keras.benchmark.paper_curve import LAMBDA_RESNET
from lambda_keras.benchmark.pareto import PAPER
from lambda_keras.benchmark.pareto import STYLES
from lambda_keras.benchmark.pareto import draw_pareto
from lambda_keras.benchmark.pareto import pareto_figure
from tests.benchmark.model_records import estimated
from tests.benchmark.model_records import measured

NAMED = [point for point in CURVE if point.candidate]


@pytest.fixture(scope="module")
def estimates():
    """The whole curve, for one core: EfficientNets are estimated kindly."""
    return pareto_figure(
        compare(
            estimated(
                point.candidate,
                point.images_per_second
                / 8
                * (1.08 if point.family == LAMBDA_RESNET else 1.3),
            )
            for point in NAMED
        ),
        "2026-11-22",
    )


def curves(figure, color):
    """Points of each curve of a colour."""
    return [
        line.get_xydata()
        for line in figure.axes[0].get_lines()
        if to_hex(line.get_color()) == color
    ]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_each_family_is_a_curve_of_time_and_the_papers_accuracy(estimates):
    for family, factor in (LAMBDA_RESNET, 1.08), (EFFICIENTNET, 1.3):
        (points,) = curves(estimates, STYLES[family][0])
        paper = [point for point in NAMED if point.family == family]
        np.testing.assert_allclose(
            points,
            [(8 * point.seconds / factor, point.top_1) for point in paper],
        )
    assert estimates.axes[0].get_xscale() == "log"


def test_on_the_papers_device_its_own_times_stand_beside(estimates):
    ours, theirs = curves(estimates, PAPER)
    assert (len(ours), len(theirs)) == (12, 8)
    # Of 8 cores in the paper, and of one here.
    assert theirs[-1] == pytest.approx((8 * 6.03, 84.7))
    legend = estimates.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "LambdaResNet, compiler's estimate",
        "EfficientNet, compiler's estimate",
        "LambdaResNet, the paper's times",
        "EfficientNet, the paper's times",
    ]
    assert "of 8 TPU v3 cores, converted to 1" in estimates.get_supxlabel()


def test_the_title_says_device_and_date_and_that_it_is_an_estimate(estimates):
    assert estimates.get_suptitle() == (
        "LambdaResNet and EfficientNet on one TPU v3 core: compiler's "
        "estimate, 2026-11-22"
    )
    note = estimates.get_supxlabel()
    assert "quoted from the paper" in note and "nothing was trained" in note
    assert "no TPU ran" in note


def test_every_model_has_a_label_and_no_two_overlap(estimates):
    labels = estimates.axes[0].texts
    shown = texts(estimates)
    assert len(shown) == 20
    assert {"152@224", "50@128", "B0 (1.4\N{MULTIPLICATION SIGN})"} <= {*shown}
    renderer = estimates.canvas.get_renderer()
    # Without the lines that lead to them
    boxes = [Text.get_window_extent(label, renderer) for label in labels]
    boxes.append(estimates.axes[0].get_legend().get_window_extent(renderer))
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    edge = estimates.bbox
    for box in boxes:
        assert edge.x0 < box.x0 and box.x1 < edge.x1
        assert edge.y0 < box.y0 and box.y1 < edge.y1


def test_no_label_lies_on_a_point(estimates):
    renderer = estimates.canvas.get_renderer()
    axes = estimates.axes[0]
    points = np.concatenate(
        [axes.transData.transform(line.get_xydata()) for line in axes.lines]
    )
    for label in axes.texts:
        box = Text.get_window_extent(label, renderer)
        inside = (points > box.min) & (points < box.max)
        assert not np.any(np.all(inside, axis=1)), label.get_text()


def test_what_was_measured_is_drawn_with_its_spread_and_nothing_of_the_papers():
    records = measured("efficientnet_b0@224", 80.0, 100.0, 110.0)
    records += measured("lambda_resnet_50@128", 256.0)
    # In the paper's figure there is no such size.
    records += measured("lambda_resnet_50@224", 50.0)
    figure = pareto_figure(compare(records), "2026-11-22")
    assert figure.get_suptitle() == (
        "LambdaResNet and EfficientNet on NVIDIA L4, 2026-11-22"
    )
    assert len(curves(figure, PAPER)) == 0
    assert "estimate" not in figure.get_supxlabel().lower()
    assert texts(figure) == ["50@128", "B0 (2.6\N{MULTIPLICATION SIGN})"]
    bars = [bar.get_segments() for bar in figure.axes[0].collections]
    assert bars[1][0][:, 0] == pytest.approx([1024 / 110, 1024 / 80])


def test_what_cannot_be_compared_has_a_panel_each():
    records = measured("lambda_resnet_50@128", 1.0)
    records += measured("lambda_resnet_50@128", 2.0, mode="infer")
    records.append(estimated("lambda_resnet_50@128", 3.0))
    figure = pareto_figure(compare(records), "2026-11-22")
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "training, bf16, JAX",
        "inference, bf16, JAX",
        "training, bf16, JAX, v3-1: compiler's estimate",
    ]
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]
    assert "on NVIDIA L4 and one TPU v3 core, 20" in figure.get_suptitle()


def test_two_models_that_are_close_look_close():
    records = measured("lambda_resnet_50@128", 100.0)
    records += measured("efficientnet_b0@224", 95.0)
    axes = pareto_figure(compare(records), "2026-11-22").axes[0]
    low, high = axes.get_xlim()
    assert low < 1024 / 100 < 1024 / 95 < high == pytest.approx(10 * low)
    low, high = axes.get_ylim()
    assert low < 77.1 < 77.4 < high == pytest.approx(low + 3)


def test_the_picture_is_written_whole(tmp_path):
    records = measured("lambda_resnet_50@128", 1.0)
    draw_pareto(tmp_path / "pareto.png", compare(records), "2026-11-22")
    pixels = matplotlib.image.imread(tmp_path / "pareto.png")
    assert pixels.shape[:2] == (900, 1500)
    assert [path.name for path in tmp_path.iterdir()] == ["pareto.png"]
