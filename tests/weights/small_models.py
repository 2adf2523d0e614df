"""Small models of timm's kinds, and files of each kind with their weights."""

import dataclasses
from pathlib import Path

import keras
import numpy as np

from lambda_keras.models import ModelSpec
from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.weights.timm import write_timm
from lambda_keras.weights.weightless import build_weightless

KINDS = (".safetensors", ".weights.h5", ".keras")

# Two stages, the second with windows of 9 positions and a bias.
LOCAL = dataclasses.replace(
    get_spec("lambda_resnet_26t"),
    depths=(1, 1),
    strides=(1, 2),
    mixer_blocks=((), (0,)),
    width=8,
    image_size=32,
)
# With tables for maps of 8x8 and of 4x4 positions.
GLOBAL = dataclasses.replace(
    get_spec("lambda_resnet_26rpt"),
    depths=(1, 2),
    strides=(1, 2),
    mixer_blocks=((), (0, 1)),
    width=8,
    image_size=32,
)
# One block less.
SHALLOW = dataclasses.replace(GLOBAL, depths=(1, 1), mixer_blocks=((), (0,)))


def random_model(spec: ModelSpec, classes: int = 5, **kwargs) -> keras.Model:
    """Builds a model of which no two weights are alike."""
    model = build_model(spec, classes=classes, **kwargs)
    random = np.random.RandomState(0)
    model.set_weights(
        [random.uniform(0.1, 1, x.shape) for x in model.get_weights()]
    )
    return model


def arrays_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {
        weight.path: keras.ops.convert_to_numpy(weight)
        for weight in model.weights
    }


def write_weights(model: keras.Model, spec: ModelSpec, path: Path) -> Path:
    """Writes the kind of file that the path ends with."""
    if path.name.endswith(".keras"):
        model.save(path)
    elif path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        write_timm(path, arrays_of(model), spec)
    return path


def write_ones(path: Path, spec: ModelSpec, classes: int = 5) -> Path:
    """Writes a file of timm's, for which no model has to be initialized."""
    model = build_weightless(spec, classes=classes)
    shapes = {weight.path: weight.shape for weight in model.weights}
    ones = {path: np.ones(shape, "float32") for path, shape in shapes.items()}
    write_timm(path, ones, spec)
    return path
