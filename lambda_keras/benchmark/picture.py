"""Pictures of measurements."""

import logging
import os
from collections.abc import Mapping
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lambda_keras.benchmark.records import Record
from lambda_keras.files import write_aside

# In a new environment it reports on standard error that it looks for fonts.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

BAR, MARKED = "#8c8c8c", "#1f5fa8"


def draw_bars(
    path: str | os.PathLike[str],
    title: str,
    records: Sequence[Record],
    meanings: Mapping[str, str],
    marked: str,
    goals: Mapping[str, float],
) -> None:
    """Writes a PNG with a horizontal bar for each record.

    A line across the end of a bar goes from the least to the greatest repeat.
    The axis is logarithmic.

    Args:
        path: The file to write.
        title: One line above everything.
        records: What was measured, all in one unit; the first is on top.
        meanings: A few words about each, by the names of the records.
        marked: The name of the record that matters.
        goals: Values to draw a line at, by what they are called.
    """
    figure = Figure(
        figsize=(10, 1.6 + 0.55 * len(records)), dpi=100, layout="constrained"
    )
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots()
    values = [record.value for record in records]
    ends = [
        [record.value - min(record.values) for record in records],
        [max(record.values) - record.value for record in records],
    ]
    colors = [MARKED if record.name == marked else BAR for record in records]
    axes.barh(range(len(records)), values, xerr=ends, color=colors, height=0.6)
    for row, record in enumerate(records):
        axes.annotate(
            f"{record.value:,.0f}",
            (max(record.values), row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    for name, goal in goals.items():
        axes.axvline(goal, color="black", linestyle=":", linewidth=1)
        axes.annotate(
            f"{name} ",
            (goal, len(records) - 0.45),
            ha="right",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(
        range(len(records)),
        [f"{record.name}\n{meanings[record.name]}" for record in records],
        fontsize=9,
    )
    axes.set_ylim(len(records) - 0.2, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2, 2 * max(values))
    axes.set_xlabel(records[0].unit)
    axes.spines[["top", "right"]].set_visible(False)
    with write_aside(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
