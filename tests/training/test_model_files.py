"""Models out of files of weights, which say what they are of."""

import json

import numpy as np
import pytest

from lambda_keras.models import build_model
from lambda_keras.training import model_files
from lambda_keras.training.model_files import find_model
from lambda_keras.training.model_files import load_model
from lambda_keras.training.model_files import read_class_names
from lambda_keras.weights.conversion import save_as_timm
from lambda_keras.weights.resampling import resample_table
from tests.weights.small_models import arrays_of
from tests.weights.small_models import random_model

ANY = (None, None, None)
TABLES = "lambda_resnet_26rpt"
KINDS = {".safetensors": None, ".weights.h5": TABLES}


@pytest.fixture(scope="module")
def model():
    return random_model(TABLES, 5, width=4, input_shape=(64, 96, 3))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    save_as_timm(model, folder / "model.safetensors")
    model.save_weights(folder / "model.weights.h5")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_weights_says_width_classes_and_size(kind, model, folder):
    path = folder / f"model{kind}"
    assert find_model(path, KINDS[kind]) == path
    loaded, class_names = load_model(path, ANY, architecture=KINDS[kind])
    assert class_names == ()
    assert loaded.name == model.name
    assert loaded.input_shape == model.input_shape
    assert loaded.output_shape == model.output_shape
    expected = arrays_of(model)
    for weight, array in arrays_of(loaded).items():
        np.testing.assert_array_equal(array, expected[weight])


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_another_size_get_other_tables(kind, model, folder):
    with pytest.warns(UserWarning, match="from 4x6 to 6x6 positions in c4_bl"):
        loaded, _ = load_model(
            folder / f"model{kind}", (96, 96, 3), architecture=KINDS[kind]
        )
    assert loaded.input_shape == (None, 96, 96, 3)
    name = "c4_block1_lambda/position_embeddings"
    expected = resample_table(arrays_of(model)[name], (11, 11))
    np.testing.assert_array_equal(arrays_of(loaded)[name], expected)


def test_timms_files_need_no_architecture(folder):
    with pytest.raises(ValueError, match=r"nothing else. .*architecture=lam"):
        find_model(folder / "model.safetensors", TABLES)
    with pytest.raises(ValueError, match=r"must be given for a \.weights"):
        find_model(folder / "model.weights.h5")


def test_hosted_weights_need_a_library_that_is_then_named(monkeypatch):
    def download(checkpoint):
        raise ImportError("pip install it.")

    monkeypatch.setattr(model_files, "download", download)
    with pytest.raises(ValueError, match=r"^pip install it\. Received: model="):
        find_model("LambdaResNet26T")
    with pytest.raises(ValueError, match="which does not exist"):
        find_model("LambdaResNet101")


def test_an_architecture_beside_a_name_is_refused_before_a_download(
    monkeypatch,
):
    monkeypatch.setattr(model_files, "download", pytest.fail)
    message = "`architecture` must be given for a .weights.h5 file, and for no"
    with pytest.raises(ValueError, match=message):
        find_model("LambdaResNet26T", architecture="lambda_resnet_26t")


def test_weights_without_a_classifier_label_nothing(tmp_path):
    path = tmp_path / "features.weights.h5"
    build_model(
        "lambda_resnet_tiny", include_top=False, input_shape=(8, 8, 1), width=4
    ).save_weights(path)
    message = r"`from` .* can be read \(It has no classifier"
    with pytest.raises(ValueError, match=message):
        load_model(path, ANY, architecture="lambda_resnet_tiny", name="from")


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ({"class_names": ["cat", "dog"]}, ("cat", "dog")),
        ({}, ()),
        ([], ()),
        (None, ()),
    ],
)
def test_a_finished_run_says_the_names_of_classes(summary, expected, tmp_path):
    if summary is not None:
        (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "best.keras").touch()
    # A link may be anywhere.
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.keras"
    link.symlink_to(tmp_path / "best.keras")
    assert read_class_names(link) == expected
