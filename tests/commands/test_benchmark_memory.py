import importlib.util
import re

import keras
import pytest

from lambda_keras import cli
from lambda_keras.benchmark.children import ChildError

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="about JAX only"
)
NO_COMPILER = "libtpu is not installed"
SMALL = (
    *("--programs=layer", "--layer_size=16", "--layer_batch=4"),
    "--run_batch=16",
)


def run(directory, *flags):
    arguments = ["benchmark", "memory", *SMALL, f"--output_dir={directory}"]
    cli.main([*arguments, *flags])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A directory that the real command has written."""
    directory = tmp_path_factory.mktemp("work") / "a run"
    run(directory, "--rows=global", "--figures=paper,run")
    return directory


@pytest.fixture
def counted(monkeypatch):
    """Counts the figures that are found, which children do not run for."""
    from lambda_keras.benchmark import memory

    found, measure = [], memory.measure

    def count(figure, *others):
        found.append(figure)
        return measure(figure, *others)

    def call(function, **arguments):
        raise ChildError("a child was called")

    monkeypatch.setattr(memory, "measure", count)
    monkeypatch.setattr(memory, "call_in_child", call)
    monkeypatch.setattr(memory, "find_device", dict)
    return found


def test_every_file_is_there_and_nothing_else(finished):
    names = sorted(path.name for path in finished.iterdir())
    assert names == ["memory.md", "memory.png", "records.jsonl"]
    assert list(finished.parent.iterdir()) == [finished]


def test_the_table_is_of_the_records(finished):
    from lambda_keras.benchmark.records import read_records

    records = read_records(finished / "records.jsonl")
    assert [
        (record.name, record.settings["counting"], record.batch_size)
        for record in records
    ] == [
        ("Global self-attention", "paper", 4),
        ("Global self-attention", "run", 16),
    ]
    text = (finished / "memory.md").read_text()
    for record in records:
        assert record.benchmark == "memory" and record.value > 0
        assert f"{record.value / 2**30:.3g}" in text
    counted, used = records
    # 4 examples of 8 heads on 256 x 256 pairs of positions.
    assert counted.value == 4 * 4 * 8 * 256**2
    # The maps themselves, and some more as large.
    assert 1 < used.value / (16 * counted.value / 4) < 8
    is_cpu = used.device["kind"] == "CPU"
    assert used.settings["peak_memory_of"] == (
        "process" if is_cpu else "device"
    )


def test_the_same_command_again_finds_nothing_twice(finished, counted, capsys):
    before = (finished / "records.jsonl").read_bytes()
    run(finished, "--rows=global", "--figures=paper,run")
    assert counted == []
    assert (finished / "records.jsonl").read_bytes() == before
    printed = capsys.readouterr().out
    assert "| Global self-attention " in printed
    assert f"{finished}\n  memory.md, records.jsonl, memory.png" in printed


def test_what_another_command_adds_is_all_that_is_found(finished, counted):
    run(finished, "--rows=global,axial", "--figures=paper")
    assert [(one.row, one.counting) for one in counted] == [("axial", "paper")]


def test_a_child_that_fails_leaves_the_other_figures(tmp_path, counted, capsys):
    with pytest.raises(SystemExit) as exit_info:
        run(tmp_path, "--rows=lambda,axial", "--figures=paper,run")
    assert exit_info.value.code == 1
    printed = capsys.readouterr()
    assert re.search(r"2 figures could not be found \(a child was", printed.err)
    assert re.search(r"\| Lambda layer .* \| +a child was called", printed.out)
    assert len(counted) == 4
    # They are tried again, and the others are not.
    with pytest.raises(SystemExit):
        run(tmp_path, "--rows=lambda,axial", "--figures=paper,run")
    assert [one.counting for one in counted[4:]] == ["run", "run"]


def test_without_libtpu_the_column_says_so(
    tmp_path, counted, capsys, monkeypatch
):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *others: (
            None if name == "libtpu" else find_spec(name, *others)
        ),
    )
    run(tmp_path, "--rows=lambda", "--figures=paper,tpu")
    cells = capsys.readouterr().out.splitlines()[4].split("|")
    assert [cell.strip() for cell in cells[3:5]] == [NO_COMPILER] * 2
    assert len(counted) == 1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--rows=global,everything", "`rows` must be some of global, axial"),
        ("--figures=", "`figures` must be some of paper, tpu, run, separated"),
        ("--programs=stacks", "`programs` must be some of stack, layer"),
        ("--topology=v3-9", "Expected a TPU such as v3-1"),
        ("--topology=v3-8", "a multiple of the 8 devices of v3-8. Received: l"),
        ("--image_size=16", "`image_size` must be at least 32"),
        ("--output_dir=.", "must be new, empty or what this command wrote"),
    ],
)
def test_mistakes_are_one_line(flag, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letter.txt").touch()
    with pytest.raises(SystemExit) as exit_info:
        run("out", flag)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
