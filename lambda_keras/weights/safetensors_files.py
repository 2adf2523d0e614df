"""Files of safetensors, which unlike pickles hold nothing but numbers."""

import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import NamedTuple

import numpy as np

from lambda_keras.files import write_aside
from lambda_keras.messages import first_line

# The format's names of the types that a weight may have. NumPy alone has no
# bfloat16: it is the upper half of a float32.
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class TensorHeader(NamedTuple):
    """What a file says of a tensor before the tensors themselves.

    Attributes:
        dtype: The format's name of its type, such as `"F32"`.
        shape: Its shape.
    """

    dtype: str
    shape: tuple[int, ...]


def read_header(path: str | os.PathLike[str]) -> dict[str, TensorHeader]:
    """Reads which tensors a file holds, and not the tensors.

    The file must be whole: its size is what the header says.

    Args:
        path: The file.

    Returns:
        A `TensorHeader` for each name.

    Raises:
        ImportError: If `safetensors` is not installed.
        ValueError: If there is no such file, or it is not one of safetensors.
    """

    def read(library, path):
        header = {}
        with library.safe_open(path, framework="np") as file:
            for name in file.keys():
                part = file.get_slice(name)
                header[name] = TensorHeader(
                    part.get_dtype(), tuple(part.get_shape())
                )
        return header

    return _read(path, read)


def read_tensors(
    path: str | os.PathLike[str], names: Iterable[str]
) -> dict[str, np.ndarray]:
    """Reads tensors of floating point numbers.

    Args:
        path: The file.
        names: The names of the tensors, which must be in the file.

    Returns:
        An array for each name, in float64 if it is so in the file, and
        otherwise in float32, which holds float16 and bfloat16 exactly.

    Raises:
        ImportError: If `safetensors` is not installed.
        ValueError: If there is no such file, or it is not one of safetensors,
            or a tensor is of another type or has values that are not finite.
    """
    tensors = _read(
        path,
        lambda library, path: dict(library.deserialize(path.read_bytes())),
    )
    arrays = {}
    for name in names:
        tensor = tensors[name]
        if tensor["dtype"] not in _DTYPES:
            raise ValueError(
                "Weights must be float64, float32, float16 or bfloat16: "
                f"`{name}` is {tensor['dtype']}. "
                f"Received: path={os.fspath(path)!r}"
            )
        array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
        if tensor["dtype"] == "BF16":
            array = (array.astype("uint32") << 16).view("float32")
        arrays[name] = _widen(array).reshape(tensor["shape"])
    _check_finite(arrays, path)
    return arrays


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]
) -> None:
    """Writes a file, whole or not at all.

    Args:
        path: The file. An existing one is replaced.
        tensors: An array for each name. Half precision is widened to float32.

    Raises:
        ImportError: If `safetensors` is not installed.
        ValueError: If values are not finite.
    """
    _import_safetensors()
    from safetensors.numpy import save

    _check_finite(tensors, path)
    # What the library writes is the memory of an array, whatever its strides.
    arrays = {
        name: np.require(
            array if array.dtype.kind == "i" else _widen(array),
            requirements="C",
        )
        for name, array in tensors.items()
    }
    with write_aside(path) as temporary:
        # PyTorch's programs ask for this entry. The library itself would
        # write a file that others may not read.
        temporary.write_bytes(save(arrays, metadata={"format": "pt"}))


def _read(path: str | os.PathLike[str], read: Callable[[Any, Path], Any]):
    library = _import_safetensors()
    path = Path(path)
    # A pipe would let the library wait for ever.
    if not path.is_file():
        raise ValueError(
            f"Expected the path of a file. Received: path={os.fspath(path)!r}"
        )
    try:
        return read(library, path)
    except (library.SafetensorError, OSError) as error:
        # What it says may quote a name as long as the header.
        raise ValueError(
            "Expected a whole file of safetensors, and could not read it "
            f"({first_line(error)[:200]}). Received: path={os.fspath(path)!r}"
        ) from error


def _import_safetensors() -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            "Files of safetensors need the library of this name: "
            '`pip install "lambda_keras[weights]"`.'
        ) from error
    return safetensors


def _widen(array: np.ndarray) -> np.ndarray:
    return array.astype(np.promote_types(array.dtype, "float32"), copy=False)


def _check_finite(
    arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]
) -> None:
    bad = [name for name, x in arrays.items() if not np.isfinite(x).all()]
    if bad:
        raise ValueError(
            "Weights must be finite: there are infinities or NaN in "
            f"{len(bad)} tensors, the first of them `{bad[0]}`. "
            f"Received: path={os.fspath(path)!r}"
        )
