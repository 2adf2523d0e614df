"""Two real processes on this machine train as one does, by JAX."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from lambda_keras.training.checkpoints import list_checkpoints
from lambda_keras.training.strategy import Distribution
from tests.commands.test_survival import BOMB
from tests.commands.test_survival import assert_same_end
from tests.commands.test_survival import history
from tests.commands.test_survival import state
from tests.training import scenarios

ROOT = Path(__file__).parents[2]
SCENARIOS = "adamw,clipped_step"
PROGRAM = ("-m", "lambda_keras")
# Forty steps; several processes ask each other every 16 whether to stop.
TRAIN = (
    "train",
    "--model=resnet_tiny",
    "--labels=100",
    "--batch_size=20",
    "--epochs=8",
    "--clip_norm=1",
    "--average_momentum=0.9",
)
# Of processes that share two cores with many others.
TIMEOUT = 400

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="about JAX only"
)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_together(*commands, devices=1, status=0) -> None:
    """Runs processes side by side until all have ended; kills what has not."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={devices}"
    with contextlib.ExitStack() as stack:
        processes = []
        for command in commands:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "XLA_FLAGS": flags,
                },
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            _, errors = process.communicate(timeout=TIMEOUT)
            assert process.returncode == status, errors


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the scenarios give on two devices, in one process and in two."""
    directory = tmp_path_factory.mktemp("processes")
    command = ("-m", "tests.training.scenarios")
    one, *two = (directory / f"{name}.npz" for name in ("one", 0, 1))
    run_together((*command, one, SCENARIOS, "mirrored"), devices=2)
    where = ("multiworker", f"127.0.0.1:{free_port()}", 2)
    run_together(
        *(
            (*command, path, SCENARIOS, *where, number)
            for number, path in enumerate(two)
        )
    )
    return [scenarios.load(path) for path in (one, *two)]


def test_two_processes_end_where_one_ends_digit_for_digit(results):
    one, *two = (result["adamw"] for result in results)
    assert results[1]["replicas"][""] == 2
    for process in two:
        for name, value in one.items():
            # The sum of two numbers is the same in either order, but a
            # process evaluates a range of examples of its own: the batches
            # are others, and Keras adds their metrics up in float32.
            tolerance = 1e-6 if name.startswith("val") else 0.0
            np.testing.assert_allclose(
                process[name], value, rtol=tolerance, err_msg=name
            )


def test_every_process_logs_the_metrics_of_all(results):
    expected = scenarios.trained(Distribution(), "adamw")
    for result in results:
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            np.testing.assert_allclose(
                # Keras multiplies matrices in float32 on JAX.
                result["adamw"][name],
                expected[name],
                rtol=1e-4,
            )
            if name.startswith("val"):
                exact = result["adamw"][name.replace("val", "exact")]
                assert result["adamw"][name][-1] == pytest.approx(exact, 1e-5)


def test_the_gradient_of_all_processes_is_clipped(results):
    for result in results:
        norm = result["clipped_step"]["norm"]
        assert norm == pytest.approx(0.125, rel=1e-6)


def train_in_two(directory, *flags, programs=(PROGRAM, PROGRAM), **arguments):
    """Runs the command in two processes that share a directory."""
    shared = (
        *TRAIN,
        f"--output_dir={directory}",
        "--strategy=multiworker",
        f"--coordinator=127.0.0.1:{free_port()}",
        "--num_processes=2",
        *flags,
    )
    run_together(
        *(
            (*program, *shared, f"--process_id={number}")
            for number, program in enumerate(programs)
        ),
        **arguments,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What the command leaves behind that nobody disturbs."""
    directory = tmp_path_factory.mktemp("finished") / "two"
    train_in_two(directory)
    return directory


@pytest.mark.slow
def test_the_command_ends_in_two_processes_as_in_one(finished, tmp_path):
    one = tmp_path / "one"
    run_together(
        (*PROGRAM, *TRAIN, f"--output_dir={one}", "--strategy=mirrored"),
        devices=2,
    )
    weights, expected = (
        state(directory / "last.keras") for directory in (finished, one)
    )
    assert len(expected) > 100
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value, err_msg=name)
    for row, other in zip(history(finished), history(one), strict=True):
        for name, value in other.items():
            assert float(row[name]) == pytest.approx(float(value), rel=1e-5)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_which_then_go_on(
    finished, tmp_path
):
    directory = tmp_path / "run"
    stopped = (BOMB, "step", 3, int(signal.SIGTERM))
    train_in_two(
        directory, programs=(PROGRAM, stopped), status=128 + signal.SIGTERM
    )
    (checkpoint,) = list_checkpoints(directory / "checkpoints")
    assert checkpoint.name == "step-00000016.npz"
    train_in_two(directory)
    assert_same_end(directory, finished)
