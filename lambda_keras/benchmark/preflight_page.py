"""Estimates as people read them."""

import textwrap
from collections.abc import Sequence

from lambda_keras.benchmark.comparison import Calibration
from lambda_keras.benchmark.paper_curve import find_point
from lambda_keras.benchmark.preflight import Estimate
from lambda_keras.benchmark.preflight import TrainingPlan
from lambda_keras.benchmark.topologies import Topology
from lambda_keras.tables import markdown_table

WIDTH = 79
STEPS = {"train": "training step", "infer": "inference step"}
# Of an estimate that is without operations that the compiler does not know.
MARK = " *"


def page(
    estimate: Estimate,
    calibrations: Sequence[Calibration],
    plan: TrainingPlan | None = None,
) -> str:
    """Lays out what there is to know of a step that fits.

    Args:
        estimate: The estimate.
        calibrations: How other estimates compare with the paper.
        plan: A training run, to tell what it takes.

    Returns:
        Lines without one at the end.
    """
    parts = [
        _head(estimate),
        f"It {fit_line(estimate)}.",
        _memory(estimate),
        _work(estimate),
        _time(estimate),
        _speed(estimate),
    ]
    if plan:
        parts.append(_training(estimate, plan))
    parts += [_notes(estimate), _calibration(estimate, calibrations)]
    return "\n\n".join(parts)


def _head(estimate):
    program, topology = estimate.program, estimate.topology
    compiler = " and ".join(
        f"{name} {version}"
        for name, version in program.versions.items()
        if name in ("jax", "libtpu")
    )
    how = f"compiled here in {program.compile_seconds:.0f} s"
    if program.cached:
        how = "compiled earlier (cached)"
    return (
        f"{estimate.candidate}: one {STEPS[estimate.mode]} of "
        f"{estimate.batch_size:,} images in {estimate.precision}\n"
        f"{topology.name}: {_devices(topology)}, "
        f"{estimate.batch_size // topology.devices:,} images each\n"
        f"{compiler}: {how}; no TPU took part"
    )


def _devices(topology: Topology) -> str:
    generation = f"TPU {topology.name.partition('-')[0]}"
    return f"{_counted(topology.devices, topology.device)} of {generation}"


def fit_line(estimate: Estimate) -> str:
    """Says whether a step fits, and by how much.

    Args:
        estimate: The estimate.

    Returns:
        A part of a sentence.
    """
    program, device = estimate.program, estimate.topology.device
    available = program.available_bytes
    if not program.fits:
        lack = program.needed_bytes - available
        return (
            f"does not fit: {_gib(program.needed_bytes)} are needed of a "
            f"{device}'s {_gib(available)}, {_gib(lack)} too much"
        )
    peak = program.peak_memory_bytes
    if available is None:
        return f"fits: {_gib(peak)} of a {device}'s memory"
    left = available - peak
    return (
        f"fits: {_gib(peak)} of a {device}'s {_gib(available)}, "
        f"{_gib(left)} ({left / available:.0%}) are left"
    )


def _table(estimate, title, rows):
    """Rows of a label, a number of a device, how to show it, and a note."""
    topology = estimate.topology
    header = [f"per {topology.device}"]
    # A chip of two cores, unless only one of them is in use.
    cores = topology.hardware.devices_per_chip
    both = cores > 1 and topology.devices > 1
    if both:
        header.append("per chip")
    lines = [_line(title, header)]
    for label, number, show, note in rows:
        cells = [show(number)]
        if both:
            # Cores work side by side: their times are not added.
            cells.append("" if show is _seconds else show(cores * number))
        lines.append(_line(f"  {label}", cells, note))
    return "\n".join(lines)


def _line(label, cells, note=""):
    cells = "".join(cell.rjust(13) for cell in cells)
    return f"{label.ljust(27)}{cells}  {note}".rstrip()


def _memory(estimate):
    program = estimate.program
    temporary, arguments = (
        program.temporary_memory_bytes,
        program.argument_bytes,
    )
    rows = [
        ("peak", program.peak_memory_bytes, _gib, "what must fit"),
        ("temporary", temporary, _gib, "made and dropped in a step"),
        ("arguments", arguments, _gib, "the state and the batch"),
        ("MaxText's formula", estimate.maxtext_bytes, _gib, "see below"),
    ]
    return _table(estimate, "Memory", rows)


def _work(estimate):
    program = estimate.program
    rows = [
        ("floating-point operations", program.flops, _flops, ""),
        ("bytes read and written", program.bytes, _decimal, ""),
    ]
    for kind, total in sorted(program.collectives.items()):
        label = f"{total['count']:,} {kind}"
        rows.append((label, total["bytes"], _decimal, "between devices"))
    if not program.collectives:
        rows.append(("collectives", 0, str, "devices exchange nothing"))
    return _table(estimate, "Work of a step", rows)


def _time(estimate):
    hardware = estimate.topology.hardware
    compute = f"{hardware.flops_per_second / 1e12:g} TFLOP/s of bf16"
    memory = f"{hardware.bytes_per_second / 1e9:g} GB/s"
    greater = "the greater of the two"
    rows = [
        ("operations at peak", estimate.compute_seconds, _seconds, compute),
        ("bytes at peak", estimate.memory_seconds, _seconds, memory),
        ("roofline", estimate.roofline_seconds, _seconds, greater),
    ]
    if estimate.seconds is None:
        line = _line("  compiler's estimate", ["no estimate"], "see below")
        return f"{_table(estimate, 'Time of a step', rows)}\n{line}"
    share = f"{estimate.compute_seconds / estimate.seconds:.0%} of peak FLOP/s"
    label = f"compiler's estimate{_mark(estimate)}"
    rows.append((label, estimate.seconds, _seconds, share))
    return _table(estimate, "Time of a step", rows)


def _mark(estimate):
    has_mark = estimate.seconds and estimate.unknown_operations
    return MARK if has_mark else ""


def _speed(estimate):
    topology = estimate.topology
    cores = topology.hardware.devices_per_chip
    shares = {f"a {topology.device}": 1 / topology.devices}
    if topology.devices > 1:
        shares["a chip"] = cores / topology.devices
        shares[f"all of {topology.name}"] = 1
    header = [f"estimate{_mark(estimate)}", "by roofline"]
    lines = [_line("Images per second", header)]
    for label, share in shares.items():
        lines.append(_line(f"  {label}", _speeds(estimate, share)))
    return "\n".join(lines)


def _speeds(estimate, share):
    speeds = estimate.images_per_second, estimate.roofline_images_per_second
    return [f"{one * share:,.0f}" if one else "-" for one in speeds]


def _training(estimate, plan):
    speed = estimate.images_per_second or estimate.roofline_images_per_second
    by = "by the estimate" if estimate.seconds else "by the roofline"
    by += _mark(estimate)
    hours, chips = plan.hours(speed), estimate.topology.chips
    half = "of half a chip, which nobody rents out" if chips < 1 else ""
    title = f"Recipe {plan.recipe}: {plan.epochs:,} epochs of "
    title += f"{plan.examples:,} images"
    if plan.batch_size != estimate.batch_size:
        title += f"; its own batches have {plan.batch_size:,}"
    lines = [
        title,
        _line("  hours", [f"{hours:,.1f}"], by),
        _line("  chip-hours", [f"{hours * chips:,.1f}"], half),
    ]
    if plan.price is not None:
        cost = f"{plan.cost(hours, chips):,.2f}"
        lines.append(_line("  cost", [cost], f"at {plan.price:g} a chip-hour"))
    return "\n".join(lines)


def _notes(estimate):
    program, topology = estimate.program, estimate.topology
    notes = [
        "What fits is decided by the compiler, which refuses what does not. "
        "The peak is the most that it has in memory at a time; MaxText's "
        "formula is arguments + outputs + temporary - what outputs take over "
        "from arguments.",
        "The roofline is that of the compiled program. Arrays that stay on the "
        "chip are counted as if they went to memory, so a step may take less.",
    ]
    if estimate.unknown_operations and estimate.seconds:
        unknown = _counted(estimate.unknown_operations, "operation")
        notes.append(
            f"{MARK.strip()} The compiler's estimate without {unknown} that it "
            "does not know. What they take comes on top."
        )
    elif program.loops:
        notes.append(
            f"The program has {_counted(program.loops, 'loop')}, whose "
            "operations and bytes are counted as if they were done once. So "
            "there is no estimate of the time, and the roofline is too low."
        )
    elif program.optimal_seconds is None:
        notes.append("There is no estimate of the time from this compiler.")
    elif estimate.seconds is None:
        notes.append(
            f"There is no estimate of the time: the compiler's sum is "
            f"{program.optimal_seconds:.3g} s, in which it adds -1 for every "
            "operation that it does not know; what the others take cannot be "
            "told from it."
        )
    if topology.devices > 1:
        notes.append(
            f"Every {topology.device} has the whole state and its part of the "
            "batch, as with keras.distribution.DataParallel; batch statistics "
            "are those of the whole batch. The time that data takes between "
            "chips is in no figure, only their memory's."
        )
    if estimate.precision == "float32":
        notes.append(
            "The peak is that of bfloat16, in which JAX multiplies float32 on "
            "TPUs by default."
        )
    return "\n".join(textwrap.fill(note, WIDTH) for note in notes)


def _calibration(estimate, calibrations):
    start = (
        "Every figure above is the compiler's count or estimate, not a "
        "measurement. Input and host are not in them."
    )
    if not calibrations:
        return textwrap.fill(
            f"{start} How far such estimates are from what the paper measured "
            "on TPU v3 is not known here: this copy of the package has no "
            "record of it.",
            WIDTH,
        )
    ratios = {}
    for row in calibrations:
        family = find_point(row.candidate).family
        ratios.setdefault(family, []).append(row.ratio)
    ranges = " and ".join(
        f"{min(found):.2f} to {max(found):.2f} for {family}s"
        for family, found in ratios.items()
    )
    own = [row for row in calibrations if row.candidate == estimate.candidate]
    this = f" (this model: {own[0].ratio:.2f})" if own else ""
    return textwrap.fill(
        f"{start} Estimated images per second over those that the paper "
        f"measured, for training in bf16 on TPU v3: {ranges}{this}. The "
        "paper's are read off a figure, to 0.02 s for 1,024 images; which "
        "models its small points are is inferred. On other TPUs, and for "
        "inference, nothing is known.",
        WIDTH,
    )


def suite_page(
    estimates: Sequence[Estimate], calibrations: Sequence[Calibration]
) -> str:
    """Lays out a suite.

    Args:
        estimates: Of its models, all for one TPU.
        calibrations: Of the same models, where the paper has them.

    Returns:
        A sentence and a table in Markdown.
    """
    first = estimates[0]
    device = first.topology.device
    paper = {row.candidate: row for row in calibrations}
    rows = []
    for estimate in estimates:
        program, devices = estimate.program, estimate.topology.devices
        cells = ["does not fit", "-", "-"]
        if program.fits:
            estimated, by_roofline = _speeds(estimate, 1 / devices)
            estimated += _mark(estimate)
            peak = _gib(program.peak_memory_bytes)
            cells = [peak, estimated, by_roofline]
        row = paper.get(estimate.candidate)
        beside = [f"{row.paper:,.0f}", f"{row.ratio:.2f}"] if row else ["-"] * 2
        images = f"{estimate.batch_size // devices:,}"
        rows.append([estimate.candidate, images, *cells, *beside])
    header = [
        "model",
        f"images/{device}",
        "peak memory",
        "estimated img/s",
        "by roofline",
        "paper's img/s",
        "estimate/paper",
    ]
    return (
        f"One {STEPS[first.mode]} in {first.precision} on {first.topology.name}"
        f" ({_devices(first.topology)}), for one {device}.\nEstimates of the "
        "compiler and the roofline; only the paper's were measured.\n\n"
        f"{markdown_table(header, rows)}{_footnote(estimates)}"
    )


def _footnote(estimates):
    marked = [
        f"{estimate.unknown_operations:,} of {estimate.candidate}"
        for estimate in estimates
        if estimate.program.fits and _mark(estimate)
    ]
    if not marked:
        return ""
    return (
        f"\n\n{MARK.strip()} The compiler's estimate without operations that "
        f"it does not know: {', '.join(marked)}."
    )


def _counted(number, noun):
    return f"{number:,} {noun}{'s' * (number > 1)}"


def _scaled(number, units, base):
    place = 0
    while number >= base and place < len(units) - 1:
        number, place = number / base, place + 1
    return f"{number:,.2f} {units[place]}"


def _gib(number: float) -> str:
    return _scaled(number / 2**20, ("MiB", "GiB", "TiB"), 1024)


def _decimal(number: float) -> str:
    return _scaled(number / 1e3, ("KB", "MB", "GB", "TB"), 1000)


def _flops(number: float) -> str:
    units = ("MFLOP", "GFLOP", "TFLOP", "PFLOP")
    return _scaled(number / 1e6, units, 1000)


def _seconds(number: float) -> str:
    return _scaled(number * 1e6, ("us", "ms", "s"), 1000)
