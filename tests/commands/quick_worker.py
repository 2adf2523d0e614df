"""In the place of `benchmark.worker`: says at once what it did not measure.

As a program it is `lambda-keras` with this worker.
"""

import os
import sys
import time
from pathlib import Path

RATES = {"train": 10.0, "infer": 30.0}


def describe(strategy, tpu, input, data_dir, models):
    if strategy == "tpu":
        raise ValueError(f"`strategy` cannot be tpu. Received: tpu={tpu}")
    return {
        "device": {"kind": "CPU", "name": "a processor", "count": 2},
        "versions": {"keras": "3"},
        "replicas": 4 if strategy == "mirrored" else 1,
    }


def measure(model, mode, batch_size, **_):
    # Where a test wants to know, and the time to kill it.
    if "PROCESS" in os.environ:
        Path(os.environ["PROCESS"]).write_text(str(os.getpid()))
        time.sleep(0.3)
    if model.startswith("tests."):
        raise KeyError("no such layer")
    if batch_size > 4:
        raise MemoryError
    rate = RATES[mode] * (2 if "lambda" in model else 1)
    return {
        "rates": [rate, rate, 0.9 * rate],
        "step_seconds": batch_size / rate,
        "compile_seconds": 2.5,
        "compile_cached": False,
        "peak_memory_bytes": 1_500_000_000,
        "peak_memory_of": "process",
        "parameters": 1000,
        "flops_per_image": 2_000_000,
        "flops_per_second": rate * 2_000_000,
        "peak_share": None,
        "image_dtype": "float32",
        "jit_compile": True,
    }


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))
    from lambda_keras import cli
    from lambda_keras.benchmark import throughput

    throughput._WORKER = "tests.commands.quick_worker"
    cli.main(["benchmark", "throughput", *sys.argv[1:]])
