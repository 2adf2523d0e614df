"""Programs compiled for TPUs on machines that have none, and what they take.

libtpu holds the compiler that a TPU uses, and it needs no TPU to compile. It
is loaded once in a process and writes to standard error as it likes, so all of
this belongs into a child process that has `ENVIRONMENT`.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from lambda_keras.benchmark import steps
from lambda_keras.benchmark.candidates import find_candidate
from lambda_keras.benchmark.steps import Step
from lambda_keras.benchmark.topologies import find_topology
from lambda_keras.files import write_aside
from lambda_keras.layers.targets import target

# For `call_in_child`. Without the third, libtpu asks Google's cloud what
# machine this is; without the fourth, only one process of a machine may
# compile; without the fifth, it leaves files in /tmp. The last two are meant
# for what computes on this machine, and would change the program.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "jax",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_LOG_DIR": "disabled",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "JAX_ENABLE_X64": "0",
    "XLA_FLAGS": "",
}

_COLLECTIVES = (
    "all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|"
    "collective-permute|collective-broadcast"
)
# `%x = (f32[64]{0}, f32[8,64]{1,0}) all-reduce(%a, %b), ...`; what stands
# between = and the operation's name has neither operands nor strings.
_COLLECTIVE = re.compile(rf'= ([^%"]*?) ({_COLLECTIVES})(-start)?\(')
# What Pallas makes of a kernel.
_KERNEL = "tpu_custom_call"
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_NUMBER = r"([\d.]+)([KMGTP]?)"
_SHORTAGES = (
    rf"\({_NUMBER}\) exceeds available HBM \({_NUMBER}\)",
    rf"Used {_NUMBER} of {_NUMBER} hbm",
)


@dataclasses.dataclass(frozen=True)
class TpuProgram:
    """What the compiler says of a program, for one device of a TPU.

    A program that does not fit into the device's memory has no more than
    `needed_bytes` and `available_bytes`; one that fits has no `needed_bytes`.

    Attributes:
        topology: The name of the TPU.
        fits: Whether the compiler accepts it.
        available_bytes: How much memory the compiler may use; None where it
            does not say so.
        needed_bytes: How much it says that it would need.
        peak_memory_bytes: The most that is in use at a time.
        temporary_memory_bytes: What is neither argument nor result.
        argument_bytes: State and batch.
        output_bytes: The results.
        alias_bytes: What of the results takes the place of an argument.
        flops: Floating-point operations of a step.
        bytes: Read and written in a step by its operations, also of arrays
            that stay in the chip's own memory.
        optimal_seconds: The compiler's estimate; -1 is added for every
            operation that it has no estimate of.
        collectives: Counts and bytes of what devices exchange, by kind.
        loops: Loops, whose work is counted as if it were done once.
        kernels: Calls of Pallas kernels, of which nothing is counted.
        compile_seconds: How long compiling took.
        cached: Whether that was earlier, and read from the cache.
        versions: Of the compiler.
    """

    topology: str
    fits: bool
    available_bytes: int | None
    needed_bytes: int | None = None
    peak_memory_bytes: int | None = None
    temporary_memory_bytes: int | None = None
    argument_bytes: int | None = None
    output_bytes: int | None = None
    alias_bytes: int | None = None
    flops: float | None = None
    bytes: float | None = None
    optimal_seconds: float | None = None
    collectives: dict[str, dict[str, int]] = dataclasses.field(
        default_factory=dict
    )
    loops: int = 0
    kernels: int = 0
    compile_seconds: float = 0.0
    cached: bool = False
    versions: dict[str, str] = dataclasses.field(default_factory=dict)


def compile_for_tpu(
    step: Step,
    batch: tuple[tuple[tuple[int, ...], Any], ...],
    topology: str,
    use_cache: bool = True,
    use_kernels: bool = False,
) -> TpuProgram:
    """Compiles a step for a TPU, to be called in a child process.

    The state is on every device and donated; the batch is divided between
    them, as with `keras.distribution.DataParallel`: batch statistics are
    those of the whole batch.

    Args:
        step: The step. Only shapes and dtypes of its state are looked at.
        batch: Shape and dtype of each array, as `steps.batch_shapes` has
            them.
        topology: The TPU, as `v5e-8`.
        use_cache: Whether a program that was compiled before, by the same
            compiler, is looked up.
        use_kernels: Whether layers may take kernels that are made for this
            TPU, as they do on one device. The compiler sees no more of them
            than their arrays, and gives no time.

    Returns:
        A `TpuProgram`.

    Raises:
        ValueError: If there is no such TPU.

    Example:

    ```python
    step = jax_step(compile_model(model), "train")
    batch = batch_shapes(model, "train", 1024)
    compile_for_tpu(step, batch, "v5e-8").peak_memory_bytes
    ```
    """
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec

    tpu = find_topology(topology)
    description = topologies.get_topology_desc(
        platform="tpu",
        topology_name=tpu.compiler_name,
        chip_config_name=tpu.chip_config,
    )
    mesh = Mesh(np.array(description.devices[: tpu.devices]), ("batch",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    divided = NamedSharding(mesh, PartitionSpec("batch"))
    state = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(
            array.shape, array.dtype, sharding=everywhere
        ),
        step.state,
    )
    arrays = tuple(
        jax.ShapeDtypeStruct(shape, dtype, sharding=divided)
        for shape, dtype in batch
    )
    # Layers are to do what they do on a TPU, not on what traces them here.
    with target("tpu", chip=tpu.device_kind if use_kernels else None):
        lowered = jax.jit(step.function, donate_argnums=0).lower(state, arrays)
    versions = compiler_versions()
    directory = cache_directory()
    entry = None
    if directory is not None:
        entry = directory / f"{_key(lowered.as_text(), tpu, versions)}.json"
    if entry and use_cache and (known := _read_entry(entry)):
        return dataclasses.replace(known, topology=topology, cached=True)
    # Before what takes minutes, which nothing is to spoil.
    available = _available_bytes(everywhere)
    started = time.monotonic()
    facts = _compile(lowered)
    program = TpuProgram(
        topology=topology,
        compile_seconds=time.monotonic() - started,
        versions=versions,
        **{"available_bytes": available, **facts},
    )
    if entry:
        _write_entry(entry, program)
    return program


def compiler_versions() -> dict[str, str]:
    """Returns the versions of what decides how a program is compiled."""
    return {
        name: importlib.metadata.version(name)
        for name in ("jax", "jaxlib", "libtpu")
    }


def _compile(lowered):
    import jax

    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        shortage = parse_shortage(str(error))
        if shortage is None:
            raise
        needed, available = shortage
        return {
            "fits": False,
            "needed_bytes": needed,
            "available_bytes": available,
        }
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    text = compiled.as_text()
    return {
        "fits": True,
        "peak_memory_bytes": memory.peak_memory_in_bytes,
        "temporary_memory_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "flops": costs["flops"],
        "bytes": costs["bytes accessed"],
        "optimal_seconds": costs.get("optimal_seconds"),
        "collectives": count_collectives(text),
        "loops": text.count(" while("),
        "kernels": text.count(f'custom_call_target="{_KERNEL}"'),
    }


def _available_bytes(sharding):
    # Said only of programs that do not fit, so here is one: a TiB twice, which
    # is refused in no time.
    import jax

    huge = jax.ShapeDtypeStruct((2**28, 2**10), "float32", sharding=sharding)
    lowered = jax.jit(lambda x: x + x[::-1]).lower(huge)
    try:
        return _compile(lowered).get("available_bytes")
    except jax.errors.JaxRuntimeError:
        return None  # Refused in words that are not known here.


def parse_shortage(message: str) -> tuple[int, int] | None:
    """Reads how much memory a program lacks, off the compiler's refusal.

    Args:
        message: The error's text.

    Returns:
        The bytes needed and the bytes there are; None if the error is about
        something else.

    Example:

    >>> parse_shortage("RESOURCE_EXHAUSTED: (2.5K) exceeds available HBM (2K)")
    (2560, 2048)
    """
    for pattern in _SHORTAGES:
        match = re.search(pattern, message)
        if match and "RESOURCE_EXHAUSTED" in message:
            needed, needed_unit, there, there_unit = match.groups()
            return _bytes(needed, needed_unit), _bytes(there, there_unit)
    return None


def _bytes(number, unit):
    return round(float(number) * 1024 ** " KMGTP".index(unit or " "))


def count_collectives(text: str) -> dict[str, dict[str, int]]:
    """Counts what devices exchange in a compiled program.

    Args:
        text: The program, as `compiled.as_text()` has it.

    Returns:
        By kind, as `all-reduce`: `count`, how many there are, and `bytes`,
        the size of what they give to a device. A loop's are counted once.
    """
    found: dict[str, dict[str, int]] = {}
    for results, kind, start in _COLLECTIVE.findall(text):
        shapes = _SHAPE.findall(results)
        if start and kind != "all-reduce":
            # Operands, results, and perhaps two numbers for the device itself.
            shapes = [one for one in shapes if one != ("u32", "")]
            shapes = shapes[len(shapes) // 2 :]
        total = found.setdefault(kind, {"count": 0, "bytes": 0})
        total["count"] += 1
        total["bytes"] += sum(_array_bytes(*shape) for shape in shapes)
    return found


def _array_bytes(dtype, dimensions):
    bits = 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])
    elements = math.prod(int(one) for one in dimensions.split(",") if one)
    return elements * bits // 8


def cache_directory() -> Path | None:
    """Returns where compiled programs' figures are kept.

    Returns:
        A directory of the user's cache, as XDG_CACHE_HOME says; None for a
        user who has no home.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(home) / "lambda_keras" / "preflight"


def _key(text, tpu, versions):
    fields = [field.name for field in dataclasses.fields(TpuProgram)]
    options = os.environ.get("LIBTPU_INIT_ARGS", "")
    given = [fields, dataclasses.astuple(tpu)[1:], versions, options, text]
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()


def _read_entry(path):
    try:
        return TpuProgram(**json.loads(path.read_text()))
    # Not there, or not what was written: it is compiled again.
    except (OSError, ValueError, TypeError):
        return None


def _write_entry(path, program):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_aside(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(program)))
    except OSError:
        pass  # Without a cache it only takes longer.


def build_without_weights(build: Callable[[], keras.Model]) -> keras.Model:
    """Builds a model whose weights have shapes and no values.

    Most of the time that a large model takes to build goes into its random
    weights: a minute for EfficientNet-B0 on two cores.

    Args:
        build: Builds it.

    Returns:
        The model, of which `shapes_of` makes a step.
    """
    with keras.StatelessScope(initialize_variables=False):
        return build()


def shapes_of(make_step: Callable[[], Step]) -> Step:
    """Makes a step without computing the state that it starts from.

    Args:
        make_step: Makes it, as `jax_step` does.

    Returns:
        A step whose state has shapes and dtypes for values.
    """
    import jax

    made = []

    def state():
        made.append(make_step())
        return made[0].state

    shapes = jax.eval_shape(state)
    return Step(made[0].function, shapes)


def compile_candidate(
    model: str,
    mode: str,
    precision: str,
    batch_size: int,
    topology: str,
    use_cache: bool,
) -> dict[str, Any]:
    """Builds a model and compiles its step; for `call_in_child`.

    Args:
        model: As `find_candidate` takes it.
        mode: `"train"` or `"infer"`.
        precision: The dtype policy.
        batch_size: Images per step, on all devices together.
        topology: The TPU, as `v5e-8`.
        use_cache: Whether to look the program up; see `compile_for_tpu`.

    Returns:
        The fields of a `TpuProgram`.
    """
    candidate = find_candidate(model)
    built = build_without_weights(lambda: candidate.build(precision))
    if mode == "train":
        steps.compile_model(built)
    step = shapes_of(lambda: steps.jax_step(built, mode))
    batch = steps.batch_shapes(built, mode, batch_size)
    return dataclasses.asdict(compile_for_tpu(step, batch, topology, use_cache))
