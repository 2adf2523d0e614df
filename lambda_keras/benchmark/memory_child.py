"""What a program of the memory table needs; called in a process of its own."""

import dataclasses
from typing import Any

import jax

from lambda_keras.benchmark.memory_rows import ROWS
from lambda_keras.benchmark.memory_rows import build_program
from lambda_keras.benchmark.process_memory import available_memory
from lambda_keras.benchmark.process_memory import go_first
from lambda_keras.benchmark.process_memory import peak_growth
from lambda_keras.benchmark.steps import batch_arrays
from lambda_keras.benchmark.steps import batch_shapes
from lambda_keras.benchmark.steps import compile_model
from lambda_keras.benchmark.steps import jax_step
from lambda_keras.benchmark.tpu_compiler import build_without_weights
from lambda_keras.benchmark.tpu_compiler import compile_for_tpu
from lambda_keras.benchmark.tpu_compiler import shapes_of

# What the compiler plans is not all: libraries take work space beside it, half
# as much again for large attention maps on a processor of 2 cores.
_MARGIN = 1.5


def compile_program(
    row: str,
    program: str,
    mode: str,
    size: int,
    batch: int,
    precision: str,
    topology: str,
) -> dict[str, Any]:
    """Compiles a step of a program for a TPU.

    Args:
        row: A key of `ROWS`.
        program: As `memory_rows.find_places` takes it.
        mode: `"train"` or `"infer"`.
        size: Height and width of the images, or of the input of a layer.
        batch: The number of images.
        precision: `"float32"` or `"bf16"`.
        topology: The TPU, as `v3-1`.

    Returns:
        The fields of a `TpuProgram`.
    """
    model = build_without_weights(
        lambda: build_program(ROWS[row], program, size, precision)
    )
    if mode == "train":
        compile_model(model)
    step = shapes_of(lambda: jax_step(model, mode))
    images = batch_shapes(model, mode, batch)
    return dataclasses.asdict(compile_for_tpu(step, images, topology))


def run_program(
    row: str, program: str, size: int, batch: int, precision: str
) -> dict[str, Any]:
    """Runs training steps of a program, and sees what memory they take.

    On an accelerator that is the peak of the device's own statistics. On a
    processor it is the peak of what the process has resident during the
    steps, less what it had before them, plus the arguments (weights,
    optimizer, batch), which it had before: neither the engine nor its
    compiler count.

    Args:
        row: A key of `ROWS`.
        program: As `memory_rows.find_places` takes it.
        size: Height and width of the images, or of the input of a layer.
        batch: The number of images.
        precision: `"float32"` or `"bf16"`.

    Returns:
        `peak_memory_bytes`, and of which kind they are.

    Raises:
        MemoryError: If a processor's memory would not do; it is not tried,
            for the sake of the other processes there.
    """
    model = compile_model(build_program(ROWS[row], program, size, precision))
    step = jax_step(model, "train")
    device = jax.devices()[0]
    on_processor = device.platform == "cpu"
    examples = tuple(
        map(jax.numpy.asarray, batch_arrays(model, "train", batch))
    )
    arguments = (step.state, examples)
    compiled = (
        jax.jit(step.function, donate_argnums=0).lower(*arguments).compile()
    )
    if on_processor:
        _check_memory(compiled.memory_analysis())
    known = sum(array.nbytes for array in jax.tree.leaves(arguments))
    state = step.state

    def run():
        nonlocal state
        results, state = jax.block_until_ready(compiled(state, examples))
        return results

    if on_processor:
        peak = known + peak_growth(run)
        return {"peak_memory_bytes": peak, "peak_memory_of": "process"}
    run()
    peak = device.memory_stats()["peak_bytes_in_use"]
    return {"peak_memory_bytes": peak, "peak_memory_of": "device"}


def _check_memory(analysis):
    needed = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    needed = int(_MARGIN * (needed - analysis.alias_size_in_bytes))
    available = available_memory()
    if needed > available:
        raise MemoryError(f"{needed:,} bytes of {available:,} available")
    # Should memory run out all the same.
    go_first()
