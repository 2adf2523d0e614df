"""What a lambda layer accepts and refuses, and what it is made of."""

import keras
import numpy as np
import pytest

from lambda_keras.layers import LambdaLayer
from lambda_keras.layers.contractions import IMPLEMENTATIONS
from tests.layers.lambda_cases import compiled
from tests.reference import as_numpy


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ({"output_dim": 8}, {"output_dim": 0}, "`output_dim` must be a pos"),
        ({"output_dim": 8}, {"output_dim": 8.0}, "`output_dim` must be a pos"),
        ({"output_dim": 8}, {"output_dim": 6}, "multiple of `num_heads`"),
        ({"num_heads": 1}, {"num_heads": -1}, "`num_heads` must be a pos"),
        ({"num_heads": 8}, {"num_heads": True}, "`num_heads` must be a pos"),
        ({"key_dim": 1}, {"key_dim": 0}, "`key_dim` must be a pos"),
        ({"key_dim": 3}, {"key_dim": None}, "`key_dim` must be a pos"),
        ({"intra_depth": 1}, {"intra_depth": 0}, "`intra_depth` must be a pos"),
        ({"epsilon": 1e-3}, {"epsilon": 0.0}, "`epsilon` must be positive"),
        ({"momentum": 0.0}, {"momentum": 1.0}, "`momentum` must be at least"),
        (
            {"intra_depth": 2},
            {"intra_depth": "2"},
            "`intra_depth` must be a pos",
        ),
        (
            {"receptive_field": 1},
            {"receptive_field": 0},
            "odd positive integer",
        ),
        (
            {"receptive_field": 3},
            {"receptive_field": 4},
            "odd positive integer",
        ),
        (
            {"receptive_field": 3},
            {"receptive_field": -3},
            "odd positive integer",
        ),
        (
            {"receptive_field": 3},
            {"receptive_field": 3.0},
            "odd positive integer",
        ),
        (
            {"receptive_field": (3, 5)},
            {"receptive_field": (3, 4)},
            "odd positive integer",
        ),
        (
            {"receptive_field": [3]},
            {"receptive_field": []},
            "up to 3 spatial axes",
        ),
        (
            {"receptive_field": (3,) * 3},
            {"receptive_field": (3,) * 4},
            "up to 3 spatial axes",
        ),
        (
            {"receptive_field": None},
            {"receptive_field": "global"},
            "or None",
        ),
        (
            {"use_content": False},
            {"use_content": False, "use_position": False},
            "At least one of `use_content` and `use_position`",
        ),
        (
            {"position_bias": True},
            {"position_bias": True, "use_position": False},
            "`position_bias=True` needs `use_position=True`",
        ),
        (
            {"implementation": "blocked"},
            {"implementation": "einsum"},
            "must be one of .*'auto', 'lambda_first'",
        ),
    ],
)
def test_arguments(right, wrong, message):
    LambdaLayer(**{"output_dim": 8, **right})
    with pytest.raises(ValueError, match=message) as error:
        LambdaLayer(**{"output_dim": 8, **wrong})
    received = str(error.value).split("Received: ")[1]
    assert any(f"{name}={value!r}" in received for name, value in wrong.items())


# Random numbers take a while to compile.
ZEROS = {
    "kernel_initializer": "zeros",
    "embeddings_initializer": "zeros",
    "key_dim": 2,
}
IMAGE = (2, 4, 5, 6)


@pytest.mark.parametrize(
    ("arguments", "right", "wrong", "message"),
    [
        ({}, [IMAGE], [(2, 6)], "with 1, 2 or 3 spatial axes"),
        ({}, [(2, 3, 3, 3, 6)], [(2, 3, 3, 3, 3, 6)], "with 1, 2 or 3 spatial"),
        ({}, [IMAGE], [(2, 4, 5, None)], "last axis must be of known size"),
        ({}, [IMAGE, (2, 3, 2, 7)], [IMAGE, (2, 6, 7)], "the rank of `inputs`"),
        (
            {},
            [IMAGE, (2, 3, 2, 7)],
            [IMAGE, (2, 3, 2, None)],
            "last axis must be of known size",
        ),
        (
            {"receptive_field": (3, 5)},
            [IMAGE],
            [(2, 20, 6)],
            "2 axes and the inputs have 1 spatial axes",
        ),
        (
            {"receptive_field": (3,)},
            [(2, 20, 6)],
            [IMAGE],
            "1 axes and the inputs have 2 spatial axes",
        ),
        ({"causal": True}, [(2, 20, 6)], [IMAGE], "`causal=True` needs seq"),
        (
            {"causal": True},
            [(2, 20, 6), (2, 20, 7)],
            [(2, 20, 6), (2, 19, 6)],
            "`context` as long as `inputs`",
        ),
        (
            {"receptive_field": None},
            [(None, 4, 5, 6)],
            [(None, None, 5, 6)],
            "spatial sizes that are known when the layer is built",
        ),
        (
            {"receptive_field": None},
            [IMAGE, (None, 4, 5, 6)],
            [IMAGE, (None, 4, None, 6)],
            "spatial sizes that are known when the layer is built",
        ),
    ],
)
def test_shapes(arguments, right, wrong, message):
    layer = LambdaLayer(8, **ZEROS, **arguments)
    assert layer.compute_output_shape(*right) == (*right[0][:-1], 8)
    layer.build(*right)
    layer = LambdaLayer(8, **ZEROS, **arguments)
    for method in (layer.compute_output_shape, layer.build, layer.plan):
        with pytest.raises(ValueError, match=message) as error:
            method(*wrong)
        assert f"inputs_shape={wrong[0]}" in str(error.value)
    assert not layer.built


@pytest.mark.parametrize(
    ("arguments", "right", "wrong", "message"),
    [
        (
            {},
            {"inputs": (1, 7, 3)},
            {"inputs": (1, 7, 4)},
            "to have value 3",
        ),
        ({}, {}, {"inputs": (1, 7, 1, 3)}, "expected ndim=3, found ndim=4"),
        (
            {},
            {"context": (1, 2, 3)},
            {"context": (1, 2, 4)},
            "must have 3 channels, as when the layer was built",
        ),
        ({}, {"context": (1, 5, 3)}, {"context": (1, 5, 5, 3)}, "the rank of"),
        (
            {},
            {"mask": (1, 5)},
            {"mask": (1, 4)},
            r"`mask` must have shape .*mask.shape=\(1, 4\)",
        ),
        ({}, {}, {"mask": (1, 5, 1)}, "`mask` must have shape"),
        (
            {},
            {"context": (1, 2, 3), "mask": (1, 2)},
            {"context": (1, 2, 3), "mask": (1, 5)},
            r"context.shape=\(1, 2, 3\)",
        ),
        (
            {"receptive_field": None},
            {"inputs": (1, 2, 3)},
            {"inputs": (1, 6, 3)},
            r"built for spatial sizes up to \(5,\)",
        ),
        (
            {"receptive_field": None},
            {"context": (1, 4, 3)},
            {"context": (1, 6, 3)},
            r"built for spatial sizes up to \(5,\)",
        ),
        (
            {"causal": True},
            {"context": (1, 5, 3)},
            {"context": (1, 4, 3)},
            "as long as `inputs`",
        ),
    ],
)
def test_calls(arguments, right, wrong, message):
    layer = LambdaLayer(4, **ZEROS, **arguments)
    layer.build((None, 5, 3))

    def call(shapes):
        tensors = {
            name: np.ones(shape, bool if name == "mask" else "float32")
            for name, shape in {"inputs": (1, 5, 3), **shapes}.items()
        }
        return compiled(lambda tensors: layer(**tensors))(tensors)

    inputs = right.get("inputs", (1, 5, 3))
    assert call(right).shape == (*inputs[:-1], 4)
    with pytest.raises(ValueError, match=message):
        call(wrong)


@pytest.mark.parametrize(
    ("arguments", "inputs", "context", "taps"),
    [
        ({"receptive_field": 5}, (None, None, 3), None, (5,)),
        ({"receptive_field": 5}, (2, 4, 6, 3), None, (5, 5)),
        ({"receptive_field": (5, 3)}, (2, 4, 6, 3), (2, 9, 9, 7), (5, 3)),
        ({"receptive_field": None}, (2, 4, 6, 3), None, (7, 11)),
        ({"receptive_field": None}, (2, 4, 6, 3), (2, 5, 2, 7), (9, 11)),
        ({"receptive_field": 3}, (2, 4, 6, 5, 3), None, (3, 3, 3)),
    ],
)
def test_weights_have_documented_names_and_shapes(
    arguments, inputs, context, taps
):
    layer = LambdaLayer(
        6,
        num_heads=2,
        key_dim=4,
        intra_depth=5,
        position_bias=True,
        name="mix",
        **arguments,
    )
    layer.build(inputs, context)
    channels = (context or inputs)[-1]
    assert {v.path: v.shape for v in layer.weights} == {
        "mix/query_kernel": (3, 8),
        "mix/key_kernel": (channels, 20),
        "mix/value_kernel": (channels, 15),
        "mix/position_embeddings": (*taps, 4, 5),
        "mix/position_bias": (4,),
        **{
            f"mix/{norm}/{name}": (size,)
            for norm, size in [("query_norm", 8), ("value_norm", 15)]
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        },
    }
    for name in ("query_kernel", "key_kernel", "value_kernel"):
        assert getattr(layer, name).path == f"mix/{name}"
    assert layer.position_embeddings.path == "mix/position_embeddings"
    assert layer.position_bias.path == "mix/position_bias"
    assert layer.query_norm.gamma.path == "mix/query_norm/gamma"


def test_what_is_not_used_has_no_weights():
    layers = [
        LambdaLayer(8, **arguments)
        for arguments in ({}, {"use_content": False}, {"use_position": False})
    ]
    for layer in layers:
        layer.build((None, 4, 4, 3))
    both, position, content = (
        {v.path.split("/", 1)[1] for v in layer.weights} for layer in layers
    )
    assert both - position == {"key_kernel"}
    assert both - content == {"position_embeddings"}


def test_initial_weights_are_the_papers():
    layer = LambdaLayer(128, num_heads=4, key_dim=16, intra_depth=4)
    layer.build((None, 8, 8, 64), (None, 8, 8, 100))
    for weight, deviation in [
        (layer.query_kernel, (16 * 64) ** -0.5),
        (layer.key_kernel, 100**-0.5),
        (layer.value_kernel, 100**-0.5),
        (layer.position_embeddings, 1.0),
    ]:
        # Thousands of numbers: their deviation is known to a few percent.
        assert as_numpy(weight).std() == pytest.approx(deviation, rel=0.05)
        assert abs(as_numpy(weight).mean()) < 0.05 * deviation
    # Each its own numbers.
    assert not np.allclose(
        as_numpy(layer.key_kernel)[:, :64], as_numpy(layer.value_kernel)[:, :64]
    )


def test_initializers_and_regularizers_are_used():
    layer = LambdaLayer(
        8,
        receptive_field=3,
        kernel_initializer=keras.initializers.Constant(0.5),
        embeddings_initializer="ones",
        kernel_regularizer=keras.regularizers.L1(0.1),
        embeddings_regularizer="l2",
    )
    layer.build((None, 5, 3))
    assert (as_numpy(layer.value_kernel) == 0.5).all()
    assert (as_numpy(layer.position_embeddings) == 1).all()
    kernels = 3 * (4 * 16 + 16 + 2)
    np.testing.assert_allclose(
        as_numpy(sum(layer.losses)),
        0.1 * 0.5 * kernels + 0.01 * 3 * 16,
        rtol=1e-5,
    )


def test_one_initializer_object_gives_each_kernel_its_own_numbers():
    layer = LambdaLayer(
        16, key_dim=4, kernel_initializer=keras.initializers.GlorotUniform()
    )
    layer.build((None, 5, 3))
    key_kernel, value_kernel = map(
        as_numpy, (layer.key_kernel, layer.value_kernel)
    )
    assert key_kernel.shape == value_kernel.shape
    assert not np.allclose(key_kernel, value_kernel)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {
            "num_heads": 2,
            "key_dim": 8,
            "intra_depth": 2,
            "receptive_field": (3, 5),
            "use_content": False,
            "position_bias": True,
            "implementation": "blocked",
            "epsilon": 1e-3,
            "momentum": 0.99,
            "synchronized": True,
            "kernel_initializer": "he_normal",
            "embeddings_initializer": keras.initializers.TruncatedNormal(0.02),
            "kernel_regularizer": "l2",
            "embeddings_regularizer": keras.regularizers.L1(1e-3),
            "name": "mix",
            "dtype": "mixed_bfloat16",
            "trainable": False,
        },
        {"receptive_field": None, "use_position": True, "causal": True},
        {"use_position": False},
    ],
)
def test_configuration_makes_the_same_layer(arguments):
    layer = LambdaLayer(8, **arguments)
    config = layer.get_config()
    clone = LambdaLayer.from_config(config)
    assert clone.get_config() == config
    for name, value in arguments.items():
        if isinstance(value, bool | int | float | tuple):
            assert config[name] == value, name
    # What JSON makes of it: tuples become lists.
    restored = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert restored.get_config() == config


def test_implementations_have_the_same_weights():
    shapes = set()
    for implementation in ("auto", *IMPLEMENTATIONS):
        layer = LambdaLayer(8, implementation=implementation, name="mix")
        layer.build((None, 5, 5, 3))
        shapes.add(tuple((v.path, v.shape) for v in layer.weights))
    assert len(shapes) == 1


@pytest.mark.parametrize("explicit", [True, False])
def test_explicit_and_implicit_build_agree(explicit):
    layer = LambdaLayer(4, **ZEROS, receptive_field=None)
    x, context = keras.Input((4, 3)), keras.Input((6, 5))
    if explicit:
        layer.build(x.shape, context.shape)
    assert layer(x, context=context).shape == (None, 4, 4)
    assert layer.built
    assert layer.position_embeddings.shape == (11, 2, 1)
    assert layer.value_kernel.shape == (5, 1)
