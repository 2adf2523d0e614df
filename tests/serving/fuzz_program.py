"""Sends files that were damaged at random to a SavedModel.

    python fuzz_program.py SAVED_MODEL RUNTIME SEED CASES DIRECTORY

The files of a batch are in DIRECTORY while it runs, and afterwards if it was
answered wrongly, or crashed, or took too long. Prints how many files there
were of each status, as JSON.
"""

import collections
import itertools
import json
import os
import random
import re
import signal
import struct
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

from lambda_keras.data.preprocessing import Preprocessing
from lambda_keras.data.preprocessing import decode_evaluation_image
from tests.serving import image_files
from tests.serving.runtimes import RUNTIMES
from tests.serving.runtimes import as_batch

BATCH_SIZE = 20
# A batch takes milliseconds. What does not end is ended by a signal.
BATCH_SECONDS = 60
SHAPE = (32, 32, 3)


def flip_bits(draw, file):
    for _ in range(draw.choice([1, 1, 2, 8, 64])):
        file = image_files.changed(
            file, draw.randrange(len(file)), 1 << draw.randrange(8)
        )
    return file


def set_bytes(draw, file):
    """Extreme values, often in a header."""
    end = draw.choice([32, 200, len(file)])
    for _ in range(draw.choice([1, 2, 4])):
        place = draw.randrange(min(end, len(file)))
        value = draw.choice([b"\0", b"\xff", b"\x7f", b"\xff\xff", b"\0" * 4])
        file = file[:place] + value + file[place + len(value) :]
    return file


def cut(draw, file):
    return file[: draw.randrange(len(file))]


def remove(draw, file):
    start, end = sorted(draw.choices(range(len(file)), k=2))
    return file[:start] + file[end:]


def repeat(draw, file):
    start, end = sorted(draw.choices(range(len(file)), k=2))
    return file[:end] + file[start:end] * draw.choice([1, 2, 20]) + file[end:]


def insert(draw, file):
    place = draw.randrange(len(file))
    count = draw.choice([1, 2, 3, 100])
    return file[:place] + draw.randbytes(count) + file[place:]


def splice(draw, file):
    """The beginning of one file and the end of another."""
    other = draw.choice(FILES)
    return cut(draw, file) + other[draw.randrange(len(other)) :]


def parts(file):
    """Cuts a file where its chunks or segments begin."""
    if file.startswith(image_files.SIGNATURE):
        pattern = rb"....(?=IHDR|PLTE|tRNS|IDAT|IEND|[a-z][A-Za-z]{3})"
    else:
        pattern = rb"\xff[\xc0-\xfe]"
    places = [found.start() for found in re.finditer(pattern, file, re.DOTALL)]
    edges = [0, *places, len(file)]
    return [file[a:b] for a, b in itertools.pairwise(edges)]


def move_parts(draw, file):
    """Chunks or segments twice, missing, or in another place."""
    chunks = parts(file)
    for _ in range(draw.choice([1, 1, 3])):
        chunk = draw.choice(chunks)
        place = draw.randrange(len(chunks) + 1)
        if draw.random() < 0.5 and len(chunks) > 1:
            chunks.remove(chunk)
        chunks.insert(place, chunk * draw.choice([0, 1, 1, 5]))
    return b"".join(chunks)


def mend_sums(draw, file):
    """Changes a chunk of a PNG and its checksum, which else would tell."""
    chunks = parts(file)
    number = draw.randrange(len(chunks))
    chunk = chunks[number]
    if chunk[:8] == image_files.SIGNATURE or len(chunk) < 13:
        return set_bytes(draw, file)
    data = flip_bits(draw, chunk[8:-4]) if len(chunk) > 12 else b""
    chunks[number] = image_files.chunk(chunk[4:8], data)
    return b"".join(chunks)


def resize(draw, file):
    """Another size in the header."""
    sizes = [0, 1, 7, 31, 80, 1000, 1500, 65_500, 65_535, 2**31 - 1]
    size = draw.choice(sizes), draw.choice(sizes)
    if file.startswith(image_files.SIGNATURE):
        header = struct.pack(">II", *size) + file[24:29]
        return file[:8] + image_files.chunk(b"IHDR", header) + file[33:]
    frame = re.search(rb"\xff[\xc0-\xc2]", file)
    if not frame:
        return file
    place = frame.start() + 5
    size = struct.pack(">HH", *(min(one, 65_535) for one in size))
    return file[:place] + size + file[place + 4 :]


MUTATIONS = (
    *(flip_bits, set_bytes, cut, remove, repeat, insert, splice),
    *(move_parts, mend_sums, resize),
)
FILES = [
    file
    for name, file in image_files.good_files().items()
    if "20,000" not in name
]


def make_case(seed, number):
    """Damages a file, the same one for the same numbers."""
    draw = random.Random(f"{seed} {number}")
    file = draw.choice(FILES)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        if file:
            file = draw.choice(MUTATIONS)(draw, file)
    return file


def evaluated(file):
    """Decodes it as evaluation does; None where that is an error."""
    try:
        return decode_evaluation_image(
            tf.constant(file), Preprocessing(image_size=SHAPE[0])
        ).numpy()
    except tf.errors.InvalidArgumentError:
        return None


def is_too_large(file):
    """Tells it from the header, in Python."""
    if file.startswith(image_files.SIGNATURE):
        width, height = struct.unpack(">ii", file[16:24])
        packed = file.count(b"zTXt") + file.count(b"iTXt")
        return width * height > image_files.MAX_PIXELS or packed > 16
    height, width, _ = tf.image.extract_jpeg_shape(file).numpy()
    pixels = int(height) * int(width)
    return max(pixels, pixels * file.count(b"\xff\xda") // 100) > (
        image_files.MAX_PIXELS
    )


def check_batch(model, files):
    """Raises an error unless every file is answered as it should be."""
    answers = model.ask("serving_bytes", as_batch(files))
    statuses = [status.decode() for status in answers["status"]]
    images = np.zeros((len(files), *SHAPE), "uint8")
    for number, (file, status) in enumerate(zip(files, statuses)):
        is_image = file.startswith((b"\xff\xd8\xff", image_files.SIGNATURE))
        image = None
        if status in ("ok", "unreadable"):
            check(is_image, number, status)
            image = evaluated(file)
            # What evaluation can read, and that alone, is labelled.
            check((image is not None) == (status == "ok"), number, status)
        elif status == "too large":
            check(is_image and is_too_large(file), number, status)
        elif status == "empty":
            check(not file, number, status)
        else:
            check(status == "unsupported format", number, status)
            check(file and not is_image, number, status)
        if image is not None:
            images[number] = image
    expected = model.ask("serving_uint8", images)
    for number, status in enumerate(statuses):
        for name, values in expected.items():
            value = answers[name][number]
            blank = -1 if name == "classes" else 0
            right = values[number] if status == "ok" else blank
            # False of what is not a number, too.
            check((value == right).all(), number, f"{status}: {name} {value}")
        labels = {b""} == set(answers["labels"][number])
        check(labels == (status != "ok"), number, f"{status} and labels")
        if status == "ok":
            total = answers["probabilities"][number].sum()
            check(abs(total - 1) < 1e-5, number, f"a sum of {total}")
    return statuses


def check(is_right, number, received):
    if not is_right:
        raise SystemExit(f"{number} of the batch: {received}")


def main(saved_model, runtime, seed, cases, directory):
    model = RUNTIMES[runtime](saved_model)
    counts = collections.Counter()
    for start in range(0, int(cases), BATCH_SIZE):
        files = [make_case(seed, start + i) for i in range(BATCH_SIZE)]
        paths = [Path(directory, str(start + i)) for i in range(BATCH_SIZE)]
        for path, file in zip(paths, files):
            path.write_bytes(file)
        # Its default is to end the process, also one that is in C++.
        signal.alarm(BATCH_SECONDS)
        counts.update(check_batch(model, files))
        signal.alarm(0)
        for path in paths:
            path.unlink()
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
