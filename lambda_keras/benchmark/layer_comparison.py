"""Measures layers side by side: processes that take turns, in rounds."""

import contextlib
import dataclasses
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lambda_keras.benchmark import throughput
from lambda_keras.benchmark.children import OUT_OF_MEMORY
from lambda_keras.benchmark.children import Child
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.children import call_in_child
from lambda_keras.benchmark.layer_candidates import Candidate
from lambda_keras.benchmark.layer_candidates import missing_packages
from lambda_keras.benchmark.layer_reference import FORWARD
from lambda_keras.benchmark.layer_reference import TRAINING
from lambda_keras.benchmark.layer_shapes import LayerShape
from lambda_keras.benchmark.records import Record
from lambda_keras.benchmark.records import append_records
from lambda_keras.benchmark.records import make_record
from lambda_keras.benchmark.records import read_records
from lambda_keras.benchmark.settings import LayerBenchmark

BENCHMARK, UNIT = "layer", "ms"
RECORDS, FAILURES = "records.jsonl", "failures.txt"
MODES = {
    "both": (FORWARD, TRAINING),
    FORWARD: (FORWARD,),
    TRAINING: (TRAINING,),
}

_CHILD = "lambda_keras.benchmark.layer_child"
_REFERENCE = "lambda_keras.benchmark.layer_reference:write_reference"

# Threads that wait are not to use the processor, which is another's turn.
# Among busy processes torch's would otherwise take a hundred times as long.
_WAITING = {"OMP_WAIT_POLICY": "passive"}
# On a processor TensorFlow keeps a pool of its own, which is fast and hides
# what a step takes.
_WITHOUT_POOL = {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"}
# The reference is exact: accelerators may multiply in less than float32.
_ON_PROCESSOR = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}


@dataclasses.dataclass(frozen=True)
class Race:
    """Candidates that are measured side by side.

    Attributes:
        shape: At which shape.
        mode: `FORWARD` or `TRAINING`.
        candidates: Which of them.
    """

    shape: LayerShape
    mode: str
    candidates: tuple[Candidate, ...]

    def __str__(self):
        return f"{self.shape.name} {self.mode}"


def describe_engines(
    candidates: Sequence[Candidate],
    settings: LayerBenchmark,
    tell: Callable[[float], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Asks each engine what it computes with, in a process of its own.

    Args:
        candidates: Those that are installed.
        settings: The settings.
        tell: Called every second with the seconds gone by.

    Returns:
        By engine, what `layer_child.describe` does.

    Raises:
        ValueError: If an engine does not start.
    """
    try:
        return {
            engine: call_in_child(
                f"{_CHILD}:describe",
                environment=_environment(engine),
                timeout=settings.timeout,
                tell=tell,
            )
            for engine in dict.fromkeys(one.engine for one in candidates)
        }
    except ChildError as error:
        raise ValueError(error.reason) from error


class LayerComparison:
    """The measurements of one directory, which may be taken up again.

    Args:
        settings: The settings.
        candidates: The candidates of each shape, installed or not.
        engines: What `describe_engines` returned.
        directory: Where the records are.

    Attributes:
        records: What was measured so far.
        notes: What is not measured, and why.

    Raises:
        ValueError: If there are records from another device or other
            versions.
    """

    def __init__(
        self,
        settings: LayerBenchmark,
        candidates: Mapping[LayerShape, Sequence[Candidate]],
        engines: Mapping[str, dict[str, Any]],
        directory: Path,
    ):
        self._settings, self._engines = settings, engines
        self._directory = directory
        self.records: list[Record] = []
        if (directory / RECORDS).exists():
            self.records = read_records(directory / RECORDS)
        self._check_records()
        self.notes = _missing(candidates)
        usable = self._usable_engines()
        self.races = [
            Race(
                shape,
                mode,
                tuple(
                    one
                    for one in many
                    if not missing_packages(one) and one.engine in usable
                ),
            )
            for shape, many in candidates.items()
            for mode in MODES[settings.modes]
        ]

    def _check_records(self):
        for record in self.records:
            engine = record.settings["engine"]
            for name in ("device", "versions"):
                there = getattr(record, name)
                here = self._engines.get(engine, {}).get(name)
                if there != here:
                    raise ValueError(
                        "`output_dir` has measurements with another "
                        f"{name.rstrip('s')}, which only the same can "
                        f"continue: {there}, here {here}. "
                        f"Received: output_dir={self._directory}"
                    )

    def _usable_engines(self):
        """Leaves out who computes on the processor beside an accelerator."""
        kinds = {
            engine: described["device"]["kind"]
            for engine, described in self._engines.items()
        }
        if len(set(kinds.values())) <= 1:
            return set(kinds)
        slow = [engine for engine, kind in kinds.items() if kind == "CPU"]
        self.notes.append(
            f"Not measured: {', '.join(slow)}, which would compute on the "
            "processor, where others have an accelerator."
        )
        return kinds.keys() - {*slow}

    def remaining(self) -> list[Race]:
        """Returns the races that have no records yet."""
        known = {
            (record.settings["shape"], record.settings["mode"])
            for record in self.records
        }
        return [
            race
            for race in self.races
            if (race.shape.name, race.mode) not in known and race.candidates
        ]

    def run(
        self,
        show: Callable[[Sequence[Record]], None],
        tell: Callable[[str], None],
    ) -> None:
        """Measures all that is missing; the records of a race are kept at once.

        Args:
            show: Called with the new records of each race.
            tell: Called every second with what is going on, in a line.
        """
        remaining = self.remaining()
        seconds: list[float] = []
        for shape in dict.fromkeys(race.shape for race in remaining):
            races = [race for race in remaining if race.shape == shape]
            with contextlib.ExitStack() as stack:
                place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                reference = self._write_reference(shape, place, tell)
                children = {
                    candidate: stack.enter_context(
                        Child(_environment(candidate.engine, place))
                    )
                    for race in races
                    for candidate in race.candidates
                }
                for race in races:
                    started = time.monotonic()
                    line = _progress(race, seconds, len(remaining))
                    records = self._measure(
                        race,
                        children,
                        reference,
                        lambda text, line=line: tell(line.format(text)),
                    )
                    seconds.append(time.monotonic() - started)
                    append_records(self._directory / RECORDS, records)
                    self.records += records
                    show(records)

    def _write_reference(self, shape, place, tell):
        path = place / "reference.npz"
        has_jax = importlib.util.find_spec("jax") is not None
        line = f"{shape.name}: what all lambda layers must compute"
        call_in_child(
            _REFERENCE,
            environment={
                **_environment("jax" if has_jax else "tensorflow", place),
                **_ON_PROCESSOR,
            },
            timeout=self._settings.timeout,
            tell=lambda _: tell(line),
            shape=shape.name,
            path=str(path),
        )
        return path

    def _measure(self, race, children, reference, tell):
        settings = self._settings
        contestants = [
            _Contestant(
                candidate,
                children[candidate],
                tell,
                settings.timeout,
                {
                    "candidate": str(candidate),
                    "shape": race.shape.name,
                    "mode": race.mode,
                    "precision": settings.precision,
                    "reference": str(reference),
                },
            )
            for candidate in race.candidates
        ]
        for each in contestants:
            each.prepare()
        for repeat in range(settings.repeats):
            first = repeat % len(contestants)
            for each in contestants[first:] + contestants[:first]:
                each.take_turn(
                    f"round {repeat + 1} of {settings.repeats}",
                    settings.seconds,
                )
        for each in contestants:
            each.weigh(_environment(each.candidate.engine, reference.parent))
            if each.output:
                self._keep_output(race, each)
        return [self._record(race, each) for each in contestants]

    def _record(self, race, contestant):
        candidate = contestant.candidate
        described = self._engines[candidate.engine]
        return make_record(
            BENCHMARK,
            str(candidate),
            UNIT,
            [1000 * seconds for seconds in contestant.times],
            race.shape.batch,
            {
                "shape": race.shape.name,
                "described": str(race.shape),
                "mode": race.mode,
                "engine": candidate.engine,
                "precision": self._settings.precision,
                "seconds": self._settings.seconds,
                **contestant.facts,
            },
            device=described["device"],
            versions=described["versions"],
            error=contestant.error,
        )

    def _keep_output(self, race, contestant):
        with open(self._directory / FAILURES, "a") as file:
            file.write(f"{race}, {contestant.candidate}\n{contestant.output}\n")


class _Contestant:
    """A candidate in a race: its process, and what came of it."""

    def __init__(self, candidate, child, tell, timeout, arguments):
        self.candidate = candidate
        self.facts: dict[str, Any] = {}
        self.times: list[float] = []
        self.error: str | None = None
        self.output = ""
        self._child = child
        self._tell = tell
        self._timeout = timeout
        self._arguments = arguments

    def prepare(self):
        """Has the step compiled and checked."""
        facts = self._call(
            f"preparing {self.candidate}", "prepare", **self._arguments
        )
        self.facts |= facts or {}

    def take_turn(self, text, seconds):
        """Times the step, unless something has failed."""
        if self.error is None:
            mode = self._arguments["mode"]
            taken = self._call(text, "take_turn", mode=mode, seconds=seconds)
            self.times += [taken] if taken is not None else []
        if self.error is not None:
            self.times.clear()

    def weigh(self, environment):
        """Finds the memory of a step, where it must in another process."""
        if self.error is not None:
            return
        timed = self._child
        with contextlib.ExitStack() as stack:
            if self.candidate.engine == "tensorflow":
                self._child = stack.enter_context(
                    Child(environment | _WITHOUT_POOL)
                )
            facts = self._call(
                f"memory of {self.candidate}", "weigh", **self._arguments
            )
        self._child = timed
        self.facts |= facts or {"peak_memory_error": self.error}
        # There are times all the same.
        self.error = None

    def _call(self, text, function, **arguments):
        try:
            return self._child.call(
                f"{_CHILD}:{function}",
                timeout=self._timeout,
                tell=lambda _: self._tell(text),
                **arguments,
            )
        except ChildError as error:
            self.error = error.reason
            if error.reason != OUT_OF_MEMORY:
                self.output += error.output
            return None


def _progress(race, seconds, total):
    """Returns a line with a place for what is being done."""
    line = f"race {len(seconds) + 1} of {total}: {race}, {{}}"
    if not seconds:
        return line
    left = statistics.mean(seconds) * (total - len(seconds))
    return f"{line}; about {max(1, round(left / 60))} min left"


def _missing(candidates):
    """Says which candidates are left out for what is not installed."""
    names: dict[str, dict[str, None]] = {}
    for many in candidates.values():
        for one in many:
            for package in missing_packages(one):
                names.setdefault(package, {})[str(one)] = None
    return [
        f"Not measured, because {package} is not installed: {', '.join(left)}."
        for package, left in names.items()
    ]


def _environment(engine, place=None):
    """Returns the variables of a process of an engine."""
    variables = {
        **throughput.environment(),
        **_WAITING,
        "KERAS_BACKEND": engine,
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if place is not None:
        # Of this shape's processes: what others left would not be compiled.
        variables["TORCHINDUCTOR_CACHE_DIR"] = str(place / "inductor")
    return variables
