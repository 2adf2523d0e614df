import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras.layers import contractions
from lambda_keras.layers.contractions import IMPLEMENTATIONS
from tests import reference
from tests.layers.lambda_cases import assert_close
from tests.layers.lambda_cases import compiled
from tests.reference import as_numpy

# taps, center, query shape, context shape: tables need not be odd nor
# centered, as those of causal layers and those cut to what is in reach.
CASES = {
    "past": ((4,), (3,), (9,), (9,)),
    "future": ((4,), (0,), (9,), (9,)),
    "even": ((4,), (1,), (6,), (8,)),
    "far beyond": ((31,), (15,), (3,), (5,)),
    "two axes": ((3, 4), (2, 0), (4, 5), (5, 3)),
    "two axes, blocks": ((5, 2), (2, 1), (9, 17), (9, 17)),
    "three axes": ((2, 1, 3), (1, 0, 1), (2, 5, 3), (3, 5, 2)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_position_lambdas_match_the_equations(case):
    taps, center, query_shape, context_shape = case
    generator = np.random.default_rng(0)
    queries = generator.normal(size=(2, np.prod(query_shape), 3, 4))
    values = generator.normal(size=(2, np.prod(context_shape), 2, 5))
    table = generator.normal(size=(*taps, 4, 2))
    expected = reference.position_output(
        queries, values, table, center, query_shape, context_shape
    )

    @compiled
    def outputs(queries, values, table):
        return [
            contract(queries, values, table, center, query_shape, context_shape)
            for contract in IMPLEMENTATIONS.values()
        ]

    arguments = (queries, np.swapaxes(values, 2, 3), table)
    for output in outputs(*map(ops.convert_to_tensor, arguments)):
        assert_close(as_numpy(output), expected, 1e-12)


def content(queries, keys, values, mask, causal):
    """The content lambda, a position at a time."""
    outputs = np.zeros((*queries.shape[:3], values.shape[2]))
    for b, n in np.ndindex(queries.shape[:2]):
        seen = mask[b] & (np.arange(len(mask[b])) <= n) if causal else mask[b]
        if seen.any():
            weights = reference.softmax(keys[b, seen])
            content_lambda = np.einsum("mku,mvu->kv", weights, values[b, seen])
            outputs[b, n] = queries[b, n] @ content_lambda
    return outputs


KEYS = {
    "plain": lambda x, m: x,
    "large": lambda x, m: 3000 * x,
    "rising": lambda x, m: x + 100 * m,
    "falling": lambda x, m: x - 100 * m,
    "one peak": lambda x, m: x + 1e4 * (m == 20),
}


@pytest.mark.parametrize(
    ("kind", "masked"),
    [("plain", False), ("rising", False), *((kind, True) for kind in KEYS)],
)
def test_content_lambdas_survive_any_keys(kind, masked):
    generator = np.random.default_rng(0)
    # Chunks of causal content are 32 long.
    queries, keys, values = (
        generator.normal(size=(2, 70, *features))
        for features in [(3, 4), (4, 2), (5, 2)]
    )
    keys = KEYS[kind](keys, np.arange(70)[:, None, None])
    mask = np.ones((2, 70), bool)
    if masked:
        mask = generator.random((2, 70)) < 0.5
        mask[0, :40] = False
        mask[1, 32:64] = False

    @compiled
    def outputs(queries, keys, values, mask):
        arguments = queries, keys, values, mask if masked else None
        return (
            contractions.content_output(*arguments),
            contractions.causal_content_output(*arguments),
        )

    arguments = list(map(ops.convert_to_tensor, (queries, keys, values, mask)))
    for causal, output in enumerate(outputs(*arguments)):
        expected = content(queries, keys, values, mask, causal)
        assert_close(as_numpy(output), expected, 1e-12)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65])
def test_causal_content_of_any_length(length):
    generator = np.random.default_rng(0)
    queries, keys, values = (
        generator.normal(size=(1, length, *features))
        for features in [(1, 2), (2, 1), (3, 1)]
    )
    output = compiled(contractions.causal_content_output)(
        *map(ops.convert_to_tensor, (queries, keys, values))
    )
    mask = np.ones((1, length), bool)
    assert_close(
        as_numpy(output), content(queries, keys, values, mask, True), 1e-12
    )


@pytest.mark.parametrize(
    ("taps", "center", "query", "context", "window"),
    [
        (5, 2, 9, 9, (0, 5)),
        (23, 11, 4, 4, (8, 15)),
        (23, 11, 4, 9, (8, 20)),
        (23, 11, 9, 4, (3, 15)),
        (7, 3, 1, 1, (3, 4)),
        (7, 3, None, 4, (0, 7)),
        (7, 3, 4, None, (0, 7)),
    ],
)
def test_reachable_taps(taps, center, query, context, window):
    assert contractions.reachable_taps(
        (taps,), (center,), (query,), (context,)
    ) == [window]


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="reads the program of JAX"
)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("taps", "shape"), [((9,), (128,)), ((5, 7), (16, 24)), ((7, 7), (4, 4))]
)
def test_costs_are_what_xla_counts(implementation, taps, shape):
    import jax

    from lambda_keras.layers import planning

    center = [size // 2 for size in taps]
    window = contractions.reachable_taps(taps, center, shape, shape)
    problem = planning.Problem(
        batch=2,
        query_shape=shape,
        context_shape=shape,
        taps=tuple(stop - start for start, stop in window),
        num_heads=4,
        key_dim=16,
        value_dim=32,
        intra_depth=2,
    )
    positions = int(np.prod(shape))
    program = jax.jit(
        lambda queries, values, table: IMPLEMENTATIONS[implementation](
            queries,
            values,
            table,
            [c - start for c, (start, _) in zip(center, window, strict=True)],
            shape,
            shape,
        )
    ).lower(
        np.zeros((2, positions, 4, 16)),
        np.zeros((2, positions, 32, 2)),
        np.zeros((*problem.taps, 16, 2)),
    )
    counted = planning.position_costs(problem)[implementation].flops
    assert counted == program.cost_analysis()["flops"]
