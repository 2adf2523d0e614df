import pytest

from lambda_keras.benchmark.layer_shapes import STANDARD_SHAPES
from lambda_keras.benchmark.layer_shapes import find_shape


@pytest.mark.parametrize(
    ("name", "shape", "field", "depth", "causal"),
    [
        ("14_global", (8, 14, 14, 512), None, 1, False),
        ("14", (8, 14, 14, 512), 23, 1, False),
        ("32", (8, 32, 32, 256), 23, 1, False),
        ("64", (2, 64, 64, 128), 23, 1, False),
        ("128", (2, 128, 128, 64), 23, 1, False),
        ("28_u4", (8, 28, 28, 256), 7, 4, False),
        ("sequence", (2, 4096, 256), 127, 1, False),
        ("causal", (2, 16384, 128), 255, 1, True),
    ],
)
def test_standard_shapes_have_names(name, shape, field, depth, causal):
    found = find_shape(name)
    assert (found.name, found.inputs_shape) == (name, shape)
    assert (found.receptive_field, found.intra_depth) == (field, depth)
    assert found.causal == causal
    assert found.is_image == (len(shape) == 4)


def test_a_shape_is_written_as_it_is_read():
    for written in (*STANDARD_SHAPES.values(), "1x2x3x4x8:3:u2"):
        assert str(find_shape(written)) == written


@pytest.mark.parametrize(
    "text",
    ["15", "8x14x14x512", "8x14:3", "8x14x14x512:23:x4", "1x2x2x2x2x2:3", ""],
)
def test_what_is_no_shape_is_told_the_syntax(text):
    with pytest.raises(ValueError, match=r"^A shape must be one of 14_global"):
        find_shape(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8x14x14x510:23", "a multiple of 4 channels"),
        ("8x14x14x512:22", "an odd receptive field"),
        ("0x14x14x512:23", "sizes above 0"),
        ("8x14x14x512:23:causal", "one spatial axis if it is causal"),
    ],
)
def test_what_no_lambda_layer_takes_is_refused(text, expected):
    with pytest.raises(
        ValueError,
        match=f"^A shape must have {expected}. Received: shape={text}$",
    ):
        find_shape(text)
