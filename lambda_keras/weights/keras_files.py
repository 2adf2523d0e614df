"""The weights in files that Keras saves, by the names of their layers.

Of a `.keras` file only the weights are read: the configuration beside them,
which may name anything to import, is not looked at.
"""

import contextlib
import io
import itertools
import os
import zipfile
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from lambda_keras.messages import first_line

SUFFIXES = (".weights.h5", ".keras")

# Numbers hardly compress: an archive that claims more is a bomb.
_MOST_EXPANSION = 4


@contextlib.contextmanager
def open_weights(
    path: str | os.PathLike[str], names: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Opens a file that Keras saved a model or its weights to.

    Keras files weights by the kind and order of layers, which change with
    every layer that is added, and notes the name of each layer beside them.
    Here they go by these names, as `weight.path` does.

    Args:
        path: A `.weights.h5` or `.keras` file.
        names: For each layer, as the path of its weights but for their names,
            the names of its own weights in the order of `layer.weights`.

    Yields:
        The weights by `weight.path`, for `read_array` and of a known `shape`,
        as long as the file is open. Those without a name have their number
        as one.

    Raises:
        ValueError: If there is no such file, it is not one of Keras', or it
            does not have all the numbers that it tells of.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_open_hdf5(path))
            stored = _find_weights(file, names)
        # Files may come from anyone: the libraries of three formats have an
        # error for each thing that can be wrong with one.
        except Exception as error:
            raise _unreadable(path, error) from error
        yield stored


def read_array(stored: Any, path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a weight that `open_weights` found.

    Args:
        stored: The weight. An array is returned as it is.
        path: The file that it is in.

    Returns:
        An array, of float32 or float64.

    Raises:
        ValueError: If it cannot be read, or has values that are not finite.
    """
    if isinstance(stored, np.ndarray):
        return stored
    try:
        array = stored[()]
    except OSError as error:
        raise _unreadable(path, error) from error
    if _is_bfloat16(stored):
        # NumPy alone has no bfloat16: it is the upper half of a float32.
        array = (array.view("uint16").astype("uint32") << 16).view("float32")
    array = array.astype(np.promote_types(array.dtype, "float32"), copy=False)
    if not np.isfinite(array).all():
        raise ValueError(
            f"Weights must be finite: there are infinities or NaN in "
            f"`{stored.name}`. Received: weights={os.fspath(path)!r}"
        )
    return array


@contextlib.contextmanager
def _open_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    if not os.fspath(path).endswith(".keras"):
        with h5py.File(path, "r") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("model.weights.h5")
        if member.file_size > _MOST_EXPANSION * os.path.getsize(path):
            raise ValueError(f"{member.file_size:,} bytes are compressed away")
        # Read whole, which checks its sum.
        with h5py.File(io.BytesIO(archive.read(member)), "r") as file:
            yield file


def _find_weights(
    file: h5py.File, names: Mapping[str, Sequence[str]]
) -> dict[str, h5py.Dataset]:
    # This follows no links, and comes to no object twice.
    objects: dict[str, Any] = {}
    file.visititems(objects.__setitem__)
    stored: dict[str, h5py.Dataset] = {}
    for path, dataset in objects.items():
        group, _, number = path.rpartition("/")
        if (
            not isinstance(dataset, h5py.Dataset)
            # Seeds of random numbers are integers.
            or not (dataset.dtype.kind == "f" or _is_bfloat16(dataset))
            # Nor an optimizer's state.
            or not group.startswith("layers/")
        ):
            continue
        _check_storage(dataset)
        layer = _layer_name(group.removesuffix("/vars"), objects)
        known = dict(enumerate(names.get(layer, ())))
        weight = f"{layer}/{known.get(int(number), number)}"
        if weight in stored:
            raise ValueError(f"there are two layers of the name {layer}")
        stored[weight] = dataset
    return stored


def _check_storage(dataset: h5py.Dataset) -> None:
    """Sees to it that the file has all the numbers that it tells of.

    Else it could be small, and the arrays and models as large as it likes.
    """
    if (
        dataset.shape is None
        or dataset.external
        or dataset.id.get_storage_size() != dataset.nbytes
    ):
        raise ValueError(
            f"`{dataset.name}` of shape {dataset.shape} is not stored as Keras "
            "does: here, whole and uncompressed"
        )


def _layer_name(group: str, objects: Mapping[str, Any]) -> str:
    """Joins the names of a layer and of those that it is a part of."""
    groups = [
        objects.get(f"{prefix}/vars")
        for prefix in itertools.accumulate(group.split("/"), "{}/{}".format)
    ]
    # Lists of layers have no variables, hence no name.
    return "/".join(
        str(group.attrs["name"]) for group in groups if group is not None
    )


def _is_bfloat16(dataset: h5py.Dataset) -> bool:
    return dataset.dtype.itemsize == 2 and (
        dataset.attrs.get("dtype") == "bfloat16"
    )


def _unreadable(path: str | os.PathLike[str], error: Exception) -> ValueError:
    return ValueError(
        f"`weights` cannot be read ({first_line(error)}). "
        f"Received: weights={os.fspath(path)!r}"
    )
