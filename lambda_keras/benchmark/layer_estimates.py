"""What a TPU can be expected to make of single lambda layers."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any
from typing import ClassVar

from lambda_keras.benchmark.layer_candidates import AUTO
from lambda_keras.benchmark.layer_reference import FORWARD
from lambda_keras.benchmark.layer_reference import TRAINING
from lambda_keras.benchmark.layer_shapes import KEY_DIM
from lambda_keras.benchmark.layer_shapes import NUM_HEADS
from lambda_keras.benchmark.layer_shapes import LayerShape
from lambda_keras.benchmark.layer_shapes import find_shape
from lambda_keras.benchmark.layer_steps import jax_layer_function
from lambda_keras.benchmark.preflight import Estimate
from lambda_keras.benchmark.preflight import estimate_fields
from lambda_keras.benchmark.records import Record
from lambda_keras.benchmark.settings import POLICIES
from lambda_keras.benchmark.steps import Step
from lambda_keras.benchmark.topologies import find_topology
from lambda_keras.benchmark.tpu_compiler import build_without_weights
from lambda_keras.benchmark.tpu_compiler import compile_for_tpu
from lambda_keras.benchmark.tpu_compiler import shapes_of
from lambda_keras.layers import LambdaLayer
from lambda_keras.layers.fused_kernels import LANES
from lambda_keras.layers.precision import itemsize
from lambda_keras.layers.targets import target
from lambda_keras.tables import markdown_table

BENCHMARK = "layer preflight"
# Without the convolution: compilers take minutes for its gradient.
CANDIDATES = (AUTO, "lambda_first", "query_first", "blocked")
NONE = "-"

_MODES = {"train": TRAINING, "infer": FORWARD}
_STEPS = {
    "train": "forward, and backward to inputs and all weights",
    "infer": "forward",
}
_WHAT = (
    "The compiler's estimates, counts and seconds; nothing ran on a TPU. A "
    "layer has 4 heads and a key depth of 16; a step starts from inputs and, "
    "for training, from the gradient of the outputs. `auto` is what a layer "
    "does by itself on such a TPU; the others are what it chooses from, "
    "without kernels. The convolution is left out: compilers take minutes for "
    "its gradient. MB are those that operations read and write, also of "
    "arrays that stay on the chip; memory is the peak, arguments and results "
    "included."
)
_KERNELS = (
    "The compiler does not see inside kernels, so there is no estimate of "
    "such a step; what stands in its row is of the rest, without them. What "
    "kernels take at the least is counted by hand, at the peaks of the TPU, "
    "of which they reach a part: the two are not added."
)


@dataclasses.dataclass(frozen=True)
class LayerEstimate(Estimate):
    """A step of one layer on a TPU, as far as it can be told without one.

    Attributes:
        shape: The inputs, and what the layer does with them.
        implementation: How its position lambdas are contracted.
        reason: Why.
    """

    benchmark: ClassVar[str] = BENCHMARK
    unit: ClassVar[str] = "ms"

    shape: LayerShape
    implementation: str
    reason: str

    @property
    def value(self) -> float | None:
        """Milliseconds of a step, by the compiler's estimate."""
        return None if self.seconds is None else 1000 * self.seconds

    @property
    def kernel_flops(self) -> int:
        """What matrix units do in the kernels, counted by hand.

        Two products forward, and five backward, two of which are the first
        ones again. Rows and columns that are filled up, or zero, take as long
        as others: of a product with queries, those of all but one position.
        """
        _, reach, _, rows, products = self._kernel_sizes()
        return 2 * products * rows * LANES * _fill(reach, LANES)

    @property
    def kernel_bytes(self) -> int:
        """What kernels read and write at the least, counted by hand.

        That is each array once by each kernel. The gradient of embeddings is
        in float32.
        """
        positions, reach, batch, _, products = self._kernel_sizes()
        if not products:
            return 0
        size = itemsize(POLICIES[self.precision].removeprefix("mixed_"))
        value_dim = self.shape.channels // NUM_HEADS
        queries = batch * positions * NUM_HEADS * KEY_DIM
        embeddings = positions * KEY_DIM * _fill(reach, LANES)
        values = batch * reach * value_dim
        outputs = batch * positions * self.shape.channels
        if self.mode == "infer":
            return size * (queries + embeddings + values + outputs)
        read_or_written = 4 * queries + 3 * (embeddings + values + outputs)
        return size * read_or_written + 4 * embeddings

    @property
    def kernel_seconds(self) -> float:
        """The least that kernels take, by the peaks of the TPU."""
        hardware = self.topology.hardware
        return max(
            self.kernel_flops / hardware.flops_per_second,
            self.kernel_bytes / hardware.bytes_per_second,
        )

    def _kernel_sizes(self):
        shape, devices = self.shape, self.topology.devices
        reach = shape.positions * shape.intra_depth + KEY_DIM
        batch = shape.batch // devices
        rows = batch * NUM_HEADS * _fill(shape.positions, LANES // KEY_DIM)
        products = 0
        if self.program.kernels:
            products = 7 if self.mode == "train" else 2
        return shape.positions, reach, batch, rows, products

    def _settings(self) -> dict[str, Any]:
        return {
            **super()._settings(),
            "shape": self.shape.name,
            "described": str(self.shape),
            "implementation": self.implementation,
            "reason": self.reason,
            "seen_seconds": self.seen_seconds,
            "kernel_flops": self.kernel_flops,
            "kernel_bytes": self.kernel_bytes,
            "kernel_seconds": self.kernel_seconds,
        }


def compile_layer(
    shape: str,
    candidate: str,
    mode: str,
    precision: str,
    topology: str,
    use_cache: bool,
) -> dict[str, Any]:
    """Compiles a step of a layer for a TPU; for `call_in_child`.

    Args:
        shape: As `find_shape` takes it.
        candidate: One of `CANDIDATES`.
        mode: `"train"` or `"infer"`.
        precision: A key of `POLICIES`.
        topology: The TPU, as `v5e-1`.
        use_cache: Whether to look the program up; see `compile_for_tpu`.

    Returns:
        `program`, the fields of a `TpuProgram`, and the `implementation` that
        is planned with its `reason`.
    """
    found, tpu = find_shape(shape), find_topology(topology)
    use_kernels = candidate == AUTO and tpu.devices == 1

    def build():
        layer = LambdaLayer(
            **found.layer_arguments,
            implementation=candidate,
            dtype=POLICIES[precision],
        )
        layer.build(found.inputs_shape)
        return layer

    layer = build_without_weights(build)
    with target("tpu", chip=tpu.device_kind if use_kernels else None):
        plan = layer.plan(found.inputs_shape, training=mode == "train")
    function = jax_layer_function(layer, _MODES[mode])

    def step(state, arrays):
        weights, others = state
        outputs, gradients, others = function(weights, others, *arrays)
        return (outputs, gradients), [weights, others]

    def make_step():
        variables = layer.trainable_variables, layer.non_trainable_variables
        return Step(step, [[each.value for each in some] for some in variables])

    # Inputs and cotangent.
    arrays = ((found.inputs_shape, layer.compute_dtype),) * 2
    program = compile_for_tpu(
        shapes_of(make_step), arrays, topology, use_cache, use_kernels
    )
    return {
        "program": dataclasses.asdict(program),
        "implementation": plan.implementation,
        "reason": plan.reason,
    }


def read_layer_estimate(record: Record) -> LayerEstimate:
    """Makes an estimate of what `LayerEstimate.to_record` made of it."""
    settings = record.settings
    return LayerEstimate(
        **estimate_fields(record),
        shape=find_shape(settings["shape"]),
        implementation=settings["implementation"],
        reason=settings["reason"],
    )


def layers_page(records: Sequence[Record]) -> str:
    """Lays out estimates of layers.

    Args:
        records: Made by `LayerEstimate.to_record`.

    Returns:
        The text of a Markdown file: a table for each TPU, mode and precision.
    """
    parts = ["# Lambda layers on TPUs, by their compiler", _WHAT]
    groups: dict[str, list[LayerEstimate]] = {}
    for estimate in map(read_layer_estimate, records):
        title = (
            f"{estimate.topology.name}: {_STEPS[estimate.mode]}, "
            f"{estimate.precision}"
        )
        groups.setdefault(title, []).append(estimate)
    for title, group in groups.items():
        estimates = _in_order(group)
        parts += [f"## {title}", _table(estimates)]
        with_kernels = [one for one in estimates if one.program.kernels]
        if with_kernels:
            lines = [_kernel_line(one) for one in with_kernels]
            parts += [_KERNELS, "\n".join(lines)]
    return "\n\n".join([*parts, _provenance(records)])


def _in_order(estimates):
    """Puts what was compiled later beside the others of its layer."""
    shapes = list(dict.fromkeys(one.shape for one in estimates))
    return sorted(
        estimates,
        key=lambda one: (
            shapes.index(one.shape),
            CANDIDATES.index(one.candidate),
        ),
    )


def _table(estimates):
    header = ["layer", "candidate", "plan", "estimate, ms", "times auto"]
    header += ["roofline, ms", "GFLOP", "MB", "memory, MB", "compile s"]
    planned = {
        one.shape: one.seconds
        for one in estimates
        if one.candidate == AUTO and one.program.fits
    }
    rows = []
    for one in estimates:
        program = one.program
        head = [str(one.shape), one.candidate, one.implementation]
        if not program.fits:
            rows.append([*head, "does not fit", *[NONE] * 6])
            continue
        auto, seconds = planned.get(one.shape), one.seconds
        times = f"{seconds / auto:.2f}" if seconds and auto else NONE
        mark = " without kernels" if program.kernels else ""
        rows.append(
            [
                *head,
                f"{_milliseconds(one.seen_seconds)}{mark}",
                times,
                _milliseconds(one.roofline_seconds),
                f"{program.flops / 1e9:,.1f}",
                f"{program.bytes / 1e6:,.0f}",
                f"{program.peak_memory_bytes / 1e6:,.0f}",
                f"{program.compile_seconds:.1f}",
            ]
        )
    return markdown_table(header, rows)


def _kernel_line(estimate):
    return (
        f"- {estimate.shape}: {estimate.program.kernels} kernels, "
        f"{estimate.kernel_flops / 1e9:,.1f} GFLOP and "
        f"{estimate.kernel_bytes / 1e6:,.0f} MB, at the least "
        f"{_milliseconds(estimate.kernel_seconds)} ms; "
        f"the rest {_milliseconds(estimate.seen_seconds)} ms"
    )


def _milliseconds(seconds):
    return NONE if seconds is None else f"{1000 * seconds:,.2f}"


def _provenance(records):
    versions = {}
    for record in records:
        versions |= record.versions
    dates = sorted({record.date[:10] for record in records})
    numbers = ", ".join(f"{name} {one}" for name, one in versions.items())
    return (
        f"Compiled {' to '.join(dict.fromkeys((dates[0], dates[-1])))} with "
        f"{numbers}."
    )


def _fill(number, multiple):
    return math.ceil(number / multiple) * multiple
