"""Reads and writes the weights of timm's LambdaResNets."""

import dataclasses
import os
import reprlib
from collections.abc import Collection
from collections.abc import Mapping

import numpy as np

from lambda_keras.models import MODEL_SPECS
from lambda_keras.models import ModelSpec
from lambda_keras.weights.comparison import show_problems
from lambda_keras.weights.safetensors_files import read_header
from lambda_keras.weights.safetensors_files import read_tensors
from lambda_keras.weights.safetensors_files import write_tensors
from lambda_keras.weights.timm_tensors import CLASSES
from lambda_keras.weights.timm_tensors import COLUMNS
from lambda_keras.weights.timm_tensors import ROWS
from lambda_keras.weights.timm_tensors import Shape
from lambda_keras.weights.timm_tensors import TimmTensor
from lambda_keras.weights.timm_tensors import differences_from_timm
from lambda_keras.weights.timm_tensors import list_timm_tensors

# A file may come from anyone: neither its names nor its shapes need be short.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxtuple = 8


def read_timm(
    path: str | os.PathLike[str], spec: ModelSpec
) -> dict[str, np.ndarray]:
    """Reads the weights of a file of timm's.

    Every name and shape is checked before any tensor is read. The number of
    classes and the sizes of global tables are the file's own.

    Args:
        path: The `.safetensors` file.
        spec: The spec of the model that the file is of.

    Returns:
        An array for each `weight.path` of the model with its classifier.

    Raises:
        ImportError: If `safetensors` is not installed.
        ValueError: If the file cannot be read, is of another model, or has
            values that are not finite.
    """
    tensors, _ = _check_header(path, spec)
    names = [name for name, tensor in tensors.items() if tensor.parts]
    arrays: dict[str, np.ndarray] = {}
    for name, array in read_tensors(path, names).items():
        arrays |= tensors[name].to_keras(array)
    return arrays


def weight_shapes(
    path: str | os.PathLike[str], spec: ModelSpec
) -> dict[str, tuple[int, ...]]:
    """Reads the shapes of the weights of a file of timm's.

    Args:
        path: The `.safetensors` file, of which only the header is read.
        spec: The spec of the model that the file is of.

    Returns:
        A shape for each array that `read_timm` returns.

    Raises:
        ImportError: If `safetensors` is not installed.
        ValueError: If the file cannot be read or is of another model.
    """
    tensors, sizes = _check_header(path, spec)
    return {
        weight: tuple(
            sizes[size] if isinstance(size, str) else size for size in shape
        )
        for tensor in tensors.values()
        for weight, shape in tensor.parts.items()
    }


def write_timm(
    path: str | os.PathLike[str],
    arrays_by_path: Mapping[str, np.ndarray],
    spec: ModelSpec,
) -> None:
    """Writes weights as timm's model of the same architecture has them.

    The counts of batches that timm keeps beside moving statistics are
    written as 0: there are none here, and timm does not compute with them.

    Args:
        path: The `.safetensors` file, written whole or not at all.
        arrays_by_path: An array for each `weight.path` of the model with its
            classifier.
        spec: The spec of the model.

    Raises:
        ImportError: If `safetensors` is not installed.
        ValueError: If timm has no such architecture, the arrays are not those
            of the spec, or values are not finite.
    """
    tensors = list_timm_tensors(spec)
    expected = {
        weight: shape
        for tensor in tensors.values()
        for weight, shape in tensor.parts.items()
    }
    shapes = {weight: x.shape for weight, x in arrays_by_path.items()}
    _, problems = _compare(expected, shapes)
    if problems:
        raise ValueError(
            f"These are not the weights of {_show_spec(spec)}: "
            f"{show_problems(problems)}. Received: path={os.fspath(path)!r}"
        )
    write_tensors(
        path,
        {
            name: tensor.to_timm(arrays_by_path)
            for name, tensor in tensors.items()
        },
    )


def recognize(path: str | os.PathLike[str]) -> ModelSpec:
    """Finds out of which of our models a file of timm's is.

    Args:
        path: The `.safetensors` file, of which only the header is read.

    Returns:
        The spec, with the file's width and, if there are global tables for
        square images, their image size.

    Raises:
        ImportError: If `safetensors` is not installed.
        ValueError: If the file cannot be read, or is of none of them.
    """
    shapes = _header_shapes(path)
    misfits = []
    for original in MODEL_SPECS.values():
        if differences_from_timm(original):
            continue
        spec = _with_width(original, shapes)
        tensors = list_timm_tensors(spec)
        sizes, problems = _compare_header(tensors, shapes)
        if not problems:
            return _with_image_size(spec, sizes)
        misfits.append((sum(map(len, problems.values())), spec, problems))
    _, spec, problems = min(misfits, key=lambda misfit: misfit[0])
    raise ValueError(
        "The file does not hold the weights of any model here. The closest is "
        f"{_show_spec(spec)}: {show_problems(problems)}. "
        f"Received: path={os.fspath(path)!r}"
    )


def _check_header(
    path: str | os.PathLike[str], spec: ModelSpec
) -> tuple[Mapping[str, TimmTensor], dict[str, int]]:
    """Returns timm's tensors, and the sizes that are the file's own."""
    tensors = list_timm_tensors(spec)
    sizes, problems = _compare_header(tensors, _header_shapes(path))
    if problems:
        raise ValueError(
            f"The file does not hold the weights of {_show_spec(spec)}: "
            f"{show_problems(problems)}. Received: path={os.fspath(path)!r}"
        )
    return tensors, sizes


def _header_shapes(path) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in read_header(path).items()}


def _compare_header(tensors: Mapping[str, TimmTensor], shapes):
    return _compare(
        {name: tensor.shape for name, tensor in tensors.items()},
        shapes,
        optional={name for name, tensor in tensors.items() if not tensor.parts},
    )


def _with_width(
    spec: ModelSpec, shapes: Mapping[str, tuple[int, ...]]
) -> ModelSpec:
    width, *_ = shapes.get("stages.0.0.conv1_1x1.conv.weight") or (spec.width,)
    try:
        return dataclasses.replace(spec, width=width or spec.width)
    except ValueError:  # No multiple of the number of heads.
        return spec


def _with_image_size(spec: ModelSpec, sizes: Mapping[str, int]) -> ModelSpec:
    """Takes the size from the finest maps that have a global table."""
    strides = [int(name.removeprefix(ROWS)) for name in sizes if ROWS in name]
    if not strides:
        return spec
    stride = min(strides)
    rows, columns = (sizes[f"{name}{stride}"] for name in (ROWS, COLUMNS))
    if rows != columns:
        return spec
    return dataclasses.replace(spec, image_size=(rows + 1) // 2 * stride)


def _compare(
    expected: Mapping[str, Shape],
    received: Mapping[str, tuple[int, ...]],
    optional: Collection[str] = (),
) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Returns the sizes that have names, and what does not fit, by kind."""
    sizes: dict[str, int] = {}
    problems: dict[str, list[str]] = {
        "missing": [],
        "not expected": [],
        "of another shape": [],
    }
    for name, shape in expected.items():
        if name not in received:
            if name not in optional:
                problems["missing"].append(f"`{name}` {_show(shape)}")
        elif not _fits(received[name], shape, sizes):
            problems["of another shape"].append(
                f"`{name}` {_show(received[name])}, not {_show(shape)}"
            )
    for name in received:
        if name not in expected:
            problems["not expected"].append(
                f"{_SHORT.repr(name)} {_show(received[name])}"
            )
    return sizes, {kind: names for kind, names in problems.items() if names}


def _fits(
    received: tuple[int, ...], expected: Shape, sizes: dict[str, int]
) -> bool:
    """Compares shapes, and notes the size of each name that is new."""
    if len(received) != len(expected):
        return False
    for size, wanted in zip(received, expected):
        if isinstance(wanted, str):
            # A table has as many rows before its middle as after it.
            if size < 1 or (wanted != CLASSES and size % 2 == 0):
                return False
            wanted = sizes.setdefault(wanted, size)
        if size != wanted:
            return False
    return True


def _show_spec(spec: ModelSpec) -> str:
    return f"`{spec.name}` with width={spec.width}"


def _show(shape: Shape) -> str:
    return _SHORT.repr(shape).replace("'", "")
