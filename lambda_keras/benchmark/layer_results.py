"""How our lambda layers do beside others, from what was measured."""

import dataclasses
import math
from collections.abc import Iterable
from collections.abc import Sequence

from lambda_keras.benchmark.layer_candidates import AUTO
from lambda_keras.benchmark.layer_candidates import FOREIGN
from lambda_keras.benchmark.layer_candidates import KERAS_RUNS
from lambda_keras.benchmark.layer_candidates import TENSORFLOW
from lambda_keras.benchmark.layer_candidates import find_candidate
from lambda_keras.benchmark.layer_shapes import find_shape
from lambda_keras.benchmark.records import Record
from lambda_keras.layers.contractions import IMPLEMENTATIONS


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one shape in one mode.

    Attributes:
        shape: The name of the shape.
        mode: `FORWARD` or `TRAINING`.
        records: All candidates'.
        auto: The fastest of those that are what our layer does by itself,
            compiled by XLA.
        foreign: The fastest of others.
        auto_memory: The leanest of the first.
        foreign_memory: The leanest of others.
        plan_excess: By run, how much longer `auto` takes than the fastest
            implementation, as a part of that.
    """

    shape: str
    mode: str
    records: tuple[Record, ...]
    auto: Record | None
    foreign: Record | None
    auto_memory: Record | None
    foreign_memory: Record | None
    plan_excess: dict[str, float]

    @property
    def speed_up(self) -> float | None:
        """How many times faster ours is than the fastest of others."""
        if self.auto is None or self.foreign is None:
            return None
        return self.foreign.value / self.auto.value

    @property
    def memory_saved(self) -> float | None:
        """How many times less memory ours takes than the leanest of others."""
        if self.auto_memory is None or self.foreign_memory is None:
            return None
        return peak_memory(self.foreign_memory) / peak_memory(self.auto_memory)


def find_results(records: Iterable[Record]) -> list[Result]:
    """Groups records by shape and mode, and compares them.

    Args:
        records: Of `benchmark layer`.

    Returns:
        A result for each shape and mode, in the records' order.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        key = record.settings["shape"], record.settings["mode"]
        groups.setdefault(key, []).append(record)
    return [_find_result(*key, group) for key, group in groups.items()]


def _find_result(shape, mode, records):
    timed = [record for record in records if record.values]
    auto = [
        one
        for one in timed
        if find_candidate(one.name).layer == AUTO
        and find_candidate(one.name).run != TENSORFLOW
    ]
    foreign = [one for one in timed if find_candidate(one.name).kind == FOREIGN]
    excess = {}
    for run in KERAS_RUNS:
        ours = {
            find_candidate(one.name).layer: one.value
            for one in timed
            if find_candidate(one.name).run == run
            and find_candidate(one.name).layer in (AUTO, *IMPLEMENTATIONS)
        }
        planned = ours.pop(AUTO, None)
        if planned is not None and ours:
            excess[run] = planned / min(ours.values()) - 1
    return Result(
        shape,
        mode,
        tuple(records),
        _least(auto, lambda record: record.value),
        _least(foreign, lambda record: record.value),
        _least(filter(peak_memory, auto), peak_memory),
        _least(filter(peak_memory, foreign), peak_memory),
        excess,
    )


def _least(records, key):
    return min(records, key=key, default=None)


def peak_memory(record: Record) -> int | None:
    """Returns the bytes that a step takes, where that was found."""
    return record.settings.get("peak_memory_bytes")


def mean_speed_up(results: Sequence[Result], mode: str) -> float | None:
    """Returns the geometric mean of the speed-ups over image shapes.

    Args:
        results: What `find_results` returns.
        mode: `FORWARD` or `TRAINING`.

    Returns:
        The mean, or None if there is no image shape with both sides.
    """
    factors = [
        result.speed_up
        for result in results
        if result.mode == mode
        and result.speed_up is not None
        and find_shape(result.shape).is_image
    ]
    if not factors:
        return None
    return math.exp(sum(map(math.log, factors)) / len(factors))
