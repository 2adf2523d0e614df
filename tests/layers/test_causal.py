import re

import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras.layers import LambdaLayer
from lambda_keras.layers.causal import causal_content_output
from tests import reference
from tests.gradients import call_with
from tests.gradients import directional_derivatives
from tests.gradients import gradients
from tests.layers.lambda_cases import KEYS
from tests.layers.lambda_cases import assert_close
from tests.layers.lambda_cases import compiled
from tests.reference import as_numpy


def arguments_of(length, features, seed=0):
    """Random queries, keys and values."""
    generator = np.random.default_rng(seed)
    heads, key_dim, value_dim, intra_depth = features
    return [
        generator.normal(size=(2, length, *shape))
        for shape in [
            (heads, key_dim),
            (key_dim, intra_depth),
            (value_dim, intra_depth),
        ]
    ]


def call(arguments, mask=None):
    tensors = map(ops.convert_to_tensor, arguments)
    if mask is not None:
        mask = ops.convert_to_tensor(mask)
    return as_numpy(compiled(causal_content_output)(*tensors, mask))


@pytest.mark.parametrize(
    ("kind", "masked"),
    [("plain", False), ("rising", False), *((kind, True) for kind in KEYS)],
)
def test_survives_any_keys(kind, masked):
    queries, keys, values = arguments_of(70, (3, 4, 5, 2))
    keys = KEYS[kind](keys, np.arange(70)[:, None, None])
    mask = np.ones((2, 70), bool)
    if masked:
        mask = np.random.default_rng(1).random((2, 70)) < 0.5
        # Chunks, and groups of them, that nothing is seen of.
        mask[0, :40] = False
        mask[1, 16:48] = False
    expected = reference.content_output(queries, keys, values, mask, True)
    output = call([queries, keys, values], mask if masked else None)
    assert_close(output, expected, 1e-12)


# Chunks are 16 positions, groups 16 chunks.
@pytest.mark.parametrize("length", [1, 15, 16, 17, 255, 256, 257])
def test_any_length(length):
    arguments = arguments_of(length, (1, 2, 3, 1))
    mask = np.ones((2, length), bool)
    expected = reference.content_output(*arguments, mask, True)
    assert_close(call(arguments), expected, 1e-12)


def test_more_positions_than_its_groups_hold():
    arguments = arguments_of(3 * 16**3 + 5, (1, 1, 1, 1))
    queries, keys, values = arguments
    # Rising, so that each level has something to forget.
    keys += 0.01 * np.arange(keys.shape[1])[:, None, None]
    weights = np.exp(keys - keys.max())
    sums = np.cumsum(weights * values, axis=1) / np.cumsum(weights, axis=1)
    expected = queries * sums
    assert_close(call(arguments), expected, 1e-10)


def test_a_later_position_changes_nothing_before_it():
    arguments = arguments_of(70, (2, 3, 4, 1))
    seen = call(arguments)
    for array in arguments:
        array[:, 37:] = 1e6
    np.testing.assert_array_equal(call(arguments)[:, :37], seen[:, :37])


class Content(keras.Layer):
    """Causal content of queries, keys and values that are its weights."""

    def __init__(self, arrays):
        super().__init__(dtype="float64")
        for array in arrays:
            self.add_weight(shape=array.shape).assign(array)
        self.built = True

    def call(self, mask):
        weights = [weight.value for weight in self.trainable_variables]
        return causal_content_output(*weights, mask)


@pytest.mark.parametrize("kind", KEYS)
def test_gradients_survive_any_keys(kind):
    queries, keys, values = arguments_of(40, (2, 2, 2, 1))
    keys = KEYS[kind](keys, np.arange(40)[:, None, None])
    mask = np.random.default_rng(1).random((2, 40)) < 0.5
    mask[:, 16:32] = False
    layer = Content([queries, keys, values])
    directions = arguments_of(40, (2, 2, 2, 1), seed=2)
    slopes = directional_derivatives(layer, mask, directions)
    for gradient, direction, slope in zip(
        gradients(layer, mask), directions, slopes, strict=True
    ):
        np.testing.assert_allclose(
            np.sum(gradient * direction), slope, rtol=1e-6, atol=1e-8
        )


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="reads the program of JAX"
)
def test_training_takes_work_and_memory_as_long_as_the_sequence():
    import jax

    layer = LambdaLayer(16, key_dim=8, receptive_field=15, causal=True)
    layer.build((1, 512, 16))
    trainable, state = (
        [variable.value for variable in variables]
        for variables in (
            layer.trainable_variables,
            layer.non_trainable_variables,
        )
    )

    def loss(weights, inputs):
        outputs, _ = call_with(layer, weights, state, inputs, training=True)
        return ops.sum(outputs**2)

    def measure(length):
        inputs = np.zeros((1, length, 16), "float32")
        program = jax.jit(jax.grad(loss, argnums=(0, 1)))
        program = program.lower(trainable, inputs).compile()
        shapes = re.findall(r"\[([\d,]+)\]", program.as_text())
        return {
            "largest array": max(
                np.prod([int(size) for size in shape.strip(",").split(",")])
                for shape in shapes
            ),
            "memory": program.memory_analysis().temp_size_in_bytes,
            "operations": program.cost_analysis()["flops"],
            "bytes": program.cost_analysis()["bytes accessed"],
        }

    short, middle, long = map(measure, (1024, 2048, 4096))
    assert long["largest array"] <= 2 * middle["largest array"]
    for name in ("memory", "operations", "bytes"):
        growth = long[name] - middle[name]
        assert growth == pytest.approx(
            2 * (middle[name] - short[name]), rel=0.05
        ), name
