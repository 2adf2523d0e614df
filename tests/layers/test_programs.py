"""Of what operations the gradient step of a whole layer consists."""

import re

import keras
import pytest

from lambda_keras.benchmark.layer_reference import TRAINING
from lambda_keras.benchmark.layer_steps import jax_layer_function
from lambda_keras.layers import LambdaLayer
from lambda_keras.layers.contractions import IMPLEMENTATIONS
from lambda_keras.layers.targets import target

# Spatial shape and arguments.
CASES = {
    # Has so many scores that its blocks go by rows, in a loop.
    "local": ((64, 64), {"receptive_field": 9}),
    "global": ((6, 5), {"receptive_field": None, "position_bias": True}),
    "intra-depth": ((6, 5), {"receptive_field": 3, "intra_depth": 4}),
    # Of several blocks and chunks.
    "causal": ((70,), {"receptive_field": 7, "causal": True}),
}
# Products of arrays, as the engines name them.
PRODUCTS = {"jax": "dot_general", "tensorflow": "Einsum"}


def operations_of_step(layer, shape):
    """Returns the names of all operations of forward and backward."""
    layer.build(shape)
    if keras.backend.backend() == "jax":
        return _jax_operations(layer, shape)
    return _tensorflow_operations(layer, shape)


def _jax_operations(layer, shape):
    import jax

    weights, state = (
        [variable.value for variable in variables]
        for variables in (
            layer.trainable_variables,
            layer.non_trainable_variables,
        )
    )
    array = jax.ShapeDtypeStruct(shape, layer.compute_dtype)
    program = jax.make_jaxpr(jax_layer_function(layer, TRAINING))(
        weights, state, array, array
    )
    return set(re.findall(r"[\w-]+", str(program)))


def _tensorflow_operations(layer, shape):
    import tensorflow as tf

    def step(inputs, cotangent):
        weights = [variable.value for variable in layer.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
        return tape.gradient(
            outputs, [inputs, *weights], output_gradients=cotangent
        )

    array = tf.TensorSpec(shape, layer.compute_dtype)
    function = tf.function(step, autograph=False)
    graph = function.get_concrete_function(array, array).graph.as_graph_def()
    bodies = [each.node_def for each in graph.library.function]
    return {node.op for nodes in (graph.node, *bodies) for node in nodes}


def find(operations, *parts):
    """Returns the operations whose names have one of some parts."""
    return {
        each
        for each in operations
        if any(part in each.lower() for part in parts)
    }


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("sizes", "changes"), CASES.values(), ids=CASES)
def test_no_direction_gathers_or_scatters(sizes, changes, implementation):
    layer = LambdaLayer(
        8, num_heads=2, key_dim=4, implementation=implementation, **changes
    )
    with target(jit_compile=True):
        operations = operations_of_step(layer, (2, *sizes, 8))
    assert PRODUCTS[keras.backend.backend()] in operations
    assert not find(operations, "gather", "scatter")
    # What the next test looks for is found where it is.
    convolutions = find(operations, "conv2d", "conv3d", "conv_general")
    assert bool(convolutions) == (implementation == "convolution")


@pytest.mark.parametrize(
    "shape",
    [
        (128, 14, 14, 512),
        (128, 8, 8, 512),
        (64, 28, 28, 256),
        (8, 64, 64, 256),
    ],
    ids=str,
)
def test_plans_for_tpus_are_products(shape):
    # A gather's gradient is a scatter, which TPUs are slow at; of the gradient
    # of a convolution with so few channels their compiler takes minutes.
    layer = LambdaLayer(
        shape[-1],
        kernel_initializer="zeros",
        embeddings_initializer="zeros",
        dtype="mixed_bfloat16",
    )
    with target("tpu"):
        operations = operations_of_step(layer, shape)
    assert PRODUCTS[keras.backend.backend()] in operations
    assert not find(operations, "conv2d", "conv3d", "conv_general")
    assert not find(operations, "gather", "scatter")
