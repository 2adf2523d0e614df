"""Runtimes for what was exported, each in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

from lambda_keras.messages import last_line

# Only its path: the program is for other processes.
RUN_PROGRAM = Path(__file__).with_name("run_artefact.py")

TENSORFLOW = "tensorflow"
SAVED_MODEL_CLI = "saved_model_cli"
OPENVINO = "openvino"
ONNX_RUNTIME = "onnx_runtime"
LITERT = "litert"

# What people call them, and the module that each one needs.
_RUNTIMES = {
    TENSORFLOW: ("TensorFlow", "tensorflow"),
    SAVED_MODEL_CLI: ("saved_model_cli", "tensorflow"),
    OPENVINO: ("OpenVINO", "openvino"),
    ONNX_RUNTIME: ("ONNX Runtime", "onnxruntime"),
    LITERT: ("LiteRT", "ai_edge_litert"),
}


class SavedModelError(RuntimeError):
    """What was exported does not load, or does not predict as it should."""


def runtime_name(runtime: str) -> str:
    """Returns what people call a runtime."""
    return _RUNTIMES[runtime][0]


def is_installed(runtime: str) -> bool:
    """Tells whether a runtime can be started."""
    return importlib.util.find_spec(_RUNTIMES[runtime][1]) is not None


class Runner:
    """A process that has loaded what was exported, and runs it when told to.

    It can import neither Keras nor this package, and sees no accelerator,
    since this process may hold all of its memory. It ends with the block, and
    when this process ends, however that does.

    Args:
        runtime: One of the runtimes above.
        path: The SavedModel or file.
        signature: That of a SavedModel that is to be run.
        input_name: What the signature's or the file's input is called.

    Raises:
        SavedModelError: If it cannot be loaded.

    Example:

    ```python
    np.save("images.npy", images)
    with Runner("onnx_runtime", "model.onnx") as runner:
        predictions = runner.predict("images.npy", len(images), batch_size=32)
    ```
    """

    def __init__(
        self,
        runtime: str,
        path: str | os.PathLike[str],
        signature: str = "serving_default",
        input_name: str = "images",
    ):
        self._runtime, self._path = runtime, path
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            # -P keeps the script's own directory off the module path.
            [
                *(sys.executable, "-P", os.fspath(RUN_PROGRAM)),
                *(runtime, os.fspath(path), signature, input_name),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=elsewhere_environment(),
            text=True,
        )
        try:
            self.version = str(self._receive()["version"])
        except BaseException:
            self.close()
            raise

    def predict(
        self, inputs: str | os.PathLike[str], count: int, batch_size: int
    ) -> np.ndarray:
        """Runs all of an array.

        Args:
            inputs: A `.npy` file.
            count: The number of its examples.
            batch_size: How many to run at once.

        Returns:
            The outputs.

        Raises:
            SavedModelError: If the process fails.
        """
        with tempfile.TemporaryDirectory() as scratch:
            outputs = os.path.join(scratch, "outputs.npy")
            self.run(inputs, batch_size, -(-count // batch_size), outputs)
            return np.load(outputs)

    def run(
        self,
        inputs: str | os.PathLike[str],
        batch_size: int,
        steps: int,
        outputs: str | None = None,
    ) -> float:
        """Runs some batches, from the start again where the inputs end.

        Args:
            inputs: A `.npy` file.
            batch_size: How many to run at once.
            steps: How many batches.
            outputs: A `.npy` file to write.

        Returns:
            The seconds from the first batch's inputs to the last one's
            outputs, both NumPy arrays.

        Raises:
            SavedModelError: If the process fails.
        """
        task = {
            "inputs": os.fspath(inputs),
            "batch_size": batch_size,
            "steps": steps,
            "outputs": outputs,
        }
        try:
            self._process.stdin.write(f"{json.dumps(task)}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return float(self._receive()["seconds"])

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> "Runner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _receive(self):
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {}
        if not line or "error" in answer:
            raise self._failure(answer.get("error"))
        return answer

    def _failure(self, reason=None):
        if not reason:
            status = self._process.wait()
            self._errors.seek(0)
            text = self._errors.read().decode(errors="replace")
            reason = last_line(text) or f"exit status {status}"
        return SavedModelError(
            f"{self._path} must run in {runtime_name(self._runtime)}, in a "
            f"process without Keras. Received: {reason}"
        )


def elsewhere_environment() -> dict[str, str]:
    """Returns the environment of processes that run on the processor."""
    return {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        # Flags of the engine here, unknown ones of which end TensorFlow.
        "XLA_FLAGS": "",
        # This package, also where it is not installed.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
