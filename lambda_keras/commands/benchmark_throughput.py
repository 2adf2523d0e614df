"""`lambda-keras benchmark throughput`: images per second, side by side."""

import datetime
from pathlib import Path

from lambda_keras.benchmark import report
from lambda_keras.benchmark.candidates import find_candidate
from lambda_keras.benchmark.children import OUT_OF_MEMORY
from lambda_keras.benchmark.records import Record
from lambda_keras.benchmark.settings import ThroughputBenchmark
from lambda_keras.benchmark.suites import SuiteRow
from lambda_keras.benchmark.suites import find_suite
from lambda_keras.benchmark.throughput import FAILURES
from lambda_keras.benchmark.throughput import LADDER
from lambda_keras.benchmark.throughput import MODES
from lambda_keras.benchmark.throughput import RECORDS
from lambda_keras.benchmark.throughput import Comparison
from lambda_keras.benchmark.throughput import Row
from lambda_keras.benchmark.throughput import describe
from lambda_keras.commands import FAILED
from lambda_keras.commands import CommandError
from lambda_keras.commands import resumable
from lambda_keras.commands.progress import progress
from lambda_keras.training.run_directory import run_directory

# Where nothing else is said: per accelerator, and on a processor.
DEFAULT_BATCH, PROCESSOR_BATCH = 256, 8

COLUMNS = {
    "repeat": 6,
    "mode": 5,
    "batch": 6,
    "images/s": 10,
    "ms/step": 9,
    "memory GB": 9,
    "compile s": 9,
}


def run(settings: ThroughputBenchmark) -> None:
    """Measures what is missing, row by row, and writes the report.

    Args:
        settings: The settings.
    """
    directory = _find_directory(settings)
    try:
        models = _find_models(settings)
        # Before anything is computed, which would disturb another that
        # measures into the same directory.
        with run_directory(directory, settings):
            comparison = _prepare(settings, models, directory)
            with resumable(directory, OSError):
                _run(comparison, settings)
    except (ValueError, OSError) as error:
        raise CommandError(error) from None


def _find_directory(settings):
    now = datetime.datetime.now()
    default = f"runs/{now:%Y%m%d-%H%M%S}-benchmark-throughput"
    return Path(settings.output_dir or default).expanduser()


def _prepare(settings, models, directory):
    own = [model.model for model in models if ":" in model.model]
    with progress() as tell:
        described = describe(settings, own, lambda _: tell("finding devices"))
    rows = _find_rows(settings, models, described)
    return Comparison(settings, rows, described, directory)


def _find_models(settings):
    if (settings.models is None) == (settings.suite is None):
        raise ValueError(
            "Expected either `models` or `suite`. Received: "
            f"models={settings.models}, suite={settings.suite}"
        )
    if settings.suite is not None:
        return find_suite(settings.suite)
    names = settings.models.split(",")
    # Written in two ways, a model is still the same one.
    candidates = dict.fromkeys(
        find_candidate(name.strip(), imports=False) for name in names
    )
    return tuple(SuiteRow(str(candidate), None) for candidate in candidates)


def _find_rows(settings, models, described):
    replicas = described["replicas"]
    is_processor = described["device"]["kind"] == "CPU"
    default = PROCESSOR_BATCH if is_processor else DEFAULT_BATCH
    if settings.batch and settings.max_batch:
        raise ValueError(
            "Expected either `batch` or `max_batch`. Received: "
            f"batch={settings.batch}, max_batch={settings.max_batch}"
        )
    for name in ("batch", "max_batch"):
        given = getattr(settings, name)
        if given is not None and given % replicas:
            raise ValueError(
                f"`{name}` must be a multiple of {replicas}, the number of "
                f"devices. Received: {name}={given}"
            )
    return [
        Row(
            model.model,
            mode,
            settings.batch
            or settings.max_batch
            or (model.batch_size or default) * replicas,
            is_fixed=settings.batch is not None,
        )
        for model in models
        for mode in MODES[settings.modes]
    ]


def _run(comparison, settings):
    width = max(len(row.model) for row in comparison.rows)
    cells = [f"{name:>{size}}" for name, size in COLUMNS.items()]
    print(_device(comparison.described, settings))
    print(f"records: {comparison.directory / RECORDS}")
    print(f"\n{'model':{width}} {' '.join(cells)}")
    for record in comparison.records:
        print(_line(record, width), flush=True)
    with progress() as tell:

        def show(record):
            tell("")
            print(_line(record, width), flush=True)

        comparison.run(show, tell)
    print(f"\n{report.write_report(comparison.records, comparison.directory)}")
    directory = comparison.directory
    names = [
        name for name in (RECORDS, *report.NAMES) if (directory / name).exists()
    ]
    print(f"\n{directory}\n  {', '.join(names)}")
    _check_complete(comparison)


def _device(described, settings):
    device, versions = described["device"], described["versions"]
    shown = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"{device['count']} x {device['name']} ({device['kind']}), strategy "
        f"{settings.strategy}, {settings.precision}, "
        f"{settings.input or 'random images that stay on the device'}\n{shown}"
    )


def _line(record: Record, width: int) -> str:
    given = record.settings
    cells = [given["repeat"] + 1, given["mode"], record.batch_size]
    if record.error:
        cells.append(record.error)
    else:
        compile_seconds = f"{given['compile_seconds']:.1f}"
        cells += [
            f"{record.value:,.2f}",
            f"{1000 * given['step_seconds']:,.1f}",
            f"{given['peak_memory_bytes'] / 1e9:.2f}",
            "cached" if given["compile_cached"] else compile_seconds,
        ]
    sized = zip(cells, COLUMNS.values())
    return " ".join(
        [f"{record.name:{width}}", *(f"{cell:>{size}}" for cell, size in sized)]
    )


def _check_complete(comparison):
    """Raises an error that names what has no figure."""
    measured = {
        (record.name, record.settings["mode"])
        for record in comparison.records
        if record.values
    }
    missing = [
        f"{row.mode} {row.model}"
        for row in comparison.rows
        if (row.model, row.mode) not in measured
    ]
    failed = [
        record
        for record in comparison.records
        if record.error
        and (record.settings["kind"] != LADDER or record.error != OUT_OF_MEMORY)
    ]
    if not (missing or failed):
        return
    what = f"no figure for {', '.join(missing)}" if missing else "not all of it"
    errors = "; ".join(dict.fromkeys(record.error for record in failed))
    where = comparison.directory / FAILURES
    raise CommandError(
        f"{what} ({errors or OUT_OF_MEMORY})"
        + (f"; {where} says more" if where.exists() else ""),
        status=FAILED,
    )
