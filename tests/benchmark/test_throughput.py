"""The order of measurements, and that none is lost or doubled."""

import itertools

import pytest

from lambda_keras.benchmark import throughput
from lambda_keras.benchmark.children import OUT_OF_MEMORY
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.records import append_records
from lambda_keras.benchmark.records import read_records
from lambda_keras.benchmark.settings import ThroughputBenchmark
from lambda_keras.benchmark.throughput import CACHE
from lambda_keras.benchmark.throughput import FAILURES
from lambda_keras.benchmark.throughput import RECORDS
from lambda_keras.benchmark.throughput import Comparison
from lambda_keras.benchmark.throughput import Row
from lambda_keras.benchmark.throughput import describe
from lambda_keras.benchmark.throughput import environment

ROWS = (
    Row("a@8", "train", 16),
    Row("a@8", "infer", 16),
    Row("b@8", "train", 8),
)
SETTINGS = ThroughputBenchmark(models="a@8,b@8")
DESCRIBED = {
    "device": {"kind": "CPU", "name": "a processor", "count": 2},
    "versions": {"keras": "3"},
    "replicas": 1,
}
FIGURES = {
    "rates": [9.0, 10.0, 12.0],
    "step_seconds": 1.6,
    "compile_seconds": 2.5,
    "compile_cached": False,
}


class Crash(BaseException):
    """Ends all at once, as SIGKILL does."""


class Machine:
    """Stands for the processes that measure.

    Args:
        limits: The most images that fit, by model and mode.
        errors: What goes wrong, by model, mode and number of the call.
        crash: The number of the call that never returns, from 1.
    """

    def __init__(self, limits=None, errors=None, crash=None):
        self.limits = limits or {}
        self.errors = errors or {}
        self.crash = crash
        self.calls = []

    def __call__(self, function, model, mode, batch_size, timeout, tell, **_):
        assert function == "lambda_keras.benchmark.worker:measure"
        self.timeout = timeout
        tell(0.0)
        row = model, mode
        number = sum(call[:2] == row for call in self.calls)
        self.calls.append((*row, batch_size))
        if len(self.calls) == self.crash:
            raise Crash
        error = self.errors.get((*row, number))
        if error is not None:
            raise ChildError(error, f"output: {error}")
        if batch_size > self.limits.get(row, 1024):
            raise ChildError(OUT_OF_MEMORY)
        return dict(FIGURES)


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Runs a comparison in one directory, again and again."""

    def run(machine, rows=ROWS, settings=SETTINGS, **described):
        monkeypatch.setattr(throughput, "call_in_child", machine)
        told, shown = [], []
        comparison = Comparison(settings, rows, DESCRIBED | described, tmp_path)
        comparison.run(shown.append, told.append)
        assert comparison.next_task() is None
        assert comparison.records == read_records(tmp_path / RECORDS)
        return comparison.records, told

    return run


def measured(records):
    return [
        (record.name, record.settings["mode"], record.settings["repeat"])
        for record in records
        if record.settings["kind"] == "measure"
    ]


EVERYTHING = [
    (row.model, row.mode, repeat) for repeat in range(3) for row in ROWS
]


def test_repeats_of_all_rows_are_interleaved(compare):
    machine = Machine()
    records, _ = compare(machine)
    assert measured(records) == EVERYTHING
    assert (
        machine.calls
        == [(row.model, row.mode, row.batch_size) for row in ROWS] * 3
    )


def test_a_record_says_how_it_was_measured(compare):
    settings = ThroughputBenchmark(models="a@8", precision="bf16", seconds=3.0)
    records, _ = compare(Machine(), ROWS[:1], settings)
    record = records[0]
    assert (record.benchmark, record.name) == ("throughput", "a@8")
    assert (record.value, record.unit) == (10.0, "images/s")
    assert record.values == (9.0, 10.0, 12.0) and record.batch_size == 16
    assert record.device == DESCRIBED["device"]
    assert record.versions == {"keras": "3"} and record.error is None
    expected = {
        **{"mode": "train", "precision": "bf16", "strategy": "none"},
        **{"repeat": 0, "kind": "measure", "replicas": 1, "input": None},
        **{"seconds": 3.0, "compile_seconds": 2.5, "compile_cached": False},
    }
    assert expected.items() <= record.settings.items()
    assert record.settings["engine"] in ("tensorflow", "jax")
    assert "rates" not in record.settings


def test_the_batch_is_halved_until_it_fits_and_every_size_is_kept(compare):
    records, _ = compare(Machine({("a@8", "train"): 5}))
    assert measured(records) == EVERYTHING
    ladder = [
        (record.name, record.batch_size, record.error, record.values)
        for record in records
        if record.settings["kind"] == "ladder"
    ]
    assert ladder == [
        ("a@8", 16, OUT_OF_MEMORY, ()),
        ("a@8", 8, OUT_OF_MEMORY, ()),
    ]
    sizes = {
        (record.name, record.settings["mode"]): record.batch_size
        for record in records
        if record.values
    }
    assert list(sizes.values()) == [4, 16, 8]


def test_the_batch_stays_a_multiple_of_the_devices(compare):
    row = Row("a@8", "train", 24)
    machine = Machine({("a@8", "train"): 4})
    compare(machine, [row], replicas=4)
    assert [call[2] for call in machine.calls] == [24, 12, 4, 4, 4]


def test_a_row_that_never_fits_is_given_up(compare):
    machine = Machine({("a@8", "train"): 0})
    records, _ = compare(machine)
    assert [
        call[2] for call in machine.calls if call[:2] == ("a@8", "train")
    ] == [
        *(16, 8, 4, 2, 1),
    ]
    assert measured(records) == [
        key for key in EVERYTHING if key[:2] != ("a@8", "train")
    ]


def test_a_fixed_batch_is_not_made_smaller(compare):
    machine = Machine({("a@8", "train"): 8})
    records, _ = compare(machine, [Row("a@8", "train", 16, is_fixed=True)])
    assert [record.error for record in records] == [OUT_OF_MEMORY]
    assert len(machine.calls) == 1


def test_another_failure_is_kept_and_told_and_ends_its_row(compare, tmp_path):
    error = "ValueError: no such layer"
    records, _ = compare(Machine(errors={("a@8", "infer", 0): error}))
    assert measured(records) == [key for key in EVERYTHING if key[1] != "infer"]
    assert [record.error for record in records if record.error] == [error]
    assert f"output: {error}" in (tmp_path / FAILURES).read_text()


def test_a_process_that_hangs_is_given_up_and_others_go_on(compare):
    machine = Machine(errors={("a@8", "infer", 0): "took longer than 9 s"})
    settings = ThroughputBenchmark(models="a@8,b@8", timeout=9.0)
    records, _ = compare(machine, settings=settings)
    assert machine.timeout == 9.0
    assert measured(records) == [key for key in EVERYTHING if key[1] != "infer"]


def test_a_later_repeat_that_fails_is_not_repeated(compare):
    errors = {("a@8", "infer", 1): OUT_OF_MEMORY}
    records, _ = compare(Machine(errors=errors))
    assert measured(records) == EVERYTHING
    (failed,) = [record for record in records if record.error]
    assert (failed.settings["repeat"], failed.values) == (1, ())


def test_progress_counts_and_estimates(compare):
    _, told = compare(Machine())
    assert told[0] == "1 of 9: train a@8, 16 images"
    assert told[3] == "4 of 9: train a@8, 16 images; about 1 min left"
    assert [line.split()[0] for line in told] == list("123456789")


# Where a process can be killed: in a child, before and after it, and with any
# part of a line written.
@pytest.mark.parametrize(
    "place", ["child", "before", "half", "newline", "after"]
)
@pytest.mark.parametrize("limit", [1024, 5])
def test_killed_anywhere_it_goes_on_without_a_lost_or_doubled_row(
    place, limit, compare, tmp_path, monkeypatch
):
    expected, _ = compare(Machine({("a@8", "train"): limit}))
    expected = [identity(record) for record in expected]
    append = throughput.append_records
    for number in itertools.count(1):
        (tmp_path / RECORDS).unlink()
        machine = Machine({("a@8", "train"): limit})
        if place == "child":
            machine.crash = number
        else:
            ending = appending_until(number, place)
            monkeypatch.setattr(throughput, "append_records", ending)
        crashes = False
        try:
            compare(machine)
        except Crash:
            crashes = True
        monkeypatch.setattr(throughput, "append_records", append)
        machine.crash = None
        records, _ = compare(machine)
        assert [identity(record) for record in records] == expected
        # What was measured before is not measured again.
        is_lost = crashes and place not in ("newline", "after")
        assert len(machine.calls) == len(expected) + is_lost
        if not crashes:
            break
    assert number == len(expected) + 1


def identity(record):
    keys = ("mode", "repeat", "kind")
    settings = tuple(record.settings[key] for key in keys)
    return (record.name, record.batch_size, *settings, record.error)


def appending_until(number, place):
    """Returns an `append_records` that ends everything at its n-th call."""
    calls = itertools.count(1)

    def append_or_crash(path, records):
        if next(calls) < number:
            return append_records(path, records)
        (record,) = records
        line = record.to_json()
        if place == "after":
            append_records(path, records)
        elif place != "before":
            with open(path, "a") as file:
                file.write(line[: len(line) // 2] if place == "half" else line)
        raise Crash

    return append_or_crash


def test_what_was_compiled_is_kept_for_later_repeats_alone(
    compare, tmp_path, monkeypatch
):
    cache = tmp_path / CACHE
    caches = []

    class Compiling(Machine):
        def __call__(self, *arguments, environment, **given):
            assert environment["JAX_COMPILATION_CACHE_DIR"] == str(cache)
            caches.append(cache.exists())
            cache.mkdir(exist_ok=True)
            return super().__call__(*arguments, **given)

    # A figure for compiling is that of a first repeat: nothing of one that
    # was killed may be there.
    cache.mkdir()
    with pytest.raises(Crash):
        compare(Compiling(crash=4))
    assert caches == [False, True, True, True] and cache.exists()
    with pytest.raises(Crash):
        compare(Compiling(crash=1))
    assert caches[4:] == [True]
    compare(Compiling())
    assert caches[5:] == [True] * 6 and not cache.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", {"kind": "GPU", "name": "another", "count": 1}),
        ("versions", {"keras": "4"}),
    ],
)
def test_what_another_machine_began_is_refused(name, value, compare):
    with pytest.raises(Crash):
        compare(Machine(crash=2))
    message = rf"with (an)?other {name.rstrip('s')}.*Received: output_dir="
    with pytest.raises(ValueError, match=message):
        compare(Machine(), **{name: value})


def test_processes_take_no_more_of_a_gpu_than_they_need(monkeypatch):
    variables = environment()
    assert variables["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert variables["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    assert environment()["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"


def test_jax_knows_what_it_is_told(tmp_path):
    import jax

    variables = environment(tmp_path)
    told = {name: value for name, value in variables.items() if "JAX" in name}
    assert all(hasattr(jax.config, name.lower()) for name in told)
    # What one model's compiler tried out on a GPU would save the next one's
    # time.
    assert told["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] == "none"


def test_a_mistake_that_a_process_found_is_one_of_the_arguments(monkeypatch):
    def call(function, environment, timeout, tell, **arguments):
        assert timeout == 3600
        assert arguments == {
            **{"strategy": "tpu", "tpu": "mine"},
            **{"input": None, "data_dir": None, "models": ["a:b@8"]},
        }
        raise ChildError("ValueError: `tpu` must be there. Received: tpu=mine")

    monkeypatch.setattr(throughput, "call_in_child", call)
    settings = ThroughputBenchmark(strategy="tpu", tpu="mine")
    with pytest.raises(ValueError, match=r"^`tpu` must be there"):
        describe(settings, ("a:b@8",))
