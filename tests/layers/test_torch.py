"""The oracle's cases hold on a third engine, torch, where it is installed."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

FOLDER = Path(__file__).parent


@pytest.mark.reference
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="once is enough"
)
def test_passes_on_torch():
    # An engine is fixed for the life of a process. One thread, because the
    # tests of the other engines run beside this one.
    files = [
        FOLDER / f"test_{name}.py"
        for name in ("lambda_layer", "batch_norm", "self_attention")
    ]
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "--dist=no", "-k=not float32", *files],
        cwd=FOLDER.parents[1],
        env={**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert tests.returncode == 0, tests.stdout
    assert " passed" in tests.stdout
