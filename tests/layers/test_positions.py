import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras.layers import positions
from lambda_keras.layers.positions import relative_embeddings
from lambda_keras.layers.positions import score_embeddings
from tests import reference
from tests.layers.lambda_cases import compiled
from tests.reference import as_numpy

# taps, center, query shape, context shape
CASES = {
    "window inside the axis": ((3,), (1,), (6,), (6,)),
    "window beyond the axis": ((9,), (4,), (3,), (3,)),
    "one tap": ((1,), (0,), (4,), (4,)),
    "global": ((9,), (4,), (5,), (5,)),
    "table of a larger grid": ((13,), (6,), (3,), (4,)),
    "one query": ((5,), (2,), (1,), (6,)),
    "one context position": ((5,), (2,), (6,), (1,)),
    "longer context": ((3,), (1,), (4,), (9,)),
    "shorter context": ((3,), (1,), (9,), (4,)),
    "past only": ((3,), (2,), (5,), (5,)),
    "future only": ((3,), (0,), (5,), (5,)),
    "two axes": ((3, 5), (1, 2), (4, 3), (4, 3)),
    "two axes, cross": ((5, 3), (2, 1), (2, 4), (5, 3)),
    "three axes": ((3, 1, 5), (1, 0, 2), (2, 3, 2), (3, 2, 2)),
}


def random_table(taps: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(*taps, 2, 3))


def looped(table, center, query_shape, context_shape) -> np.ndarray:
    return np.array(
        [
            [
                reference.embedding_at(table, n, m, center)
                for m in np.ndindex(*context_shape)
            ]
            for n in np.ndindex(*query_shape)
        ]
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_pair_reads_its_offset(case):
    taps, *rest = case
    table = random_table(taps)
    expand = compiled(lambda table: relative_embeddings(table, *rest))
    embeddings = expand(ops.convert_to_tensor(table))
    np.testing.assert_array_equal(as_numpy(embeddings), looped(table, *rest))


@pytest.mark.parametrize("by_slices", [True, False])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_context_comes_last_for_scores(case, by_slices, monkeypatch):
    if not by_slices:
        monkeypatch.setattr(positions, "_MOST_SLICES", 0)
    taps, *rest = case
    table = random_table(taps)
    expand = compiled(lambda table: score_embeddings(table, *rest))
    embeddings = as_numpy(expand(ops.convert_to_tensor(table)))
    # (n, m, k, u) to (n, k, m, u)
    expected = np.swapaxes(looped(table, *rest), 1, 2)
    np.testing.assert_array_equal(
        embeddings, expected.reshape(embeddings.shape)
    )
    assert embeddings.shape[:2] == expected.shape[:2]


@pytest.mark.tf_only
def test_sizes_may_be_unknown():
    import tensorflow as tf

    table = random_table((3, 5))

    @tf.function(input_signature=[tf.TensorSpec((2,), "int32")] * 2)
    def expand(query_shape, context_shape):
        return relative_embeddings(
            tf.constant(table),
            (1, 2),
            tf.unstack(query_shape),
            tf.unstack(context_shape),
        )

    for shapes in [((4, 3), (4, 3)), ((2, 6), (3, 1))]:
        np.testing.assert_array_equal(
            expand(*shapes), looped(table, (1, 2), *shapes)
        )


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="reads the program of JAX"
)
@pytest.mark.parametrize("expand", [relative_embeddings, score_embeddings])
def test_neither_direction_gathers_or_scatters(expand):
    import jax

    def total(table):
        return ops.sum(expand(table, (1, 2), (4, 3), (4, 3)) ** 2)

    table = np.ones((3, 5, 2, 2))
    program = str(jax.make_jaxpr(jax.value_and_grad(total))(table))
    assert "gather" not in program
    assert "scatter" not in program
