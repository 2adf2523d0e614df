"""Real files damaged at random, sent to a SavedModel in another process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.serving.image_files import jpeg
from tests.serving.image_files import png

pytestmark = pytest.mark.tf_only

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("fuzz_program.py")
# All but that of models whose numbers overflow.
STATUSES = {"ok", "empty", "unsupported format", "too large", "unreadable"}


def fuzz(version, runtime, seed, cases, directory):
    """Returns the number of answers of each status."""
    process = subprocess.run(
        [
            *(sys.executable, PROGRAM, version, runtime),
            *(str(seed), str(cases), directory),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        # Each batch has a limit of its own.
        timeout=3600,
    )
    left = sorted(directory.iterdir())
    assert (process.returncode, left) == (0, []), (
        f"{runtime}, seed {seed}: one of the files that are left is answered "
        f"wrongly, or ends the process. {process.stderr[-2000:]}"
    )
    counts = json.loads(process.stdout)
    assert sum(counts.values()) == cases
    return counts


def test_500_damaged_files(version, tmp_path):
    """None crashes it, takes long, or has another label than in evaluation.

    A file is labelled if, and only if, evaluation can decode it.
    """
    counts = fuzz(version, "session", 0, 500, tmp_path)
    assert counts["ok"] > 50
    assert counts["unreadable"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["signatures", "session"])
def test_10_000_damaged_files(runtime, version, tmp_path, capsys):
    counts = fuzz(version, runtime, 1, 10_000, tmp_path)
    assert counts.keys() == STATUSES
    with capsys.disabled():
        print(f"\n{runtime}: {counts}")


def test_the_same_numbers_damage_a_file_in_the_same_way():
    from tests.serving.fuzz_program import make_case

    cases = [make_case(0, number) for number in range(50)]
    assert cases == [make_case(0, number) for number in range(50)]
    assert len(set(cases)) > 45
    assert cases[0] != make_case(1, 0)


class Changed:
    """A model, one of whose answers is changed."""

    def __init__(self, model, name, value):
        self.model, self.name, self.value = model, name, value

    def ask(self, signature, array):
        answers = self.model.ask(signature, array)
        if signature == "serving_bytes":
            answers[self.name] = answers[self.name].copy()
            answers[self.name][0] = self.value
        return answers


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        (jpeg, "status", b"unreadable"),
        (jpeg, "classes", 3),
        (png, "scores", np.nan),
        (png, "probabilities", np.nan),
        (jpeg, "labels", b""),
        (bytes, "status", b"ok"),
        (bytes, "classes", 0),
        (bytes, "labels", b"ant"),
        (lambda: b"GIF89a", "status", b"unreadable"),
        (jpeg, "status", b"too large"),
        (lambda: jpeg()[:99], "probabilities", 1 / 6),
    ],
)
def test_a_wrong_answer_is_noticed(file, name, value, version):
    from tests.serving.fuzz_program import check_batch
    from tests.serving.runtimes import Signatures

    model, files = Signatures(version), [file(), jpeg()]
    assert len(check_batch(model, files)) == 2
    with pytest.raises(SystemExit, match="0 of the batch"):
        check_batch(Changed(model, name, value), files)
