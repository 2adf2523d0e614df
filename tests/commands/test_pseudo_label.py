import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from lambda_keras import cli
from lambda_keras.commands import pseudo_label
from lambda_keras.data.digits import load_digits
from lambda_keras.training import pseudo_labels
from lambda_keras.training.predictions import PredictionFiles

ROOT = Path(__file__).parents[2]


def build(shape, classes, scale):
    """A teacher of random weights: more or less sure, of any class."""
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Rescaling(scale, -128 * scale),
            keras.layers.AveragePooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    build((8, 8, 1), 10, 1 / 100).save(path)
    return path


@pytest.fixture(scope="module")
def unlabelled():
    from lambda_keras.data.sources import load_split

    return load_split("digits", "unlabelled", labels=1000)[0].images


def flags(teacher, output_dir, *others):
    return [
        *("pseudo_label", f"--model={teacher}", f"--output_dir={output_dir}"),
        *("--labels=1000", "--batch_size=32", "--save_batches=3"),
        *("--min_confidence=0.4", "--per_class=30", "--shards=3", *others),
    ]


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    directory = tmp_path_factory.mktemp("pseudo") / "labels"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        cli.main(flags(teacher, directory))
    printed_by[directory] = printed.getvalue()
    return directory


printed_by: dict[Path, str] = {}


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def read(directory, count):
    """Reads the records with the parser of `tf.train.Example`."""
    import tensorflow as tf

    paths = sorted(map(str, directory.glob("train-*")))
    assert len(paths) == count
    return [
        tf.train.Example.FromString(record).features.feature
        for record in tf.data.TFRecordDataset(paths).as_numpy_iterator()
    ]


def expected(teacher, images):
    """Which images are kept, by a loop over them, and the probabilities."""
    model = keras.saving.load_model(teacher)
    probabilities = model.predict(images.astype("float32"), verbose=0)
    confidence = probabilities.max(axis=-1)
    kept, taken = [], np.zeros(probabilities.shape[1], int)
    for index in np.argsort(-confidence, kind="stable"):
        label = probabilities[index].argmax()
        if confidence[index] >= 0.4 and taken[label] < 30:
            taken[label] += 1
            kept.append(index)
    return sorted(kept), taken, probabilities


def test_every_file_is_there_and_nothing_else(finished):
    assert sorted(contents(finished)) == [
        "labels.txt",
        "pseudo_labels.json",
        "pseudo_labels.png",
        "recipe.json",
        "train-00000-of-00003",
        "train-00001-of-00003",
        "train-00002-of-00003",
    ]


def test_records_are_the_images_with_the_teachers_labels(
    finished, teacher, unlabelled
):
    import tensorflow as tf

    kept, _, probabilities = expected(teacher, unlabelled)
    records = read(finished, 3)
    assert len(records) == len(kept)
    for index, record in zip(kept, records):
        image = tf.io.decode_png(record["image/encoded"].bytes_list.value[0])
        np.testing.assert_array_equal(image, unlabelled[index])
        np.testing.assert_allclose(
            record["image/class/probabilities"].float_list.value,
            probabilities[index],
            atol=1e-3,
        )
        (label,) = record["image/class/label"].int64_list.value
        assert label == 1 + probabilities[index].argmax()
        assert record["image/class/text"].bytes_list.value == [
            str(label - 1).encode()
        ]
        assert record["image/filename"].bytes_list.value == [
            f"digits/unlabelled/{index}".encode()
        ]


def test_the_report_counts_by_class(finished, teacher, unlabelled):
    kept, taken, probabilities = expected(teacher, unlabelled)
    report = json.loads((finished / "pseudo_labels.json").read_text())
    assert report["images"] == len(unlabelled) == 258
    assert report["kept"] == report["written"] == len(kept)
    assert [row["kept"] for row in report["classes"]] == taken.tolist()
    is_sure = probabilities.max(axis=-1) >= 0.4
    assert [row["confident"] for row in report["classes"]] == np.bincount(
        probabilities.argmax(axis=-1)[is_sure], minlength=10
    ).tolist()
    # Both the threshold and the limit leave some out.
    assert len(kept) < report["confident"] < report["images"]
    assert report["unreadable"] == 0
    assert report["teacher"] == str(teacher)
    assert len(report["teacher_sha256"]) == 64
    assert report["versions"]["keras"] == keras.__version__
    labels = (finished / "labels.txt").read_text().splitlines()
    assert labels == [row["name"] for row in report["classes"]]


def test_the_picture_is_a_png_of_the_promised_size(finished):
    header = contents(finished)["pseudo_labels.png"][:24]
    assert header.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", header[16:]) == (1000, 400)


def test_what_is_printed_is_what_is_in_the_report(finished):
    printed = printed_by[finished]
    report = json.loads((finished / "pseudo_labels.json").read_text())
    assert "labels 258 images of digits (unlabelled) on one device" in printed
    assert f"Kept {report['kept']} of 258 images" in printed
    for row in report["classes"]:
        numbers = [str(row[x]) for x in ("confident", "kept", "written")]
        assert [row["name"], *numbers] in map(str.split, printed.splitlines())


def test_training_reads_the_soft_labels(finished):
    """All of the way: through the source of records and the mixed batches."""
    from lambda_keras.data.dataset import Affine
    from lambda_keras.data.pipeline import mixed_training_batches
    from lambda_keras.data.preprocessing import Preprocessing
    from lambda_keras.data.sources import load_split

    pseudo, names = load_split(f"tfrecord:{finished}", "train")
    digits = load_digits()
    assert names == digits.class_names
    # Without augmentation, an image says which record it was.
    soft = {}
    for record in read(finished, 3):
        image = digits_image(record["image/encoded"].bytes_list.value[0])
        soft[image.tobytes()] = np.array(
            record["image/class/probabilities"].float_list.value, "float32"
        )
    batches = mixed_training_batches(
        digits.train.part(0, 40),
        pseudo,
        0.5,
        Preprocessing(affine=Affine()),
        batch_size=16,
        num_classes=10,
    )
    found = 0
    for images, labels, weights in batches.take(4).as_numpy_iterator():
        assert images.shape == (16, 8, 8, 1)
        assert weights.tolist() == [1] * 16
        for image, label in zip(images, labels):
            key = image.round().astype("uint8").tobytes()
            if key in soft and label.max() < 1:
                np.testing.assert_allclose(label, soft[key], rtol=1e-6)
                found += 1
    assert found == 4 * 8


def digits_image(png):
    import tensorflow as tf

    return tf.io.decode_png(png).numpy()


@pytest.mark.tf_only
def test_a_recipe_mixes_them_into_every_batch(finished):
    from lambda_keras.training.preparation import prepare
    from lambda_keras.training.recipe import Recipe

    prepared = prepare(
        Recipe(
            model="resnet_tiny",
            labels=100,
            pseudo=str(finished),
            pseudo_share=0.75,
        )
    )
    # An epoch is a pass over the 100: eight of them in each batch of 32.
    assert prepared.steps == 12
    for images, labels, _ in prepared.training_data(0).take(2):
        assert images.shape == (32, 8, 8, 1)
        assert np.sum(labels.numpy().max(axis=-1) < 1) == 24


@pytest.mark.slow
@pytest.mark.tf_only
def test_a_student_is_trained_on_both(finished, tmp_path, capsys):
    cli.main(
        [
            *("train", "--model=resnet_tiny", "--epochs=1", "--labels=100"),
            *(f"--pseudo={finished}", "--pseudo_share=0.75"),
            *("--batch_size=64", f"--output_dir={tmp_path / 'student'}"),
        ]
    )
    summary = json.loads((tmp_path / "student" / "summary.json").read_text())
    assert summary["recipe"]["pseudo"] == str(finished)
    assert 0 < summary["test_accuracy"] < 1
    (epoch,) = (tmp_path / "student" / "history.csv").read_text().split()[1:]
    assert np.isfinite(float(epoch.split(",")[2]))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """JPEG files in a folder for each class, one of them broken."""
    import tensorflow as tf

    directory = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for index in range(12):
        pixels = random.integers(0, 256, (9, 7, 3))
        image = tf.image.resize(pixels, (40, 30 + index))
        encoded = tf.io.encode_jpeg(tf.cast(image, tf.uint8)).numpy()
        if index == 5:
            encoded = encoded[:100]
        folder = directory / "train" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.jpg").write_bytes(encoded)
    build((16, 16, 3), 2, 1 / 10).save(directory / "teacher.keras")
    return directory


def label_photographs(photographs, output_dir, *others):
    cli.main(
        [
            *("pseudo_label", f"--model={photographs / 'teacher.keras'}"),
            *(f"--dataset=folder:{photographs}", "--split=train"),
            *("--batch_size=4", "--shards=2", "--min_confidence=0"),
            *(f"--output_dir={output_dir}", "--per_class=20", *others),
        ]
    )


def test_files_keep_their_bytes_and_broken_ones_are_left_out(
    photographs, tmp_path, capsys
):
    label_photographs(
        photographs, tmp_path / "out", "--max_bad_images=0.1", "--kind=hard"
    )
    files = {path.read_bytes(): path for path in photographs.rglob("*.jpg")}
    records = read(tmp_path / "out", 2)
    assert len(records) == 11
    for record in records:
        path = files[record["image/encoded"].bytes_list.value[0]]
        assert path.name != "5.jpg"
        (name,) = record["image/filename"].bytes_list.value
        assert name.decode().endswith(f"{path.parent.name}/{path.name}")
        assert record["image/format"].bytes_list.value == [b"JPEG"]
        assert "image/class/probabilities" not in record
    report = json.loads((tmp_path / "out" / "pseudo_labels.json").read_text())
    assert (report["unreadable"], report["kept"]) == (1, 11)
    # The source has labels, and the teacher is compared with them.
    right = sum(
        record["image/class/text"].bytes_list.value[0].decode()
        == files[record["image/encoded"].bytes_list.value[0]].parent.name
        for record in records
    )
    assert (report["with_known_class"], report["of_these_right"]) == (11, right)
    assert "1 could not be read." in capsys.readouterr().out


def test_too_many_broken_images_are_one_line(photographs, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        label_photographs(photographs, tmp_path / "out")
    assert exit_info.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 12 images could not be read" in line
    assert "5.jpg" in line


def test_records_are_labelled_and_repeated(photographs, tmp_path):
    """Records of another source, the more confident ones more than once."""
    from lambda_keras.data import record_writer

    files = sorted((photographs / "train" / "a").iterdir())
    record_writer.write_records(
        tmp_path / "source",
        "unlabelled",
        [
            record_writer.make_example(path.read_bytes(), filename=path.name)
            for path in files
        ],
        ("a", "b"),
        shards=2,
    )
    cli.main(
        [
            *("pseudo_label", f"--model={photographs / 'teacher.keras'}"),
            *(f"--dataset=tfrecord:{tmp_path / 'source'}", "--shards=2"),
            *("--split=unlabelled", "--min_confidence=0", "--repeat"),
            *(f"--output_dir={tmp_path / 'out'}", "--per_class=7"),
        ]
    )
    labels = (tmp_path / "out" / "labels.txt").read_text()
    assert labels == "a\nb\n"
    report = json.loads((tmp_path / "out" / "pseudo_labels.json").read_text())
    assert report["kept"] == len(files) == 6
    given = [row["written"] for row in report["classes"]]
    assert sorted(given) in ([0, 7], [7, 7])
    images = [path.read_bytes() for path in files]
    places = [
        images.index(record["image/encoded"].bytes_list.value[0])
        for record in read(tmp_path / "out", 2)
    ]
    # In the order of the source, repetitions side by side.
    assert places == sorted(places)
    assert set(places) == set(range(6))
    assert len(places) == sum(given)


def test_an_interrupted_command_is_taken_up_where_it_was(
    teacher, finished, tmp_path, monkeypatch, capsys
):
    directory = tmp_path / "out"
    # 258 images, 96 to a file.
    for module, name, after, done in (
        (PredictionFiles, "_write", 1, 0),
        (pseudo_labels, "write_shard", 2, 96),
        (pseudo_label, "draw_pseudo_labels", 0, 258),
    ):
        with monkeypatch.context() as patched, pytest.raises(SystemExit):
            stop_after(patched, module, name, after)
            cli.main(flags(teacher, directory))
        assert not (directory / "pseudo_labels.json").exists()
        assert ("by an earlier" in (text := capsys.readouterr().out)) == bool(
            done
        )
        assert not done or f"Predicted {done} of 258, by an earlier" in text
    assert len(list(directory.glob("train-*"))) == 3
    cli.main(flags(teacher, directory))
    assert same(directory, finished)


def stop_after(monkeypatch, module, name, after):
    """Interrupts a function's calls after the first ones."""
    original, calls = getattr(module, name), []

    def stop(*args):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(module, name, stop)


def same(directory, other):
    """Compares bytes; only the recipe says where it is."""
    one, two = contents(directory), contents(other)
    recipes = [json.loads(x.pop("recipe.json")) for x in (one, two)]
    assert recipes[0].pop("output_dir") != recipes[1].pop("output_dir")
    assert recipes[0] == recipes[1]
    return one == two


@pytest.mark.tf_only
def test_a_killed_process_is_taken_up(teacher, finished, tmp_path):
    directory = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "lambda_keras", *flags(teacher, directory)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    while not list(directory.glob(".predictions/*1.npz")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (directory / "pseudo_labels.json").exists()
    cli.main(flags(teacher, directory))
    assert same(directory, finished)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(teacher, finished, tmp_path):
    """On JAX, as on a TPU slice: both predict, the first one writes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
    }
    directory = tmp_path / "out"
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "lambda_keras"),
                *flags(teacher, directory, "--strategy=multiworker"),
                *(f"--coordinator={coordinator}", "--num_processes=2"),
                f"--process_id={number}",
            ],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "Kept" in printed[0]
    assert "labels" not in printed[1]
    one, two = read(finished, 3), read(directory, 3)
    assert len(one) == len(two)
    for record, other in zip(one, two):
        for name in ("image/encoded", "image/class/text", "image/filename"):
            assert record[name] == other[name]
        np.testing.assert_allclose(
            record["image/class/probabilities"].float_list.value,
            other["image/class/probabilities"].float_list.value,
            atol=1e-3,
        )


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lambda-keras pseudo_label: ")
    return line


def test_a_finished_directory_is_never_written_over(finished, teacher, capsys):
    before = contents(finished)
    line = refusal(capsys, *flags(teacher, finished))
    assert (
        "`output_dir` must be new or an empty directory: what was begun" in line
    )
    assert contents(finished) == before


def test_another_recipe_in_an_unfinished_directory_is_named(
    teacher, tmp_path, capsys, monkeypatch
):
    directory = tmp_path / "out"
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        stop_after(patched, PredictionFiles, "read", 0)
        cli.main(flags(teacher, directory))
    capsys.readouterr()
    line = refusal(capsys, *flags(teacher, directory, "--min_confidence=0.5"))
    assert "other settings" in line
    assert "min_confidence=0.5 (there 0.4)" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model="], "`model` must be given. Received: model="),
        (["--output_dir="], "`output_dir` must be given. Received: output_dir"),
        (["--min_confidence=1"], "`min_confidence` must be at least 0 and bel"),
        (["--kind=firm"], "`kind` must be one of: soft, hard. Received: kind"),
        (["--shards=0"], "`shards` must be at least 1. Received: shards=0"),
        (["--labels=3"], "`labels` must be from 10"),
        (["--split=all"], "`split` must be"),
        (["--output_dir=gs://some/where"], "must be on a disk of this machine"),
        (["--min_confidence=0.99999"], "one image for each of the 3 shards."),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments, message, teacher, tmp_path, capsys
):
    directory = tmp_path / "out"
    line = refusal(capsys, *flags(teacher, directory, *arguments))
    assert message in line
    assert not directory.exists()
