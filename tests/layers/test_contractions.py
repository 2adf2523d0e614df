import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras.layers import contractions
from lambda_keras.layers.contractions import IMPLEMENTATIONS
from tests import reference
from tests.layers.lambda_cases import KEYS
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
    common = generator.normal(size=(2, 4, 5))
    expected = reference.position_output(
        queries, values, table, center, query_shape, context_shape
    )
    shared = np.einsum("bnhk,bkv->bnhv", queries, common)

    @compiled
    def outputs(queries, values, common, table):
        shapes = center, query_shape, context_shape
        return [
            contract(queries, values, each, table, *shapes)
            for contract in IMPLEMENTATIONS.values()
            for each in (None, common)
        ]

    arguments = (queries, np.swapaxes(values, 2, 3), common, table)
    results = outputs(*map(ops.convert_to_tensor, arguments))
    for without, added in zip(results[::2], results[1::2], strict=True):
        assert_close(as_numpy(without), expected, 1e-12)
        assert_close(as_numpy(added), expected + shared, 1e-12)


@pytest.mark.parametrize("batch", [64, 128])
@pytest.mark.parametrize("implementation", ["query_first", "blocked"])
def test_large_batches_are_the_same_in_parts(implementation, batch):
    generator = np.random.default_rng(0)
    shape = (3,), (2,), (2,)  # Center, query shape, context shape.
    queries = generator.normal(size=(batch, 2, 3, 4))
    values = generator.normal(size=(batch, 2, 5, 2))
    common = generator.normal(size=(batch, 4, 5))
    table = generator.normal(size=(6, 4, 2))

    @compiled
    def output(*arguments):
        return IMPLEMENTATIONS[implementation](*arguments, *shape)

    arguments = [
        ops.convert_to_tensor(x) for x in (queries, values, common, table)
    ]
    whole = as_numpy(output(*arguments))
    *tensors, table = arguments
    for example in (0, 1, 8, batch - 1):
        one = output(*(x[example : example + 1] for x in tensors), table)
        assert_close(whole[example], as_numpy(one)[0], 1e-12)


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="reads the program of JAX"
)
def test_a_lambda_of_all_positions_takes_no_further_output():
    import jax

    def total(queries, values, common, table):
        shape = (1,), (7,), (7,)
        return ops.sum(
            contractions.query_first(queries, values, common, table, *shape)
        )

    program = jax.make_jaxpr(total)(
        np.ones((2, 7, 3, 4)),
        np.ones((2, 7, 5, 1)),
        np.ones((2, 4, 5)),
        np.ones((3, 4, 1)),
    )
    # Scores, and values weighed by them: the lambda is among the values.
    assert str(program).count("dot_general") == 2


@pytest.mark.parametrize(
    ("kind", "masked"),
    [("plain", False), ("rising", False), *((kind, True) for kind in KEYS)],
)
def test_content_lambdas_survive_any_keys(kind, masked):
    generator = np.random.default_rng(0)
    queries, keys, values = (
        generator.normal(size=(2, 70, *features))
        for features in [(3, 4), (4, 2), (5, 2)]
    )
    keys = KEYS[kind](keys, np.arange(70)[:, None, None])
    mask = np.ones((2, 70), bool)
    if masked:
        mask = generator.random((2, 70)) < 0.5
        mask[1] = False

    @compiled
    def content_output(queries, *context):
        common = contractions.content_lambda(*context)
        return contractions.apply_lambda(queries, common)

    output = content_output(
        *map(ops.convert_to_tensor, (queries, keys, values)),
        ops.convert_to_tensor(mask) if masked else None,
    )
    expected = reference.content_output(queries, keys, values, mask)
    assert_close(as_numpy(output), expected, 1e-12)


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
            None,
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
