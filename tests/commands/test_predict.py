import csv
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lambda_keras import cli
from tests.serving.models import CLASS_NAMES
from tests.serving.models import random_images
from tests.serving.models import tiny_classifier

pytestmark = pytest.mark.tf_only

ROOT = Path(__file__).parents[2]
BOMB = Path(__file__).with_name("bomb.py")
KILL = signal.SIGKILL
COUNT, BATCH_SIZE = 100, 8


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The directory of a model with one version."""
    from lambda_keras.serving.export import export_version
    from lambda_keras.serving.images import RequestPreprocessing

    directory = tmp_path_factory.mktemp("models") / "tiny"
    export_version(
        tiny_classifier(),
        directory,
        preprocessing=RequestPreprocessing((8, 8, 3), "whole"),
        class_names=CLASS_NAMES,
        top_k=2,
        warm_up=False,
    )
    return directory


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images, and one of the same images with some bad ones."""
    import tensorflow as tf

    directory = tmp_path_factory.mktemp("images")
    for folder in "photos", "mixed":
        (directory / folder).mkdir()
        for index, image in enumerate(random_images(COUNT)):
            path = directory / folder / f"{index:03d}.png"
            path.write_bytes(tf.io.encode_png(image).numpy())
    mixed = directory / "mixed"
    (mixed / "003.png").write_bytes(b"")
    (mixed / "040.png").write_text("<html>404</html>")
    (mixed / "041.png").unlink()
    (mixed / "041.png").symlink_to("nowhere")
    return directory


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Each model is loaded once here, which takes most of a short command."""
    from lambda_keras.commands import predict

    with pytest.MonkeyPatch.context() as patched:
        once = functools.cache(predict.load_version)
        patched.setattr(predict, "load_version", once)
        yield


def flags(served, images, output, *others):
    return [
        *("predict", f"--model={served}", f"--images={images}"),
        *(f"--output={output}", f"--batch_size={BATCH_SIZE}", *others),
    ]


def fail(capsys, *arguments):
    """Returns the exit status and the last line of standard error."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    *before, line = capsys.readouterr().err.splitlines()
    assert all(one.startswith("[") for one in before)
    assert line.startswith("lambda-keras predict: ")
    return exit_info.value.code, line.removeprefix("lambda-keras predict: ")


@pytest.fixture(scope="module")
def undisturbed(served, photos, tmp_path_factory):
    """Rows of the good images, from one process that nothing happened to."""
    path = tmp_path_factory.mktemp("undisturbed") / "labels.csv"
    cli.main(flags(served, photos / "photos", path))
    return path.read_bytes()


def test_each_image_gets_a_row_in_order(served, photos, undisturbed):
    import tensorflow as tf

    _, *rows = csv.reader(undisturbed.decode().splitlines())
    version = tf.saved_model.load(str(served / "1"))
    serve = version.signatures["serving_default"]
    answers = serve(images=tf.constant(random_images(COUNT), tf.float32))
    assert len(rows) == COUNT
    for index, row in enumerate(rows):
        classes = answers["classes"][index].numpy()
        scores = answers["scores"][index].numpy()
        assert row[:2] == [f"{photos}/photos/{index:03d}.png", "ok"]
        assert [*map(int, row[2::3])] == classes.tolist()
        assert row[3::3] == [CLASS_NAMES[number] for number in classes]
        np.testing.assert_allclose([*map(float, row[4::3])], scores, rtol=1e-5)
    # The images are told apart.
    assert len({row[4] for row in rows}) > COUNT / 2


def test_bad_images_have_their_rows_and_the_exit_status_says_so(
    served, photos, undisturbed, tmp_path, capsys
):
    output = tmp_path / "labels.jsonl"
    status, line = fail(capsys, *flags(served, photos / "mixed", output))
    assert status == 1
    assert line == (f"3 of 100 have no labels; the status in {output} says why")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    bad = {3: "empty", 40: "unsupported format", 41: "missing"}
    _, *good = csv.reader(undisturbed.decode().splitlines())
    assert len(rows) == COUNT
    for index, (row, expected) in enumerate(zip(rows, good)):
        assert row["name"] == f"{photos}/mixed/{index:03d}.png"
        assert row["status"] == bad.get(index, "ok")
        assert [one["label"] for one in row["predictions"]] == (
            [] if index in bad else expected[3::3]
        )
        for one, score in zip(row["predictions"], expected[4::3]):
            np.testing.assert_allclose(one["score"], float(score), rtol=1e-5)


def test_what_is_printed(served, photos, tmp_path, capsys, monkeypatch):
    from lambda_keras.commands import predict

    monkeypatch.setattr(predict, "SECONDS_IN_LOG", 0)
    output = tmp_path / "labels.csv"
    images = f"{photos}/photos/00?.png,{photos}/mixed/04*.png"
    with pytest.raises(SystemExit):
        cli.main(flags(served, images, output))
    printed = capsys.readouterr()
    head, rate = printed.out.split(f"; {served / '1'}, ")
    statuses = "18 ok, 1 unsupported format, 1 missing"
    assert head == f"{output}: 20 in all, {statuses}"
    assert float(rate.removesuffix(" images/s.\n")) > 0
    found, loads, *bars, _ = printed.err.splitlines()
    assert found.endswith("finds the images")
    assert loads.endswith("loads the model")
    assert "[########............] 8 of 20, " in bars[0]
    assert "[################....] 16 of 20, " in bars[1]
    assert bars[-1].endswith(" left")


def test_a_terminal_sees_a_bar(served, photos, tmp_path, capsys, monkeypatch):
    from lambda_keras.commands import predict

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(predict, "SECONDS_ON_TERMINAL", 0)
    monkeypatch.setenv("COLUMNS", "100")
    cli.main(flags(served, photos / "photos", tmp_path / "labels.csv"))
    error = capsys.readouterr().err
    for done, bar in ((8, 1), (48, 9), (100, 20)):
        assert f"[{'#' * bar:.<20}] {done} of 100, " in error
    # It is gone in the end.
    assert error.endswith("\r") and "\n" not in error


def test_records_and_files_in_one_command(served, photos, tmp_path, capsys):
    from lambda_keras.data.record_writer import make_example
    from lambda_keras.data.record_writer import write_shard

    files = sorted((photos / "photos").iterdir())[:5]
    shard = tmp_path / "test-00000-of-00001"
    write_shard(shard, [make_example(path.read_bytes()) for path in files])
    content = bytearray(shard.read_bytes())
    content[-30] ^= 0xFF
    shard.write_bytes(content)
    output = tmp_path / "labels.csv"
    images = f"tfrecord:{tmp_path},{photos}/photos/000.png"
    status, _ = fail(capsys, *flags(served, images, output))
    _, *rows = csv.reader(output.read_text().splitlines())
    assert status == 1
    assert [row[0] for row in rows] == [
        *(f"{shard}#{number}" for number in range(5)),
        f"{photos}/photos/000.png",
    ]
    assert [row[1] for row in rows] == ["ok"] * 4 + ["unreadable", "ok"]
    assert rows[0][2:] == rows[5][2:]


def test_an_image_that_vanishes_meanwhile_is_missing(
    served, photos, tmp_path, capsys, monkeypatch
):
    from lambda_keras.serving.prediction_results import Results

    shutil.copytree(photos / "photos", tmp_path / "photos")
    write = Results.write

    def vanish(results, predictions):
        (tmp_path / "photos" / "099.png").unlink(missing_ok=True)
        write(results, predictions)

    monkeypatch.setattr(Results, "write", vanish)
    output = tmp_path / "labels.csv"
    status, line = fail(capsys, *flags(served, tmp_path / "photos", output))
    assert (status, line.partition(";")[0]) == (
        1,
        "1 of 100 have no labels",
    )
    *_, row = csv.reader(output.read_text().splitlines())
    assert row[0].endswith("099.png")
    assert row[1:3] == ["missing", ""]


def stop_at(monkeypatch, batch, error):
    """Raises an error before a batch is written."""
    from lambda_keras.serving.prediction_results import Results

    write = Results.write

    def stop(results, predictions):
        if results.done == batch * BATCH_SIZE:
            raise error
        write(results, predictions)

    monkeypatch.setattr(Results, "write", stop)


@pytest.fixture
def stopped(served, photos, tmp_path, monkeypatch, capsys):
    """The output of a command that was interrupted after five batches."""
    output = tmp_path / "labels.csv"
    with monkeypatch.context() as patched:
        stop_at(patched, 5, KeyboardInterrupt)
        with pytest.raises(SystemExit) as exit_info:
            cli.main(flags(served, photos / "photos", output))
    assert exit_info.value.code == 130
    assert not output.exists()
    assert capsys.readouterr().err.endswith(
        "lambda-keras predict: interrupted; 40 of 100 images are done; the "
        "same command goes on from there\n"
    )
    return output


def test_an_interrupted_command_goes_on(
    stopped, served, photos, undisturbed, capsys
):
    cli.main(flags(served, photos / "photos", stopped))
    assert "goes on: 40 of 100 images are done" in capsys.readouterr().err
    assert stopped.read_bytes() == undisturbed
    assert list(stopped.parent.iterdir()) == [stopped]


def test_the_output_may_be_among_the_images(
    served, photos, tmp_path, monkeypatch
):
    folder = tmp_path / "photos"
    shutil.copytree(photos / "photos", folder)
    arguments = flags(served, folder, folder / "labels.csv")
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        stop_at(patched, 5, KeyboardInterrupt)
        cli.main(arguments)
    # What was begun is not taken for an image.
    cli.main(arguments)
    rows = (folder / "labels.csv").read_text().splitlines()[1:]
    assert len(rows) == COUNT


def test_only_the_same_command_goes_on(
    stopped, served, photos, undisturbed, tmp_path, capsys
):
    images, unfinished = photos / "photos", tmp_path / ".unfinished-labels.csv"
    other = tmp_path / "other"
    shutil.copytree(served, other)
    labels = other / "1" / "assets" / "labels.txt"
    labels.write_text(labels.read_text().replace("ant", "elephant"))
    more = f"{images},{images}/000.png"
    for arguments, named in (
        (flags(served, images, stopped, "--batch_size=9"), "batch_size=9 (the"),
        (flags(served, more, stopped), "images=101, sha256 "),
        (flags(served, f"{images}/0[1-9]?.png", stopped), "images=90, sha256"),
        (flags(other, images, stopped), "model=sha256 "),
    ):
        status, line = fail(capsys, *arguments)
        assert status == 2
        assert line.startswith("`output` was begun with other settings")
        assert f"only they can continue: {named}" in line
        assert f"to begin anew, remove {unfinished}. Received" in line
    # The same model and images by other names, and they go on.
    link = tmp_path / "link"
    link.symlink_to(served / "1")
    cli.main(flags(link, f"{images}/*.png", stopped))
    assert stopped.read_bytes() == undisturbed


def test_a_full_disk_is_one_line_and_loses_nothing(
    served, photos, undisturbed, tmp_path, capsys
):
    output = tmp_path / "labels.csv"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # In the middle of a row of a batch in the middle.
    room = undisturbed.index(b"060.png") - 20
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        status, line = fail(capsys, *flags(served, photos / "photos", output))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1
    assert line == (
        "[Errno 27] File too large; 56 of 100 images are done; the same "
        "command goes on from there"
    )
    cli.main(flags(served, photos / "photos", output))
    assert output.read_bytes() == undisturbed


def test_an_error_of_tensorflow_is_one_line(
    served, photos, tmp_path, monkeypatch, capsys
):
    import tensorflow as tf

    error = tf.errors.ResourceExhaustedError(None, None, "OOM when\nallocating")
    stop_at(monkeypatch, 2, error)
    output = tmp_path / "labels.csv"
    status, line = fail(capsys, *flags(served, photos / "photos", output))
    assert status == 1
    assert line.startswith(
        "OOM when allocating; 16 of 100 images are done; the"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model="], "`model` must be given. Received: model="),
        (["--images="], "`images` must be given. Received: images="),
        (["--output="], "`output` must be a file that ends in .csv or .jsonl."),
        (["--output=labels.txt"], "ends in .csv or .jsonl. Received: output=l"),
        (
            ["--batch_size=0"],
            "`batch_size` must be at least 1. Received: batch",
        ),
        (
            ["--output=no/labels.csv"],
            "must be a new file in a directory that e",
        ),
        (["--output=gs://b/x.csv"], "`output` must be on a disk of this machi"),
        (["--images=absent/*.jpg"], "Received: images=absent/*.jpg, where th"),
        (["--model=absent"], "Received: model=absent, which is no directory"),
        (["--model=."], "Received: model=., without saved_model.pb in ."),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments, message, served, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given = flags(served, photos / "photos", "labels.csv", *arguments)
    status, line = fail(capsys, *given)
    assert status == 2
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_there_is_refused_first(photos, tmp_path, capsys):
    output = tmp_path / "labels.csv"
    output.write_text("precious")
    # It is said before a model is looked for.
    status, line = fail(capsys, *flags("absent", photos, output))
    assert (status, output.read_text()) == (2, "precious")
    assert line == (
        "`output` must be a new file in a directory that exists. "
        f"Received: output={output}"
    )


def run_bomb(point, number, arguments):
    """Returns the status of a real process that kills itself at a point."""
    process = subprocess.run(
        [sys.executable, BOMB, point, str(number), str(int(KILL)), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        timeout=200,
    )
    return process.returncode


def test_a_command_that_is_killed_again_and_again_goes_on(
    served, photos, undisturbed, tmp_path
):
    output = tmp_path / "labels.csv"
    arguments = flags(served, photos / "photos", output)
    unfinished = tmp_path / ".unfinished-labels.csv" / "labels.csv"
    # The header is written first; half of the sixth batch then.
    assert run_bomb("row", 7, arguments) == -KILL
    torn = unfinished.read_bytes()
    assert 40 < torn.count(b"\n") < 48
    assert not torn.endswith(b"\n")
    assert run_bomb("rename", 1, arguments) == -KILL
    assert not output.exists()
    cli.main(arguments)
    assert output.read_bytes() == undisturbed
    assert list(tmp_path.iterdir()) == [output]


# Where a process kills itself, in this order; what is done then.
POINTS = [
    ("model", 1, None),
    ("begin", 1, None),
    ("row", 1, 0),
    ("batch", 1, 0),
    ("row", 2, 0),
    ("batch", 3, 16),
    # What a process begins with is what was whole of the one before.
    ("row", 4, 40),
    ("batch", 1, 40),
    ("batch", 7, 88),
    ("rename", 1, 100),
]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_killed_at_every_point(ending, served, photos, tmp_path, capsys):
    """Then interrupted from outside, and finished: byte for byte the same."""
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    cli.main(flags(served, photos / "photos", whole))
    arguments = flags(served, photos / "photos", output)
    unfinished = tmp_path / f".unfinished-out.{ending}" / f"out.{ending}"
    report = []
    for point, number, done in POINTS:
        assert run_bomb(point, number, arguments) == -KILL, point
        assert not output.exists()
        rows = 0
        if unfinished.exists():
            lines = unfinished.read_bytes().count(b"\n")
            rows = max(0, lines - (ending == "csv"))
        if done is not None:
            assert rows // BATCH_SIZE == done // BATCH_SIZE, point
        report.append(f"  killed at {point} {number}: {rows} whole rows")
    # Whatever happens after the rename, the output is complete.
    assert run_bomb("renamed", 1, arguments) == -KILL
    assert output.read_bytes() == whole.read_bytes()
    with capsys.disabled():
        print("", f"predict, {ending}", *report, "  the same", sep="\n")


def resident_megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(
    served, tmp_path, capsys
):
    import tensorflow as tf

    from lambda_keras.serving.prediction import load_version
    from lambda_keras.serving.prediction import predict_images
    from lambda_keras.serving.prediction_inputs import Files
    from lambda_keras.serving.prediction_results import open_results

    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (600, 600, 3), dtype="uint8")
    file = tmp_path / "noise.png"
    file.write_bytes(tf.io.encode_png(noise).numpy())
    count, megabytes = 2_000, file.stat().st_size / 1e6
    model, output = load_version(served / "1"), tmp_path / "labels.csv"
    files, seen = Files([str(file)] * count), []
    with open_results(output, {}, 2, count, BATCH_SIZE) as results:
        for batch in predict_images(model, files.read(0), BATCH_SIZE):
            results.write(batch)
            seen.append(resident_megabytes())
    half = len(seen) // 2
    growth = max(seen[half:]) - max(seen[:half])
    with capsys.disabled():
        print(
            f"\n{count:,} images of {megabytes:.1f} MB: "
            f"{max(seen) - seen[0]:+.0f} MB after the first batch, "
            f"{growth:+.0f} MB after the first half of them"
        )
    assert growth < 50
