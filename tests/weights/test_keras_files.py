"""Weights in files that Keras saves, and in files that it would not save."""

import json
import zipfile
from contextlib import ExitStack

import h5py
import keras
import numpy as np
import pytest

from lambda_keras.weights.keras_files import open_weights
from lambda_keras.weights.keras_files import read_array

NAMES = {"first": ["kernel", "bias"], "second": ["kernel", "bias"]}


def saved_model(path, **kwargs):
    """Saves two layers, and what else Keras saves beside them."""
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, name="first", **kwargs)(inputs)
    x = keras.layers.Dropout(0.5, name="dropout")(x)
    x = keras.layers.Dense(2, name="second", **kwargs)(x)
    model = keras.Model(inputs, x)
    model.compile("adam", "mse")
    (model.save if path.suffix == ".keras" else model.save_weights)(path)
    return model


def read(path, names=NAMES):
    with open_weights(path, names) as stored:
        return {name: read_array(array, path) for name, array in stored.items()}


@pytest.fixture
def h5(tmp_path):
    """A file to spoil."""
    saved_model(tmp_path / "model.weights.h5")
    return tmp_path / "model.weights.h5"


KERNEL = "layers/dense/vars/0"


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_weights_go_by_the_names_of_layers(suffix, tmp_path):
    model = saved_model(tmp_path / f"model{suffix}")
    arrays = read(tmp_path / f"model{suffix}")
    assert set(arrays) == {weight.path for weight in model.weights}
    for weight in model.weights:
        np.testing.assert_array_equal(
            arrays[weight.path], keras.ops.convert_to_numpy(weight)
        )


def test_weights_without_a_name_have_a_number(h5):
    assert set(read(h5, {"first": ["kernel"]})) == {
        "first/kernel",
        "first/1",
        "second/0",
        "second/1",
    }


@pytest.mark.parametrize(
    "dtype, read_as",
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_no_bit_is_lost(dtype, read_as, tmp_path):
    model = saved_model(tmp_path / "model.weights.h5", dtype=dtype)
    for path, array in read(tmp_path / "model.weights.h5").items():
        assert array.dtype == read_as
        (weight,) = (x for x in model.weights if x.path == path)
        expected = keras.ops.convert_to_numpy(weight).astype(read_as)
        np.testing.assert_array_equal(array, expected)


def test_the_configuration_of_a_model_is_not_looked_at(tmp_path):
    path = tmp_path / "model.keras"
    saved_model(path)
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    config = {"module": "os", "class_name": "system", "config": "touch gone"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)
    assert len(read(path)) == 4


def replace_kernel(file, **kwargs):
    del file[KERNEL]
    file.create_dataset(KERNEL, **kwargs)


def link_outside(file):
    with h5py.File(file.filename + ".other", "w") as other:
        other["kernel"] = np.ones((3, 4), "float32")
    del file[KERNEL]
    file[KERNEL] = h5py.ExternalLink(file.filename + ".other", "kernel")


def link_softly(file):
    del file[KERNEL]
    file[KERNEL] = h5py.SoftLink("/layers/dense_1/vars/0")


@pytest.mark.parametrize("link", [link_outside, link_softly])
def test_links_are_not_followed(link, h5):
    with h5py.File(h5, "a") as file:
        link(file)
    assert "first/kernel" not in read(h5)


def test_a_group_that_is_in_itself_has_an_end(h5):
    with h5py.File(h5, "a") as file:
        file["layers/dense/again"] = file["layers"]
    assert set(read(h5)) == {
        "first/kernel", "first/bias", "second/kernel", "second/bias"
    }  # fmt: skip


def make_virtual(file):
    layout = h5py.VirtualLayout((4, 2), "float32")
    layout[:] = h5py.VirtualSource(file["layers/dense_1/vars/0"])
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


@pytest.mark.parametrize(
    "spoil",
    [
        # Petabytes, of which none is in the file.
        lambda file: replace_kernel(
            file, shape=(10**9, 10**6), dtype="float32", chunks=(1000, 1000)
        ),
        lambda file: replace_kernel(
            file, data=np.zeros((1000, 1000)), compression="gzip"
        ),
        lambda file: replace_kernel(
            file,
            shape=(3, 4),
            dtype="float32",
            external=[("/etc/hostname", 0, 48)],
        ),
        lambda file: replace_kernel(file, shape=(5 * 10**7,), dtype="float32"),
        lambda file: replace_kernel(file, data=h5py.Empty("float32")),
        make_virtual,
    ],
    ids=[
        "nothing stored",
        "compressed",
        "another file",
        "nothing written",
        "no shape",
        "virtual",
    ],
)
def test_arrays_that_keras_would_not_store_are_not_opened(spoil, h5):
    with h5py.File(h5, "a") as file:
        spoil(file)
    with (
        pytest.raises(
            ValueError,
            match=r"`/layers/dense/vars/0` of shape .* is not stored as Keras.*"
            r"Received: weights='.*h5'$",
        ),
        open_weights(h5, NAMES),
    ):
        pass


def test_a_size_that_is_forged_is_found(h5):
    with h5py.File(h5) as file:
        offset, size = file[KERNEL].id.get_offset(), file[KERNEL].nbytes
    content = h5.read_bytes()
    # Where the numbers are and how many bytes, and the shape.
    for old, new in (((offset, size), (offset, 10**10)), ((3,), (625000000,))):
        true, forged = (b"".join(map(_little_endian, x)) for x in (old, new))
        assert true in content
        content = content.replace(true, forged)
    h5.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        read(h5)


def _little_endian(number):
    return number.to_bytes(8, "little")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value, h5):
    with h5py.File(h5, "a") as file:
        file[KERNEL][1, 2] = value
    with pytest.raises(
        ValueError, match=r"must be finite: .* `/layers/dense/vars/0`\. .*h5'$"
    ):
        read(h5)


def test_what_is_wrong_in_an_archive_is_said_with_its_path(h5, tmp_path):
    with h5py.File(h5, "a") as file:
        file[KERNEL][0, 0] = np.nan
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(h5, "model.weights.h5")
    with pytest.raises(ValueError, match=r"Received: weights='.*model\.keras'"):
        read(path)


def test_two_layers_of_one_name_are_refused(h5):
    with h5py.File(h5, "a") as file:
        file["layers/dense_1/vars"].attrs["name"] = "first"
    with pytest.raises(ValueError, match="two layers of the name first"):
        read(h5)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file["layers/dense/vars"].attrs.clear(),
        lambda file: file.move(KERNEL, "layers/dense/vars/kernel"),
    ],
    ids=["no name", "no number"],
)
def test_other_layouts_are_refused(spoil, h5):
    with h5py.File(h5, "a") as file:
        spoil(file)
    with pytest.raises(ValueError, match=r"cannot be read .*weights='.*h5'$"):
        read(h5)


def test_integers_are_no_weights(h5):
    with h5py.File(h5, "a") as file:
        replace_kernel(file, data=np.ones((3, 4), "int32"))
    assert "first/kernel" not in read(h5)


@pytest.mark.parametrize(
    "members, message",
    [
        ({}, "no item named 'model.weights.h5'"),
        ({"model.weights.h5": b""}, "cannot be read"),
        ({"model.weights.h5": b"weights"}, "cannot be read"),
        ({"model.weights.h5": bytes(10**7)}, "10,000,000 bytes are compressed"),
    ],
    ids=["none", "empty", "noise", "bomb"],
)
def test_archives_without_weights_are_refused(members, message, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=message):
        read(path)


def test_damage_in_an_archive_is_found_by_its_sum(tmp_path):
    path = tmp_path / "model.keras"
    saved_model(path)
    content = bytearray(path.read_bytes())
    kernel = read(path)["first/kernel"].tobytes()
    content[content.index(kernel)] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        read(path)


def test_errors_of_the_reader_are_its_own(h5):
    with ExitStack() as stack:
        stack.enter_context(open_weights(h5, NAMES))
        with pytest.raises(RuntimeError, match="mine"), stack:
            raise RuntimeError("mine")
