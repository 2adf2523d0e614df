"""Weights from a file or the hub into a model: all that fit, or none."""

import contextlib
import dataclasses
import inspect
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from lambda_keras.models import ModelSpec
from lambda_keras.weights import keras_files
from lambda_keras.weights.comparison import CLASSIFIER
from lambda_keras.weights.comparison import Shape
from lambda_keras.weights.comparison import compare
from lambda_keras.weights.comparison import has_global_tables
from lambda_keras.weights.comparison import layer_name
from lambda_keras.weights.comparison import name_some
from lambda_keras.weights.comparison import names_by_layer
from lambda_keras.weights.hub import download
from lambda_keras.weights.hub import find_checkpoint
from lambda_keras.weights.resampling import resample_table
from lambda_keras.weights.timm import read_timm
from lambda_keras.weights.timm import recognize
from lambda_keras.weights.timm import weight_shapes
from lambda_keras.weights.weightless import build_weightless

HOSTED = "imagenet"
TIMM_SUFFIX = ".safetensors"

Weights = str | os.PathLike[str]


def check_weights(weights: Weights, spec: ModelSpec) -> None:
    """Checks what can be told of weights before there is a model.

    Args:
        weights: `"imagenet"`, or the path of a `.safetensors` (timm's),
            `.weights.h5` or `.keras` file.
        spec: The spec of the model that they are for.

    Raises:
        ValueError: If there are no such weights.
    """
    path = os.fspath(weights)
    if path == HOSTED:
        find_checkpoint(spec)
        return
    suffixes = (TIMM_SUFFIX, *keras_files.SUFFIXES)
    if not path.endswith(suffixes):
        raise ValueError(
            f"`weights` must be {HOSTED!r} or the path of a "
            f"{', '.join(suffixes[:-1])} or {suffixes[-1]} file. "
            f"Received: weights={path!r}"
        )
    # No other file system: `gs://` has none of these.
    if not os.path.isfile(os.path.expanduser(path)):
        raise ValueError(
            "`weights` must be on a disk of this machine, the path of a file "
            f"that exists. Received: weights={path!r}"
        )


def load_weights(
    model: keras.Model,
    spec: ModelSpec,
    weights: Weights,
    strict: bool = True,
) -> tuple[str, ...]:
    """Loads weights into a model, or none of them if they do not fit.

    Weights go by the names of their layers. Those of a classifier that the
    model does not have are left out. Global tables of relative positions for
    another image size are resampled (see `resample_table`).

    Args:
        model: The model, as `build_model` makes it.
        spec: Its spec.
        weights: As for `check_weights`. With `"imagenet"`, the file is
            downloaded if it is not in the hub's cache.
        strict: Whether only a classifier of another number of classes may
            keep its random weights. Else every layer does that the file does
            not have in this shape, and layers that the model does not have
            are left out.

    Returns:
        The names of the layers that keep their random weights.

    Raises:
        ImportError: If a library is missing that the file needs.
        OSError: If it cannot be downloaded.
        ValueError: If it cannot be read or does not fit.

    Warns:
        UserWarning: If tables are resampled, a classifier keeps its random
            weights although `strict`, or layers of the file are left out.

    Example:

    >>> spec = get_spec("lambda_resnet_tiny")
    >>> build_model(spec, classes=10).save_weights("digits.weights.h5")
    >>> model = build_model(spec, classes=26)
    >>> load_weights(model, spec, "digits.weights.h5", strict=False)
    ('predictions',)
    """
    with _open(weights, spec, model) as (path, stored):
        found = compare(model, spec, _shapes(stored))
        fresh = found.fresh_layers(model)
        if strict:
            found.refuse_problems(model, weights)
        elif len(fresh) == len({layer_name(x.path) for x in model.weights}):
            raise ValueError(
                f"`weights` must be of {model.name}: no layer has the shapes "
                "of those in the file. "
                f"Received: weights={os.fspath(weights)!r}"
            )
        chosen = [x for x in model.weights if layer_name(x.path) not in fresh]
        arrays = _read_arrays(path, stored, chosen, weights)
    told = _resample_tables(found.tables, arrays)
    if strict and fresh:
        told.append(
            f"The classifier of `{model.name}` keeps its random weights: "
            "those of the file are for another number of classes."
        )
    unused = found.unused_layers()
    if unused:
        told.append(
            f"The file has {len(unused)} layers that `{model.name}` does not "
            f"have, and that are left out: {name_some(unused)}."
        )
    values = [_cast(arrays[x.path], x, weights) for x in chosen]
    for message in told:
        warnings.warn(message, stacklevel=_stacklevel_of_user())
    for weight, value in zip(chosen, values, strict=True):
        weight.assign(value)
    return fresh


def read_weights(weights: Weights, spec: ModelSpec) -> dict[str, np.ndarray]:
    """Reads the weights of a whole model, its classifier included.

    The number of classes and the sizes of global tables are the file's own.

    Args:
        weights: As for `load_weights`.
        spec: The spec of the model that they are of.

    Returns:
        An array for each `weight.path` of the model.

    Raises:
        ImportError: If a library is missing that the file needs.
        OSError: If it cannot be downloaded.
        ValueError: If it cannot be read, or is of another model.

    Example:

    >>> spec = get_spec("lambda_resnet_tiny")
    >>> build_model(spec, classes=10).save_weights("digits.weights.h5")
    >>> read_weights("digits.weights.h5", spec)["predictions/bias"].shape
    (10,)
    """
    model = build_weightless(spec)
    with _open(weights, spec, model) as (path, stored):
        compare(model, spec, _shapes(stored)).refuse_problems(model, weights)
        return _read_arrays(path, stored, model.weights, weights)


class WeightsFile(NamedTuple):
    """What a file tells of the model that its weights are of.

    Attributes:
        spec: The spec, with the width of the file.
        classes: The number of classes; `None` without a classifier.
        image_size: The height and width of the images: what global tables
            are made for, otherwise the spec's.
        path: The file itself, also where the weights have a name: whoever
            goes on with this path has a download checked only once.
    """

    spec: ModelSpec
    classes: int | None
    image_size: tuple[int, int]
    path: str


def describe_weights(
    weights: Weights, spec: ModelSpec | None = None
) -> WeightsFile:
    """Finds out what model a file is of, without reading all of it.

    Args:
        weights: As for `load_weights`.
        spec: The spec of the model but for its width. A `.safetensors` file
            tells it itself.

    Returns:
        A `WeightsFile`.

    Raises:
        ImportError: If a library is missing that the file needs.
        OSError: If it cannot be downloaded.
        ValueError: If it cannot be read, or is of another model.

    Example:

    >>> spec = get_spec("lambda_resnet_tiny")
    >>> build_model(spec, classes=10).save_weights("digits.weights.h5")
    >>> describe_weights("digits.weights.h5", spec).classes
    10
    """
    if spec is None and not os.fspath(weights).endswith(TIMM_SUFFIX):
        raise ValueError(
            f"`spec` must be given, but for a {TIMM_SUFFIX} file, which tells "
            f"itself. Received: weights={os.fspath(weights)!r}, spec=None"
        )
    path = _local_path(weights, spec)
    if path.endswith(TIMM_SUFFIX):
        recognized = recognize(path)
        if spec is not None and spec.name != recognized.name:
            raise ValueError(
                f"`weights` must be of {spec.name}, and are of "
                f"{recognized.name}. Received: weights={path!r}"
            )
        spec, shapes = recognized, weight_shapes(path, recognized)
    else:
        names = names_by_layer(build_weightless(spec))
        with keras_files.open_weights(path, names) as stored:
            shapes = _shapes(stored)
        spec = _with_width(spec, shapes)
        # Else a small file could tell of a model as large as it likes.
        has_top = f"{CLASSIFIER}/kernel" in shapes
        model = build_weightless(spec, include_top=has_top)
        compare(model, spec, shapes).refuse_problems(model, path)
    *_, classes = shapes.get(f"{CLASSIFIER}/kernel", (None,))
    return WeightsFile(spec, classes, _image_size(spec, shapes), path)


def _local_path(weights: Weights, spec: ModelSpec | None) -> str:
    """Checks weights, and downloads them if they are on the hub."""
    check_weights(weights, spec)
    path = os.fspath(weights)
    if path == HOSTED:
        return os.fspath(download(find_checkpoint(spec)))
    return os.path.expanduser(path)


def _with_width(spec: ModelSpec, shapes: Mapping[str, Shape]) -> ModelSpec:
    *_, width = shapes.get("c2_block0_conv1/kernel") or (spec.width,)
    try:
        return dataclasses.replace(spec, width=width or spec.width)
    except ValueError:  # No multiple of the number of heads.
        return spec


def _image_size(
    spec: ModelSpec, shapes: Mapping[str, Shape]
) -> tuple[int, int]:
    """Takes the size from the finest maps that have a global table."""
    stride = spec.total_stride // math.prod(spec.strides)
    for stage, blocks in enumerate(spec.mixer_blocks):
        for block in blocks:
            name = f"c{stage + 2}_block{block}_lambda/position_embeddings"
            if has_global_tables(spec) and name in shapes:
                # The stride of a stage comes after the first mixing layer.
                stride *= spec.strides[stage] if block else 1
                rows, columns, *_ = shapes[name]
                return (rows + 1) // 2 * stride, (columns + 1) // 2 * stride
        stride *= spec.strides[stage]
    return spec.image_size, spec.image_size


@contextlib.contextmanager
def _open(
    weights: Weights, spec: ModelSpec, model: keras.Model
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Finds the file, and what is in it by the paths of weights."""
    path = _local_path(weights, spec)
    if path.endswith(TIMM_SUFFIX):
        yield path, read_timm(path, spec)
        return
    with keras_files.open_weights(path, names_by_layer(model)) as stored:
        yield path, stored


def _shapes(stored: Mapping[str, Any]) -> dict[str, Shape]:
    return {path: tuple(array.shape) for path, array in stored.items()}


def _read_arrays(
    path: str,
    stored: Mapping[str, Any],
    chosen: Sequence[keras.Variable],
    weights: Weights,
) -> dict[str, np.ndarray]:
    """Reads the arrays of some of the model's weights, and checks values."""
    arrays = {
        x.path: keras_files.read_array(stored[x.path], path) for x in chosen
    }
    for name, array in arrays.items():
        if name.endswith("/moving_variance") and (array < 0).any():
            raise ValueError(
                f"Variances must not be negative, as some of `{name}` are. "
                f"Received: weights={os.fspath(weights)!r}"
            )
    return arrays


def _cast(array: np.ndarray, weight: Any, weights: Weights) -> Any:
    """Converts an array to the type of a weight, and checks its range."""
    # Said below, with the name of the weight.
    with np.errstate(over="ignore"):
        tensor = keras.ops.convert_to_tensor(array, dtype=weight.dtype)
    if not np.isfinite(keras.ops.convert_to_numpy(tensor)).all():
        raise ValueError(
            f"Weights must be finite in {weight.dtype}: values of "
            f"`{weight.path}` are too large. "
            f"Received: weights={os.fspath(weights)!r}"
        )
    return tensor


def _stacklevel_of_user() -> int:
    """Counts the frames up to the first outside of this package."""
    package, _, _ = __name__.partition(".")
    level, frame = 0, inspect.currentframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] != package:
            break
        level, frame = level + 1, frame.f_back
    return level


def _resample_tables(
    tables: Mapping[str, tuple[tuple, tuple]], values: dict[str, np.ndarray]
) -> list[str]:
    """Resamples tables in place, and says from what sizes to what."""
    layers = defaultdict(list)
    for path, (in_file, in_model) in tables.items():
        if path in values:
            values[path] = resample_table(values[path], in_model[:-2])
            sizes = f"from {_map_size(in_file)} to {_map_size(in_model)}"
            layers[sizes].append(layer_name(path))
    if not layers:
        return []
    changes = [f"{x} positions in {', '.join(y)}" for x, y in layers.items()]
    return [
        "Images are of another size than those that the weights are for, so "
        f"that tables of relative positions were resampled: "
        f"{', '.join(changes)}."
    ]


def _map_size(shape: tuple[int, ...]) -> str:
    return "x".join(str((taps + 1) // 2) for taps in shape[:-2])
