"""The picture of the layer comparison."""

import logging
import os
from collections.abc import Callable
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from lambda_keras.benchmark.layer_candidates import AUTO
from lambda_keras.benchmark.layer_candidates import CONVOLUTION
from lambda_keras.benchmark.layer_candidates import LISTING
from lambda_keras.benchmark.layer_candidates import OURS
from lambda_keras.benchmark.layer_candidates import TIMM
from lambda_keras.benchmark.layer_candidates import find_candidate
from lambda_keras.benchmark.layer_results import Result
from lambda_keras.benchmark.layer_results import peak_memory
from lambda_keras.benchmark.records import Record
from lambda_keras.files import write_aside

# In a new environment it reports on standard error that it looks for fonts.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

_BLUE, _ORANGE, _RED, _GREY = "#1f5fa8", "#e08214", "#b2182b", "#8c8c8c"
_OTHERS = "other implementations"
# By layer and run: colour, marker, size.
_STYLES = {
    f"{AUTO}/jax": (_BLUE, "o", 8),
    f"{AUTO}/tf_jit": (_BLUE, "s", 7),
    f"{AUTO}/tf": (_BLUE, "^", 7),
    f"{TIMM}/eager": (_ORANGE, "D", 6),
    f"{TIMM}/compiled": (_ORANGE, "d", 7),
    f"{LISTING}/eager": (_RED, "x", 7),
    f"{LISTING}/compiled": (_RED, "+", 9),
    _OTHERS: ("#9ecae1", ".", 6),
    "attention": (_GREY, "1", 8),
    "convolution of 3": ("black", "|", 9),
}


def draw_layers(
    path: str | os.PathLike[str], results: Sequence[Result]
) -> None:
    """Writes a PNG with a mark for each candidate at each shape.

    There is a row of panels for each mode: time on the left and memory on
    the right, both on logarithmic axes, where less is better.

    Args:
        path: The file to write.
        results: What `find_results` returns.
    """
    modes = list(dict.fromkeys(result.mode for result in results))
    shapes = list(dict.fromkeys(result.shape for result in results))
    figure = Figure(
        figsize=(13, 1.8 + len(modes) * (1 + 0.45 * len(shapes))),
        dpi=100,
        layout="constrained",
    )
    panels = figure.subplots(len(modes), 2, squeeze=False, sharex="col")
    drawn: dict[str, None] = {}
    for (left, right), mode in zip(panels, modes):
        of_mode = [result for result in results if result.mode == mode]
        for axes, what, find in (
            (left, "ms", lambda record: record.value),
            (right, "MB", _megabytes),
        ):
            drawn |= _draw_panel(axes, of_mode, shapes, find)
            axes.set_title(f"{mode}: {what}", fontsize=10, loc="left")
    marks = [
        Line2D([], [], linestyle="", label=name, **_style(name))
        for name in _STYLES
        if name in drawn
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=5)
    figure.suptitle(_heading(results), fontsize=12)
    with write_aside(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def _draw_panel(
    axes,
    results: Sequence[Result],
    shapes: Sequence[str],
    find: Callable[[Record], float | None],
) -> dict[str, None]:
    """Draws a panel; returns the names of the marks in it."""
    drawn: dict[str, None] = {}
    for result in results:
        row = shapes.index(result.shape)
        axes.axhline(row, color="#eeeeee", zorder=0)
        for record in result.records:
            value = find(record)
            if not value:
                continue
            name = _mark(record)
            drawn[name] = None
            # Ours above the others, where marks meet.
            order = 3 if name.startswith(AUTO) else 2
            axes.plot(value, row, zorder=order, alpha=0.9, **_style(name))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_yticks(range(len(shapes)), shapes, fontsize=9)
    axes.set_ylim(len(shapes) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def _mark(record):
    candidate = find_candidate(record.name)
    if record.name in _STYLES:
        return record.name
    if candidate.kind == OURS:
        return _OTHERS
    return "convolution of 3" if candidate.layer == CONVOLUTION else "attention"


def _style(name):
    color, marker, size = _STYLES[name]
    return {"color": color, "marker": marker, "markersize": size}


def _megabytes(record):
    memory = peak_memory(record)
    # Less is noise.
    return memory / 1e6 if memory and memory > 1e5 else None


def _heading(results):
    records = [record for result in results for record in result.records]
    device = records[0].device
    date = max(record.date for record in records)[:10]
    return (
        f"Lambda layers and others on {device['count']} x {device['name']}, "
        f"{records[0].settings['precision']}, {date}: less is better"
    )
