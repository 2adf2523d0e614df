"""Exports again and again, each time in a process of its own with a mishap.

    python export_program.py MODEL.keras DIRECTORY

Each line of standard input is a mishap and its number, each line of standard
output what came of it: JSON of the exit status, of the lines of standard error,
and of how often the process dealt with the directory.

- `kill NUMBER`: SIGKILL as it deals with the directory for that time;
- `late NUMBER`: SIGALRM, which ends it like SIGKILL, that many milliseconds
  after the first time;
- `limit NUMBER`: from the first time, no file may have more bytes, which is
  how a full disk looks to who writes;
- `none 0`.

The processes are forks, so that TensorFlow is imported once.
"""

import json
import os
import resource
import signal
import sys
import traceback

# The package looks here to see whether it is wanted as a program.
sys.argv[0] = "lambda-keras"
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

from lambda_keras import cli  # noqa: E402
from lambda_keras.commands import export  # noqa: E402, F401


class Mishap:
    """Sees all that Python does with files of a directory."""

    def __init__(self, kind, number, directory):
        self.kind, self.number = kind, int(number)
        self.directory, self.seen = directory, 0
        sys.addaudithook(self.see)

    def see(self, event, arguments):
        if not event.startswith(("open", "os.", "shutil.", "tempfile.")):
            return
        if not any(self.directory in str(each) for each in arguments):
            return
        self.seen += 1
        if self.kind == "kill" and self.seen == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.seen == 1:
            if self.kind == "late":
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, self.number / 1000)
            if self.kind == "limit":
                limits = (self.number, resource.RLIM_INFINITY)
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def run(model, directory):
    """Returns the exit status of the command."""
    try:
        cli.main(["export", f"--model={model}", f"--output_dir={directory}"])
    except SystemExit as error:
        return error.code
    except BaseException:
        traceback.print_exc()
        return -1
    return 0


def export_in_fork(kind, number, model, directory):
    # Not a file: it would have the same limit.
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(write, 2)
        mishap = Mishap(kind, number, directory)
        status = run(model, directory)
        print(mishap.seen, file=sys.stderr, flush=True)
        # Without what Python does at the end of a process.
        os._exit(status)
    os.close(write)
    with open(read, errors="replace") as errors:
        *lines, last = errors.read().splitlines() or [""]
    _, status = os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(status)
    if status < 0:
        return {"status": status, "seen": None, "error": [*lines, last]}
    return {"status": status, "seen": int(last), "error": lines}


def main(model, directory):
    for line in sys.stdin:
        result = export_in_fork(*line.split(), model, directory)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
