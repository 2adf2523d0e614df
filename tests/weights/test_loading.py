"""Weights from files of every kind into models: all that fit, or none."""

import dataclasses
import functools
import pickle
import re

import h5py
import keras
import numpy as np
import pytest

from lambda_keras.models import LambdaResNet26T
from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.weights import CHECKPOINTS
from lambda_keras.weights import check_weights
from lambda_keras.weights import describe_weights
from lambda_keras.weights import load_weights
from lambda_keras.weights import loading
from lambda_keras.weights import read_weights
from lambda_keras.weights import resample_table
from lambda_keras.weights.timm import write_timm
from tests.weights.small_models import GLOBAL
from tests.weights.small_models import KINDS
from tests.weights.small_models import LOCAL
from tests.weights.small_models import SHALLOW
from tests.weights.small_models import arrays_of
from tests.weights.small_models import random_model
from tests.weights.small_models import write_ones
from tests.weights.small_models import write_weights


@pytest.fixture(scope="module")
def arrays():
    """By spec, what is in the files."""
    return {}


@pytest.fixture(scope="module")
def files(arrays, tmp_path_factory):
    """By name of spec and kind, a file of weights."""
    directory = tmp_path_factory.mktemp("weights")
    paths = {}
    for spec in (LOCAL, GLOBAL):
        model = random_model(spec)
        arrays[spec.name] = arrays_of(model)
        for kind in KINDS:
            path = directory / f"{spec.name}{kind}"
            paths[spec.name, kind] = write_weights(model, spec, path)
    return paths


@functools.cache
def unloaded(spec):
    """Returns a model that nothing is ever loaded into."""
    return build_model(spec, classes=5)


def assert_same(arrays, expected):
    assert list(arrays) == list(expected)
    for path, array in arrays.items():
        np.testing.assert_array_equal(array, expected[path], err_msg=path)


def without_classifier(arrays):
    return {
        path: array
        for path, array in arrays.items()
        if not path.startswith("predictions/")
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [LOCAL, GLOBAL], ids=lambda x: x.name)
def test_every_kind_of_file_gives_every_weight(spec, kind, files, arrays):
    model = build_model(spec, classes=5)
    assert load_weights(model, spec, files[spec.name, kind]) == ()
    assert_same(arrays_of(model), arrays[spec.name])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_a_classifier_leaves_it_out(kind, files, arrays):
    model = build_model(LOCAL, include_top=False, pooling="avg")
    assert load_weights(model, LOCAL, files[LOCAL.name, kind]) == ()
    assert_same(arrays_of(model), without_classifier(arrays[LOCAL.name]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_of_other_classes_keeps_its_random_weights(
    kind, files, arrays
):
    model = build_model(LOCAL, classes=7)
    fresh = model.get_layer("predictions").get_weights()
    with pytest.warns(UserWarning, match="classifier .* keeps its random"):
        names = load_weights(model, LOCAL, files[LOCAL.name, kind])
    assert names == ("predictions",)
    loaded = arrays_of(model)
    assert_same(
        without_classifier(loaded), without_classifier(arrays[LOCAL.name])
    )
    np.testing.assert_array_equal(loaded["predictions/kernel"], fresh[0])


@pytest.mark.parametrize("kind", KINDS)
def test_windows_serve_images_of_any_size_as_they_are(kind, files, arrays):
    model = build_model(LOCAL, input_shape=(48, 40, 3), classes=5)
    assert load_weights(model, LOCAL, files[LOCAL.name, kind]) == ()
    assert_same(arrays_of(model), arrays[LOCAL.name])


@pytest.mark.parametrize("kind", KINDS)
def test_global_tables_are_resampled_for_images_of_another_size(
    kind, files, arrays
):
    model = build_model(GLOBAL, input_shape=(48, 32, 3), classes=5)
    message = (
        r"from 8x8 to 12x8 positions in c3_block0_lambda, "
        r"from 4x4 to 6x4 positions in c3_block1_lambda\.$"
    )
    with pytest.warns(UserWarning, match=message):
        assert load_weights(model, GLOBAL, files[GLOBAL.name, kind]) == ()
    expected = {
        path: array
        if array.shape == tuple(weight.shape)
        else resample_table(array, weight.shape[:2])
        for weight, (path, array) in zip(
            model.weights, arrays[GLOBAL.name].items(), strict=True
        )
    }
    assert expected["c3_block1_lambda/position_embeddings"].shape[:2] == (11, 7)
    assert_same(arrays_of(model), expected)


ATTENTION = dataclasses.replace(
    get_spec("attention_tiny"),
    depths=(1, 1),
    strides=(1, 2),
    mixer_blocks=((), (0,)),
    width=8,
)


@pytest.mark.parametrize(
    "spec",
    [
        ATTENTION,
        # Has layers in a list.
        dataclasses.replace(ATTENTION, mixer="axial_attention"),
        dataclasses.replace(
            ATTENTION, mixer=None, mixer_blocks=((), ()), se_ratio=0.25
        ),
    ],
    ids=["attention", "axial attention", "squeeze and excitation"],
)
def test_other_models_are_read_by_the_names_of_their_layers(spec, tmp_path):
    original = random_model(spec)
    path = write_weights(original, spec, tmp_path / "model.weights.h5")
    # Neither frozen layers nor other rates have their weights elsewhere.
    model = build_model(spec, classes=5, drop_path_rate=0.1)
    model.trainable = False
    assert load_weights(model, spec, path) == ()
    assert_same(arrays_of(model), arrays_of(original))


def test_a_frozen_model_is_saved_and_read_like_another(tmp_path):
    original = random_model(LOCAL)
    original.trainable = False
    original.compile("sgd", "mse")
    path = write_weights(original, LOCAL, tmp_path / "model.keras")
    model = build_model(LOCAL, classes=5)
    assert load_weights(model, LOCAL, path) == ()
    assert_same(arrays_of(model), arrays_of(original))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_a_file_does_not_have_start_anew_if_not_strict(
    kind, files, arrays
):
    spec = dataclasses.replace(LOCAL, receptive_field=7)
    model = build_model(spec, classes=7)
    before = arrays_of(model)
    if kind == ".safetensors":
        # timm's files say what they are of.
        with pytest.raises(ValueError, match="1 of another shape"):
            load_weights(model, spec, files[LOCAL.name, kind], strict=False)
        return
    fresh = load_weights(model, spec, files[LOCAL.name, kind], strict=False)
    assert fresh == ("c3_block0_lambda", "predictions")
    expected = {
        path: before[path] if path.startswith(fresh) else array
        for path, array in arrays[LOCAL.name].items()
    }
    assert_same(arrays_of(model), expected)


def test_a_shallower_and_a_deeper_model_take_what_they_have(files, arrays):
    path = files[GLOBAL.name, ".keras"]
    model = build_model(SHALLOW, classes=5)
    message = r"6 layers that .* left out: c3_block1_.*, c3_block1_.*, \.\.\."
    with pytest.warns(UserWarning, match=message):
        assert load_weights(model, SHALLOW, path, strict=False) == ()
    loaded = arrays_of(model)
    assert_same(loaded, {x: arrays[GLOBAL.name][x] for x in loaded})

    deep = dataclasses.replace(GLOBAL, depths=(1, 3))
    fresh = load_weights(build_model(deep, classes=5), deep, path, strict=False)
    assert fresh
    assert all(name.startswith("c3_block2_") for name in fresh)


def test_a_file_that_fits_no_layer_is_refused_even_if_not_strict(tmp_path):
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(7)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match="no layer has the shapes"):
        load_weights(
            unloaded(LOCAL),
            LOCAL,
            tmp_path / "other.weights.h5",
            strict=False,
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "spec, message",
    [
        (GLOBAL, r"missing: .*not expected: "),
        (dataclasses.replace(LOCAL, width=16), r"of another shape: .*\.\.\."),
        (
            dataclasses.replace(LOCAL, receptive_field=7),
            r"1 of another shape: .*9.*, not .*7",
        ),
        (
            dataclasses.replace(LOCAL, depths=(1, 2)),
            r"missing: .*, \.\.\.",
        ),
    ],
    ids=["global", "width", "window", "depth"],
)
def test_a_file_of_another_model_changes_nothing(kind, spec, message, files):
    model = unloaded(spec)
    before = arrays_of(model)
    path = files[LOCAL.name, kind]
    with pytest.raises(ValueError, match=message) as error:
        load_weights(model, spec, path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert_same(arrays_of(model), before)


def spoilt_copy(path, directory, name, spoil):
    """Copies a file of Keras', with another weight in place of one."""
    copy = directory / path.name
    copy.write_bytes(path.read_bytes())
    layer, _, number = name.rpartition("/")
    with h5py.File(copy, "a") as file:
        objects = {}
        file.visititems(objects.__setitem__)
        (group,) = (x for x in objects.values() if x.attrs.get("name") == layer)
        array = group[number][()]
        del group[number]
        spoil(group, number, array)
    return copy


def declare(*shape):
    """Tells of an array that is not there."""

    def spoil(group, number, array):
        group.create_dataset(number, shape=shape, dtype="float32")

    return spoil


def store(change):
    def spoil(group, number, array):
        group[number] = np.float32(change(array))

    return spoil


KERNEL, CLASSES = "c2_block0_conv1/0", "predictions/0"
TABLE = "c3_block0_lambda/3"


@pytest.mark.parametrize(
    "name, spoil, message",
    [
        (CLASSES, declare(64, 10**9), "not stored as Keras"),
        ("predictions/1", declare(10**9), "not stored as Keras"),
        (KERNEL, declare(1, 1, 8, 2**20), "not stored as Keras"),
        (TABLE, declare(10**5 + 1, 10**5 + 1, 16, 1), "not stored as Keras"),
        # A file with this one kernel of a wide model is still a small file.
        (KERNEL, store(lambda x: np.ones((1, 1, 1, 2**16))), "another shape"),
        (CLASSES, store(lambda x: np.ones((1, 2**16))), r"\(1, 65536\), not"),
        (CLASSES, store(lambda x: np.ones((64, 0))), r"\(64, 0\), not"),
        (CLASSES, store(lambda x: 1), r"kernel` \(\), not"),
        ("predictions/1", store(lambda x: 1), r"bias` \(\), not"),
        (KERNEL, store(lambda x: 1), r"kernel` \(\), not"),
        (TABLE, store(lambda x: 1), r"embeddings` \(\), not"),
        (TABLE, store(lambda x: np.ones(7)), r"embeddings` \(7,\), not"),
    ],
)
def test_no_shape_is_believed_that_the_file_does_not_bear_out(
    name, spoil, message, files, tmp_path
):
    path = files[GLOBAL.name, ".weights.h5"]
    path = spoilt_copy(path, tmp_path, name, spoil)
    with pytest.raises(ValueError, match=rf"{message}.*weights='.*h5'$"):
        describe_weights(path, GLOBAL)


@pytest.mark.parametrize("kind", KINDS)
def test_variances_are_not_negative(kind, files, arrays, tmp_path):
    model = random_model(LOCAL)
    (variance,) = (
        x for x in model.weights if x.path == "c3_block0_norm1/moving_variance"
    )
    variance.assign(-variance)
    path = write_weights(model, LOCAL, tmp_path / f"model{kind}")
    message = r"as some of `c3_block0_norm1/moving_variance` are\. .*weights='"
    before = arrays_of(unloaded(LOCAL))
    with pytest.raises(ValueError, match=message):
        load_weights(unloaded(LOCAL), LOCAL, path)
    with pytest.raises(ValueError, match=message):
        read_weights(path, LOCAL)
    assert_same(arrays_of(unloaded(LOCAL)), before)


@pytest.mark.parametrize(
    "value, dtype", [(1e300, None), (7e4, "float16"), (3.4e38, "bfloat16")]
)
def test_values_must_be_in_the_range_of_the_model(
    value, dtype, arrays, files, tmp_path
):
    # `files` has made the arrays.
    changed = {x: y.astype("float64") for x, y in arrays[LOCAL.name].items()}
    changed["predictions/kernel"][0, 0] = value
    path = tmp_path / "model.safetensors"
    write_timm(path, changed, LOCAL)
    policy = keras.dtype_policies.get(dtype or "float32")
    model = build_model(LOCAL, classes=5, dtype=policy)
    # The head has float32 at least.
    weight = model.get_layer("predictions").kernel
    if dtype is not None:
        changed["predictions/kernel"][0, 0] = 1
        changed["stem_conv0/kernel"][0, 0, 0, 0] = value
        write_timm(path, changed, LOCAL)
        weight = model.get_layer("stem_conv0").kernel
    before = arrays_of(model)
    message = rf"finite in {weight.dtype}: values of `{weight.path}` are too"
    with pytest.raises(ValueError, match=message):
        load_weights(model, LOCAL, path)
    assert_same(arrays_of(model), before)


@pytest.mark.parametrize(
    "load",
    [
        lambda path: load_weights(build_model(LOCAL, classes=7), LOCAL, path),
        lambda path: build_model(LOCAL, classes=7, weights=path),
    ],
    ids=["load_weights", "build_model"],
)
def test_warnings_are_at_the_line_of_the_user(load, files):
    with pytest.warns(UserWarning, match="random weights") as warned:
        load(files[LOCAL.name, ".keras"])
    assert [x.filename for x in warned] == [__file__]


def test_functions_of_models_warn_there_too(tmp_path):
    path = write_ones(
        tmp_path / "model.safetensors",
        dataclasses.replace(get_spec("lambda_resnet_26t"), width=4),
    )
    with pytest.warns(UserWarning, match="random weights") as warned:
        LambdaResNet26T(weights=path, width=4, classes=2)
    assert [x.filename for x in warned] == [__file__]


@pytest.mark.parametrize("shape", [(7, 7, 8, 1), (6, 7, 16, 1), (7, 16, 1)])
def test_a_table_that_no_map_has_is_refused(shape, files, tmp_path):
    path = tmp_path / "model.weights.h5"
    path.write_bytes(files[GLOBAL.name, ".weights.h5"].read_bytes())
    with h5py.File(path, "a") as file:
        del file["layers/lambda_layer/vars/3"]
        file["layers/lambda_layer/vars/3"] = np.ones(shape, "float32")
    with pytest.raises(ValueError, match=r"numbers: 1 of another shape: .*emb"):
        load_weights(unloaded(GLOBAL), GLOBAL, path)


def test_a_file_with_more_layers_is_refused(files):
    with pytest.raises(
        ValueError, match=r"numbers: \d+ not expected: `c3_block1_"
    ):
        load_weights(
            unloaded(SHALLOW),
            SHALLOW,
            files[GLOBAL.name, ".weights.h5"],
        )


def test_a_file_without_a_classifier_is_refused_for_a_model_with_one(tmp_path):
    original = random_model(LOCAL, include_top=False)
    path = write_weights(original, LOCAL, tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="2 missing: `predictions/kernel`"):
        load_weights(unloaded(LOCAL), LOCAL, path)
    model = build_model(LOCAL)
    assert load_weights(model, LOCAL, path, strict=False) == ("predictions",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: b"weights" * 100,
        lambda content: pickle.dumps({"stem_conv0/kernel": 1}),
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[: len(content) // 3] + content[-1000:],
    ],
    ids=["empty", "noise", "pickle", "half", "last byte", "hole"],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_spoilt_file_changes_nothing(kind, spoil, strict, files, tmp_path):
    path = tmp_path / f"spoilt{kind}"
    path.write_bytes(spoil(files[LOCAL.name, kind].read_bytes()))
    model = unloaded(LOCAL)
    before = arrays_of(model)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_weights(model, LOCAL, path, strict=strict)
    assert_same(arrays_of(model), before)


@pytest.mark.parametrize(
    "weights, message",
    [
        ("gone.keras", r"file that exists\. Received: weights='gone.keras'"),
        ("gone.weights.h5", "file that exists"),
        ("gs://bucket/model.weights.h5", "file that exists"),
        ("", r"or \.keras file\. Received: weights=''"),
        ("imagenet.h5", r"'imagenet' or the path of a \.safetensors, \.wei"),
        ("model.pth", r"\.keras file\. Received: weights='model.pth'"),
    ],
)
def test_what_there_is_not_is_said_before_there_is_a_model(weights, message):
    with pytest.raises(ValueError, match=message):
        check_weights(weights, LOCAL)


def test_a_directory_is_no_file(tmp_path):
    (tmp_path / "model.keras").mkdir()
    with pytest.raises(ValueError, match="file that exists"):
        check_weights(tmp_path / "model.keras", LOCAL)


def test_paths_may_begin_at_home(files, monkeypatch):
    path = files[LOCAL.name, ".keras"]
    monkeypatch.setenv("HOME", str(path.parent))
    monkeypatch.setenv("USERPROFILE", str(path.parent))
    check_weights(f"~/{path.name}", LOCAL)
    assert "predictions/bias" in read_weights(f"~/{path.name}", LOCAL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [LOCAL, GLOBAL], ids=lambda x: x.name)
def test_weights_are_read_without_a_model(spec, kind, files, arrays):
    # Of another number of classes and, if it matters, another image size.
    spec = dataclasses.replace(spec, image_size=48)
    assert_same(read_weights(files[spec.name, kind], spec), arrays[spec.name])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_model_are_not_read(kind, files):
    with pytest.raises(ValueError, match="missing"):
        read_weights(files[LOCAL.name, kind], GLOBAL)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_file_of_keras_tells_its_sizes(kind, files):
    narrow = dataclasses.replace(GLOBAL, width=16, image_size=256)
    described = describe_weights(files[GLOBAL.name, kind], narrow)
    assert described.spec == dataclasses.replace(narrow, width=8)
    assert described.classes == 5
    assert described.image_size == (32, 32)
    with pytest.raises(ValueError, match=r"`spec` must be given.*spec=None"):
        describe_weights(files[GLOBAL.name, kind])


def test_sizes_of_images_that_are_not_square(tmp_path):
    model = random_model(GLOBAL, include_top=False, input_shape=(48, 32, 3))
    path = write_weights(model, GLOBAL, tmp_path / "model.weights.h5")
    described = describe_weights(path, GLOBAL)
    assert described.image_size == (48, 32)
    assert described.classes is None


@pytest.mark.parametrize("name", ["lambda_resnet_26t", "lambda_resnet_26rpt"])
def test_a_file_of_timm_tells_its_model(name, tmp_path):
    spec = dataclasses.replace(get_spec(name), width=8)
    path = write_ones(tmp_path / "model.safetensors", spec, classes=3)
    assert describe_weights(path) == (spec, 3, (256, 256), str(path))
    with pytest.raises(ValueError, match=f"of lambda_resnet_50ts, .* {name}"):
        describe_weights(path, get_spec("lambda_resnet_50ts"))


def test_the_name_imagenet_stands_for_the_file_on_the_hub(
    files, arrays, monkeypatch
):
    path = files[LOCAL.name, ".safetensors"]
    checkpoint = dataclasses.replace(CHECKPOINTS[LOCAL.name], spec=LOCAL)
    monkeypatch.setitem(CHECKPOINTS, LOCAL.name, checkpoint)
    monkeypatch.setattr(loading, "download", {checkpoint: path}.get)
    model = build_model(LOCAL, classes=5)
    assert load_weights(model, LOCAL, "imagenet") == ()
    assert_same(arrays_of(model), arrays[LOCAL.name])
    assert_same(read_weights("imagenet", LOCAL), arrays[LOCAL.name])


def test_what_imagenet_stands_for_is_told_to_those_who_go_on(
    tmp_path, monkeypatch
):
    spec = dataclasses.replace(get_spec("lambda_resnet_26t"), width=4)
    path = write_ones(tmp_path / "model.safetensors", spec)
    checkpoint = dataclasses.replace(CHECKPOINTS[spec.name], spec=spec)
    monkeypatch.setitem(CHECKPOINTS, spec.name, checkpoint)
    monkeypatch.setattr(loading, "download", {checkpoint: path}.get)
    # Of the file itself only the header is read.
    monkeypatch.delattr(loading, "read_timm")
    assert describe_weights("imagenet", spec).path == str(path)


def test_the_hub_has_weights_of_some_models_as_they_are():
    check_weights("imagenet", get_spec("lambda_resnet_26t"))
    with pytest.raises(
        ValueError,
        match=r"lambda_resnet_26t, .*'imagenet' for lambda_resnet_50$",
    ):
        check_weights("imagenet", get_spec("lambda_resnet_50"))
    with pytest.raises(ValueError, match=r"for one with .*width=8"):
        check_weights("imagenet", LOCAL)
