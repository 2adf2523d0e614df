import dataclasses
import json

import keras
import pytest

from lambda_keras import cli
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.records import append_records
from lambda_keras.benchmark.records import read_records
from lambda_keras.files import locked
from tests.benchmark.tpu_programs import FITTING

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="preflight runs on JAX"
)

LAYERS = "8x14x14x512:23,8x7x7x512:global"
CANDIDATES = "auto", "lambda_first", "query_first", "blocked"


def run(*flags):
    """Runs the command; returns its exit status."""
    try:
        cli.main(["preflight", *flags])
    except SystemExit as error:
        return error.code
    return 0


@pytest.fixture
def compiler(pretended_libtpu, monkeypatch, tmp_path):
    """A compiler that only pretends, and runs out of memory at first.

    Returns:
        The calls that there were.
    """
    monkeypatch.chdir(tmp_path)
    calls = []

    def call_in_child(function, environment, tell, timeout, **arguments):
        calls.append({**arguments, "timeout": timeout})
        assert function.endswith("layer_estimates:compile_layer")
        assert environment["KERAS_BACKEND"] == "jax"
        tell(0.0)
        if len(calls) == 2:
            raise ChildError("out of memory")
        program = dataclasses.replace(FITTING, topology=arguments["topology"])
        told = {
            "program": dataclasses.asdict(program),
            "implementation": "query_first",
            "reason": "query_first: why",
        }
        return json.loads(json.dumps(told))

    monkeypatch.setattr(
        "lambda_keras.commands.preflight.call_in_child", call_in_child
    )
    return calls


def test_layers_go_on_where_they_were(compiler, capsys, tmp_path):
    flags = (f"--layers={LAYERS}", f"--output_dir={tmp_path}", "--nocache")
    assert run(*flags, "--topology=V5e-1", "--timeout=7") == 1
    printed, progress = capsys.readouterr()
    message = "8x14x14x512:23, lambda_first could not be compiled: this machi"
    assert message in progress
    assert "8 of 8: compiling 8x7x7x512:global, blocked" in progress
    assert compiler[0] == {
        "shape": "8x14x14x512:23",
        "candidate": "auto",
        "mode": "train",
        "precision": "bf16",
        "topology": "v5e-1",
        "use_cache": False,
        "timeout": 7.0,
    }
    assert [call["candidate"] for call in compiler] == [*CANDIDATES * 2]
    path = tmp_path / "records.jsonl"
    records = read_records(path)
    assert len(records) == 7
    assert {record.benchmark for record in records} == {"layer preflight"}
    report = (tmp_path / "report.md").read_text()
    assert printed.startswith(report)
    assert printed.endswith(f"\n{tmp_path}\n  records.jsonl, report.md\n")
    # As if it had been killed while it wrote the last
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:100])
    assert run(*flags, "--topology=v5e-1") == 0
    assert [call["candidate"] for call in compiler[8:]] == [
        "lambda_first",
        "blocked",
    ]
    # One report of all TPUs.
    assert run(*flags, "--topology=v3-1", "--mode=infer") == 0
    assert len(compiler) == 18
    report = (tmp_path / "report.md").read_text()
    assert "## v5e-1: forward, and backward" in report
    assert "## v3-1: forward, bf16" in report
    assert len(read_records(path)) == 16


def test_a_directory_of_other_versions_is_refused(compiler, capsys, tmp_path):
    flags = ("--layers=8x7x7x512:global", f"--output_dir={tmp_path}")
    run(*flags)
    path = tmp_path / "records.jsonl"
    records = read_records(path)
    records[0].versions["libtpu"] = "0.0.1"
    path.unlink()
    append_records(path, records)
    capsys.readouterr()
    assert run(*flags) == 2
    assert "has estimates of libtpu 0.0.1" in capsys.readouterr().err
    with locked(path):
        assert run(*flags) == 2
    assert len(compiler) == 4


def test_by_default_there_is_a_new_directory(compiler, tmp_path):
    run("--layers=14")
    (path,) = tmp_path.glob("runs/*-preflight-layers/report.md")
    assert "8x14x14x512:23" in path.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--layers=14", "--suite=paper"), "Exactly one of `model`, `suite` a"),
        (("--layers=14", "--batch=8"), "`batch` must be left out with `layer"),
        (("--layers=14", "--find_batch"), "must come with a `model`"),
        (("--layers=15",), "A shape must be one of 14_global, 14,"),
        (
            ("--layers=14,64", "--topology=v5e-4"),
            "`layers` must have batches of a multiple of 4, the chips of v5e-4",
        ),
    ],
)
def test_mistakes_are_one_line(flags, message, compiler, capsys, tmp_path):
    assert run(*flags) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert compiler == [] and list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.tpu_backend
def test_layers_are_compiled_for_tpus_on_this_machine(
    capfd, monkeypatch, tmp_path
):
    pytest.importorskip("libtpu")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = ("--layers=16x4x4x256:3", "--topology=v5e-1")
    assert run(*flags, f"--output_dir={tmp_path / 'run'}") == 0
    printed, _ = capfd.readouterr()
    assert printed.count("\n| 16x4x4x256:3 |") == 4
    assert "\n- 16x4x4x256:3: 3 kernels, " in printed
    records = read_records(tmp_path / "run" / "records.jsonl")
    assert [len(record.values) for record in records] == [0, 1, 1, 1]
