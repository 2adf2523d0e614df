"""Tables of what layers take, and how ours do beside others."""

import os
from collections.abc import Sequence
from pathlib import Path

from lambda_keras.benchmark.layer_candidates import KERAS_RUNS
from lambda_keras.benchmark.layer_picture import draw_layers
from lambda_keras.benchmark.layer_results import Result
from lambda_keras.benchmark.layer_results import find_results
from lambda_keras.benchmark.layer_results import mean_speed_up
from lambda_keras.benchmark.layer_results import peak_memory
from lambda_keras.benchmark.records import Record
from lambda_keras.files import write_aside
from lambda_keras.tables import markdown_table

NAMES = REPORT, PICTURE = "report.md", "layers.png"
NONE = "-"

_WHAT = (
    "Times are medians of turns: each candidate has a process of its own, and "
    "all of a shape take turns, another one first in each round, while the "
    "others wait. Forward is a call with `training=False`; training is one "
    "with `training=True` and the gradients of the inputs and of all weights, "
    "from a random cotangent. Inputs and weights are on the device before, "
    "results stay there. Spread is from the least to the greatest turn, as a "
    "part of the median."
)
_MEMORY = (
    "Memory is what one step takes at its peak beside inputs and weights, "
    "results included, in a process of its own: on a processor the growth of "
    "what is resident, after steps that have warmed up, where everything that "
    "is freed goes back to the system; on an accelerator by the engine's own "
    "statistics. Compile seconds are what the first step took longer than the "
    "next ones."
)
_CHECKED = (
    "All lambda layers, those of others with our weights, have computed the "
    "same output and gradients in float32 before they were timed. timm's "
    "convolution has no bias here, as in the paper; the listing is the paper's "
    "pseudo-code on torch, with its lambda convolution where the scope is "
    "local. Attention (8 heads; local: 7 positions per axis) and the plain "
    "convolution of 3 per axis compute something else, at the same shape."
)


def figures(record: Record) -> list[str]:
    """Returns milliseconds, spread, megabytes and compile seconds as text."""
    memory = peak_memory(record)
    return [
        f"{record.value:,.2f}",
        f"{record.spread:.0%}",
        NONE if memory is None else f"{memory / 1e6:,.1f}",
        f"{record.settings['compile_seconds']:.1f}",
    ]


def write_report(
    records: Sequence[Record],
    directory: str | os.PathLike[str],
    notes: Sequence[str] = (),
) -> str:
    """Writes a report in Markdown, and the picture.

    Args:
        records: Of `benchmark layer`.
        directory: Where to write, in the place of an older report.
        notes: What else is to be said, as what was left out.

    Returns:
        What the Markdown file says.
    """
    results = find_results(records)
    text = to_markdown(results, notes)
    with write_aside(Path(directory) / REPORT) as temporary:
        temporary.write_text(f"{text}\n")
    draw_layers(Path(directory) / PICTURE, results)
    return text


def to_markdown(results: Sequence[Result], notes: Sequence[str] = ()) -> str:
    """Puts results into words and tables.

    Args:
        results: What `find_results` returns.
        notes: What else is to be said.

    Returns:
        The text of a Markdown file.
    """
    records = [record for result in results for record in result.records]
    parts = ["# Lambda layers and others, side by side", _summary(results)]
    parts += [_means(results), *notes]
    parts += [_WHAT, _MEMORY, _CHECKED, _provenance(records)]
    for result in results:
        parts.append(
            f"## {result.records[0].settings['described']}, {result.mode}"
        )
        parts.append(_table(result))
    return "\n\n".join(part for part in parts if part)


def _summary(results):
    header = ["shape", "mode", "ours", "plan", "ms", "fastest other", "ms"]
    header += ["times faster", "our MB", "leanest other", "MB", "times less"]
    header += [f"over best, {run}" for run in KERAS_RUNS]
    return markdown_table(header, map(_summary_row, results))


def _summary_row(result):
    def of(record, text):
        return NONE if record is None else text(record)

    def name(record):
        return record.name

    def value(record):
        return f"{record.value:,.2f}"

    def megabytes(record):
        return f"{peak_memory(record) / 1e6:,.1f}"

    def times(factor):
        return NONE if factor is None else f"{factor:.2f}"

    excess = result.plan_excess
    return [
        result.shape,
        result.mode,
        of(result.auto, name),
        of(result.auto, _implementation),
        of(result.auto, value),
        of(result.foreign, name),
        of(result.foreign, value),
        times(result.speed_up),
        of(result.auto_memory, megabytes),
        of(result.foreign_memory, name),
        of(result.foreign_memory, megabytes),
        times(result.memory_saved),
        *(
            f"{excess[run]:+.0%}" if run in excess else NONE
            for run in KERAS_RUNS
        ),
    ]


def _means(results):
    lines = []
    for mode in dict.fromkeys(result.mode for result in results):
        mean = mean_speed_up(results, mode)
        if mean is not None:
            lines.append(
                f"Geometric mean over image shapes, {mode}: {mean:.2f} times "
                "faster than the fastest other."
            )
    return "\n".join(lines)


def _implementation(record):
    return record.settings.get("implementation", NONE)


def _table(result):
    base = result.auto.value if result.auto else None
    header = ["candidate", "plan", "ms", "spread", "MB", "compile s"]
    header.append("times ours")
    rows = []
    for record in result.records:
        if record.error:
            rows.append([record.name, *[NONE] * 6])
            continue
        rows.append(
            [
                record.name,
                _implementation(record),
                *figures(record),
                NONE if base is None else f"{record.value / base:.2f}",
            ]
        )
    failed = [
        f"- {record.name}: {record.error}"
        for record in result.records
        if record.error
    ]
    return "\n".join(
        [markdown_table(header, rows), *([""] if failed else []), *failed]
    )


def _provenance(records):
    lines = []
    for engine in dict.fromkeys(one.settings["engine"] for one in records):
        first, *_ = [one for one in records if one.settings["engine"] == engine]
        device = first.device
        versions = ", ".join(
            f"{name} {number}" for name, number in first.versions.items()
        )
        dates = sorted({one.date[:10] for one in records})
        lines.append(
            f"{engine}: {device['count']} x {device['name']} "
            f"({device['kind']}), {first.settings['precision']}, "
            f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; {versions}."
        )
    return "\n".join(f"- {line}" for line in lines)
