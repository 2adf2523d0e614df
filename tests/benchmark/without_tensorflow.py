"""A machine that has JAX, and neither TensorFlow nor scikit-learn."""

import sys
from importlib.abc import MetaPathFinder

ABSENT = ("tensorflow", "sklearn")


class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def measure_plain():
    """Returns what there is, and what was measured."""
    sys.meta_path.insert(0, Absent())
    from lambda_keras.benchmark.worker import describe
    from lambda_keras.benchmark.worker import measure

    model = "tests.benchmark.models:plain@2"
    return describe("none"), measure(model, "train", 2, seconds=0.01)
