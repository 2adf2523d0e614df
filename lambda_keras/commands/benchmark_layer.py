"""`lambda-keras benchmark layer`: lambda layers and others, side by side."""

import datetime
from pathlib import Path

from lambda_keras.benchmark import layer_report
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.layer_candidates import choose_candidates
from lambda_keras.benchmark.layer_candidates import missing_packages
from lambda_keras.benchmark.layer_comparison import FAILURES
from lambda_keras.benchmark.layer_comparison import RECORDS
from lambda_keras.benchmark.layer_comparison import LayerComparison
from lambda_keras.benchmark.layer_comparison import describe_engines
from lambda_keras.benchmark.layer_shapes import find_shape
from lambda_keras.benchmark.settings import LayerBenchmark
from lambda_keras.commands import CommandError
from lambda_keras.commands import resumable
from lambda_keras.commands.progress import progress
from lambda_keras.training.run_directory import run_directory

COLUMNS = {"ms": 10, "spread": 6, "MB": 9, "compile s": 9}


def run(settings: LayerBenchmark) -> None:
    """Measures what is missing, shape by shape, and writes the report.

    Args:
        settings: The settings.
    """
    now = datetime.datetime.now()
    default = f"runs/{now:%Y%m%d-%H%M%S}-benchmark-layer"
    directory = Path(settings.output_dir or default).expanduser()
    try:
        chosen = choose_candidates(
            [find_shape(name) for name in settings.shapes.split(",")],
            settings.candidates.split(","),
        )
        # Before anything is computed, which would disturb another that
        # measures into the same directory.
        with run_directory(directory, settings):
            comparison = _prepare(settings, chosen, directory)
            with resumable(directory, OSError, ChildError):
                _run(comparison, directory)
    except (ValueError, OSError) as error:
        raise CommandError(error) from None


def _prepare(settings, chosen, directory):
    installed = [
        candidate
        for candidates in chosen.values()
        for candidate in candidates
        if not missing_packages(candidate)
    ]
    if not installed:
        raise ValueError(
            "Expected a candidate that is installed. "
            f"Received: candidates={settings.candidates}"
        )
    with progress() as tell:
        engines = describe_engines(
            installed, settings, lambda _: tell("starting the engines")
        )
    return LayerComparison(settings, chosen, engines, directory)


def _run(comparison, directory):
    names = [str(one) for race in comparison.races for one in race.candidates]
    width = max(map(len, names))
    print("\n".join(comparison.notes) or "All candidates are installed.")
    print(f"records: {directory / RECORDS}")
    _show(comparison.records, width)
    with progress() as tell:

        def show(records):
            tell("")
            _show(records, width)

        comparison.run(show, tell)
    text = layer_report.write_report(
        comparison.records, directory, comparison.notes
    )
    print(f"\n{text}")
    files = [RECORDS, *layer_report.NAMES, FAILURES]
    found = [name for name in files if (directory / name).exists()]
    print(f"\n{directory}\n  {', '.join(found)}")


def _show(records, width):
    """Prints a line for each record, under a heading for each race."""
    race = None
    for record in records:
        given = record.settings
        if race != (given["shape"], given["mode"]):
            race = given["shape"], given["mode"]
            cells = [f"{name:>{size}}" for name, size in COLUMNS.items()]
            heading = f"{given['mode']} {given['described']}"
            print(f"\n{heading}\n{'':{width}} {' '.join(cells)}")
        if record.error:
            print(f"{record.name:{width}} {record.error}", flush=True)
            continue
        cells = layer_report.figures(record)
        sized = zip(cells, COLUMNS.values())
        print(
            f"{record.name:{width}}",
            *(f"{cell:>{size}}" for cell, size in sized),
            flush=True,
        )
