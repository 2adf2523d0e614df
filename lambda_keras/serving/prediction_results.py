"""Files of predictions that a stopped process leaves to the next one."""

import collections
import contextlib
import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lambda_keras.files import locked
from lambda_keras.files import write_aside
from lambda_keras.serving.prediction import Prediction

# Not the name of what `write_aside` leaves: that is for others to remove.
UNFINISHED = ".unfinished-"
IDENTITY = "settings.json"
# Far more than names and labels have; where a quote is lost, the rest of the
# file would seem to be one row.
LONGEST_ROW = 1 << 20
# Of the images without labels, how many an error names.
NAMED = 3


class CsvRows:
    """Rows as spreadsheets read them, of as many columns each.

    Args:
        top_k: How many classes an image has.
    """

    def __init__(self, top_k: int):
        self.top_k = top_k

    def header(self) -> str:
        """Returns the names of the columns."""
        names = ["name", "status"]
        for place in range(1, self.top_k + 1):
            number = f"_{place}" if place > 1 else ""
            names += [f"{name}{number}" for name in ("class", "label", "score")]
        return _csv_line(names)

    def write(self, prediction: Prediction) -> str:
        """Returns a row; columns without an answer are empty."""
        row = [prediction.name, prediction.status]
        for number, label, score in _triples(prediction):
            row += [str(number), label, f"{score:.6g}"]
        missing = 3 * (self.top_k - len(prediction.classes))
        return _csv_line(row + [""] * missing)

    def is_whole(self, text: bytes) -> bool:
        """Tells whether this is a row, or goes on in the next line."""
        return text.endswith(b"\n") and text.count(b'"') % 2 == 0

    def status(self, text: str) -> str:
        """Returns the status in a row."""
        (row,) = csv.reader([text])
        return row[1]


class JsonRows:
    """Rows that are JSON objects, of one line each.

    Args:
        top_k: How many classes an image has.
    """

    def __init__(self, top_k: int):
        del top_k  # An object says by itself how many there are.

    def header(self) -> str:
        """Returns nothing: names stand in every row."""
        return ""

    def write(self, prediction: Prediction) -> str:
        """Returns a row, without predictions where there is no answer."""
        row = {
            "name": prediction.name,
            "status": prediction.status,
            "predictions": [
                {"class": x, "label": label, "score": float(f"{score:.6g}")}
                for x, label, score in _triples(prediction)
            ],
        }
        return f"{json.dumps(row, ensure_ascii=False)}\n"

    def is_whole(self, text: bytes) -> bool:
        """Tells whether this is a row."""
        return text.endswith(b"\n")

    def status(self, text: str) -> str:
        """Returns the status in a row."""
        return json.loads(text)["status"]


class TableRows:
    """Rows for people: a line for an image, and one for each of its classes.

    Args:
        top_k: How many classes an image has.
    """

    def __init__(self, top_k: int):
        del top_k  # Each class has its own line.

    def header(self) -> str:
        """Returns the names of the columns, which are below an image's."""
        return f"{'score':>8} {'class':>6}  label\n"

    def write(self, prediction: Prediction) -> str:
        """Returns the lines of an image, with its status if there are none."""
        name = show_text(prediction.name)
        if not prediction.classes:
            return f"{name}: {prediction.status}\n"
        lines = [
            f"{score:8.4f} {number:6}  {show_text(label)}\n"
            for number, label, score in _triples(prediction)
        ]
        return "".join([f"{name}\n", *lines])


class PrintedResults:
    """Predictions on standard output; nobody goes on with them.

    Args:
        rows: How a row is written.
        total: How many rows there will be.

    Attributes:
        without: The first of the images that have no labels.
    """

    def __init__(self, rows: TableRows | JsonRows, total: int):
        self.total = total
        self.done = 0
        self.statuses: collections.Counter[str] = collections.Counter()
        self.without: list[str] = []
        self._rows = rows
        print(rows.header(), end="")

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Prints the rows of a batch.

        Args:
            predictions: The predictions.
        """
        text = "".join(map(self._rows.write, predictions))
        print(text, end="", flush=True)
        self.statuses.update(prediction.status for prediction in predictions)
        without = [
            f"{show_text(prediction.name)} ({prediction.status})"
            for prediction in predictions
            if not prediction.classes
        ]
        self.without = [*self.without, *without][:NAMED]
        self.done += len(predictions)


def show_text(text: str) -> str:
    """Returns a name as one line that does nothing to a terminal."""
    return "".join(
        letter
        if letter.isprintable()
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


# By the endings of `PredictSettings.output`.
ROWS: dict[str, type[CsvRows] | type[JsonRows]] = {
    ".csv": CsvRows,
    ".jsonl": JsonRows,
}


class Results:
    """A file of predictions that is being written; see `open_results`.

    Args:
        file: The file, which may have some rows, opened for appending.
        rows: How a row is written.
        total: How many rows it will have.
        batch_size: How many rows are written at a time.
    """

    def __init__(
        self,
        file: io.FileIO,
        rows: CsvRows | JsonRows,
        total: int,
        batch_size: int,
    ):
        self.total = total
        self.done = 0
        self.statuses: collections.Counter[str] = collections.Counter()
        self._file = file
        self._rows = rows
        end = self._count_batches(Path(file.name), batch_size)
        file.truncate(end)
        if not end:
            self._write(rows.header())

    def _count_batches(self, path, batch_size):
        """Counts rows as whole batches, and returns where they end.

        Then those to come are the same as in a run that was not stopped.
        """
        end = len(self._rows.header().encode())
        if _size(path) < end:
            return 0
        batch: collections.Counter[str] = collections.Counter()
        rows = _read_rows(path, self._rows, end)
        for number, (status, position) in enumerate(rows, 1):
            batch[status] += 1
            if number % batch_size == 0 or number == self.total:
                self.statuses += batch
                batch.clear()
                self.done, end = number, position
        return end

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Appends the rows of a batch, which then outlast this process.

        Args:
            predictions: The predictions.
        """
        self._write("".join(map(self._rows.write, predictions)))
        self.statuses.update(prediction.status for prediction in predictions)
        self.done += len(predictions)

    def _write(self, text):
        rest = memoryview(text.encode())
        while rest:
            rest = rest[self._file.write(rest) :]


def _read_rows(path, rows, start):
    """Yields the status of each whole row and where the row ends."""
    with open(path, "rb") as file:
        file.seek(start)
        text = b""
        for line in file:
            text += line
            if not rows.is_whole(text) and len(text) < LONGEST_ROW:
                continue
            try:
                status = rows.status(text.decode())
            # Not what was written here; as good as torn.
            except (ValueError, IndexError, KeyError, TypeError, csv.Error):
                return
            start += len(text)
            yield status, start
            text = b""


@contextlib.contextmanager
def open_results(
    path: Path,
    identity: dict[str, Any],
    top_k: int,
    total: int,
    batch_size: int,
) -> Iterator[Results]:
    """Opens a file of predictions that appears when it is complete.

    Until then it lies in a hidden directory beside `path`, where the next one
    to open it goes on. Of what was written only whole batches are kept.

    Args:
        path: The file, whose ending says how rows are written.
        identity: What must be the same for predictions to be continued.
        top_k: How many classes an image has.
        total: How many rows there will be.
        batch_size: How many are written at a time.

    Yields:
        The `Results`.

    Raises:
        FileExistsError: If `path` exists, if another process is writing it,
            or if what was begun has another identity.
    """
    directory = path.with_name(f"{UNFINISHED}{path.name}")
    is_taken = os.path.lexists(directory) and not directory.is_dir()
    if os.path.lexists(path) or is_taken:
        raise FileExistsError(
            f"`output` must not exist yet, nor {directory.name} beside it, "
            f"unless as what a stopped command left. Received: output={path}"
        )
    directory.mkdir(exist_ok=True)
    rows_path = directory / path.name
    with _locked(directory, path):
        rows = ROWS[path.suffix](top_k)
        # What was begun before a row was complete, nobody misses.
        if _size(rows_path) > len(rows.header().encode()):
            _check_identity(directory, identity, path)
        else:
            rows_path.unlink(missing_ok=True)
        try:
            with write_aside(directory / IDENTITY) as temporary:
                temporary.write_text(json.dumps(identity, indent=2) + "\n")
            # Without a buffer: what a full disk does not take is not tried
            # again when the file is closed.
            with open(rows_path, "ab", buffering=0) as file:
                yield Results(file, rows, total, batch_size)
                os.fsync(file.fileno())
        except BaseException:
            if _size(rows_path) <= len(rows.header().encode()):
                shutil.rmtree(directory)
            raise
        os.replace(rows_path, path)
        shutil.rmtree(directory)


@contextlib.contextmanager
def _locked(directory, path):
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(directory))
        except FileExistsError:
            raise FileExistsError(
                "`output` must not be that of a command that is still going "
                f"on. Received: output={path}"
            ) from None
        yield


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _check_identity(directory, identity, path):
    try:
        there = json.loads((directory / IDENTITY).read_text())
    except (OSError, ValueError):
        there = {}
    differing = [
        f"{name}={value} (there {there.get(name)})"
        for name, value in identity.items()
        if value != there.get(name)
    ]
    if differing:
        raise FileExistsError(
            "`output` was begun with other settings, which only they can "
            f"continue: {', '.join(differing)}; to begin anew, remove "
            f"{directory}. Received: output={path}"
        )


def _triples(prediction):
    return zip(prediction.classes, prediction.labels, prediction.scores)


def _csv_line(fields):
    # The writer quotes a return only where its own lines end in one.
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(fields)
    return text.getvalue().removesuffix("\r\n") + "\n"
