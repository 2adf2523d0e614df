"""Blocks a few rows at a time: the same numbers from less memory."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras.layers import LambdaLayer
from lambda_keras.layers import contractions
from lambda_keras.layers import planning
from tests import reference
from tests.gradients import gradients
from tests.layers.lambda_cases import assert_close
from tests.layers.lambda_cases import compiled
from tests.reference import as_numpy

# taps, center, shape of queries and context, block, and the bytes of a row
# of blocks in float64: positions x window x 3 heads x u=2 x 2 examples.
CASES = {
    "one axis": ((4,), (3,), (9,), (9,), 2, 2 * 5 * 96),
    "longer context": ((4,), (0,), (5,), (9,), 2, 2 * 5 * 96),
    "two axes": ((3, 4), (2, 0), (8, 5), (6, 3), 2, 3 * 4 * 20 * 96),
    "three axes": (
        (2, 1, 3),
        (1, 0, 1),
        (4, 2, 3),
        (4, 2, 3),
        2,
        2 * 8 * 24 * 96,
    ),
}


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_rows_at_a_time_are_the_same(case, rows):
    taps, center, query_shape, context_shape, block_size, row_bytes = case
    generator = np.random.default_rng(0)
    queries = generator.normal(size=(2, np.prod(query_shape), 3, 4))
    values = generator.normal(size=(2, np.prod(context_shape), 2, 5))
    table = generator.normal(size=(*taps, 4, 2))
    expected = reference.position_output(
        queries, values, table, center, query_shape, context_shape
    )

    @compiled
    def output(queries, values, table):
        return contractions.blocked(
            queries,
            values,
            None,
            table,
            center,
            query_shape,
            context_shape,
            block_size=block_size,
            score_bytes=rows * row_bytes,
        )

    arguments = (queries, np.swapaxes(values, 2, 3), table)
    actual = output(*map(ops.convert_to_tensor, arguments))
    assert_close(as_numpy(actual), expected, 1e-12)


@pytest.fixture
def small_rows(monkeypatch):
    """Plans as if no two rows of blocks of 4 had room."""
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
def test_gradients_of_what_is_computed_again(layer, small_rows):
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
def test_rows_at_a_time_take_less_memory():
    import jax

    shapes = [(2, 32 * 32, 4, 16), (2, 32 * 32, 16, 1), (9, 9, 16, 1)]

    def temporary_bytes(score_bytes):
        def output(*arrays):
            return contractions.blocked(
                *arrays[:2],
                None,
                arrays[2],
                (4, 4),
                (32, 32),
                (32, 32),
                block_size=8,
                score_bytes=score_bytes,
            ).sum()

        program = jax.jit(jax.grad(output, argnums=(0, 1, 2))).lower(
            *(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)
        )
        return program.compile().memory_analysis().temp_size_in_bytes

    scores = 4 * 2 * 32 * 32 * 4 * 16 * 16
    assert temporary_bytes(None) > 2 * scores
    assert temporary_bytes(1) < temporary_bytes(None) / 2


@pytest.mark.tf_only
def test_rows_of_a_batch_of_unknown_size(small_rows):
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
