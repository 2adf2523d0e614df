"""`lambda-keras convert`, from the command line, on small models."""

import hashlib
import re

import keras
import numpy as np
import pytest

from lambda_keras import cli
from lambda_keras.models import build_model
from lambda_keras.models import count_parameters
from lambda_keras.training import model_files
from lambda_keras.training.averages import WeightAverages
from lambda_keras.training.checkpoints import capture
from lambda_keras.training.checkpoints import write_checkpoint
from lambda_keras.training.recipe import Recipe
from lambda_keras.weights.conversion import save_as_timm
from lambda_keras.weights.conversion import weights_digest
from tests.weights.small_models import arrays_of
from tests.weights.small_models import random_model

VARIANTS = ["lambda_resnet_26t", "lambda_resnet_26rpt", "lambda_resnet_50ts"]
SHAPE = (64, 96, 3)
CLASSES = 5


def small(name="lambda_resnet_26t", input_shape=SHAPE):
    return random_model(name, CLASSES, width=4, input_shape=input_shape)


def convert(source, target, *flags):
    cli.main(["convert", f"--from={source}", f"--to={target}", *flags])
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of each kind, of a model and of others."""
    folder = tmp_path_factory.mktemp("files")
    model = small()
    save_as_timm(model, folder / "timm.safetensors")
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    build_model(
        "lambda_resnet_50", width=4, input_shape=(64, 64, 3), classes=2
    ).save(folder / "other.keras")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(
        folder / "dense.keras"
    )
    for name in ("broken.keras", "broken.safetensors", "step-00000001.npz"):
        (folder / name).write_text("nothing of the kind")
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").touch()
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_there_and_back_the_file_is_the_same_to_the_bit(name, tmp_path):
    model = small(name)
    first = tmp_path / "first.safetensors"
    save_as_timm(model, first)
    whole = convert(first, tmp_path / "model.keras")
    again = convert(whole, tmp_path / "again.safetensors")
    assert again.read_bytes() == first.read_bytes()
    loaded = keras.saving.load_model(whole)
    assert loaded.name == name
    # Windows do not tell a size; tables do, and of both axes.
    size = SHAPE[:2] if name == "lambda_resnet_26rpt" else (256, 256)
    assert loaded.input_shape == (None, *size, 3)
    assert loaded.output_shape == (None, CLASSES)
    expected = arrays_of(model)
    for weight, array in arrays_of(loaded).items():
        assert array.tobytes() == expected[weight].tobytes()


def test_weights_alone_are_converted_too(folder, tmp_path):
    weights = convert(
        folder / "timm.safetensors", tmp_path / "model.weights.h5"
    )
    again = convert(
        weights,
        tmp_path / "again.safetensors",
        "--architecture=LambdaResNet26T",
    )
    expected = (folder / "timm.safetensors").read_bytes()
    assert again.read_bytes() == expected


def test_what_was_done_is_said(folder, tmp_path, capsys):
    target = convert(folder / "model.keras", tmp_path / "timm.safetensors")
    lines = capsys.readouterr().out.splitlines()
    model = keras.saving.load_model(folder / "model.keras")
    assert lines[0] == (
        f"lambda_resnet_26t: {count_parameters(model):,} parameters, "
        "5 classes, images of 64x96"
    )
    rows = dict(line.split(maxsplit=1) for line in lines[1:5])
    assert rows["from"] == str(folder / "model.keras")
    assert rows["to"] == f"{target} ({target.stat().st_size / 1e6:,.1f} MB)"
    assert rows["weights"] == f"sha256 {weights_digest(model)}"
    file = hashlib.sha256(target.read_bytes()).hexdigest()
    assert rows["file"] == f"sha256 {file}"
    assert re.search(r"num_batches_tracked.* start at 0", lines[5])
    convert(target, tmp_path / "again.keras")
    printed = capsys.readouterr().out
    # The same in every file of these weights, and no word of counts.
    assert rows["weights"] in printed
    assert "start at 0" not in printed


def test_a_training_checkpoint_with_its_averages_or_without(tmp_path):
    shape = (8, 8, 1)
    model = random_model(
        "lambda_resnet_tiny", CLASSES, width=4, input_shape=shape
    )
    model.compile("sgd", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    averages = WeightAverages(0.9)
    averages.set_model(model)
    averages.set_state([0.7 * x for x in averages.get_state()])
    recipe = Recipe(model=model.name, width=4, average_momentum=0.9)
    facts = {
        "recipe": vars(recipe),
        "class_names": list("abcde"),
        "image_shape": shape,
    }
    state = capture(model, averages.get_state(), 7, facts)
    # What a run has that was stopped early.
    write_checkpoint(tmp_path / "run" / "checkpoints", state, keep=1)
    expected = arrays_of(model)
    for factor, flags in (0.7, ()), (1, ("--raw_weights",)):
        target = tmp_path / f"{factor}.keras"
        convert(tmp_path / "run", target, *flags)
        received = arrays_of(keras.saving.load_model(target))
        for weight, array in expected.items():
            np.testing.assert_array_equal(
                received[weight], np.float32(factor) * array
            )


def test_the_name_of_a_model_stands_for_its_hosted_weights(
    folder, tmp_path, monkeypatch
):
    asked = []

    def download(checkpoint):
        asked.append(checkpoint.spec.name)
        return folder / "timm.safetensors"

    monkeypatch.setattr(model_files, "download", download)
    target = convert("LambdaResNet26T", tmp_path / "hosted.keras")
    assert asked == ["lambda_resnet_26t"]
    expected = arrays_of(keras.saving.load_model(folder / "model.keras"))
    received = arrays_of(keras.saving.load_model(target))
    for weight, array in received.items():
        np.testing.assert_array_equal(array, expected[weight])


@pytest.mark.parametrize(
    ("source", "target", "flags", "message"),
    [
        (None, "new.keras", (), "`from` must be given. Received: from=None"),
        ("model.keras", None, (), "`to` must be given. Received: to=None"),
        ("model.keras", "new.h5", (), "ends in .keras, .weights.h5, .safet"),
        ("none.keras", "new.safetensors", (), "which does not exist"),
        ("lambda_resnet_50", "new.keras", (), "which does not exist"),
        ("saved", "new.safetensors", (), "what a model can be made from: a"),
        ("timm.safetensors", "model.keras", (), "a file that is not there"),
        ("timm.safetensors", "nowhere/x.keras", (), "directory that exists"),
        ("model.keras", "new.keras", (), "`to` must be another kind of file"),
        ("broken.keras", "new.safetensors", (), "`from` must be a model that"),
        ("broken.safetensors", "new.keras", (), "`from` must be a model that"),
        ("step-00000001.npz", "new.keras", (), "`from` must be a model that"),
        ("other.keras", "new.safetensors", (), "must be one that timm has, w"),
        ("dense.keras", "new.safetensors", (), "must be one that timm has, w"),
        ("model.weights.h5", "new.keras", (), "for a .weights.h5 file, and"),
        (
            "model.weights.h5",
            "new.keras",
            ("--architecture=lambda_resnet_50ts",),
            "`from` must be a model that can be read (",
        ),
        (
            "timm.safetensors",
            "new.keras",
            ("--architecture=lambda_resnet_26t",),
            "and for nothing else. Received: architecture=lambda_resnet_26t",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    source, target, flags, message, folder, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    given = {"from": source, "to": target}
    arguments = [f"--{k}={v}" for k, v in given.items() if v is not None]
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["convert", *arguments, *flags])
    assert exit_info.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("lambda-keras convert: ")
    assert message in line
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert after == before


def test_no_network_is_no_mistake(tmp_path, monkeypatch, capsys):
    def download(checkpoint):
        raise ConnectionError("there is no network")

    monkeypatch.setattr(model_files, "download", download)
    with pytest.raises(SystemExit) as exit_info:
        convert("LambdaResNet26T", tmp_path / "hosted.keras")
    assert exit_info.value.code == 1
    assert "convert: there is no network" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
