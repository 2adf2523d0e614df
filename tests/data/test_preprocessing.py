import io

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

pytestmark = pytest.mark.tf_data

COLOUR = (200, 80, 20)
SPEC = {"crop": 0.94, "interpolation": "bicubic"}


def preprocessing(**kwargs):
    from lambda_keras.data.preprocessing import Preprocessing

    return Preprocessing(**{"image_size": 32, **kwargs})


def decode(encoded, seed=(0, 0), **kwargs):
    from lambda_keras.data.preprocessing import decode_training_image

    return decode_training_image(
        encoded, np.int64(seed), preprocessing(**kwargs)
    ).numpy()


def save(image, kind, **kwargs):
    file = io.BytesIO()
    image.save(file, kind, **kwargs)
    return file.getvalue()


@pytest.fixture(scope="module")
def photograph():
    image = datasets.load_sample_images().images[0]
    return save(Image.fromarray(image), "jpeg", quality=90)


@pytest.fixture(scope="module")
def halves():
    """Black on the left and white on the right, however it is cropped."""
    image = np.zeros((32, 128), "uint8")
    image[:, 64:] = 255
    return image


def flat(mode, colour=COLOUR, **kwargs):
    return Image.new(mode, (48, 40), colour, **kwargs)


def two_frames():
    frames = [flat("RGB").quantize(), flat("RGB", (0, 0, 0)).quantize()]
    return save(
        frames[0], "gif", save_all=True, append_images=frames[1:], duration=9
    )


FILES = {
    "RGB JPEG": lambda: save(flat("RGB"), "jpeg"),
    "progressive JPEG": lambda: save(flat("RGB"), "jpeg", progressive=True),
    "grey JPEG": lambda: save(flat("L", 80), "jpeg"),
    # ImageNet has 22 of them.
    "CMYK JPEG": lambda: save(flat("RGB").convert("CMYK"), "jpeg"),
    "RGB PNG": lambda: save(flat("RGB"), "png"),
    "grey PNG": lambda: save(flat("L", 80), "png"),
    "PNG with alpha": lambda: save(flat("RGBA", (*COLOUR, 255)), "png"),
    "PNG with a palette": lambda: save(flat("RGB").quantize(), "png"),
    "PNG of 16 bits": lambda: save(flat("I;16", 80 * 257), "png"),
    "GIF of two frames": two_frames,
    "BMP": lambda: save(flat("RGB"), "bmp"),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_image_has_three_channels(kind):
    from lambda_keras.data.preprocessing import decode_evaluation_image

    encoded = FILES[kind]()
    expected = (80,) * 3 if "grey" in kind or "16" in kind else COLOUR
    for image in (
        decode(encoded),
        decode_evaluation_image(encoded, preprocessing()).numpy(),
        decode_evaluation_image(encoded, preprocessing(**SPEC)).numpy(),
    ):
        assert image.shape == (32, 32, 3)
        assert image.dtype == np.uint8
        # JPEG rounds colours.
        np.testing.assert_allclose(
            image, np.broadcast_to(expected, image.shape), atol=3
        )


@pytest.mark.parametrize("layers", [0, 2])
def test_shapes_are_static(layers):
    import tensorflow as tf

    from lambda_keras.data.preprocessing import decode_evaluation_image
    from lambda_keras.data.preprocessing import decode_training_image

    chosen = preprocessing(randaugment_layers=layers)
    of_spec = preprocessing(**SPEC)
    spec = tf.TensorSpec((), tf.string)
    for function in (
        lambda encoded: decode_training_image(encoded, [0, 0], chosen),
        lambda encoded: decode_evaluation_image(encoded, chosen),
        lambda encoded: decode_evaluation_image(encoded, of_spec),
    ):
        made = tf.function(function).get_concrete_function(spec)
        assert made.structured_outputs.shape == (32, 32, 3)


def test_the_seed_decides_all_of_it(photograph):
    # So small an image would be moved out of itself at a larger magnitude.
    variations = {"randaugment_layers": 2, "randaugment_magnitude": 1.0}
    images = [
        decode(photograph, (seed, index), **variations).tobytes()
        for seed in range(3)
        for index in (0, 1, 2**32, 2**32 + 1)
    ]
    assert len(set(images)) == 12
    assert decode(photograph, (2, 2**32), **variations).tobytes() == images[10]


def test_half_of_the_images_are_mirrored_whatever_the_crop(halves):
    encoded = save(Image.fromarray(halves), "png")
    seeds = [(1, index) for index in range(200)]
    whole = {"crop_area_min": 0.9}  # Ten draws find none: the centre.
    mirrored = [
        decode(encoded, seed, **whole)[0, 0, 0] == 255 for seed in seeds
    ]
    # Three standard deviations of a fair coin
    assert abs(np.mean(mirrored) - 0.5) < 3 * 0.5 / np.sqrt(200)
    never = [
        decode(encoded, seed, flip=False, **whole)[0, 0, 0]
        for seed in seeds[:20]
    ]
    assert set(never) == {0}


def test_crop_and_flip_are_drawn_apart(photograph):
    import tensorflow as tf

    rows, columns = np.indices((100, 100))
    image = np.stack([columns, rows, 0 * rows], axis=-1).astype("uint8")
    encoded = tf.io.encode_png(image)
    places = {True: [], False: []}
    for index in range(200):
        crop = decode(encoded, (3, index)).astype(int)
        places[bool(crop[0, 0, 0] > crop[0, -1, 0])].append(
            crop[..., :2].mean()
        )
    # The mean place of a crop has a standard deviation of about 12 pixels.
    difference = np.mean(places[True]) - np.mean(places[False])
    assert abs(difference) < 3 * 12 * np.sqrt(2 / 100)


def test_layers_change_an_image_that_is_not_cropped_otherwise(photograph):
    plain = decode(photograph, (0, 1))
    layers = [
        decode(photograph, (0, 1), randaugment_layers=count)
        for count in (0, 1, 2)
    ]
    np.testing.assert_array_equal(plain, layers[0])
    assert not np.array_equal(plain, layers[1])
    assert not np.array_equal(layers[1], layers[2])


@pytest.mark.parametrize("part", ["nothing", "text", "half", "header"])
def test_what_is_no_image_raises(part, photograph):
    import tensorflow as tf

    from lambda_keras.data.preprocessing import decode_evaluation_image

    encoded = {
        "nothing": b"",
        "text": b"not an image",
        "half": photograph[: len(photograph) // 2],
        "header": photograph[:10],
    }[part]
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(encoded, crop_area_min=1.0)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_evaluation_image(encoded, preprocessing())
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_evaluation_image(encoded, preprocessing(**SPEC))


def test_evaluation_crops_as_the_spec_says(photograph):
    from lambda_keras.data.crop import decode_center_crop
    from lambda_keras.data.preprocessing import decode_evaluation_image

    for fields in {"crop": 0.5}, SPEC, {}:
        np.testing.assert_array_equal(
            decode_evaluation_image(photograph, preprocessing(**fields)),
            decode_center_crop(photograph, 32, **fields),
        )
    with pytest.raises(ValueError, match="bilinear where `crop` is None"):
        preprocessing(interpolation="bicubic")


def test_encoded_images_need_a_size(photograph):
    from lambda_keras.data.preprocessing import decode_evaluation_image

    with pytest.raises(ValueError, match="Received: image_size=None"):
        decode(photograph, image_size=None)
    with pytest.raises(ValueError, match="Received: image_size=None"):
        decode_evaluation_image(photograph, preprocessing(image_size=None))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_size", 0, "at least 1"),
        ("crop_area_min", 0.0, "above 0 and at most 1"),
        ("crop_area_min", 1.1, "above 0 and at most 1"),
        ("crop", 0.0, "above 0 and at most 1"),
        ("crop", 1.1, "above 0 and at most 1"),
        ("interpolation", "nearest", "one of: bilinear, bicubic"),
        ("randaugment_layers", -1, "at least 0"),
        ("randaugment_magnitude", -1.0, "a number of at least 0"),
        ("randaugment_magnitude", np.inf, "a number of at least 0"),
        ("mixup_alpha", -0.1, "a number of at least 0"),
        ("cutmix_alpha", np.nan, "a number of at least 0"),
        ("dtype", "float16", "one of: float32, bfloat16"),
    ],
)
def test_values_that_are_not_allowed(name, value, message):
    with pytest.raises(
        ValueError, match=rf"`{name}` must be {message}\. Received: {name}="
    ):
        preprocessing(**{name: value})
