"""Blocks a few at a time: the same numbers from less memory."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras.layers import LambdaLayer
from lambda_keras.layers import contractions
from lambda_keras.layers import planning
from lambda_keras.layers.block_groups import blocks_at_a_time
from tests import reference
from tests.gradients import gradients
from tests.layers.lambda_cases import assert_close
from tests.layers.lambda_cases import compiled
from tests.reference import as_numpy

# taps, center, shape of queries and context, and the pairs of positions of a
# block of 2 and its window.
CASES = {
    "one axis": ((4,), (3,), (9,), (9,), 2 * 5),
    "longer context": ((4,), (0,), (5,), (9,), 2 * 5),
    "two axes": ((3, 4), (2, 0), (8, 5), (6, 3), 4 * 20),
    "three axes": ((2, 1, 3), (1, 0, 1), (4, 2, 3), (4, 2, 3), 8 * 24),
}


@pytest.mark.parametrize("has_common", [False, True])
@pytest.mark.parametrize("blocks", [1, 2, 4, 100])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_blocks_at_a_time_are_the_same(case, blocks, has_common):
    taps, center, query_shape, context_shape, pairs = case
    generator = np.random.default_rng(0)
    queries = generator.normal(size=(2, np.prod(query_shape), 3, 4))
    values = generator.normal(size=(2, np.prod(context_shape), 2, 5))
    table = generator.normal(size=(*taps, 4, 2))
    common = generator.normal(size=(2, 4, 5))
    expected = reference.position_output(
        queries, values, table, center, query_shape, context_shape
    )
    if has_common:
        expected = expected + np.einsum("bnhk,bkv->bnhv", queries, common)

    @compiled
    def output(queries, values, table, common):
        return contractions.blocked(
            queries,
            values,
            common if has_common else None,
            table,
            center,
            query_shape,
            context_shape,
            block_size=2,
            # Of 3 heads, u=2 and 2 examples in float64.
            score_bytes=blocks * pairs * 96,
        )

    arguments = (queries, np.swapaxes(values, 2, 3), table, common)
    actual = output(*map(ops.convert_to_tensor, arguments))
    assert_close(as_numpy(actual), expected, 1e-12)


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (0, [1, 1, 1]),
        (10, [1, 1, 1]),
        (39, [1, 1, 3]),
        (60, [1, 2, 3]),
        (110, [1, 2, 3]),
        (120, [2, 2, 3]),
        (10_000, [4, 2, 3]),
    ],
)
def test_the_blocks_that_have_room(most, expected):
    assert blocks_at_a_time([4, 2, 3], 10, most) == expected


@pytest.fixture
def single_blocks(monkeypatch):
    """Plans as if no two blocks of 4 had room."""
    rates = dataclasses.replace(
        planning.COUNTING, block_sizes=(4, 4, 4), score_bytes=1
    )
    monkeypatch.setattr(planning, "find_rates", lambda target: rates)


LAYERS = {
    "sequence": ((11,), {"causal": True}),
    "image": ((9, 6), {"intra_depth": 2, "position_bias": True}),
    "volume, twice": ((5, 3, 2), {"rematerialize": True}),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_gradients_of_what_is_computed_again(layer, single_blocks):
    shape, arguments = layer
    layer = LambdaLayer(
        6, 2, 3, receptive_field=3, dtype="float64", **arguments
    )
    inputs = np.random.default_rng(0).normal(size=(2, *shape, 5))
    layer.build(inputs.shape)
    reference.randomize(layer)
    layer.implementation = "lambda_first"
    expected = gradients(layer, inputs, training=True)
    assert all(np.any(each) for each in expected)
    layer.implementation = "blocked"
    for actual, each in zip(
        gradients(layer, inputs, training=True), expected, strict=True
    ):
        assert_close(actual, each, 1e-11)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_gradients_of_blocks_in_half_precision(dtype, single_blocks):
    inputs = np.random.default_rng(0).normal(size=(2, 9, 6, 5))
    results = []
    for each in ("float32", dtype):
        layer = LambdaLayer(6, 2, 3, receptive_field=3, dtype=each)
        layer.implementation = "blocked"
        layer.build(inputs.shape)
        reference.randomize(layer)
        results.append(
            gradients(layer, inputs.astype("float32"), training=True)
        )
    for exact, actual in zip(*results, strict=True):
        # Digits of bfloat16, after some sums.
        assert_close(actual, exact, 0.05)


@pytest.mark.parametrize("implementation", contractions.IMPLEMENTATIONS)
def test_rematerialized_gradients_are_the_same(implementation):
    layer = LambdaLayer(
        6, 2, 3, receptive_field=3, dtype="float64", position_bias=True
    )
    layer.implementation = implementation
    inputs = np.random.default_rng(0).normal(size=(2, 5, 4, 5))
    layer.build(inputs.shape)
    reference.randomize(layer)
    expected = gradients(layer, inputs, training=True)
    layer.rematerialize = True
    for actual, each in zip(
        gradients(layer, inputs, training=True), expected, strict=True
    ):
        assert_close(actual, each, 1e-11)


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="reads the program of JAX"
)
def test_what_is_rematerialized_is_not_kept():
    import jax

    layer = LambdaLayer(32, receptive_field=9, implementation="query_first")
    layer.build((2, 16, 16, 8))
    inputs = np.ones((2, 16, 16, 8), "float32")
    scores = 4 * 2 * 256 * 4 * (256 + 16)

    def kept(rematerialize):
        layer.rematerialize = rematerialize
        _, of_inputs = jax.vjp(layer, inputs)
        return sum(each.nbytes for each in jax.tree.leaves(of_inputs))

    assert kept(False) > scores > kept(True)


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="reads the program of JAX"
)
def test_blocks_at_a_time_take_the_memory_of_one():
    import jax

    def temporary_bytes(size, score_bytes):
        positions = size * size
        shapes = (2, positions, 4, 16), (2, positions, 16, 1), (9, 9, 16, 1)

        def output(*arrays):
            return contractions.blocked(
                *arrays[:2],
                None,
                arrays[2],
                (4, 4),
                (size, size),
                (size, size),
                block_size=8,
                score_bytes=score_bytes,
            ).sum()

        program = jax.jit(jax.grad(output, argnums=(0, 1, 2))).lower(
            *(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)
        )
        return program.compile().memory_analysis().temp_size_in_bytes

    scores = 4 * 2 * 32 * 32 * 4 * 16 * 16
    assert temporary_bytes(32, None) > 2 * scores
    small, large = (temporary_bytes(size, 1) for size in (32, 64))
    # Scores of one block of 16, and what there is of each position: queries
    # and their gradient, outputs twice, values and their gradient.
    numbers = 2 * 64 + 2 * 64 + 2 * 16
    assert small < 6 * scores / 16 + 4 * 2 * 32 * 32 * 2 * numbers
    assert large - small < 4 * 2 * (64 * 64 - 32 * 32) * 2 * numbers


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="reads the program of JAX"
)
def test_devices_that_share_a_batch_have_more_room(monkeypatch):
    import jax

    shapes = (4, 16, 2, 3), (4, 16, 5, 1), (9, 3, 1)

    def count_loops():
        program = jax.make_jaxpr(
            lambda *arrays: contractions.blocked(
                *arrays[:2],
                None,
                arrays[2],
                *((4,), (16,), (16,)),
                block_size=4,
                # Of two examples of four: 2 heads, 16 positions, 12 in reach.
                score_bytes=4 * 2 * 2 * 16 * 12,
            )
        )(*(np.ones(shape, "float32") for shape in shapes))
        return str(program).count("scan[")

    assert count_loops() == 1
    mesh = keras.distribution.DeviceMesh(
        (1, 2), ["model", "batch"], devices=np.array(["cpu:0", "cpu:1"])
    )
    distribution = keras.distribution.ModelParallel(
        layout_map=keras.distribution.LayoutMap(mesh), batch_dim_name="batch"
    )
    monkeypatch.setattr(
        keras.distribution, "distribution", lambda: distribution
    )
    assert count_loops() == 0


@pytest.mark.tf_only
def test_blocks_of_a_batch_of_unknown_size(single_blocks):
    import tensorflow as tf

    layer = LambdaLayer(6, 2, 3, receptive_field=3, dtype="float64")
    layer.implementation = "blocked"
    inputs = (
        np.random.default_rng(0).normal(size=(3, 9, 6, 5)).astype("float32")
    )
    layer.build(inputs.shape)
    reference.randomize(layer)
    signature = [tf.TensorSpec((None, 9, 6, 5), "float64")]
    outputs = tf.function(layer, input_signature=signature)(inputs)
    layer.implementation = "lambda_first"
    assert_close(as_numpy(outputs), as_numpy(layer(inputs)), 1e-12)
    assert tf.function(layer, input_signature=signature)(inputs[:0]).shape == (
        (0, 9, 6, 6)
    )
