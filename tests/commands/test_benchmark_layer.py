import keras
import pytest

from lambda_keras import cli
from lambda_keras.benchmark import layer_candidates
from lambda_keras.benchmark import layer_comparison
from lambda_keras.benchmark.records import read_records
from tests.commands import quick_layers

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="processes that no engine has a part in; where they start sooner",
)
QUICK = quick_layers.__name__
SHAPE = "2x8x8x16:3"
CHOSEN = "auto/*,query_first/jax,convolution/jax,blocked/jax,listing/eager"


@pytest.fixture
def quick(monkeypatch):
    use_quick(monkeypatch)


def use_quick(patch):
    patch.setattr(layer_comparison, "_CHILD", QUICK)
    patch.setattr(layer_comparison, "_REFERENCE", f"{QUICK}:write_reference")
    # Whatever is installed.
    patch.setattr(layer_candidates, "missing_packages", lambda one: [])
    patch.setattr(layer_comparison, "missing_packages", lambda one: [])
    patch.setattr(
        "lambda_keras.commands.benchmark_layer.missing_packages",
        lambda one: [],
    )


def run(directory, *flags, chosen=CHOSEN, shape=SHAPE):
    cli.main(
        [
            *("benchmark", "layer", f"--shapes={shape}", "--repeats=3"),
            *(f"--candidates={chosen}", f"--output_dir={directory}", *flags),
        ]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A directory of a whole comparison, and what was said."""
    directory = tmp_path_factory.mktemp("work") / "a run"
    lines = []

    def keep(*words, file=None, **_):
        if file is None:
            lines.append(" ".join(words))

    with pytest.MonkeyPatch.context() as patch:
        use_quick(patch)
        patch.setattr("builtins.print", keep)
        run(directory)
    return "\n".join(lines), directory


def test_every_file_is_there_and_nothing_else(finished):
    names = sorted(path.name for path in finished[1].iterdir())
    assert names == [
        *("failures.txt", "layers.png", "recipe.json"),
        *("records.jsonl", "report.md"),
    ]


def test_every_candidate_has_a_row_in_every_mode(finished):
    records = read_records(finished[1] / "records.jsonl")
    assert [(one.settings["mode"], one.name) for one in records] == [
        (mode, name)
        for mode in ("forward", "training")
        for name in (
            *("auto/tf", "auto/tf_jit", "auto/jax", "query_first/jax"),
            *("convolution/jax", "blocked/jax", "listing/eager"),
        )
    ]
    auto = records[0]
    assert auto.values == (4.0, 4.0, 4.0) and auto.unit == "ms"
    assert auto.batch_size == 2
    assert auto.settings["peak_memory_bytes"] == 5_000_000
    assert auto.versions == {"engine": "tensorflow"}
    assert records[2].versions == {"engine": "jax"}
    assert records[-1].versions == {"engine": "torch"}


def test_what_failed_is_a_row_that_says_so(finished):
    printed, directory = finished
    records = read_records(directory / "records.jsonl")
    errors = {one.name: one.error for one in records if one.error}
    assert errors == {
        "query_first/jax": "out of memory",
        "convolution/jax": "ValueError: differs",
    }
    assert "in prepare" in (directory / "failures.txt").read_text()
    for name, error in errors.items():
        (row, *_) = [
            line for line in printed.splitlines() if line.startswith(name)
        ]
        assert row.split(maxsplit=1)[1] == error


def test_what_cannot_be_weighed_is_timed_all_the_same(finished):
    records = read_records(finished[1] / "records.jsonl")
    (blocked, _) = [one for one in records if one.name == "blocked/jax"]
    assert blocked.values and blocked.error is None
    reason = "ValueError: cannot be weighed"
    assert blocked.settings["peak_memory_error"] == reason


def test_the_report_follows(finished):
    printed, directory = finished
    text = (directory / "report.md").read_text()
    assert text in f"{printed}\n"
    assert "forward: 2.00 times faster" in text


def test_the_same_command_again_measures_nothing(finished, quick, monkeypatch):
    before = (finished[1] / "records.jsonl").read_bytes()
    monkeypatch.setattr(layer_comparison, "Child", None)
    run(finished[1])
    assert (finished[1] / "records.jsonl").read_bytes() == before


def test_a_mode_that_is_missing_is_measured(
    tmp_path, quick, monkeypatch, capsys
):
    monkeypatch.setenv("INTERRUPT", "")
    told = []

    def interrupt(self, text, seconds, take=None):
        told.append(text)
        if len(told) > 3:
            raise KeyboardInterrupt
        take_turn(self, text, seconds)

    contestant = layer_comparison._Contestant
    take_turn = contestant.take_turn
    monkeypatch.setattr(contestant, "take_turn", interrupt)
    with pytest.raises(SystemExit) as info:
        run(tmp_path, chosen="auto/jax")
    assert info.value.code == 130
    assert "goes on from there" in capsys.readouterr().err
    (record,) = read_records(tmp_path / "records.jsonl")
    assert record.settings["mode"] == "forward"
    monkeypatch.setattr(contestant, "take_turn", take_turn)
    monkeypatch.delenv("INTERRUPT")
    run(tmp_path, chosen="auto/jax")
    first, second = read_records(tmp_path / "records.jsonl")
    assert first == record
    assert second.settings["mode"] == "training"


def error_of(capsys, *arguments, status=2, **keywords):
    with pytest.raises(SystemExit) as info:
        run(*arguments, **keywords)
    assert info.value.code == status
    (*_, line) = capsys.readouterr().err.strip().splitlines()
    return line.removeprefix("lambda-keras benchmark layer: ")


def test_a_hung_candidate_is_given_up(tmp_path, quick, monkeypatch):
    monkeypatch.setenv("INTERRUPT", "")
    flags = ("--modes=training", "--timeout=4")
    run(tmp_path, *flags, chosen="auto/jax")
    (record,) = read_records(tmp_path / "records.jsonl")
    assert record.error == "took longer than 4 s" and not record.values


def test_mistakes_are_told_in_one_line(tmp_path, quick, capsys):
    error = error_of(capsys, tmp_path, chosen="auto,lambada")
    assert error.startswith("`candidates` must fit some of auto, ")
    assert error.endswith("Received: candidates=lambada")
    error = error_of(capsys, tmp_path, "--shapes=14,15")
    assert "A shape must be one of 14_global" in error
    assert not any(tmp_path.iterdir())


def test_without_a_reference_nothing_is_measured(
    tmp_path, quick, monkeypatch, capsys
):
    monkeypatch.setenv("NO_REFERENCE", "")
    error = error_of(capsys, tmp_path, status=1, chosen="auto/jax")
    assert error.startswith("ValueError: no reference; the same command")


def test_another_device_cannot_go_on(finished, quick, monkeypatch, capsys):
    described = {"device": {"kind": "GPU"}, "versions": {}}
    monkeypatch.setattr(
        "lambda_keras.commands.benchmark_layer.describe_engines",
        lambda *_: dict.fromkeys(("tensorflow", "jax", "torch"), described),
    )
    assert "with another device" in error_of(capsys, finished[1])


def test_the_processor_is_no_match_for_an_accelerator(tmp_path, quick):
    from lambda_keras.benchmark.layer_shapes import find_shape
    from lambda_keras.benchmark.settings import LayerBenchmark

    shape = find_shape(SHAPE)
    chosen = layer_candidates.choose_candidates([shape], ["auto/jax", "eager"])
    engines = {
        "jax": {"device": {"kind": "GPU"}},
        "torch": {"device": {"kind": "CPU"}},
    }
    comparison = layer_comparison.LayerComparison(
        LayerBenchmark(), chosen, engines, tmp_path
    )
    for race in comparison.races:
        assert [str(one) for one in race.candidates] == ["auto/jax"]
    assert comparison.notes[0].startswith("Not measured: torch, which would")


def test_what_is_not_installed_is_said(tmp_path, monkeypatch):
    from lambda_keras.benchmark.layer_shapes import find_shape
    from lambda_keras.benchmark.settings import LayerBenchmark

    monkeypatch.setattr(
        layer_comparison,
        "missing_packages",
        lambda one: ["timm"] if one.layer == "timm" else [],
    )
    shape = find_shape(SHAPE)
    chosen = layer_candidates.choose_candidates([shape], ["auto/jax", "timm"])
    engines = {"jax": {"device": {"kind": "CPU"}}}
    comparison = layer_comparison.LayerComparison(
        LayerBenchmark(), chosen, engines, tmp_path
    )
    assert comparison.notes == [
        "Not measured, because timm is not installed: timm/eager, "
        "timm/compiled."
    ]


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("shape", [SHAPE, "2x20x16:5:causal"])
def test_real_candidates_are_measured(shape, tmp_path, capsys):
    chosen = "auto,plain_convolution/jax,listing/eager"
    run(tmp_path, "--seconds=0.01", chosen=chosen, shape=shape)
    records = read_records(tmp_path / "records.jsonl")
    assert len(records) == 2 * 5
    for record in records:
        assert record.error is None and record.value > 0
        assert record.settings["peak_memory_of"] in ("process", "device")
        if record.name != "plain_convolution/jax":
            assert record.settings["difference"] < 1e-4
    assert "listing/eager" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("run_by", ["tf", "tf_jit", "jax"])
def test_memory_is_at_least_that_of_the_results(run_by, tmp_path):
    # 16 MiB, above what engines keep for themselves.
    flags = ("--modes=forward", "--seconds=0.01")
    shape = "4x32x32x1024:global"
    run(tmp_path, *flags, chosen=f"plain_convolution/{run_by}", shape=shape)
    (record,) = read_records(tmp_path / "records.jsonl")
    size = 4 * 32 * 32 * 1024 * 4
    assert size < record.settings["peak_memory_bytes"] < 10 * size
