"""What the equations imply: who sees whom, and at which sizes."""

import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras.layers import LambdaLayer
from lambda_keras.layers.contractions import IMPLEMENTATIONS
from tests import reference
from tests.layers.lambda_cases import ARGUMENTS
from tests.layers.lambda_cases import CASES
from tests.layers.lambda_cases import assert_close
from tests.layers.lambda_cases import compiled
from tests.layers.lambda_cases import expected
from tests.layers.lambda_cases import prepare
from tests.layers.lambda_cases import run
from tests.reference import as_numpy

every_implementation = pytest.mark.parametrize(
    "implementation", IMPLEMENTATIONS
)


@every_implementation
def test_shifted_inputs_give_shifted_position_outputs(implementation):
    layer, inputs, _ = prepare(
        (13, 12),
        {"receptive_field": (5, 3), "use_content": False},
        implementation=implementation,
    )
    call = compiled(layer)
    # Two views of one image, (1, 2) apart.
    first = as_numpy(call(inputs[:, :-1, :-2]))
    second = as_numpy(call(inputs[:, 1:, 2:]))
    # What both views show, less the margin where a window leaves a view.
    np.testing.assert_allclose(
        first[:, 3:-2, 3:-1], second[:, 2:-3, 1:-3], rtol=1e-10
    )
    assert not np.allclose(first[:, 3:], second[:, 2:-1])


@every_implementation
def test_the_past_is_blind_to_the_future(implementation):
    layer, inputs, _ = prepare(
        (70,),
        {"receptive_field": 9, "causal": True, "intra_depth": 2},
        "float32",
        implementation=implementation,
    )
    call = compiled(layer)
    before = as_numpy(call(inputs))
    # In the first chunk and block, at the borders of both, in the last.
    for m in (0, 1, 31, 32, 63, 64, 69):
        changed = inputs.copy()
        changed[:, m] = 50 * changed[:, m] + 100
        after = as_numpy(call(changed))
        np.testing.assert_array_equal(after[:, :m], before[:, :m])
        assert (after[:, m] != before[:, m]).all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "case",
    ["sequence, mask", "sequence, masked context", "causal, chunks"],
)
def test_masked_positions_are_seen_by_none(case, training):
    layer, inputs, call = prepare(*CASES[case], "float32")
    state = [as_numpy(v) for v in layer.non_trainable_variables]

    def outputs_and_state(inputs, call):
        for variable, value in zip(
            layer.non_trainable_variables, state, strict=True
        ):
            variable.assign(value)
        outputs = run(
            layer, inputs, list(IMPLEMENTATIONS), training=training, **call
        )
        return outputs, map(as_numpy, layer.non_trainable_variables)

    before = outputs_and_state(inputs, call)
    padding = ~call["mask"]
    shown = np.ones(inputs.shape[:2], bool)
    if "context" in call:
        call["context"] = call["context"].copy()
        call["context"][padding] = 1e6
    else:
        inputs = inputs.copy()
        inputs[padding] = 1e6
        # What is padding has an output all the same: its own.
        shown = call["mask"]
    after = outputs_and_state(inputs, call)
    for one, other in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(one[shown], other[shown])
    for one, other in zip(before[1], after[1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_masked_positions_may_be_anything():
    layer, inputs, call = prepare(*CASES["sequence, mask"], "float32")
    (before,) = run(layer, inputs, **call)
    inputs[~call["mask"]] = np.nan
    (after,) = run(layer, inputs, **call)
    np.testing.assert_array_equal(after[call["mask"]], before[call["mask"]])


@pytest.mark.parametrize("causal", [False, True])
def test_masks_of_keras_reach_the_layer(causal):
    tokens = np.array([[3, 1, 2, 0, 0], [1, 0, 2, 2, 0]])
    embedding = keras.layers.Embedding(4, 5, mask_zero=True)
    layer = LambdaLayer(
        **ARGUMENTS, receptive_field=3, causal=causal, dtype="float64"
    )
    inputs = keras.Input((None,), dtype="int32")
    embedded = embedding(inputs)
    model = keras.Model(inputs, [embedded, layer(embedded)])
    reference.randomize(layer)
    embedded, outputs = compiled(model)(tokens)
    assert_close(
        as_numpy(outputs),
        # The embeddings are float32.
        expected(layer, as_numpy(embedded), mask=tokens != 0),
        1e-6,
    )


def test_masks_of_keras_stay_with_their_context():
    layer = LambdaLayer(**ARGUMENTS, receptive_field=3, dtype="float64")
    queries, context = (keras.Input((None, 5)) for _ in range(2))
    outputs = layer(queries, context=keras.layers.Masking(0.0)(context))
    model = keras.Model([queries, context], outputs)
    reference.randomize(layer)
    generator = np.random.default_rng(0)
    x, c = generator.normal(size=(2, 2, 4, 5)).astype("float32")
    c[:, 2] = 0
    assert_close(
        as_numpy(compiled(model)([x, c])),
        expected(layer, x, context=c, mask=np.any(c != 0, axis=-1)),
        1e-10,
    )


def test_outputs_are_masked_as_the_inputs_are():
    layer = LambdaLayer(**ARGUMENTS, receptive_field=3)
    x, context = np.ones((2, 1, 4, 5), "float32")
    x[:, 2] = 0
    plain = ops.convert_to_tensor(x)
    masked = keras.layers.Masking(0.0)(x)
    shown = np.array([[True, True, False, True]])
    some = ops.convert_to_tensor([[True, False, False, False]])
    for inputs, call, right in [
        (plain, {}, None),
        (masked, {}, shown),
        (masked, {"context": context}, shown),
        (masked, {"context": context, "mask": some}, shown),
        (plain, {"context": context, "mask": some}, None),
    ]:
        mask = getattr(layer(inputs, **call), "_keras_mask", None)
        if right is None:
            assert mask is None
        else:
            np.testing.assert_array_equal(as_numpy(mask), right)


@every_implementation
@pytest.mark.parametrize(
    "sizes", [[(6,), (90,)], [(4, 5), (9, 10)], [(3, 2, 3), (2, 5, 1)]]
)
def test_unknown_sizes(sizes, implementation):
    rank = len(sizes[0])
    layer = LambdaLayer(
        **ARGUMENTS,
        receptive_field=(5, 3, 3)[:rank],
        intra_depth=2,
        implementation=implementation,
        dtype="float64",
    )
    inputs = keras.Input((None,) * rank + (5,), dtype="float64")
    outputs = layer(inputs)
    assert outputs.shape == (None,) * (rank + 1) + (6,)
    model = keras.Model(inputs, outputs)
    reference.randomize(layer)
    call = compiled(model)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # A graph, in which the sizes are unknown to the call, too.
        call = tf.function(
            model, input_signature=[tf.TensorSpec(inputs.shape, "float64")]
        )
    for size in sizes:
        x = np.random.default_rng(0).normal(size=(2, *size, 5))
        assert_close(as_numpy(call(x)), expected(layer, x), 1e-10)


@pytest.mark.tf_only
@pytest.mark.parametrize("causal", [False, True])
def test_unknown_sizes_of_another_context(causal):
    import tensorflow as tf

    layer, _, _ = prepare(
        (4,),
        {"receptive_field": 5, "context": (4,), "causal": causal},
    )
    unknown = tf.TensorSpec((None, None, 5), "float64")
    call = tf.function(
        lambda x, c, mask: layer(x, context=c, mask=mask),
        input_signature=[
            unknown,
            tf.TensorSpec((None, None, 3), "float64"),
            tf.TensorSpec((None, None), "bool"),
        ],
    )
    generator = np.random.default_rng(0)
    for length, other in [(4, 4), (70, 70)] if causal else [(4, 7), (70, 3)]:
        x = generator.normal(size=(3, length, 5))
        c = generator.normal(size=(3, other, 3))
        mask = generator.random((3, other)) < 0.7
        assert_close(
            as_numpy(call(x, c, mask)),
            expected(layer, x, context=c, mask=mask),
            1e-10,
        )


@every_implementation
@pytest.mark.parametrize("case", ["causal, chunks", "image, blocks"])
@pytest.mark.tf_only
def test_compiles_with_xla(case, implementation):
    import tensorflow as tf

    layer, inputs, call = prepare(*CASES[case], implementation=implementation)
    compiled = tf.function(layer, jit_compile=True)
    assert_close(
        as_numpy(compiled(inputs, **call)),
        expected(layer, inputs, **call),
        1e-10,
    )


def test_a_global_table_serves_smaller_inputs():
    layer, inputs, _ = prepare((5, 6), {"receptive_field": None})
    smaller = inputs[:, :3, :4]
    for output in run(layer, smaller, list(IMPLEMENTATIONS)):
        assert_close(output, expected(layer, smaller), 1e-10)


# The last batch of an evaluation may leave a replica without examples.
@every_implementation
@pytest.mark.parametrize("case", ["image, blocks", "causal, chunks"])
def test_an_empty_batch_has_an_empty_output(case, implementation):
    layer, inputs, call = prepare(
        *CASES[case], "float32", implementation=implementation
    )
    call = {name: tensor[:0] for name, tensor in call.items()}
    outputs = compiled(layer)(inputs[:0], **call)
    assert outputs.shape == (0, *inputs.shape[1:-1], 6)


def test_padded_queries_do_not_count_beside_a_context():
    layer = LambdaLayer(6, 2, 3, receptive_field=3)
    generator = np.random.default_rng(0)
    context = generator.normal(size=(2, 5, 3)).astype("float32")
    x = generator.normal(size=(2, 4, 3)).astype("float32")
    padded = x.copy()
    padded[:, 3] = 0
    layer.build(x.shape, context.shape)
    masked = keras.layers.Masking(0.0)(padded)
    layer(masked, context, training=True)
    mean = as_numpy(layer.query_norm.moving_mean)
    shown = x[:, :3].reshape(-1, 3) @ as_numpy(layer.query_kernel)
    expected_mean = (1 - layer.momentum) * shown.mean(axis=0)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-5, atol=1e-6)


def test_training_is_causal_but_for_the_batch_statistics():
    layer = LambdaLayer(6, 2, 3, receptive_field=5, causal=True)
    x = np.random.default_rng(0).normal(size=(1, 6, 3)).astype("float32")
    changed = x.copy()
    changed[:, 5] += 1
    seen = as_numpy(layer(x, training=True))
    other = as_numpy(layer(changed, training=True))
    assert np.abs(seen[:, :5] - other[:, :5]).max() > 1e-3
    # Frozen statistics, those of inference, mix nothing.
    layer.query_norm.trainable = layer.value_norm.trainable = False
    seen = as_numpy(layer(x, training=True))
    other = as_numpy(layer(changed, training=True))
    np.testing.assert_array_equal(seen[:, :5], other[:, :5])


def test_training_may_be_the_fourth_argument():
    layer = LambdaLayer(6, 2, 3, receptive_field=3)
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    layer(x)
    before = as_numpy(layer.query_norm.moving_mean)
    layer(x, None, None, True)
    assert np.any(as_numpy(layer.query_norm.moving_mean) != before)


def test_initializers_may_be_functions():
    layer = LambdaLayer(
        6,
        receptive_field=3,
        num_heads=2,
        kernel_initializer=lambda shape, dtype=None: ops.ones(shape, dtype),
    )
    layer.build((None, 4, 3))
    assert np.all(as_numpy(layer.query_kernel) == 1)


@pytest.mark.parametrize("unused", ["use_content", "use_position"])
def test_weights_that_are_not_used_are_none(unused):
    layer = LambdaLayer(6, 2, 3, receptive_field=3, **{unused: False})
    layer.build((None, 4, 3))
    assert (layer.key_kernel is None) == (unused == "use_content")
    assert (layer.position_embeddings is None) == (unused == "use_position")
    assert layer.position_bias is None
