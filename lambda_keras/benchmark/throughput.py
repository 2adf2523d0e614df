"""What is measured in which order, and what of it is still to do."""

import dataclasses
import os
import shutil
import statistics
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from lambda_keras.benchmark.children import OUT_OF_MEMORY
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.children import call_in_child
from lambda_keras.benchmark.records import Record
from lambda_keras.benchmark.records import append_records
from lambda_keras.benchmark.records import make_record
from lambda_keras.benchmark.records import read_records
from lambda_keras.benchmark.settings import ThroughputBenchmark

BENCHMARK, UNIT = "throughput", "images/s"
RECORDS, FAILURES, CACHE = "records.jsonl", "failures.txt", ".compiled"
# A size that did not work while one that does was searched for; a repeat.
LADDER, MEASURE = "ladder", "measure"
MODES = {"both": ("train", "infer"), "train": ("train",), "infer": ("infer",)}

# Else JAX takes most of a GPU's memory at its start, and TensorFlow all of it.
_NO_PREALLOCATION = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}
_WORKER = "lambda_keras.benchmark.worker"
_INPUTS = ("strategy", "tpu", "input", "data_dir")
_MEASURED = ("precision", *_INPUTS, "seconds", "steps")


@dataclasses.dataclass(frozen=True)
class Row:
    """A model in a mode.

    Attributes:
        model: The candidate, as `lambda_resnet_50@160`.
        mode: `"train"` or `"infer"`.
        batch_size: The number of images, over all devices, to begin with.
        is_fixed: Whether no smaller number is tried.
    """

    model: str
    mode: str
    batch_size: int
    is_fixed: bool = False


@dataclasses.dataclass(frozen=True)
class Task:
    """One measurement, in a process of its own.

    Attributes:
        row: What is measured.
        repeat: For which time, from 0.
        batch_size: The number of images, over all devices.
        is_search: Whether it is not known yet to work with so many.
    """

    row: Row
    repeat: int
    batch_size: int
    is_search: bool


def next_task(
    rows: Sequence[Row],
    repeats: int,
    records: Sequence[Record],
    replicas: int = 1,
) -> Task | None:
    """Says what to measure next, which depends on nothing but the records.

    All rows get their first repeat, then all of them the next, so that what
    else the machine does hits all of them.

    Args:
        rows: What is to be measured.
        repeats: How often.
        records: What was measured.
        replicas: The number of devices that share a batch.

    Returns:
        A `Task`, or None when all is done.
    """
    return next(_remaining(rows, repeats, records, replicas), None)


def count_remaining(*arguments: Any) -> dict[Row, int]:
    """Counts the repeats that are missing; arguments as of `next_task`."""
    counts: dict[Row, int] = {}
    for task in _remaining(*arguments):
        counts[task.row] = counts.get(task.row, 0) + 1
    return counts


def _remaining(rows, repeats, records, replicas) -> Iterator[Task]:
    of_rows: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        key = record.name, record.settings["mode"]
        of_rows.setdefault(key, []).append(record)
    for repeat in range(repeats):
        for row in rows:
            there = of_rows.get((row.model, row.mode), [])
            task = _next_of_row(row, repeat, there, replicas)
            if task is not None:
                yield task


def _next_of_row(row, repeat, records, replicas):
    measured = {
        record.settings["repeat"]: record
        for record in records
        if record.settings["kind"] == MEASURE
    }
    if repeat in measured:
        return None
    if 0 in measured:
        return Task(row, repeat, measured[0].batch_size, False)
    if not records:
        return Task(row, repeat, row.batch_size, True)
    # The last one that was tried did not work.
    last = records[-1]
    smaller = last.batch_size // 2 // replicas * replicas
    if row.is_fixed or last.error != OUT_OF_MEMORY or not smaller:
        return None
    return Task(row, repeat, smaller, True)


class Comparison:
    """The measurements of one directory, which may be taken up again.

    Args:
        settings: The settings.
        rows: What is measured.
        described: What `worker.describe` returned.
        directory: Where the records are, and what JAX compiled.

    Attributes:
        rows, described, directory: As given.
        records: What was measured so far.

    Raises:
        ValueError: If there are records from another device or other
            versions.
    """

    def __init__(
        self,
        settings: ThroughputBenchmark,
        rows: Sequence[Row],
        described: dict[str, Any],
        directory: Path,
    ):
        self.rows = rows
        self.described = described
        self.directory = directory
        self.records: list[Record] = []
        self._settings = settings
        self._seconds: dict[Row, float] = {}
        if (directory / RECORDS).exists():
            self.records = read_records(directory / RECORDS)
        for record in self.records[:1]:
            for name in ("device", "versions"):
                there, here = getattr(record, name), described[name]
                if there != here:
                    raise ValueError(
                        "`output_dir` has measurements with another "
                        f"{name.rstrip('s')}, which only the same can "
                        f"continue: {there}, here {here}. "
                        f"Received: output_dir={directory}"
                    )

    def next_task(self) -> Task | None:
        """Returns what to measure next, or None when all is done."""
        return next_task(*self._state())

    def run(self, show: Callable[[Record], None], tell: Callable) -> None:
        """Measures all that is missing; each record is kept at once.

        Args:
            show: Called with each new record.
            tell: Called every second with what is going on, in a line.
        """
        cache = self.directory / CACHE
        task = self.next_task()
        if task is not None and task.repeat == 0:
            # One that was stopped after it had compiled; the figure for
            # that is the first repeat's.
            shutil.rmtree(cache, ignore_errors=True)
        while task is not None:
            line = self._describe(task)
            started = time.monotonic()
            record = self._measure(task, lambda _, line=line: tell(line))
            self._seconds[task.row] = time.monotonic() - started
            append_records(self.directory / RECORDS, [record])
            self.records.append(record)
            show(record)
            task = self.next_task()
        shutil.rmtree(cache, ignore_errors=True)

    def _state(self):
        return (
            self.rows,
            self._settings.repeats,
            self.records,
            self.described["replicas"],
        )

    def _describe(self, task):
        left = count_remaining(*self._state())
        total = self._settings.repeats * len(self.rows)
        line = (
            f"{total - sum(left.values()) + 1} of {total}: {task.row.mode} "
            f"{task.row.model}, {task.batch_size} images"
        )
        if not self._seconds:
            return line
        # What was not measured yet takes as long as the others in the mean.
        mean = statistics.mean(self._seconds.values())
        seconds = sum(
            count * self._seconds.get(row, mean) for row, count in left.items()
        )
        return f"{line}; about {max(1, round(seconds / 60))} min left"

    def _measure(self, task, tell):
        figures, error = {}, None
        try:
            figures = call_in_child(
                f"{_WORKER}:measure",
                environment=environment(self.directory / CACHE),
                timeout=self._settings.timeout,
                tell=tell,
                model=task.row.model,
                mode=task.row.mode,
                batch_size=task.batch_size,
                **_chosen(self._settings, _MEASURED),
            )
        except ChildError as child:
            error = child.reason
            if error != OUT_OF_MEMORY:
                self._keep_output(task, child.output)
        rates = figures.pop("rates", ())
        is_ladder = error is not None and task.is_search
        return make_record(
            BENCHMARK,
            task.row.model,
            UNIT,
            rates,
            task.batch_size,
            {
                "mode": task.row.mode,
                "engine": keras.backend.backend(),
                "repeat": task.repeat,
                "kind": LADDER if is_ladder else MEASURE,
                "replicas": self.described["replicas"],
                **_chosen(self._settings, _MEASURED),
                **figures,
            },
            device=self.described["device"],
            versions=self.described["versions"],
            error=error,
        )

    def _keep_output(self, task, output):
        with open(self.directory / FAILURES, "a") as file:
            file.write(f"{task}\n{output}\n")


def environment(cache: Path | None = None) -> dict[str, str]:
    """Returns the variables for processes that measure.

    Args:
        cache: Where JAX keeps what it compiled, for later repeats.
    """
    variables = {
        name: os.environ.get(name, value)
        for name, value in _NO_PREALLOCATION.items()
    }
    if cache is not None:
        variables |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache.absolute()),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            # Models would find there what others tried out on a GPU, and
            # take less time to compile the later they come.
            "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        }
    return variables


def describe(
    settings: ThroughputBenchmark,
    models: Sequence[str] = (),
    tell: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Asks a process of its own what there is to compute with.

    This one must not take hold of an accelerator.

    Args:
        settings: The settings.
        models: Candidates to look for.
        tell: Called every second with the seconds gone by.

    Returns:
        What `worker.describe` does.

    Raises:
        ValueError: If what is asked for is not there.
    """
    try:
        return call_in_child(
            f"{_WORKER}:describe",
            environment=environment(),
            timeout=settings.timeout,
            tell=tell,
            models=list(models),
            **_chosen(settings, _INPUTS),
        )
    except ChildError as error:
        raise ValueError(error.reason.removeprefix("ValueError: ")) from error


def _chosen(settings, names):
    return {name: getattr(settings, name) for name in names}
