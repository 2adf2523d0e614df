import dataclasses
import re

import pytest

from lambda_keras import cli
from lambda_keras.benchmark.records import append_records
from tests.benchmark.model_records import estimated
from tests.benchmark.model_records import measured

L50, B0 = "lambda_resnet_50@128", "efficientnet_b0@224"


@pytest.fixture
def run(tmp_path):
    """The directory of a run, with its records."""
    directory = tmp_path / "run"
    directory.mkdir()
    append_records(
        directory / "records.jsonl", measured(L50, 20.0) + measured(B0, 10.0)
    )
    return directory


def report(*flags):
    cli.main(["benchmark", "report", *map(str, flags)])


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_it_is_written_beside_the_records_and_printed(run, capsys):
    (run / "report.md").write_text("an older one")
    report(f"--records={run / 'records.jsonl'}")
    printed = capsys.readouterr().out
    assert names(run) == [
        "pareto.png",
        "records.jsonl",
        "report.csv",
        "report.md",
    ]
    assert (run / "report.md").read_text() in printed
    assert "2.00" in printed
    assert printed.endswith(f"\n{run}\n  report.md, report.csv, pareto.png\n")


def test_several_runs_make_one_report_which_can_be_elsewhere(run, tmp_path):
    other = tmp_path / "estimates.jsonl"
    append_records(other, [estimated(L50, 2500.0)])
    elsewhere = tmp_path / "a new" / "directory"
    # A directory stands for its records.
    report(f"--records={run}, {other}", f"--output_dir={elsewhere}")
    assert names(elsewhere) == ["pareto.png", "report.csv", "report.md"]
    text = (elsewhere / "report.md").read_text()
    assert "bf16, JAX: measured" in text
    assert "bf16, JAX, v3-1: compiler's estimate" in text
    assert names(run) == ["records.jsonl"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "`records` must name files or directories"),
        (("--records= , ",), "`records` must name files or directories"),
        (("--records=nowhere.jsonl",), "there is no nowhere.jsonl"),
        (("--records=empty.jsonl",), "Expected records.*records=empty.jsonl"),
        (("--records=history.jsonl",), "Expected a file of records.*line 1"),
        (("--records=input.jsonl",), "Expected records of `benchmark through"),
        (("--records=run", "--output_dir=empty.jsonl"), "File exists.*empty"),
        (("--records=input.jsonl", "--output_dir=new"), "benchmark=input"),
        (("--records=run/report.png",), "there is no run.report.png"),
    ],
)
def test_mistakes_are_one_line(flags, message, run, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    (run.parent / "empty.jsonl").touch()
    (run.parent / "history.jsonl").write_text('{"epoch": 1}\n')
    (record,) = measured(L50, 1.0)
    append_records(
        run.parent / "input.jsonl",
        [dataclasses.replace(record, benchmark="input")],
    )
    before = names(run.parent), names(run)
    with pytest.raises(SystemExit) as exit_info:
        report(*flags)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("lambda-keras benchmark report: ")
    assert "\n" not in error
    assert re.search(message, error)
    assert (names(run.parent), names(run)) == before
