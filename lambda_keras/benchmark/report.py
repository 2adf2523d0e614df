"""The report of what was measured or estimated, beside the paper."""

import contextlib
import csv
import os
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

from lambda_keras.benchmark.comparison import Row
from lambda_keras.benchmark.comparison import Setup
from lambda_keras.benchmark.comparison import calibrate
from lambda_keras.benchmark.comparison import compare
from lambda_keras.benchmark.comparison import speed_ups
from lambda_keras.benchmark.paper_curve import ANNOTATED_SPEED_UPS
from lambda_keras.benchmark.paper_curve import CORES
from lambda_keras.benchmark.paper_curve import EFFICIENTNET
from lambda_keras.benchmark.paper_curve import IMAGES
from lambda_keras.benchmark.paper_curve import INFERRED
from lambda_keras.benchmark.paper_curve import PSEUDO_LABEL_ROWS
from lambda_keras.benchmark.paper_curve import SECONDS_ERROR
from lambda_keras.benchmark.paper_curve import TOP_1_ERROR
from lambda_keras.benchmark.paper_curve import paper_images_per_second
from lambda_keras.benchmark.paper_curve import top_1
from lambda_keras.benchmark.pareto import ESTIMATE
from lambda_keras.benchmark.pareto import draw_pareto
from lambda_keras.benchmark.records import Record
from lambda_keras.files import write_aside
from lambda_keras.tables import markdown_table

NAMES = REPORT, TABLE, PICTURE = "report.md", "report.csv", "pareto.png"

PAPER = "LambdaNetworks (Bello, 2021, arXiv 2102.08602)"
_ACCURACIES = (
    "**No accuracy below was measured: nothing was trained.** Top-1 accuracies "
    f"are quoted from {PAPER}, as read off its figure to about "
    f"{TOP_1_ERROR:g} %. The paper's times were read off the same figure to "
    f"about {SECONDS_ERROR:g} s for {IMAGES:,} images on {CORES} TPU v3 cores, "
    "so that its ratios for small models are rough."
)
INFERRED_MARK = "\N{DAGGER}"
_INFERRED = (
    f"{INFERRED_MARK} Which model this point of the figure is, is inferred "
    "from the order of the points and from the sizes that ResNet-RS has."
)
_SIDES = (
    "EfficientNets are those of keras.applications, as they are: also with "
    "Keras' own batch normalization, where the LambdaResNets have that of "
    "lambda_keras, which reads a batch fewer times."
)
_EQUAL = (
    "\\* Read off the figure to about "
    f"{TOP_1_ERROR:g} %, and taken as equal, as in the paper."
)
NONE = "-"


def write_report(
    records: Iterable[Record], directory: str | os.PathLike[str]
) -> str:
    """Writes a report in Markdown and CSV, and the Pareto picture.

    All of them appear, or none. There is no picture if nothing was measured
    that is in the paper's figure.

    Args:
        records: Of `benchmark throughput`, `preflight` or both.
        directory: Where to write, in the place of an older report.

    Returns:
        What the Markdown file says.

    Raises:
        ValueError: If there is nothing to report.
    """
    records = list(records)
    sections = compare(records)
    if not sections:
        names = sorted({record.benchmark for record in records})
        raise ValueError(
            "Expected records of `benchmark throughput` or `preflight`. "
            f"Received: benchmark={', '.join(names)}"
        )
    text = to_markdown(sections)
    Path(directory).mkdir(parents=True, exist_ok=True)
    drawn = _drawn(sections)
    with contextlib.ExitStack() as stack:

        def path(name):
            return stack.enter_context(write_aside(Path(directory) / name))

        path(REPORT).write_text(text)
        with open(path(TABLE), "w", newline="") as file:
            cells = [_csv_row(row) for row in _all_rows(sections)]
            writer = csv.DictWriter(file, cells[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(cells)
        if drawn:
            draw_pareto(path(PICTURE), drawn, _dates(_all_rows(drawn)))
    return text


def to_markdown(sections: Mapping[Setup, Sequence[Row]]) -> str:
    """Puts a comparison into words and tables.

    Args:
        sections: What `compare` returns.

    Returns:
        The text of a Markdown file.
    """
    parts = ["# LambdaResNets and EfficientNets: how fast", _ACCURACIES]
    if any(setup.is_estimate for setup in sections):
        parts.append(
            f"What is called a {ESTIMATE} was computed by a TPU's compiler "
            "from the compiled program. It was measured on no device."
        )
    points = [row.point for row in _all_rows(sections)]
    if any(point and point.family == EFFICIENTNET for point in points):
        parts.append(_SIDES)
    drawn = _drawn(sections)
    if drawn:
        parts.append(f"![Time against accuracy]({PICTURE})")
    for setup, rows in sections.items():
        parts += _section(setup, rows)
    parts += ["## What the paper says", _paper_claims()]
    return "\n\n".join(parts) + "\n"


def _all_rows(sections):
    return [row for rows in sections.values() for row in rows]


def _drawn(sections):
    return {
        setup: rows
        for setup, rows in sections.items()
        if any(row.point and row.figures for row in rows)
    }


def _dates(rows):
    days = sorted({each.date[:10] for row in rows for each in row.records})
    return " to ".join(dict.fromkeys((days[0], days[-1])))


def _section(setup, rows):
    kind = ESTIMATE if setup.is_estimate else "measured"
    device = setup.device_text[0].upper() + setup.device_text[1:]
    yield f"## {device}, {setup.text}: {kind}"
    yield _provenance(setup, rows)
    done = [row for row in rows if row.figures]
    if done:
        yield _main_table(setup, done)
    partial = [
        f"- {row.candidate}, batch {row.batch_size:,}: without "
        f"{row.median('unknown_operations'):.0f} operations that the compiler "
        "does not know"
        for row in done
        if row.median("unknown_operations")
    ]
    if partial:
        yield "Some estimates are of less than the whole step:"
        yield "\n".join(partial)
    pairs = speed_ups(rows)
    if pairs:
        yield (
            "Each EfficientNet and, of the LambdaResNets here that reach its "
            "accuracy in the paper, the fastest:"
        )
        yield _speed_up_table(setup, pairs)
        if any(_is_equal(pair) for pair in pairs):
            yield _EQUAL
    if any(row.point and row.point.label == INFERRED for row in done):
        yield _INFERRED
    failed = [
        f"- {row.candidate}, batch {row.batch_size:,}: {error}"
        for row in rows
        for error in row.errors
    ]
    if failed:
        yield "Attempts without a figure:"
        yield "\n".join(failed)


def _provenance(setup: Setup, rows: Sequence[Row]) -> str:
    versions: dict[str, dict[str, None]] = {}
    for row in rows:
        for record in row.records:
            for name, version in record.versions.items():
                versions.setdefault(name, {})[version] = None
    software = ", ".join(
        f"{name} {' and '.join(of_name)}" for name, of_name in versions.items()
    )
    if setup.is_estimate:
        return (
            f"Estimated on {_dates(rows)} with {software}. FLOPs are those of "
            "the compiled program."
        )
    repeats = sorted({len(row.figures) for row in rows if row.figures})
    images = setup.input or "random images that stay on the device"
    text = f"Measured on {_dates(rows)} with {software}; {images}."
    if repeats:
        number = " to ".join(dict.fromkeys(map(str, (repeats[0], repeats[-1]))))
        text += (
            f" Repeats: {number}, each in a process of its own. Figures are "
            "their medians; the "
            "spread is from the least to the greatest, as a part of the "
            "median. FLOPs are counted from the layers; a training step is "
            "three times the forward pass."
        )
    return text


def _main_table(setup, rows):
    columns = {
        "model": lambda row: row.candidate,
        "top-1, % (paper)": lambda row: _accuracy(row.point),
        "batch": lambda row: f"{row.batch_size:,}",
        "images/s": lambda row: _number(row.images_per_second),
        "spread": lambda row: _percent(row.spread, 1),
        f"s/{IMAGES:,} images": lambda row: _number(row.seconds),
        "GFLOP/image": lambda row: _number(row.flops_per_image, scale=1e9),
        "TFLOP/s": lambda row: _number(row.flops_per_second, scale=1e12),
        "of peak": lambda row: _percent(row.peak_share),
        _memory_name(rows): lambda row: _number(
            row.peak_memory_bytes, scale=1e9
        ),
        "compile, s": lambda row: _number(row.compile_seconds),
        "images/s per core, paper": lambda row: _calibrated(
            row, "paper", "{:,.0f}"
        ),
        _ratio_name(setup): lambda row: _calibrated(row, "ratio", "{:.2f}"),
    }
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    # What no row has is not worth a column.
    kept = [
        place
        for place in range(len(columns))
        if any(line[place] != NONE for line in cells)
    ]
    names = list(columns)
    return markdown_table(
        [names[place] for place in kept],
        [[line[place] for place in kept] for line in cells],
    )


def _memory_name(rows):
    # Where a device has no count of its own.
    is_of_process = any(
        "process" in row.known("peak_memory_of") for row in rows
    )
    return f"memory{' of the process' * is_of_process}, GB"


def _ratio_name(setup):
    ours = "estimate" if setup.is_estimate else "measured"
    return f"{ours}{' per core' * (setup.count > 1)} / paper"


def _calibrated(row, name, form):
    found = calibrate(row)
    return NONE if found is None else form.format(getattr(found, name))


def _number(value, scale=1.0):
    """Three significant digits, or all of those above the point."""
    if value is None:
        return NONE
    value /= scale
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def _accuracy(point):
    if point is None:
        return NONE
    return f"{point.top_1:.4g}{INFERRED_MARK * (point.label == INFERRED)}"


def _percent(value, digits=0):
    return NONE if value is None else f"{value:.{digits}%}"


def _is_equal(pair):
    return pair.lambda_resnet.point.top_1 < pair.efficientnet.point.top_1


def _speed_up_table(setup, pairs):
    header = ["EfficientNet", "top-1, %", "LambdaResNet", "top-1, %"]
    header += ["times as fast", "of any two repeats", "in the paper (training)"]
    rows = []
    for pair in pairs:
        slow, fast = pair.efficientnet, pair.lambda_resnet
        least, greatest = pair.limits
        rows.append(
            [
                slow.candidate,
                _accuracy(slow.point),
                fast.candidate,
                _accuracy(fast.point) + "\\*" * _is_equal(pair),
                f"{pair.ratio:.2f}",
                f"{least:.2f} to {greatest:.2f}",
                f"{pair.paper_ratio:.2f}",
            ]
        )
    if setup.is_estimate:
        # One compilation, one estimate: there is no spread.
        header[4] += f", {ESTIMATE}"
        for row in (header, *rows):
            del row[5]
    return markdown_table(header, rows)


def _paper_claims():
    ours, theirs, transformer = PSEUDO_LABEL_ROWS
    rate = ours.train_images_per_second
    b6, b7 = ANNOTATED_SPEED_UPS.values()
    return (
        f"In training, on {CORES} TPU v3 cores: LambdaResNets are {b6} times "
        "as fast as EfficientNet-B6 at its accuracy, which lies between two "
        f"of them, and {b7} times as fast as B7. With 130 million "
        f"pseudo-labelled images {ours.model} reaches {ours.top_1} % and "
        f"trains {rate / theirs.train_images_per_second:.1f} times as fast as "
        f"{theirs.model}, and "
        f"{rate / transformer.train_images_per_second:.1f} times as fast as "
        f"{transformer.model}, at about that accuracy. Nothing of this was "
        "repeated here."
    )


def _csv_row(row):
    setup = row.setup
    return {
        "kind": ESTIMATE if setup.is_estimate else "measured",
        "device": setup.device,
        "devices": setup.count,
        "engine": setup.engine,
        "strategy": setup.strategy,
        "input": setup.input,
        "mode": setup.mode,
        "precision": setup.precision,
        "model": row.candidate,
        "batch": row.batch_size,
        "images_per_second": row.images_per_second,
        "spread": row.spread,
        "repeats": len(row.figures),
        f"seconds_per_{IMAGES}_images": row.seconds,
        "compile_seconds": row.compile_seconds,
        "peak_memory_bytes": row.peak_memory_bytes,
        "flops_per_image": row.flops_per_image,
        "flops_per_second": row.flops_per_second,
        "share_of_peak": row.peak_share,
        "paper_top_1": top_1(row.candidate),
        "paper_label": row.point.label if row.point else None,
        f"paper_images_per_second_on_{CORES}_tpu_v3_cores": (
            paper_images_per_second(row.candidate)
        ),
        "error": "; ".join(row.errors),
        "date": row.records[0].date,
    }
