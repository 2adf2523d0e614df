"""Work done in processes of its own, which may run out of memory and die."""

import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

OUT_OF_MEMORY = "out of memory"

# What XLA, TensorFlow, CUDA and its libraries, Python and C++ call it.
_MEMORY_ERRORS = re.compile(
    r"RESOURCE_EXHAUSTED|ResourceExhausted|MemoryError|out.of.memory"
    r"|OOM when allocating|failed to allocate|ALLOC_FAILED|bad_alloc",
    re.IGNORECASE,
)


class ChildError(Exception):
    """A child process did not return anything.

    Attributes:
        reason: `OUT_OF_MEMORY`, or one line for people.
        output: What the process wrote to standard output and error.
    """

    def __init__(self, reason: str, output: str = ""):
        super().__init__(reason)
        self.reason = reason
        self.output = output


def call_in_child(
    function: str,
    *,
    environment: dict[str, str] | None = None,
    timeout: float | None = None,
    tell: Callable[[float], None] | None = None,
    **arguments: Any,
) -> Any:
    """Calls a function in a new Python process.

    The process ends when this one does, however that ends. One that was
    killed by SIGKILL is taken to have run out of memory, for which Linux does
    that.

    Args:
        function: The function as `module:name`.
        environment: Variables to set for the process.
        timeout: After how many seconds to give up.
        tell: Called every second with the seconds gone by.
        **arguments: The function's arguments, as JSON has them.

    Returns:
        What the function returns, as JSON has it.

    Raises:
        ChildError: If the function raises or the process dies.
    """
    # Files without names, which nobody has to clear away.
    with (
        tempfile.TemporaryFile() as result,
        tempfile.TemporaryFile() as output,
    ):
        task = {
            "function": function,
            "arguments": arguments,
            "result": result.fileno(),
            "path": sys.path,
        }
        process = subprocess.Popen(
            # Not as a module: the function may need nothing of the package.
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {}), **_import_path()},
            pass_fds=[result.fileno()],
        )
        try:
            _wait(process, json.dumps(task), timeout, tell)
        finally:
            process.kill()
            process.wait()
            process.stdin.close()  # type: ignore[union-attr]
        result.seek(0)
        output.seek(0)
        answer = result.read().decode()
        text = output.read().decode(errors="replace")
    try:
        answer = json.loads(answer)
    except ValueError:
        raise ChildError(_reason(process.returncode, text), text) from None
    if "error" in answer:
        raise ChildError(_reason(0, answer["error"]), text)
    return answer["value"]


def _wait(process, task, timeout, tell):
    started = time.monotonic()
    # Left open: its end tells the child that this process has died.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{task}\n".encode())
        process.stdin.flush()
    while process.poll() is None:
        gone = time.monotonic() - started
        if timeout is not None and gone > timeout:
            raise ChildError(f"took longer than {timeout:g} s")
        if tell:
            tell(gone)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1 if timeout is None else min(1, timeout))


def _import_path():
    # So that a package which is not installed is found there, too.
    root = str(Path(__file__).parents[2])
    known = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([root, known] if known else [root])}


def _reason(returncode, text):
    if _MEMORY_ERRORS.search(text):
        return OUT_OF_MEMORY
    # What Linux does to a process when memory has run out.
    if returncode == -signal.SIGKILL:
        return OUT_OF_MEMORY
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {returncode}"


def _main():
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    sys.path[:] = [*sys.path, *(p for p in task["path"] if p not in sys.path)]
    module, _, name = task["function"].partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        answer = json.dumps({"value": function(**task["arguments"])})
    except Exception as error:
        traceback.print_exc()
        first = " ".join(str(error).split())
        answer = json.dumps({"error": f"{type(error).__name__}: {first}"})
    with open(task["result"], "w") as result:
        result.write(answer)
    # Engines have threads that may keep the process from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _die_with_parent():
    # Not through `sys.stdin`, whose lock would keep the interpreter's end up.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    _main()
