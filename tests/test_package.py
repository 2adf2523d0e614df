"""The package as a whole: what it exports, imports and promises."""

import ast
import functools
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import keras
import pytest

import lambda_keras

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lambda_keras"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# What each room may import of the others. The command line, `cli` and
# `commands`, may import them all and is imported by none.
ROOMS = {
    "layers": set(),
    "models": {"layers"},
    # `models` loads it when weights are asked for, and not before.
    "weights": {"layers", "models"},
    "data": set(),
    "training": {"layers", "models", "weights", "data"},
    "serving": {"layers", "models", "weights", "data"},
    "benchmark": {"layers", "models", "weights", "data", "training"},
}
ALL_ROOMS = {*ROOMS, "cli", "commands"}


def python_files(folder):
    return sorted((PACKAGE / folder).rglob("*.py"))


def imported_modules(path):
    """Yields the dotted name of everything that a file imports, anywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "module",
    [
        lambda_keras,
        lambda_keras.layers,
        lambda_keras.models,
        lambda_keras.weights,
    ],
    ids=lambda module: module.__name__,
)
def test_all_names_what_a_module_exports_and_nothing_else(module):
    assert len(set(module.__all__)) == len(module.__all__)
    imported = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    is_whole = module is lambda_keras
    rooms = {"layers", "models", "weights"} if is_whole else set()
    assert set(module.__all__) == imported | rooms


def test_every_public_name_of_the_rooms_has_a_docstring():
    for room in (
        lambda_keras.layers,
        lambda_keras.models,
        lambda_keras.weights,
    ):
        for name in room.__all__:
            value = getattr(room, name)
            if callable(value):
                # Not `inspect.getdoc`, which finds that of a parent class.
                assert value.__doc__, f"{room.__name__}.{name}"


def test_every_public_layer_is_registered_for_saved_models():
    layers = [
        getattr(lambda_keras.layers, name)
        for name in lambda_keras.layers.__all__
    ]
    layers = [
        layer
        for layer in layers
        if inspect.isclass(layer) and issubclass(layer, keras.Layer)
    ]
    assert lambda_keras.LambdaLayer in layers
    for layer in layers:
        registered = keras.saving.get_registered_name(layer)
        assert registered == f"lambda_keras>{layer.__name__}"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_in_one_direction(room):
    for path in python_files(room):
        for name in imported_modules(path):
            package, _, rest = name.partition(".")
            imported = rest.partition(".")[0]
            if package == "lambda_keras" and imported in ALL_ROOMS - {room}:
                assert imported in ROOMS[room], f"{path} imports {name}"


def test_every_room_has_its_direction_of_imports():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms | {"cli"} == ALL_ROOMS


def test_nothing_private_to_keras_is_imported():
    for path in python_files("."):
        for name in imported_modules(path):
            assert not name.startswith("keras.src"), f"{path} imports {name}"


# Stands for a machine where the other engines are not installed.
ONE_ENGINE = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())

import numpy as np
import lambda_keras

outputs = lambda_keras.LambdaLayer(8, receptive_field=3)(np.ones((2, 5, 4)))
assert outputs.shape == (2, 5, 8), outputs.shape
"""


def test_one_engine_is_enough():
    absent = {"tensorflow", "jax", "torch"} - {keras.backend.backend()}
    result = run_python(ONE_ENGINE.format(absent=absent))
    assert result.returncode == 0, result.stderr


def test_the_command_line_loads_no_engine_to_say_how_it_is_used():
    code = """
import runpy, sys
sys.argv = ["lambda-keras", "--help"]
try:
    runpy.run_module("lambda_keras", run_name="__main__", alter_sys=False)
except SystemExit as exit:
    assert not exit.code, exit.code
loaded = {"keras", "tensorflow", "jax", "torch"} & set(sys.modules)
assert not loaded, loaded
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "train" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "interpreter_arguments", "is_command_line"),
    [
        (["/usr/bin/lambda-keras", "train"], [], True),
        (["lambda-keras.exe", "train"], [], True),
        # `python -m` says so for any package that it is about to run.
        (["-m", "train"], ["python", "-m", "lambda_keras", "train"], True),
        (["-m", "train"], ["python", "-m", "other", "lambda_keras"], False),
        (["-m"], ["python", "-Im", "other"], False),
        (["train.py"], ["python", "train.py"], False),
        (["-c"], ["python", "-c", "import lambda_keras"], False),
        ([""], ["python"], False),
        ([], [], False),
    ],
)
def test_every_process_but_the_command_line_gets_all_names(
    monkeypatch, arguments, interpreter_arguments, is_command_line
):
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys, "orig_argv", interpreter_arguments)
    assert lambda_keras._is_command_line() is is_command_line


def test_the_command_and_the_module_are_one_program():
    from lambda_keras import __main__ as module
    from lambda_keras import cli

    assert PROJECT["project"]["scripts"] == {
        "lambda-keras": f"{cli.__name__}:{cli.main.__name__}"
    }
    assert module.main is cli.main


def test_readme_names_only_what_exists():
    names = re.findall(r"`((?:lambda_)?keras\.[\w.]+)", README)
    assert len(names) > 5
    for name in names:
        package, *parts = name.split(".")
        functools.reduce(getattr, parts, sys.modules[package])


def test_readme_installs_only_extras_that_exist():
    extras = set(re.findall(r"\w+", "".join(re.findall(r"\.\[.+?\]", README))))
    assert "tf" in extras
    assert extras <= set(PROJECT["project"]["optional-dependencies"])


# The README tells a newcomer to install TensorFlow.
@pytest.mark.tf_only
def test_readme_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    # One after the other, as a reader would paste them.
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
