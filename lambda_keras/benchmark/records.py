"""The record of a measurement: a figure with all that it takes to place it."""

import dataclasses
import datetime
import json
import os
import statistics
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lambda_keras import provenance


@dataclasses.dataclass(frozen=True)
class Record:
    """One figure, from several repeats of the same measurement.

    Args:
        benchmark: What it is a part of, as `input`.
        name: What was measured, as `decode`.
        unit: Of the values, as `images/s/core`.
        values: One for each repeat.
        batch_size: Examples that were worked on together.
        settings: All else that decides the figure: shapes, options, files.
        device: What it was measured on, and how many of them.
        versions: Of the software.
        date: In UTC, as ISO 8601 has it.
        error: Why there are no values, as `out of memory`.

    Example:

    >>> record = make_record("input", "read", "images/s", [9.0, 10.0, 12.0], 8)
    >>> record.value, round(record.spread, 2)
    (10.0, 0.3)
    """

    benchmark: str
    name: str
    unit: str
    values: tuple[float, ...]
    batch_size: int
    settings: dict[str, Any]
    device: dict[str, Any]
    versions: dict[str, str]
    date: str
    error: str | None = None

    def __post_init__(self):
        if not self.values and self.error is None:
            raise ValueError(
                "`values` must have at least one value, unless `error` says "
                "why there is none. Received: values=()"
            )

    @property
    def value(self) -> float | None:
        """The median of the repeats, if there are any."""
        return statistics.median(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """From the least to the greatest, as a part of the median."""
        return spread(self.values) if self.values else None

    def to_json(self) -> str:
        """Returns the record as one line, figures first."""
        head = {"benchmark": self.benchmark, "name": self.name}
        figures = {"value": self.value, "unit": self.unit}
        rounded = None if self.spread is None else round(self.spread, 4)
        return json.dumps(
            {
                **head,
                **figures,
                "spread": rounded,
                **dataclasses.asdict(self),
            }
        )


def spread(values: Sequence[float]) -> float:
    """Returns from the least to the greatest, as a part of the median."""
    return (max(values) - min(values)) / statistics.median(values)


def make_record(
    benchmark: str,
    name: str,
    unit: str,
    values: Sequence[float],
    batch_size: int,
    settings: dict[str, Any] | None = None,
    device: dict[str, Any] | None = None,
    error: str | None = None,
    versions: dict[str, str] | None = None,
) -> Record:
    """Makes a record of what was measured now.

    Args: as those of `Record`. Device and versions are this process' unless
        they are given; to ask for the device makes the engine take hold of it.

    Returns:
        A `Record` with the date.
    """
    now = datetime.datetime.now(datetime.UTC)
    return Record(
        benchmark=benchmark,
        name=name,
        unit=unit,
        values=tuple(map(float, values)),
        batch_size=batch_size,
        settings=settings or {},
        device=device or provenance.device(),
        versions=versions or provenance.versions(),
        date=now.isoformat(timespec="seconds"),
        error=error,
    )


def append_records(
    path: str | os.PathLike[str], records: Iterable[Record]
) -> None:
    """Adds records to a file of one JSON object per line.

    Several processes may do so at a time, and a line that one of them could
    not finish spoils no other.

    Args:
        path: The file, which is made if it is not there.
        records: What to add.
    """
    lines = "".join(f"{record.to_json()}\n" for record in records)
    with open(path, "a+b") as file:
        # One call of the system, which puts all of it at the end.
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                lines = f"\n{lines}"
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Reads what `append_records` wrote.

    Args:
        path: The file.

    Returns:
        The records; a line that was not finished is left out, and one that
        was written before there was a field has its default.

    Raises:
        ValueError: If a line is something else than a record.
    """
    names = {field.name for field in dataclasses.fields(Record)}
    records = []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        try:
            given = json.loads(line)
        except ValueError:
            continue
        try:
            kept = {name: given[name] for name in names & given.keys()}
            records.append(Record(**{**kept, "values": tuple(kept["values"])}))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                "Expected a file of records, one JSON object per line. "
                f"Received: {path}, with another line {number}"
            ) from error
    return records
