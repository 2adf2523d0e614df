import keras
import numpy as np
import pytest

from lambda_keras.benchmark.steps import Step
from lambda_keras.benchmark.tpu_compiler import ENVIRONMENT
from lambda_keras.benchmark.tpu_compiler import compile_for_tpu
from lambda_keras.layers import LambdaLayer
from lambda_keras.layers import contractions
from lambda_keras.layers import fused
from lambda_keras.layers.targets import target
from tests import reference
from tests.layers.lambda_cases import assert_close

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="kernels of JAX"
)

# Batch, positions, heads, key depth, context, value depth; bytes of memory;
# dtype, and what rounding to it may change. With little memory, positions go
# by tiles, the last one not full.
CASES = {
    "one tile": ((8, 12, 4, 16, 20, 64), 2**30, "float32", 1e-6),
    "many tiles": ((8, 20, 3, 8, 20, 128), 0, "float32", 1e-6),
    "many steps": ((16, 12, 2, 16, 140, 64), 0, "bfloat16", 2**-8),
}


def arrays_of(case, dtype):
    import jax.numpy as jnp

    b, n, h, k, m, v = case
    generator = np.random.default_rng(0)
    shapes = (b, n, h, k), (n, k, m), (b, m, v), (b, n, h, v)
    return [jnp.array(generator.normal(size=s), dtype) for s in shapes]


def results(queries, embeddings, values, gradient, **options):
    import jax

    output, back = jax.vjp(
        lambda *arrays: fused.weigh(*arrays, **options),
        queries,
        embeddings,
        values,
    )
    return output, *back(gradient)


@pytest.mark.parametrize(
    ("case", "memory", "dtype", "tolerance"), CASES.values(), ids=CASES
)
def test_output_and_gradients_are_those_of_two_products(
    case, memory, dtype, tolerance
):
    import jax

    arrays = arrays_of(case, dtype)
    run = jax.jit(
        lambda *arrays: results(*arrays, memory=memory, interpret=True)
    )
    q, e, v, g = (np.asarray(x, "float64") for x in arrays)
    scores = np.einsum("bnhk,nkm->bnhm", q, e)
    of_scores = np.einsum("bnhv,bmv->bnhm", g, v)
    expected = (
        np.einsum("bnhm,bmv->bnhv", scores, v),
        np.einsum("bnhm,nkm->bnhk", of_scores, e),
        np.einsum("bnhm,bnhk->nkm", of_scores, q),
        np.einsum("bnhm,bnhv->bmv", scores, g),
    )
    for result, right in zip(run(*arrays), expected, strict=True):
        assert result.dtype == dtype
        error = np.abs(np.asarray(result, "float64") - right).max()
        assert error < tolerance * np.abs(right).max()


@pytest.mark.tpu_backend
@pytest.mark.parametrize(
    ("tpu", "memory"),
    [
        ("v5e-1", 48 * 2**20),
        pytest.param("v6e-1", 48 * 2**20, marks=pytest.mark.slow),
        # A v3 has 16 MiB, and is slow at it.
        pytest.param("v3-1", 15 * 2**20, marks=pytest.mark.slow),
    ],
)
def test_kernels_compile_for_tpus(tpu, memory, monkeypatch):
    for name, value in ENVIRONMENT.items():
        if name.startswith(("TPU", "ALLOW")):
            monkeypatch.setenv(name, value)
    import jax

    b, n, h, k, m, _ = case = 64, 128, 4, 16, 128, 64

    def step(arrays, _):
        # A kernel by itself has no FLOPs that the compiler counts.
        projected = arrays[0] @ jax.numpy.ones((k, k), "bfloat16")
        return arrays, results(projected, *arrays[1:], memory=memory)

    # The compiler of kernels knows 32 bits alone; the tests have 64.
    with jax.enable_x64(False):
        program = compile_for_tpu(
            Step(step, arrays_of(case, "bfloat16")),
            (((8,), "float32"),),
            tpu,
            use_cache=False,
        )
    assert program.fits
    if tpu != "v3-1":  # There, what is given is copied to another layout.
        scores_bytes = 2 * b * n * h * m
        assert program.temporary_memory_bytes < scores_bytes


def test_what_kernels_do_not_support_is_refused():
    assert fused.supports((8, 196, 4, 16), 128, "bfloat16")
    for wrong in (
        ((None, 196, 4, 16), 128, "bfloat16"),
        ((8, None, 4, 16), 128, "bfloat16"),
        ((4, 196, 4, 16), 128, "bfloat16"),
        ((8, 196, 16, 16), 128, "bfloat16"),
        ((8, 196, 4, 32), 128, "bfloat16"),
        ((8, 196, 4, 16), 32, "bfloat16"),
        ((8, 196, 4, 16), 128, "float64"),
    ):
        assert not fused.supports(*wrong)
    arrays = arrays_of((4, 8, 4, 16, 8, 64), "float32")
    with pytest.raises(
        ValueError, match=r"a multiple of 8, .*queries.shape=\(4, 8, 4, 16\)"
    ):
        fused.weigh(*arrays[:3])


def test_layer_with_the_kernel_matches_the_equations(monkeypatch):
    calls = []

    def weigh(*arrays):
        calls.append(len(arrays))
        return fused.weigh(*arrays, interpret=True)

    monkeypatch.setattr(contractions, "weigh_fused", weigh)
    arguments = {"num_heads": 2, "key_dim": 16}
    layer = LambdaLayer(128, receptive_field=3, **arguments)
    inputs = np.random.default_rng(1).normal(size=(8, 3, 4, 5))
    inputs = inputs.astype("float32")
    layer.build(inputs.shape)
    reference.randomize(layer)
    expected = reference.lambda_layer(
        inputs, reference.lambda_weights(layer), **arguments
    )
    with target("tpu", chip="TPU v5 lite"):
        assert_close(reference.as_numpy(layer(inputs)), expected, 1e-5)
        assert len(calls) == 1
        # Not a multiple of eight examples.
        assert_close(reference.as_numpy(layer(inputs[:4])), expected[:4], 1e-5)
    # Nor where there is no such TPU.
    assert_close(reference.as_numpy(layer(inputs)), expected, 1e-5)
    assert len(calls) == 1
