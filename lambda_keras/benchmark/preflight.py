"""What a TPU can be expected to make of a compiled step."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from typing import ClassVar
from typing import NamedTuple

from lambda_keras import provenance
from lambda_keras.benchmark.comparison import ESTIMATED
from lambda_keras.benchmark.comparison import Calibration
from lambda_keras.benchmark.comparison import calibration
from lambda_keras.benchmark.records import Record
from lambda_keras.benchmark.records import make_record
from lambda_keras.benchmark.records import read_records
from lambda_keras.benchmark.topologies import Topology
from lambda_keras.benchmark.topologies import find_topology
from lambda_keras.benchmark.tpu_compiler import TpuProgram

UNIT = "images/s"
NO_ESTIMATE, DOES_NOT_FIT = "no estimate", "does not fit"
# The compiler's estimate is a sum over operations. Where it is less than their
# FLOPs and bytes take at the published peaks, which are rounded, something is
# missing from it.
_LEAST_OF_ROOFLINE = 0.9
# From there on a step may take a second, which looks like an operation of -1.
_LONG = 0.5
# Above it, the largest batch is searched among multiples of less precision.
FINE, STRIDE = 64, 8

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A step on a TPU, as far as it can be told without one.

    All but `images_per_second` is for one device: a core of a TPU v2 or v3, a
    chip of the others.

    Attributes:
        candidate: The model, as `lambda_resnet_152@256`.
        mode: `"train"` or `"infer"`.
        precision: `"float32"` or `"bf16"`.
        batch_size: Images per step, on all devices together.
        program: What the compiler says; one that fits, or nearly all is None.
    """

    benchmark: ClassVar[str] = ESTIMATED
    unit: ClassVar[str] = UNIT

    candidate: str
    mode: str
    precision: str
    batch_size: int
    program: TpuProgram

    @property
    def topology(self) -> Topology:
        """The TPU."""
        return find_topology(self.program.topology)

    @property
    def compute_seconds(self) -> float:
        """The FLOPs at the device's peak, which is bfloat16's."""
        return self.program.flops / self.topology.hardware.flops_per_second

    @property
    def memory_seconds(self) -> float:
        """The bytes at the peak of the memory's bandwidth.

        Arrays that stay on the chip are counted as if they went to memory.
        """
        return self.program.bytes / self.topology.hardware.bytes_per_second

    @property
    def roofline_seconds(self) -> float:
        """The greater of the two; see `memory_seconds` for what takes less."""
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def unknown_operations(self) -> int:
        """How many operations a negative sum of the compiler is without.

        For every operation that it cannot estimate, the compiler adds -1.
        """
        seconds = self.program.optimal_seconds
        return math.ceil(-seconds) if seconds and seconds < 0 else 0

    @property
    def seconds(self) -> float | None:
        """The compiler's estimate of a step; None where it is none.

        That is the case where there is none of what the compiler sees, and
        where there are kernels, which it does not see.
        """
        return None if self.program.kernels else self.seen_seconds

    @property
    def seen_seconds(self) -> float | None:
        """The compiler's estimate of a step without its kernels.

        There is none where its sum, without the unknown operations, is less
        than the roofline, and where a program has loops, which count as if
        they were done once.
        """
        program, unknown = self.program, self.unknown_operations
        if program.optimal_seconds is None or program.loops:
            return None
        seconds = program.optimal_seconds + unknown
        is_short = seconds < _LEAST_OF_ROOFLINE * self.roofline_seconds
        is_unclear = unknown > 0 and self.roofline_seconds > _LONG
        return None if is_short or is_unclear else seconds

    @property
    def value(self) -> float | None:
        """What stands in the record."""
        return self.images_per_second

    @property
    def images_per_second(self) -> float | None:
        """Of all devices together, by the compiler's estimate."""
        return self.batch_size / self.seconds if self.seconds else None

    @property
    def roofline_images_per_second(self) -> float:
        """Of all devices together, by the roofline."""
        return self.batch_size / self.roofline_seconds

    @property
    def maxtext_bytes(self) -> int:
        """The memory that is needed, as MaxText computes it."""
        program = self.program
        return (
            program.argument_bytes
            + program.output_bytes
            + program.temporary_memory_bytes
            - program.alias_bytes
        )

    def to_record(self) -> Record:
        """Makes the record of this estimate."""
        values, error = [], None
        if not self.program.fits:
            error = DOES_NOT_FIT
        elif self.value is None:
            error = NO_ESTIMATE
        else:
            values = [self.value]
        return make_record(
            self.benchmark,
            self.candidate,
            self.unit,
            values,
            self.batch_size,
            settings=self._settings(),
            device={
                "kind": "TPU",
                "name": self.topology.device_kind,
                "count": self.topology.devices,
                "compiled_only": True,
            },
            versions={**provenance.versions(), **self.program.versions},
            error=error,
        )

    def _settings(self) -> dict[str, Any]:
        told = dataclasses.asdict(self.program)
        cached, versions = told.pop("cached"), told.pop("versions")
        fits = self.program.fits
        return {
            "estimate": True,
            "mode": self.mode,
            "precision": self.precision,
            "engine": "jax",
            **told,
            "estimated_seconds": self.seconds if fits else None,
            "unknown_operations": self.unknown_operations,
            "roofline_seconds": self.roofline_seconds if fits else None,
            "compile_cached": cached,
            "libtpu": versions.get("libtpu"),
        }


def read_estimate(record: Record) -> Estimate:
    """Makes an estimate of what `Estimate.to_record` made of it.

    Args:
        record: The record.

    Returns:
        An `Estimate`.
    """
    return Estimate(**estimate_fields(record))


def estimate_fields(record: Record) -> dict[str, Any]:
    """Returns the fields of the `Estimate` that a record was made of."""
    fields = {field.name for field in dataclasses.fields(TpuProgram)}
    settings = record.settings
    told: dict[str, Any] = {
        name: value for name, value in settings.items() if name in fields
    }
    return {
        "candidate": record.name,
        "mode": settings["mode"],
        "precision": settings["precision"],
        "batch_size": record.batch_size,
        "program": TpuProgram(**told),
    }


class TrainingPlan(NamedTuple):
    """A training run, to tell what it takes.

    Attributes:
        recipe: Its name.
        epochs: How often it sees every image.
        batch_size: The recipe's own images per step.
        examples: The number of images.
        price: What a chip costs for an hour, if that is known.

    Example:

    >>> TrainingPlan("mine", 36, 1024, 100_000, price=2.5).hours(1000.0)
    1.0
    """

    recipe: str
    epochs: int
    batch_size: int
    examples: int
    price: float | None

    def hours(self, images_per_second: float) -> float:
        """Returns how many hours it takes at a speed."""
        return self.epochs * self.examples / images_per_second / 3600

    def cost(self, hours: float, chips: float) -> float:
        """Returns what so many chips cost for so long."""
        return hours * chips * self.price


def find_largest(
    fits: Callable[[int], bool], start: int, most: int
) -> int | None:
    """Searches the largest size that fits.

    Args:
        fits: Whether a size does. If one does, all that are less do.
        start: The first size to try; it is doubled until it does not fit, or
            halved until it does.
        most: The largest to try.

    Returns:
        The size, or None if not even 1 fits. From `FINE` on it may be less
        than the largest by up to `STRIDE`, for each size takes minutes.

    Example:

    >>> find_largest(lambda size: size <= 100, start=16, most=1024)
    96
    """
    least, too_large, size = 0, None, min(start, most)
    while True:
        if fits(size):
            least = size
        else:
            too_large = size
        if too_large is None:
            if least == most:
                return least
            size = min(2 * least, most)
        elif too_large - least > (STRIDE if least >= FINE else 1):
            size = (least + too_large) // 2
            if size > FINE:
                size -= size % STRIDE
                size += STRIDE * (size <= least)
        else:
            return least or None


def shipped_calibration(directory: Path = RESULTS) -> list[Calibration]:
    """Reads how estimates compare with what the paper measured.

    Args:
        directory: Where the records are; those that come with the package.

    Returns:
        A row for each model of the paper's figure that was compiled for TPU
        v3; none if there are no records.
    """
    records = [
        record
        for path in sorted(directory.glob("*/records.jsonl"))
        for record in read_records(path)
    ]
    return calibration(records)
