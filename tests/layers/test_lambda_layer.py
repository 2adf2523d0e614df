"""Every case of the lambda layer gives what the equations give."""

import numpy as np
import pytest

from lambda_keras.layers.contractions import IMPLEMENTATIONS
from tests import reference
from tests.gradients import directional_derivatives
from tests.gradients import gradients
from tests.layers.lambda_cases import CASES
from tests.layers.lambda_cases import CONTENT_ALONE
from tests.layers.lambda_cases import assert_close
from tests.layers.lambda_cases import expected
from tests.layers.lambda_cases import prepare
from tests.layers.lambda_cases import run


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)]
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_implementations_match_the_equations(case, dtype, tolerance):
    layer, inputs, call = prepare(*case, dtype)
    right = expected(layer, inputs, **call)
    for output in run(layer, inputs, ["auto", *IMPLEMENTATIONS], **call):
        assert_close(output, right, tolerance)


@pytest.mark.parametrize("case", CONTENT_ALONE.values(), ids=CONTENT_ALONE)
def test_content_alone_matches_the_equations(case):
    layer, inputs, call = prepare(*case, use_position=False)
    (output,) = run(layer, inputs, **call)
    assert_close(output, expected(layer, inputs, **call), 1e-10)


TRAINING_CASES = [
    "sequence, u=2",
    "sequence, mask",
    "sequence, masked context",
    "causal, chunks",
    "image, context",
    "image, one value",
    "image, mask",
    "volume",
]


@pytest.mark.parametrize("case", TRAINING_CASES)
def test_training_normalizes_by_what_is_visible_of_the_batch(case):
    layer, inputs, call = prepare(*CASES[case])
    (output,) = run(layer, inputs, training=True, **call)
    assert_close(output, expected(layer, inputs, training=True, **call), 1e-10)


def test_training_remembers_the_moments_of_what_is_visible():
    layer, inputs, call = prepare(
        *CASES["sequence, masked context"], momentum=0.9
    )
    before = reference.lambda_weights(layer)
    run(layer, inputs, training=True, **call)
    after = reference.lambda_weights(layer)
    for norm, source, exists in [
        ("query", inputs, None),
        ("value", call["context"], call["mask"]),
    ]:
        projected = source @ before[f"{norm}_kernel"]
        for name, moment in zip(
            ("moving_mean", "moving_variance"),
            reference.moments(projected, exists),
            strict=True,
        ):
            path = f"{norm}_norm/{name}"
            np.testing.assert_allclose(
                after[path], 0.9 * before[path] + 0.1 * moment, rtol=1e-10
            )


GRADIENT_CASES = {
    "sequence, masked context": {},
    "causal, chunks": {},
    "image, blocks": {},
    "image, bias": {},
    "image, context": {"training": True},
    "image, mask": {"training": True},
}


@pytest.mark.parametrize("case", GRADIENT_CASES)
def test_gradients_are_the_slopes_and_reach_every_weight(case):
    layer, inputs, call = prepare(*CASES[case])
    call |= GRADIENT_CASES[case]
    generator = np.random.default_rng(3)
    directions = [
        generator.normal(size=v.shape) for v in layer.trainable_variables
    ]
    slopes = directional_derivatives(layer, inputs, directions, **call)
    for implementation in IMPLEMENTATIONS:
        layer.implementation = implementation
        for variable, gradient, direction, slope in zip(
            layer.trainable_variables,
            gradients(layer, inputs, **call),
            directions,
            slopes,
            strict=True,
        ):
            assert np.any(gradient != 0), variable.path
            # Central differences of step 1e-5 are right to about 1e-10 of
            # the loss, of which a slope may be a small part.
            np.testing.assert_allclose(
                np.sum(gradient * direction),
                slope,
                rtol=1e-6,
                atol=1e-8,
                err_msg=variable.path,
            )
