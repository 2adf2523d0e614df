import re
import time

import keras
import numpy as np
import pytest

from lambda_keras.data.dataset import Shard
from lambda_keras.data.dataset import Split
from lambda_keras.data.pipeline import evaluation_batches
from lambda_keras.data.pipeline import training_batches
from lambda_keras.data.preprocessing import Preprocessing
from lambda_keras.training import strategy
from lambda_keras.training.strategy import Distribution
from lambda_keras.training.strategy import TensorFlowDistribution
from lambda_keras.training.strategy import create_distribution
from lambda_keras.training.strategy import shard_of
from tests.replicas import two_replicas

tf_only = pytest.mark.tf_only
jax_only = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="about JAX only"
)


@pytest.fixture(autouse=True)
def no_tpu_is_named(monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)


@pytest.mark.parametrize("name", ["none", "one_device"])
def test_one_device_gets_whole_batches(name):
    distribution = create_distribution(name)
    assert distribution.name == name
    assert distribution.num_replicas == 1
    assert distribution.is_chief
    distribution.check(batch_size=7, steps_per_execution=4)
    if name == "none":
        assert distribution.distribute(lambda shard: shard) == Shard()
        assert distribution.describe() == "one device"


def test_auto_finds_the_one_device_that_is_here():
    # The four logical CPUs of the tests are one device to those who want GPUs.
    assert create_distribution("auto").name == "none"


def test_an_unknown_strategy_is_named():
    with pytest.raises(
        ValueError, match=r"must be one of: auto, .*, none\. .*strategy=horovod"
    ):
        create_distribution("horovod")


def one_line(call, **arguments) -> str:
    started = time.monotonic()
    with pytest.raises(ValueError) as raised:
        call(**arguments)
    # TensorFlow alone waits for minutes, of an address that is silent for ever.
    assert time.monotonic() - started < 20
    message = str(raised.value)
    assert "\n" not in message
    return message


@tf_only
@pytest.mark.parametrize(
    ("tpu", "reason"),
    [
        (None, "TPUs not found"),
        ("local", "TPUs not found"),
        ("my-tpu", "not known|resolution"),
        ("grpc://127.0.0.1:9", "no answer within"),
        ("127.0.0.1:9", "no answer within"),
    ],
)
def test_a_tpu_that_is_not_there_is_one_line_in_seconds(
    tpu, reason, monkeypatch
):
    monkeypatch.setattr(strategy, "CONNECT_SECONDS", 0.2)
    monkeypatch.setenv("GCE_METADATA_IP", "metadata.invalid")
    message = one_line(create_distribution, strategy="tpu", tpu=tpu)
    assert re.search(f"no TPU was found .*({reason})", message)
    assert message.endswith(f"strategy=tpu, tpu={tpu or 'local'}")


@tf_only
def test_auto_wants_the_tpu_that_is_named(monkeypatch):
    monkeypatch.setattr(strategy, "CONNECT_SECONDS", 0.2)
    monkeypatch.setenv("TPU_NAME", "127.0.0.1:9")
    assert "tpu=127.0.0.1:9" in one_line(create_distribution)


@tf_only
def test_auto_mirrors_several_gpus(monkeypatch):
    import tensorflow as tf

    devices, mirrored = {"GPU": ["GPU:0", "GPU:1"]}, two_replicas()
    monkeypatch.setattr(
        tf.config,
        "list_physical_devices",
        lambda kind: devices.get(kind, []),
    )
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: mirrored)
    distribution = create_distribution("auto")
    assert distribution.name == "mirrored"
    assert distribution.num_replicas == 2


@tf_only
def test_several_processes_are_left_to_jax():
    assert "set KERAS_BACKEND=jax" in one_line(
        create_distribution, strategy="multiworker"
    )


@jax_only
def test_jax_without_a_tpu_says_what_there_is():
    assert "found no TPU, but CPU" in one_line(
        create_distribution, strategy="tpu"
    )


@jax_only
def test_one_jax_device_needs_no_distribution():
    distribution = create_distribution("mirrored")
    assert (distribution.name, distribution.num_replicas) == ("mirrored", 1)
    assert type(distribution) is Distribution


@jax_only
def test_jax_takes_no_tpu_by_name():
    assert "tpu=my-tpu" in one_line(
        create_distribution, strategy="tpu", tpu="my-tpu"
    )


@jax_only
def test_processes_that_come_too_late_are_one_line():
    keras.ops.zeros(())  # From here on, JAX has its devices.
    message = one_line(
        create_distribution,
        strategy="multiworker",
        coordinator="127.0.0.1:9",
        num_processes=2,
        process_id=1,
    )
    assert "must be called before any JAX calls" in message
    assert message.endswith("num_processes=2, process_id=1")


@tf_only
def test_a_batch_is_shared_out_evenly_or_not_at_all():
    distribution = TensorFlowDistribution("mirrored", two_replicas())
    distribution.check(batch_size=8)
    with pytest.raises(
        ValueError, match=r"must be a multiple of 2.*batch_size=7"
    ):
        distribution.check(batch_size=7)


@tf_only
def test_mirrored_devices_take_one_step_at_a_time():
    distribution = TensorFlowDistribution("mirrored", two_replicas())
    with pytest.raises(ValueError, match=r"must be 1.*steps_per_execution=2"):
        distribution.check(batch_size=8, steps_per_execution=2)
    create_distribution("one_device").check(8, steps_per_execution=2)
    assert distribution.describe() == "2 x CPU (mirrored)"


@tf_only
@pytest.mark.parametrize(
    ("pipelines", "replicas"), [(1, 1), (1, 8), (4, 32), (64, 512)]
)
def test_hosts_of_a_pod_make_the_parts_of_their_replicas(pipelines, replicas):
    shards = [shard_of(context) for context in contexts(pipelines, replicas)]
    assert [shard.index for shard in shards] == list(range(pipelines))
    assert {shard.count for shard in shards} == {pipelines}
    assert {shard.pieces for shard in shards} == {replicas // pipelines}


def contexts(pipelines, replicas):
    import tensorflow as tf

    return [
        tf.distribute.InputContext(pipelines, pipeline, replicas)
        for pipeline in range(pipelines)
    ]


def numbered_images(count) -> Split:
    """Images that say which one they are."""
    images = np.arange(count, dtype="uint8").reshape(-1, 1, 1, 1)
    return Split(np.tile(images, (1, 2, 2, 1)), np.arange(count) % 3)


def evaluated(shard) -> "tf.data.Dataset":  # noqa: F821
    return evaluation_batches(
        numbered_images(33), Preprocessing(), 8, 3, shard=shard
    )


def trained(shard) -> "tf.data.Dataset":  # noqa: F821
    return training_batches(
        numbered_images(32), Preprocessing(), 8, 3, seed=1, shard=shard
    ).take(4 * shard.pieces)


@tf_only
@pytest.mark.parametrize(("make", "count"), [(evaluated, 33), (trained, 32)])
def test_a_pod_of_two_hosts_reads_each_image_once(make, count):
    numbers = []
    for context in contexts(2, 4):
        for images, _, weights in make(shard_of(context)).as_numpy_iterator():
            assert images.shape == (2, 2, 2, 1)
            numbers += list(images[weights > 0, 0, 0, 0])
    assert sorted(numbers) == list(range(count))


@tf_only
@pytest.mark.parametrize(("make", "count"), [(evaluated, 33), (trained, 32)])
def test_replicas_get_each_image_once_and_together_one_batch(make, count):
    distribution = TensorFlowDistribution("mirrored", two_replicas())
    assert distribution.num_replicas == 2
    numbers = []
    for batch, expected in zip(
        distribution.distribute(make), make(Shard()), strict=True
    ):
        local = two_replicas().experimental_local_results(batch)
        images, _, weights = (
            np.concatenate(parts) for parts in zip(*local, strict=True)
        )
        np.testing.assert_array_equal(images, expected[0])
        np.testing.assert_array_equal(weights, expected[2])
        numbers += list(images[weights > 0, 0, 0, 0])
    assert sorted(numbers) == list(range(count))


def test_no_strategy_is_a_scope_like_any_other():
    with Distribution().scope():
        assert keras.layers.Dense(1)(np.ones((1, 2))).shape == (1, 1)
