import json

import keras
import numpy as np
import pytest

from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.serving.export import export_version
from lambda_keras.serving.export import weights_digest
from lambda_keras.serving.images import RequestPreprocessing
from tests.serving.models import CLASS_NAMES
from tests.serving.models import random_images
from tests.serving.models import tiny_classifier

pytestmark = pytest.mark.tf_only


def export(model, directory, **options):
    options.setdefault("preprocessing", RequestPreprocessing((8, 8, 3)))
    options.setdefault("class_names", CLASS_NAMES)
    return export_version(model, directory, **options)


@pytest.fixture(scope="module")
def model():
    return tiny_classifier()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    return export(model, directory, top_k=2)


def test_a_version_has_all_that_a_server_wants(exported):
    assert exported.name == "1"
    files = {
        path.relative_to(exported).as_posix()
        for path in exported.rglob("*")
        if path.is_file()
    }
    assert files == {
        "assets/labels.txt",
        "assets.extra/tf_serving_warmup_requests",
        "fingerprint.pb",
        "model.json",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    }
    labels = (exported / "assets" / "labels.txt").read_text()
    assert tuple(labels.split()) == CLASS_NAMES


def test_the_variables_are_stored_once(exported, model):
    import tensorflow as tf

    shapes = tf.train.load_checkpoint(
        exported / "variables" / "variables"
    ).get_variable_to_shape_map()
    shapes.pop("_CHECKPOINTABLE_OBJECT_GRAPH")
    stored = sum(int(np.prod(shape)) for shape in shapes.values())
    assert stored == sum(weight.numpy().size for weight in model.variables)


def test_model_json_says_what_is_served(exported, model):
    description = json.loads((exported / "model.json").read_text())
    assert description["model"] == "tiny_classifier"
    assert description["spec"] is None
    assert description["version"] == 1
    assert description["input_shape"] == [8, 8, 3]
    assert description["num_classes"] == 6
    assert description["precision"] == "float32"
    assert description["formats"] == {}
    assert description["preprocessing"] == {
        "image_shape": [8, 8, 3],
        "crop": "center",
        "interpolation": "bilinear",
        "max_pixels": 1 << 25,
    }
    assert description["weights_sha256"] == weights_digest(model)
    assert description["versions"]["keras"] == keras.__version__
    assert description["signatures"]["serving_bytes"] == {
        "inputs": {"image_bytes": {"dtype": "string", "shape": [None]}},
        "outputs": {
            "probabilities": {"dtype": "float32", "shape": [None, 6]},
            "classes": {"dtype": "int32", "shape": [None, 2]},
            "scores": {"dtype": "float32", "shape": [None, 2]},
            "labels": {"dtype": "string", "shape": [None, 2]},
            "status": {"dtype": "string", "shape": [None]},
        },
    }
    assert description["signatures"]["serving_uint8"]["inputs"] == {
        "images": {"dtype": "uint8", "shape": [None, 8, 8, 3]}
    }


def test_the_spec_of_a_named_model_is_kept(tmp_path):
    model = build_model("resnet_tiny", input_shape=(8, 8, 1), classes=3)
    version = export(
        model,
        tmp_path / "tiny",
        preprocessing=RequestPreprocessing((8, 8, 1), crop="whole"),
        class_names=(),
        warm_up=False,
    )
    spec = json.loads((version / "model.json").read_text())["spec"]
    assert spec["name"] == "resnet_tiny"
    # That is of the model with 1,000 classes.
    assert "parameters" not in spec
    assert tuple(spec["depths"]) == get_spec("resnet_tiny").depths
    assert not (version / "assets.extra").exists()
    assert (version / "assets" / "labels.txt").read_text() == "0\n1\n2\n"


def test_the_digest_is_that_of_the_weights(model):
    digest = weights_digest(model)
    assert len(digest) == 64
    assert weights_digest(keras.models.clone_model(model)) != digest
    again = tiny_classifier()
    again.set_weights(model.get_weights())
    assert weights_digest(again) == digest


def test_versions_follow_each_other(model, tmp_path):
    directory = tmp_path / "models" / "tiny"
    directory.mkdir(parents=True)
    (directory / "notes.txt").touch()
    options = {"warm_up": False}
    assert export(model, directory, **options) == directory / "1"
    assert export(model, directory, version=7, **options) == directory / "7"
    assert export(model, directory, **options) == directory / "8"


def test_an_existing_version_is_not_touched(exported, model):
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
    message = r"not there yet\. Received: version=1, output_dir="
    with pytest.raises(FileExistsError, match=message):
        export(model, exported.parent, version=1)
    assert before == {
        path: path.stat().st_mtime_ns for path in exported.rglob("*")
    }
    assert [path.name for path in exported.parent.iterdir()] == ["1"]


def test_a_version_is_no_place_for_versions(exported, model):
    message = r"directory of all versions, not of one\. Received: output_dir="
    with pytest.raises(ValueError, match=message):
        export(model, exported)
    assert not (exported / "1").exists()


def test_a_version_appears_after_its_check(model, tmp_path):
    directory, seen = tmp_path / "tiny", []

    def check(version):
        seen.append(sorted(path.name for path in version.iterdir()))
        assert not [path for path in directory.iterdir() if path.name == "1"]

    export(model, directory, check=check)
    assert seen == [
        [
            "assets",
            "assets.extra",
            "fingerprint.pb",
            "model.json",
            "saved_model.pb",
            "variables",
        ]
    ]

    def fail(version):
        raise RuntimeError("it disagrees")

    with pytest.raises(RuntimeError, match="it disagrees"):
        export(model, directory, check=fail)
    assert [path.name for path in directory.iterdir()] == ["1"]


def test_a_failure_leaves_no_directory(model, tmp_path):
    directory = tmp_path / "models" / "tiny"
    for options, message in (
        ({"class_names": ("one",)}, "for each of 6 classes"),
        ({"version": 0}, "`version` must be at least 1"),
        ({"formats": ("onnx", "caffe")}, "A format must be one of"),
        (
            {"formats": ("openvino",), "precision": "int8"},
            "`precision` must be one of: float32, float16 for openvino",
        ),
        ({"precision": "float64"}, "`precision` must be one of: float32, bf"),
        ({"precision": "int8"}, "int8 where `formats` are given that have it"),
    ):
        with pytest.raises(ValueError, match=message):
            export(model, directory, **options)
        assert not any(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(model, tmp_path):
    directory = tmp_path / "tiny"
    (directory / ".partial-x" / "1").mkdir(parents=True)
    (directory / ".partial-x" / "1" / "saved_model.pb").touch()
    # What others are writing is theirs.
    (directory / ".partial-y").mkdir()
    (directory / ".partial-y" / "best.keras").touch()
    (directory / "other" / ".partial-z" / "1").mkdir(parents=True)
    assert export(model, directory, warm_up=False).name == "1"
    assert {path.name for path in directory.iterdir()} == {
        "1",
        "other",
        ".partial-y",
    }
    assert (directory / "other" / ".partial-z" / "1").exists()


def test_the_signature_for_images_takes_any_size_if_the_model_does(tmp_path):
    import tensorflow as tf

    version = export(
        tiny_classifier((None, None, 3)),
        tmp_path / "tiny",
        preprocessing=RequestPreprocessing((16, 16, 3)),
        warm_up=False,
    )
    loaded = tf.saved_model.load(version)
    for shape in (8, 12, 3), (20, 16, 3):
        answers = loaded.signatures["serving_uint8"](
            images=tf.constant(random_images(2, shape))
        )
        np.testing.assert_allclose(
            tf.reduce_sum(answers["probabilities"], axis=-1), 1, rtol=1e-5
        )


def test_a_precision_of_the_saved_model(model, tmp_path):
    import tensorflow as tf

    version = export(
        model, tmp_path / "tiny", precision="bfloat16", warm_up=False
    )
    description = json.loads((version / "model.json").read_text())
    assert description["precision"] == "bfloat16"
    loaded = tf.saved_model.load(version)
    images = random_images(4)
    answers = loaded.signatures["serving_uint8"](images=tf.constant(images))
    expected = model.predict(images.astype("float32"), verbose=0)
    difference = np.abs(answers["probabilities"].numpy() - expected).max()
    # bfloat16 has three decimals.
    assert 0 < difference < 0.02
