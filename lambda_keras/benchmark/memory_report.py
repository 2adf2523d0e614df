"""The memory table as text."""

from collections.abc import Mapping
from collections.abc import Sequence

from lambda_keras.benchmark.memory import COMPILED
from lambda_keras.benchmark.memory import COUNTED
from lambda_keras.benchmark.memory import RUN
from lambda_keras.benchmark.memory import Figure
from lambda_keras.benchmark.memory import list_figures
from lambda_keras.benchmark.memory_rows import LAYER_CHANNELS
from lambda_keras.benchmark.memory_rows import LAYER_HEADS
from lambda_keras.benchmark.memory_rows import ROWS
from lambda_keras.benchmark.records import Record
from lambda_keras.benchmark.settings import MemoryBenchmark
from lambda_keras.tables import markdown_table

GIB = 2**30
DOES_NOT_FIT = "does not fit"
# The paper's table, in gigabytes of 2**30 bytes: no other unit gives it.
PAPER_SETTINGS = {"batch": 128, "image_size": 224, "precision": "float32"}
_MODES = {"train": "training", "infer": "inference"}


def to_markdown(
    settings: MemoryBenchmark,
    records: Sequence[Record],
    problems: Mapping[Figure, str],
) -> str:
    """Lays out a table for each program, and says what its figures are.

    Args:
        settings: What is asked for.
        records: What was found.
        problems: Why other figures could not be found.

    Returns:
        Markdown.
    """
    parts = []
    for program, figures in group_figures(settings).items():
        parts += [
            f"## {title(settings, program)}",
            _table(figures, records, problems),
            *_notes(settings, program, figures, records),
        ]
    return "\n\n".join([*parts, _legend(settings, records)])


def group_figures(settings: MemoryBenchmark) -> dict[str, list[Figure]]:
    """Returns what is asked for by program."""
    programs: dict[str, list[Figure]] = {}
    for figure in list_figures(settings):
        programs.setdefault(figure.program, []).append(figure)
    return programs


def find_shown(
    settings: MemoryBenchmark, records: Sequence[Record]
) -> list[Record]:
    """Returns the records that stand in the table."""
    return [
        record
        for figure in list_figures(settings)
        if (record := figure.find_what_fits(records))
    ]


def title(settings: MemoryBenchmark, program: str) -> str:
    """Returns what a program is, in a line."""
    images = f"{settings.batch} images of {settings.image_size} pixels"
    if program == "layer":
        size = settings.layer_size
        return (
            f"One layer: {LAYER_HEADS} heads, {LAYER_CHANNELS} channels, "
            f"{size}x{size} positions, {settings.layer_batch} examples, "
            f"{settings.precision}"
        )
    what = {
        "stack": "The layers of a ResNet-50, one after the other",
        "model": "Whole ResNet-50s",
    }
    return f"{what[program]}: {images}, {settings.precision}"


def _table(figures, records, problems):
    """A row for each layer, a column for each way to a figure."""
    # What the paper's table has, it has of one program alone.
    papers = ["space", "paper"] if figures[0].program == "stack" else []
    columns = {}
    for one in figures:
        words = header(one, records)
        if one.counting == COMPILED:
            words += " (temporary)"
        columns[one.counting, one.mode] = words
    cells = {
        (one.row, one.counting, one.mode): _cell(one, records, problems)
        for one in figures
    }
    rows = dict.fromkeys(one.row for one in figures)
    return markdown_table(
        ["layer", *papers, *columns.values()],
        [
            [
                ROWS[row].title,
                *(getattr(ROWS[row], name) or "" for name in papers),
                *(cells.get((row, *column), "") for column in columns),
            ]
            for row in rows
        ],
    )


def header(figure: Figure, records: Sequence[Record]) -> str:
    """Returns the way to a figure, in a few words."""
    if figure.counting == COUNTED:
        return "the paper's counting"
    mode = _MODES[figure.mode]
    if figure.counting == COMPILED:
        return f"{figure.topology}, {mode}"
    record = figure.find_what_fits(records)
    kind = record.device["kind"] if record else "run"
    return f"{kind}, {mode}"


def _cell(figure, records, problems):
    if figure in problems:
        return problems[figure]
    record = figure.find_what_fits(records)
    if record is None:
        return ""
    if not record.values:
        return DOES_NOT_FIT
    value, settings = record.value, record.settings
    if figure.counting == COUNTED:
        return gibibytes(value)
    if figure.counting == RUN:
        return f"{gibibytes(value)} at batch {record.batch_size}"
    if settings["fits"]:
        temporary = settings["temporary_memory_bytes"]
        return f"{gibibytes(value)} ({gibibytes(temporary)})"
    excess = gibibytes(value - settings["available_bytes"])
    return f"{gibibytes(value)}, too much by {excess}"


def gibibytes(value: float) -> str:
    """Writes bytes as GiB of three digits.

    Example:

    >>> gibibytes(1.5 * 2**30)
    '1.50'
    """
    value /= GIB
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _notes(settings, program, figures, records):
    """Yields what is to be said of one program."""
    if program == "layer":
        size, batch = settings.layer_size, settings.layer_batch
        numbers = batch * LAYER_HEADS * size**4 / GIB
        yield (
            f"The maps of global attention are {batch} x {LAYER_HEADS} x "
            f"{size}^4 numbers: {4 * numbers:.3g} GiB in float32, "
            f"{2 * numbers:.3g} in bfloat16, {numbers:.3g} at one byte each. "
            "The paper's example is 128 images of 64x64: 64 GB, in float32."
        )
    elif program == "model":
        yield (
            "Here the counting is of the models' own layers: the first of a "
            "stage works at the size before the stride, which the paper's "
            "counting leaves out."
        )
    elif all(
        getattr(settings, name) == value
        for name, value in PAPER_SETTINGS.items()
    ):
        yield from _differences(figures, records)


def _differences(figures, records):
    """Says where the counting rounds to another figure than the paper's."""
    counted = {
        one.row: one.find(records)
        for one in figures
        if one.counting == COUNTED and ROWS[one.row].paper
    }
    differing = [
        f"{ROWS[row].title} is {gibibytes(record.value)}, where the paper "
        f"has {ROWS[row].paper}"
        for row, record in counted.items()
        if record and f"{record.value / GIB:.2g}" != f"{ROWS[row].paper:.2g}"
    ]
    if counted:
        yield (
            "To two digits, and with its GB taken for GiB, the counting gives "
            "the paper's figures"
            + (f", but for {len(differing)}: " if differing else "")
            + f"{'; '.join(differing)}."
        )


def _legend(settings, records):
    """What the columns mean, and with what they were found."""
    mine = find_shown(settings, records)
    said = [
        "All in GiB. The paper's counting has attention maps or position "
        "embeddings, and nothing else; its space grows with b batch, l "
        "layers, h heads, n positions, m positions of the window, k key "
        "depth. Lambda layers contract as the paper's listing does "
        '(implementation="lambda_first"), where the row does not say another.'
    ]
    compiled = _first(mine, COMPILED)
    if compiled:
        available = compiled.settings["available_bytes"]
        limit = (
            f", which lets a program have {gibibytes(available)}"
            if available
            else ""
        )
        said.append(
            f"{settings.topology}: the peak of a step, compiled and not run, "
            f"for each {compiled.device['name']}; in brackets, the sum of "
            "what is neither argument nor result. Both are the compiler's "
            f"(libtpu {compiled.settings['versions']['libtpu']}){limit}. "
            "Where that is not enough, the figure is what it says that "
            "temporary memory would take."
        )
    run = _first(mine, RUN)
    if run:
        device = run.device
        how = "the peak of the device's own statistics in training steps"
        if run.settings.get("peak_memory_of") == "process":
            how = (
                "what was resident at the peak of a training step above what "
                "was before it, with weights, optimizer and batch"
            )
        said.append(
            f"{device['kind']}: {how}, on {device['count']} x "
            f"{device['name']}, at the batch behind the figure, the first to "
            f"fit of {settings.run_batch}, half of it and so on."
        )
    if mine:
        versions = ", ".join(
            f"{name} {version}" for name, version in mine[-1].versions.items()
        )
        dates = sorted({record.date[:10] for record in mine})
        said.append(f"{versions}; {' to '.join(dates[:1] + dates[1:][-1:])}.")
    return "\n\n".join(said)


def _first(records, counting):
    for record in records:
        if record.values and record.settings["counting"] == counting:
            return record
    return None
