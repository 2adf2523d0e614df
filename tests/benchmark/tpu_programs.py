"""What the compiler might say of a program, for tests that do not ask it."""

from lambda_keras.benchmark.preflight import Estimate
from lambda_keras.benchmark.tpu_compiler import TpuProgram

GIB = 2**30

# On a TPU v5e: 10 ms of operations at 197 TFLOP/s, 20 ms of memory at
# 819 GB/s.
FITTING = TpuProgram(
    topology="v5e-8",
    fits=True,
    available_bytes=16 * GIB,
    peak_memory_bytes=4 * GIB,
    temporary_memory_bytes=3 * GIB,
    argument_bytes=1 * GIB,
    output_bytes=2 * GIB,
    alias_bytes=GIB // 2,
    flops=1.97e12,
    bytes=16.38e9,
    optimal_seconds=0.025,
    collectives={"all-reduce": {"count": 40, "bytes": 120_000_000}},
    compile_seconds=61.0,
    versions={"jax": "1.2.3", "jaxlib": "1.2.3", "libtpu": "4.5.6"},
)
TOO_LARGE = TpuProgram(
    topology="v5e-8",
    fits=False,
    available_bytes=16 * GIB,
    needed_bytes=20 * GIB,
    versions=FITTING.versions,
)


def estimate_of(program, batch_size=1024, **given):
    """Makes an estimate of a training step in bf16, unless told otherwise."""
    default = {"candidate": "mine", "mode": "train", "precision": "bf16"}
    return Estimate(
        batch_size=batch_size, program=program, **{**default, **given}
    )
