"""The picture of the memory table."""

import logging
import os
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from lambda_keras.benchmark.memory import COMPILED
from lambda_keras.benchmark.memory import COUNTED
from lambda_keras.benchmark.memory import RUN
from lambda_keras.benchmark.memory_report import DOES_NOT_FIT
from lambda_keras.benchmark.memory_report import GIB
from lambda_keras.benchmark.memory_report import find_shown
from lambda_keras.benchmark.memory_report import gibibytes
from lambda_keras.benchmark.memory_report import group_figures
from lambda_keras.benchmark.memory_report import header
from lambda_keras.benchmark.memory_report import title
from lambda_keras.benchmark.memory_rows import ROWS
from lambda_keras.benchmark.records import Record
from lambda_keras.benchmark.settings import MemoryBenchmark
from lambda_keras.files import write_aside

# In a new environment it reports on standard error that it looks for fonts.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

_COLORS = {COUNTED: "#9a9a9a", COMPILED: "#1f5fa8", RUN: "#c8742c"}


def draw_memory(
    path: str | os.PathLike[str],
    settings: MemoryBenchmark,
    records: Sequence[Record],
) -> None:
    """Writes a PNG with bars for each layer: one for each way to a figure.

    There is a panel for each program, with a logarithmic axis and a line at
    what a program may have on the TPU. What inference needs is left out.

    Args:
        path: The file to write.
        settings: What is asked for.
        records: What was found.
    """
    programs = {
        program: [one for one in figures if one.mode != "infer"]
        for program, figures in group_figures(settings).items()
    }
    heights = [
        len({one.row for one in figures}) for figures in programs.values()
    ]
    canvas = Canvas(
        figsize=(11, 1 + 0.8 * sum(heights)), dpi=100, layout="constrained"
    )
    panels = canvas.subplots(
        len(programs), squeeze=False, height_ratios=heights, sharex=True
    )[:, 0]
    shown = find_shown(settings, records)
    limits = _limits(shown)
    for axes, (program, figures) in zip(panels, programs.items()):
        axes.set_xscale("log")
        axes.set_xlim(*limits)
        _draw_panel(axes, figures, records)
        for available in _available(shown):
            axes.axvline(available, color="black", linestyle=":", zorder=0)
        axes.set_title(title(settings, program), fontsize=10, loc="left")
    # Of their own: those of the bars would be hatched as the first one is.
    ways = {
        one.counting: Patch(
            color=_COLORS[one.counting], label=header(one, records)
        )
        for figures in programs.values()
        for one in figures
    }
    canvas.legend(
        handles=list(ways.values()), loc="outside lower center", ncols=3
    )
    canvas.suptitle(_heading(shown), fontsize=12)
    panels[-1].set_xlabel("GiB")
    with write_aside(path) as temporary:
        FigureCanvasAgg(canvas).print_png(temporary)


def _heading(records):
    date = max((record.date for record in records), default="")[:10]
    devices = {
        record.settings["counting"]: record.device["name"] for record in records
    }
    words = {RUN: "training on", COMPILED: "compiled for"}
    made = [
        f"{word} {devices[counting]}"
        for counting, word in words.items()
        if counting in devices
    ]
    return ", ".join(["Memory of mixing layers", *made, date])


def _draw_panel(axes, figures, records):
    rows = list(dict.fromkeys(one.row for one in figures))
    countings = list(dict.fromkeys(one.counting for one in figures))
    width = 0.8 / len(countings)
    for number, counting in enumerate(countings):
        mine = [one for one in figures if one.counting == counting]
        found = {one.row: one.find_what_fits(records) for one in mine}
        known = {row: record for row, record in found.items() if record}
        places = {
            row: rows.index(row) - 0.4 + (number + 0.5) * width for row in known
        }
        fits = {
            row: bool(record.values) and record.settings.get("fits", True)
            for row, record in known.items()
        }
        bars = axes.barh(
            list(places.values()),
            [(record.value or 0) / GIB for record in known.values()],
            width,
            color=_COLORS[counting],
        )
        for bar, (row, record) in zip(bars, known.items()):
            if not fits[row]:
                bar.set(facecolor="none", edgecolor=_COLORS[counting])
                bar.set_hatch("////")
            end = record.value / GIB if record.values else axes.get_xlim()[0]
            axes.annotate(
                _describe(record, fits[row]),
                (end, places[row]),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
    axes.set_yticks(
        range(len(rows)), [ROWS[row].title for row in rows], fontsize=9
    )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _describe(record, fits):
    words = [gibibytes(record.value)] if record.values else []
    if record.settings["counting"] == RUN:
        words.append(f"at batch {record.batch_size}")
    if not fits:
        words.append(DOES_NOT_FIT)
    return " ".join(words)


def _available(records):
    """Returns what a program may have on the TPU, if one was compiled."""
    known = {record.settings.get("available_bytes") for record in records}
    return [available / GIB for available in known if available]


def _limits(records):
    values = [record.value / GIB for record in records if record.values]
    # Room for the words behind the longest bar.
    return (min(values, default=1) / 2, max(values, default=1) * 8)
