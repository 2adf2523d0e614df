import dataclasses

import numpy as np
import pytest

from lambda_keras.models import get_spec
from lambda_keras.weights import timm as timm_module
from lambda_keras.weights.safetensors_files import read_header
from lambda_keras.weights.safetensors_files import read_tensors
from lambda_keras.weights.safetensors_files import write_tensors
from lambda_keras.weights.timm import read_timm
from lambda_keras.weights.timm import recognize
from lambda_keras.weights.timm import weight_shapes
from lambda_keras.weights.timm import write_timm
from lambda_keras.weights.timm_tensors import TimmTensor
from lambda_keras.weights.timm_tensors import list_timm_tensors
from lambda_keras.weights.weightless import build_weightless
from tests.golden.stream import draw_tensor
from tests.timm_models import TIMM_NAMES

NARROW = {
    name: dataclasses.replace(get_spec(name), width=8) for name in TIMM_NAMES
}
LOCAL = NARROW["lambda_resnet_26t"]
GLOBAL = NARROW["lambda_resnet_26rpt"]


def draw_state(spec, classes=10, taps=7):
    """Draws what a file of timm's holds."""
    state = {}
    for name, tensor in list_timm_tensors(spec).items():
        # What has a name and not a number is the file's own.
        sizes = [
            size
            if isinstance(size, int)
            else (classes if size == "classes" else taps)
            for size in tensor.shape
        ]
        array = draw_tensor(name, sizes)
        state[name] = array if array.dtype == "int64" else np.float32(array)
    return state


@pytest.fixture
def path(tmp_path):
    return tmp_path / "timm.safetensors"


@pytest.mark.parametrize("spec", NARROW.values(), ids=NARROW)
def test_the_table_has_every_weight_of_the_model_once(spec):
    model = build_weightless(spec, input_shape=(64, 96, 3), classes=10)
    parts = [
        part
        for tensor in list_timm_tensors(spec).values()
        for part in tensor.parts.items()
    ]
    named = {"classes": 10, "rows_16": 7, "columns_16": 11}
    named |= {"rows_32": 3, "columns_32": 5}
    assert len(dict(parts)) == len(parts)
    assert {
        path: tuple(named.get(size, size) for size in shape)
        for path, shape in parts
    } == {weight.path: tuple(weight.shape) for weight in model.weights}


@pytest.mark.parametrize(
    "name, tensors, parameters",
    [
        ("lambda_resnet_26t", 224, 10_958_272),
        ("lambda_resnet_26rpt", 221, 10_988_688),
        ("lambda_resnet_50ts", 392, 21_536_832),
    ],
)
def test_tensors_and_parameters_are_timm_s(name, tensors, parameters):
    table = list_timm_tensors(get_spec(name))
    assert len(table) == tensors
    named = {"classes": 1000, "rows_16": 31, "columns_16": 31}
    named |= {"rows_32": 15, "columns_32": 15}
    count = sum(
        np.prod([named.get(size, size) for size in tensor.shape])
        for key, tensor in table.items()
        if not key.endswith(("running_mean", "running_var", "tracked"))
    )
    assert count == parameters


# An index of ours beside the same in timm's.
@pytest.mark.parametrize(
    "key, timm_index, weight, keras_index",
    [
        ("stem.conv2.conv.weight", (3, 2, 1, 0), "stem_conv1/kernel",
         (1, 0, 2, 3)),
        ("stages.2.1.post_attn.running_var", (5,),
         "c4_block1_norm2/moving_variance", (5,)),
        # Queries, keys and values, one after the other.
        ("stages.2.1.self_attn.qkv.weight", (63, 5, 0, 0),
         "c4_block1_lambda/query_kernel", (5, 63)),
        ("stages.2.1.self_attn.qkv.weight", (64, 5, 0, 0),
         "c4_block1_lambda/key_kernel", (5, 0)),
        ("stages.2.1.self_attn.qkv.weight", (80, 5, 0, 0),
         "c4_block1_lambda/value_kernel", (5, 0)),
        ("stages.2.1.self_attn.conv_lambda.weight", (7, 0, 1, 8, 0),
         "c4_block1_lambda/position_embeddings", (1, 8, 7, 0)),
        ("head.fc.weight", (4, 200), "predictions/kernel", (200, 4)),
    ],
)  # fmt: skip
def test_layouts(key, timm_index, weight, keras_index, path):
    state = draw_state(LOCAL)
    write_tensors(path, state)
    arrays = read_timm(path, LOCAL)
    assert arrays[weight][keras_index] == state[key][timm_index]


def test_the_layout_of_a_global_table(path):
    state = draw_state(GLOBAL, taps=15)
    write_tensors(path, state)
    tables = read_timm(path, GLOBAL)["c4_block1_lambda/position_embeddings"]
    # Timm has one key and value per position, and no axis for more.
    assert tables.shape == (15, 15, 16, 1)
    pos_emb = state["stages.2.1.self_attn.pos_emb"]
    np.testing.assert_array_equal(tables[..., 0], pos_emb)


@pytest.mark.parametrize("spec", NARROW.values(), ids=NARROW)
def test_a_round_trip_is_bitwise(spec, path, tmp_path):
    state = draw_state(spec)
    write_tensors(path, state)
    write_timm(tmp_path / "back.safetensors", read_timm(path, spec), spec)
    assert read_header(tmp_path / "back.safetensors") == read_header(path)
    names = [name for name in state if not name.endswith("tracked")]
    back = read_tensors(tmp_path / "back.safetensors", names)
    for name in names:
        assert back[name].tobytes() == state[name].tobytes(), name


def test_float64_stays(path):
    state = {
        name: array.astype("float64" if array.ndim else "int64")
        for name, array in draw_state(LOCAL).items()
    }
    write_tensors(path, state)
    assert {x.dtype for x in read_timm(path, LOCAL).values()} == {
        np.dtype("float64")
    }


def test_counts_of_batches_may_be_missing_and_are_written_as_0(path):
    state = draw_state(LOCAL)
    counts = [name for name in state if name.endswith("num_batches_tracked")]
    without = {name: state[name] for name in state if name not in counts}
    write_tensors(path, without)
    write_timm(path, read_timm(path, LOCAL), LOCAL)
    header = read_header(path)
    assert {header[name] for name in counts} == {("I64", ())}
    from safetensors.numpy import load_file

    assert not any(load_file(path)[name] for name in counts)


def test_classes_and_global_tables_are_the_file_s_own(path):
    write_tensors(path, draw_state(GLOBAL, classes=3, taps=9))
    arrays = read_timm(path, GLOBAL)
    assert arrays["predictions/kernel"].shape == (256, 3)
    assert arrays["c5_block1_lambda/position_embeddings"].shape[:2] == (9, 9)


def no_tensor_is_read(*args):
    raise AssertionError("A tensor was read before the header was checked.")


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"stem.conv1.bn.weight": None, "stem.conv1.bn.bias": None},
            r"2 missing: `stem.conv1.bn.weight` \(3,\), `stem.conv1.bn.bias` "
            r"\(3,\)\. Received: path=",
        ),
        (
            {"fc.weight": (2, 3)},
            r"1 not expected: 'fc.weight' \(2, 3\)\. Received",
        ),
        # The same count of numbers.
        (
            {"stem.conv2.conv.weight": (3, 4, 3, 3)},
            r"1 of another shape: `stem.conv2.conv.weight` \(3, 4, 3, 3\), not "
            r"\(4, 3, 3, 3\)\. Received",
        ),
        (
            {"head.fc.weight": (10, 256, 1)},
            r"`head.fc.weight` \(10, 256, 1\), not \(classes, 256\)",
        ),
        (
            {"head.fc.bias": (11,)},
            r"1 of another shape: `head.fc.bias` \(11,\), not \(classes,\)",
        ),
        (
            {"head.fc.weight": (0, 256)},
            r"`head.fc.weight` \(0, 256\), not \(classes, 256\)",
        ),
        # All kinds at once, and the first of many.
        (
            {
                "head.fc.bias": None,
                "a": (1,), "b": (1,), "c": (1,), "d": (1,),
                "stem.conv1.bn.bias": (4,),
            },
            r"1 missing: .*; 4 not expected: 'a' \(1,\), 'b' \(1,\), 'c' "
            r"\(1,\), \.\.\.; 1 of another shape: .*\. Received",
        ),
        # Nobody has to read a name as long as a file.
        ({"x" * 10_000: (1,)}, r"'x{37}\.\.\.x{38}' \(1,\)\. Received"),
        ({"x": (1,) * 60}, r"'x' \((1, ){8}\.\.\.\)\. Received"),
    ],
)  # fmt: skip
def test_names_and_shapes_are_checked_first(
    changes, message, path, monkeypatch
):
    state = draw_state(LOCAL)
    for name, shape in changes.items():
        state.pop(name, None)
        if shape is not None:
            state[name] = np.zeros(shape, "float32")
    write_tensors(path, state)
    monkeypatch.setattr(timm_module, "read_tensors", no_tensor_is_read)
    expected = f"weights of `lambda_resnet_26t` with width=8: .*{message}"
    with pytest.raises(ValueError, match=expected):
        read_timm(path, LOCAL)


@pytest.mark.parametrize("shape", [(6, 7, 16), (7, 0, 16), (9, 7, 16)])
def test_tables_have_a_middle_and_one_size_for_each_resolution(shape, path):
    name = "stages.3.0.self_attn.pos_emb"
    write_tensors(path, draw_state(GLOBAL) | {name: np.zeros(shape, "float32")})
    message = rf"1 of another shape: `{name}` .*, not \(rows_16, columns_16, 16"
    with pytest.raises(ValueError, match=message):
        read_timm(path, GLOBAL)


def test_values_that_are_not_finite_are_refused(path):
    state = draw_state(LOCAL)
    state["head.fc.bias"][3] = np.nan
    header = {name: array.astype("<f4") for name, array in state.items()}
    from safetensors.numpy import save_file

    save_file(header, path)
    with pytest.raises(ValueError, match=r"1 tensors, .*`head\.fc\.bias`"):
        read_timm(path, LOCAL)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"predictions/kernel": None},
            r"1 missing: `predictions/kernel` \(256, classes\)",
        ),
        (
            {"extra/kernel": np.zeros(3)},
            r"1 not expected: 'extra/kernel' \(3,\)",
        ),
        (
            {"stem_conv0/kernel": np.zeros((3, 3, 3, 4))},
            r"`stem_conv0/kernel` \(3, 3, 3, 4\), not \(3, 3, 3, 3\)",
        ),
        ({"predictions/bias": np.full(10, np.nan)}, "must be finite"),
    ],
)
def test_other_arrays_are_not_written(changes, message, path):
    write_tensors(path, draw_state(LOCAL))
    before = path.read_bytes()
    arrays = read_timm(path, LOCAL) | changes
    arrays = {name: x for name, x in arrays.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        write_timm(path, arrays, LOCAL)
    assert path.read_bytes() == before


@pytest.mark.parametrize("width", [4, 24])
@pytest.mark.parametrize("name", TIMM_NAMES)
def test_a_file_is_recognized_with_its_width(name, width, path):
    spec = dataclasses.replace(get_spec(name), width=width)
    write_tensors(path, draw_state(spec, classes=2, taps=31))
    assert recognize(path) == spec


def test_a_file_is_recognized_with_the_size_of_its_images(path):
    state = draw_state(GLOBAL, taps=23)
    name = "stages.3.1.self_attn.pos_emb"
    write_tensors(path, state | {name: state[name][6:17, 6:17]})
    # 12 positions at a stride of 16, 6 at 32.
    assert recognize(path) == dataclasses.replace(GLOBAL, image_size=192)
    wide = {
        key: np.pad(array, ((0, 0), (2, 2), (0, 0)))
        for key, array in state.items()
        if key.endswith("pos_emb")
    }
    # A spec has one size, so images that are not square have none.
    write_tensors(path, state | wide)
    assert recognize(path) == GLOBAL


def test_the_shapes_of_weights_are_in_the_header(path):
    wide = {
        key: np.pad(array, ((0, 0), (2, 2), (0, 0)))
        for key, array in draw_state(GLOBAL).items()
        if key.endswith("pos_emb")
    }
    write_tensors(path, draw_state(GLOBAL, classes=3) | wide)
    expected = {name: x.shape for name, x in read_timm(path, GLOBAL).items()}
    assert weight_shapes(path, GLOBAL) == expected
    with pytest.raises(ValueError, match="not hold the weights of `lambda_re"):
        weight_shapes(path, LOCAL)


def test_the_closest_model_is_named_where_none_is_recognized(path):
    state = draw_state(NARROW["lambda_resnet_50ts"])
    write_tensors(path, state | {"extra": np.zeros(2, "float32")})
    message = (
        r"not hold the weights of any model here. The closest is "
        r"`lambda_resnet_50ts` with width=8: 1 not expected: 'extra' \(2,\)\. "
        r"Received: path="
    )
    with pytest.raises(ValueError, match=message):
        recognize(path)


@pytest.mark.parametrize("shape", [(), (0, 1), (6,), (10**9, 0)])
def test_a_width_that_no_model_has_is_not_recognized(shape, path):
    name = "stages.0.0.conv1_1x1.conv.weight"
    write_tensors(path, draw_state(LOCAL) | {name: np.zeros(shape, "float32")})
    with pytest.raises(ValueError, match="The closest is"):
        recognize(path)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"mixer": "axial_attention"}, "mixer='lambda'"),
        ({"intra_depth": 4}, "intra_depth=1"),
        ({"mixer_pool_size": 3}, "mixer_pool_size=2"),
        ({"average_pool_shortcut": True}, "average_pool_shortcut=False"),
        ({"max_pool": False}, "max_pool=True"),
        ({"se_ratio": 0.25}, "se_ratio=0"),
        ({"epsilon": 1e-3}, "epsilon=1e-05"),
        ({"position_bias": False}, "position_bias=True"),
        ({"receptive_field": None}, "position_bias=False"),
    ],
)
def test_architectures_that_timm_does_not_have(fields, message, path):
    spec = dataclasses.replace(LOCAL, **fields)
    message = f"have {message}. Received: spec='lambda_resnet_26t'"
    with pytest.raises(ValueError, match=message):
        read_timm(path, spec)
    with pytest.raises(ValueError, match=message):
        write_timm(path, {}, spec)


def test_a_tensor_of_several_weights_is_split_and_joined():
    tensor = TimmTensor({"a": (5, 2), "b": (5, 3)}, "io", "oi11")
    assert tensor.shape == (5, 5, 1, 1)
    array = np.arange(25).reshape(5, 5, 1, 1)
    parts = tensor.to_keras(array)
    assert parts["a"].tolist() == array[:2, :, 0, 0].T.tolist()
    assert parts["b"].tolist() == array[2:, :, 0, 0].T.tolist()
    np.testing.assert_array_equal(tensor.to_timm(parts), array)
