"""The examples of the docstrings run and print what they say."""

import dataclasses
import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest

import lambda_keras

MODULES = [
    module.name
    for module in pkgutil.walk_packages(
        lambda_keras.__path__, prefix="lambda_keras."
    )
    # torch may not be there.
    if not module.name.endswith(("__main__", "layer_torch"))
]


# Examples are about the interface, which is the same on every engine.
@pytest.mark.tf_only
@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    # Examples that write files do so in the current directory.
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    imported = {"np": np, "keras": keras, "dataclasses": dataclasses}
    for room in (
        lambda_keras.layers,
        lambda_keras.models,
        lambda_keras.weights,
    ):
        imported |= vars(room)
    runner = doctest.DocTestRunner(
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    printed = []
    for example in doctest.DocTestFinder().find(module, extraglobs=imported):
        runner.run(example, out=printed.append)
    assert not runner.failures, "".join(printed)
