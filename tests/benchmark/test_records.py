import concurrent.futures
import dataclasses
import datetime
import json

import keras
import pytest

from lambda_keras.benchmark.records import Record
from lambda_keras.benchmark.records import append_records
from lambda_keras.benchmark.records import make_record
from lambda_keras.benchmark.records import read_records


@pytest.fixture
def record():
    return make_record(
        "input", "decode", "images/s", [12, 8, 10], 64, {"image_size": 224}
    )


def test_the_figure_is_the_median_and_the_spread_is_all_of_it(record):
    assert record.value == 10
    assert record.spread == pytest.approx(0.4)
    even = dataclasses.replace(record, values=(1.0, 2.0, 4.0, 8.0))
    assert even.value == 3
    assert dataclasses.replace(record, values=(5.0,)).spread == 0


def test_a_record_places_its_figure(record):
    line = json.loads(record.to_json())
    assert list(line)[:5] == ["benchmark", "name", "value", "unit", "spread"]
    assert line["values"] == [12, 8, 10]
    assert line["value"] == 10
    assert line["batch_size"] == 64
    assert line["settings"] == {"image_size": 224}
    assert line["device"]["kind"] in ("CPU", "GPU", "TPU")
    assert line["device"]["count"] >= 1
    assert line["versions"]["keras"] == keras.__version__
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(
        line["date"]
    )
    assert datetime.timedelta() <= age < datetime.timedelta(minutes=5)


def test_the_device_can_be_another(record):
    given = {"kind": "TPU", "name": "v5e", "count": 4}
    made = make_record("input", "read", "images/s", [1], 1, device=given)
    assert made.device == given != record.device
    assert made.settings == {}


def test_the_device_and_versions_of_another_process_are_kept():
    given = {"device": {"kind": "GPU"}, "versions": {"keras": "0"}}
    made = make_record("throughput", "a model", "images/s", [1], 1, **given)
    assert (made.device, made.versions) == tuple(given.values())


def test_a_record_has_a_value(record):
    with pytest.raises(ValueError, match=r"at least one.*Received: values="):
        dataclasses.replace(record, values=())


def test_or_it_says_why_there_is_none(record, tmp_path):
    failed = make_record(
        "throughput", "a model", "images/s", [], 512, error="out of memory"
    )
    assert failed.value is failed.spread is None
    line = json.loads(failed.to_json())
    assert (line["value"], line["spread"]) == (None, None)
    assert line["error"] == "out of memory"
    append_records(tmp_path / "records.jsonl", [failed])
    assert read_records(tmp_path / "records.jsonl") == [failed]
    assert record.error is None


def test_records_from_before_there_were_errors_are_read(record, tmp_path):
    line = json.loads(record.to_json())
    del line["error"]
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(line) + "\n")
    assert read_records(path) == [record]


@pytest.mark.parametrize("line", ['{"epoch": 1}', "[1, 2]", "3"])
def test_a_file_of_something_else_is_refused(record, line, tmp_path):
    path = tmp_path / "history.jsonl"
    append_records(path, [record])
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"of records.*history\.jsonl.*line 2"):
        read_records(path)


def test_records_are_read_as_they_were_written(record, tmp_path):
    path = tmp_path / "records.jsonl"
    other = dataclasses.replace(record, name="read", values=(1.5,))
    append_records(path, [record, other])
    append_records(path, [])
    append_records(path, [other])
    assert read_records(path) == [record, other, other]
    assert all(isinstance(one, Record) for one in read_records(path))
    assert path.read_text().count("\n") == 3


def test_a_line_that_was_not_finished_spoils_no_other(record, tmp_path):
    path = tmp_path / "records.jsonl"
    append_records(path, [record])
    with path.open("a") as file:
        file.write(record.to_json()[:50])
    append_records(path, [record])
    assert read_records(path) == [record, record]


def test_two_write_to_one_file_at_a_time(record, tmp_path):
    path = tmp_path / "records.jsonl"
    # Longer than what a buffer writes at once
    record = dataclasses.replace(record, settings={"files": "x" * 20_000})
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        # Each opens the file for itself, as processes do.
        tasks = [pool.submit(append_records, path, [record]) for _ in range(80)]
    assert all(task.result() is None for task in tasks)
    assert read_records(path) == [record] * 80
