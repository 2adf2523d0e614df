"""What a SavedModel answers to what it should not have been sent."""

import itertools
from concurrent import futures

import numpy as np
import pytest

from tests.serving.image_files import bad_files
from tests.serving.image_files import good_files
from tests.serving.image_files import photograph
from tests.serving.image_files import png
from tests.serving.models import CLASS_NAMES

pytestmark = pytest.mark.tf_only

# The signatures, and the shape of an image where it is not encoded.
SIGNATURES = ("serving_default", "serving_uint8", "serving_bytes")
SHAPE = (32, 32, 3)


@pytest.fixture(scope="module", params=["signatures", "session"])
def model(request, version):
    """An exported model, loaded in plain TensorFlow."""
    # TensorFlow is not imported where another engine runs.
    from tests.serving.runtimes import RUNTIMES

    return RUNTIMES[request.param](version)


def ask(model, files):
    from tests.serving.runtimes import as_batch

    return model.ask("serving_bytes", as_batch(files))


def assert_good(answers, rows):
    """Checks that some images of a batch have labels."""
    probabilities, scores = answers["probabilities"], answers["scores"]
    assert (answers["status"][rows] == b"ok").all()
    np.testing.assert_allclose(probabilities[rows].sum(-1), 1, atol=1e-5)
    order = np.argsort(-probabilities[rows], kind="stable")
    np.testing.assert_array_equal(answers["classes"][rows], order[:, :5])
    sorted_ = np.sort(probabilities[rows])[:, ::-1]
    np.testing.assert_array_equal(scores[rows], sorted_[:, :5])
    names = np.array([name.encode() for name in CLASS_NAMES], object)
    np.testing.assert_array_equal(answers["labels"][rows], names[order[:, :5]])


def assert_bad(answers, rows, statuses):
    """Checks that others have a status instead of an answer."""
    assert [status.decode() for status in answers["status"][rows]] == statuses
    assert (answers["classes"][rows] == -1).all()
    assert (answers["labels"][rows] == b"").all()
    assert (answers["scores"][rows] == 0).all()
    assert (answers["probabilities"][rows] == 0).all()


def test_good_files_have_the_answers_of_what_evaluation_decodes(model):
    import tensorflow as tf

    from lambda_keras.data.preprocessing import Preprocessing
    from lambda_keras.data.preprocessing import decode_evaluation_image

    files = good_files().values()
    answers = ask(model, files)
    assert_good(answers, np.arange(len(files)))
    settings = Preprocessing(image_size=SHAPE[0])
    images = np.stack(
        [decode_evaluation_image(tf.constant(x), settings) for x in files]
    )
    expected = model.ask("serving_uint8", images)
    for name, values in expected.items():
        np.testing.assert_array_equal(answers[name], values, name)
    for name, values in model.ask(
        "serving_default", images.astype("float32")
    ).items():
        np.testing.assert_array_equal(expected[name], values, name)


def test_bad_files_have_a_status_and_no_answer(model):
    files = bad_files()
    answers = ask(model, (file for file, _ in files.values()))
    statuses = [status for _, status in files.values()]
    assert_bad(answers, np.arange(len(files)), statuses)


def test_a_bad_file_changes_no_answer_beside_it(model):
    """Bit for bit, wherever in the batch it is."""
    files = list(good_files().values())[:12:2]
    expected = ask(model, files)
    places = itertools.cycle(range(6))
    for place, (file, status) in zip(places, bad_files().values()):
        answers = ask(model, [*files[:place], file, *files[place + 1 :]])
        assert_bad(answers, [place], [status])
        others = np.delete(np.arange(6), place)
        for name, values in expected.items():
            np.testing.assert_array_equal(
                answers[name][others], values[others], name
            )


def test_requests_at_the_same_time_do_not_mix(model):
    files = [
        *good_files().values(),
        *(file for file, _ in bad_files().values()),
    ]
    generator = np.random.default_rng(0)
    batches = [
        [files[index] for index in generator.integers(len(files), size=3)]
        for _ in range(40)
    ]
    expected = [ask(model, batch) for batch in batches]
    with futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda batch: ask(model, batch), batches))
    for one, other in zip(answers, expected):
        for name, values in other.items():
            np.testing.assert_array_equal(one[name], values, name)


@pytest.mark.parametrize("signature", SIGNATURES)
def test_an_empty_batch_has_empty_answers(model, signature):
    images = {
        "serving_default": np.zeros((0, *SHAPE), "float32"),
        "serving_uint8": np.zeros((0, *SHAPE), "uint8"),
        "serving_bytes": np.zeros((0,), object),
    }
    answers = model.ask(signature, images[signature])
    shapes = {"probabilities": (0, 6), "classes": (0, 5), "scores": (0, 5)}
    if signature == "serving_bytes":
        shapes |= {"labels": (0, 5), "status": (0,)}
    assert {name: array.shape for name, array in answers.items()} == shapes


@pytest.mark.parametrize(
    ("signature", "dtype"),
    [("serving_default", "float32"), ("serving_uint8", "uint8")],
)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 64, 64, 3),
        (8, 16, 16, 3),
        (2, 32, 16, 3),
        (3, 32, 32, 1),
        (1, 32, 32, 4),
        (32, 32, 3),
        (1, 2, 32, 32, 3),
        (2, 3072),
        (3,),
        (),
    ],
)
def test_images_of_another_shape_are_refused(model, signature, dtype, shape):
    """Else reshaping would make four images of one of twice the size."""
    import tensorflow as tf

    right = model.ask(signature, np.ones((2, *SHAPE), dtype))
    assert right["probabilities"].shape == (2, 6)
    message = r"\[.*\] is not compatible with expected shape \[\?,32,32,3\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.ask(signature, np.ones(shape, dtype))


@pytest.mark.parametrize("shape", [(), (1, 1), (2, 3, 4)])
def test_files_are_a_list(model, shape):
    import tensorflow as tf

    message = r"is not compatible with expected shape \[\?\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.ask("serving_bytes", np.full(shape, b"", object))


@pytest.mark.parametrize(
    ("signature", "dtype", "message"),
    [
        ("serving_default", "uint8", "(be a|expect) float"),
        ("serving_default", "float64", "(be a|expect) float"),
        ("serving_uint8", "float32", "(be a|expect) uint8"),
        ("serving_bytes", "uint8", "(be a|expect) string"),
    ],
)
def test_numbers_of_another_type_are_refused(model, signature, dtype, message):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.ask(signature, np.zeros((2, *SHAPE), dtype))


def test_pixels_that_are_no_numbers_are_not_labelled(model):
    """What is not a number stays one, and that of its image alone."""
    images = np.full((3, *SHAPE), 100, "float32")
    expected = model.ask("serving_default", images)["probabilities"]
    images[1, 5, 7, 2] = np.nan
    probabilities = model.ask("serving_default", images)["probabilities"]
    assert np.isnan(probabilities[1]).all()
    np.testing.assert_array_equal(probabilities[::2], expected[::2])


def test_an_image_of_which_a_model_makes_no_numbers_has_no_label(tmp_path):
    """As in half precision, where it is brighter than any other."""
    import keras

    from lambda_keras.serving.export import export_version
    from lambda_keras.serving.images import RequestPreprocessing
    from tests.serving.runtimes import Session

    overflowing = keras.Sequential(
        [
            keras.Input(SHAPE, name="images"),
            keras.layers.GlobalAveragePooling2D(),
            # Grey is finite, and white is not.
            keras.layers.Rescaling(2e36),
            keras.layers.Dense(6, activation="softmax"),
        ]
    )
    version = export_version(
        overflowing,
        tmp_path,
        preprocessing=RequestPreprocessing(SHAPE),
        class_names=CLASS_NAMES,
        warm_up=False,
    )
    files = [
        png(photograph().point(lambda _, value=value: value))
        for value in (100, 255, 120)
    ]
    answers = ask(Session(version), files)
    assert_bad(answers, [1], ["no answer"])
    assert_good(answers, np.array([0, 2]))


def test_there_are_these_signatures_and_no_others(model):
    assert model.inputs == {
        "serving_default": ["images"],
        "serving_uint8": ["images"],
        "serving_bytes": ["image_bytes"],
    }
