"""The picture of time against accuracy, with both families as curves."""

import itertools
import logging
import math
import os
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from matplotlib.ticker import NullFormatter

from lambda_keras.benchmark.comparison import Row
from lambda_keras.benchmark.comparison import Setup
from lambda_keras.benchmark.comparison import fastest
from lambda_keras.benchmark.comparison import speed_ups
from lambda_keras.benchmark.paper_curve import CORES
from lambda_keras.benchmark.paper_curve import CURVE
from lambda_keras.benchmark.paper_curve import EFFICIENTNET
from lambda_keras.benchmark.paper_curve import IMAGES
from lambda_keras.benchmark.paper_curve import INFERRED
from lambda_keras.benchmark.paper_curve import LAMBDA_RESNET
from lambda_keras.files import write_aside

# In a new environment it reports on standard error that it looks for fonts.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

ESTIMATE = "compiler's estimate"
# Each family: its colour, its marker, and where its labels stand, in degrees.
STYLES = {
    LAMBDA_RESNET: ("#1f5fa8", "o", 135),
    EFFICIENTNET: ("#b8622d", "s", -45),
}
PAPER = "#b0b0b0"
WIDTH, HEIGHT, DPI, COLUMNS = 10.0, 6.0, 150, 2
# What an axis shows at least.
DECADES, PERCENT = 1.0, 3.0
# Where a label may stand instead: pixels from its point, and degrees from
# where those of its family stand. From `FAR` on a line leads to it.
DISTANCES, FAR = (14, 24, 36, 54, 75), 36
TURNS = (0, 25, -25, 45, -45, 70, -70, 135, -135, 180)


def draw_pareto(
    path: str | os.PathLike[str],
    sections: Mapping[Setup, Sequence[Row]],
    date: str,
) -> None:
    """Writes a PNG of time against the paper's accuracy.

    Args:
        path: The file to write.
        sections: Rows by what makes them comparable, each with one that is in
            the paper's figure; each becomes a panel.
        date: When it was measured, for the title.
    """
    figure = pareto_figure(sections, date)
    with write_aside(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def pareto_figure(sections: Mapping[Setup, Sequence[Row]], date: str) -> Figure:
    """Draws what `draw_pareto` writes.

    Args: as those of `draw_pareto`.

    Returns:
        A `Figure`.
    """
    columns = min(COLUMNS, len(sections))
    lines = math.ceil(len(sections) / columns)
    width = WIDTH if columns == 1 else 0.75 * WIDTH * columns
    figure = Figure((width, HEIGHT * lines), DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    are_estimates = all(setup.is_estimate for setup in sections)
    devices = " and ".join(dict.fromkeys(each.device_text for each in sections))
    middle = f": {ESTIMATE}, " if are_estimates else ", "
    figure.suptitle(
        f"LambdaResNet and EfficientNet on {devices}{middle}{date}", fontsize=13
    )
    figure.supxlabel(_note(sections), fontsize=8, color="#555555")
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes in panels.flat[len(sections) :]:
        axes.axis("off")
    for axes, (setup, rows) in zip(panels.flat, sections.items()):
        title = setup.text
        if setup.is_estimate and not are_estimates:
            title += f": {ESTIMATE}"
        axes.set_title(title, fontsize=11)
        _draw_curves(axes, setup, fastest(rows))
    # Labels are placed by what is where, which must not move after that.
    canvas.draw()
    figure.set_layout_engine("none")
    for axes, rows in zip(panels.flat, sections.values()):
        _Labels(axes).place(rows)
    return figure


def _note(sections):
    notes = [
        "Accuracies are quoted from the paper (arXiv 2102.08602): nothing was "
        "trained here.",
        "In brackets: how many times as fast the LambdaResNet of at least that "
        "accuracy is.",
    ]
    if any(setup.is_estimate for setup in sections):
        notes.append("Estimates are of the TPU's compiler: no TPU ran.")
    points = [row.point for rows in sections.values() for row in rows]
    if any(point and point.label == INFERRED for point in points):
        notes.append(
            "Which LambdaResNets the paper's points below 224 pixels are is "
            "inferred."
        )
    counts = {setup.count for setup in sections if setup.is_of_paper}
    if counts:
        converted = f", converted to {min(counts)}" * (counts != {CORES})
        notes.append(
            f"Grey: times read off the paper's figure, of {CORES} TPU v3 cores"
            f"{converted}."
        )
    return "\n".join(
        " ".join(notes[i : i + 2]) for i in range(0, len(notes), 2)
    )


def _draw_curves(axes, setup, rows):
    kind = ESTIMATE if setup.is_estimate else "measured"
    for family, (color, marker, _) in STYLES.items():
        of_family = [row for row in rows if _is_of(row, family)]
        if of_family:
            style = {"color": color, "marker": marker, "ms": 5.5, "lw": 1.8}
            _draw_family(axes, of_family, label=f"{family}, {kind}", **style)
    if setup.is_of_paper:
        for family, (_, marker, _) in STYLES.items():
            points = [point for point in CURVE if point.family == family]
            axes.plot(
                # A batch is shared by the cores.
                [point.seconds * CORES / setup.count for point in points],
                [point.top_1 for point in points],
                color=PAPER,
                lw=1,
                marker=marker,
                ms=3,
                label=f"{family}, the paper's times",
                zorder=1,
            )
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.1)
    # A few models would otherwise be far apart that are not.
    axes.set_xlim(10 ** _widen(np.log10(axes.get_xlim()), DECADES))
    axes.set_ylim(_widen(np.array(axes.get_ylim()), PERCENT))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"seconds for {IMAGES:,} images on {setup.device_text}")
    axes.set_ylabel("top-1 accuracy on ImageNet in the paper, %")
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best", fontsize=9)


def _widen(limits, least):
    extra = max(0, least - np.ptp(limits)) / 2
    return limits + np.array([-extra, extra])


def _draw_family(axes, rows, **style):
    seconds = np.array([row.seconds for row in rows])
    accuracy = [row.point.top_1 for row in rows]
    axes.plot(seconds, accuracy, **style, zorder=3)
    least = np.array([IMAGES / max(row.figures) for row in rows])
    most = np.array([IMAGES / min(row.figures) for row in rows])
    axes.errorbar(
        seconds,
        accuracy,
        xerr=[seconds - least, most - seconds],
        fmt="none",
        ecolor=style["color"],
        elinewidth=1,
    )


def _is_of(row, family):
    return row.point is not None and row.point.family == family


class _Labels:
    """Puts labels beside points, away from each other and from curves."""

    def __init__(self, axes):
        self.axes = axes
        self.renderer = axes.figure.canvas.get_renderer()
        self.boxes = [axes.get_legend().get_window_extent(self.renderer)]
        self.curves = np.concatenate(
            [self._along(line) for line in axes.get_lines()]
        )

    def _along(self, line):
        """Pixels of a curve, close enough together to be hit by any label."""
        corners = self.axes.transData.transform(line.get_xydata())
        pieces = [
            np.linspace(start, end, 2 + int(np.hypot(*(end - start)) / 3))
            for start, end in itertools.pairwise(corners)
        ]
        return np.concatenate([corners, *pieces])

    def place(self, rows):
        times = "\N{MULTIPLICATION SIGN}"
        faster = {
            each.efficientnet.candidate: f" ({each.ratio:.1f}{times})"
            for each in speed_ups(rows)
        }
        for family, (color, _, direction) in STYLES.items():
            for row in fastest(rows):
                if _is_of(row, family):
                    text = _short(row) + faster.get(row.candidate, "")
                    self._place(row, text, color, direction)

    def _place(self, row, text, color, direction):
        label = self.axes.annotate(
            text,
            (row.seconds, row.point.top_1),
            xytext=(0, 0),
            textcoords="offset pixels",
            ha="center",
            va="center",
            fontsize=9,
            color=color,
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": color},
        )
        box = label.get_window_extent(self.renderer)
        best = None
        for place, (distance, turn) in enumerate(
            (distance, turn) for distance in DISTANCES for turn in TURNS
        ):
            offset = _offset(box, distance, math.radians(direction + turn))
            moved = box.translated(*offset)
            cost = self._cost(moved) + place
            if best is None or cost < best[0]:
                best = cost, offset, moved, distance
        _, offset, moved, distance = best
        label.xyann = offset
        label.arrow_patch.set_visible(distance >= FAR)
        self.boxes.append(moved)

    def _cost(self, box):
        box = box.padded(3)
        overlaps = sum(box.overlaps(other) for other in self.boxes)
        low, high = box.min, box.max
        is_hit = np.all((self.curves > low) & (self.curves < high), axis=1)
        inside = self.axes.bbox
        is_outside = np.any(box.min < inside.min) or np.any(
            box.max > inside.max
        )
        return 1000 * (overlaps + is_outside) + 20 * is_hit.sum()


def _offset(box, distance, angle):
    """From a point to the middle of a label whose edge is so far from it."""
    x, y = math.cos(angle), math.sin(angle)
    reach = distance + min(
        box.width / 2 / max(abs(x), 1e-6), box.height / 2 / max(abs(y), 1e-6)
    )
    return reach * x, reach * y


def _short(row):
    """`152@224`, or `B4`, which has one size."""
    name, _, size = row.candidate.partition("@")
    last = name.rpartition("_")[2]
    if row.point.family == EFFICIENTNET:
        return last.upper()
    return f"{last}@{size}"
