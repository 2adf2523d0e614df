import keras
import numpy as np
import pytest

from lambda_keras.benchmark import layer_child
from lambda_keras.benchmark.layer_reference import check_results
from lambda_keras.benchmark.layer_reference import read_reference
from lambda_keras.benchmark.layer_reference import write_reference

SHAPE = "2x6x5x16:3:u2"
RUN = {"tensorflow": "tf", "jax": "jax"}[keras.backend.backend()]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("work") / "reference.npz")
    write_reference(SHAPE, path)
    return {"shape": SHAPE, "reference": path}


@pytest.fixture(autouse=True)
def unlimited(monkeypatch):
    # This process goes on.
    monkeypatch.setattr(layer_child, "limit_memory", lambda: None)


@pytest.mark.parametrize("mode", ["forward", "training"])
def test_an_implementation_is_checked_and_timed(reference, mode):
    facts = layer_child.prepare(
        f"blocked/{RUN}", mode=mode, precision="float32", **reference
    )
    assert facts["implementation"] == "blocked"
    assert 0 <= facts["difference"] < facts["tolerance"] == 1e-4
    assert facts["compile_seconds"] > 0 < facts["step_seconds"]
    assert 0 < layer_child.take_turn(mode, 0.01) < 1


def test_half_precision_is_checked_in_float32(reference):
    facts = layer_child.prepare(
        f"auto/{RUN}", mode="training", precision="bf16", **reference
    )
    assert facts["difference"] < 1e-4
    results = layer_child._steps["training"].run()
    assert "bfloat16" in str(results[0].dtype)


def test_a_convolution_has_weights_of_its_own(reference):
    facts = layer_child.prepare(
        f"plain_convolution/{RUN}",
        mode="training",
        precision="float32",
        **reference,
    )
    assert facts["difference"] is None
    assert layer_child.take_turn("training", 0.01) > 0


def test_attention_has_weights_of_its_own(reference):
    facts = layer_child.prepare(
        f"attention_axial/{RUN}",
        mode="forward",
        precision="float32",
        **reference,
    )
    assert facts["difference"] is None


def test_what_computes_something_else_is_refused(reference, tmp_path):
    arrays = read_reference(reference["reference"])
    arrays["training/gradient of query_kernel"] *= 1.001
    wrong = str(tmp_path / "wrong.npz")
    np.savez(wrong, **arrays)
    with pytest.raises(
        ValueError, match="The gradient of query_kernel must be"
    ):
        layer_child.prepare(
            f"auto/{RUN}",
            mode="training",
            precision="float32",
            shape=reference["shape"],
            reference=wrong,
        )
    assert not layer_child._steps


def test_what_would_take_all_memory_is_not_tried(reference, monkeypatch):
    monkeypatch.setattr(layer_child, "available_memory", lambda: 1)
    with pytest.raises(MemoryError, match="bytes of intermediate tensors"):
        layer_child.prepare(
            f"query_first/{RUN}",
            mode="forward",
            precision="float32",
            **reference,
        )


ONES = np.ones((2, 3), "float32")


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({}, "Received: output in one of both only"),
        ({"output": ONES.T}, r"must have the shape \(2, 3\)"),
        ({"output": 1.2 * ONES}, "Received: 0.2 of it"),
        ({"output": np.nan * ONES}, "Received: nan of it"),
    ],
    ids=["missing", "shape", "value", "NaN"],
)
def test_every_number_is_compared(results, message):
    expected = {"forward/output": ONES, "training/output": 5 * ONES}
    assert check_results({"output": ONES}, expected, "forward", 0.1) == 0
    with pytest.raises(ValueError, match=message):
        check_results(results, expected, "forward", 0.1)
