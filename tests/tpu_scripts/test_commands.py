"""What the scripts tell gcloud, and when they refuse to."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lambda_keras.training.recipes import find_recipe
from tests.tpu_scripts.cloud import SCRIPTS
from tests.tpu_scripts.cloud import SETTINGS

# The engine makes no difference here.
pytestmark = pytest.mark.tf_only

COMMANDS = ("create", "setup", "start", "watch", "fetch", "delete")
WHERE = ["--project=my-project", "--zone=us-west4-a"]
QUEUED = ["compute", "tpus", "queued-resources"]
SSH = ["compute", "tpus", "tpu-vm", "ssh", "my-tpu", *WHERE]
SCP = ["compute", "tpus", "tpu-vm", "scp"]
ON_TPU = "bash lambda_keras/tpu_scripts/vm"


def dry_run(cloud, command, *flags, **settings):
    """Returns the words of each command that a dry run shows."""
    shown = cloud.run(command, "--dry_run", *flags, **settings)
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    assert cloud.calls() == []
    return [shlex.split(line) for line in shown.stdout.splitlines()]


def train_flags(words):
    """Returns the flags of train in what start.sh sends to the TPU."""
    sent = words[-1].removeprefix("--command=")
    (train,) = re.findall(r"lambda-keras train (.*)", sent)
    return shlex.split(train)


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent)
    files = sorted(SCRIPTS.rglob("*.sh"))
    assert len(files) > 10
    checked = subprocess.run(
        [shellcheck, "--external-sources", *files],
        cwd=SCRIPTS.parent,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    "path",
    [*SCRIPTS.glob("*.sh"), *SCRIPTS.glob("vm/*.sh")],
    ids=lambda path: path.name,
)
def test_every_script_stops_at_the_first_failure(path):
    text = path.read_text()
    if path.stat().st_mode & 0o111:
        assert text.startswith("#!/usr/bin/env bash\n#")
        assert "\nset -euo pipefail\n" in text
    else:
        # Sourced by those that do.
        assert text.startswith("# shellcheck shell=bash")


def test_every_setting_can_be_set_in_the_environment():
    lines = (SCRIPTS / "settings.sh").read_text().splitlines()
    settings = [x for x in lines if x and not x.startswith("#")]
    assert len(settings) > 10
    for line in settings:
        assert re.fullmatch(r"([A-Z_]+)=\$\{\1:-[^}]*\}", line), line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["TPU_PROJECT", "TPU_ZONE", "TPU_NAME"])
def test_a_missing_setting_is_one_line_that_names_it(cloud, command, name):
    refused = cloud.run(command, **{name: ""})
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"{command}.sh: set {name}, in tpu_scr")
    assert refused.stderr.count("\n") == 1
    assert refused.stdout == ""
    assert cloud.calls() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ENGINE": "torch"}, "ENGINE must be tensorflow or jax. Received: "),
        ({"TPU_SPOT": "yes"}, "TPU_SPOT must be true or false. Received: "),
        ({"TPU_TYPE": "v3"}, "TPU_TYPE must be like v5litepod-8. Received: "),
        ({"RUN": "a/../b"}, "RUN must be letters, digits and ._- only. Rec"),
        ({"RUN": ".hidden"}, "RUN must be letters, digits and ._- only. Rec"),
        ({"RUNS_BUCKET": "bucket"}, "RUNS_BUCKET must be gs://NAME. Received"),
        (
            {"RUNS_BUCKET": "gs://a/b"},
            "RUNS_BUCKET must be gs://NAME. Received",
        ),
        (
            {"TPU_TYPE": "v3-32", "ENGINE": "tensorflow"},
            "a TPU of several machines needs ENGINE=jax. Received: TPU_TYPE=v3",
        ),
        ({"TPU_TYPE": "v5litepod-16"}, "set RUNS_BUCKET, in tpu_scripts/sett"),
        ({"DATA_DIR": ""}, "set DATA_DIR, in tpu_scripts/settings.sh or in"),
    ],
)
def test_a_wrong_setting_is_one_line(cloud, settings, message):
    refused = cloud.run("start", **settings)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"start.sh: {message}")
    assert refused.stderr.count("\n") == 1
    assert cloud.calls() == []


@pytest.mark.parametrize("command", set(COMMANDS) - {"start"})
def test_an_unknown_flag_is_refused(cloud, command):
    refused = cloud.run(command, "--bogus")
    assert refused.returncode == 2
    assert "there is no flag --bogus; see --help" in refused.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_how_a_script_begins(cloud, command):
    helped = cloud.run(command, "--help", TPU_PROJECT="")
    assert helped.returncode == 0
    assert helped.stdout.startswith(f"{command}.sh [--dry_run]")
    assert "#" not in helped.stdout


@pytest.mark.parametrize(
    ("tpu_type", "runtime"),
    [
        ("v2-8", "tpu-ubuntu2204-base"),
        ("v3-32", "tpu-ubuntu2204-base"),
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-1", "v2-alpha-tpuv6e"),
    ],
)
def test_create_asks_for_the_type_with_the_runtime_of_its_generation(
    cloud, tpu_type, runtime
):
    settings = {"TPU_TYPE": tpu_type, "RUNS_BUCKET": "gs://bucket"}
    create, describe = dry_run(cloud, "create", **settings)
    assert create == [
        "gcloud",
        *QUEUED,
        "create",
        "my-tpu",
        *WHERE,
        "--node-id=my-tpu",
        f"--accelerator-type={tpu_type}",
        f"--runtime-version={runtime}",
        "--scopes=cloud-platform",
    ]
    assert describe[1:] == [
        *QUEUED,
        "describe",
        "my-tpu",
        *WHERE,
        "--format=value(state.state)",
    ]


def test_create_takes_another_runtime_and_spare_capacity(cloud):
    create, _ = dry_run(
        cloud, "create", TPU_TYPE="v9-8", TPU_RUNTIME="new", TPU_SPOT="true"
    )
    assert "--runtime-version=new" in create
    assert create[-1] == "--spot"
    refused = cloud.run("create", "--dry_run", TPU_TYPE="v9-8")
    assert "set TPU_RUNTIME" in refused.stderr


def test_setup_installs_on_all_machines_what_is_committed(cloud):
    archive, copy, install = dry_run(cloud, "setup")
    path = str(cloud.path / "lambda_keras.tar.gz")
    assert archive[3:] == [
        "archive",
        "--format=tar.gz",
        f"--output={path}",
        "HEAD",
    ]
    assert copy[1:] == [
        *SCP,
        path,
        "my-tpu:lambda_keras.tar.gz",
        "--recurse",
        *WHERE,
        "--worker=all",
    ]
    assert install[1:-1] == [*SSH, "--worker=all"]
    assert install[-1].startswith("--command=rm -rf lambda_keras && mkdir ")
    assert re.search(rf"&& {ON_TPU}/setup.sh jax .* true$", install[-1])
    # To look for devices, every machine of a slice would wait for the others.
    *_, install = dry_run(
        cloud, "setup", TPU_TYPE="v3-32", RUNS_BUCKET="gs://bucket"
    )
    assert install[-1].endswith(" false")


def test_the_extra_that_set_up_installs_pins_what_goes_together():
    project = (SCRIPTS.parent / "pyproject.toml").read_text()
    extras = tomllib.loads(project)["project"]["optional-dependencies"]
    assert {"tensorflow-tpu==2.20.0", "libtpu==0.0.14"} < {*extras["tpu"]}
    assert {"tf", "tfds"} < extras.keys()


def test_start_trains_on_one_machine_by_its_own_tpu(cloud):
    (start,) = dry_run(cloud, "start", "--epochs=1", ENGINE="tensorflow")
    assert start[1:-1] == [*SSH, "--worker=all"]
    assert start[-1].startswith(
        f"--command={ON_TPU}/start.sh first '' env KERAS_BACKEND=tensorflow "
    )
    flags = train_flags(start)
    assert {"--strategy=tpu", "--tpu=local", "--output_dir=runs/first"} < {
        *flags
    }
    assert flags[-1] == "--epochs=1"


def test_start_trains_on_a_slice_as_one_process_per_machine(cloud):
    settings = {"TPU_TYPE": "v5litepod-32", "RUNS_BUCKET": "gs://bucket"}
    save, start = dry_run(cloud, "start", **settings)
    # First, so that what the others read is what the first machine has.
    assert save[1:] == [
        *SSH,
        "--worker=0",
        f"--command={ON_TPU}/save.sh first gs://bucket",
    ]
    assert start[-1].startswith(
        f"--command={ON_TPU}/start.sh first gs://bucket env KERAS_BACKEND=jax "
    )
    assert "--strategy=multiworker" in train_flags(start)
    assert not any(flag.startswith("--tpu") for flag in train_flags(start))


def test_train_has_the_flags_that_start_gives_it(cloud):
    for settings in ({}, {"TPU_TYPE": "v6e-16", "RUNS_BUCKET": "gs://bucket"}):
        *_, start = dry_run(cloud, "start", **settings)
        given = dict(flag[2:].split("=") for flag in train_flags(start))
        given["batch_size"] = int(given["batch_size"])
        recipe = find_recipe(given.pop("recipe"), **given)
        assert recipe.data_dir == "gs://data/tfds"


def test_fetch_copies_aside_and_renames(cloud):
    runs = str(cloud.home / "runs")
    partial = f"{runs}/.partial-first"
    copies = [
        [
            "gcloud",
            *SCP,
            f"my-tpu:runs/{name}",
            partial,
            "--recurse",
            *WHERE,
            "--worker=0",
        ]
        for name in ("first", "first.log")
    ]
    assert dry_run(cloud, "fetch") == [
        ["rm", "-rf", partial],
        ["mkdir", "-p", partial],
        *copies,
        ["mv", f"{partial}/first", f"{runs}/first"],
        ["mv", f"{partial}/first.log", f"{runs}/first.log"],
        ["rmdir", partial],
    ]
    assert not Path(runs).exists()
    replacing = dry_run(cloud, "fetch", "--replace")
    assert replacing[4] == ["rm", "-rf", f"{runs}/first"]


def test_delete_deletes_the_request_with_the_tpu(cloud):
    assert dry_run(cloud, "delete") == [
        ["gcloud", *QUEUED, "delete", "my-tpu", *WHERE, "--force", "--quiet"]
    ]


@pytest.mark.parametrize("command", ["create", "start", "watch", "delete"])
def test_what_a_dry_run_shows_can_be_pasted(cloud, command):
    settings = {"TPU_NAME": "it's mine", "TPU_PROJECT": "a b; $(date)"}
    shown = cloud.run(command, "--dry_run", **settings)
    cloud.shell(["bash", "-c", shown.stdout], **settings)
    pasted = cloud.calls()
    assert pasted
    cloud.set_states("none", "ACTIVE")
    cloud.run(command, answer="y\n", **settings)
    called = cloud.calls()
    if command == "create":
        # It first asks whether the request is there already.
        called.pop(0)
    assert pasted == called
    assert "it's mine" in pasted[0]
    assert "--project=a b; $(date)" in pasted[0]


@pytest.mark.parametrize(
    ("command", "failing"),
    [
        ("create", "create"),
        ("setup", "scp"),
        ("setup", "ssh"),
        ("start", "ssh"),
        ("watch", "ssh"),
        ("fetch", "scp"),
        ("delete", "delete"),
    ],
)
def test_a_failure_of_gcloud_is_the_failure_of_the_script(
    cloud, command, failing
):
    cloud.add_program(cloud.path / "bin" / "git", "")
    (cloud.path / "lambda_keras.tar.gz").touch()
    failed = cloud.run(command, answer="y\n", CLOUD_FAILS=failing)
    assert failed.returncode == 7
    assert failing in cloud.calls()[-1]


def test_create_waits_until_the_tpu_is_there(cloud):
    cloud.set_states("none", "ACCEPTED", "WAITING_FOR_RESOURCES", "ACTIVE")
    created = cloud.run("create")
    assert created.returncode == 0, created.stderr
    assert re.findall(r"my-tpu: (\w+)\n", created.stdout) == [
        "ACCEPTED",
        "WAITING_FOR_RESOURCES",
        "ACTIVE",
    ]
    assert [call[3] for call in cloud.calls()] == [
        "describe",
        "create",
        "describe",
        "describe",
        "describe",
    ]


def test_create_goes_on_waiting_for_a_request_that_is_there(cloud):
    cloud.set_states("PROVISIONING", "ACTIVE")
    assert cloud.run("create").returncode == 0
    assert {call[3] for call in cloud.calls()} == {"describe"}


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_create_says_when_a_request_will_not_be_met(cloud, state):
    cloud.set_states("WAITING_FOR_RESOURCES", state)
    failed = cloud.run("create")
    assert failed.returncode == 1
    assert f"the request is {state}" in failed.stderr
    assert "delete.sh" in failed.stderr


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "yeah\n"])
def test_delete_asks_first(cloud, answer):
    kept = cloud.run("delete", answer=answer)
    assert kept.returncode == 2
    assert kept.stdout.startswith("Delete the TPU my-tpu in us-west4-a of my-")
    assert "nothing was deleted" in kept.stderr
    assert cloud.calls() == []


@pytest.mark.parametrize(
    ("flags", "answer"), [([], "y\n"), ([], "yes\n"), (["--yes"], "")]
)
def test_delete_deletes_when_told_to(cloud, flags, answer):
    assert cloud.run("delete", *flags, answer=answer).returncode == 0
    (call,) = cloud.calls()
    assert call[3:5] == ["delete", "my-tpu"]


def test_the_readme_shows_what_start_sends(cloud):
    readme = (SCRIPTS / "README.md").read_text()
    (shown,) = re.findall(r"\n(lambda-keras train --.*?)```", readme, re.DOTALL)
    settings = {"DATA_DIR": "gs://my-bucket/tfds", "RUN": "lambda_resnet_50"}
    (start,) = dry_run(cloud, "start", **settings)
    words = shlex.split(shown.replace("\\\n", " "))
    assert words[2:] == train_flags(start)


def test_the_readme_names_scripts_and_settings_that_exist():
    readme = (SCRIPTS / "README.md").read_text()
    named = set(re.findall(r"tpu_scripts/(\w+)\.sh", readme))
    assert named == {*COMMANDS}
    settings = (SCRIPTS / "settings.sh").read_text()
    used = re.findall(r"\b((?:TPU|RUN|DATA|JAX)_?[A-Z_]*|ENGINE)=", readme)
    assert set(used) >= SETTINGS.keys() - {"RUN"}
    for name in used:
        assert f"\n{name}=" in settings, name
