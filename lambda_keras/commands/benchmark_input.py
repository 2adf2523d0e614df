"""`lambda-keras benchmark input`: how fast images reach a model."""

import contextlib
import datetime
import tempfile
from pathlib import Path

from lambda_keras import provenance
from lambda_keras.benchmark import input_pipeline
from lambda_keras.benchmark.input_pipeline import BATCH
from lambda_keras.benchmark.input_pipeline import DECODE
from lambda_keras.benchmark.input_pipeline import KERAS
from lambda_keras.benchmark.photographs import write_photographs
from lambda_keras.benchmark.picture import draw_bars
from lambda_keras.benchmark.records import append_records
from lambda_keras.benchmark.records import make_record
from lambda_keras.benchmark.settings import InputBenchmark
from lambda_keras.commands import FAILED
from lambda_keras.commands import CommandError
from lambda_keras.commands.progress import progress
from lambda_keras.data.sources import load_dataset
from lambda_keras.files import write_aside
from lambda_keras.tables import markdown_table

PHOTOGRAPHS = 256
RATE, COST = "images/s/core", "ms of CPU/image"
# What the pipeline is built for; see `_verdict`.
LEAST_PART, LEAST_TIMES = 0.6, 10.0


def run(settings: InputBenchmark) -> None:
    """Measures every stage, prints a table and writes a directory.

    Args:
        settings: The settings.
    """
    try:
        directory = _find_directory(settings)
        with _open_dataset(settings) as (dataset, files):
            print(f"{files}\nOn {_device()}.\n", flush=True)
            pipelines = input_pipeline.make_pipelines(dataset, settings)
            # From here on an error is no mistake in the arguments.
            try:
                with progress() as tell:
                    rates = input_pipeline.measure(pipelines, settings, tell)
                records = _records(settings, files, rates)
                table, verdict = _table(records), _verdict(records)
                print(f"{table}\n\n{verdict}")
                _write(directory, settings, files, records, table, verdict)
            except OSError as error:
                raise CommandError(error, status=FAILED) from None
    except (ValueError, OSError, RuntimeError) as error:
        raise CommandError(error) from None
    print(f"\n{directory}\n  table.md, records.jsonl, input.png")


def _find_directory(settings):
    now = datetime.datetime.now()
    default = f"runs/{now:%Y%m%d-%H%M%S}-benchmark-input"
    directory = Path(settings.output_dir or default).expanduser()
    if directory.exists() and (
        not directory.is_dir() or any(directory.iterdir())
    ):
        raise FileExistsError(
            "`output_dir` must be new or an empty directory. "
            f"Received: output_dir={directory}"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Before minutes of measuring, not after them.
    with tempfile.TemporaryFile(dir=directory.parent):
        pass
    return directory


@contextlib.contextmanager
def _open_dataset(settings):
    """The data set, and a sentence about it."""
    if settings.dataset != "synthetic":
        dataset = load_dataset(settings.dataset, settings.data_dir)
        yield dataset, f"{len(dataset.train):,} images of {settings.dataset}."
        return
    with tempfile.TemporaryDirectory() as directory:
        mean = write_photographs(directory, PHOTOGRAPHS)
        dataset = load_dataset(f"folder:{directory}")
        yield (
            dataset,
            f"{len(dataset.train)} synthetic JPEG files of 500 x 375 pixels, "
            f"{mean / 1000:.0f} KB in the mean.",
        )


def _device():
    # Accelerators, if there are any, have no part in it.
    processor = provenance.processor()
    return f"{processor['count']} cores of {processor['name']}"


def _records(settings, files, rates):
    """Two records for each pipeline: by the clock, and of the processor."""
    processor = provenance.processor()
    cores, records = processor["count"], []
    for name, measured in rates.items():
        size = settings.batch_size
        if name == KERAS:
            size = input_pipeline.keras_batch_size(settings)
        for unit, values in (
            (RATE, [rate.images_per_second / cores for rate in measured]),
            (COST, [1000 * rate.cpu_seconds for rate in measured]),
        ):
            given = {**vars(settings), "files": files}
            records.append(
                make_record("input", name, unit, values, size, given, processor)
            )
    return records


def _rates(records):
    return {record.name: record for record in records if record.unit == RATE}


def _table(records):
    rates = _rates(records)
    costs = {record.name: record for record in records if record.unit == COST}
    floor = rates[DECODE].value
    return markdown_table(
        ["stage", RATE, "spread", "of decode", COST],
        [
            [
                name,
                f"{rate.value:,.1f}",
                f"{rate.spread:.0%}",
                f"{rate.value / floor:.2f}",
                f"{costs[name].value:.2f}",
            ]
            for name, rate in rates.items()
        ],
    )


def _verdict(records):
    rates = _rates(records)
    part = rates[BATCH].value / rates[DECODE].value
    times = rates[BATCH].value / rates[KERAS].value
    return (
        f"The training pipeline makes {part:.0%} of the images per second "
        f"that decoding alone does (goal: {LEAST_PART:.0%}),\n"
        f"and {times:.0f} times as many as with Keras' RandAugment "
        f"(goal: {LEAST_TIMES:.0f})."
    )


def _write(directory, settings, files, records, table, verdict):
    rates = _rates(records)
    with write_aside(directory) as temporary:
        temporary.mkdir()
        append_records(temporary / "records.jsonl", records)
        software = ", ".join(
            f"{name} {version}"
            for name, version in provenance.versions().items()
        )
        (temporary / "table.md").write_text(
            f"{files} {settings.image_size} pixels, RandAugment "
            f"{settings.randaugment_layers} layers at magnitude "
            f"{settings.randaugment_magnitude:g}, batches of "
            f"{settings.batch_size} in {settings.image_dtype}, "
            f"{settings.repeats} repeats (median, and spread from least to "
            f"greatest), {_device()}, {software}, "
            f"{records[0].date}.\n\n{table}\n\n{verdict}\n"
        )
        floor = rates[DECODE].value
        draw_bars(
            temporary / "input.png",
            f"Images of {settings.image_size} pixels, {_device()}",
            list(rates.values()),
            input_pipeline.MEANINGS,
            BATCH,
            {f"{LEAST_PART:.0%} of decode": LEAST_PART * floor},
        )
