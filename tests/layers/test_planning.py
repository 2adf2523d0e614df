import dataclasses

import pytest

from lambda_keras.layers import LambdaLayer
from lambda_keras.layers import planning
from lambda_keras.layers.contractions import IMPLEMENTATIONS

# A layer of the fourth stage of a LambdaResNet.
PROBLEM = planning.Problem(32, (14, 14), (14, 14), (23, 23), 4, 16, 64)


def test_a_plan_says_what_why_and_what_else():
    plan = planning.plan(PROBLEM)
    assert set(plan.costs) == set(IMPLEMENTATIONS)
    assert plan.implementation in IMPLEMENTATIONS
    assert plan.reason.startswith(f"{plan.implementation}: ")
    assert "faster than" in plan.reason


@pytest.mark.parametrize(
    ("changes", "never"),
    [
        # Embeddings of all pairs would take gigabytes.
        (
            {"query_shape": (128, 128), "context_shape": (128, 128)},
            {"lambda_first", "query_first"},
        ),
        # As many taps as positions, twice over.
        (
            {
                "query_shape": (4096,),
                "context_shape": (4096,),
                "taps": (4095,),
            },
            {"convolution"},
        ),
    ],
)
def test_what_cannot_be_right_is_not_planned(changes, never):
    plan = planning.plan(dataclasses.replace(PROBLEM, **changes))
    assert plan.implementation not in never


def test_unknown_sizes_have_a_plan_without_costs():
    plan = planning.plan(None)
    assert plan.implementation == "blocked"
    assert "unknown" in plan.reason
    assert plan.costs == {}


def test_the_batch_multiplies_all_but_the_embeddings():
    one, two = (
        planning.position_costs(dataclasses.replace(PROBLEM, batch=batch))
        for batch in (1, 2)
    )
    embeddings = 4 * 196 * 196 * 16
    for name in IMPLEMENTATIONS:
        assert two[name].flops == 2 * one[name].flops
    assert two["lambda_first"].bytes - one["lambda_first"].bytes == (
        4 * 196 * 16 * 64
    )
    assert one["lambda_first"].bytes - 4 * 196 * 16 * 64 == embeddings


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (None, 14, 14, 256)),
        ({"causal": True}, (8, 1000, 64)),
        ({"receptive_field": None}, (None, 4, 4, 4, 16)),
    ],
)
def test_a_layer_plans_for_its_taps_in_reach(arguments, shape):
    plan = LambdaLayer(256, **arguments).plan(shape)
    (taps,) = {14: [(23, 23)], 1000: [(12,)], 4: [(7, 7, 7)]}[shape[1]]
    assert plan == planning.plan(
        planning.Problem(
            batch=shape[0] or 32,
            query_shape=shape[1:-1],
            context_shape=shape[1:-1],
            taps=taps,
            num_heads=4,
            key_dim=16,
            value_dim=64,
        )
    )


def test_flops_of_a_layer_by_hand():
    layer = LambdaLayer(
        24, num_heads=2, key_dim=3, intra_depth=2, receptive_field=(3, 5)
    )
    n, m, value_dim = 4 * 5, 2 * 3, 12
    projections = n * 7 * 2 * 3 + m * 6 * 2 * (3 + value_dim)
    content = m * 3 * value_dim * 2 + n * 2 * 3 * value_dim
    # Of an axis of 5 taps, offsets -4 to 2 of 5 queries and 3 context
    # positions reach all.
    position = n * 3 * value_dim * (3 * 5) * 2 + n * 2 * 3 * value_dim
    shapes = (None, 4, 5, 7), (None, 2, 3, 6)
    assert layer.flops(*shapes) == 2 * (projections + content + position)
    assert isinstance(layer.flops(*shapes), int)


@pytest.mark.parametrize("name", ["use_content", "use_position"])
def test_flops_of_half_a_layer(name):
    shape = (None, 6, 6, 8)
    whole, half = (
        LambdaLayer(8, key_dim=4, receptive_field=3, **arguments).flops(shape)
        for arguments in ({}, {name: False})
    )
    n, key_dim, value_dim, heads = 36, 4, 2, 4
    lambdas = n * heads * key_dim * value_dim
    left_out = {
        "use_content": n * 8 * key_dim + n * key_dim * value_dim + lambdas,
        "use_position": n * key_dim * value_dim * 9 + lambdas,
    }
    assert whole - half == 2 * left_out[name]


def test_counting_needs_sizes():
    layer = LambdaLayer(8, receptive_field=3)
    assert layer.flops((None, 6, 6, 8)) > 0
    with pytest.raises(
        ValueError, match=r"Counting needs known spatial sizes\. Received"
    ):
        layer.flops((None, None, 6, 8))


def test_content_alone_has_no_plan():
    layer = LambdaLayer(8, use_position=False)
    with pytest.raises(ValueError, match=r"have a plan.*use_position=False"):
        layer.plan((None, 6, 6, 8))
