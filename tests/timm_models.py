"""Timm's LambdaResNets, where torch and timm are installed, and ours."""

import contextlib
import os
import sys
import types
from collections.abc import Iterator
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any
from typing import ClassVar

import keras
import numpy as np
import pytest

from lambda_keras.models import ModelSpec
from lambda_keras.models import build_model
from tests.golden.stream import draw_tensor

# Ours by the names of theirs.
TIMM_NAMES = {
    "lambda_resnet_26t": "lambda_resnet26t",
    "lambda_resnet_26rpt": "lambda_resnet26rpt_256",
    "lambda_resnet_50ts": "lambda_resnet50ts",
}
STAGES = ("c2", "c3", "c4", "c5")


def make_timm_model(name: str, **arguments: Any) -> Any:
    """Makes a model of timm's with drawn weights, to evaluate in float32.

    Args:
        name: The name of our spec.
        **arguments: Of timm's model: `width_factor=1 / 8` makes it narrow,
            `img_size` gives it global tables of another size.
    """
    torch = pytest.importorskip("torch")
    with _torchvision_for_import():
        timm = pytest.importorskip("timm")
    model = timm.create_model(TIMM_NAMES[name], **arguments)
    drawn = {
        key: torch.from_numpy(draw_tensor(key, tuple(tensor.shape)))
        for key, tensor in model.state_dict().items()
    }
    # Copies into the model's own types.
    model.load_state_dict(drawn)
    return model.eval()


def timm_state(model: Any) -> dict[str, np.ndarray]:
    """Returns the tensors of a model of timm's as arrays."""
    return {key: x.numpy() for key, x in model.state_dict().items()}


def timm_outputs(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns logits and each stage's features, all channels last."""
    import torch

    dtype = next(model.parameters()).dtype
    inputs = torch.from_numpy(images).to(dtype).permute(0, 3, 1, 2)
    with torch.no_grad():
        final, features = model.forward_intermediates(inputs)
        logits = model.forward_head(final)
    # The first of the features are the stem's.
    outputs = {
        name: x.permute(0, 2, 3, 1).numpy()
        for name, x in zip(STAGES, features[-len(STAGES) :], strict=True)
    }
    return {**outputs, "logits": logits.numpy()}


def make_keras_model(
    path: str | os.PathLike[str],
    spec: ModelSpec | str,
    size: Sequence[int | None],
    **arguments: Any,
) -> keras.Model:
    """Makes our model of a file of timm's, to be called as theirs is."""
    return build_model(
        spec,
        weights=path,
        input_shape=(*size, 3),
        classifier_activation=None,
        include_preprocessing=False,
        **arguments,
    )


def keras_outputs(
    model: keras.Model, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns logits and each stage's features, in the order of timm's."""
    outputs = {name: model.get_layer(name).output for name in STAGES}
    outputs["logits"] = model.output
    return keras.Model(model.input, outputs).predict_on_batch(images)


def deviation(received: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest value."""
    return float(np.abs(received - expected).max() / np.abs(expected).max())


@contextlib.contextmanager
def _torchvision_for_import() -> Iterator[None]:
    """Stands for torchvision, of which timm's models only import names."""
    names = [
        "torchvision",
        "torchvision.datasets",
        "torchvision.models",
        "torchvision.models.feature_extraction",
        "torchvision.ops",
        "torchvision.ops.misc",
        "torchvision.transforms",
        "torchvision.transforms.functional",
        "torchvision.utils",
    ]
    if "timm" in sys.modules or find_spec("torchvision"):
        yield
        return
    sys.modules |= {name: _Names(name) for name in names}
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class _Name(type):
    """A class with any attribute."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(name, (), {})


class _Names(types.ModuleType):
    """A module with any name in it."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(name, (), {})
