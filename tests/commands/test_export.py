import json

import numpy as np
import pytest

from lambda_keras.commands import FAILED
from lambda_keras.commands import MISTAKE
from lambda_keras.commands import CommandError
from lambda_keras.models import count_parameters
from lambda_keras.serving.settings import ExportSettings
from lambda_keras.weights.conversion import weights_digest
from tests.serving.models import CLASS_NAMES
from tests.serving.models import random_images
from tests.serving.models import tiny_classifier

pytestmark = pytest.mark.tf_only


def export(**flags):
    from lambda_keras.commands.export import run

    run(ExportSettings(**flags))


def answers_of(version, images):
    import tensorflow as tf

    loaded = tf.saved_model.load(version)
    signature = loaded.signatures["serving_bytes"]
    encoded = [tf.io.encode_png(image) for image in images]
    return {
        name: answer.numpy()
        for name, answer in signature(image_bytes=tf.stack(encoded)).items()
    }


def described(version):
    return json.loads((version / "model.json").read_text())


@pytest.fixture(scope="module")
def model():
    return tiny_classifier()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "tiny.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def finished_run(model, tmp_path_factory):
    """What a run leaves that is read here."""
    directory = tmp_path_factory.mktemp("runs") / "mine"
    directory.mkdir()
    model.save(directory / "best.keras")
    recipe = {"dataset": "folder:photos", "data_dir": None}
    summary = {"class_names": CLASS_NAMES, "crop": "whole"}
    (directory / "recipe.json").write_text(json.dumps(recipe))
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def test_a_finished_run_says_classes_and_preprocessing(
    finished_run, model, tmp_path, capsys
):
    directory = tmp_path / "models" / "mine"
    export(model=str(finished_run), output_dir=str(directory), top_k=2)
    version = directory / "1"
    assert described(version)["preprocessing"]["crop"] == "whole"
    images = random_images(3)
    answers = answers_of(version, images)
    expected = model.predict(images.astype("float32"), verbose=0)
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-6)
    assert answers["labels"][:, 0].tolist() == [
        CLASS_NAMES[index].encode() for index in expected.argmax(axis=-1)
    ]
    printed = capsys.readouterr().out
    assert f"tiny_classifier, {count_parameters(model):,} parameters" in printed
    assert f"predict --model={directory} --images=" in printed


def test_a_run_that_goes_on_says_less(finished_run, tmp_path, capsys):
    """Its class names and its crop come with the summary."""
    run = tmp_path / "run"
    run.mkdir()
    for name in "best.keras", "recipe.json":
        (run / name).write_bytes((finished_run / name).read_bytes())
    export(model=str(run), output_dir=str(tmp_path / "tiny"))
    version = tmp_path / "tiny" / "1"
    assert described(version)["preprocessing"]["crop"] == "center"
    labels = (version / "assets" / "labels.txt").read_text().split()
    assert labels == ["0", "1", "2", "3", "4", "5"]
    assert "Its labels are numbers" in capsys.readouterr().out


def test_scans_of_one_channel_are_taken_whole(tmp_path):
    tiny_classifier((8, 8, 1)).save(tmp_path / "scans.keras")
    for crop, expected in ("auto", "whole"), ("center", "center"):
        export(
            model=str(tmp_path / "scans.keras"),
            output_dir=str(tmp_path / crop),
            crop=crop,
            warm_up=False,
        )
        preprocessing = described(tmp_path / crop / "1")["preprocessing"]
        assert preprocessing["crop"] == expected
        assert preprocessing["image_shape"] == [8, 8, 1]


def test_weights_of_a_named_model(tmp_path):
    from lambda_keras.models import build_model

    model = build_model("lambda_resnet_tiny", input_shape=(8, 8, 1), classes=10)
    model.save_weights(tmp_path / "tiny.weights.h5")
    export(
        model=str(tmp_path / "tiny.weights.h5"),
        architecture="lambda_resnet_tiny",
        output_dir=str(tmp_path / "tiny"),
        dataset="digits",
        warm_up=False,
    )
    description = described(tmp_path / "tiny" / "1")
    assert description["spec"]["name"] == "lambda_resnet_tiny"
    assert description["num_classes"] == 10


def test_a_file_of_timm_is_exported_like_its_model(tmp_path, monkeypatch):
    from lambda_keras.commands import export as command
    from lambda_keras.models import build_model
    from lambda_keras.weights.conversion import save_as_timm

    shape = (64, 64, 3)
    model = build_model(
        "lambda_resnet_26rpt", width=4, input_shape=shape, classes=1000
    )
    names = tuple(f"number {index}" for index in range(1000))
    # In the place of a download.
    monkeypatch.setattr(command, "imagenet_class_names", lambda: names)
    save_as_timm(model, tmp_path / "timm.safetensors")
    export(
        model=str(tmp_path / "timm.safetensors"),
        output_dir=str(tmp_path / "timm"),
        warm_up=False,
    )
    version = tmp_path / "timm" / "1"
    description = described(version)
    assert description["spec"]["name"] == "lambda_resnet_26rpt"
    assert description["input_shape"] == list(shape)
    assert description["weights_sha256"] == weights_digest(model)
    assert (version / "assets" / "labels.txt").read_text().split("\n") == [
        *names,
        "",
    ]
    with pytest.raises(CommandError, match="weights fit images of any size"):
        export(
            model=str(tmp_path / "timm.safetensors"),
            output_dir=str(tmp_path / "any"),
            dynamic_size=True,
        )


def test_another_size_and_any_size(file, model, tmp_path):
    import tensorflow as tf

    common = {"model": str(file), "warm_up": False}
    export(image_size=12, output_dir=str(tmp_path / "larger"), **common)
    description = described(tmp_path / "larger" / "1")
    assert description["input_shape"] == [12, 12, 3]
    export(dynamic_size=True, output_dir=str(tmp_path / "any"), **common)
    version = tmp_path / "any" / "1"
    # What is encoded still becomes images of one size.
    assert described(version)["preprocessing"]["image_shape"] == [8, 8, 3]
    loaded = tf.saved_model.load(version)
    images = tf.constant(random_images(2, (10, 14, 3)))
    answers = loaded.signatures["serving_uint8"](images=images)
    assert answers["probabilities"].shape == (2, 6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model": "missing"}, r"`model` must be .* does not exist$"),
        ({"model": "broken.keras"}, r"`model` must be a model that can be re"),
        ({"model": "exported"}, "must be what a SavedModel can be made from"),
        ({"architecture": "lambda_resnet_50"}, "`architecture` must be given"),
        ({"formats": "openvino", "precision": "int8"}, "for openvino"),
        ({"precision": "int8"}, "where `formats` are given"),
        ({"output_dir": "broken.keras/x"}, "directory that can be written to"),
        ({"output_dir": "gs://bucket/x"}, "on a disk of this machine"),
        ({"output_dir": "exported", "version": 1}, "that is not there yet"),
        ({"model": "any.keras"}, "`image_size` must be given for a model"),
        ({"model": "wide.keras", "crop": "center"}, "where images are not sq"),
        ({"model": "global.keras", "dynamic_size": True}, "of any size"),
        ({"dataset": "digits"}, r"as many classes as the model, 6\. Received"),
        ({"dataset": "folder:missing"}, "folder"),
        ({"dataset": "web:x", "check": True}, "`dataset` must be one of"),
    ],
)
def test_mistakes_are_a_line_and_leave_nothing(
    flags, message, file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.keras").write_bytes(b"nothing")
    (tmp_path / "exported" / "1").mkdir(parents=True)
    (tmp_path / "exported" / "1" / "saved_model.pb").touch()
    for name, shape, field in (
        ("any.keras", (None, None, 3), 3),
        ("wide.keras", (8, 12, 3), 3),
        ("global.keras", (8, 8, 3), None),
    ):
        if flags.get("model") == name:
            tiny_classifier(shape, field).save(name)
    if flags.get("model") == "exported":
        flags = {**flags, "model": "exported/1"}
    before = set(tmp_path.rglob("*"))
    given = {"model": str(file), "output_dir": "new/tiny", **flags}
    with pytest.raises(CommandError, match=message) as error:
        export(**given)
    assert error.value.status == MISTAKE
    assert "\n" not in str(error.value)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "`model` must be given"),
        ({"model": "runs/mine"}, "`output_dir` must be given"),
        ({"formats": "onnx,caffe"}, "some of onnx, litert, openvino"),
        ({"precision": "float64"}, "one of: float32, bfloat16, float16, int8"),
        ({"crop": "left"}, "`crop` must be one of: auto, center, whole"),
        ({"top_k": 0}, "`top_k` must be at least 1"),
        ({"max_pixels": 2**40}, r"`max_pixels` must be from 1 to 2147483648\."),
        ({"version": 2**63}, "`version` must be from 1 to 9223372036854775807"),
    ],
)
def test_settings_that_are_not_allowed(flags, message):
    with pytest.raises(ValueError, match=message):
        ExportSettings(**flags)


def test_each_format_is_written_once():
    settings = ExportSettings(
        model="m", output_dir="o", formats="openvino,onnx,onnx"
    )
    assert settings.format_names == ["onnx", "openvino"]


def test_what_disagrees_with_the_model_never_appears(
    file, tmp_path, monkeypatch
):
    from lambda_keras.commands import export as command
    from lambda_keras.serving.saved_model import SavedModelError

    def disagree(*arguments):
        raise SavedModelError("it predicts something else")

    monkeypatch.setattr(command, "check_version", disagree)
    with pytest.raises(CommandError, match="something else") as error:
        export(model=str(file), output_dir=str(tmp_path / "tiny"), check=True)
    assert error.value.status == FAILED
    assert not any(tmp_path.iterdir())


def test_an_exported_version_can_be_evaluated(file, tmp_path):
    from lambda_keras.training.predictor import load_predictor
    from lambda_keras.training.strategy import create_distribution

    export(model=str(file), output_dir=str(tmp_path / "tiny"), warm_up=False)
    predictor = load_predictor(
        tmp_path / "tiny" / "1", create_distribution(), (8, 8, 3), CLASS_NAMES
    )
    assert predictor.image_shape == (8, 8, 3)
    assert predictor.num_classes == 6


def test_a_lower_precision_is_always_checked(
    file, model, tmp_path, monkeypatch, capsys
):
    from lambda_keras.commands import export as command

    checked = []

    def check(version, its_model, images, labels, tell):
        checked.append((version.name, images.shape, labels))
        return "the table"

    monkeypatch.setattr(command, "check_version", check)
    flags = {"model": str(file), "output_dir": str(tmp_path / "tiny")}
    export(**flags, warm_up=False)
    assert not checked
    assert "the table" not in capsys.readouterr().out
    export(**flags, precision="bfloat16", check_images=4, warm_up=False)
    ((version, shape, labels),) = checked
    assert (version, shape) == ("2", (4, 8, 8, 3))
    assert (labels < 0).all(), "noise has no labels"
    assert "the table" in capsys.readouterr().out


def test_the_classes_of_the_images_must_be_those_of_the_model(
    finished_run, tmp_path
):
    from PIL import Image

    photos = tmp_path / "photos" / "train"
    for name in "cow", "hen", "owl", "pig", "rat", "yak":
        (photos / name).mkdir(parents=True)
        Image.fromarray(random_images(1)[0]).save(photos / name / "1.png")
    flags = {"model": str(finished_run), "output_dir": str(tmp_path / "tiny")}
    message = r"the model's classes, ant, bee, cat, \.\.\.\. Received: dataset="
    with pytest.raises(CommandError, match=message):
        export(dataset=f"folder:{tmp_path / 'photos'}", split="train", **flags)
    assert not (tmp_path / "tiny").exists()


def test_images_to_check_with_are_of_all_classes():
    from lambda_keras.commands.export import _sample
    from lambda_keras.data.dataset import Split

    split = Split(np.arange(100), np.arange(100) // 10)
    assert set(_sample(split, 20).labels) == set(range(10))
    assert len(_sample(split, 20)) == 20
    assert len(_sample(split, 200)) == 100


@pytest.mark.parametrize(
    ("recipe", "crop"),
    [
        ({"dataset": "digits", "image_size": None}, "whole"),
        ({"dataset": "folder:photos", "image_size": None}, "center"),
        ({"dataset": "tfds:imagenet2012", "image_size": 8}, "center"),
        ({"dataset": "tfds:cifar10", "image_size": None}, None),
    ],
)
def test_a_run_that_goes_on_crops_as_its_recipe_says(
    file, tmp_path, recipe, crop
):
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.keras").write_bytes(file.read_bytes())
    (run / "recipe.json").write_text(json.dumps({"data_dir": None, **recipe}))
    # A link may be anywhere.
    (tmp_path / "link.keras").symlink_to(run / "best.keras")
    flags = {"output_dir": str(tmp_path / "tiny"), "warm_up": False}
    if crop is None:
        with pytest.raises(CommandError, match="`crop` must be center or who"):
            export(model=str(run), **flags)
        return
    for number, model in enumerate((run, tmp_path / "link.keras"), 1):
        export(model=str(model), **flags)
        version = tmp_path / "tiny" / str(number)
        assert described(version)["preprocessing"]["crop"] == crop


@pytest.mark.parametrize("name", ["run", "checkpoints/step-00000007.npz"])
def test_a_checkpoint_knows_shape_and_classes(tmp_path, name, monkeypatch):
    from lambda_keras.models import build_model
    from lambda_keras.training.checkpoints import capture
    from lambda_keras.training.checkpoints import write_checkpoint
    from lambda_keras.training.recipe import Recipe
    from lambda_keras.training.specs import find_spec

    # Larger than the model's default.
    shape = (12, 12, 3)
    spec = find_spec("lambda_resnet_tiny", channels=3)
    model = build_model(spec, input_shape=shape, classes=6)
    model.compile("sgd", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    recipe = Recipe(model="lambda_resnet_tiny", dataset="tfds:tiny")
    facts = {
        "recipe": vars(recipe),
        "class_names": CLASS_NAMES,
        "image_shape": shape,
    }
    run = tmp_path / "run"
    write_checkpoint(run / "checkpoints", capture(model, [], 7, facts), keep=1)
    (run / "recipe.json").write_text(json.dumps(vars(recipe)))
    monkeypatch.chdir(run)
    path = ".." if name == "run" else "."
    export(
        model=f"{path}/{name}",
        output_dir=str(tmp_path / "tiny"),
        crop="whole",
        warm_up=False,
    )
    version = tmp_path / "tiny" / "1"
    assert described(version)["input_shape"] == [12, 12, 3]
    labels = (version / "assets" / "labels.txt").read_text().split()
    assert tuple(labels) == CLASS_NAMES
    images = random_images(2, shape)
    np.testing.assert_allclose(
        answers_of(version, images)["probabilities"],
        model.predict(images.astype("float32"), verbose=0),
        atol=1e-5,
    )
