"""`lambda-keras benchmark memory`: the paper's memory table, from programs."""

import datetime
import functools
import importlib.util
from pathlib import Path

from lambda_keras.benchmark import memory
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.memory_picture import draw_memory
from lambda_keras.benchmark.memory_report import to_markdown
from lambda_keras.benchmark.records import append_records
from lambda_keras.benchmark.records import read_records
from lambda_keras.benchmark.settings import MemoryBenchmark
from lambda_keras.benchmark.topologies import find_topology
from lambda_keras.commands import FAILED
from lambda_keras.commands import CommandError
from lambda_keras.commands.progress import progress
from lambda_keras.files import write_aside

RECORDS = "records.jsonl"
NO_COMPILER = "libtpu is not installed"


def run(settings: MemoryBenchmark) -> None:
    """Finds what is not known yet, prints the table and writes it.

    Args:
        settings: The settings.
    """
    try:
        _check_batches(settings)
        directory = _find_directory(settings)
        path = directory / RECORDS
        records = read_records(path) if path.exists() else []
        problems = _measure(settings, path, records)
        text = to_markdown(settings, records, problems)
        with write_aside(directory / "memory.md") as temporary:
            temporary.write_text(f"# Memory\n\n{text}\n")
        draw_memory(directory / "memory.png", settings, records)
    except ChildError as error:
        raise CommandError(error, status=FAILED) from None
    except (ValueError, OSError) as error:
        raise CommandError(error) from None
    print(f"{text}\n\n{directory}\n  memory.md, {RECORDS}, memory.png")
    failed = [why for why in problems.values() if why != NO_COMPILER]
    if failed:
        raise CommandError(
            f"{len(failed)} figures could not be found ({failed[0]}); with "
            f"--output_dir={directory} they are tried again",
            status=FAILED,
        )


def _check_batches(settings):
    devices = find_topology(settings.topology).devices
    if "tpu" not in settings.figures.split(","):
        return
    for name in ("batch", "layer_batch"):
        batch = getattr(settings, name)
        if batch % devices:
            raise ValueError(
                f"`{name}` must be a multiple of the {devices} devices of "
                f"{settings.topology}. Received: {name}={batch}"
            )


def _find_directory(settings):
    now = datetime.datetime.now()
    default = f"runs/{now:%Y%m%d-%H%M%S}-benchmark-memory"
    directory = Path(settings.output_dir or default).expanduser()
    if (
        directory.exists()
        and not (directory / RECORDS).exists()
        and (not directory.is_dir() or any(directory.iterdir()))
    ):
        raise FileExistsError(
            "`output_dir` must be new, empty or what this command wrote. "
            f"Received: output_dir={directory}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _measure(settings, path, records):
    """Adds what is not known to the records; returns what could not be."""
    figures, problems = memory.list_figures(settings), {}
    can_compile = importlib.util.find_spec("libtpu") is not None
    find_device = functools.cache(memory.find_device)
    with progress() as tell:
        for number, figure in enumerate(figures, start=1):
            if (
                figure.counting == memory.COMPILED
                and not can_compile
                and not figure.find(records)
            ):
                problems[figure] = NO_COMPILER
                continue
            place = f"{number} of {len(figures)}"
            try:
                for attempt in figure.attempts():
                    record = attempt.find(records)
                    if record is None:
                        line = f"{place}: {attempt}"
                        clock = functools.partial(_tick, tell, line)
                        runs = attempt.counting == memory.RUN
                        device = find_device() if runs else {}
                        record = memory.measure(
                            attempt, device, settings.timeout, clock
                        )
                        append_records(path, [record])
                        records.append(record)
                    if record.values:
                        break
            except ChildError as error:
                problems[figure] = error.reason
    return problems


def _tick(tell, line, seconds):
    # The line has a clock of its own.
    tell(line)
