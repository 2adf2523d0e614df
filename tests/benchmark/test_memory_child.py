import keras
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="about JAX only"
)


def test_what_would_take_all_memory_is_not_tried(monkeypatch):
    from lambda_keras.benchmark import memory_child

    monkeypatch.setattr(memory_child, "available_memory", lambda: 1000)
    with pytest.raises(MemoryError, match="of 1,000 available"):
        memory_child.run_program("lambda", "layer", 4, 2, "float32")
