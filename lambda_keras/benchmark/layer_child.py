"""What a process that measures one candidate is told to do."""

import importlib.metadata
import importlib.util
import statistics
import time
from typing import Any

import keras

from lambda_keras import provenance
from lambda_keras.benchmark.layer_candidates import ATTENTION
from lambda_keras.benchmark.layer_candidates import BASELINE
from lambda_keras.benchmark.layer_candidates import CONVOLUTION
from lambda_keras.benchmark.layer_candidates import FOREIGN
from lambda_keras.benchmark.layer_candidates import OURS
from lambda_keras.benchmark.layer_candidates import TENSORFLOW
from lambda_keras.benchmark.layer_candidates import TIMM
from lambda_keras.benchmark.layer_candidates import Candidate
from lambda_keras.benchmark.layer_candidates import find_candidate
from lambda_keras.benchmark.layer_reference import COTANGENT
from lambda_keras.benchmark.layer_reference import INPUTS
from lambda_keras.benchmark.layer_reference import TF32_TOLERANCE
from lambda_keras.benchmark.layer_reference import TOLERANCE
from lambda_keras.benchmark.layer_reference import TRAINING
from lambda_keras.benchmark.layer_reference import Arrays
from lambda_keras.benchmark.layer_reference import check_results
from lambda_keras.benchmark.layer_reference import read_reference
from lambda_keras.benchmark.layer_shapes import LayerShape
from lambda_keras.benchmark.layer_shapes import find_shape
from lambda_keras.benchmark.layer_steps import LayerStep
from lambda_keras.benchmark.layer_steps import create_keras_step
from lambda_keras.benchmark.process_memory import available_memory
from lambda_keras.benchmark.process_memory import limit_memory
from lambda_keras.benchmark.process_memory import peak_growth
from lambda_keras.benchmark.process_memory import release_memory
from lambda_keras.benchmark.settings import POLICIES
from lambda_keras.benchmark.timing import time_steps
from lambda_keras.layers import LambdaLayer
from lambda_keras.layers import SelfAttention
from lambda_keras.layers.targets import target

PROCESS, DEVICE = "process", "device"
# Of the first, which compiles, and of a turn, whose first is a warm-up.
_FOLLOWING, _MOST_STEPS = 2, 10_000

# By mode: what this process measures.
_steps: dict[str, LayerStep] = {}


def describe() -> dict[str, Any]:
    """Says what this engine computes with: device and versions."""
    versions = provenance.versions()
    if keras.backend.backend() == "torch" and importlib.util.find_spec(TIMM):
        versions[TIMM] = importlib.metadata.version(TIMM)
    return {"device": provenance.device(), "versions": versions}


def prepare(
    candidate: str, shape: str, mode: str, precision: str, reference: str
) -> dict[str, Any]:
    """Makes the step of a candidate, compiles and checks it.

    What computes a lambda layer must first give the reference's output and
    gradients, in float32.

    Args:
        candidate: As `auto/jax`.
        shape: As `find_shape` takes it.
        mode: `FORWARD` or `TRAINING`.
        precision: A key of `POLICIES`.
        reference: The file of `write_reference`.

    Returns:
        The fields of a record's settings that only this process knows.

    Raises:
        MemoryError: If it would need more than there is.
        ValueError: If it computes something else.
    """
    _steps.clear()
    chosen, found = find_candidate(candidate), find_shape(shape)
    arrays = read_reference(reference)
    on_processor = provenance.device()["kind"] == "CPU"
    facts: dict[str, Any] = {"difference": None}
    if on_processor:
        limit_memory()
    if chosen.kind == OURS:
        facts |= _plan(chosen, found, mode, on_processor)
    if chosen.kind == BASELINE:
        # Its weights have the names of ours, and shapes of their own.
        arrays = {name: arrays[name] for name in (INPUTS, COTANGENT)}
    step = _create_step(chosen, found, mode, "float32", arrays)
    compile_seconds = None
    if chosen.kind != BASELINE:
        tolerance = TOLERANCE if on_processor else TF32_TOLERANCE
        first, results = _time(step)
        results = step.read(results)
        facts["difference"] = check_results(results, arrays, mode, tolerance)
        facts["tolerance"] = tolerance
        compile_seconds = first
    if precision != "float32":
        step = _create_step(chosen, found, mode, precision, arrays)
        compile_seconds = None
    if compile_seconds is None:
        compile_seconds, _ = _time(step)
    following = [_time(step)[0] for _ in range(_FOLLOWING)]
    _steps[mode] = step
    release_memory()
    return {
        **facts,
        "compile_seconds": max(0, compile_seconds - min(following)),
        "step_seconds": min(following),
    }


def take_turn(mode: str, seconds: float) -> float:
    """Runs the step again and again.

    Args:
        mode: As `prepare` was given.
        seconds: For how long, at most, and at least two steps.

    Returns:
        The median of their seconds; the first step does not count.
    """
    times = time_steps(_steps[mode].run, seconds, _MOST_STEPS, least=2)
    release_memory()
    return statistics.median(times[1:])


def weigh(mode: str, **arguments: str) -> dict[str, Any]:
    """Finds the memory that a step takes beside its inputs and weights.

    On a processor that is the most that the process had resident during a
    step, less what it had before: with results, without what compilers,
    engines and earlier steps hold. On an accelerator it is the same of the
    engine's own statistics; JAX cannot start its peak anew.

    Args:
        mode: `FORWARD` or `TRAINING`.
        **arguments: The others of `prepare`.

    Returns:
        `peak_memory_bytes`, and of which kind they are.
    """
    if mode not in _steps:
        prepare(mode=mode, **arguments)
    step = _steps[mode]
    before = step.device_memory(restart=True)
    if before is not None:
        results = step.run()
        _, peak = step.device_memory()
        del results
        return {
            "peak_memory_bytes": max(0, peak - before[0]),
            "peak_memory_of": DEVICE,
        }
    return {
        "peak_memory_bytes": peak_growth(step.run),
        "peak_memory_of": PROCESS,
    }


def _time(step):
    started = time.perf_counter()
    results = step.run()
    return time.perf_counter() - started, results


def _plan(chosen, shape, mode, on_processor):
    """Returns what is taken, unless its embeddings do not fit."""
    layer = LambdaLayer(**shape.layer_arguments, **chosen.layer_arguments)
    with target(jit_compile=chosen.run != TENSORFLOW):
        plan = layer.plan(shape.inputs_shape, training=mode == TRAINING)
    cost = plan.costs[plan.implementation]
    is_dense = plan.implementation not in ("blocked", "convolution")
    if on_processor and is_dense and cost.bytes > available_memory():
        raise MemoryError(f"{cost.bytes:,} bytes of intermediate tensors")
    return {"implementation": plan.implementation}


def _create_step(
    chosen: Candidate,
    shape: LayerShape,
    mode: str,
    precision: str,
    arrays: Arrays,
) -> LayerStep:
    if chosen.kind == FOREIGN:
        # Only here: torch may not be installed.
        from lambda_keras.benchmark.layer_torch import TorchStep

        return TorchStep(
            chosen, shape, mode, arrays, is_bf16=precision != "float32"
        )
    return create_keras_step(
        _create_layer(chosen, shape, POLICIES[precision]),
        mode,
        arrays,
        shape.inputs_shape,
        jit_compile=chosen.run != TENSORFLOW,
    )


def _create_layer(chosen, shape, dtype):
    if chosen.kind == OURS:
        return LambdaLayer(
            **shape.layer_arguments, **chosen.layer_arguments, dtype=dtype
        )
    if chosen.layer == CONVOLUTION:
        rank = len(shape.sizes)
        return getattr(keras.layers, f"Conv{rank}D")(
            shape.channels,
            3,
            padding="causal" if shape.causal else "same",
            use_bias=False,
            dtype=dtype,
        )
    scope = chosen.layer.removeprefix(ATTENTION)
    return SelfAttention(shape.channels, scope=scope, dtype=dtype)
