"""Runs on a TPU's machines: started, followed, copied, cut off, continued."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.tpu_scripts.cloud import SCRIPTS

pytestmark = [
    # The engine makes no difference here.
    pytest.mark.tf_only,
    pytest.mark.skipif(sys.platform != "linux", reason="as a TPU's machines"),
]

# Stands for `lambda-keras train`: counts its starts in the run's directory,
# then does what TRAIN says.
TRAIN = """
import os, pathlib, signal, sys, time

flags = dict(x[2:].partition("=")[::2] for x in sys.argv[1:] if x[:2] == "--")
directory = pathlib.Path(flags["output_dir"])
directory.mkdir(parents=True, exist_ok=True)


(directory / "process").write_text(str(os.getpid()))


def stop(*_):
    print("told to end", flush=True)
    sys.exit(5)


signal.signal(signal.SIGTERM, stop)
starts = directory / "starts"
starts.write_text((starts.read_text() if starts.exists() else "") + "x")
(directory / ".partial-1").mkdir(exist_ok=True)
(directory / ".partial-1" / "half").touch()
number = len(starts.read_text())
(directory / f"checkpoint-{number}").touch()
(directory / f"checkpoint-{number - 1}").unlink(missing_ok=True)
print("engine", os.environ["KERAS_BACKEND"], "start", starts.read_text())
sys.stdout.flush()
while not (directory / "end").exists():
    time.sleep(0.01)
sys.exit(int((directory / "end").read_text()))
"""


class Run:
    """The run `first` of a cloud's TPU."""

    def __init__(self, cloud):
        self.cloud = cloud
        self.directory = cloud.vm / "runs" / "first"
        program = cloud.vm / "lambda_keras_environment" / "bin" / "lambda-keras"
        cloud.add_program(program, TRAIN)

    def start(self, **settings):
        started = self.cloud.run("start", **settings)
        assert started.returncode == 0, started.stderr
        return started.stdout

    def watch(self):
        return self.cloud.run("watch")

    def wait_for(self, condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def log(self):
        return self.directory.with_suffix(".log").read_text()

    def wait_until_it_trains(self, starts="x"):
        path = self.directory / "starts"
        self.wait_for(lambda: path.exists() and path.read_text() == starts)

    def end(self, status=0):
        # Renamed, so that it is never read while empty.
        (self.directory / "new").write_text(str(status))
        (self.directory / "new").rename(self.directory / "end")

    def process(self):
        return int(self.directory.with_suffix(".pid").read_text())

    def is_over(self):
        return self.directory.with_suffix(".status").exists()


@pytest.fixture
def run(cloud):
    run = Run(cloud)
    yield run
    # Whatever a failed test left running.
    if run.directory.exists():
        run.end()


def test_a_run_outlives_the_connection_that_started_it(run):
    assert "first is started" in run.start()
    run.wait_until_it_trains()
    # In a session of its own, it gets no hang-up from any terminal.
    assert os.getsid(run.process()) not in (0, os.getsid(0))
    os.kill(run.process(), signal.SIGHUP)
    assert "first is running already" in run.start()
    run.end()
    watched = run.watch()
    assert watched.stdout.endswith("first ended with status 0\n")
    assert watched.returncode == 0
    assert (run.directory / "starts").read_text() == "x"


def test_watch_follows_a_run_to_its_end_and_ends_like_it(run):
    run.start(ENGINE="tensorflow")
    run.wait_until_it_trains()
    run.end(3)
    for _ in range(2):
        # During the run or after it.
        watched = run.watch()
        assert "lambda-keras train --recipe=" in watched.stdout
        assert "engine tensorflow start x\n" in watched.stdout
        assert watched.stdout.endswith("first ended with status 3\n")
        assert watched.returncode == 3


def test_watch_says_when_there_is_no_run(run):
    watched = run.watch()
    assert watched.returncode == 2
    assert "there is no run first: start.sh starts it" in watched.stderr


def test_watch_says_when_a_run_was_cut_off_and_start_continues_it(run):
    run.start()
    run.wait_until_it_trains()
    # The whole session at once, as when the machine restarts.
    os.killpg(run.process(), signal.SIGKILL)
    watched = run.watch()
    assert watched.returncode == 1
    assert "first was cut off" in watched.stderr
    run.start()
    run.wait_until_it_trains("xx")
    run.end()
    assert run.watch().returncode == 0


def test_start_again_after_a_failure_runs_again(run):
    run.start()
    run.wait_until_it_trains()
    run.end(1)
    run.wait_for(run.is_over)
    (run.directory / "end").unlink()
    run.start()
    run.wait_until_it_trains("xx")
    run.end()
    assert run.watch().returncode == 0


def test_a_run_that_is_told_to_end_has_time_to(run):
    run.start()
    run.wait_until_it_trains()
    os.kill(run.process(), signal.SIGTERM)
    watched = run.watch()
    assert "told to end\n" in watched.stdout
    assert watched.returncode == 5


def test_a_bucket_has_a_copy_that_a_new_tpu_continues_from(run):
    copy = run.cloud.bucket / "runs" / "first"
    run.start(RUNS_BUCKET="gs://bucket", SAVE_SECONDS="0.05")
    run.wait_until_it_trains()
    run.wait_for((copy / "starts").exists)
    assert not (copy / ".partial-1").exists()
    # Preempted: the disk is gone.
    os.killpg(run.process(), signal.SIGKILL)
    run.wait_for(lambda: run.watch().returncode == 1)
    (run.cloud.vm / "runs").rename(run.cloud.vm / "gone")
    run.start(RUNS_BUCKET="gs://bucket", SAVE_SECONDS="60")
    run.wait_until_it_trains("xx")
    run.end()
    assert run.watch().returncode == 0
    # The last copy is made after the end, and is nothing but the run.
    assert {path.name for path in copy.iterdir()} == {
        "checkpoint-2",
        "end",
        "process",
        "starts",
    }


def test_what_copies_a_run_neither_holds_it_nor_outlives_it(run):
    run.start(RUNS_BUCKET="gs://bucket", SAVE_SECONDS="3")
    run.wait_until_it_trains()
    first = run.process()
    # As a machine does that has no memory left.
    os.kill(first, signal.SIGKILL)
    os.kill(int((run.directory / "process").read_text()), signal.SIGKILL)
    assert run.watch().returncode == 1
    assert "first is started" in run.start()
    run.wait_until_it_trains("xx")
    run.end()
    command = ["pgrep", "--session", str(first)]
    run.wait_for(lambda: subprocess.run(command).returncode == 1)


def test_a_run_on_the_disk_is_newer_than_its_copy(run):
    copy = run.cloud.bucket / "runs" / "first"
    copy.mkdir(parents=True)
    (copy / "starts").write_text("old")
    run.directory.mkdir(parents=True)
    (run.directory / "starts").write_text("x")
    run.start(RUNS_BUCKET="gs://bucket")
    run.wait_until_it_trains("xx")
    run.end()
    assert run.watch().returncode == 0


def test_the_other_machines_take_the_copy_and_write_none(run):
    copy = run.cloud.bucket / "runs" / "first"
    copy.mkdir(parents=True)
    (copy / "starts").write_text("x")
    run.directory.mkdir(parents=True)
    (run.directory / "starts").write_text("stale")
    run.start(RUNS_BUCKET="gs://bucket", WORKER="1", SAVE_SECONDS="0.05")
    run.wait_until_it_trains("xx")
    run.end()
    assert run.watch().returncode == 0
    assert (copy / "starts").read_text() == "x"


def test_on_a_slice_the_copy_is_first_made_as_new_as_the_first_machine(run):
    copy = run.cloud.bucket / "runs" / "first"
    copy.mkdir(parents=True)
    (copy / "starts").write_text("old")
    run.directory.mkdir(parents=True)
    (run.directory / "starts").write_text("x")
    run.start(RUNS_BUCKET="gs://bucket", TPU_TYPE="v5litepod-16", WORKER="1")
    run.wait_until_it_trains("xx")
    run.end()
    assert run.watch().returncode == 0


def test_a_bucket_that_cannot_be_read_starts_nothing(run):
    run.start(RUNS_BUCKET="gs://missing")
    run.wait_for(run.is_over)
    assert run.watch().returncode != 0
    assert not run.directory.exists()


def test_fetch_brings_a_run_and_what_it_printed(run):
    run.start()
    run.wait_until_it_trains()
    run.end()
    assert run.watch().returncode == 0
    here = run.cloud.home / "runs"
    fetched = run.cloud.run("fetch")
    assert fetched.returncode == 0, fetched.stderr
    assert {path.name for path in here.iterdir()} == {"first", "first.log"}
    assert (here / "first" / "starts").read_text() == "x"
    assert "start x" in (here / "first.log").read_text()

    (run.directory / "starts").write_text("newer")
    refused = run.cloud.run("fetch")
    assert refused.returncode == 2
    assert "first exists; --replace puts the new copy in" in refused.stderr
    assert (here / "first" / "starts").read_text() == "x"
    assert run.cloud.run("fetch", "--replace").returncode == 0
    assert (here / "first" / "starts").read_text() == "newer"


def test_fetch_leaves_nothing_of_a_copy_that_failed(run):
    here = run.cloud.home / "runs"
    (here / "first").mkdir(parents=True)
    run.directory.mkdir(parents=True)
    failed = run.cloud.run("fetch", "--replace", CLOUD_FAILS="first.log")
    assert failed.returncode == 7
    assert [path.name for path in here.iterdir()] == ["first"]


@pytest.mark.parametrize(
    ("engine", "packages"),
    [
        ("tensorflow", [".[tpu,tfds]", "keras==3.15.1"]),
        ("jax", [".[tf,tfds]", "jax[tpu]==0.10.2", "keras==3.15.1"]),
    ],
)
def test_set_up_installs_the_versions_that_go_together(cloud, engine, packages):
    # Stands for the machine's Python: notes what it is told, and makes an
    # environment whose Python is that of the tests.
    cloud.add_program(
        cloud.path / "bin" / "python3",
        f"""
import json, os, pathlib, sys
with open({str(cloud.path / "calls")!r}, "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if "venv" in sys.argv:
    path = pathlib.Path(sys.argv[-1], "bin", "python")
    path.parent.mkdir(parents=True)
    path.write_text(
        "#!/bin/sh\\n"
        "PYTHONPATH={SCRIPTS.parent} KERAS_BACKEND=jax exec {sys.executable} -"
    )
    path.chmod(0o755)
""",
    )
    installed = cloud.shell(
        [SCRIPTS / "vm" / "setup.sh", engine, "3.11", "3.15.1", "0.10.2", "no"],
        HOME=str(cloud.vm),
    )
    assert installed.returncode == 0, installed.stderr
    assert "\n  keras 3." in installed.stdout
    assert "have not run them on a TPU" in installed.stdout
    _, make, install = cloud.calls()
    environment = f"{cloud.vm}/lambda_keras_environment"
    assert make[-3:] == ["--python", "3.11", environment]
    python = f"{environment}/bin/python"
    assert install[-len(packages) - 2 :] == ["--python", python, *packages]
