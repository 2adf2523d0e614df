import csv
import json
import resource

import pytest

from lambda_keras.serving import prediction_results
from lambda_keras.serving.images import OK
from lambda_keras.serving.prediction import Prediction
from lambda_keras.serving.prediction_results import open_results
from lambda_keras.serving.settings import RESULTS

pytestmark = pytest.mark.tf_only

NAMES = [
    "plain.jpg",
    "with, comma.jpg",
    'with "quotes".jpg',
    'both,"\n',
    "two\nlines.jpg",
    "re\rturn.jpg",
    "été/犬🐕.jpg",
    " spaces ",
    "\t",
    "'",
    '"',
]
PREDICTIONS = [
    Prediction(name, "empty", (), (), ())
    if index % 4 == 2
    else Prediction(
        name, OK, (3, index), (f"{name}!", "b"), (0.9, 1.2345678e-9 * index)
    )
    for index, name in enumerate(NAMES)
]
BATCH_SIZE = 2
IDENTITY = {"model": "0123", "batch_size": BATCH_SIZE}


def opened(path, identity=IDENTITY):
    return open_results(path, identity, 2, len(PREDICTIONS), BATCH_SIZE)


def write(results, most=100):
    """Writes batches until all that there are, or so many rows, are there."""
    while results.done < min(most, len(PREDICTIONS)):
        results.write(PREDICTIONS[results.done : results.done + BATCH_SIZE])


def unfinished(path):
    return path.parent / f".unfinished-{path.name}" / path.name


@pytest.fixture(params=RESULTS)
def path(request, tmp_path):
    return tmp_path / f"labels{request.param}"


@pytest.fixture
def whole(path):
    """What is in the file in the end."""
    other = path.with_name(f"whole{path.suffix}")
    with opened(other) as results:
        write(results)
    return other.read_bytes()


@pytest.fixture
def stopped(path):
    """Rows of a process that was stopped after three batches."""
    with pytest.raises(KeyboardInterrupt), opened(path) as results:
        write(results, 6)
        raise KeyboardInterrupt
    return unfinished(path)


def test_every_ending_has_its_rows():
    assert (*prediction_results.ROWS,) == RESULTS


def test_csv_comes_back_whatever_names_there_are(tmp_path):
    path = tmp_path / "labels.csv"
    with opened(path) as results:
        write(results)
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == [
        *("name", "status", "class", "label", "score"),
        *("class_2", "label_2", "score_2"),
    ]
    assert [row[0] for row in rows] == NAMES
    assert rows[0] == [
        *("plain.jpg", "ok"),
        *("3", "plain.jpg!", "0.9"),
        *("0", "b", "0"),
    ]
    assert rows[1][-1] == "1.23457e-09"
    assert rows[2] == [NAMES[2], "empty", "", "", "", "", "", ""]
    # Without a carriage return, which other programs would show.
    assert b"\r\n" not in path.read_bytes()


def test_json_lines_come_back_whatever_names_there_are(tmp_path):
    path = tmp_path / "labels.jsonl"
    with opened(path) as results:
        write(results)
    text = path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.removesuffix("\n").split("\n")]
    assert [row["name"] for row in rows] == NAMES
    assert rows[1] == {
        "name": "with, comma.jpg",
        "status": "ok",
        "predictions": [
            {"class": 3, "label": "with, comma.jpg!", "score": 0.9},
            {"class": 1, "label": "b", "score": 1.23457e-09},
        ],
    }
    assert rows[2]["status"] == "empty"
    assert rows[2]["predictions"] == []
    # Names are to be read by people, too.
    assert "犬🐕" in text


def test_the_file_appears_when_it_is_complete(path, whole):
    with opened(path) as results:
        write(results, 8)
        assert not path.exists()
        # Each batch is where the next process would find it.
        assert whole.startswith(unfinished(path).read_bytes())
        write(results)
    assert path.read_bytes() == whole
    assert not unfinished(path).parent.exists()


def test_torn_anywhere_it_goes_on_after_the_last_whole_batch(
    path, whole, stopped
):
    """As after a kill or a full disk: the file may end at any byte."""
    content = stopped.read_bytes()
    settings = (stopped.parent / "settings.json").read_bytes()
    seen = set()
    # Some bytes of every column, and those around the end of a row.
    end, size = content.index(b"\n", content.index(b"with, ")), len(content)
    for length in {*range(0, size, 11), end, end + 1, size - 1, size}:
        stopped.parent.mkdir(exist_ok=True)
        (stopped.parent / "settings.json").write_bytes(settings)
        stopped.write_bytes(content[:length])
        with opened(path) as results:
            seen.add(results.done)
            assert results.done % BATCH_SIZE == 0
            assert sum(results.statuses.values()) == results.done
            write(results)
            assert results.statuses == {"ok": 8, "empty": 3}
        assert path.read_bytes() == whole
        path.unlink()
    assert seen == {0, 2, 4, 6}


def test_killed_before_it_was_renamed_all_rows_are_there(path, whole):
    with pytest.raises(KeyboardInterrupt), opened(path) as results:
        write(results)
        raise KeyboardInterrupt
    with opened(path) as results:
        # The last batch is smaller than the others.
        assert results.done == len(PREDICTIONS) == 11
    assert path.read_bytes() == whole


@pytest.mark.parametrize("rubbish", [b"\0\0\n", b"x\n", b"\xff,\xff\n", b"1\n"])
def test_what_is_no_row_is_written_again(rubbish, path, whole, stopped):
    with open(stopped, "ab") as file:
        file.write(rubbish * 4)
    with opened(path) as results:
        assert results.done == 6
        write(results)
    assert path.read_bytes() == whole


def test_a_lost_quote_does_not_make_one_row_of_the_rest(
    path, whole, stopped, monkeypatch
):
    monkeypatch.setattr(prediction_results, "LONGEST_ROW", 200)
    with open(stopped, "ab") as file:
        file.write(b'"\n' + 1000 * b"x,ok\n")
    with opened(path) as results:
        assert results.done == 6
        write(results)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("name", "value"), [("model", "4567"), ("batch_size", 3)]
)
def test_other_settings_cannot_go_on(name, value, path, whole, stopped):
    content = stopped.read_bytes()
    with (
        pytest.raises(
            FileExistsError,
            match=rf"only they can continue: {name}={value} \(there "
            rf"{IDENTITY[name]}\); to begin anew, remove "
            rf"{stopped.parent}. Received: output={path}$",
        ),
        opened(path, {**IDENTITY, name: value}),
    ):
        pass
    assert stopped.read_bytes() == content
    with opened(path) as results:
        write(results)
    assert path.read_bytes() == whole


def test_rows_of_unknown_settings_are_refused_and_kept(path, stopped):
    (stopped.parent / "settings.json").write_text("{")
    with (
        pytest.raises(FileExistsError, match=r"model=0123 \(there None\)"),
        opened(path),
    ):
        pass
    assert stopped.exists()


def test_other_settings_begin_anew_where_no_row_was_written(path):
    unfinished(path).parent.mkdir()
    unfinished(path).write_bytes(b"name,sta" if path.suffix == ".csv" else b"")
    with opened(path) as results:
        assert results.done == 0
        write(results)
    assert path.exists()


def test_what_fails_before_the_first_row_leaves_nothing(path):
    with pytest.raises(KeyboardInterrupt), opened(path):
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []


def test_a_file_that_is_there_is_never_written_over(path):
    path.write_text("precious")
    with (
        pytest.raises(
            FileExistsError,
            match=f"`output` must not exist yet.* Received: output={path}$",
        ),
        opened(path),
    ):
        pass
    assert path.read_text() == "precious"
    assert list(path.parent.iterdir()) == [path]


def test_other_things_in_its_place_are_left_alone(path):
    for place in path, path.with_name(f".unfinished-{path.name}"):
        place.symlink_to("nowhere")
        with (
            pytest.raises(FileExistsError, match="`output` must not exist"),
            opened(path),
        ):
            pass
        assert list(path.parent.iterdir()) == [place]
        place.unlink()


def test_two_do_not_write_at_a_time(path, whole):
    with opened(path) as results:
        write(results, 4)
        with (
            pytest.raises(
                FileExistsError,
                match="`output` must not be that of a command that is still "
                f"going on. Received: output={path}$",
            ),
            opened(path),
        ):
            pass
        write(results)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("room", [0, 1, 150, 300])
def test_a_full_disk_loses_nothing(room, path, whole):
    """No file may have more than so many bytes."""
    done = 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.raises(OSError, match="too large"), opened(path) as results:
            try:
                write(results)
            finally:
                done = results.done
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not path.exists()
    with opened(path) as results:
        assert results.done == done
        write(results)
    assert path.read_bytes() == whole


def printed(kind, capsys):
    rows = kind(2)
    results = prediction_results.PrintedResults(rows, len(PREDICTIONS))
    write(results)
    return results, capsys.readouterr().out


def test_json_is_printed_as_it_would_be_written(tmp_path, capsys):
    with opened(tmp_path / "labels.jsonl") as results:
        write(results)
    _, text = printed(prediction_results.JsonRows, capsys)
    assert text.encode() == (tmp_path / "labels.jsonl").read_bytes()


def test_a_table_has_a_line_for_an_image_and_one_for_each_class(capsys):
    results, text = printed(prediction_results.TableRows, capsys)
    header, *lines = text.splitlines()
    assert header == "   score  class  label"
    assert lines[:6] == [
        "plain.jpg",
        "  0.9000      3  plain.jpg!",
        "  0.0000      0  b",
        "with, comma.jpg",
        "  0.9000      3  with, comma.jpg!",
        "  0.0000      1  b",
    ]
    assert lines[6] == 'with "quotes".jpg: empty'
    # What would break a line or command a terminal is spelled out.
    assert len(lines) == 3 * 8 + 3
    assert "two\\nlines.jpg" in lines
    assert all(line.isprintable() for line in lines)
    assert (results.done, results.total) == (11, 11)
    assert results.statuses == {OK: 8, "empty": 3}


def test_only_the_first_without_labels_are_kept_by_name(capsys):
    rows = prediction_results.TableRows(2)
    results = prediction_results.PrintedResults(rows, 10)
    bad = [Prediction(f"{i}\x1b.png", "empty", (), (), ()) for i in range(5)]
    for prediction in bad:
        results.write([prediction])
    results.write(bad)
    assert results.without == [f"{i}\\x1b.png (empty)" for i in range(3)]
    assert results.statuses == {"empty": 10}
