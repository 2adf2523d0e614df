import json
import pickle
import struct
import sys

import numpy as np
import pytest
from keras import ops

from lambda_keras.weights.safetensors_files import read_header
from lambda_keras.weights.safetensors_files import read_tensors
from lambda_keras.weights.safetensors_files import write_tensors

# Files alike on every engine.
pytestmark = pytest.mark.tf_data
TENSORS = {
    # Neither is laid out in memory as it is in a file.
    "transposed": np.arange(6, dtype="float32").reshape(3, 2).T,
    "strided": np.arange(10, dtype="float32")[::2],
    "double": np.linspace(0, 1, 4),
    "count": np.zeros((), "int64"),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def test_who_may_read_other_files_may_read_these(path, tmp_path):
    write_tensors(path, TENSORS)
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def encode(header, data=b""):
    """Makes the bytes of a file: the header's length, itself, the tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, start, stop):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_tensors_come_back_bitwise(path):
    write_tensors(path, TENSORS)
    names = ["transposed", "strided", "double"]
    received = read_tensors(path, names)
    assert list(received) == names
    for name in names:
        assert received[name].dtype == TENSORS[name].dtype
        np.testing.assert_array_equal(received[name], TENSORS[name])


def test_the_header_says_what_is_there(path):
    write_tensors(path, TENSORS)
    assert read_header(path) == {
        "transposed": ("F32", (2, 3)),
        "strided": ("F32", (5,)),
        "double": ("F64", (4,)),
        "count": ("I64", ()),
    }


def test_pytorch_s_programs_take_the_file(path):
    from safetensors import safe_open

    write_tensors(path, TENSORS)
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    "dtype, data",
    [
        ("F16", np.array([1.5, -2], "float16").tobytes()),
        # The upper halves of 1.5 and -2 in float32.
        ("BF16", b"\xc0\x3f\x00\xc0"),
    ],
)
def test_half_precision_is_widened(dtype, data, path):
    path.write_bytes(encode({"weight": entry(dtype, [2, 1], 0, 4)}, data))
    weight = read_tensors(path, ["weight"])["weight"]
    assert weight.dtype == "float32"
    assert weight.tolist() == [[1.5], [-2]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_written_as_float32(dtype, path):
    # As Keras gives it; NumPy has no bfloat16 of its own.
    weight = ops.convert_to_numpy(ops.convert_to_tensor([1.5], dtype))
    write_tensors(path, {"weight": weight})
    assert read_header(path) == {"weight": ("F32", (1,))}
    assert read_tensors(path, ["weight"])["weight"] == 1.5


@pytest.mark.parametrize("dtype, size", [("I64", 8), ("F8_E4M3", 1)])
def test_other_types_are_no_weights(dtype, size, path):
    header = {"weight": entry(dtype, [1], 0, size)}
    path.write_bytes(encode(header, bytes(size)))
    message = f"must be float64, .* bfloat16: `weight` is {dtype}. Received"
    with pytest.raises(ValueError, match=message):
        read_tensors(path, ["weight"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value, path):
    data = np.array([0, value], "float32")
    header = {"good": entry("F32", [1], 0, 4), "bad": entry("F32", [1], 4, 8)}
    path.write_bytes(encode(header, data.tobytes()))
    assert read_tensors(path, ["good"])["good"] == 0
    message = "finite: .* 1 tensors, the first of them `bad`"
    with pytest.raises(ValueError, match=message):
        read_tensors(path, ["good", "bad"])


def test_values_that_are_not_finite_are_not_written(path):
    with pytest.raises(ValueError, match="finite"):
        write_tensors(path, {"bad": np.array([np.nan], "float32")})
    assert not path.exists()


WHOLE = encode({"weight": entry("F32", [2], 0, 8)}, bytes(8))

NOT_WHOLE = {
    "empty": b"",
    "cut off in the tensors": WHOLE[:-1],
    "cut off in the header": WHOLE[:20],
    "cut off in the header's length": WHOLE[:4],
    "with more behind": WHOLE + b"\0",
    "a pickle": pickle.dumps({"weight": [1.0, 2.0]}),
    "a page that says no": b"<!DOCTYPE html><title>404</title>",
    "a header longer than the file": struct.pack("<Q", 90_000_000) + b"{}",
    "a header longer than any": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": encode(b"weight"),
    "no table": encode([]),
    "nested without end": encode(b"[" * 100_000),
    "a negative size": encode({"weight": entry("F32", [-2], 0, 8)}, bytes(8)),
    "a size beyond all": encode({"weight": entry("F32", [2**62, 8], 0, 8)}),
    "tensors that share": encode(
        {"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 0, 8)}, bytes(8)
    ),
    "a name without end": encode(
        {"a" * 100_000: entry("F32", [1], 4, 8)}, bytes(4)
    ),
    "a gap": encode({"a": entry("F32", [1], 4, 8)}, bytes(8)),
    "an unknown type": encode({"a": entry("PICKLE", [1], 0, 4)}, bytes(4)),
}


@pytest.mark.parametrize("data", NOT_WHOLE.values(), ids=NOT_WHOLE)
def test_what_is_no_whole_file_is_one_error(data, path):
    path.write_bytes(data)
    message = r"a whole file of safetensors, .* \(.+\). Received: path='.*'$"
    for read in (read_header, lambda path: read_tensors(path, ["weight"])):
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert type(error.value) is ValueError
        assert len(str(error.value)) < 500 + len(str(path))


@pytest.mark.parametrize("value", [0x00, 0x22, 0x39, 0x7D, 0xFF])
def test_a_header_with_any_byte_changed_is_read_or_refused(value, path):
    refused = 0
    for position in range(len(WHOLE) - 8):
        data = bytearray(WHOLE)
        data[position] = value
        path.write_bytes(data)
        try:
            read_tensors(path, read_header(path))
        except ValueError:
            refused += 1
    assert refused > len(WHOLE) / 2


def test_the_whole_file_beside_those_is_read(path):
    path.write_bytes(WHOLE)
    assert read_tensors(path, ["weight"])["weight"].tolist() == [0, 0]


def test_what_is_no_file_is_the_same_kind_of_error(tmp_path):
    for path in (tmp_path, tmp_path / "missing.safetensors"):
        with pytest.raises(ValueError, match="Expected the path of a file"):
            read_header(path)


def test_an_existing_file_is_replaced_whole_or_not_at_all(path, monkeypatch):
    write_tensors(path, {"weight": np.zeros(1, "float32")})
    before = path.read_bytes()

    def fail(file, content):
        with file.open("wb") as stream:
            stream.write(content[:9])
        raise OSError("No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        write_tensors(path, {"weight": np.ones(1, "float32")})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_library_that_is_missing_is_named(path, monkeypatch):
    # What `import` finds of a package that is not installed.
    monkeypatch.setitem(sys.modules, "safetensors", None)
    path.write_bytes(WHOLE)
    for use in (read_header, lambda path: write_tensors(path, TENSORS)):
        with pytest.raises(ImportError, match=r'"lambda_keras\[weights\]"'):
            use(path)
