import keras
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="about JAX only"
)


def test_what_would_take_all_memory_is_not_tried(monkeypatch):
    from lambda_keras.benchmark import memory_child

    read = memory_child._read
    monkeypatch.setattr(
        memory_child,
        "_read",
        lambda path, field: 1000 if "meminfo" in path else read(path, field),
    )
    with pytest.raises(MemoryError, match="of 1,000 available"):
        memory_child.run_program("lambda", "layer", 4, 2, "float32")


def test_other_systems_say_that_they_cannot(tmp_path):
    from lambda_keras.benchmark.memory_child import _read

    with pytest.raises(OSError, match="/proc, which only Linux has"):
        _read(tmp_path / "status", "VmHWM")
    path = tmp_path / "status"
    path.write_text("VmPeak:\t 7 kB\nVmHWM:\t     12 kB\n")
    assert _read(path, "VmHWM") == 12 * 1024
