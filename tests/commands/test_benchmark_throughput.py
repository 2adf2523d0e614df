import errno
import os
import random
import signal
import subprocess
import sys

import keras
import pytest

from lambda_keras import cli
from lambda_keras.benchmark import throughput
from lambda_keras.benchmark.records import read_records
from lambda_keras.benchmark.records import spread
from lambda_keras.benchmark.settings import ThroughputBenchmark
from lambda_keras.commands import benchmark_throughput
from lambda_keras.training.run_directory import run_directory
from tests.benchmark.test_children import is_alive
from tests.benchmark.test_children import wait_for
from tests.commands import quick_worker

QUICK = quick_worker.__name__
PLAIN = "tests.benchmark.models:plain@2"

once = pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="processes that no engine has a part in; where they start sooner",
)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(throughput, "_WORKER", QUICK)


def run(*flags):
    cli.main(["benchmark", "throughput", *flags])


def printer(lines):
    """Keeps what is printed, and leaves progress out."""

    def keep(*words, file=None, **_):
        if file is None:
            lines.append(" ".join(words))

    return keep


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A suite that was measured, and what was said."""
    directory = tmp_path_factory.mktemp("work") / "a run"
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "_WORKER", QUICK)
        patch.setattr("builtins.print", printer(lines))
        run("--suite=quick", f"--output_dir={directory}")
    return "\n".join(lines), directory


def test_every_file_is_there_and_nothing_else(finished):
    names = sorted(path.name for path in finished[1].iterdir())
    assert names == [
        *("pareto.png", "recipe.json", "records.jsonl"),
        *("report.csv", "report.md"),
    ]


def test_every_measurement_is_a_row_of_the_table(finished):
    printed, directory = finished
    records = read_records(directory / "records.jsonl")
    assert len(records) == 3 * 2 * 2
    rows = [line for line in printed.splitlines() if "@" in line]
    for row, record in zip(rows, records):
        name, repeat, mode, batch, rate, step, memory, compile = row.split()
        assert (name, mode) == (record.name, record.settings["mode"])
        assert int(repeat) == record.settings["repeat"] + 1
        assert int(batch) == record.batch_size == 4
        assert float(rate) == record.value
        assert float(step) == pytest.approx(4000 / record.value, abs=0.06)
        assert (float(memory), float(compile)) == (1.5, 2.5)


def test_from_the_beginning_it_says_where_the_records_are(finished):
    printed, directory = finished
    before, _, _ = printed.partition("compile s")
    assert f"{directory}/records.jsonl" in before


def test_the_report_follows_the_table(finished):
    printed, directory = finished
    assert (directory / "report.md").read_text() in f"{printed}\n"
    assert "2.0x" in printed or "2.00" in printed
    assert printed.endswith(
        f"{directory}\n  records.jsonl, report.md, report.csv, pareto.png"
    )


def test_the_same_command_again_measures_nothing(finished, monkeypatch, capsys):
    printed, directory = finished
    before = (directory / "records.jsonl").read_bytes()
    monkeypatch.setattr(throughput, "_WORKER", QUICK)
    monkeypatch.setattr(throughput.Comparison, "_measure", None)
    run("--suite=quick", f"--output_dir={directory}")
    assert (directory / "records.jsonl").read_bytes() == before
    table = [line for line in printed.splitlines() if "@" in line]
    again = capsys.readouterr().out.splitlines()
    assert [line for line in again if "@" in line] == table


def error_of(capsys, *flags, status=2):
    with pytest.raises(SystemExit) as info:
        run(*flags)
    assert info.value.code == status
    (*_, line) = capsys.readouterr().err.strip().splitlines()
    return line.removeprefix("lambda-keras benchmark throughput: ")


def test_other_settings_are_refused_in_one_line(finished, quick, capsys):
    directory = finished[1]
    before = (directory / "records.jsonl").read_bytes()
    flags = ("--suite=quick", f"--output_dir={directory}")
    error = error_of(capsys, *flags, "--precision=bf16", "--repeats=4")
    assert "other settings" in error
    assert "precision=bf16 (there float32), repeats=4 (there 3)" in error
    assert (directory / "records.jsonl").read_bytes() == before


def test_two_do_not_measure_into_one_directory(
    tmp_path, quick, capsys, monkeypatch
):
    # To ask for the devices would already disturb who measures.
    monkeypatch.setattr(benchmark_throughput, "describe", None)
    flags = ("--suite=quick", f"--output_dir={tmp_path}")
    settings = ThroughputBenchmark(suite="quick", output_dir=str(tmp_path))
    with run_directory(tmp_path, settings):
        assert "still writing to" in error_of(capsys, *flags)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "either `models` or `suite`. Received: models=None, suite=None"),
        (("--suite=quick", "--models=ResNet50"), "either `models` or `suite`"),
        (("--suite=all",), "must be one of: paper, matched, quick"),
        (("--models=ResNet51",), "The closest are"),
        (("--models=",), "The closest are"),
        (("--models=ResNet50", "--repeats=2"), "must be at least 3"),
        (("--models=ResNet50", "--timeout=0"), "`timeout` must be a number"),
        (
            ("--models=ResNet50", "--batch=4", "--max_batch=8"),
            "either `batch` or `max_batch`. Received: batch=4, max_batch=8",
        ),
        (("--models=ResNet50", "--precision=half"), "float32, bf16"),
        (
            ("--models=ResNet50", "--strategy=mirrored", "--batch=6"),
            "`batch` must be a multiple of 4",
        ),
        (("--models=ResNet50", "--strategy=tpu"), "cannot be tpu"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    flags, message, quick, capsys, tmp_path
):
    output = tmp_path / "out"
    error = error_of(capsys, *flags, f"--output_dir={output}")
    assert message in error
    assert not output.exists()


def test_a_module_of_ones_own_is_imported_by_processes_that_measure(
    capsys, monkeypatch
):
    # Here it might take hold of an accelerator, and keep it from them.
    def describe(settings, models, tell):
        raise ValueError(f"asked for {models}")

    monkeypatch.setattr(benchmark_throughput, "describe", describe)
    models = "nowhere:build@08,ResNet50,nowhere:build@8"
    assert error_of(capsys, f"--models={models}") == (
        "asked for ['nowhere:build@8']"
    )


def test_a_full_disk_is_one_line_that_says_how_to_go_on(
    quick, capsys, tmp_path, monkeypatch
):
    def append(path, records):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(throughput, "append_records", append)
    error = error_of(
        capsys, "--suite=quick", f"--output_dir={tmp_path}/a run", status=1
    )
    assert error.endswith(
        "No space left on device; the same command with "
        f"--output_dir='{tmp_path}/a run' goes on from there"
    )


def test_killed_in_its_report_it_writes_it_whole(quick, tmp_path, monkeypatch):
    flags = ("--suite=quick", "--modes=infer", f"--output_dir={tmp_path}")

    def kill(records, directory):
        (directory / ".partial-x").mkdir()
        (directory / "report.md").write_text("an older one")
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(benchmark_throughput.report, "write_report", kill)
        run(*flags)
    monkeypatch.setattr(throughput.Comparison, "_measure", None)
    run(*flags)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("pareto.png", "recipe.json", "records.jsonl"),
        *("report.csv", "report.md"),
    }
    assert "lambda_resnet_50@128" in (tmp_path / "report.md").read_text()


class Killed(BaseException):
    """Ends all at once, as SIGKILL does."""


def test_what_could_not_be_measured_is_named_at_the_end(
    quick, capsys, tmp_path
):
    models = f"{PLAIN},lambda_resnet_50@128,LambdaResNet50@128"
    flags = (f"--models={models}", "--modes=infer", f"--output_dir={tmp_path}")
    error = error_of(capsys, *flags, status=1)
    assert f"no figure for infer {PLAIN} (KeyError: 'no such layer')" in error
    assert error.endswith(f"{tmp_path}/failures.txt says more")
    assert "in measure" in (tmp_path / "failures.txt").read_text()
    # Written in two ways, the other is still one model; 8 did not fit.
    records = read_records(tmp_path / "records.jsonl")
    others = [record for record in records if record.name != PLAIN]
    assert [record.batch_size for record in others] == [8, 4, 4, 4]
    # It stays so.
    assert error_of(capsys, *flags, status=1) == error
    assert read_records(tmp_path / "records.jsonl") == records


@pytest.mark.parametrize(
    ("flags", "kind", "replicas", "batch", "is_fixed"),
    [
        ({"suite": "quick"}, "CPU", 1, 4, False),
        ({"suite": "quick"}, "GPU", 4, 16, False),
        ({"suite": "quick", "max_batch": 64}, "GPU", 4, 64, False),
        ({"suite": "quick", "batch": 32}, "GPU", 4, 32, True),
        ({"models": "ResNet50"}, "CPU", 1, 8, False),
        ({"models": "ResNet50"}, "GPU", 2, 512, False),
    ],
)
def test_which_batch_comes_first(flags, kind, replicas, batch, is_fixed):
    settings = ThroughputBenchmark(**flags)
    described = {"device": {"kind": kind}, "replicas": replicas}
    models = benchmark_throughput._find_models(settings)
    rows = benchmark_throughput._find_rows(settings, models, described)
    assert {(row.batch_size, row.is_fixed) for row in rows} == {
        (batch, is_fixed)
    }
    assert {row.mode for row in rows} == {"train", "infer"}


def test_an_interruption_says_how_to_go_on(
    quick, capsys, tmp_path, monkeypatch
):
    calls = []

    def interrupt(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, *arguments)

    measure = throughput.Comparison._measure
    monkeypatch.setattr(throughput.Comparison, "_measure", interrupt)
    error = error_of(
        capsys, "--suite=quick", f"--output_dir={tmp_path}", status=130
    )
    assert error == (
        f"interrupted; the same command with --output_dir={tmp_path} goes on "
        "from there"
    )
    assert len(read_records(tmp_path / "records.jsonl")) == 1


def start(directory, *flags, process):
    return subprocess.Popen(
        [
            *(sys.executable, quick_worker.__file__, "--suite=quick"),
            *(f"--output_dir={directory}", *flags),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # One without devices: they are for processes that measure.
        env={
            **os.environ,
            **{"PROCESS": str(process), "JAX_PLATFORMS": "nowhere"},
        },
    )


def check_whole(directory, modes=("train", "infer")):
    keys = [
        (record.name, record.settings["mode"], record.settings["repeat"])
        for record in read_records(directory / "records.jsonl")
    ]
    models = ("efficientnet_b0@224", "lambda_resnet_50@128")
    assert keys == [
        (model, mode, repeat)
        for repeat in range(3)
        for model in models
        for mode in modes
    ]


@once
def test_killed_it_goes_on_and_its_child_has_died(tmp_path):
    process, directory = tmp_path / "process", tmp_path / "run"
    harness = start(directory, "--modes=infer", process=process)
    records = directory / "records.jsonl"
    wait_for(lambda: records.exists() and len(read_records(records)) >= 2)
    harness.send_signal(signal.SIGKILL)
    harness.communicate()
    before = read_records(records)
    assert 2 <= len(before) < 6
    child = int(wait_for(process.read_text))
    assert wait_for(lambda: not is_alive(child))
    harness = start(directory, "--modes=infer", process=process)
    output, error = harness.communicate(timeout=120)
    assert "6 of 6: infer lambda_resnet_50@128" in error, error
    check_whole(directory, ["infer"])
    assert read_records(records)[: len(before)] == before
    assert "report.md" in output


@once
@pytest.mark.slow
def test_killed_at_many_moments_it_still_ends_whole(tmp_path):
    process, directory = tmp_path / "process", tmp_path / "run"
    moments, kills = random.Random(0), 0
    while True:
        process.unlink(missing_ok=True)
        harness = start(directory, process=process)
        ended = harness.poll
        wait_for(lambda ended=ended: process.exists() or ended() is not None)
        try:
            harness.communicate(timeout=moments.uniform(0.0, 0.8))
            break
        except subprocess.TimeoutExpired:
            harness.send_signal(signal.SIGKILL)
            harness.communicate()
            kills += 1
    assert harness.returncode == 0
    assert kills > 5
    check_whole(directory)


def real(directory, *flags):
    """Measures a tiny model with nothing in the place of anything."""
    flags = (f"--models={PLAIN}", "--seconds=0.5", *flags)
    run(*flags, f"--output_dir={directory}")
    return read_records(directory / "records.jsonl")


@once
def test_a_real_measurement_from_end_to_end(tmp_path):
    records = real(tmp_path, "--modes=train", "--batch=2", "--precision=bf16")
    assert [record.settings["repeat"] for record in records] == [0, 1, 2]
    # Later processes read what the first one compiled.
    cached = [record.settings["compile_cached"] for record in records]
    assert cached == [False, True, True]
    for record in records:
        assert record.settings["compile_seconds"] > 0
        assert record.value > 0 and record.batch_size == 2
        assert record.settings["image_dtype"] == "bfloat16"
        assert record.settings["flops_per_image"] > 0
        assert record.versions["keras"] == keras.__version__


@pytest.mark.slow
def test_two_runs_agree_within_what_they_say_of_their_spread(tmp_path):
    model = "--models=tests.benchmark.models:sleeping@2"
    figures = []
    for name in ("one", "two"):
        directory = tmp_path / name
        run(model, "--batch=8", "--seconds=1", f"--output_dir={directory}")
        records = read_records(directory / "records.jsonl")
        for mode in ("train", "infer"):
            values = [
                record.value
                for record in records
                if record.settings["mode"] == mode
            ]
            assert len(values) == 3
            figures.append((mode, sorted(values)[1], spread(values)))
    half = len(figures) // 2
    for (_, one, first), (_, two, second) in zip(
        figures[:half], figures[half:]
    ):
        assert abs(one - two) / one <= max(first, second) + 0.01
