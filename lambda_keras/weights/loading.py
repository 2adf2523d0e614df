"""Weights from a file or the hub into a model: all that fit, or none."""

import contextlib
import dataclasses
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
from lambda_keras.models import build_model
from lambda_keras.weights import keras_files
from lambda_keras.weights.hub import download
from lambda_keras.weights.hub import find_checkpoint
from lambda_keras.weights.resampling import resample_table
from lambda_keras.weights.timm import read_timm
from lambda_keras.weights.timm import recognize

HOSTED = "imagenet"
TIMM_SUFFIX = ".safetensors"

_CLASSIFIER = "predictions"
_NAMED_PROBLEMS = 3

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
            "`weights` must be the path of a file that exists. "
            f"Received: weights={path!r}"
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
        UserWarning: If tables are resampled, or a classifier keeps its random
            weights although `strict`.

    Example:

    >>> spec = get_spec("lambda_resnet_tiny")
    >>> build_model(spec, classes=10).save_weights("digits.weights.h5")
    >>> model = build_model(spec, classes=26)
    >>> load_weights(model, spec, "digits.weights.h5", strict=False)
    ('predictions',)
    """
    with _open(weights, spec, model) as stored:
        found = _compare(model, spec, stored)
        fresh = found.fresh_layers(model)
        if strict:
            _refuse_problems(found, model, weights)
        elif len(fresh) == len({_layer(x.path) for x in model.weights}):
            raise ValueError(
                f"`weights` must be of {model.name}: no layer has the shapes "
                "of those in the file. "
                f"Received: weights={os.fspath(weights)!r}"
            )
        values = {
            weight.path: keras_files.read_array(stored[weight.path])
            for weight in model.weights
            if _layer(weight.path) not in fresh
        }
    told = _resample_tables(found.tables, values)
    if strict and fresh:
        told.append(
            f"The classifier of `{model.name}` keeps its random weights: "
            "those of the file are for another number of classes."
        )
    for message in told:
        # At the caller of `build_model`.
        warnings.warn(message, stacklevel=3)
    for weight in model.weights:
        if weight.path in values:
            weight.assign(values[weight.path])
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
    model = _weightless_model(spec)
    with _open(weights, spec, model) as stored:
        _refuse_problems(_compare(model, spec, stored), model, weights)
        return {
            weight.path: keras_files.read_array(stored[weight.path])
            for weight in model.weights
        }


class WeightsFile(NamedTuple):
    """What a file tells of the model that its weights are of.

    Attributes:
        spec: The spec, with the width of the file.
        classes: The number of classes; `None` without a classifier.
        image_size: The height and width of the images: what global tables
            are made for, otherwise the spec's.
    """

    spec: ModelSpec
    classes: int | None
    image_size: tuple[int, int]


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
        return _describe(recognized, read_timm(path, recognized))
    names = _names_by_layer(_weightless_model(spec))
    with keras_files.open_weights(path, names) as stored:
        return _describe(spec, stored)


def _local_path(weights: Weights, spec: ModelSpec | None) -> str:
    """Checks weights, and downloads them if they are on the hub."""
    check_weights(weights, spec)
    path = os.fspath(weights)
    if path == HOSTED:
        return os.fspath(download(find_checkpoint(spec)))
    return os.path.expanduser(path)


def _describe(spec: ModelSpec, stored: Mapping[str, Any]) -> WeightsFile:
    def last_size(name: str) -> int | None:
        return stored[name].shape[-1] if name in stored else None

    width = last_size("c2_block0_conv1/kernel") or spec.width
    return WeightsFile(
        spec=dataclasses.replace(spec, width=width),
        classes=last_size(f"{_CLASSIFIER}/bias"),
        image_size=_image_size(spec, stored),
    )


def _image_size(spec: ModelSpec, stored: Mapping[str, Any]) -> tuple[int, int]:
    """Takes the size from the finest maps that have a global table."""
    stride = spec.total_stride // math.prod(spec.strides)
    for stage, blocks in enumerate(spec.mixer_blocks):
        for block in blocks:
            name = f"c{stage + 2}_block{block}_lambda/position_embeddings"
            if _has_global_tables(spec) and name in stored:
                # The stride of a stage comes after the first mixing layer.
                stride *= spec.strides[stage] if block else 1
                rows, columns, *_ = stored[name].shape
                return (rows + 1) // 2 * stride, (columns + 1) // 2 * stride
        stride *= spec.strides[stage]
    return spec.image_size, spec.image_size


@contextlib.contextmanager
def _open(
    weights: Weights, spec: ModelSpec, model: keras.Model
) -> Iterator[Mapping[str, Any]]:
    path = _local_path(weights, spec)
    if path.endswith(TIMM_SUFFIX):
        yield read_timm(path, spec)
        return
    with keras_files.open_weights(path, _names_by_layer(model)) as stored:
        yield stored


def _weightless_model(spec: ModelSpec) -> keras.Model:
    """Builds a model that has names and shapes, and no numbers."""
    with keras.StatelessScope(initialize_variables=False):
        return build_model(spec)


def _names_by_layer(model: keras.Model) -> Mapping[str, Sequence[str]]:
    names = defaultdict(list)
    for weight in model.weights:
        layer, _, name = weight.path.rpartition("/")
        names[layer].append(name)
    return names


def _layer(path: str) -> str:
    """Returns the name of the model's layer that a weight is in."""
    return path.partition("/")[0]


def _has_global_tables(spec: ModelSpec) -> bool:
    return spec.mixer == "lambda" and spec.receptive_field is None


class _Comparison(NamedTuple):
    """What of a file and a model differs: weights, by how they do."""

    missing: dict[str, tuple]
    unexpected: dict[str, tuple]
    misshapen: dict[str, tuple[tuple, tuple]]
    tables: dict[str, tuple[tuple, tuple]]

    def fresh_layers(self, model: keras.Model) -> tuple[str, ...]:
        """The layers that the file does not have in this shape, in order."""
        fresh = {_layer(path) for path in (*self.missing, *self.misshapen)}
        return tuple(x.name for x in model.layers if x.name in fresh)

    def problems(self) -> list[str]:
        """What does not fit but for the number of classes."""
        missing = [f"`{path}` {x}" for path, x in self.missing.items()]
        unexpected = [f"`{path}` {x}" for path, x in self.unexpected.items()]
        misshapen = [
            f"`{path}` {in_file}, not {in_model}"
            for path, (in_file, in_model) in self.misshapen.items()
            if _layer(path) != _CLASSIFIER or in_file[:-1] != in_model[:-1]
        ]
        kinds = {
            "missing": missing,
            "not expected": unexpected,
            "of another shape": misshapen,
        }
        return [
            f"{len(texts)} {kind}: {', '.join(texts[:_NAMED_PROBLEMS])}"
            f"{', ...' if len(texts) > _NAMED_PROBLEMS else ''}"
            for kind, texts in kinds.items()
            if texts
        ]


def _compare(
    model: keras.Model, spec: ModelSpec, stored: Mapping[str, Any]
) -> _Comparison:
    found = _Comparison({}, {}, {}, {})
    expected = {x.path: tuple(x.shape) for x in model.weights}
    for path, shape in expected.items():
        in_file = tuple(stored[path].shape) if path in stored else None
        if in_file is None:
            found.missing[path] = shape
        elif in_file != shape:
            is_table = (
                _has_global_tables(spec)
                and path.endswith("_lambda/position_embeddings")
                and len(in_file) == len(shape)
                and in_file[-2:] == shape[-2:]
                and all(taps % 2 for taps in in_file[:-2])
            )
            kind = found.tables if is_table else found.misshapen
            kind[path] = in_file, shape
    layers = {_layer(path) for path in expected}
    for path, array in stored.items():
        if path not in expected and (
            _CLASSIFIER in layers or _layer(path) != _CLASSIFIER
        ):
            found.unexpected[path] = tuple(array.shape)
    return found


def _refuse_problems(
    found: _Comparison, model: keras.Model, weights: Weights
) -> None:
    problems = found.problems()
    if problems:
        raise ValueError(
            f"The file does not hold weights of `{model.name}` with output "
            f"shape {model.output.shape} and {model.count_params():,} "
            f"numbers: {'; '.join(problems)}. "
            f"Received: weights={os.fspath(weights)!r}"
        )


def _resample_tables(
    tables: Mapping[str, tuple[tuple, tuple]], values: dict[str, np.ndarray]
) -> list[str]:
    """Resamples tables in place, and says from what sizes to what."""
    layers = defaultdict(list)
    for path, (in_file, in_model) in tables.items():
        if path in values:
            values[path] = resample_table(values[path], in_model[:-2])
            sizes = f"from {_map_size(in_file)} to {_map_size(in_model)}"
            layers[sizes].append(_layer(path))
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
