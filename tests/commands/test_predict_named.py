"""`lambda-keras predict` of named models, and what it prints and draws."""

import dataclasses
import functools
import json
import shutil
import sys
import types

import numpy as np
import pytest

from lambda_keras import cli
from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from tests.data.test_crop import as_file
from tests.data.test_crop import photographs
from tests.data.test_crop import pillow_crop
from tests.models.test_imagenet import KERAS_NAMES
from tests.serving.models import CLASS_NAMES

pytestmark = pytest.mark.tf_only

SIZE = 64
NAMES = ("china.jpg", "china upright.png", "flower.jpg", "flower upright.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photographs."""
    directory = tmp_path_factory.mktemp("photos")
    for name, image in zip(NAMES, photographs(), strict=True):
        kind = "jpeg" if name.endswith("jpg") else "png"
        (directory / name).write_bytes(as_file(image, kind))
    return directory


@pytest.fixture(scope="module")
def mixed(photos, tmp_path_factory):
    """A folder with some that are none, too."""
    directory = tmp_path_factory.mktemp("images") / "mixed"
    shutil.copytree(photos, directory)
    whole = (photos / "china.jpg").read_bytes()
    (directory / "a.jpg").write_bytes(whole[:5000])
    (directory / "notes.txt").write_text("no image")
    return directory


def narrow_model(classes):
    """A model of few channels whose answers depend on the image."""
    import keras

    keras.utils.set_random_seed(1)
    spec = dataclasses.replace(get_spec("lambda_resnet_26t"), width=8)
    model = build_model(spec, input_shape=(SIZE, SIZE, 3), classes=classes)
    kernel = model.get_layer("predictions").kernel
    kernel.assign(100 * kernel)
    return spec, model


def write_weights(path, classes):
    from lambda_keras.weights.timm import write_timm

    spec, model = narrow_model(classes)
    write_timm(path, {x.path: x.numpy() for x in model.weights}, spec)
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model of six classes, its weights, and an exported version of it."""
    from lambda_keras.serving.export import export_version
    from lambda_keras.serving.images import choose_preprocessing

    directory = tmp_path_factory.mktemp("small")
    weights = directory / "timm.safetensors"
    model = write_weights(weights, len(CLASS_NAMES))
    served = directory / "served"
    preprocessing = choose_preprocessing(model)
    export_version(model, served, preprocessing=preprocessing, warm_up=False)
    return types.SimpleNamespace(model=model, weights=weights, served=served)


@pytest.fixture(params=["named", "exported"])
def chosen(request, small):
    """Flags for the same model by its name and as an exported version."""
    if request.param == "exported":
        return [f"--model={small.served}"]
    return [
        *("--model=LambdaResNet26T", f"--weights={small.weights}"),
        f"--image_size={SIZE}",
    ]


@pytest.fixture(scope="module")
def expected(small, photos):
    """Classes and scores, the likeliest first, of what Pillow makes."""
    crops = [
        pillow_crop((photos / name).read_bytes(), SIZE, 0.94)
        for name in sorted(NAMES)
    ]
    rows = small.model.predict(np.stack(crops).astype("float32"), verbose=0)
    order = np.argsort(-rows, axis=-1, kind="stable")[:, :5]
    assert np.ptp(rows, axis=0).max() > 0.02, "they are told apart"
    return order, np.take_along_axis(rows, order, axis=-1)


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Each model is loaded once here, which takes most of a short command."""
    from lambda_keras.commands import predict

    with pytest.MonkeyPatch.context() as patched:
        for name in "load_version", "build_named_model", "serve_in_memory":
            patched.setattr(
                predict, name, functools.cache(getattr(predict, name))
            )
        yield


def predict(capsys, *arguments):
    cli.main(["predict", *map(str, arguments)])
    return capsys.readouterr()


def fail(capsys, *arguments):
    """Returns exit status, standard output, and the last line of the other."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["predict", *map(str, arguments)])
    printed = capsys.readouterr()
    *_, line = printed.err.splitlines()
    assert line.startswith("lambda-keras predict: ")
    line = line.removeprefix("lambda-keras predict: ")
    return exit_info.value.code, printed.out, line


def check_rows(rows, expected):
    """Compares rows of JSON."""
    for row, classes, scores in zip(rows, *expected, strict=True):
        found = row["predictions"]
        assert row["status"] == "ok"
        assert [one["class"] for one in found] == classes.tolist()
        assert [one["label"] for one in found] == [*map(str, classes)]
        # A level of Pillow's crop may differ.
        np.testing.assert_allclose(
            [one["score"] for one in found], scores, rtol=1e-3
        )


def test_the_five_likeliest_are_printed_as_a_table(
    chosen, photos, expected, capsys
):
    printed = predict(capsys, *chosen, photos)
    header, *lines = printed.out.splitlines()
    assert header.split() == ["score", "class", "label"]
    blocks = [lines[start : start + 6] for start in range(0, len(lines), 6)]
    for name, block, classes, scores in zip(
        sorted(NAMES), blocks, *expected, strict=True
    ):
        assert block[0] == f"{photos}/{name}"
        cells = [line.split() for line in block[1:]]
        assert [int(cell[1]) for cell in cells] == classes.tolist()
        assert [cell[2] for cell in cells] == [*map(str, classes)]
        printed_scores = [float(cell[0]) for cell in cells]
        np.testing.assert_allclose(printed_scores, scores, atol=2e-4)


def test_json_is_all_there_is_on_standard_output(
    chosen, photos, expected, capsys
):
    printed = predict(capsys, *chosen, "--json", photos)
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["name"] for row in rows] == [
        f"{photos}/{name}" for name in sorted(NAMES)
    ]
    check_rows(rows, expected)


def test_a_file_can_be_written_instead(
    chosen, photos, expected, tmp_path, capsys
):
    output = tmp_path / "labels.jsonl"
    printed = predict(capsys, *chosen, photos, f"--output={output}")
    check_rows(map(json.loads, output.read_text().splitlines()), expected)
    assert printed.out.startswith(f"{output}: 4 in all, 4 ok; ")


def test_images_are_arguments_and_a_flag_in_any_order(small, photos, capsys):
    flags = [f"--model={small.served}", "--json"]
    comma = photos.parent / "one, two.jpg"
    shutil.copy(photos / "china.jpg", comma)
    printed = predict(
        capsys,
        photos / "flower*.png",
        *flags,
        comma,
        photos / "china.jpg",
        f"--images={photos}/flower.jpg,{photos}/china upright.png",
    )
    names = [json.loads(line)["name"] for line in printed.out.splitlines()]
    assert names == [
        f"{photos}/flower upright.png",
        str(comma),
        f"{photos}/china.jpg",
        f"{photos}/flower.jpg",
        f"{photos}/china upright.png",
    ]


@pytest.mark.parametrize("form", ["table", "json"])
def test_corrupt_images_are_named_and_skipped(
    form, chosen, mixed, photos, capsys
):
    flags = ["--json"] if form == "json" else []
    status, out, line = fail(capsys, *chosen, *flags, mixed)
    assert status == 1
    assert line == (
        f"2 of 6 have no labels; {mixed}/a.jpg (unreadable), "
        f"{mixed}/notes.txt (unsupported format)"
    )
    good = predict(capsys, *chosen, *flags, photos).out
    if form == "table":
        bad = f"{mixed}/a.jpg: unreadable\n", f"{mixed}/notes.txt: unsupp"
        assert all(text in out for text in bad)
        lines = [x for x in out.splitlines() if not x.startswith(str(mixed))]
        others = [x for x in good.splitlines() if not x.startswith(str(photos))]
        assert lines == others
    else:
        rows = [json.loads(line) for line in out.splitlines()]
        statuses = [row["status"] for row in rows]
        bad = "unreadable", "unsupported format"
        assert statuses == [bad[0], *["ok"] * 4, bad[1]]
        assert [x["predictions"] for x in rows if x["status"] == "ok"] == [
            json.loads(line)["predictions"] for line in good.splitlines()
        ]


def test_many_that_are_none_are_not_all_named(small, tmp_path, capsys):
    for number in range(5):
        (tmp_path / f"{number}.jpg").touch()
    status, _, line = fail(capsys, f"--model={small.served}", tmp_path)
    assert (status, line) == (
        1,
        f"5 of 5 have no labels; {tmp_path}/0.jpg (empty), {tmp_path}/1.jpg "
        f"(empty), {tmp_path}/2.jpg (empty), ...",
    )


def test_the_picture_has_the_first_images(chosen, mixed, tmp_path, capsys):
    from PIL import Image

    picture = tmp_path / "x.png"
    picture.write_text("an older one")
    status, *_ = fail(capsys, *chosen, mixed, f"--picture={picture}")
    assert status == 1
    with Image.open(picture) as image:
        assert image.size == (1300, 680)
    assert list(tmp_path.iterdir()) == [picture]


def test_more_images_than_fit_a_picture_are_said(
    small, photos, tmp_path, capsys, monkeypatch
):
    from lambda_keras.serving import prediction_picture

    drawn = []
    monkeypatch.setattr(
        prediction_picture, "draw_predictions", lambda *x: drawn.append(x)
    )
    files = [photos / NAMES[0]] * 25
    for number in 24, 25:
        arguments = [f"--model={small.served}", *files[:number]]
        predict(capsys, *arguments, f"--picture={tmp_path / 'x.png'}")
    for path, _, images, predictions in drawn:
        assert path == tmp_path / "x.png"
        assert len(images) == len(predictions) == 24
        assert {x.name for x in images} == {str(files[0])}
        assert {x.status for x in predictions} == {"ok"}
    titles = [title for _, title, *_ in drawn]
    source = str(small.served / "1")
    assert titles == [source, f"The first 24 of 25 images: {source}"]


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """Weights of 1,000 classes, as those of ImageNet."""
    path = tmp_path_factory.mktemp("thousand") / "timm.safetensors"
    write_weights(path, 1000)
    flags = [f"--weights={path}", f"--image_size={SIZE}", "--json"]
    return ["--model=lambda_resnet_26t", *flags]


def test_a_thousand_classes_are_called_as_those_of_imagenet(
    thousand, photos, capsys, monkeypatch
):
    names = {str(i): (f"n{i}", f"thing {i}") for i in range(1000)}
    monkeypatch.setitem(KERAS_NAMES, "CLASS_INDEX", names)
    printed = predict(capsys, *thousand, photos)
    for line in printed.out.splitlines():
        for one in json.loads(line)["predictions"]:
            assert one["label"] == f"thing {one['class']}"
    assert "numbers of the classes" not in printed.err


def test_without_a_network_labels_are_numbers_and_that_is_said(
    thousand, photos, capsys, monkeypatch
):
    def get_file(*arguments, **others):
        raise Exception("URL fetch failure")

    monkeypatch.setitem(KERAS_NAMES, "CLASS_INDEX", None)
    files = types.SimpleNamespace(get_file=get_file)
    monkeypatch.setitem(KERAS_NAMES, "file_utils", files)
    printed = predict(capsys, *thousand, photos)
    for line in printed.out.splitlines():
        for one in json.loads(line)["predictions"]:
            assert one["label"] == str(one["class"])
    assert (
        "The labels are the numbers of the classes: The names of ImageNet's "
        "classes must be in Keras' cache"
    ) in printed.err


def test_weights_of_a_run_have_the_names_of_its_classes(
    small, photos, tmp_path, capsys
):
    small.model.save(tmp_path / "best.keras")
    flags = ["--model=LambdaResNet26T", f"--image_size={SIZE}", "--json"]
    flags += [f"--weights={tmp_path / 'best.keras'}", photos / NAMES[0]]
    summary = json.dumps({"class_names": CLASS_NAMES})
    (tmp_path / "summary.json").write_text(summary)
    printed = predict(capsys, *flags)
    assert "numbers of the classes" not in printed.err
    for one in json.loads(printed.out)["predictions"]:
        assert one["label"] == CLASS_NAMES[one["class"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=LambdaResNet26X"], "of which the closest are lambda_resn"),
        (
            ["--weights=no.safetensors"],
            "`weights` must be on a disk of this machine, the path of a file "
            "that exists",
        ),
        (["--weights=notes.txt"], "`weights` must be 'imagenet' or the path"),
        (["--weights=broken.safetensors"], "broken.safetensors"),
        (["--weights=gs://x.keras"], "`weights` must be on a disk of this ma"),
        (["--model=LambdaResNet50"], "Received: "),
        (["--model=LambdaResNet50TS"], "`weights` must be of lambda_resnet_50"),
        (["--weights="], "`weights` must be 'imagenet' or the path"),
        (["--image_size=0"], "`image_size` must be at least 1."),
        (["--model=served"], "`weights` must be left out unless `model` is th"),
        (["--json", "--output=x.csv"], "`json` must be left out where there"),
        (["--picture=x.jpg"], "ends in .png. Received: picture=x.jpg"),
        (["--picture=no/x.png"], "`picture` must be a file in a directory th"),
        (["absent.jpg"], "Received: images=absent.jpg, where there are none"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments, message, small, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    whole = small.weights.read_bytes()
    (tmp_path / "broken.safetensors").write_bytes(whole[:-9])
    (tmp_path / "served").symlink_to(small.served)
    before = sorted(tmp_path.iterdir())
    given = ["--model=LambdaResNet26T", f"--weights={small.weights}"]
    status, out, line = fail(capsys, *given, photos, *arguments)
    assert (status, out) == (2, "")
    assert message in line
    assert sorted(tmp_path.iterdir()) == before


def test_no_image_is_a_mistake(small, capsys):
    status, _, line = fail(capsys, f"--model={small.served}")
    assert (status, line) == (
        2,
        "`images` must be given. Received: images=None",
    )


def test_hosted_weights_that_cannot_be_had_fail_in_one_line(
    photos, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    status, out, line = fail(capsys, "--model=LambdaResNet26T", photos)
    assert (status, out) == (1, "")
    assert "is not in the cache and could not be downloaded" in line


def test_an_interrupted_table_says_how_far_it_is(
    small, photos, capsys, monkeypatch
):
    from lambda_keras.serving.prediction_results import PrintedResults

    write = PrintedResults.write

    def stop(results, predictions):
        if results.done:
            raise KeyboardInterrupt
        write(results, predictions)

    monkeypatch.setattr(PrintedResults, "write", stop)
    flags = [f"--model={small.served}", "--batch_size=2"]
    status, out, line = fail(capsys, *flags, photos)
    assert status == 130
    assert line == "interrupted; 2 of 4 images are done"
    assert len(out.splitlines()) == 1 + 2 * 6


def test_who_reads_the_table_may_go(small, photos, capsys, monkeypatch):
    from lambda_keras.commands.predict import run
    from lambda_keras.serving.prediction_results import PrintedResults
    from lambda_keras.serving.settings import PredictSettings

    def leave(results, predictions):
        raise BrokenPipeError

    monkeypatch.setattr(PrintedResults, "write", leave)
    # The command line ends quietly then.
    with pytest.raises(BrokenPipeError):
        run(PredictSettings(model=str(small.served), images=str(photos)))


def test_the_bar_of_a_terminal_makes_room_for_the_table(
    small, photos, capsys, monkeypatch
):
    from lambda_keras.commands import predict as command

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(command, "SECONDS_ON_TERMINAL", 0)
    monkeypatch.setenv("COLUMNS", "100")
    flags = [f"--model={small.served}", "--batch_size=2"]
    printed = predict(capsys, *flags, photos)
    assert "[##########..........] 2 of 4, " in printed.err
    # It is gone whenever a row comes, and in the end.
    assert printed.err.count(" \r") >= 2
    assert printed.err.endswith("\r") and "\n" not in printed.err


def test_resampled_tables_are_said_in_a_line(tmp_path, photos, capsys):
    from lambda_keras.weights.timm import write_timm

    spec = dataclasses.replace(get_spec("lambda_resnet_26rpt"), width=8)
    model = build_model(spec, input_shape=(96, 96, 3), classes=6)
    weights = tmp_path / "timm.safetensors"
    write_timm(weights, {x.path: x.numpy() for x in model.weights}, spec)
    printed = predict(
        capsys,
        *("--model=LambdaResNet26RPT", f"--weights={weights}", "--json"),
        *("--image_size=64", photos / NAMES[0]),
    )
    *_, said, labels = printed.err.splitlines()
    assert said.startswith("Images are of another size than those that the ")
    assert "from 6x6 to 4x4 positions" in said
    assert labels == (
        "The labels are the numbers of the classes: no names are known of 6 "
        "classes."
    )
