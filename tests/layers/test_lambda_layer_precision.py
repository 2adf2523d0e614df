"""Dtype policies: what is computed in which precision, and how well."""

import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras.layers import LambdaLayer
from lambda_keras.layers.contractions import IMPLEMENTATIONS
from tests import reference
from tests.gradients import gradients
from tests.layers.lambda_cases import ARGUMENTS
from tests.layers.lambda_cases import CASES
from tests.layers.lambda_cases import expected
from tests.layers.lambda_cases import prepare
from tests.layers.lambda_cases import run
from tests.reference import as_numpy

# The step from 1 to the next number.
STEPS = {"float16": 2**-10, "bfloat16": 2**-7}


def relative_error(actual, expected) -> float:
    actual = np.asarray(actual, "float64")
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("policy", "outputs", "weights"),
    [
        ("float32", "float32", "float32"),
        ("float64", "float64", "float64"),
        ("float16", "float16", "float16"),
        ("mixed_float16", "float16", "float32"),
        ("mixed_bfloat16", "bfloat16", "float32"),
    ],
)
def test_policies_decide_the_types(policy, outputs, weights):
    layer = LambdaLayer(
        **ARGUMENTS, receptive_field=3, position_bias=True, dtype=policy
    )
    inputs = keras.Input((4, 5, 3))
    assert layer(inputs).dtype == outputs
    assert {v.dtype for v in layer.weights} == {weights}
    for causal in (False, True):
        sequence = LambdaLayer(
            **ARGUMENTS, receptive_field=3, causal=causal, dtype=policy
        )
        x = np.ones((1, 6, 3), "float32")
        sequence.build(x.shape)
        (output,) = run(sequence, x)
        assert output.dtype == outputs


@pytest.mark.parametrize("dtype", STEPS)
@pytest.mark.parametrize("case", ["causal, chunks", "image, blocks"])
def test_half_precision_is_near_the_equations(case, dtype):
    layer, inputs, call = prepare(*CASES[case], f"mixed_{dtype}")
    right = expected(layer, inputs, **call)
    for output in run(layer, inputs, list(IMPLEMENTATIONS), **call):
        # Inputs, weights, projections and lambdas are rounded in turn.
        assert relative_error(output, right) < 8 * STEPS[dtype]


@pytest.mark.parametrize("causal", [False, True])
def test_keys_are_normalized_in_float32(causal):
    """Thousands of small weights are lost when added up in float16."""
    length = 4096
    layer = LambdaLayer(
        **ARGUMENTS, causal=causal, use_position=False, dtype="mixed_float16"
    )
    layer.build((None, length, 5))
    reference.randomize(layer)
    inputs = np.random.default_rng(0).normal(size=(1, length, 5))
    (output,) = run(layer, inputs.astype("float32"))
    # One query is enough, and the last one sees everything, causal or not.
    arguments = {"num_heads": 2, "key_dim": 3, "use_position": False}
    right = reference.lambda_layer(
        inputs[:, -1:],
        reference.lambda_weights(layer),
        context=inputs,
        **arguments,
    )
    assert relative_error(output[:, -1:], right) < 8 * STEPS["float16"]
    # The same softmax in float16 is far off, so that the test can tell.
    kernel = as_numpy(layer.key_kernel)
    keys = (inputs[0] @ kernel).astype("float16")
    sums = np.zeros(3, "float16")
    for key in np.exp(keys - keys.max(axis=0)):
        sums += key
    wrong = 1 / sums.astype("float64")
    keys = keys.astype("float64")
    exact = 1 / np.exp(keys - keys.max(axis=0)).sum(axis=0)
    assert relative_error(wrong, exact) > 8 * STEPS["float16"]


@pytest.mark.parametrize(
    ("shape", "deviation"), [((10, 10), 1), ((10, 10), 30), ((40,), 30)]
)
def test_float16_trains_on_large_inputs(shape, deviation):
    """Two public implementations turn to NaN here."""
    inputs = np.random.default_rng(0).normal(size=(4, *shape, 32))
    inputs = (deviation * inputs).astype("float32")
    layers = [
        LambdaLayer(64, causal=len(shape) == 1, dtype=dtype)
        for dtype in ("mixed_float16", "float64")
    ]
    for layer in layers:
        layer.build(inputs.shape)
        layer.set_weights(layers[0].get_weights())
    slopes = [
        gradients(layer, inputs, scaled_loss, training=True) for layer in layers
    ]
    outputs = [run(layer, inputs, training=True)[0] for layer in layers]
    assert relative_error(*outputs) < 0.02
    for variable, half, double in zip(
        layers[0].trainable_variables, *slopes, strict=True
    ):
        assert np.isfinite(half).all(), variable.path
        half = half.astype("float64")
        cosine = np.sum(half * double) / np.sqrt(
            np.sum(half**2) * np.sum(double**2)
        )
        assert cosine > 0.99, variable.path


def scaled_loss(outputs):
    """A loss times what an optimizer for float16 multiplies it by."""
    weights = np.cos(np.arange(int(np.prod(outputs.shape))))
    weights = ops.convert_to_tensor(weights.reshape(outputs.shape), "float32")
    return 2**10 * ops.mean(ops.cast(outputs, "float32") * weights)


def test_float16_fits():
    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(0)
    labels = np.arange(64) % 4
    inputs = generator.normal(size=(64, 6, 6, 16))
    inputs[np.arange(64), :, :, labels] += 1
    inputs = (30 * inputs).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((6, 6, 16)),
            LambdaLayer(16, dtype="mixed_float16"),
            keras.layers.GlobalAveragePooling2D(dtype="float32"),
            keras.layers.Dense(4),
        ]
    )
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(inputs, labels, 32, epochs=10, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["accuracy"][-1] > 0.9
    for variable in model.variables:
        assert np.isfinite(as_numpy(variable)).all(), variable.path
