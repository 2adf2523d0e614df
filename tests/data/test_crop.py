import io
import math

import numpy as np
import pytest

pytestmark = pytest.mark.tf_data


def coordinates(height, width):
    """An image whose red is the column and whose green is the row."""
    rows, columns = np.indices((height, width))
    return np.stack([columns, rows, 0 * rows], axis=-1).astype("uint8")


def encode(image, kind="png"):
    import tensorflow as tf

    if kind == "png":
        return tf.io.encode_png(image)
    return tf.io.encode_jpeg(image, quality=100, chroma_downsampling=False)


def random_crop(encoded, seed, image_size=64, area_min=0.08):
    from lambda_keras.data.crop import decode_random_crop

    return decode_random_crop(encoded, seed, image_size, area_min).numpy()


def center_crop(encoded, image_size):
    from lambda_keras.data.crop import decode_center_crop

    return decode_center_crop(encoded, image_size).numpy()


def window(crop):
    """The first column and row that a crop of `coordinates` shows, and size."""
    size = crop.shape[0]
    # In a linear image bilinear values are exact, but at the border.
    inner = crop[size // 4 : -size // 4, size // 4 : -size // 4].astype(float)
    found = []
    for channel, axis in (0, 1), (1, 0):
        line = inner[..., channel].mean(axis=1 - axis)
        step = (line[-1] - line[0]) / (len(line) - 1)
        # Pixel n shows (n + 1/2) * step - 1/2 from the beginning.
        found.append((line[0] - (size // 4 + 0.5) * step + 0.5, size * step))
    return found


def expected_resize(image, size):
    """Bilinear between the centres of pixels, and constant beyond them."""

    def weights(count):
        places = (np.arange(size) + 0.5) * count / size - 0.5
        places = np.clip(places, 0, count - 1)
        first = np.minimum(np.floor(places).astype(int), max(count - 2, 0))
        matrix = np.zeros((size, count))
        matrix[np.arange(size), first] = 1 - (places - first)
        matrix[np.arange(size), np.minimum(first + 1, count - 1)] += (
            places - first
        )
        return matrix

    rows, columns = (weights(count) for count in image.shape[:2])
    image = np.moveaxis(image.astype(float), -1, 0)
    return np.moveaxis(rows @ image @ columns.T, 0, -1)


@pytest.mark.parametrize("area_min", [0.08, 0.5])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_random_crops_are_within_their_bounds(kind, area_min):
    encoded, shown = encode(coordinates(150, 200), kind), []
    for seed in range(60):
        crop = random_crop(encoded, [seed, 1], area_min=area_min)
        (left, width), (top, height) = window(crop)
        # Whole pixels, to about the one that rounding and a border cost
        assert -1.5 < left and left + width < 201.5
        assert -1.5 < top and top + height < 151.5
        assert 3 / 4 - 0.06 < width / height < 4 / 3 + 0.06
        shown.append(width * height / (150 * 200))
    assert area_min - 0.02 < min(shown) < area_min + 0.15
    assert 0.75 < max(shown) < 1.02


def test_one_operation_shows_what_two_would():
    import tensorflow as tf

    from lambda_keras.data.crop import ASPECT_RATIOS

    image = coordinates(150, 200)
    for seed in range(5):
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            image.shape,
            tf.zeros((0, 0, 4)),
            [seed, 3],
            min_object_covered=0.0,
            aspect_ratio_range=ASPECT_RATIOS,
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        for kind in "png", "jpeg":
            encoded = encode(image, kind)
            decoded = tf.io.decode_image(encoded)
            part = tf.slice(decoded, begin, [*size[:2], 3]).numpy()
            np.testing.assert_allclose(
                random_crop(encoded, [seed, 3]),
                expected_resize(part, 64),
                atol=0.51,
            )


def test_the_seed_decides():
    encoded = encode(coordinates(150, 200), "jpeg")
    first = random_crop(encoded, [1, 2])
    np.testing.assert_array_equal(first, random_crop(encoded, [1, 2]))
    for seed in [1, 3], [2, 2]:
        assert not np.array_equal(first, random_crop(encoded, seed))


def test_an_image_with_no_such_part_shows_its_centre():
    image = coordinates(12, 240)
    # 8 % of it is 3 times as wide as it is high.
    encoded = encode(image)
    crop = random_crop(encoded, [0, 0], image_size=8)
    np.testing.assert_array_equal(crop, center_crop(encoded, 8))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize(
    ("shape", "image_size", "side"),
    [
        ((150, 200), 224, 131),  # 7/8 of 150
        ((200, 150), 224, 131),
        ((100, 100), 448, 93),  # 448/480 of 100
        ((80, 64), 32, 56),  # not 32/64 of 64
        ((1, 1), 32, 1),
    ],
)
def test_center_crop_against_a_slice(shape, image_size, side, kind):
    import tensorflow as tf

    encoded = encode(coordinates(*shape), kind)
    image = tf.io.decode_image(encoded).numpy()
    top, left = ((length - side + 1) // 2 for length in shape)
    expected = expected_resize(
        image[top : top + side, left : left + side], image_size
    )
    np.testing.assert_allclose(
        center_crop(encoded, image_size), expected, atol=0.51
    )


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize("shape", [(12, 16), (30, 20), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_whole_image_is_squeezed_into_another_shape(shape, channels, kind):
    import tensorflow as tf

    from lambda_keras.data.crop import decode_whole

    encoded = encode(coordinates(*shape), kind)
    image = tf.io.decode_image(encoded, channels).numpy()
    for size in (12, 16), (8, 8):
        whole = decode_whole(encoded, (*size, channels)).numpy()
        assert whole.shape == (*size, channels)
        if size == shape:
            np.testing.assert_array_equal(whole, image)
    squeezed = decode_whole(encoded, (8, 8, channels)).numpy()
    np.testing.assert_allclose(squeezed, expected_resize(image, 8), atol=0.51)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_center_crop_of_one_channel(kind):
    import tensorflow as tf

    from lambda_keras.data.crop import decode_center_crop

    encoded = encode(coordinates(40, 60), kind)
    image = tf.io.decode_image(encoded, 1).numpy()
    crop = decode_center_crop(encoded, 32, channels=1).numpy()
    # 7/8 of 40
    expected = expected_resize(image[2 + 1 : 37 + 1, 13:48], 32)
    np.testing.assert_allclose(crop, expected, atol=0.51)


def photographs():
    """Real photographs of 427 by 640 pixels, and the same upright."""
    from sklearn.datasets import load_sample_images

    for image in load_sample_images().images:
        yield image
        yield np.rot90(image)


def as_file(image, kind, **options):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def pillow_crop(file, image_size, crop, interpolation="bicubic"):
    """What `Resize` and `CenterCrop` of torchvision do, as timm sets them."""
    from PIL import Image

    image = Image.open(io.BytesIO(file)).convert("RGB")
    resized_side = math.floor(image_size / crop)
    short, long = sorted(image.size)
    sides = resized_side, int(resized_side * long / short)
    width, height = sides if image.width <= image.height else sides[::-1]
    kernel = getattr(Image.Resampling, interpolation.upper())
    image = image.resize((width, height), kernel)
    top = round((height - image_size) / 2.0)
    left = round((width - image_size) / 2.0)
    box = left, top, left + image_size, top + image_size
    return np.asarray(image.crop(box)).astype(int)


def spec_crop(file, image_size, crop, interpolation="bicubic"):
    import tensorflow as tf

    from lambda_keras.data.crop import decode_center_crop

    decoded = decode_center_crop(
        tf.constant(file), image_size, 3, crop, interpolation
    )
    assert decoded.dtype == tf.uint8
    return decoded.numpy().astype(int)


@pytest.mark.parametrize(
    ("image_size", "crop"), [(256, 0.94), (256, 0.95), (97, 0.94), (224, 1)]
)
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_the_crop_of_a_spec_is_pillows_but_for_rounding(kind, image_size, crop):
    """Measured: 1 of 255 levels at most, and 0.0018 on average."""
    for image in photographs():
        file = as_file(image, kind)
        expected = pillow_crop(file, image_size, crop)
        difference = np.abs(spec_crop(file, image_size, crop) - expected)
        assert difference.max() <= 1
        assert difference.mean() < 3e-3


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 95])
def test_a_jpeg_is_decoded_as_pillow_does(quality, subsampling):
    for image in photographs():
        file = as_file(image, "jpeg", quality=quality, subsampling=subsampling)
        difference = np.abs(
            spec_crop(file, 64, 0.9) - pillow_crop(file, 64, 0.9)
        )
        assert difference.max() <= 1
        assert difference.mean() < 3e-3


def test_bilinear_is_pillows_too():
    for image in photographs():
        file = as_file(image, "png")
        expected = pillow_crop(file, 96, 0.94, "bilinear")
        difference = np.abs(spec_crop(file, 96, 0.94, "bilinear") - expected)
        assert difference.max() <= 1
        assert difference.mean() < 3e-3


def test_nothing_else_is_as_close_to_pillow():
    for image in photographs():
        file = as_file(image, "png")
        expected = pillow_crop(file, 96, 0.94)
        for other in (
            center_crop(file, 96),
            spec_crop(file, 96, 0.94, "bilinear"),
            spec_crop(file, 96, 0.95),
        ):
            assert np.abs(other - expected).mean() > 0.5


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 300), (3, 2), (20, 3001), (301, 7), (96, 96)]
)
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_images_of_any_shape_become_what_pillow_makes_of_them(shape, kind):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), "uint8")
    file = as_file(noise, kind)
    difference = np.abs(spec_crop(file, 96, 0.94) - pillow_crop(file, 96, 0.94))
    # In so small images every other value may be a half.
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_the_middle_of_a_very_wide_image(kind):
    """Pillow would resize it to 272 by 5,440,000 pixels."""
    image = np.zeros((1, 20_000, 3), "uint8")
    image[:, 10_000:] = 255
    options = {"subsampling": 0, "quality": 100} if kind == "jpeg" else {}
    crop = spec_crop(as_file(image, kind, **options), 256, 0.94)
    # Less than a pixel of it is seen.
    assert (np.diff(crop[0, :, 0]) >= 0).all()
    assert 100 < crop[:, 127:129].mean() < 155


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_one_channel_is_cropped_like_three(kind):
    import tensorflow as tf

    from lambda_keras.data.crop import decode_center_crop

    grey = next(photographs())[..., 1]
    file = as_file(grey, kind)
    crop = decode_center_crop(tf.constant(file), 64, 1, 0.9, "bicubic").numpy()
    assert crop.shape == (64, 64, 1)
    np.testing.assert_array_equal(
        np.repeat(crop, 3, axis=-1), spec_crop(file, 64, 0.9)
    )


def test_without_a_crop_there_is_no_bicubic():
    from lambda_keras.data.crop import check_interpolation

    check_interpolation(0.9, "bicubic")
    check_interpolation(None, "bilinear")
    with pytest.raises(ValueError, match="one of: bilinear, bicubic"):
        check_interpolation(0.9, "nearest")
    with pytest.raises(ValueError, match="interpolation=bicubic, crop=None"):
        check_interpolation(None, "bicubic")
