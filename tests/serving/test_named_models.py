import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.serving.prediction_inputs import EncodedImage
from tests.data.test_crop import as_file
from tests.data.test_crop import photographs
from tests.data.test_crop import pillow_crop
from tests.serving.models import CLASS_NAMES
from tests.serving.models import tiny_classifier

pytestmark = pytest.mark.tf_only

SIZE = 64


@pytest.fixture(scope="module")
def model():
    """A small model that goes by the name of a large one."""
    small = tiny_classifier((SIZE, SIZE, 3))
    return keras.Model(small.inputs, small.outputs[0], name="lambda_resnet_26t")


@pytest.fixture(scope="module")
def images():
    return [
        EncodedImage(f"{index}.{kind}", as_file(photograph, kind))
        for index, photograph in enumerate(photographs())
        for kind in ("png", "jpeg")
    ]


@pytest.fixture(scope="module")
def expected(model, images):
    """The model's answers for what Pillow makes of the images."""
    crops = [pillow_crop(image.content, SIZE, 0.94) for image in images]
    return model.predict(np.stack(crops).astype("float32"), verbose=0)


def check(predictions, expected):
    for prediction, row in zip(predictions, expected, strict=True):
        order = np.argsort(-row, kind="stable")[:5]
        assert prediction.status == "ok"
        np.testing.assert_array_equal(prediction.classes, order)
        # Crops of the same images by Pillow differ by a level here and there.
        np.testing.assert_allclose(prediction.scores, row[order], rtol=1e-3)
        assert prediction.labels == [CLASS_NAMES[index] for index in order]


@pytest.fixture(scope="module")
def served(model):
    from lambda_keras.serving.named_models import serve_in_memory

    return serve_in_memory(model, CLASS_NAMES)


def test_a_model_in_memory_sees_what_its_spec_says(served, images, expected):
    check(served.predict(images), expected)
    # They are told apart.
    assert np.ptp(expected, axis=0).max() > 0.02


def test_the_crop_of_a_spec_outlives_the_export(
    model, images, expected, tmp_path
):
    from lambda_keras.serving.export import export_version
    from lambda_keras.serving.images import choose_preprocessing
    from lambda_keras.serving.prediction import load_version

    version = export_version(
        model,
        tmp_path / "mine",
        preprocessing=choose_preprocessing(model),
        class_names=CLASS_NAMES,
        warm_up=False,
    )
    check(load_version(version).predict(images), expected)
    description = json.loads((version / "model.json").read_text())
    assert description["preprocessing"] == {
        "image_shape": [SIZE, SIZE, 3],
        "crop": 0.94,
        "interpolation": "bicubic",
        "max_pixels": 1 << 25,
    }


def test_without_names_the_labels_are_numbers(model, images):
    from lambda_keras.serving.named_models import serve_in_memory

    # There are no more than six.
    served = serve_in_memory(model, top_k=9)
    (prediction,) = served.predict(images[:1])
    assert served.top_k == len(prediction.classes) == 6
    assert prediction.labels == [str(index) for index in prediction.classes]


def test_what_is_no_image_has_its_status(served):
    (prediction,) = served.predict([EncodedImage("a", b"")])
    assert (prediction.status, prediction.classes) == ("empty", ())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The weights of one model in every kind of file."""
    from lambda_keras.weights.timm import write_timm

    spec = dataclasses.replace(get_spec("lambda_resnet_26rpt"), width=8)
    model = build_model(spec, input_shape=(96, 96, 3), classes=7)
    directory = tmp_path_factory.mktemp("files")
    arrays = {weight.path: weight.numpy() for weight in model.weights}
    write_timm(directory / "x.safetensors", arrays, spec)
    model.save(directory / "x.keras")
    model.save_weights(directory / "x.weights.h5")
    return model, directory


@pytest.mark.parametrize("kind", ["safetensors", "keras", "weights.h5"])
def test_classes_width_and_size_are_those_of_the_file(files, kind):
    from lambda_keras.serving.named_models import build_named_model

    model, directory = files
    path = directory / f"x.{kind}"
    built = build_named_model(get_spec("LambdaResNet26RPT"), path)
    assert built.input_shape == (None, 96, 96, 3)
    assert built.output_shape == (None, 7)
    for weight, other in zip(model.weights, built.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), other.numpy())


def test_another_size_resamples_the_tables(files):
    from lambda_keras.serving.named_models import build_named_model

    spec, path = get_spec("LambdaResNet26RPT"), files[1] / "x.safetensors"
    with pytest.warns(UserWarning, match="from 6x6 to 4x4 positions"):
        built = build_named_model(spec, path, image_size=64)
    assert built.input_shape == (None, 64, 64, 3)


def test_weights_without_a_classifier_are_refused(tmp_path):
    from lambda_keras.serving.named_models import build_named_model

    spec = dataclasses.replace(get_spec("lambda_resnet_26t"), width=8)
    model = build_model(spec, input_shape=(64, 64, 3), include_top=False)
    path = tmp_path / "x.weights.h5"
    model.save_weights(path)
    with pytest.raises(
        ValueError, match=f"with a classifier. Received: weights={path}"
    ):
        build_named_model(spec, path)
    with pytest.raises(ValueError, match="`weights` must be on a disk of this"):
        build_named_model(spec, Path("absent.keras"))
