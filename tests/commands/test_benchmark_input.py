import re

import numpy as np
import pytest

from lambda_keras import cli

pytestmark = pytest.mark.tf_only

FLAGS = (
    *("--batch_size=8", "--seconds=0.05", "--repeats=3"),
    "--randaugment_layers=1",
)


def counters(dataset, settings):
    """Pipelines of the right names that only count."""
    import tensorflow as tf

    from lambda_keras.benchmark.input_pipeline import MEANINGS

    return dict.fromkeys(MEANINGS, tf.data.Dataset.counter())


def run(directory, image_size, *patches):
    from lambda_keras.commands import benchmark_input

    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_input, "PHOTOGRAPHS", 40)
        patch.setattr(
            "builtins.print", lambda *words, **_: lines.append(" ".join(words))
        )
        for target, name, value in patches:
            patch.setattr(target, name, value)
        cli.main(
            [
                *("benchmark", "input", *FLAGS, f"--output_dir={directory}"),
                f"--image_size={image_size}",
            ]
        )
    return "\n".join(lines)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the command, and what it said."""
    from lambda_keras.benchmark import input_pipeline

    directory = tmp_path_factory.mktemp("work") / "a run"
    patch = (input_pipeline, "make_pipelines", counters)
    return run(directory, 32, patch), directory


@pytest.mark.slow
def test_with_the_real_pipelines_it_is_ten_times_keras(tmp_path):
    printed = run(tmp_path / "run", 224)
    (times,) = re.findall(r"and (\d+) times as many", printed)
    assert int(times) >= 10


def test_every_file_is_there_and_nothing_else(finished):
    directory = finished[1]
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["input.png", "records.jsonl", "table.md"]
    assert list(directory.parent.iterdir()) == [directory]


def test_what_is_printed_is_what_was_measured(finished):
    from lambda_keras.benchmark.records import read_records

    printed, directory = finished
    records = read_records(directory / "records.jsonl")
    rates = [record for record in records if "core" in record.unit]
    costs = [record for record in records if "CPU" in record.unit]
    assert len(rates) == len(costs) == len(records) / 2 == 6
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) == 8
    floor = rates[1].value
    for line, rate, cost in zip(table[2:], rates, costs):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == rate.name == cost.name
        assert float(cells[1].replace(",", "")) == round(rate.value, 1)
        assert cells[2] == f"{rate.spread:.0%}"
        assert float(cells[3]) == pytest.approx(rate.value / floor, abs=0.006)
        assert float(cells[4]) == pytest.approx(cost.value, abs=0.006)
        assert len(rate.values) == len(cost.values) == 3
    part = rates[4].value / floor
    times = rates[4].value / rates[5].value
    assert f"makes {part:.0%} of the images per second" in printed
    assert f"and {times:.0f} times as many" in printed
    written = (directory / "table.md").read_text()
    assert all(line in written for line in table)


def test_records_say_how_they_were_measured(finished):
    from lambda_keras.benchmark.records import read_records

    for record in read_records(finished[1] / "records.jsonl"):
        assert record.benchmark == "input"
        assert record.batch_size == 8
        assert record.settings["image_size"] == 32
        assert record.settings["randaugment_layers"] == 1
        assert "synthetic JPEG files of 500 x 375" in record.settings["files"]
        assert np.all(np.array(record.values) > 0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--repeats=2",), "`repeats` must be at least 3"),
        (("--dataset=digits",), "must be of encoded images"),
        (("--dataset=folder:nowhere",), "Received: "),
    ],
)
def test_mistakes_are_one_line(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["benchmark", "input", *flags, "--output_dir=out"])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "out").exists()


def test_a_directory_is_never_written_over(finished, capsys):
    directory = finished[1]
    before = (directory / "records.jsonl").read_bytes()
    with pytest.raises(SystemExit):
        cli.main(["benchmark", "input", f"--output_dir={directory}"])
    assert "must be new or an empty directory" in capsys.readouterr().err
    assert (directory / "records.jsonl").read_bytes() == before
