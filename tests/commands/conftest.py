import importlib.util

import pytest

from tests.benchmark.tpu_programs import FITTING


@pytest.fixture
def pretended_libtpu(monkeypatch):
    """Has libtpu be found, of one version, whether it is installed or not."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: True if name == "libtpu" else find_spec(name),
    )
    monkeypatch.setattr(
        "lambda_keras.benchmark.tpu_compiler.compiler_versions",
        lambda: FITTING.versions,
    )
