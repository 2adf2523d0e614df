import dataclasses
import json
import shutil

import numpy as np
import pytest

from lambda_keras.serving import runtimes
from lambda_keras.serving.check import CheckReport
from lambda_keras.serving.check import CheckRow
from lambda_keras.serving.check import check_version
from lambda_keras.serving.check import take_turns
from lambda_keras.serving.export import export_version
from lambda_keras.serving.formats import FORMATS
from lambda_keras.serving.images import RequestPreprocessing
from lambda_keras.serving.saved_model import SavedModelError
from tests.serving.models import random_images
from tests.serving.models import tiny_classifier

pytestmark = pytest.mark.tf_only

SHAPE = (8, 8, 3)
# Nothing here is about how fast anything is.
QUICK = {"rounds": 1, "seconds": 0.0}


@pytest.fixture(scope="module")
def model():
    return tiny_classifier(SHAPE)


@pytest.fixture(scope="module")
def version(model, tmp_path_factory):
    return export_version(
        model,
        tmp_path_factory.mktemp("models") / "tiny",
        preprocessing=RequestPreprocessing(SHAPE),
        formats=FORMATS,
        warm_up=False,
    )


def install(monkeypatch, *names):
    monkeypatch.setattr(runtimes, "is_installed", lambda name: name in names)


@pytest.fixture
def only_onnx_runtime(monkeypatch):
    """What starts in no time."""
    install(monkeypatch, runtimes.ONNX_RUNTIME)


def test_every_runtime_agrees_with_the_model(version, model):
    images = random_images(40, SHAPE)
    best = model.predict(images, verbose=0).argmax(axis=-1)
    # Right for half of them.
    labels = np.where(np.arange(40) % 2, best, (best + 1) % 6)
    told = []
    report = check_version(version, model, images, labels, told.append, **QUICK)
    first, *rows = report.rows
    assert (first.name, first.largest_difference) == (
        "Keras: Model.predict",
        None,
    )
    assert [row.name for row in rows] == [
        "TensorFlow: serving_default",
        "TensorFlow: serving_uint8",
        "TensorFlow: serving_bytes",
        "saved_model_cli: serving_default",
        "saved_model_cli: serving_bytes",
        "OpenVINO: serving_default",
        "ONNX Runtime: model.onnx",
        "LiteRT: model.tflite",
        "OpenVINO: model.xml",
    ]
    assert told[1:10] == [row.name for row in rows]
    for row in rows:
        assert row.largest_difference < 1e-5, row
        assert row.same_top_1 == row.images, row
        is_program = "saved_model_cli" in row.name
        assert row.images == (32 if is_program else 40)
        assert set(row.images_per_second) == (set() if is_program else {1, 32})
        assert all(speed > 0 for speed in row.images_per_second.values())
        # Of those files evaluation would take the center, which are other
        # pixels, and whose classes nobody knows.
        is_cropped = "serving_bytes" in row.name
        assert row.accuracy_lost == (None if is_cropped else 0), row
    assert first.accuracy == rows[0].accuracy == 0.5
    assert not any("not installed" in note for note in report.notes)


def test_what_is_not_installed_is_said(version, model, only_onnx_runtime):
    images, unknown = random_images(3, SHAPE), np.full(3, -1)
    report = check_version(version, model, images, unknown, **QUICK)
    assert [row.name for row in report.rows[1:]] == ["ONNX Runtime: model.onnx"]
    assert {row.accuracy for row in report.rows} == {None}
    assert [note for note in report.notes if "not installed" in note] == [
        f"Not run, because it is not installed: {name}."
        for name in (
            "TensorFlow: serving_default",
            "TensorFlow: serving_uint8",
            "TensorFlow: serving_bytes",
            "saved_model_cli: serving_default",
            "saved_model_cli: serving_bytes",
            "OpenVINO: serving_default",
            "LiteRT: model.tflite",
            "OpenVINO: model.xml",
        )
    ]


def test_another_model_is_an_error(version, only_onnx_runtime):
    other = tiny_classifier(SHAPE)
    other.set_weights([2 * weight for weight in other.get_weights()])
    message = "model.onnx must predict as the model does: .* Agreement"
    with pytest.raises(SavedModelError, match=message):
        check_version(version, other, random_images(3, SHAPE), **QUICK)


def test_other_pixels_are_an_error(version, model, tmp_path, monkeypatch):
    """A version that says that it crops otherwise than it does."""
    install(monkeypatch, runtimes.SAVED_MODEL_CLI)
    lying = tmp_path / "1"
    shutil.copytree(version, lying)
    description = json.loads((lying / "model.json").read_text())
    description["preprocessing"]["crop"] = "whole"
    (lying / "model.json").write_text(json.dumps(description))
    with pytest.raises(SavedModelError, match="must predict as the model does"):
        check_version(lying, model, random_images(3, SHAPE), **QUICK)


def test_half_precision_may_differ(model, tmp_path, monkeypatch):
    install(monkeypatch, runtimes.TENSORFLOW, runtimes.OPENVINO)
    version = export_version(
        model,
        tmp_path / "half",
        preprocessing=RequestPreprocessing(SHAPE),
        precision="bfloat16",
        warm_up=False,
    )
    images = random_images(5, SHAPE)
    report = check_version(version, model, images, **QUICK)
    assert [(row.name, row.precision) for row in report.rows] == [
        ("Keras: Model.predict", "float32"),
        ("TensorFlow: serving_default", "bfloat16"),
        ("TensorFlow: serving_uint8", "bfloat16"),
        ("TensorFlow: serving_bytes", "bfloat16"),
    ]
    assert report.rows[1].largest_difference > 1e-4
    # Which cannot read it.
    (note,) = (x for x in report.notes if x.startswith("Not run: "))
    assert note == (
        "Not run: OpenVINO: serving_default, which takes no SavedModel in "
        "bfloat16."
    )


def test_integers_are_those_of_other_formats(model, tmp_path, monkeypatch):
    install(monkeypatch, runtimes.ONNX_RUNTIME, runtimes.LITERT)
    version = export_version(
        model,
        tmp_path / "integers",
        preprocessing=RequestPreprocessing(SHAPE),
        formats=("onnx", "litert"),
        precision="int8",
        warm_up=False,
    )
    images = random_images(40, SHAPE)
    labels = model.predict(images, verbose=0).argmax(axis=-1)
    report = check_version(version, model, images, labels, **QUICK)
    assert [(row.name, row.precision) for row in report.rows] == [
        ("Keras: Model.predict", "float32"),
        ("ONNX Runtime: model.onnx", "int8"),
        ("LiteRT: model.tflite", "int8"),
    ]
    # LiteRT leaves weights of fewer than 1,024 numbers as they are.
    assert report.rows[1].largest_difference > 1e-4
    for row in report.rows[1:]:
        assert row.accuracy == row.same_top_1 / 40
        assert row.accuracy_lost == pytest.approx(1 - row.accuracy)


def test_what_is_no_number_is_an_error(version, only_onnx_runtime):
    broken = tiny_classifier(SHAPE)
    broken.set_weights([weight * np.nan for weight in broken.get_weights()])
    with pytest.raises(SavedModelError, match="must predict as the model does"):
        check_version(version, broken, random_images(2, SHAPE), **QUICK)


def test_no_images(version, model):
    with pytest.raises(ValueError, match=r"images.shape=\(0, 8, 8, 3\)"):
        check_version(version, model, random_images(0, SHAPE))


def test_turns_are_fair():
    log = []

    def turn(name, seconds_per_step):
        def run(batch_size, steps):
            log.append((name, batch_size, steps))
            return steps * seconds_per_step

        return run

    turns = [turn("a", 0.25), None, turn("b", 0.5)]
    speeds = take_turns(turns, rounds=3, seconds=1, tell=lambda line: None)
    assert speeds == [{1: 4, 32: 128}, {}, {1: 2, 32: 64}]
    # Both warm up, and the first says how many steps are long enough.
    of_one = [entry for entry in log if entry[1] == 1]
    assert "".join(name for name, _, _ in of_one[:8]) == "ab" + "aa" * 3
    # Then both do the same, and each is first in turn.
    assert of_one[8:] == [(name, 1, 4) for name in "abbaab"]


def test_a_stall_in_one_turn_does_not_count():
    seconds = iter([1, 9, 1, 1, 9, 1] * 2)
    speeds = take_turns([lambda size, steps: next(seconds)], 3, 0.5, print)
    assert speeds == [{1: 1, 32: 32}]


def test_a_report_is_a_table_for_people():
    row = CheckRow(
        name="LiteRT: model.tflite",
        precision="int8",
        images=400,
        largest_difference=0.012,
        same_top_1=398,
        accuracy=0.975,
        accuracy_lost=0.005,
        images_per_second={1: 1234.5, 32: 5678.9},
    )
    bare = dataclasses.replace(
        row, accuracy=None, accuracy_lost=None, images_per_second={}
    )
    lines = str(CheckReport((row, bare), ("A note.",))).splitlines()

    def cells(line):
        return [cell.strip() for cell in line.strip("|").split("|")]

    assert cells(lines[0]) == [
        *("", "precision", "images", "largest difference", "same top-1"),
        *("accuracy", "lost", "images/s, batch 1", "images/s, batch 32"),
    ]
    assert cells(lines[2]) == [
        *("LiteRT: model.tflite", "int8", "400", "1.2e-02", "398/400"),
        *("97.50%", "0.50%", "1,234", "5,679"),
    ]
    assert cells(lines[3])[5:] == ["-", "-", "-", "-"]
    assert lines[4:] == ["", "A note."]
