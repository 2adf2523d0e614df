"""Cases of the lambda layer, and what the equations give for them."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from lambda_keras.layers import LambdaLayer
from tests import reference
from tests.gradients import call_with
from tests.reference import as_numpy

CHANNELS = 5
ARGUMENTS = {
    "output_dim": 6,
    "num_heads": 2,
    "key_dim": 3,
    # Overwritten at once; random numbers take a while to compile.
    "kernel_initializer": "zeros",
    "embeddings_initializer": "zeros",
}

# Name, spatial shape, and what differs from ARGUMENTS or from a plain call.
# `context` is the spatial shape of another context, of three channels.
# Blocks are 64 positions in one dimension, 8 in two and 4 in three, and
# causal content goes by chunks of 16: some rows are longer on purpose.
CASES = {
    "sequence": ((7,), {"receptive_field": 3}),
    "sequence, even size": ((8,), {"receptive_field": (5,)}),
    "sequence, window beyond": ((4,), {"receptive_field": 15}),
    "sequence, one tap": ((5,), {"receptive_field": 1}),
    "sequence, one position": ((1,), {"receptive_field": 3}),
    "sequence, blocks": ((70,), {"receptive_field": 9}),
    "sequence, global": ((6,), {"receptive_field": None}),
    "sequence, u=2": ((6,), {"receptive_field": 5, "intra_depth": 2}),
    "sequence, longer context": ((5,), {"receptive_field": 5, "context": (9,)}),
    "sequence, shorter context": (
        (9,),
        {"receptive_field": 5, "context": (4,), "intra_depth": 2},
    ),
    "sequence, global context": (
        (3,),
        {"receptive_field": None, "context": (5,)},
    ),
    "sequence, mask": ((7,), {"receptive_field": 5, "mask": "random"}),
    "sequence, nothing visible": (
        (4,),
        {"receptive_field": 3, "mask": "nothing"},
    ),
    "sequence, masked context": (
        (5,),
        {"receptive_field": 5, "context": (6,), "mask": "random"},
    ),
    "causal": ((7,), {"receptive_field": 5, "causal": True}),
    "causal, window beyond": (
        (6,),
        {"receptive_field": 23, "causal": True, "intra_depth": 2},
    ),
    "causal, global": ((6,), {"receptive_field": None, "causal": True}),
    "causal, chunks": (
        (70,),
        {"receptive_field": 7, "causal": True, "mask": "random"},
    ),
    "causal, start masked": (
        (6,),
        {"receptive_field": 3, "causal": True, "mask": "late"},
    ),
    "causal, context": (
        (5,),
        {"receptive_field": 3, "causal": True, "context": (5,)},
    ),
    "image": ((5, 4), {"receptive_field": 3}),
    "image, per axis": ((4, 6), {"receptive_field": (5, 3)}),
    "image, window beyond": ((3, 4), {}),
    "image, blocks": ((9, 10), {"receptive_field": (3, 5)}),
    "image, global": ((3, 4), {"receptive_field": None}),
    "image, u=4": ((3, 4), {"receptive_field": 3, "intra_depth": 4}),
    "image, context": (
        (3, 4),
        {"receptive_field": (3, 5), "context": (5, 2), "intra_depth": 2},
    ),
    "image, global context": (
        (2, 4),
        {"receptive_field": None, "context": (3, 2)},
    ),
    "image, mask": (
        (3, 4),
        {"receptive_field": 3, "mask": "random", "intra_depth": 2},
    ),
    "image, bias": ((4, 3), {"receptive_field": 3, "position_bias": True}),
    "image, one head": ((3, 4), {"receptive_field": 3, "num_heads": 1}),
    "image, one value": ((3, 4), {"receptive_field": 3, "num_heads": 6}),
    "image, key of 1": ((3, 4), {"receptive_field": 3, "key_dim": 1}),
    "image, no content": (
        (4, 3),
        {"receptive_field": 3, "use_content": False},
    ),
    "volume": ((3, 2, 4), {"receptive_field": 3}),
    "volume, blocks": ((5, 2, 6), {"receptive_field": (3, 1, 5)}),
    "volume, global": ((2, 3, 2), {"receptive_field": None}),
    "volume, context and mask": (
        (2, 3, 2),
        {
            "receptive_field": (1, 5, 3),
            "context": (3, 2, 2),
            "mask": "random",
            "intra_depth": 2,
        },
    ),
}
CONTENT_ALONE = {
    "sequence": ((7,), {}),
    "sequence, causal": ((40,), {"causal": True, "intra_depth": 2}),
    "image, mask": ((3, 4), {"mask": "random"}),
    "volume, context": ((2, 3, 2), {"context": (3, 2, 2)}),
}


# Keys that a softmax has to survive: functions of random keys and of their
# positions.
KEYS: dict[str, Callable] = {
    "plain": lambda x, m: x,
    "large": lambda x, m: 3000 * x,
    "rising": lambda x, m: x + 100 * m,
    "falling": lambda x, m: x - 100 * m,
    "one peak": lambda x, m: x + 1e4 * (m == 20),
}


def make_mask(kind: str, batch: int, positions: int) -> np.ndarray:
    if kind == "nothing":
        return np.arange(batch)[:, None] > np.zeros(positions)
    if kind == "late":
        return np.arange(positions) > np.arange(1, batch + 1)[:, None]
    mask = np.random.default_rng(2).random((batch, positions)) < 0.6
    mask[:, positions // 2] = True
    return mask


def prepare(
    shape: tuple[int, ...], changes: dict, dtype: str = "float64", **more: Any
) -> tuple[LambdaLayer, np.ndarray, dict]:
    """Makes a layer with random weights, and what to call it on."""
    arguments = {**ARGUMENTS, **changes, **more}
    context_shape = arguments.pop("context", None)
    mask = arguments.pop("mask", None)
    layer = LambdaLayer(**arguments, dtype=dtype)
    generator = np.random.default_rng(1)

    def random(*size):
        return generator.normal(size=(2, *size)).astype(layer.variable_dtype)

    inputs = random(*shape, CHANNELS)
    call = {}
    if context_shape is not None:
        call["context"] = random(*context_shape, 3)
    if mask is not None:
        positions = int(np.prod(context_shape or shape))
        call["mask"] = make_mask(mask, 2, positions)
    layer.build(
        inputs.shape, call["context"].shape if "context" in call else None
    )
    reference.randomize(layer)
    return layer, inputs, call


def run(
    layer: LambdaLayer,
    inputs: Any,
    implementations: Sequence[str] = ("auto",),
    **arguments: Any,
) -> list[np.ndarray]:
    """Calls one layer in several implementations, and updates its state."""

    def outputs_of(call):
        outputs = []
        for implementation in implementations:
            layer.implementation = implementation
            outputs.append(call())
        return outputs

    if keras.backend.backend() != "jax":
        outputs = outputs_of(lambda: layer(inputs, **arguments))
        return [as_numpy(output) for output in outputs]
    import jax

    training = arguments.pop("training", False)

    # One compilation takes less time than one for each operation.
    @jax.jit
    def outputs_and_states(trainable, state, inputs, arguments):
        return outputs_of(
            lambda: call_with(
                layer, trainable, state, inputs, training=training, **arguments
            )
        )

    results = outputs_and_states(
        [v.value for v in layer.trainable_variables],
        [v.value for v in layer.non_trainable_variables],
        inputs,
        arguments,
    )
    for variable, value in zip(
        layer.non_trainable_variables, results[-1][1], strict=True
    ):
        variable.assign(value)
    return [as_numpy(output) for output, _ in results]


def compiled(function: Callable) -> Callable:
    """Makes calls of one shape quick where each operation is compiled."""
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


def expected(
    layer: LambdaLayer, inputs: np.ndarray, training: bool = False, **call: Any
) -> np.ndarray:
    """Computes what the equations give for a layer's weights."""
    return reference.lambda_layer(
        inputs,
        reference.lambda_weights(layer),
        num_heads=layer.num_heads,
        key_dim=layer.key_dim,
        intra_depth=layer.intra_depth,
        causal=layer.causal,
        use_content=layer.use_content,
        use_position=layer.use_position,
        training=training,
        **call,
    )


def assert_close(
    actual: np.ndarray, expected: np.ndarray, tolerance: float
) -> None:
    """Compares relative to the largest number of the output."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )
