"""Stands for Google Cloud: a `gcloud` whose TPU and bucket are directories."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "tpu_scripts"

# Executables before the others on PATH. Each notes its arguments; CLOUD_FAILS
# makes the commands that contain it fail, with status 7.
GCLOUD = """
import json, os, pathlib, re, shutil, subprocess, sys

cloud = pathlib.Path(os.environ["CLOUD"])
arguments = sys.argv[1:]
with open(cloud / "calls", "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
failing = os.environ.get("CLOUD_FAILS")
if failing and failing in " ".join(arguments):
    sys.exit(7)
flags = dict(x[2:].partition("=")[::2] for x in arguments if x[:2] == "--")
words = [x for x in arguments if x[:2] != "--"]


def local(path):
    # A path on the TPU begins with its name, one in a bucket with gs://.
    if path.startswith("gs://"):
        return cloud / "buckets" / path[5:]
    name, colon, rest = path.rpartition(":")
    return cloud / "vm" / rest if colon else pathlib.Path(path)


def copy(source, target):
    if target.is_dir():
        target = target / source.name
    (shutil.copytree if source.is_dir() else shutil.copy)(source, target)


match words[:4]:
    case ["compute", "tpus", "tpu-vm", "ssh"]:
        done = subprocess.run(
            ["bash", "-c", flags["command"]],
            cwd=cloud / "vm",
            env={**os.environ, "HOME": str(cloud / "vm")},
        )
        sys.exit(done.returncode)
    case ["compute", "tpus", "tpu-vm", "scp"]:
        copy(*map(local, words[4:]))
    case ["compute", "tpus", "queued-resources", "describe"]:
        first, *rest = (cloud / "states").read_text().splitlines()
        (cloud / "states").write_text("\\n".join(rest or [first]))
        if first == "none":
            sys.exit("there is no such request")
        print(first)
    case ["storage", "ls", path]:
        if not local(path).exists():
            sys.exit("matched no objects")
    case ["storage", "rsync", source, target]:
        source, target = local(source), local(target)
        if "delete-unmatched-destination-objects" in flags:
            shutil.rmtree(target, ignore_errors=True)
        for path in source.rglob("*"):
            name = str(path.relative_to(source))
            if path.is_file() and not re.match(flags["exclude"], name):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / name)
"""
CURL = """
import os
print(os.environ.get("WORKER", "0"), end="")
"""
SETTINGS = {
    "TPU_PROJECT": "my-project",
    "TPU_ZONE": "us-west4-a",
    "TPU_NAME": "my-tpu",
    "DATA_DIR": "gs://data/tfds",
    "RUN": "first",
}


class Cloud:
    """A user's machine and what `gcloud` reaches from there.

    Args:
        path: A directory of its own.
    """

    def __init__(self, path: Path):
        self.path = path
        self.vm = path / "vm"
        self.bucket = path / "buckets" / "bucket"
        self.home = path / "home"
        for directory in (self.vm, self.bucket, self.home, path / "bin"):
            directory.mkdir(parents=True)
        (path / "calls").touch()
        self.set_states("none", "ACTIVE")
        self.add_program(path / "bin" / "gcloud", GCLOUD)
        self.add_program(path / "bin" / "curl", CURL)
        # What setup.sh would put there.
        copied = self.vm / "lambda_keras"
        copied.mkdir()
        (copied / "tpu_scripts").symlink_to(SCRIPTS)

    def add_program(self, path: Path, code: str) -> None:
        """Makes an executable of Python code."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{sys.executable} -IS\n{code}")
        path.chmod(0o755)

    def set_states(self, *states: str) -> None:
        """Sets what `describe` says, one after the other."""
        (self.path / "states").write_text("\n".join(states))

    def run(
        self, script: str, *flags: str, answer: str = "", **settings: str
    ) -> subprocess.CompletedProcess:
        """Runs a script as a user would, with `settings` on top of others."""
        return self.shell(
            [SCRIPTS / f"{script}.sh", *flags], answer=answer, **settings
        )

    def shell(
        self, command: list, answer: str = "", **settings: str
    ) -> subprocess.CompletedProcess:
        """Runs any command where `gcloud` is this cloud's."""
        return subprocess.run(
            command,
            env={
                "PATH": f"{self.path / 'bin'}:{os.environ['PATH']}",
                "HOME": str(self.home),
                "TMPDIR": str(self.path),
                "LOCAL_RUNS": str(self.home / "runs"),
                "CLOUD": str(self.path),
                "POLL_SECONDS": "0",
                **SETTINGS,
                **settings,
            },
            input=answer,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[list[str]]:
        """Returns the arguments of every `gcloud` so far, and forgets them."""
        lines = (self.path / "calls").read_text().splitlines()
        (self.path / "calls").write_text("")
        return [json.loads(line) for line in lines]
