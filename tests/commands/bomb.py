"""The real program with a bomb in it: a signal at a point of one's choice.

    python bomb.py POINT NUMBER SIGNAL COMMAND --flag=value ...

The signal is sent by the process to itself when it comes to the point for the
NUMBER-th time, so that a kill hits what it is aimed at. The point `disk` is no
signal: from the start, no file may have more than NUMBER bytes.
"""

import csv
import os
import resource
import sys
from pathlib import Path

# The package looks here to see whether it is wanted as a program.
sys.argv[0] = "lambda-keras"
from lambda_keras import cli  # noqa: E402

POINT, NUMBER, SIGNAL = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

seen = 0


def explode_at(point):
    global seen
    if point == POINT:
        seen += 1
        if seen == NUMBER:
            os.kill(os.getpid(), SIGNAL)


def before(owner, name, point):
    """Puts a point before every call of a function."""
    function = getattr(owner, name)

    def wrapped(*args, **kwargs):
        explode_at(point)
        return function(*args, **kwargs)

    setattr(owner, name, wrapped)


def halfway(owner, name, point_of):
    """Puts a point where a function has written half of its file."""
    function = getattr(owner, name)

    def wrapped(*args, **kwargs):
        if point_of(*args) != POINT:
            return function(*args, **kwargs)
        # Only the next one is written for show.
        if seen + 1 == NUMBER:
            _write_half(*args)
        explode_at(POINT)
        return function(*args, **kwargs)

    setattr(owner, name, wrapped)


def _write_half(*args):
    """Writes the first half of a checkpoint, or of a model's file."""
    if hasattr(args[0], "write"):
        args[0].write(os.urandom(100_000))
        args[0].flush()
    else:
        Path(args[1]).write_bytes(os.urandom(100_000))


def plant_in_train():
    with cli.held_back_stderr():
        import keras
        import numpy as np

        from lambda_keras.commands import train
        from lambda_keras.training.callbacks import Checkpoints

    before(Checkpoints, "on_train_batch_end", "step")
    before(Checkpoints, "on_test_batch_end", "validation")
    before(csv.DictWriter, "writerows", "history")
    before(train, "draw_run", "end")
    halfway(np, "savez", lambda *args: "checkpoint")
    halfway(keras.Model, "save", lambda model, path: Path(path).stem + ".keras")
    halfway(keras.Model, "export", lambda model, path: "export")
    replace = os.replace

    def replaced(source, target):
        if Path(target).name.startswith("step-"):
            explode_at("rename")
        replace(source, target)
        if Path(target).name.startswith("step-"):
            # The oldest one is still to be removed.
            explode_at("renamed")

    os.replace = replaced


def plant_in_predict():
    with cli.held_back_stderr():
        from lambda_keras.serving.prediction import BytesModel
        from lambda_keras.serving.prediction_results import ROWS
        from lambda_keras.serving.prediction_results import Results

    before(BytesModel, "__init__", "model")
    before(Results, "__init__", "begin")
    before(Results, "write", "batch")
    write, replace = Results._write, os.replace

    def write_half(results, text):
        if (POINT, seen + 1) == ("row", NUMBER):
            write(results, text[: len(text) // 2])
        explode_at("row")
        write(results, text)

    def replaced(source, target):
        is_output = Path(target).suffix in ROWS
        if is_output:
            explode_at("rename")
        replace(source, target)
        if is_output:
            explode_at("renamed")

    Results._write, os.replace = write_half, replaced


os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
plant_in_predict() if sys.argv[4] == "predict" else plant_in_train()
if POINT == "disk":
    resource.setrlimit(resource.RLIMIT_FSIZE, (NUMBER, NUMBER))
cli.main(sys.argv[4:])
