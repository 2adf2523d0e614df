"""Relative self-attention of every scope gives what the equations give."""

import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras.layers import SelfAttention
from tests import reference_attention as reference
from tests.gradients import gradients
from tests.layers.lambda_cases import assert_close
from tests.reference import as_numpy
from tests.reference import randomize

CHANNELS = 5
ARGUMENTS = {"output_dim": 6, "num_heads": 2, "key_dim": 4}

# Name, spatial shape, and what differs from ARGUMENTS or from a plain call.
# `context` is the spatial shape of another context, of three channels. Local
# attention goes by blocks as long as its window on an axis that is at least
# twice as long, which some are and some are not.
CASES = {
    "sequence": ((5,), {}),
    "sequence, one position": ((1,), {}),
    "sequence, one head": ((4,), {"num_heads": 1, "key_dim": None}),
    "sequence, mask": ((6,), {"mask": "random"}),
    "sequence, nothing visible": ((4,), {"mask": "nothing"}),
    "sequence, longer context": ((3,), {"context": (5,), "mask": "random"}),
    "image": ((3, 4), {}),
    "image, context": ((4, 5), {"context": (6, 3)}),
    "image, masked context": ((2, 5), {"context": (3, 3), "mask": "random"}),
    "volume, mask": ((3, 2, 4), {"mask": "random"}),
    "axial sequence": ((5,), {"scope": "axial"}),
    "axial image": ((3, 4), {"scope": "axial"}),
    "axial image, mask": ((4, 3), {"scope": "axial", "mask": "random"}),
    "axial volume, mask": ((2, 3, 4), {"scope": "axial", "mask": "random"}),
    "local sequence": ((13,), {"scope": "local", "receptive_field": 5}),
    "local sequence, window beyond": ((3,), {"scope": "local"}),
    "local sequence, one tap": ((4,), {"scope": "local", "receptive_field": 1}),
    "local sequence, nothing visible": (
        (7,),
        {"scope": "local", "receptive_field": 3, "mask": "nothing"},
    ),
    "local image": ((9, 7), {"scope": "local", "receptive_field": 3}),
    "local image, per axis": (
        (4, 11),
        {"scope": "local", "receptive_field": (3, 5), "mask": "random"},
    ),
    "local volume, mask": (
        (6, 2, 4),
        {"scope": "local", "receptive_field": (3, 3, 1), "mask": "random"},
    ),
}


def prepare(shape, changes, dtype="float32"):
    """Makes a layer with random weights, and what to call it on."""
    arguments = {**ARGUMENTS, **changes}
    context_shape = arguments.pop("context", None)
    mask = arguments.pop("mask", None)
    generator = np.random.default_rng(1)
    input_dtype = "float64" if dtype == "float64" else "float32"
    inputs = generator.normal(size=(2, *shape, CHANNELS)).astype(input_dtype)
    call = {}
    if context_shape is not None:
        call["context"] = generator.normal(size=(2, *context_shape, 3))
        call["context"] = call["context"].astype(input_dtype)
    if mask is not None:
        positions = int(np.prod(context_shape or shape))
        call["mask"] = generator.random((2, positions)) < 0.6
        if mask == "nothing":
            call["mask"][0] = False
    layer = SelfAttention(**arguments, dtype=dtype)
    layer.build(
        inputs.shape, call["context"].shape if "context" in call else None
    )
    randomize(layer)
    return layer, inputs, call


def run(layer, inputs, **call):
    if keras.backend.backend() != "jax":
        return as_numpy(layer(inputs, **call))
    import jax

    # One compilation takes less time than one for each operation.
    @jax.jit
    def output(variables, inputs, call):
        return layer.stateless_call(variables, [], inputs, **call)[0]

    variables = [v.value for v in layer.trainable_variables]
    return as_numpy(output(variables, inputs, call))


def weights(layer):
    names = ["query_kernel", "key_kernel", "value_kernel"]
    tables = {
        f"position_embeddings_{axis}": as_numpy(table)
        for axis, table in enumerate(layer.position_embeddings)
    }
    return {name: as_numpy(getattr(layer, name)) for name in names} | tables


def expected(layer, inputs, context=None, mask=None):
    rank = inputs.ndim - 2
    if mask is not None:
        mask = mask.reshape((inputs if context is None else context).shape[:-1])
    if layer.scope == "axial":
        return reference.axial_attention(
            inputs,
            [weights(axis) for axis in layer.axes],
            num_heads=layer.num_heads,
            mask=mask,
        )
    reach = None
    if layer.scope == "local":
        fields = np.broadcast_to(layer.receptive_field, (rank,))
        reach = [field // 2 for field in fields]
    return reference.self_attention(
        inputs,
        weights(layer),
        num_heads=layer.num_heads,
        context=context,
        mask=mask,
        reach=reach,
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_matches_the_equations(case):
    layer, inputs, call = prepare(*case, "float64")
    output = run(layer, inputs, **call)
    assert_close(output, expected(layer, inputs, **call), 1e-10)


SCOPES = {
    "global": {"scope": "global"},
    "axial": {"scope": "axial"},
    "local": {"scope": "local", "receptive_field": 3},
}
each_scope = pytest.mark.parametrize("changes", SCOPES.values(), ids=SCOPES)


@each_scope
def test_every_weight_gets_a_gradient(changes):
    layer, inputs, _ = prepare((7, 3), changes)
    for variable, gradient in zip(
        layer.trainable_variables, gradients(layer, inputs), strict=True
    ):
        assert np.abs(gradient).max() > 0, variable.path


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        ("float32", 1e-5),
        # A few roundings to 11 and to 8 bits.
        ("mixed_float16", 2**-8),
        ("mixed_bfloat16", 2**-5),
    ],
)
@each_scope
def test_precision(changes, dtype, tolerance, monkeypatch):
    softmax_dtypes = set()

    def softmax(x):
        softmax_dtypes.add(keras.backend.standardize_dtype(x.dtype))
        return keras_softmax(x)

    keras_softmax = ops.softmax
    monkeypatch.setattr(ops, "softmax", softmax)
    layer, inputs, _ = prepare((7, 3), changes, dtype)
    model = keras.Sequential([keras.Input(inputs.shape[1:]), layer])
    output = model.predict_on_batch(inputs)
    assert_close(output.astype("float32"), expected(layer, inputs), tolerance)
    assert softmax_dtypes == {"float32"}
    assert {v.dtype for v in layer.variables} == {"float32"}
    assert output.dtype == layer.compute_dtype


@each_scope
def test_a_masked_position_leaves_no_trace(changes):
    layer, inputs, _ = prepare((7, 3), changes)
    mask = np.ones((2, 21), bool)
    mask[:, 8] = False
    changed = inputs.copy()
    changed[:, 2, 2] += 100
    before, after = (run(layer, x, mask=mask) for x in (inputs, changed))
    queries = np.arange(21).reshape(7, 3) != 8
    np.testing.assert_array_equal(before[:, queries], after[:, queries])
    unmasked = run(layer, changed)
    assert (unmasked[:, queries] != after[:, queries]).any()


@each_scope
def test_takes_and_passes_on_the_mask_of_a_sequence(changes):
    tokens = np.array([[3, 1, 2, 0, 0], [1, 2, 3, 4, 0]])
    embed = keras.layers.Embedding(5, CHANNELS, mask_zero=True)
    layer, _, _ = prepare((5,), changes)
    embedded = embed(tokens)
    outputs = layer(embedded)
    assert_close(
        as_numpy(outputs),
        expected(layer, as_numpy(embedded), mask=tokens != 0),
        1e-5,
    )
    passed = keras.src.backend.get_keras_mask(outputs)
    np.testing.assert_array_equal(as_numpy(passed), tokens != 0)


def test_takes_the_mask_of_the_context():
    tokens = np.array([[3, 1, 0], [1, 2, 3]])
    embed = keras.layers.Embedding(5, 3, mask_zero=True)
    layer, inputs, _ = prepare((5,), {"context": (3,)})
    context = embed(tokens)
    assert_close(
        as_numpy(layer(inputs, context=context)),
        expected(layer, inputs, as_numpy(context), tokens != 0),
        1e-5,
    )


def test_local_scope_serves_every_size():
    # Sizes unknown to the model: in blocks, or in one that it does not fill.
    inputs = keras.Input((None, None, CHANNELS))
    layer = SelfAttention(**ARGUMENTS, scope="local", receptive_field=3)
    model = keras.Model(inputs, layer(inputs))
    randomize(layer)
    assert model.output_shape == (None, None, None, 6)
    for shape in [(7, 4), (2, 8)]:
        x = np.random.default_rng(1).normal(size=(2, *shape, CHANNELS))
        assert_close(model.predict(x, verbose=0), expected(layer, x), 1e-5)


def test_local_scope_moves_with_its_input():
    layer, inputs, _ = prepare((11, 4), SCOPES["local"])
    outputs, shifted = (
        run(layer, x) for x in (inputs, np.roll(inputs, 2, axis=1))
    )
    np.testing.assert_allclose(
        shifted[:, 3:-1], outputs[:, 1:-3], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("scope", ["global", "axial"])
def test_tables_serve_smaller_inputs(scope):
    layer, inputs, _ = prepare((5, 4), {"scope": scope})
    smaller = inputs[:, :3, :2]
    output = run(layer, smaller)
    assert_close(output, expected(layer, smaller), 1e-5)
    with pytest.raises(ValueError, match=rf"scope='{scope}'.*up to \(5, 4\)"):
        layer(np.ones((2, 5, 6, CHANNELS)))


@each_scope
def test_saves_and_loads(changes, tmp_path):
    layer, inputs, _ = prepare(
        (7, 3),
        {
            **changes,
            "kernel_initializer": "he_normal",
            "embeddings_initializer": "ones",
            "kernel_regularizer": "l2",
            "embeddings_regularizer": keras.regularizers.L1(0.5),
        },
    )
    model = keras.Sequential([keras.Input(inputs.shape[1:]), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        *(each.predict(inputs, verbose=0) for each in (model, loaded))
    )
    assert loaded.layers[0].get_config() == layer.get_config()


@each_scope
def test_initial_weights_and_regularizers(changes):
    arguments = {
        "kernel_initializer": "zeros",
        "embeddings_initializer": "ones",
        "kernel_regularizer": keras.regularizers.L1(1.0),
        "embeddings_regularizer": keras.regularizers.L1(0.5),
    }
    layer = SelfAttention(**ARGUMENTS, **changes, **arguments)
    layer.build((None, 3, 5, CHANNELS))
    tables = [v for v in layer.weights if "embeddings" in v.path]
    assert len(tables) == 2
    assert all((as_numpy(table) == 1).all() for table in tables)
    others = [v for v in layer.weights if "embeddings" not in v.path]
    assert all((as_numpy(kernel) == 0).all() for kernel in others)
    taps = 6 if changes["scope"] == "local" else 5 + 9
    assert as_numpy(sum(layer.losses)) == pytest.approx(0.5 * taps * 4)


def test_weights_of_every_scope():
    # Three kernels where a 3x3 convolution has nine, and for each axis a table
    # that the eight heads share.
    shapes = {}
    for scope in SCOPES:
        layer = SelfAttention(64, scope=scope)
        layer.build((None, 14, 7, 64))
        shapes[scope] = sorted(tuple(v.shape) for v in layer.weights)
    kernels = [(64, 64)] * 3
    assert shapes == {
        "global": [(13, 8), (27, 8), *kernels],
        "axial": [(13, 8), (27, 8), *kernels, *kernels],
        "local": [(7, 8), (7, 8), *kernels],
    }


@pytest.mark.parametrize(
    ("changes", "flops"),
    [
        # 15 positions of 5 channels to 2 heads of 4, 4 and 3; then a head's
        # keys and values for each pair, and its queries with each table.
        (SCOPES["global"], 15 * (5 * 22 + 15 * 14 + (3 + 5) * 8)),
        (SCOPES["local"], 15 * (5 * 22 + 9 * 14 + (3 + 3) * 8)),
        (
            SCOPES["axial"],
            15 * (5 * 22 + 3 * 14 + 3 * 8) + 15 * (6 * 22 + 5 * 14 + 5 * 8),
        ),
    ],
    ids=SCOPES,
)
def test_flops(changes, flops):
    layer, inputs, _ = prepare((3, 5), changes)
    assert layer.flops(inputs.shape) == 2 * flops
    assert layer.flops((None, *inputs.shape[1:])) == 2 * flops


def test_flops_of_a_context():
    layer, inputs, call = prepare((3, 5), {"context": (2, 4)})
    assert layer.flops(inputs.shape, call["context"].shape) == 2 * (
        15 * 5 * 8 + 8 * 3 * 14 + 15 * (8 * 14 + (2 + 4) * 8)
    )


@each_scope
def test_output_shape(changes):
    layer = SelfAttention(**ARGUMENTS, **changes)
    assert layer.compute_output_shape((None, 3, 5, 2)) == (None, 3, 5, 6)


@pytest.mark.tf_only
@each_scope
def test_neither_gathers_nor_scatters(changes):
    import tensorflow as tf

    layer, inputs, _ = prepare((7, 3), changes)

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x))
        return tape.gradient(loss, [v.value for v in layer.weights])

    graph = gradient.get_concrete_function(tf.constant(inputs)).graph
    types = {operation.type for operation in graph.get_operations()}
    assert "Softmax" in types
    assert not {t for t in types if "Gather" in t or "Scatter" in t}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_dim": 0}, "`output_dim` must be a positive integer.*=0"),
        ({"num_heads": 2.0}, "`num_heads` must be a positive integer.*=2.0"),
        ({"key_dim": -1}, "`key_dim` must be a positive integer.*=-1"),
        ({"num_heads": 4}, "multiple of `num_heads`.*=6, num_heads=4"),
        ({"scope": "row"}, "`scope` must be one of.*axial.*scope='row'"),
        ({"receptive_field": 4}, "odd positive integer.*receptive_field=4"),
        ({"receptive_field": None}, "must be finite.*receptive_field=None"),
    ],
)
def test_wrong_arguments(changes, message):
    SelfAttention(**ARGUMENTS)
    with pytest.raises(ValueError, match=message):
        SelfAttention(**{**ARGUMENTS, **changes})


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({}, (None, 5), "1, 2 or 3 spatial axes.*inputs_shape=.None, 5"),
        ({}, (None, 2, 2, 2, 2, 5), "1, 2 or 3 spatial axes"),
        ({}, (None, 4, None), "last axis must be of known size"),
        ({}, (None, 4, None, 5), "scope='global'` needs spatial sizes"),
        (SCOPES["axial"], (None, None, 5), "scope='axial'` needs spatial size"),
        (
            {"scope": "local", "receptive_field": (3, 3)},
            (None, 4, 5),
            "`receptive_field` has 2 axes and the inputs have 1",
        ),
    ],
)
def test_wrong_shapes(changes, shape, message):
    layer = SelfAttention(**ARGUMENTS, **changes)
    with pytest.raises(ValueError, match=message):
        layer.build(shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"context": (2, 4, 3)}, "`context` must have the rank of `inputs`"),
        ({"context": (2, 4, 4, 2)}, "`context` must have 3 channels"),
        ({"context": (2, 4, 6, 3)}, r"built for spatial sizes up to \(4, 5\)"),
        ({"mask": (2, 4, 5)}, r"shape \(batch, context positions\).*2, 4, 5"),
        ({"mask": (2, 19)}, r"shape \(batch, context positions\).*mask.shape"),
    ],
)
def test_wrong_calls(call, message):
    layer, inputs, good = prepare((4, 5), {"context": (4, 5)})
    layer(inputs, **good)
    call = {name: np.ones(shape, "float32") for name, shape in call.items()}
    with pytest.raises(ValueError, match=message):
        layer(inputs, **{**good, **call})


@pytest.mark.parametrize("scope", ["axial", "local"])
def test_a_context_is_for_the_global_scope(scope):
    layer, inputs, _ = prepare((4, 5), {"scope": scope})
    with pytest.raises(ValueError, match='`context` needs `scope="global"`'):
        layer(inputs, context=inputs)


def test_wrong_input_of_a_built_layer():
    layer, inputs, _ = prepare((4, 5), {})
    with pytest.raises(ValueError, match="expected axis -1"):
        layer(inputs[..., :3])
    with pytest.raises(ValueError, match="expected ndim=4"):
        layer(inputs[:, 0])


def test_counting_needs_known_sizes():
    layer, _, _ = prepare((4, 5), SCOPES["local"])
    with pytest.raises(ValueError, match="Counting needs known spatial sizes"):
        layer.flops((None, 4, None, CHANNELS))
