"""Work done in processes of its own, which may run out of memory and die."""

import contextlib
import importlib
import json
import os
import queue
import re
import select
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

# What XLA, TensorFlow, CUDA and its libraries, Python, C++ and torch call it.
_MEMORY_ERRORS = re.compile(
    r"RESOURCE_EXHAUSTED|ResourceExhausted|MemoryError|out.of.memory"
    r"|OOM when allocating|failed to allocate|ALLOC_FAILED|bad_alloc"
    r"|not enough memory",
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
    with Child(environment) as child:
        return child.call(function, timeout=timeout, tell=tell, **arguments)


class Child:
    """A Python process that calls one function after the other.

    It starts with the first call, waits for the next without taking any of
    the processor's time, and ends with the block, or when this process does,
    however that ends. After a call that failed the next one has a new
    process. One that was killed by SIGKILL is taken to have run out of
    memory, for which Linux does that.

    Args:
        environment: Variables to set for the process.

    Example:

    ```python
    with Child({"KERAS_BACKEND": "jax"}) as child:
        for _ in range(3):
            print(child.call("lambda_keras.provenance:device"))
    ```
    """

    def __init__(self, environment: dict[str, str] | None = None):
        self._environment = environment or {}
        self._process: subprocess.Popen | None = None

    def call(
        self,
        function: str,
        *,
        timeout: float | None = None,
        tell: Callable[[float], None] | None = None,
        **arguments: Any,
    ) -> Any:
        """Calls a function; arguments as those of `call_in_child`.

        Returns:
            What the function returns, as JSON has it.

        Raises:
            ChildError: If the function raises or the process dies.
        """
        if self._process is None:
            self._start()
        task = {"function": function, "arguments": arguments, "path": sys.path}
        try:
            # Left open: its end tells the child that this process has died.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{json.dumps(task)}\n".encode())
                self._process.stdin.flush()
            line = self._wait(timeout, tell)
            answer = json.loads(line) if line else {}
            if "value" not in answer:
                raise self._failure(answer.get("error"))
        except BaseException:
            self.close()
            raise
        return answer["value"]

    def close(self) -> None:
        """Ends the process."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        os.close(self._answers)
        self._output.close()
        self._process = None

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self):
        # A file without a name, which nobody has to clear away.
        self._output = tempfile.TemporaryFile()
        self._answers, answers = os.pipe()
        self._process = subprocess.Popen(
            # Not as a module: the function may need nothing of the package.
            [sys.executable, "-P", __file__, str(answers)],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self._environment, **_import_path()},
            pass_fds=[answers],
        )
        os.close(answers)

    def _wait(self, timeout, tell):
        """Returns a line, or what there is of it when the process is gone."""
        started, line = time.monotonic(), b""
        while not line.endswith(b"\n"):
            gone = time.monotonic() - started
            if timeout is not None and gone > timeout:
                raise ChildError(f"took longer than {timeout:g} s")
            if tell:
                tell(gone)
            # A process of its own that outlives it would keep the pipe open.
            is_alive = self._process.poll() is None
            patience = 1 if timeout is None else min(1, timeout)
            wait = patience if is_alive else 0
            ready, _, _ = select.select([self._answers], [], [], wait)
            part = os.read(self._answers, 1 << 16) if ready else b""
            if not part and (ready or not is_alive):
                return b""
            line += part
        return line

    def _failure(self, error):
        status = 0 if error else self._process.wait()
        self._output.seek(0)
        text = self._output.read().decode(errors="replace")
        return ChildError(_reason(status, error or text), text)


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
    answers = os.fdopen(int(sys.argv[1]), "w")
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=[tasks], daemon=True).start()
    while True:
        print(_answer(tasks.get()), file=answers, flush=True)


def _answer(task):
    sys.path[:] = [*sys.path, *(p for p in task["path"] if p not in sys.path)]
    module, _, name = task["function"].partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        return json.dumps({"value": function(**task["arguments"])})
    except Exception as error:
        traceback.print_exc()
        sys.stdout.flush()
        first = " ".join(str(error).split())
        return json.dumps({"error": f"{type(error).__name__}: {first}"})


def _read_tasks(tasks):
    # In a thread, to see the parent's end while a task is being done. Not
    # through `sys.stdin`, whose lock would keep the interpreter's end up.
    with os.fdopen(0, "rb", closefd=False) as lines:
        for line in lines:
            tasks.put(json.loads(line))
    os._exit(1)


if __name__ == "__main__":
    _main()
