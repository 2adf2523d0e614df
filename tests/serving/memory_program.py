"""Sends requests to a SavedModel, and says what memory the process takes.

    python memory_program.py mixed SAVED_MODEL RUNTIME REQUESTS
    python memory_program.py largest SAVED_MODEL RUNTIME PIXELS

`mixed` prints the MiB that are resident after every tenth of as many requests,
of all sizes, good and bad. `largest` prints how many MiB the peak is above
what the process took before, as batches of images of as many pixels come.
"""

import json
import math
import os
import random
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np

from tests.serving.image_files import bad_files
from tests.serving.image_files import good_files
from tests.serving.image_files import jpeg
from tests.serving.image_files import photograph
from tests.serving.image_files import png
from tests.serving.runtimes import RUNTIMES
from tests.serving.runtimes import as_batch

SHAPE = (32, 32, 3)
# More than are decoded at once.
BATCH_SIZE = 16


def read_status(field):
    """Reads what the kernel says of this process, in KiB."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1])


def send_mixed(model, requests):
    draw = random.Random(0)
    sizes = [(50, 80), (224, 224), (500, 375), (1024, 768), (300, 1000)]
    files = [
        *good_files().values(),
        *(file for file, _ in bad_files().values()),
        *(jpeg(photograph(*size)) for size in sizes),
        *(png(photograph(*size)) for size in sizes),
    ]
    marks = []
    for number in range(1, requests + 1):
        count = draw.choice([0, 1, 1, 1, 2, 6])
        signature = draw.choice(["serving_bytes"] * 3 + ["serving_uint8"])
        if signature == "serving_bytes":
            model.ask(signature, as_batch(draw.choices(files, k=count)))
        else:
            model.ask(signature, np.ones((count, *SHAPE), "uint8"))
        if number % (requests // 10) == 0:
            marks.append(round(read_status("VmRSS") / 1024))
    return marks


def send_largest(model, pixels):
    side = math.isqrt(pixels)
    image = photograph(side, side)
    files = [
        jpeg(image),
        jpeg(image, progressive=True, subsampling=0),
        png(image, compress_level=1),
    ]
    model.ask("serving_bytes", as_batch([jpeg()]))
    before = read_status("VmRSS")
    for number in range(6):
        batch = as_batch(files[number % 3 : number % 3 + 1] * BATCH_SIZE)
        answers = model.ask("serving_bytes", batch)
        if not (answers["status"] == b"ok").all():
            raise SystemExit(str(answers["status"]))
    # Of all of the process's life, as not every system lets one reset it.
    return round((read_status("VmHWM") - before) / 1024)


def main(kind, saved_model, runtime, number):
    send = {"mixed": send_mixed, "largest": send_largest}[kind]
    print(json.dumps(send(RUNTIMES[runtime](saved_model), int(number))))


if __name__ == "__main__":
    main(*sys.argv[1:])
