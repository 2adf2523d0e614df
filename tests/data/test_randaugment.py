import functools
import math

import numpy as np
import pytest
from sklearn import datasets

pytestmark = pytest.mark.tf_data

SHAPE = (40, 56, 3)
GREY = 128
NAMES = [
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize"),
    *("Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY"),
    *("TranslateX", "TranslateY", "Cutout", "SolarizeAdd"),
]
MAGNITUDES = [0.0, 5.0, 7.0, 10.0, 15.0, 30.0]


@functools.cache
def images():
    """Parts of photographs, and what is hard about images."""
    china, flower = datasets.load_sample_images().images
    noise = np.random.default_rng(0).integers(0, 256, SHAPE, "uint8")
    steps = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 256
    return {
        "photograph": china[100:300:5, 50:330:5],
        "flower": flower[200:240, 300:356],
        "noise": noise,
        "dull": 100 + noise // 16,
        "every level": steps.astype("uint8"),
        "black": np.zeros(SHAPE, "uint8"),
        "white": np.full(SHAPE, 255, "uint8"),
        "one colour": np.broadcast_to(np.uint8([7, 128, 250]), SHAPE),
        "two levels": np.where(noise < 200, 10, 11).astype("uint8"),
        "one bright pixel": np.where(
            np.arange(np.prod(SHAPE)).reshape(SHAPE) < 3, 255, 0
        ).astype("uint8"),
    }


def augment(name, image, magnitude, draws=(0.0, 0.5, 0.5)):
    import tensorflow as tf

    from lambda_keras.data.randaugment import make_operations

    operation = make_operations(magnitude)[name]
    result = operation(tf.constant(image), tf.constant(draws, tf.float32))
    assert result.dtype == tf.uint8
    return result.numpy()


def blend(degenerate, image, factor):
    """In float32 and in this order, as the published implementation does."""
    factor, image = np.float32(factor), image.astype("float32")
    degenerate = np.asarray(degenerate, "float32")
    return np.clip(degenerate + factor * (image - degenerate), 0, 255)


def read(image, place):
    """What lies nearest to where `place` sends each pixel.

    Masked halfway between two pixels, where rounding decides.
    """
    height, width, _ = image.shape
    output = np.ma.masked_array(np.full_like(image, GREY))
    for y, x in np.ndindex(height, width):
        places = np.array(place(x, y))
        if np.min(np.abs(places % 1 - 0.5)) < 1e-4:
            output[y, x] = np.ma.masked
            continue
        from_x, from_y = np.rint(places).astype(int)
        if 0 <= from_x < width and 0 <= from_y < height:
            output[y, x] = image[from_y, from_x]
    return output


def auto_contrast(image, level):
    output = image.copy()
    for channel in range(3):
        low, high = (int(f(image[..., channel])) for f in (np.min, np.max))
        if high > low:
            levels = image[..., channel].astype(int)
            output[..., channel] = (levels - low) * 255 // (high - low)
    return output


def equalize(image, level):
    output = image.copy()
    for channel in range(3):
        counts = [0] * 256
        for value in image[..., channel].flat:
            counts[value] += 1
        last = [count for count in counts if count][-1]
        step = (sum(counts) - last) // 255
        if not step:
            continue
        table, below = [], step // 2
        for count in counts:
            table.append(min(below // step, 255))
            below += count
        output[..., channel] = np.array(table)[image[..., channel]]
    return output


def posterize(image, level):
    bits = min(max(int(4 * level), 1), 8)
    return image // 2 ** (8 - bits) * 2 ** (8 - bits)


def solarize(image, level):
    threshold = min(int(256 * level), 255)
    return np.where(image < threshold, image, 255 - image)


def solarize_add(image, level):
    added = np.minimum(image.astype(int) + int(110 * level), 255)
    return np.where(image < 128, added, image)


def color(image, level):
    luma = image.astype("float64") @ [0.2989, 0.587, 0.114]
    grey = np.floor(luma * 255.5 / 255)[..., None]
    return blend(grey, image, 0.1 + 1.8 * level)


def contrast(image, level):
    pixels = image.shape[0] * image.shape[1]
    return blend(min(pixels // 256, 255), image, 0.1 + 1.8 * level)


def brightness(image, level):
    return blend(0, image, 0.1 + 1.8 * level)


def sharpness(image, level):
    smooth = image.astype(int)
    for y in range(1, image.shape[0] - 1):
        for x in range(1, image.shape[1] - 1):
            window = image[y - 1 : y + 2, x - 1 : x + 2].astype(int)
            smooth[y, x] = (window.sum((0, 1)) + 4 * window[1, 1]) // 13
    return blend(smooth, image, 0.1 + 1.8 * level)


def rotate(image, level):
    height, width, _ = image.shape
    angle, x0, y0 = math.radians(30 * level), (width - 1) / 2, (height - 1) / 2
    cosine, sine = math.cos(angle), math.sin(angle)
    return read(
        image,
        lambda x, y: (
            x0 + cosine * (x - x0) - sine * (y - y0),
            y0 + sine * (x - x0) + cosine * (y - y0),
        ),
    )


def shear_x(image, level):
    return read(image, lambda x, y: (x + 0.3 * level * y, y))


def shear_y(image, level):
    return read(image, lambda x, y: (x, y + 0.3 * level * x))


def translate_x(image, level):
    return read(image, lambda x, y: (x + 100 * level, y))


def translate_y(image, level):
    return read(image, lambda x, y: (x, y + 100 * level))


def cutout(image, level):
    output, reach = image.copy(), int(40 * level)
    row, column = image.shape[0] // 2, image.shape[1] // 2
    top, left = max(row - reach, 0), max(column - reach, 0)
    output[top : row + reach, left : column + reach] = GREY
    return output


ORACLES = dict(
    zip(
        NAMES,
        [
            *(auto_contrast, equalize, lambda image, level: 255 - image),
            *(rotate, posterize, solarize, color, contrast, brightness),
            *(sharpness, shear_x, shear_y, translate_x, translate_y),
            *(cutout, solarize_add),
        ],
    )
)
# Work on a place in the image, not on its levels.
GEOMETRY = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout")


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", NAMES)
def test_each_operation_against_its_definition(name, magnitude):
    chosen = ["photograph", "noise"] if name in GEOMETRY else images()
    for image in chosen:
        result = augment(name, images()[image], magnitude)
        expected = ORACLES[name](images()[image], magnitude / 10)
        # Of the sums of three products, some are not rounded alike.
        allowed = 0.002 if name == "Color" else 0.0
        is_wrong = result != expected.astype("uint8")
        assert is_wrong.mean() <= allowed, image
        assert np.ma.getmaskarray(is_wrong).mean() < 0.2, image


def test_operations_are_those_of_the_published_implementation():
    from lambda_keras.data.randaugment import make_operations

    assert list(make_operations(10.0)) == NAMES == list(ORACLES)


@pytest.mark.parametrize(
    ("magnitude", "names"),
    [
        (0.0, [*GEOMETRY, "SolarizeAdd"]),
        (5.0, ["Color", "Contrast", "Brightness", "Sharpness"]),
        (20.0, ["Posterize"]),
    ],
)
def test_magnitudes_that_change_nothing(magnitude, names):
    for name in names:
        for image in images().values():
            np.testing.assert_array_equal(
                augment(name, image, magnitude), image, name
            )


@pytest.mark.parametrize(
    ("name", "magnitude", "level", "expected"),
    [
        # Figures of the published implementation at magnitudes in use.
        ("Posterize", 10.0, 0b10111111, 0b10110000),
        ("Posterize", 15.0, 0b10111111, 0b10111100),
        ("Solarize", 5.0, 128, 127),
        ("Solarize", 5.0, 127, 127),
        ("Solarize", 15.0, 254, 254),
        ("Solarize", 15.0, 255, 0),
        ("SolarizeAdd", 10.0, 17, 127),
        ("SolarizeAdd", 15.0, 100, 255),
        ("SolarizeAdd", 15.0, 128, 128),
        ("Brightness", 10.0, 100, 190),
        ("Brightness", 15.0, 10, 28),
        ("Brightness", 15.0, 100, 255),
    ],
)
def test_levels_at_magnitudes_in_use(name, magnitude, level, expected):
    image = np.full((4, 4, 3), level, "uint8")
    assert set(augment(name, image, magnitude).flat) == {expected}


def test_contrast_is_about_the_number_of_pixels():
    # 224 x 224 / 256 = 196, which is not the mean of the image.
    image = np.full((224, 224, 3), 200, "uint8")
    assert set(augment("Contrast", image, 10.0).flat) == {203}


@pytest.mark.parametrize(
    "name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"]
)
def test_signs_are_random(name):
    import tensorflow as tf

    image = images()["photograph"]
    one = augment(name, image, 2.0, (0.1, 0.5, 0.5))
    other = augment(name, image, 2.0, (0.9, 0.5, 0.5))
    assert not np.array_equal(one, other)
    if name.startswith("T"):  # 20 pixels to either side
        axis = 1 if name == "TranslateX" else 0
        first, last = tf.split(one, [-1, 20], axis)
        np.testing.assert_array_equal(
            np.take(image, range(20, image.shape[axis]), axis), first
        )
        assert np.all(last == GREY)
        first, last = tf.split(other, [20, -1], axis)
        assert np.all(first == GREY)
        np.testing.assert_array_equal(
            np.take(image, range(image.shape[axis] - 20), axis), last
        )


@pytest.mark.parametrize(
    ("draws", "rows", "columns"),
    [
        ((0.0, 0.0), (0, 12), (0, 12)),
        ((0.5, 0.5), (8, 32), (16, 40)),
        ((0.999, 0.999), (27, 40), (43, 56)),
    ],
)
def test_cutout_is_cut_off_at_the_border(draws, rows, columns):
    expected = images()["photograph"].copy()
    expected[slice(*rows), slice(*columns)] = GREY
    result = augment("Cutout", images()["photograph"], 3.0, (0.0, *draws))
    np.testing.assert_array_equal(result, expected)


def test_layers_follow_each_other():
    import tensorflow as tf

    from lambda_keras.data.randaugment import rand_augment

    image = images()["photograph"]

    def draw(name):
        return [(NAMES.index(name) + 0.5) / 16, 0.0, 0.5, 0.5]

    def apply(*names):
        draws = tf.reshape(
            tf.constant([draw(name) for name in names]), (len(names), 4)
        )
        return rand_augment(tf.constant(image), draws, 10.0).numpy()

    np.testing.assert_array_equal(apply(), image)
    np.testing.assert_array_equal(apply("Invert"), 255 - image)
    np.testing.assert_array_equal(apply("Invert", "Invert"), image)
    moved = augment("TranslateX", image, 10.0)
    np.testing.assert_array_equal(apply("TranslateX", "Invert"), 255 - moved)


def test_every_operation_is_drawn_equally_often(monkeypatch):
    import tensorflow as tf

    from lambda_keras.data import randaugment
    from lambda_keras.data.preprocessing import Preprocessing
    from lambda_keras.data.preprocessing import decode_training_image

    # What is left of a black image are the numbers of two operations.
    monkeypatch.setattr(
        randaugment,
        "make_operations",
        lambda magnitude: {
            name: functools.partial(
                lambda image, _, number: image * 16 + number, number=number
            )
            for number, name in enumerate(NAMES)
        },
    )
    black = tf.io.encode_jpeg(np.zeros((8, 8, 3), "uint8"))
    preprocessing = Preprocessing(image_size=4, randaugment_layers=2)
    count = 6400
    drawn = (
        tf.data.Dataset.range(count)
        .map(
            lambda index: decode_training_image(
                black, tf.stack([7, index]), preprocessing
            )[0, 0, 0],
            tf.data.AUTOTUNE,
        )
        .batch(count)
        .get_single_element()
        .numpy()
    )
    pairs = np.bincount(drawn, minlength=256)
    chi_square = np.sum((pairs - count / 256) ** 2 / (count / 256))
    # Mean 255 and standard deviation 23 if all pairs are equally likely.
    assert 255 - 4 * 23 < chi_square < 255 + 4 * 23
