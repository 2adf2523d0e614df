"""Several devices train as one does: two here, four in their own process.

The model is in float64, so that only a mistake makes a difference.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from lambda_keras.training.strategy import Distribution
from lambda_keras.training.strategy import TensorFlowDistribution
from lambda_keras.training.strategy import create_distribution
from tests.replicas import two_replicas
from tests.training import scenarios

ROOT = Path(__file__).parents[2]
IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
# How many devices run what. JAX has one number of devices in a process.
ON_FOUR = ["sgd", "clipped_step"]
FITS = [(4, "sgd")]
if IS_TENSORFLOW:
    ON_FOUR += ["own_statistics", "masks", "overflow"]
    FITS += [(2, "adamw")]
tf_only = pytest.mark.tf_only


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """What the scenarios give on four devices."""
    path = tmp_path_factory.mktemp("four") / "results.npz"
    flags = os.environ.get("XLA_FLAGS", "")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "tests.training.scenarios"),
            *(path, ",".join(ON_FOUR), "mirrored"),
        ],
        cwd=ROOT,
        env=os.environ
        | {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    results = scenarios.load(path)
    assert results["replicas"][""] == 4
    return results


@pytest.fixture(scope="module")
def on(four):
    """Function of a number of devices and a scenario that gives its results."""
    known = {4: four, 2: {}, 1: {}}

    def results(count, name):
        if name not in known[count]:
            distribution = Distribution()
            if count == 2:
                distribution = TensorFlowDistribution(
                    "mirrored", two_replicas()
                )
            known[count][name] = scenarios.SCENARIOS[name](distribution)
        return known[count][name]

    return results


def assert_close(results, expected, part, rtol, atol=0.0):
    names = [name for name in expected if name.startswith(part)]
    assert names
    for name in names:
        np.testing.assert_allclose(
            results[name], expected[name], rtol=rtol, atol=atol, err_msg=name
        )


@pytest.mark.parametrize(("count", "optimizer"), FITS)
def test_weights_and_batch_statistics_are_those_of_one_device(
    on, count, optimizer
):
    results, expected = on(count, optimizer), on(1, optimizer)
    # Keras multiplies matrices in float32 on JAX.
    tolerance = 1e-9 if IS_TENSORFLOW else 1e-4
    assert_close(results, expected, "weight", tolerance, tolerance)
    assert_close(results, expected, "average", tolerance, tolerance)


@pytest.mark.parametrize(("count", "optimizer"), FITS)
def test_losses_and_metrics_are_those_of_one_device(on, count, optimizer):
    results, expected = on(count, optimizer), on(1, optimizer)
    # Which Keras adds up in float32.
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert len(expected[name]) == scenarios.EPOCHS
        assert_close(results, expected, name, 1e-6 if IS_TENSORFLOW else 1e-4)


@pytest.mark.parametrize(("count", "optimizer"), [(1, "sgd"), *FITS])
def test_padding_counts_for_nothing_and_what_is_saved_was_evaluated(
    on, count, optimizer
):
    # 33 examples in batches of 8: seven eighths of the last are padding.
    results = on(count, optimizer)
    for name in ("loss", "accuracy"):
        assert results[f"val_{name}"][-1] == pytest.approx(
            results[f"exact_{name}"], rel=1e-6 if IS_TENSORFLOW else 1e-5
        )


@pytest.mark.parametrize("count", [1, 2, 4] if IS_TENSORFLOW else [1, 4])
def test_a_clipped_step_is_as_long_as_it_may_be(on, count):
    norm = on(count, "clipped_step")["norm"]
    assert norm == pytest.approx(0.125, rel=1e-12 if IS_TENSORFLOW else 1e-6)


@tf_only
def test_statistics_of_their_own_are_saved_as_they_were_evaluated(on):
    results = on(4, "own_statistics")
    assert results["loss"] == pytest.approx(results["exact_loss"], rel=1e-6)
    one_device = on(1, "own_statistics")["loss"]
    assert results["loss"] != pytest.approx(one_device, rel=1e-3)


@tf_only
@pytest.mark.parametrize("count", [2, 4])
def test_every_replica_and_step_draws_a_mask_of_its_own(on, count):
    results = on(count, "masks")
    drawn = results["masks"]
    assert drawn.shape == (2 * count, 64)
    for i, mask in enumerate(drawn):
        for other in drawn[i + 1 :]:
            # Equal in half of the places, by chance: four deviations of 64.
            assert 0.25 < np.mean(mask == other) < 0.75
    # The state is one, so that a saved model goes on where it stopped.
    assert (results["states"] == results["states"][0]).all()


@tf_only
@pytest.mark.parametrize("count", [2, 4])
def test_a_step_that_one_replica_overflows_is_skipped_by_all(on, count):
    results = on(count, "overflow")
    np.testing.assert_array_equal(results["after"], results["before"])
    assert results["scale"] == 2.0**14  # Half of what it was.
    assert results["steps"] == 0


@tf_only
def test_several_steps_per_execution_are_the_same_steps_bit_for_bit():
    one, four = (
        scenarios.trained(
            create_distribution("one_device"), "sgd", steps_per_execution=steps
        )
        for steps in (1, 4)
    )
    for name in one:
        # Averages look at the weights once per execution.
        if not name.startswith(("average", "val", "exact")):
            np.testing.assert_array_equal(four[name], one[name], err_msg=name)
