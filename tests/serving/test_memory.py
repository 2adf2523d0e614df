"""What memory requests take, measured in another process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.image_files import MAX_PIXELS

pytestmark = [
    pytest.mark.tf_only,
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="measured on Linux"
    ),
]

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("memory_program.py")
# After the first tenth of the requests, in MiB.
MAX_GROWTH = 64
# For each image that is decoded, of which there are as many at once as there
# are cores: the pixels as they are decoded, cropped, and cast, and what the
# allocator keeps. 22 measured.
BYTES_PER_PIXEL = 30


def measure(kind, version, runtime, number):
    process = subprocess.run(
        [*(sys.executable, PROGRAM, kind, version, runtime), str(number)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_1_000_requests_take_no_more_memory_than_the_first(version):
    """Of all sizes, encoded and not, with good and bad images in them."""
    first, *others = measure("mixed", version, "session", 1000)
    assert max(others) - first < MAX_GROWTH


def test_a_batch_takes_the_memory_of_a_few_of_its_images(version):
    """One of 16 images at the limit of pixels, however many are sent."""
    peak = measure("largest", version, "session", MAX_PIXELS)
    expected = BYTES_PER_PIXEL * MAX_PIXELS * os.cpu_count() / 2**20
    # In a process of 900 MiB the peaks of so small images are not exact.
    assert peak < expected + MAX_GROWTH


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["signatures", "session"])
def test_10_000_requests(runtime, version, capsys):
    first, *others = measure("mixed", version, runtime, 10_000)
    with capsys.disabled():
        print(f"\n{runtime}, MiB after each 1,000:", first, *others)
    assert max(others) - first < MAX_GROWTH


@pytest.mark.slow
@pytest.mark.parametrize("crop", ["center", "whole", 0.94])
def test_the_largest_images_that_are_read_by_default(crop, tmp_path, capsys):
    from lambda_keras.serving.export import export_version
    from lambda_keras.serving.images import RequestPreprocessing
    from tests.serving.models import tiny_classifier

    preprocessing = RequestPreprocessing((32, 32, 3), crop=crop)
    version = export_version(
        tiny_classifier((32, 32, 3)), tmp_path, preprocessing=preprocessing
    )
    pixels, cores = preprocessing.max_pixels, os.cpu_count()
    peak = measure("largest", version, "session", pixels)
    share = peak * 2**20 / pixels / cores
    with capsys.disabled():
        print(
            f"\n{crop}: {peak} MiB for a batch of 16 images of {pixels:,} "
            f"pixels on {cores} cores: {share:.1f} bytes per pixel and core"
        )
    assert share < BYTES_PER_PIXEL
