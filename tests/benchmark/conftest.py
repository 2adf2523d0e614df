import pytest

from lambda_keras.benchmark import tpu_compiler


@pytest.fixture
def tpu(monkeypatch, tmp_path):
    """Lets this process compile, with a cache of the test's own."""
    for name, value in tpu_compiler.ENVIRONMENT.items():
        if name.startswith(("TPU", "ALLOW")):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tpu_compiler.cache_directory()
