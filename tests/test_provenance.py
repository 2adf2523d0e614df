"""What figures were measured with, also where there is only one engine."""

import json
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import lambda_keras
from lambda_keras import provenance


def test_versions_are_those_of_the_engine_and_what_feeds_it():
    versions = provenance.versions()
    assert versions["python"] == platform.python_version()
    assert versions["lambda_keras"] == lambda_keras.__version__
    assert versions["keras"] == keras.__version__
    assert versions["numpy"] == np.__version__
    engine = keras.backend.backend()
    assert versions[engine] == sys.modules[engine].__version__
    # Keras loads JAX beside TensorFlow, where it decides nothing.
    assert ("jaxlib" in versions) is (engine == "jax")
    json.dumps(versions)


def test_the_processor_is_named_with_the_cores_that_are_ours(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5})
    processor = provenance.processor()
    assert (processor["kind"], processor["count"]) == ("CPU", 3)
    assert processor["name"]


def test_without_an_accelerator_the_device_is_the_processor(monkeypatch):
    set_devices(monkeypatch, "cpu", "cpu")
    assert provenance.device(8) == provenance.processor()


def test_accelerators_are_named_and_counted(monkeypatch):
    set_devices(monkeypatch, "gpu", "NVIDIA L4")
    found = {"kind": "GPU", "name": "NVIDIA L4", "count": 4}
    assert provenance.device(4) == found
    assert provenance.device() == {**found, "count": 1}


def set_devices(monkeypatch, platform, name):
    if keras.backend.backend() == "jax":
        import jax

        device = SimpleNamespace(platform=platform, device_kind=name)
        monkeypatch.setattr(jax, "devices", lambda: [device])
        return
    import tensorflow as tf

    gpus = ["a GPU"] if platform == "gpu" else []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda gpu: {"device_name": name},
    )


ONE_ENGINE = """
import json, sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"tensorflow", "sklearn", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())

from lambda_keras.benchmark.comparison import calibration
from lambda_keras.benchmark.records import make_record

record = make_record("preflight", "lambda_resnet_50@128", "images/s", [1.0], 8)
assert not calibration([record])
print(record.to_json())
"""


def test_records_can_be_made_where_there_is_jax_alone():
    if keras.backend.backend() != "jax":
        pytest.skip("a process of its own, once is enough")
    result = subprocess.run(
        [sys.executable, "-c", ONE_ENGINE],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["versions"]["jax"] == provenance.versions()["jax"]
    assert not {"tensorflow", "sklearn"} & line["versions"].keys()
    assert line["device"] == provenance.device()
