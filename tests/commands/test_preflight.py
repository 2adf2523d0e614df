import dataclasses
import importlib.util
import json
import re

import keras
import pytest

from lambda_keras import cli
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.records import append_records
from lambda_keras.benchmark.records import read_records
from lambda_keras.benchmark.suites import SuiteRow
from lambda_keras.benchmark.suites import find_suite
from lambda_keras.files import locked
from tests.benchmark.tpu_programs import FITTING
from tests.benchmark.tpu_programs import TOO_LARGE

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="preflight runs on JAX"
)

MODEL = "tests.benchmark.models:plain@8"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(*flags):
    """Runs the command; returns its exit status."""
    try:
        cli.main(["preflight", *flags])
    except SystemExit as error:
        return error.code
    return 0


@pytest.fixture
def compiler(pretended_libtpu, monkeypatch):
    """A compiler that only pretends: 100 images a device fit.

    Returns:
        The calls that there were.
    """
    calls = []

    def call_in_child(function, environment, tell, timeout, **arguments):
        calls.append(
            {**arguments, "environment": environment, "timeout": timeout}
        )
        tell(0.0)
        if arguments["model"].startswith("lambda_resnet_270"):
            raise ChildError("out of memory")
        devices = 8 if arguments["topology"].endswith("-8") else 1
        fits = arguments["batch_size"] <= 100 * devices
        program = dataclasses.replace(
            FITTING if fits else TOO_LARGE,
            topology=arguments["topology"],
            optimal_seconds=0.1,
        )
        return json.loads(json.dumps(dataclasses.asdict(program)))

    monkeypatch.setattr(
        "lambda_keras.commands.preflight.call_in_child", call_in_child
    )
    return calls


def test_what_is_asked_for_is_compiled(compiler, capsys):
    flags = ("--topology=V6e-8", "--mode=infer", "--precision=float32")
    assert run(f"--model={MODEL}", *flags, "--batch=80", "--nocache") == 0
    (call,) = compiler
    assert call.pop("environment")["KERAS_BACKEND"] == "jax"
    assert call == {
        "model": MODEL,
        "mode": "infer",
        "precision": "float32",
        "batch_size": 80,
        "topology": "v6e-8",
        "use_cache": False,
        "timeout": 3600.0,
    }
    printed, progress = capsys.readouterr()
    assert "one inference step of 80 images in float32" in printed
    assert f"compiling {MODEL}, 80 images" in progress


def test_a_plan_is_printed_with_its_price(compiler, capsys):
    flags = ("--recipe=paper_350ep", "--examples=1000000", "--price=2")
    assert run(f"--model={MODEL}", "--batch=800", *flags) == 0
    printed = capsys.readouterr().out
    assert "paper_350ep: 350 epochs of 1,000,000 images" in printed
    # 800 images in 0.1 s
    hours = 350 * 1_000_000 / 8000 / 3600
    assert f" {hours:.1f}  by the estimate" in printed
    assert f" {hours * 8 * 2:.2f}  at 2 a chip-hour" in printed


def test_an_epoch_is_imagenets_where_the_recipe_is(compiler, capsys):
    assert run(f"--model={MODEL}", "--batch=8", "--recipe=paper_350ep") == 0
    assert "350 epochs of 1,281,167 images" in capsys.readouterr().out


def test_records_have_one_name_for_a_tpu(compiler, tmp_path):
    flags = (f"--model={MODEL}", "--batch=8", f"--output_dir={tmp_path}")
    assert run(*flags, "--topology=v5litepod-8") == 0
    assert compiler[0]["topology"] == "v5e-8"
    (record,) = read_records(tmp_path / "records.jsonl")
    assert record.settings["topology"] == "v5e-8"


def test_by_default_a_device_has_128_images(compiler, capsys):
    assert run(f"--model={MODEL}", "--topology=v3-8") == 3
    assert compiler[0]["batch_size"] == 1024
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{MODEL} with 1,024 images on v3-8 does not fit: 20.00 GiB" in error
    assert "4.00 GiB too much; --find_batch searches" in error


def test_the_largest_batch_is_searched(compiler, capsys, tmp_path):
    flags = ("--find_batch", "--topology=v5e-8", f"--output_dir={tmp_path}")
    assert run(f"--model={MODEL}", *flags) == 0
    printed = capsys.readouterr().out
    assert "1,024 images: does not fit: 20.00 GiB" in printed
    assert "768 images: fits: 4.00 GiB" in printed
    assert "832 images: does not fit" in printed
    found = "768 images are the most that fit, to within 8 a chip.\n\nmine"
    found = found.replace("mine", MODEL)
    assert f"\n{found}: one training step of 768 images" in printed
    sizes = [call["batch_size"] for call in compiler]
    assert sizes == [1024, 512, 768, 896, 832]
    records = read_records(tmp_path / "records.jsonl")
    assert [record.batch_size for record in records] == sizes
    assert {record.error for record in records} == {None, "does not fit"}


@pytest.mark.parametrize(
    ("largest", "line"),
    [
        (60, "60 images are the most that fit.\n"),
        # What is asked for is tried first, and nothing that is more.
        (10**9, "100,000 images fit; more were not tried.\n"),
    ],
)
def test_a_search_says_how_far_it_went(
    largest, line, compiler, capsys, monkeypatch
):
    monkeypatch.setattr(
        "lambda_keras.commands.preflight.call_in_child",
        lambda *_, batch_size, topology, **__: dataclasses.asdict(
            dataclasses.replace(
                FITTING if batch_size <= largest else TOO_LARGE,
                topology=topology,
            )
        ),
    )
    flags = ("--find_batch", "--topology=v5e-1", "--batch=100000")
    assert run(f"--model={MODEL}", *flags) == 0
    assert f"\n{line}" in capsys.readouterr().out


def test_a_search_may_find_nothing(compiler, capsys, monkeypatch):
    monkeypatch.setattr("tests.commands.test_preflight.FITTING", TOO_LARGE)
    assert run(f"--model={MODEL}", "--find_batch", "--batch=16") == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{MODEL} with 8 images on v5e-8 does not fit" in error


def test_records_are_added(compiler, tmp_path):
    flags = (f"--output_dir={tmp_path}/new/er", "--batch=8")
    assert run(f"--model={MODEL}", *flags) == 0
    assert run(f"--model={MODEL}", *flags, "--mode=infer") == 0
    records = read_records(tmp_path / "new" / "er" / "records.jsonl")
    assert [one.settings["mode"] for one in records] == ["train", "infer"]
    assert {one.benchmark for one in records} == {"preflight"}
    # The very same is no second measurement.
    assert run(f"--model={MODEL}", *flags) == 0
    assert len(read_records(tmp_path / "new" / "er" / "records.jsonl")) == 2
    # Nothing is written unless it is asked for.
    before = sorted(tmp_path.iterdir())
    assert run(f"--model={MODEL}", "--batch=8") == 0
    assert sorted(tmp_path.iterdir()) == before


def test_a_suite_goes_on_where_it_was(compiler, capsys, tmp_path):
    flags = ("--suite=paper", "--topology=v3-1", f"--output_dir={tmp_path}")
    path = tmp_path / "records.jsonl"
    # One of its models needs more memory than this machine has.
    assert run(*flags) == 1
    printed, progress = capsys.readouterr()
    assert "lambda_resnet_270@256 with 32 images could not be" in progress
    assert "compiled: this machine ran out of memory while" in progress
    assert "8 of 20: compiling lambda_resnet_270@256" in progress
    records = read_records(path)
    assert len(records) == len(compiler) - 1 == 19
    assert printed.count("| lambda_resnet_") == 11
    assert printed.count("| efficientnet_b") == 8
    assert str(path) in printed
    # As if it had been killed while it wrote the tenth
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:9]) + lines[9][:100])
    compiler.clear()
    assert run(*flags) == 1
    again = read_records(path)
    names = [record.name for record in again]
    assert sorted(names) == sorted(set(names)) and len(names) == 19
    assert len(compiler) == 11
    assert capsys.readouterr().out == printed
    compiler.clear()
    assert run(*flags, "--precision=float32") == 1
    assert len(compiler) == 20


@pytest.mark.parametrize("name", ["lambda_keras", "libtpu", "jax"])
def test_a_suite_goes_on_with_its_own_versions_only(
    name, compiler, capsys, tmp_path
):
    flags = ("--suite=quick", "--topology=v3-1", f"--output_dir={tmp_path}")
    assert run(*flags) == 0
    path = tmp_path / "records.jsonl"
    records = read_records(path)
    now = records[-1].versions[name]
    records[-1].versions[name] = "0.0.1"
    path.unlink()
    append_records(path, records)
    capsys.readouterr()
    assert run(*flags) == 2
    error = capsys.readouterr().err.strip()
    assert f"has estimates of {name} 0.0.1, and this is {now}: give" in error
    assert read_records(path) == records


def test_a_suite_has_a_directory_to_itself(compiler, capsys, tmp_path):
    path = tmp_path / "records.jsonl"
    path.touch()
    with locked(path):
        assert run("--suite=quick", f"--output_dir={tmp_path}") == 2
    error = capsys.readouterr().err
    assert "`output_dir` must not be one that another process is sti" in error
    assert compiler == [] and path.read_text() == ""
    assert run("--suite=quick", f"--output_dir={tmp_path}") == 0


def test_a_suite_ends_with_the_status_of_what_does_not_fit(
    compiler, capsys, tmp_path
):
    flags = ("--suite=quick", "--topology=v3-1", f"--output_dir={tmp_path}")
    assert run(*flags, "--batch=300") == 3
    printed, error = capsys.readouterr()
    assert printed.count("does not fit") == 2
    line = error.strip().splitlines()[-1]
    assert "efficientnet_b0@224, lambda_resnet_50@128: no batch that" in line
    assert line.endswith("was tried fits on v3-1")


def test_a_suite_has_batches_for_tpus(compiler, tmp_path):
    flags = ("--suite=quick", "--topology=v3-1", f"--output_dir={tmp_path}")
    assert run(*flags) == 0
    assert [call["batch_size"] for call in compiler] == [64, 64]


def test_a_suite_halves_what_does_not_fit(
    compiler, capsys, monkeypatch, tmp_path
):
    rows = (SuiteRow("lambda_resnet_50@64", 256),)
    monkeypatch.setattr(
        "lambda_keras.commands.preflight.find_suite",
        lambda name: rows if name == "quick" else find_suite(name),
    )
    flags = ("--suite=quick", "--topology=v3-1")
    assert run(*flags, f"--output_dir={tmp_path / 'any'}") == 0
    assert [call["batch_size"] for call in compiler] == [256, 128, 64]
    assert capsys.readouterr().out.count("does not fit") == 2
    # A size that is asked for is the only one.
    compiler.clear()
    assert run(*flags, "--batch=300", f"--output_dir={tmp_path / 'one'}") == 3
    assert [call["batch_size"] for call in compiler] == [300]


def test_pairs_have_the_batch_sizes_of_the_curve(compiler, tmp_path):
    flags = ("--suite=matched", "--topology=v3-8", f"--output_dir={tmp_path}")
    run(*flags)
    sizes = {call["model"]: call["batch_size"] for call in compiler}
    assert sizes["efficientnet_b0@224"] == 8 * 64
    assert sizes["efficientnet_b7@600"] == 8 * 16
    assert sizes["lambda_resnet_152@224"] == 8 * 32


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "Exactly one of `model`, `suite` and `layers` must be given"),
        (("--suite=paper", "--model=LambdaResNet50"), "Exactly one of `mod"),
        (("--suite=paper", "--find_batch"), "must come with a `model`"),
        (("--suite=paper", "--recipe=digits"), "must come with a `model`"),
        (("--model=LambdaResNet51",), "The closest are"),
        (("--model=LambdaResNet50@big",), "must be an integer above 0"),
        (("--model=LambdaResNet50", "--topology=v5e-3"), "such as v5e-1"),
        (
            ("--model=LambdaResNet50", "--topology=v5e-8", "--batch=12"),
            "`batch` must be a multiple of 8, the chips of v5e-8",
        ),
        (
            ("--model=LambdaResNet50", "--topology=v3-32", "--batch=12"),
            "`batch` must be a multiple of 32, the cores of v3-32",
        ),
        (("--model=LambdaResNet50", "--price=2"), "must come with a `recipe`"),
        (
            ("--model=LambdaResNet50", "--examples=9"),
            "`examples` must come with a `recipe`",
        ),
        (
            ("--model=LambdaResNet50", "--recipe=digits"),
            "`examples` must be given with a `recipe` that is not for ImageNet",
        ),
        (
            (
                *("--model=LambdaResNet50", "--mode=infer"),
                "--recipe=paper_350ep",
            ),
            "`recipe` must come with mode=train",
        ),
        (("--model=LambdaResNet50", "--timeout=0"), "`timeout` must be a numb"),
        (
            ("--model=LambdaResNet50", "--output_dir=~no-such-user/x"),
            "`output_dir` must be a directory",
        ),
        (
            ("--model=LambdaResNet50", "--recipe=digit"),
            "`recipe` must be one of",
        ),
        (("--model=LambdaResNet50", "--output_dir=file"), "File exists: "),
    ],
)
def test_mistakes_are_one_line(flags, message, compiler, capsys, tmp_path):
    (tmp_path / "file").touch()
    assert run(*flags) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert compiler == []


def test_a_missing_compiler_is_one_line(capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: None if name == "libtpu" else find_spec(name),
    )
    assert run(f"--model={MODEL}") == 2
    error = capsys.readouterr().err.strip()
    assert "not installed: libtpu" in error and "\n" not in error
    assert 'pip install "lambda_keras[preflight]"' in error


REFUSAL = "JaxRuntimeError: RESOURCE_EXHAUSTED: no VMEM is left"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            ChildError("out of memory", "Killed"),
            "this machine ran out of memory while compiling",
        ),
        (ChildError("out of memory", f"Traceback:\n{REFUSAL}\n"), REFUSAL),
        (ChildError("took longer than 5 s"), "took longer than 5 s"),
    ],
)
def test_a_model_that_cannot_be_compiled_is_one_line(
    error, why, compiler, capsys, monkeypatch
):
    def call_in_child(*_, timeout, **__):
        assert timeout == 5
        raise error

    monkeypatch.setattr(
        "lambda_keras.commands.preflight.call_in_child", call_in_child
    )
    assert run(f"--model={MODEL}", "--timeout=5") == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.endswith(f"1,024 images could not be compiled: {why}")


@pytest.mark.tpu_backend
def test_a_step_is_compiled_for_tpus_on_this_machine(capfd):
    pytest.importorskip("libtpu")
    flags = (f"--model={MODEL}", "--topology=v5e-8", "--batch=64")
    assert run(*flags) == 0
    printed, progress = capfd.readouterr()
    assert "v5e-8: 8 chips of TPU v5e, 8 images each" in printed
    assert "compiled here in" in printed
    assert re.search(r"It fits: .* of a chip's 15\.\d\d GiB", printed)
    assert "all-reduce" in printed and "between devices" in printed
    # What libtpu says to itself is not for the user.
    assert len(progress.strip().splitlines()) == 1
    assert run(*flags) == 0
    again = capfd.readouterr().out
    assert "compiled earlier (cached)" in again
    assert again.splitlines()[3:] == printed.splitlines()[3:]


@pytest.mark.tpu_backend
def test_a_step_that_does_not_fit_is_refused(capfd):
    pytest.importorskip("libtpu")
    flags = ("--topology=v3-1", f"--batch={2**27}")
    assert run(f"--model={MODEL}", *flags) == 3
    printed, error = capfd.readouterr()
    assert printed == ""
    line = error.strip().splitlines()[-1]
    assert "on v3-1 does not fit: " in line
    assert re.search(r" are needed of a core's 15\.\d\d GiB", line)
