import numpy as np
import pytest

from tests.serving.image_files import MAX_PIXELS
from tests.serving.image_files import bad_files
from tests.serving.image_files import good_files
from tests.serving.image_files import jpeg
from tests.serving.image_files import photograph
from tests.serving.image_files import png
from tests.serving.image_files import with_packed_texts
from tests.serving.image_files import with_scans

pytestmark = pytest.mark.tf_data

SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def read():
    """Images and statuses of a batch of files; traced once."""
    return make_reader(image_shape=SHAPE, max_pixels=MAX_PIXELS)


def make_reader(**settings):
    import tensorflow as tf

    from lambda_keras.serving.images import STATUSES
    from lambda_keras.serving.images import RequestPreprocessing
    from lambda_keras.serving.images import read_images

    preprocessing = RequestPreprocessing(**settings)
    function = tf.function(
        lambda encoded: read_images(encoded, preprocessing),
        input_signature=[tf.TensorSpec((None,), tf.string)],
        autograph=False,
    )

    def read(files):
        images, statuses = function(tf.constant(list(files), tf.string))
        assert (images.dtype, statuses.dtype) == (tf.uint8, tf.int32)
        return images.numpy(), [STATUSES[index] for index in statuses]

    return read


def evaluated(file, size=SHAPE[0], **fields):
    """What a model is evaluated on."""
    import tensorflow as tf

    from lambda_keras.data.preprocessing import Preprocessing
    from lambda_keras.data.preprocessing import decode_evaluation_image

    settings = Preprocessing(image_size=size, **fields)
    return decode_evaluation_image(tf.constant(file), settings).numpy()


def test_good_files_become_what_evaluation_makes_of_them(read):
    files = good_files()
    images, statuses = read(files.values())
    assert images.shape == (len(files), *SHAPE)
    for name, image, status in zip(files, images, statuses):
        assert (name, status) == (name, "ok")
        np.testing.assert_array_equal(image, evaluated(files[name]), name)


SPEC = {"crop": 0.95, "interpolation": "bicubic"}


@pytest.fixture(scope="module")
def read_like_spec():
    return make_reader(image_shape=SHAPE, max_pixels=MAX_PIXELS, **SPEC)


def test_the_crop_of_a_spec_is_that_of_evaluation(read, read_like_spec):
    files = good_files()
    images, statuses = read_like_spec(files.values())
    others, _ = read(files.values())
    for name, image, status in zip(files, images, statuses):
        assert (name, status) == (name, "ok")
        expected = evaluated(files[name], **SPEC)
        np.testing.assert_array_equal(image, expected, name)
    assert not np.array_equal(images, others)


def test_the_crop_of_a_spec_leaves_bad_files_black(read_like_spec):
    files = bad_files()
    images, statuses = read_like_spec(file for file, _ in files.values())
    assert statuses == [status for _, status in files.values()]
    assert not images.any()


@pytest.mark.parametrize(
    ("name", "shape", "chosen", "expected"),
    [
        ("lambda_resnet_26t", SHAPE, "auto", (0.94, "bicubic")),
        ("lambda_resnet_50ts", SHAPE, "center", (0.95, "bicubic")),
        ("lambda_resnet_50ts", SHAPE, "whole", ("whole", "bilinear")),
        ("lambda_resnet_50", SHAPE, "auto", ("center", "bilinear")),
        ("my_model", SHAPE, "auto", ("center", "bilinear")),
        ("my_model", (8, 8, 1), "auto", ("whole", "bilinear")),
        ("my_model", (8, 8, 1), "center", ("center", "bilinear")),
        ("my_model", (8, 16, 3), "auto", ("whole", "bilinear")),
    ],
)
def test_a_model_is_shown_what_its_spec_says(name, shape, chosen, expected):
    import keras

    from lambda_keras.serving.images import choose_preprocessing

    inputs = keras.Input(shape)
    outputs = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, outputs, name=name)
    preprocessing = choose_preprocessing(model, chosen, max_pixels=99)
    assert preprocessing.image_shape == shape
    assert (preprocessing.crop, preprocessing.interpolation) == expected
    assert preprocessing.max_pixels == 99


def test_bad_files_are_black_and_have_their_status(read):
    files = bad_files()
    images, statuses = read(file for file, _ in files.values())
    assert dict(zip(files, statuses)) == {
        name: status for name, (_, status) in files.items()
    }
    assert not images.any()


def test_each_stays_in_its_place_whatever_the_others_are(read):
    """Good and bad, fast and slow ones, in any order."""
    files = [
        *good_files().values(),
        *(file for file, _ in bad_files().values()),
    ]
    alone = [read([file]) for file in files]
    generator = np.random.default_rng(0)
    for _ in range(5):
        chosen = generator.integers(len(files), size=40)
        images, statuses = read(files[index] for index in chosen)
        for index, image, status in zip(chosen, images, statuses):
            np.testing.assert_array_equal(image, alone[index][0][0])
            assert [status] == alone[index][1]


def test_an_empty_batch(read):
    images, statuses = read([])
    assert (images.shape, statuses) == ((0, *SHAPE), [])


def test_no_image_can_be_read(read):
    images, statuses = read([jpeg()[:99]] * 3)
    assert images.shape == (3, *SHAPE)
    assert statuses == ["unreadable"] * 3


@pytest.mark.parametrize("encode", [jpeg, png])
def test_the_limit_of_pixels_is_the_last_that_is_read(encode):
    read = make_reader(image_shape=SHAPE, max_pixels=80 * 50)
    images = [photograph(80, 50), photograph(80, 51), photograph(1, 4001)]
    _, statuses = read(map(encode, images))
    assert statuses == ["ok", "too large", "too large"]


def test_the_limits_of_scans_and_of_texts():
    """As small files that take minutes and gigabytes are told apart."""
    read = make_reader(image_shape=SHAPE, max_pixels=96 * 80)
    # Over all of 96 x 80 pixels each.
    _, statuses = read([with_scans(10), with_scans(100), with_scans(101)])
    assert statuses == ["ok", "ok", "too large"]
    _, statuses = read([with_packed_texts(16), with_packed_texts(17)])
    assert statuses == ["ok", "too large"]


def test_at_the_size_of_imagenet():
    read = make_reader(image_shape=(224, 224, 3))
    files = [encode(photograph(500, 375)) for encode in (jpeg, png)]
    images, statuses = read(files)
    assert statuses == ["ok", "ok"]
    for file, image in zip(files, images):
        np.testing.assert_array_equal(image, evaluated(file, 224))


def test_a_whole_scan_of_the_right_size_is_left_as_it_is():
    """As the digits are, which were never photographs."""
    read = make_reader(image_shape=(8, 8, 1), crop="whole")
    digit = photograph(8, 8).convert("L")
    (image,), statuses = read([png(digit)])
    assert statuses == ["ok"]
    np.testing.assert_array_equal(image[..., 0], np.asarray(digit))


def test_a_whole_image_is_squeezed():
    read = make_reader(image_shape=(20, 10, 3), crop="whole")
    white = photograph(30, 30).point(lambda value: 255)
    half = white.copy()
    half.paste((0, 0, 0), (0, 0, 30, 15))
    images, statuses = read([png(white), jpeg(half, quality=100)])
    assert statuses == ["ok", "ok"]
    assert (images[0] == 255).all()
    assert (images[1, :9] < 9).all() and (images[1, 11:] > 246).all()


def test_colours_become_grey_for_a_model_that_takes_grey():
    read = make_reader(image_shape=(80, 96, 1), crop="whole")
    colour = photograph()
    files = [
        *(png(colour.convert("L")), png(colour), jpeg(colour, quality=100)),
        jpeg(colour.convert("CMYK"), quality=100),
    ]
    images, statuses = read(files)
    assert statuses == ["ok"] * 4
    expected = np.asarray(colour) @ np.array([0.299, 0.587, 0.114])
    # A JPEG is decoded by the fast transform.
    for image, largest, mean in zip(
        images, (1, 2, 14, 14), (0.5, 0.6, 2, 2), strict=True
    ):
        difference = np.abs(image[..., 0] - expected)
        assert difference.max() < largest
        assert difference.mean() < mean


def test_a_photograph_on_its_side_stays_on_its_side(read):
    """Training and evaluation do not turn it either."""
    files = good_files()
    (upright, other), _ = read([files["JPEG"], files["JPEG on its side"]])
    np.testing.assert_array_equal(upright, other)


def test_transparency_is_not_seen(read):
    """The colours below it are, as in evaluation."""
    files = good_files()
    (opaque, transparent), _ = read([files["PNG"], files["PNG with alpha"]])
    np.testing.assert_array_equal(opaque, transparent)


def test_sixteen_bits_keep_the_upper_eight(read):
    files = good_files()
    (eight, sixteen), _ = read([files["PNG"], files["PNG of 16 bits"]])
    np.testing.assert_array_equal(eight, sixteen)


def test_statuses_have_fixed_numbers():
    from lambda_keras.serving.images import STATUSES

    assert STATUSES == (
        "ok",
        "empty",
        "unsupported format",
        "too large",
        "unreadable",
        "no answer",
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"image_shape": SHAPE, "crop": "left"},
            r"one of: center, whole; or above 0 and at most 1\. "
            "Received: crop=left",
        ),
        (
            {"image_shape": SHAPE, "crop": 1.2},
            r"above 0 and at most 1\. Received: crop=1\.2",
        ),
        (
            {"image_shape": SHAPE, "crop": 0.9, "interpolation": "nearest"},
            "one of: bilinear, bicubic. Received: interpolation=nearest",
        ),
        (
            {"image_shape": SHAPE, "interpolation": "bicubic"},
            "must be bilinear where `crop` is None. "
            "Received: interpolation=bicubic, crop=None",
        ),
        (
            {"image_shape": (32, 16, 3), "crop": 0.9},
            r"not square\. Received: crop=0\.9, image_shape=\(32, 16, 3\)",
        ),
        (
            {"image_shape": (32, 16, 3)},
            r"must be whole where images are not square\. "
            r"Received: crop=center, image_shape=\(32, 16, 3\)",
        ),
        (
            {"image_shape": (32, 32, 4)},
            r"1 or 3 channels\. Received: image_shape=\(32, 32, 4\)",
        ),
        (
            {"image_shape": SHAPE, "max_pixels": 0},
            r"from 1 to 2\*\*31\. Received: max_pixels=0",
        ),
        (
            {"image_shape": SHAPE, "max_pixels": 1 << 62},
            r"from 1 to 2\*\*31\. Received: max_pixels=4611",
        ),
    ],
)
def test_settings_that_cannot_be(settings, message):
    from lambda_keras.serving.images import RequestPreprocessing

    RequestPreprocessing(SHAPE)
    RequestPreprocessing(SHAPE, max_pixels=1 << 31)
    with pytest.raises(ValueError, match=message):
        RequestPreprocessing(**settings)
