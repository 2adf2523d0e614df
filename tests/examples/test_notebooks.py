"""Both notebooks run from top to bottom and do what they say."""

import json
import os
import re
import sys
from pathlib import Path

import keras
import nbclient
import nbformat
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))

# A kernel is a process of its own, on the notebook's engine: each runs beside
# the tests of that engine.
jax_only = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="about JAX only"
)
# TensorFlow greets at its import, whatever the log level.
GREETING = re.compile(r"(WARNING: All log messages before absl|I0000 ).*\n|\n")


def read(name):
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


def execute(notebook, tmp_path, monkeypatch, **environment):
    """Runs a notebook with few epochs and returns its outputs by cell."""
    (parameters,) = (
        cell
        for cell in notebook.cells
        if "parameters" in cell.metadata.get("tags", [])
    )
    parameters.source += "\nEPOCHS = 4"
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        json.dumps(
            {
                "argv": [
                    sys.executable,
                    "-m",
                    "ipykernel_launcher",
                    "-f",
                    "{connection_file}",
                ],
                "display_name": "the tests' Python",
                "language": "python",
            }
        )
    )
    for variable in ("JUPYTER_PATH", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    # What the tests' own processes are set to, and a reader's is not.
    for variable in ("KERAS_BACKEND", "JAX_ENABLE_X64"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    with open(tmp_path / "kernel.log", "w") as log:
        client.execute(stderr=log)
    return {cell.id: cell.get("outputs", []) for cell in notebook.cells}


def printed(outputs, stream="stdout"):
    return "".join(
        output.text
        for output in outputs
        if output.output_type == "stream" and output.name == stream
    )


def check(outputs, tmp_path, devices, engine):
    for identifier, of_cell in outputs.items():
        complaints = GREETING.sub("", printed(of_cell, "stderr"))
        assert not complaints, f"{identifier}: {complaints}"
    silent = {"install", "parameters"}
    assert not any(outputs[identifier] for identifier in silent)
    assert printed(outputs["accelerator"]) == f"training on {devices}\n"
    assert printed(outputs["data"]) == (
        "1258 images to train on, 179 to validate with, 360 to test on; "
        "10 classes\n"
    )
    assert printed(outputs["train"]).count("val_accuracy") == 4
    # 0.95 and more in a fifth of the epochs.
    accuracy = re.search(r"test accuracy: (\S+)", printed(outputs["evaluate"]))
    assert float(accuracy[1]) > 0.85
    assert any("image/png" in x.get("data", {}) for x in outputs["evaluate"])
    exported = printed(outputs["export"])
    assert exported.startswith(
        f"digits_{engine}/saved_model: the same class for 100 of 100 images"
    )
    assert (tmp_path / f"digits_{engine}/saved_model/saved_model.pb").exists()


@pytest.mark.tf_only
def test_tensorflow(tmp_path, monkeypatch):
    outputs = execute(read("colab_tpu_tensorflow"), tmp_path, monkeypatch)
    check(outputs, tmp_path, "1 x CPU", "tensorflow")


@jax_only
def test_jax_on_two_devices(tmp_path, monkeypatch):
    flags = "--xla_force_host_platform_device_count=2"
    outputs = execute(
        read("colab_tpu_jax"),
        tmp_path,
        monkeypatch,
        XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} {flags}",
    )
    check(outputs, tmp_path, "2 x CPU", "jax")


@pytest.mark.tf_only
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_is_before_it_runs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.colab.name == path.name
    for cell in notebook.cells:
        # An identifier that was given, not drawn: it stays the same.
        assert re.fullmatch(r"[a-z]+(-text)?", cell.id)
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.tf_only
def test_readme_lists_every_notebook():
    readme = (EXAMPLES / "README.md").read_text()
    listed = re.findall(
        r"^- \[`(\w+)\.ipynb`\]\(\1\.ipynb\): ", readme, re.MULTILINE
    )
    assert sorted(listed) == [path.stem for path in NOTEBOOKS]


@pytest.mark.tf_only
def test_the_notebooks_differ_where_the_engines_do():
    first, second = (
        {
            cell.id: cell.source
            for cell in nbformat.read(path, as_version=4).cells
        }
        for path in NOTEBOOKS
    )
    assert list(first) == list(second)
    assert {name for name in first if first[name] == second[name]} == {
        "parameters",
        "data-text",
        "data",
        "evaluate-text",
        "next",
    }
