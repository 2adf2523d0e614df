"""Lambda layers of others compute what ours do, from our weights."""

import importlib.util

import keras
import pytest

from lambda_keras.benchmark.children import Child
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.layer_reference import write_reference

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(
        keras.backend.backend() != "jax", reason="once is enough"
    ),
]
PREPARE = "lambda_keras.benchmark.layer_child:prepare"


@pytest.fixture(scope="module")
def torch_child():
    # One thread, because the tests of the other engine run beside this one.
    environment = {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    with Child(environment) as child:
        yield child


@pytest.fixture(scope="module")
def prepare(torch_child, tmp_path_factory):
    """Makes the process prepare a candidate, with references made once."""
    folder = tmp_path_factory.mktemp("references")

    def call(candidate, mode, shape, precision="float32"):
        path = folder / f"{shape.replace(':', '-')}.npz"
        if not path.exists():
            write_reference(shape, str(path))
        return torch_child.call(
            PREPARE,
            candidate=candidate,
            shape=shape,
            mode=mode,
            precision=precision,
            reference=str(path),
            timeout=300,
        )

    return call


@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize(
    "shape",
    [
        "2x6x8x16:5",
        "2x6x8x16:global",
        "2x4x5x16:3:u2",
        "2x20x16:5:u2:causal",
        "2x9x16:global:causal",
    ],
)
def test_the_listing_agrees(prepare, shape, mode):
    facts = prepare("listing/eager", mode, shape)
    assert 0 < facts["difference"] < 1e-5


@pytest.mark.skipif(
    not importlib.util.find_spec("timm"), reason="timm is not installed"
)
@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("shape", ["2x6x8x16:5", "2x6x8x16:global"])
def test_timm_agrees(prepare, shape, mode):
    facts = prepare("timm/eager", mode, shape)
    assert 0 < facts["difference"] < 1e-5


def test_half_precision_is_checked_in_float32(prepare):
    facts = prepare("listing/eager", "training", "2x6x8x16:5", "bf16")
    assert 0 < facts["difference"] < 1e-5


@pytest.mark.slow
def test_the_compiled_listing_agrees(prepare):
    facts = prepare("listing/compiled", "training", "2x6x8x16:5")
    assert 0 < facts["difference"] < 1e-5
    assert facts["compile_seconds"] > 1


def test_others_are_not_timed_if_they_differ(torch_child, tmp_path):
    path = tmp_path / "reference.npz"
    write_reference("2x20x16:7", str(path))
    arguments = {"candidate": "listing/eager", "shape": "2x20x16:5"}
    with pytest.raises(ChildError, match="size mismatch for embeddings"):
        torch_child.call(
            PREPARE,
            mode="forward",
            precision="float32",
            reference=str(path),
            **arguments,
        )
