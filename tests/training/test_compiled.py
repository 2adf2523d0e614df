"""The training step compiles whole, optimizer included: by XLA, for a TPU."""

import dataclasses
import re

import keras
import numpy as np
import pytest

from lambda_keras.models import build_model
from lambda_keras.models import count_flops
from lambda_keras.models import get_spec
from lambda_keras.training.optimization import SGD
from tests.models.variants import shallow
from tests.models.variants import wake

pytestmark = pytest.mark.tf_only

# One block of each kind.
SMALL = dataclasses.replace(
    shallow(get_spec("lambda_resnet_50")),
    depths=(1, 1),
    strides=(1, 2),
    mixer_blocks=((), (0,)),
)


def make_model(spec, size, **arguments) -> keras.Model:
    """A model with all that a recipe adds to its training step."""
    model = build_model(
        spec,
        input_shape=(size, size, 3),
        classes=10,
        drop_path_rate=0.1,
        dropout_rate=0.1,
    )
    model.compile(
        SGD(learning_rate=0.1, momentum=0.9, l2=4e-5, clip_norm=1.0),
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        weighted_metrics=["accuracy"],
        **arguments,
    )
    model.optimizer.build(model.trainable_variables)
    return wake(model)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(SMALL, id="small"),
        pytest.param(
            "lambda_resnet_50",
            id="lambda_resnet_50",
            marks=pytest.mark.slow,  # About a minute.
        ),
    ],
)
def test_xla_compiles_a_training_step(spec):
    model = make_model(spec, size=32, jit_compile=True)
    before = [np.array(w.numpy()) for w in model.trainable_weights]
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3))
    loss, _ = model.train_on_batch(
        x.astype("float32"), np.eye(10)[:2], np.ones(2)
    )
    assert model.jit_compile
    assert np.isfinite(loss)
    # Clipped, the gradient has a norm of 1; decay adds next to nothing.
    moved = [
        np.sum((w.numpy() - value) ** 2)
        for w, value in zip(model.trainable_weights, before, strict=True)
    ]
    assert np.sqrt(np.sum(moved)) == pytest.approx(0.1, rel=1e-2)


def stablehlo_of_step(model, *batch) -> str:
    """The program of one training step, as TensorFlow hands it to XLA."""
    import tensorflow as tf

    step = tf.function(lambda *data: model.train_step(data), jit_compile=True)
    text = step.experimental_get_compiler_ir(*batch)(stage="stablehlo")
    # A copy that must not be optimized away; JAX does not know this name.
    return re.sub(r'"?mhlo\.copy"?', "stablehlo.optimization_barrier", text)


def compile_for_tpu(text, topology):
    """Compiles a program for one core; leans on what JAX calls internal."""
    from jax._src.interpreters import mlir
    from jax._src.lib import xla_client
    from jax._src.lib.mlir import ir
    from jax.experimental import topologies

    (core, *_) = topologies.get_topology_desc(
        platform="tpu", topology_name=topology
    ).devices
    options = xla_client.CompileOptions()
    options.device_assignment = xla_client.DeviceAssignment.create(
        np.array([[core.id]], "int32")
    )
    with mlir.make_ir_context():
        return core.client.compile(
            ir.Module.parse(text), xla_client.DeviceList((core,)), options
        )


@pytest.fixture(scope="module")
def tpu_step():
    """LambdaResNet-50's step for 64 images of 128 pixels, and its FLOPs."""
    import tensorflow as tf

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model("lambda_resnet_50", size=128)
        batch = (
            tf.zeros((64, 128, 128, 3)),
            tf.zeros((64, 10)),
            tf.ones((64,)),
        )
        return stablehlo_of_step(model, *batch), 64 * count_flops(model)
    finally:
        keras.config.set_dtype_policy(policy)


@pytest.mark.slow
@pytest.mark.tpu_backend
@pytest.mark.parametrize("topology", ["v3:2x2", "v5e:1x1"])
def test_the_step_that_tensorflow_makes_compiles_for_a_tpu(
    topology, tpu_step, monkeypatch
):
    # There is no TPU, which the compiler would look for and lock.
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    text, forward_flops = tpu_step
    executable = compile_for_tpu(text, topology)
    costs = executable.cost_analysis()
    memory = executable.get_compiled_memory_stats()
    used = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    # The compiler counts -1 s for what it has no estimate of: int64 counters.
    (program,) = executable.hlo_modules()
    unknown = program.to_string().count(" custom-call(")
    seconds = costs["optimal_seconds"] + unknown
    print(
        f"{topology}: {costs['flops']:.4g} FLOPs, "
        f"{costs['bytes accessed']:.4g} bytes moved, {used:.4g} bytes held, "
        f"{seconds:.4g} s estimated"
    )
    assert 0 < seconds < 0.1
    # A gradient takes about twice what the outputs take.
    assert 2.5 < costs["flops"] / forward_flops < 3.5
    assert used < 16 * 2**30  # What a core has.
