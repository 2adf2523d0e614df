"""What records of models say side by side, and beside the paper."""

import dataclasses
import statistics
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from lambda_keras.benchmark import paper_curve
from lambda_keras.benchmark.hardware import find_hardware
from lambda_keras.benchmark.hardware import share_of_peak
from lambda_keras.benchmark.paper_curve import CORES
from lambda_keras.benchmark.paper_curve import CURVE
from lambda_keras.benchmark.paper_curve import IMAGES
from lambda_keras.benchmark.paper_curve import PaperPoint
from lambda_keras.benchmark.paper_curve import find_point
from lambda_keras.benchmark.records import Record
from lambda_keras.benchmark.records import spread

MEASURED, ESTIMATED = "throughput", "preflight"
# What the paper's times are of.
PAPER_DEVICE = "TPU v3"
_TEXTS = {
    "train": "training",
    "infer": "inference",
    "jax": "JAX",
    "tensorflow": "TensorFlow",
}


@dataclasses.dataclass(frozen=True)
class Setup:
    """What must be the same for two rows to be compared.

    Attributes:
        benchmark: `MEASURED` or `ESTIMATED`.
        kind: `"CPU"`, `"GPU"` or `"TPU"`.
        device: What it ran on, or was compiled for.
        count: How many of them.
        mode: `"train"` or `"infer"`.
        precision: `"float32"` or `"bf16"`.
        engine: Of Keras.
        strategy: How the devices share the work; for estimates the topology.
        input: Where images come from; None for synthetic ones.
    """

    benchmark: str
    kind: str
    device: str
    count: int
    mode: str
    precision: str
    engine: str | None
    strategy: str | None
    input: str | None

    @property
    def is_estimate(self) -> bool:
        """Tells whether a compiler estimated what others measured."""
        return self.benchmark == ESTIMATED

    @property
    def is_of_paper(self) -> bool:
        """Tells whether the paper's times are of the same device and step."""
        of_paper = PAPER_DEVICE, "train", "bf16"
        return (self.device, self.mode, self.precision) == of_paper

    @property
    def device_text(self) -> str:
        """The devices, as `8 x TPU v3 core`."""
        if self.kind == "CPU":
            return f"{self.count} cores of {self.device}"
        hardware = find_hardware(self.device)
        is_tpu = self.kind == "TPU" and hardware is not None
        # JAX calls a v5e "TPU v5 lite", and a core of a v3 by its chip's name.
        name = hardware.name if is_tpu else self.device
        if self.count > 1:
            return f"{self.count} x {name}"
        return f"one {name}" if is_tpu else name

    @property
    def text(self) -> str:
        """What was done, as `training, bf16, JAX`."""
        mode = _TEXTS.get(self.mode, self.mode)
        engine = _TEXTS.get(self.engine, self.engine)
        strategy = None if self.strategy == "none" else self.strategy
        given = (mode, self.precision, engine, strategy, self.input)
        return ", ".join(str(part) for part in given if part)


@dataclasses.dataclass(frozen=True)
class Row:
    """A model at a batch size, with all its repeats.

    Attributes:
        candidate: The model, as `lambda_resnet_152@224`.
        setup: How it was measured.
        batch_size: Of all devices together.
        records: One for each repeat, and those of attempts that failed.
    """

    candidate: str
    setup: Setup
    batch_size: int
    records: tuple[Record, ...]

    @property
    def point(self) -> PaperPoint | None:
        """The model in the paper's figure."""
        return find_point(self.candidate)

    @property
    def figures(self) -> list[float]:
        """Images per second of all devices, for each repeat."""
        return [
            record.value for record in self.records if record.value is not None
        ]

    @property
    def errors(self) -> list[str]:
        """Why there are no figures, or fewer."""
        errors = [record.error for record in self.records]
        return [error for error in dict.fromkeys(errors) if error is not None]

    @property
    def images_per_second(self) -> float | None:
        """The median of the repeats."""
        return statistics.median(self.figures) if self.figures else None

    @property
    def spread(self) -> float | None:
        """From the least to the greatest repeat, as a part of the median."""
        return spread(self.figures) if len(self.figures) > 1 else None

    @property
    def seconds(self) -> float | None:
        """For as many images as the paper gives times for."""
        return IMAGES / self.images_per_second if self.figures else None

    @property
    def compile_seconds(self) -> float | None:
        """Without what was found in a cache."""
        fresh = [
            record
            for record in self.records
            if not record.settings.get("compile_cached")
        ]
        return dataclasses.replace(self, records=tuple(fresh)).median(
            "compile_seconds"
        )

    @property
    def peak_memory_bytes(self) -> float | None:
        """The most that any repeat took."""
        values = self.known("peak_memory_bytes")
        return max(values) if values else None

    @property
    def flops_per_image(self) -> float | None:
        """Floating point operations: of the layers, or as compiled."""
        if not self.setup.is_estimate:
            return self.median("flops_per_image")
        flops = self.median("flops")
        if flops is None:
            return None
        return flops * self.setup.count / self.batch_size

    @property
    def flops_per_second(self) -> float | None:
        """Of all devices together."""
        if self.flops_per_image is None or not self.figures:
            return None
        return self.flops_per_image * self.images_per_second

    @property
    def peak_share(self) -> float | None:
        """Operations per second, of what the devices can do at most."""
        if self.flops_per_second is None:
            return None
        setup = self.setup
        return share_of_peak(
            self.flops_per_second, setup.device, setup.count, setup.precision
        )

    def known(self, setting: str) -> list[Any]:
        """Returns what the records have under a name, where they have it.

        Args:
            setting: A key of their settings.

        Returns:
            A value for each that has one.
        """
        values = [record.settings.get(setting) for record in self.records]
        return [value for value in values if value is not None]

    def median(self, setting: str) -> float | None:
        """Returns the median of `known`, or None if there is nothing."""
        values = self.known(setting)
        return statistics.median(values) if values else None


@dataclasses.dataclass(frozen=True)
class SpeedUp:
    """How many times as fast a LambdaResNet is as an EfficientNet.

    Attributes:
        efficientnet: The one, at its fastest batch size.
        lambda_resnet: The other, of at least its accuracy, at its fastest.
    """

    efficientnet: Row
    lambda_resnet: Row

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return self.efficientnet.seconds / self.lambda_resnet.seconds

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest ratio of two repeats."""
        slow, fast = self.efficientnet.figures, self.lambda_resnet.figures
        return min(fast) / max(slow), max(fast) / min(slow)

    @property
    def paper_ratio(self) -> float:
        """Of the same two in the paper's figure."""
        slow, fast = self.efficientnet.point, self.lambda_resnet.point
        return slow.seconds / fast.seconds


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What is found for a model beside what the paper measured.

    Attributes:
        candidate: The model, as `lambda_resnet_152@224`.
        batch_size: Of one core.
        estimated: Images per second of one TPU v3 core.
        paper: The same in the paper.
    """

    candidate: str
    batch_size: int
    estimated: float
    paper: float

    @property
    def ratio(self) -> float:
        """The estimate over the paper's."""
        return self.estimated / self.paper


def compare(records: Iterable[Record]) -> dict[Setup, list[Row]]:
    """Puts records of models side by side.

    Args:
        records: Of `benchmark throughput` and `preflight`; others are left
            out, and so are the figures of attempts to find a batch size.

    Returns:
        Rows by what makes them comparable, in the order of the paper's curve,
        models that it has not got last.
    """
    groups: dict[tuple[Setup, str, int], list[Record]] = {}
    for record in records:
        if record.benchmark not in (MEASURED, ESTIMATED):
            continue
        is_attempt = record.settings.get("kind") == "ladder"
        if is_attempt and record.error is None:
            continue
        key = _setup(record), record.name, record.batch_size
        groups.setdefault(key, []).append(record)
    order = {point.candidate: place for place, point in enumerate(CURVE)}
    sections: dict[Setup, list[Row]] = {}
    for (setup, name, batch_size), group in groups.items():
        row = Row(name, setup, batch_size, tuple(group))
        sections.setdefault(setup, []).append(row)
    for rows in sections.values():
        rows.sort(
            key=lambda row: (
                order.get(row.candidate, len(order)),
                row.candidate,
                row.batch_size,
            )
        )
    return sections


def _setup(record):
    given = record.settings
    is_estimate = record.benchmark == ESTIMATED
    return Setup(
        benchmark=record.benchmark,
        kind=record.device["kind"],
        device=record.device["name"],
        count=record.device["count"],
        mode=given.get("mode"),
        precision=given.get("precision"),
        engine=given.get("engine"),
        strategy=given.get("topology" if is_estimate else "strategy"),
        input=given.get("input"),
    )


def fastest(rows: Iterable[Row]) -> list[Row]:
    """Chooses each model's batch size, among rows of one setup.

    Args:
        rows: The rows.

    Returns:
        For each model the row of the most images per second, in the same
        order; without models that have no figure.
    """
    best: dict[str, Row] = {}
    for row in rows:
        if row.seconds is not None:
            known = best.setdefault(row.candidate, row)
            if row.seconds < known.seconds:
                best[row.candidate] = row
    return list(best.values())


def speed_ups(rows: Sequence[Row]) -> list[SpeedUp]:
    """Compares models of matched accuracy, among rows of one setup.

    Args:
        rows: The rows.

    Returns:
        For each EfficientNet the least time of a LambdaResNet that is among
        the rows and has at least its accuracy in the paper's figure.
    """
    best = {row.candidate: row for row in fastest(rows)}
    pairs = paper_curve.matched(
        {name: row.seconds for name, row in best.items()}
    )
    return [
        SpeedUp(best[slow.candidate], best[fast.candidate])
        for slow, fast in pairs
    ]


def calibration(records: Iterable[Record]) -> list[Calibration]:
    """Holds estimates of training steps on TPU v3 against the paper.

    Args:
        records: Of `preflight`; others are left out.

    Returns:
        One for each model of the paper's curve, in its order.

    Example:

    >>> calibration([])
    []
    """
    best: dict[str, Calibration] = {}
    for setup, rows in compare(records).items():
        for row in rows if setup.is_estimate else ():
            found = calibrate(row)
            known = best.get(row.candidate, found)
            if found and found.estimated >= known.estimated:
                best[row.candidate] = found
    return [best[p.candidate] for p in CURVE if p.candidate in best]


def calibrate(row: Row) -> Calibration | None:
    """Holds a row against the paper.

    Args:
        row: A model at a batch size.

    Returns:
        A `Calibration`, or None where it has no figure or the paper none.
    """
    if not row.figures or not row.point or not row.setup.is_of_paper:
        return None
    return Calibration(
        candidate=row.candidate,
        batch_size=row.batch_size // row.setup.count,
        estimated=row.images_per_second / row.setup.count,
        paper=row.point.images_per_second / CORES,
    )
