"""What processes of their own are told to do."""

import mmap
import os
import runpy
import signal
import sys
import time
from pathlib import Path

calls: list[int] = []


def add(a, b):
    print("adding")
    return {"sum": a + b, "process": os.getpid()}


def tell_environment(names):
    return [os.environ.get(name) for name in names]


def count():
    """Counts its calls in this process."""
    calls.append(os.getpid())
    return calls


def fail(kind, message):
    raise {"MemoryError": MemoryError, "ValueError": ValueError}[kind](message)


def fail_like_xla(message):
    """Raises an error as XLA words them, in several lines."""
    raise RuntimeError(f"{message}\nand a second line")


def return_a_set():
    return {1}


def end(status, words):
    print(words, file=sys.stderr, flush=True)
    os._exit(status)


def kill(signal_name):
    print("about to die", flush=True)
    os.kill(os.getpid(), getattr(signal, signal_name))
    time.sleep(60)


def wait(path):
    """Writes its number into a file, and goes on for a minute."""
    aside = Path(path).with_suffix(".partial")
    aside.write_text(str(os.getpid()))
    aside.rename(path)
    time.sleep(60)


def complain_and_fail():
    print(
        "ran out of memory trying to allocate 1 GB; not a failure", flush=True
    )
    raise ValueError("something else")


def take_all_memory():
    """Asks for memory, without using it, until it is refused."""
    from lambda_keras.benchmark import process_memory

    process_memory.limit_memory()
    taken = []
    most = 4 * process_memory.available_memory()
    try:
        while len(taken) << 30 < most:
            taken.append(mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE))
    except OSError:
        print("refused")
        raise MemoryError from None


if __name__ == "__main__":
    # A parent to be killed. Importing the package would take it seconds.
    root = Path(__file__).parents[2]
    sys.path.append(str(root))
    module = runpy.run_path(str(root / "lambda_keras/benchmark/children.py"))
    module["call_in_child"](
        "tests.benchmark.child_tasks:wait", path=sys.argv[1]
    )
