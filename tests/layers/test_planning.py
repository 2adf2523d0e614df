import dataclasses
import itertools

import pytest

from lambda_keras.layers import LambdaLayer
from lambda_keras.layers import planning
from lambda_keras.layers.contractions import IMPLEMENTATIONS
from lambda_keras.layers.targets import DEVICES
from lambda_keras.layers.targets import Target
from lambda_keras.layers.targets import target

# A layer of the fourth stage of a LambdaResNet.
PROBLEM = planning.Problem(32, (14, 14), (14, 14), (23, 23), 4, 16, 64)


def test_a_plan_says_what_why_and_what_else():
    plan = planning.plan(PROBLEM)
    assert set(plan.costs) == set(IMPLEMENTATIONS)
    assert plan.implementation in IMPLEMENTATIONS
    assert plan.reason.startswith(f"{plan.implementation}: ")
    assert "faster than" in plan.reason


TARGETS = [
    Target("cpu", "tensorflow", True),
    Target("cpu", "tensorflow", False),
    Target("cpu", "jax", True),
    Target("tpu", "jax", True),
    Target("gpu", "jax", True),
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {"query_shape": (128, 128), "context_shape": (128, 128)},
        {"query_shape": (16384,), "context_shape": (16384,), "taps": (32767,)},
    ],
)
def test_embeddings_of_all_pairs_that_take_gigabytes_are_not_planned(
    changes, target, training
):
    large = dataclasses.replace(PROBLEM, **changes, batch=2)
    plan = planning.plan(large, training, target)
    assert plan.implementation not in {"lambda_first", "query_first"}


def test_embeddings_of_all_pairs_may_take_less_than_scores_of_blocks():
    # One row of blocks sees nearly all, for each of 256 examples.
    large = planning.Problem(
        256, (64, 64), (64, 64), (127, 127), 8, 16, 32, itemsize=4
    )
    plan = planning.plan(large, True, Target("tpu", "jax", True))
    assert plan.implementation == "lambda_first"


def test_a_convolution_with_as_many_taps_as_positions_is_not_planned():
    global_ = dataclasses.replace(
        PROBLEM, query_shape=(4096,), context_shape=(4096,), taps=(8191,)
    )
    for each in TARGETS:
        plan = planning.plan(global_, False, each)
        assert plan.implementation != "convolution"


@pytest.mark.parametrize(
    "changes",
    [
        {"num_heads": 64, "value_dim": 1, "taps": (3, 3)},
        {"num_heads": 16, "value_dim": 4, "taps": (7, 7)},
    ],
)
def test_a_tpu_gets_no_convolution(changes):
    # Its compiler takes minutes for the gradient.
    sizes = {"query_shape": (56, 56), "context_shape": (56, 56)}
    small = dataclasses.replace(PROBLEM, **sizes, **changes)
    for training in (False, True):
        plan = planning.plan(small, training, Target("tpu", "jax", True))
        assert plan.implementation != "convolution"


def problem(batch, size, channels, taps, intra_depth=1, itemsize=4):
    sizes = (size, size)
    return planning.Problem(
        *(batch, sizes, sizes, (taps, taps), 4, 16, channels // 4),
        intra_depth=intra_depth,
        itemsize=itemsize,
    )


SMALL = [problem(8, 14, 512, 27), problem(8, 14, 512, 23)]
MIDDLE = problem(8, 32, 256, 23)
LARGE = [problem(2, 64, 128, 23), problem(2, 128, 64, 23)]
DEEP = problem(8, 28, 256, 7, intra_depth=4)
SEQUENCE = planning.Problem(2, (4096,), (4096,), (127,), 4, 16, 64)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("engine", ["tensorflow", "jax"])
def test_what_was_fastest_where_xla_compiles_for_a_processor(engine, training):
    target = Target("cpu", engine, jit_compile=True)
    for small in SMALL:
        plan = planning.plan(small, training, target)
        assert plan.implementation == "query_first"
    for large in (MIDDLE, *LARGE, DEEP, SEQUENCE):
        plan = planning.plan(large, training, target)
        assert plan.implementation == "blocked"
        # Less than the caches have, and gradients need more than one array.
        mebibytes = 1 if training else 8
        assert plan.options["score_bytes"] == mebibytes * 2**20


@pytest.mark.parametrize(
    ("shapes", "forward", "training"),
    [
        (SMALL, "query_first", "query_first"),
        ([MIDDLE], "blocked", "query_first"),
        (LARGE, "convolution", "blocked"),
        ([DEEP], "convolution", "convolution"),
        ([SEQUENCE], "blocked", "blocked"),
    ],
)
def test_what_was_fastest_with_the_operations_of_tensorflow(
    shapes, forward, training
):
    target = Target("cpu", "tensorflow", jit_compile=False)
    for each in shapes:
        plans = [planning.plan(each, mode, target) for mode in (False, True)]
        assert [plan.implementation for plan in plans] == [forward, training]


def test_what_a_tpu_s_compiler_estimates_to_be_fastest():
    target = Target("tpu", "jax", jit_compile=True)
    for size, batch, channels in [(14, 128, 512), (8, 128, 512), (28, 64, 256)]:
        small = problem(batch, size, channels, min(23, 2 * size - 1), 1, 2)
        plan = planning.plan(small, True, target)
        assert plan.implementation == "query_first"
    plan = planning.plan(problem(8, 64, 256, 23, 1, 2), True, target)
    assert plan.implementation == "blocked"


@pytest.mark.parametrize(
    ("large", "others"),
    [
        # Embeddings of 1 GiB and of 512 MiB.
        (problem(1, 64, 128, 127), ["convolution"]),
        (problem(16, 64, 256, 127, itemsize=2), ["convolution"]),
        # Lambdas of 2 GiB and of 3 GiB.
        (problem(128, 64, 256, 7), []),
        (problem(512, 56, 256, 3, itemsize=2), []),
    ],
)
def test_what_blocks_avoid_is_not_made(large, others):
    for device, engine, jit_compile, training in itertools.product(
        DEVICES, ["tensorflow", "jax"], [False, True], [False, True]
    ):
        plan = planning.plan(
            large, training, Target(device, engine, jit_compile)
        )
        assert plan.implementation in ["blocked", *others]


def test_tpus_fill_lanes():
    # 196 of 256 lanes, and 4 of 8 rows above them.
    unpadded, padded = (
        planning.position_costs(
            planning.Problem(4, (14, 14), (14, 14), (27, 27), 4, 16, 128),
            planning.find_rates(Target(device, "jax", True)),
        )["query_first"]
        for device in ("cpu", "tpu")
    )
    assert unpadded.flops == padded.flops
    assert unpadded.bytes == 4 * 196 * (16 * 196 + 4 * 4 * 196)
    assert padded.bytes == 4 * 196 * (16 * 256 + 4 * 8 * 256)


def test_an_implementation_that_is_asked_for_is_planned():
    plan = planning.plan(PROBLEM, implementation="convolution")
    assert plan.implementation == "convolution"
    assert plan.reason == "convolution: asked for"
    plan = LambdaLayer(64, implementation="blocked").plan((8, 14, 14, 64))
    assert plan.implementation == "blocked"


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


def test_one_tpu_that_it_pays_on_gets_the_kernel():
    problem = dataclasses.replace(PROBLEM, itemsize=2)
    larger = {"query_shape": (28, 28), "context_shape": (28, 28)}

    def planned(chip, device="tpu", **changes):
        with target(device, chip=chip):
            changed = dataclasses.replace(problem, **changes)
            return planning.plan(changed, training=True)

    fused, plain = planned("TPU v5 lite"), planned(None)
    assert fused.implementation == plain.implementation == "query_first"
    assert fused.options == {"fused": True}
    assert fused.reason.endswith(", in one kernel")
    # The scores.
    saved = plain.costs["query_first"].bytes - fused.costs["query_first"].bytes
    assert saved == 2 * 196 * 4 * 32 * 256
    assert planned("TPU v5 lite", **larger).options == {"fused": True}
    assert planned("TPU v6 lite").options == {"fused": True}
    for other in (
        plain,
        planned("TPU v3"),
        planned("TPU v6 lite", **larger),
        planned("TPU v5 lite", batch=4),
        planned("TPU v5 lite", value_dim=32),
        planned(None, device="cpu"),
        planning.plan(problem, training=True),
    ):
        assert "fused" not in other.options
        assert "kernel" not in other.reason
