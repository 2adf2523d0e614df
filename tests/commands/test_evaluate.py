import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from lambda_keras import cli
from lambda_keras.data.digits import load_digits
from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.training.recipe import Recipe

pytest.importorskip("tensorflow")

ROOT = Path(__file__).parents[2]
CLASSES = tuple("0123456789")


def build(name="resnet_tiny", **kwargs):
    spec = dataclasses.replace(get_spec(name), **kwargs)
    model = build_model(spec, input_shape=(8, 8, 1), classes=10)
    # Untrained, it would give all classes the same probability.
    kernel = model.layers[-1].kernel
    kernel.assign(30 * kernel)
    return model


@pytest.fixture(scope="module")
def model():
    """A small model of random weights, which is right now and then."""
    keras.utils.set_random_seed(1)
    return build(width=8)


@pytest.fixture(scope="module")
def expected(model):
    test = load_digits().test
    predictions = model.predict(test.images.astype("float32"), verbose=0)
    rank = (-predictions).argsort(axis=-1) == test.labels[:, None]
    return {
        "accuracy": rank[:, 0].mean(),
        "top_5_accuracy": rank[:, :5].sum(axis=-1).mean(),
        "cross_entropy": -np.log(
            predictions[np.arange(len(rank)), test.labels]
        ).mean(),
    }


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    """The model in every form that knows its own architecture."""
    directory = tmp_path_factory.mktemp("run")
    model.save(directory / "best.keras")
    save_for_serving(model, directory / "saved_model")
    return directory


def save_for_serving(model, path):
    """A SavedModel without Keras' own export, which JAX would need more for."""
    import tensorflow as tf

    images = load_digits().test.images.astype("float32")
    module = tf.Module()
    module.table = tf.Variable(model.predict(images, verbose=0))

    @tf.function(
        input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32, "images")]
    )
    def serve(given):
        # The test images are the only ones that it knows.
        known = tf.constant(images)
        distance = tf.reduce_sum(
            tf.abs(given[:, None] - known[None]), axis=(2, 3, 4)
        )
        return {"classes": tf.gather(module.table, tf.argmin(distance, 1))}

    tf.saved_model.save(module, str(path), signatures=serve)


def evaluate(capsys, *arguments):
    cli.main(["evaluate", "--json", *arguments])
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def check(report, expected):
    assert report["examples"] == 360
    for name, value in expected.items():
        assert report[name] == pytest.approx(value, abs=2e-6, rel=1e-5)
    assert 0 < expected["accuracy"] < expected["top_5_accuracy"] < 1
    assert report["images_per_second"] > 0


@pytest.mark.parametrize("name", [".", "best.keras", "saved_model"])
def test_a_model_is_measured_whatever_holds_it(
    name, directory, expected, capsys
):
    # 360 images in batches of 50: the last one is padded.
    report = evaluate(capsys, f"--model={directory / name}", "--batch_size=50")
    check(report, expected)
    assert report["unreadable"] == 0
    assert report["versions"]["keras"] == keras.__version__


def test_a_file_of_weights_with_its_architecture(tmp_path, capsys):
    model = build()
    model.save_weights(tmp_path / "some.weights.h5")
    report = evaluate(
        capsys,
        f"--model={tmp_path / 'some.weights.h5'}",
        "--architecture=resnet_tiny",
        "--split=validation",
    )
    validation = load_digits().validation
    predictions = model.predict(validation.images.astype("float32"), verbose=0)
    right = predictions.argmax(axis=-1) == validation.labels
    assert report["examples"] == 179
    assert report["accuracy"] == pytest.approx(right.mean(), abs=1e-6)


@pytest.mark.tf_only
def test_a_file_of_timm_is_measured_like_its_model(tmp_path, capsys):
    import tensorflow as tf

    from lambda_keras.weights.conversion import save_as_timm

    model = build_model(
        "lambda_resnet_26rpt", width=4, input_shape=(64, 64, 3), classes=2
    )
    model.layers[-1].kernel.assign(100 * model.layers[-1].kernel)
    model.save(tmp_path / "model.keras")
    save_as_timm(model, tmp_path / "timm.safetensors")
    rng = np.random.default_rng(0)
    for number in range(20):
        image = rng.integers(0, 60 + 9 * number, (70, 90, 3), "uint8")
        path = tmp_path / "photos" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(image).numpy())
    report, expected = (
        evaluate(
            capsys,
            f"--model={tmp_path / name}",
            f"--dataset=folder:{tmp_path / 'photos'}",
            "--split=train",
        )
        for name in ("timm.safetensors", "model.keras")
    )
    assert report["examples"] == expected["examples"] > 10
    assert report["accuracy"] == expected["accuracy"]
    assert report["cross_entropy"] == expected["cross_entropy"] != np.log(2)


@pytest.mark.parametrize("flags", [(), ("--raw_weights",)])
def test_a_training_checkpoint_with_its_averages_or_without(
    flags, tmp_path, capsys
):
    from lambda_keras.training.averages import WeightAverages
    from lambda_keras.training.checkpoints import capture
    from lambda_keras.training.checkpoints import write_checkpoint

    model = build()
    model.compile("sgd", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    averages = WeightAverages(0.9)
    averages.set_model(model)
    images = load_digits().test.images.astype("float32")
    predictions = {False: model.predict(images, verbose=0)}
    averages.set_state([0.7 * x for x in averages.get_state()])
    with averages.applied():
        predictions[True] = model.predict(images, verbose=0)
    recipe = Recipe(model="resnet_tiny", average_momentum=0.9)
    facts = {"recipe": vars(recipe), "class_names": CLASSES}
    path = write_checkpoint(
        tmp_path / "checkpoints",
        capture(model, averages.get_state(), 7, facts),
        keep=1,
    )
    # By its own name, or as what a run has that was stopped early.
    model_flag = path if flags else tmp_path
    report = evaluate(capsys, f"--model={model_flag}", *flags)
    chosen = predictions[not flags]
    labels = load_digits().test.labels
    assert report["cross_entropy"] == pytest.approx(
        -np.log(chosen[np.arange(360), labels]).mean(), rel=1e-5
    )
    assert np.abs(predictions[True] - predictions[False]).max() > 1e-2


def test_text_for_people_and_a_file_for_programs(directory, tmp_path, capsys):
    output = tmp_path / "report.json"
    cli.main(["evaluate", f"--model={directory}", f"--output={output}"])
    printed = capsys.readouterr().out
    report = json.loads(output.read_text())
    assert f"top-1 accuracy     {report['accuracy']:.4f}\n" in printed
    assert f"top-5 accuracy     {report['top_5_accuracy']:.4f}\n" in printed
    assert "images             360\n" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`model` must be given. Received: model=None"),
        (["--model=nowhere"], "Received: model=nowhere, which does not exist"),
        (["--model={}/notes.txt"], ".keras, .npz, .safetensors or .weights.h5"),
        (["--model={}"], "must be a run directory, a SavedModel, or a file"),
        (["--model={}/broken.keras"], "must be a model that can be read ("),
        (["--model={}/step-00000001.npz"], "must be a model that can be read"),
        (["--model={}/x.weights.h5"], "must be given for a .weights.h5 file"),
        (
            ["--model={}/x.weights.h5", "--architecture=resnet_tiny"],
            "must be a model that can be read (",
        ),
        (
            ["--model={}/broken.keras", "--architecture=resnet_tiny"],
            "and for nothing else. Received: architecture=resnet_tiny",
        ),
        (["--model={}/small.keras"], "one for 10 classes. Received: model="),
        (["--model={}/letters"], "one for the classes 0, 1, 2, .... Received"),
        (["--model={}/large.keras"], "one for images of shape (8, 8, 1). Rec"),
        (["--model={}/map.keras"], "must give one vector of probabilities per"),
        (
            ["--model={}/good.keras", "--split=all"],
            "`split` must be train, val",
        ),
        (
            ["--model={}/good.keras", "--image_size=9"],
            "`image_size` must be le",
        ),
        (["--model={}/good.keras", "--dataset=letters"], "`dataset` must be "),
        (
            ["--model={}/good.keras", "--output={}"],
            "`output` must be a file in",
        ),
        (["--model={}/good.keras", "--output=a/b"], "Received: output=a/b"),
        (
            ["--model={}/good.keras", "--batch_size=0"],
            "`batch_size` must be at",
        ),
        (
            ["--model={}/saved", "--split=test"],
            "must be a model that can be re",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments, message, mistaken, capsys, monkeypatch
):
    monkeypatch.chdir(mistaken)
    before = sorted(mistaken.rglob("*"))
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["evaluate", *(x.format(mistaken) for x in arguments)])
    assert exit_info.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("lambda-keras evaluate: ")
    assert message in line
    assert sorted(mistaken.rglob("*")) == before


def test_a_split_without_labels_is_refused_before_it_is_read(tmp_path, capsys):
    from lambda_keras.data.record_writer import make_example
    from lambda_keras.data.record_writer import write_records

    # It would not even decode.
    examples = [make_example(b"no image")] * 3
    write_records(tmp_path, "test", examples, CLASSES)
    keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    ).save(tmp_path / "teacher.keras")
    with pytest.raises(SystemExit) as exit_info:
        evaluate(
            capsys,
            f"--model={tmp_path / 'teacher.keras'}",
            f"--dataset=tfrecord:{tmp_path}",
        )
    assert exit_info.value.code == 2
    assert "must have a label for each image. Rec" in capsys.readouterr().err


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mistaken")
    for name in ("notes.txt", "broken.keras", "step-00000001.npz"):
        (directory / name).write_text("nothing of the kind")
    (directory / "x.weights.h5").write_text("nothing of the kind")
    (directory / "saved").mkdir()
    (directory / "saved" / "saved_model.pb").write_text("nothing of the kind")
    for name, shape, layer in (
        ("good", (8, 8, 1), keras.layers.Dense(10)),
        ("small", (8, 8, 1), keras.layers.Dense(9)),
        ("large", (9, 8, 1), keras.layers.Dense(10)),
    ):
        layers = [keras.Input(shape), keras.layers.Flatten(), layer]
        keras.Sequential(layers).save(directory / f"{name}.keras")
    keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(3, 1)]).save(
        directory / "map.keras"
    )
    (directory / "letters").mkdir()
    shutil.copy(directory / "good.keras", directory / "letters" / "best.keras")
    (directory / "letters" / "summary.json").write_text(
        json.dumps({"class_names": list("abcdefghij")})
    )
    return directory


@pytest.mark.tf_only
def test_several_devices_measure_what_one_does(
    directory, expected, capsys, monkeypatch
):
    from lambda_keras.training import inference
    from lambda_keras.training.strategy import TensorFlowDistribution
    from tests.replicas import two_replicas

    two = TensorFlowDistribution("mirrored", two_replicas())
    monkeypatch.setattr(inference, "create_distribution", lambda **_: two)
    report = evaluate(
        capsys,
        f"--model={directory}",
        "--strategy=mirrored",
        "--batch_size=50",
    )
    check(report, expected)
    with pytest.raises(SystemExit):
        evaluate(
            capsys, f"--model={directory}/saved_model", "--strategy=mirrored"
        )
    assert "none or one_device for a SavedModel" in capsys.readouterr().err


@pytest.mark.tf_only
def test_the_program_says_nothing_else(directory):
    process = subprocess.run(
        [
            *(sys.executable, "-m", "lambda_keras", "evaluate", "--json"),
            f"--model={directory}",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr == ""
    assert process.returncode == 0
    assert json.loads(process.stdout)["examples"] == 360
