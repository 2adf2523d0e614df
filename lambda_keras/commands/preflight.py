"""`lambda-keras preflight`: what a TPU would make of a step, without one."""

import contextlib
import dataclasses
import datetime
import tempfile
from collections.abc import Callable
from pathlib import Path

from lambda_keras import provenance
from lambda_keras.benchmark import layer_estimates
from lambda_keras.benchmark import tpu_compiler
from lambda_keras.benchmark.candidates import find_candidate
from lambda_keras.benchmark.children import OUT_OF_MEMORY
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.children import call_in_child
from lambda_keras.benchmark.comparison import ESTIMATED
from lambda_keras.benchmark.comparison import calibration
from lambda_keras.benchmark.layer_estimates import LayerEstimate
from lambda_keras.benchmark.layer_shapes import find_shape
from lambda_keras.benchmark.preflight import FINE
from lambda_keras.benchmark.preflight import STRIDE
from lambda_keras.benchmark.preflight import Estimate
from lambda_keras.benchmark.preflight import TrainingPlan
from lambda_keras.benchmark.preflight import find_largest
from lambda_keras.benchmark.preflight import read_estimate
from lambda_keras.benchmark.preflight import shipped_calibration
from lambda_keras.benchmark.preflight_page import fit_line
from lambda_keras.benchmark.preflight_page import page
from lambda_keras.benchmark.preflight_page import suite_page
from lambda_keras.benchmark.records import append_records
from lambda_keras.benchmark.records import read_records
from lambda_keras.benchmark.settings import POLICIES
from lambda_keras.benchmark.settings import Preflight
from lambda_keras.benchmark.suites import find_suite
from lambda_keras.benchmark.topologies import find_topology
from lambda_keras.benchmark.tpu_compiler import TpuProgram
from lambda_keras.commands import DOES_NOT_FIT
from lambda_keras.commands import FAILED
from lambda_keras.commands import CommandError
from lambda_keras.commands.progress import progress
from lambda_keras.files import locked
from lambda_keras.files import write_aside
from lambda_keras.training.recipes import find_recipe

# For one device, where nothing else is said; and when searching.
IMAGES, MOST_IMAGES = 128, 65_536
# Images of an epoch.
_EXAMPLES = {"tfds:imagenet2012": 1_281_167}
REPORT = "report.md"
# With other ones, a record is of another program.
_DECISIVE = ("lambda_keras", "jax", "libtpu")


def run(settings: Preflight) -> None:
    """Compiles a model, several, or layers, and prints what they take.

    Args:
        settings: The settings.
    """
    with _mistakes_as_one_line():
        topology = find_topology(settings.topology)
        _check(settings, topology)
    # Records have one name for each TPU, however it was written.
    settings = dataclasses.replace(settings, topology=topology.name)
    if settings.layers:
        _run_layers(settings, topology)
    elif settings.suite:
        _run_suite(settings, topology)
    else:
        _run_model(settings, topology)


@contextlib.contextmanager
def _mistakes_as_one_line():
    try:
        yield
    except (ValueError, OSError) as error:
        raise CommandError(error) from None


def _check(settings, topology):
    subjects = {
        name: getattr(settings, name)
        for name in ("model", "suite", "layers")
        if getattr(settings, name) is not None
    }
    if len(subjects) != 1:
        received = ", ".join(f"{name}={of}" for name, of in subjects.items())
        raise ValueError(
            "Exactly one of `model`, `suite` and `layers` must be given. "
            f"Received: {received or 'none of them'}"
        )
    if not settings.model and (settings.find_batch or settings.recipe):
        raise ValueError(
            "`find_batch` and `recipe` must come with a `model`. "
            f"Received: model=None, find_batch={settings.find_batch}, "
            f"recipe={settings.recipe}"
        )
    for name in ("price", "examples"):
        given = getattr(settings, name)
        if given is not None and not settings.recipe:
            raise ValueError(
                f"`{name}` must come with a `recipe`, whose epochs it is of. "
                f"Received: {name}={given}"
            )
    if settings.recipe and settings.mode != "train":
        raise ValueError(
            "`recipe` must come with mode=train, which its epochs are of. "
            f"Received: recipe={settings.recipe}, mode={settings.mode}"
        )
    if settings.layers and settings.batch is not None:
        raise ValueError(
            "`batch` must be left out with `layers`, which have their own. "
            f"Received: batch={settings.batch}"
        )
    if settings.batch is not None and settings.batch % topology.devices:
        raise ValueError(
            f"`batch` must be a multiple of {topology.devices}, the "
            f"{topology.device}s of {topology.name}. "
            f"Received: batch={settings.batch}"
        )


def _find_plan(settings):
    if settings.recipe is None:
        return None
    recipe = find_recipe(settings.recipe)
    examples = settings.examples or _EXAMPLES.get(recipe.dataset)
    if examples is None:
        raise ValueError(
            "`examples` must be given with a `recipe` that is not for "
            f"ImageNet. Received: recipe={settings.recipe}, examples=None"
        )
    return TrainingPlan(
        recipe=settings.recipe,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        examples=examples,
        price=settings.price,
    )


def _suite_rows(settings, topology):
    """Candidates, each with batch sizes to try until one fits."""
    # Those of the paper's models say how many a TPU v3 core has memory for.
    usual = dict(find_suite("paper"))
    rows = []
    for row in find_suite(settings.suite):
        # What a suite says itself may be for other machines.
        per_device = usual.get(row.model) or row.batch_size or IMAGES
        sizes = [settings.batch]
        if settings.batch is None:
            halvings = range(per_device.bit_length())
            sizes = [topology.devices * (per_device >> n) for n in halvings]
        rows.append((str(find_candidate(row.model)), sizes))
    return rows


def _open_records(settings):
    """The file to add to; None where nothing is to be written."""
    if settings.output_dir is None and settings.model:
        return None
    now = datetime.datetime.now()
    several = settings.suite or "layers"
    default = f"runs/{now:%Y%m%d-%H%M%S}-preflight-{several}"
    directory = Path(settings.output_dir or default)
    try:
        directory = directory.expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"`output_dir` must be a directory ({error}). "
            f"Received: output_dir={directory}"
        ) from None
    directory.mkdir(parents=True, exist_ok=True)
    # Before minutes of compiling, not after them.
    with tempfile.TemporaryFile(dir=directory):
        pass
    return directory / "records.jsonl"


def _run_model(settings, topology):
    with _mistakes_as_one_line():
        candidate = str(find_candidate(settings.model))
        plan = _find_plan(settings)
        path = _open_records(settings)
    tried = {}

    def fits(per_device):
        images = per_device * topology.devices
        estimate = _compile(settings, candidate, images, path, tell)
        tried[per_device] = estimate
        if settings.find_batch:
            tell("")
            print(f"{images:,} images: {fit_line(estimate)}", flush=True)
        return estimate.program.fits

    start, hint = IMAGES, ""
    if settings.batch:
        start = settings.batch // topology.devices
    most = max(start, MOST_IMAGES)
    with progress() as tell:
        if settings.find_batch:
            largest = find_largest(fits, start, most)
        else:
            largest = start if fits(start) else None
            hint = "; --find_batch searches the largest that fits"
    if largest is None:
        least = min(tried)
        raise CommandError(
            f"{candidate} with {least * topology.devices:,} images on "
            f"{topology.name} {fit_line(tried[least])}{hint}",
            status=DOES_NOT_FIT,
        )
    if settings.find_batch:
        print(f"{_found_line(largest, most, topology)}\n")
    print(page(tried[largest], shipped_calibration(), plan))


def _found_line(largest, most, topology):
    images = f"{largest * topology.devices:,} images"
    if largest == most:
        return f"{images} fit; more were not tried."
    within = f", to within {STRIDE} a {topology.device}" * (largest >= FINE)
    return f"{images} are the most that fit{within}."


def _run_suite(settings, topology):
    with _mistakes_as_one_line():
        rows = _suite_rows(settings, topology)
    with _taken_up(settings) as path:
        known = {_place(estimate): estimate for estimate in _read(path)}
        _compile_suite(settings, topology, rows, path, known)


@contextlib.contextmanager
def _taken_up(settings):
    """Yields the records to go on with, which no other process may."""
    with contextlib.ExitStack() as stack:
        with _mistakes_as_one_line():
            path = _open_records(settings)
            path.touch()
            stack.enter_context(locked(path))
            _check_versions(path)
        yield path


def _compile_suite(settings, topology, rows, path, known):
    estimates, failures, misfits = [], [], []
    with progress() as tell:
        for number, (candidate, sizes) in enumerate(rows, 1):
            head = f"{number} of {len(rows)}: "
            for images in sizes:
                place = (
                    *(candidate, images, settings.mode, settings.precision),
                    topology.name,
                )
                try:
                    estimate = known.get(place) or _compile(
                        settings, candidate, images, path, tell, head
                    )
                except CommandError as error:
                    failures.append(str(error))
                    break
                estimates.append(estimate)
                if estimate.program.fits:
                    break
            else:
                misfits.append(candidate)
    if estimates:
        records = [estimate.to_record() for estimate in estimates]
        print(f"{suite_page(estimates, calibration(records))}\n\n{path}")
    if failures:
        raise CommandError("; ".join(failures), status=FAILED)
    if misfits:
        raise CommandError(
            f"{', '.join(misfits)}: no batch that was tried fits on "
            f"{topology.name}",
            status=DOES_NOT_FIT,
        )


def _check_versions(path):
    """Refuses to go on with what was compiled by something else."""
    now = {**provenance.versions(), **tpu_compiler.compiler_versions()}
    for record in read_records(path):
        for name in _DECISIVE:
            there = record.versions.get(name, now[name])
            is_estimate = record.benchmark in (
                ESTIMATED,
                LayerEstimate.benchmark,
            )
            if is_estimate and there != now[name]:
                raise ValueError(
                    f"`output_dir` has estimates of {name} {there}, and this "
                    f"is {now[name]}: give another directory. "
                    f"Received: output_dir={path.parent}"
                )


def _place(estimate):
    return (
        *(estimate.candidate, estimate.batch_size, estimate.mode),
        *(estimate.precision, estimate.topology.name),
    )


def _read(path):
    if not path.exists():
        return []
    records = read_records(path)
    return [read_estimate(one) for one in records if one.benchmark == ESTIMATED]


def _add(path, estimate):
    """Adds a row, unless the same is there: it would count as a repeat."""
    if _figures(estimate) not in map(_figures, _read(path)):
        append_records(path, [estimate.to_record()])


def _figures(estimate):
    program = dataclasses.replace(
        estimate.program, compile_seconds=0.0, cached=False, versions={}
    )
    return dataclasses.replace(estimate, program=program)


def _compile(
    settings: Preflight,
    candidate: str,
    images: int,
    path: Path | None,
    tell: Callable[[str], None],
    head: str = "",
) -> Estimate:
    with _failures_as_one_line(f"{candidate} with {images:,} images"):
        told = call_in_child(
            f"{tpu_compiler.__name__}:compile_candidate",
            environment=tpu_compiler.ENVIRONMENT,
            timeout=settings.timeout,
            tell=lambda _: tell(
                f"{head}compiling {candidate}, {images:,} images"
            ),
            model=candidate,
            mode=settings.mode,
            precision=POLICIES[settings.precision],
            batch_size=images,
            topology=settings.topology,
            use_cache=settings.cache,
        )
        estimate = Estimate(
            candidate=candidate,
            mode=settings.mode,
            precision=settings.precision,
            batch_size=images,
            program=TpuProgram(**told),
        )
        if path:
            _add(path, estimate)
    return estimate


@contextlib.contextmanager
def _failures_as_one_line(name):
    try:
        yield
    except ChildError as error:
        raise CommandError(
            f"{name} could not be compiled: {_reason(error)}", status=FAILED
        ) from None
    except (ValueError, OSError) as error:
        raise CommandError(error, status=FAILED) from None


def _run_layers(settings, topology):
    with _mistakes_as_one_line():
        shapes = _find_shapes(settings, topology)
    failures = []
    rows = [(s, name) for s in shapes for name in layer_estimates.CANDIDATES]
    with _taken_up(settings) as path, progress() as tell:
        known = set(map(_layer_place, _read_layers(path)))
        for number, (shape, name) in enumerate(rows, 1):
            place = (
                *(str(shape), name, settings.mode, settings.precision),
                topology.name,
            )
            if place in known:
                continue
            line = f"{number} of {len(rows)}: compiling {shape}, {name}"
            try:
                _compile_layer(settings, shape, name, path, tell, line)
            except CommandError as error:
                failures.append(str(error))
        records = _read_layers(path)
        if records:
            text = layer_estimates.layers_page(records)
            with write_aside(path.with_name(REPORT)) as temporary:
                temporary.write_text(f"{text}\n")
    if records:
        print(f"{text}\n\n{path.parent}\n  {path.name}, {REPORT}")
    if failures:
        raise CommandError("; ".join(failures), status=FAILED)


def _find_shapes(settings, topology):
    shapes = [find_shape(name) for name in settings.layers.split(",")]
    for shape in shapes:
        if shape.batch % topology.devices:
            raise ValueError(
                "`layers` must have batches of a multiple of "
                f"{topology.devices}, the {topology.device}s of "
                f"{topology.name}. Received: layers={settings.layers}"
            )
    return list({str(shape): shape for shape in shapes}.values())


def _layer_place(record):
    settings = record.settings
    return (
        *(settings["described"], record.name, settings["mode"]),
        *(settings["precision"], settings["topology"]),
    )


def _read_layers(path):
    records = read_records(path)
    return [one for one in records if one.benchmark == LayerEstimate.benchmark]


def _compile_layer(settings, shape, name, path, tell, line):
    with _failures_as_one_line(f"{shape}, {name}"):
        told = call_in_child(
            f"{layer_estimates.__name__}:compile_layer",
            environment=tpu_compiler.ENVIRONMENT,
            timeout=settings.timeout,
            tell=lambda _: tell(line),
            shape=shape.name,
            candidate=name,
            mode=settings.mode,
            precision=settings.precision,
            topology=settings.topology,
            use_cache=settings.cache,
        )
        estimate = LayerEstimate(
            candidate=name,
            mode=settings.mode,
            precision=settings.precision,
            batch_size=shape.batch,
            shape=shape,
            **{**told, "program": TpuProgram(**told["program"])},
        )
        append_records(path, [estimate.to_record()])


def _reason(error):
    """Tells this machine's memory from that of the TPU."""
    if error.reason != OUT_OF_MEMORY:
        return error.reason
    for line in error.output.splitlines():
        if "RESOURCE_EXHAUSTED" in line:
            return line
    return "this machine ran out of memory while compiling"
