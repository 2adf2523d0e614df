"""Finds the figures of the memory table, each in a process of its own."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from lambda_keras.benchmark import tpu_compiler
from lambda_keras.benchmark.children import OUT_OF_MEMORY
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.children import call_in_child
from lambda_keras.benchmark.memory_rows import ROWS
from lambda_keras.benchmark.memory_rows import count_bytes
from lambda_keras.benchmark.records import Record
from lambda_keras.benchmark.records import make_record
from lambda_keras.benchmark.settings import MemoryBenchmark
from lambda_keras.benchmark.topologies import find_topology

# The ways to a figure, as records name them.
COUNTED, COMPILED, RUN = "paper", "compiled TPU program", "run"

# The paper's counting is of no device.
_NO_DEVICE = {"kind": "none", "name": "counted", "count": 0}
# All of an accelerator's memory taken at the start would look like use.
_RUN_ENVIRONMENT = {
    "KERAS_BACKEND": "jax",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
_CHILD = "lambda_keras.benchmark.memory_child"
_TPU_SHORTAGE = "RESOURCE_EXHAUSTED"
_COMPILER_FACTS = (
    *("fits", "available_bytes", "temporary_memory_bytes"),
    *("argument_bytes", "output_bytes", "alias_bytes", "compile_seconds"),
    "versions",
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the table: what it is of, and how it is found.

    Attributes:
        row: A key of `ROWS`.
        program: `"stack"`, `"layer"` or `"model"`.
        counting: `COUNTED`, `COMPILED` or `RUN`.
        mode: `"train"` or `"infer"`; `None` for the paper's counting, which
            knows neither.
        size: Height and width of the images, or of the layer's input.
        batch: The number of images.
        precision: `"float32"` or `"bf16"`.
        topology: The TPU that the program is compiled for.
    """

    row: str
    program: str
    counting: str
    mode: str | None
    size: int
    batch: int
    precision: str
    topology: str | None = None

    def __str__(self) -> str:
        mode = {"train": "training, ", "infer": "inference, ", None: ""}
        return (
            f"{ROWS[self.row].title}, {self.program}, "
            f"{mode[self.mode]}batch {self.batch}: {self.counting}"
        )

    def attempts(self) -> Iterator["Figure"]:
        """Yields the figure and, of a run, those of half its batch and so on.

        Which of them is to stand in the table is the first that fits.
        """
        yield self
        batch = self.batch // 2
        while self.counting == RUN and batch:
            yield dataclasses.replace(self, batch=batch)
            batch //= 2

    def find(self, records: Sequence[Record]) -> Record | None:
        """Returns the record of this figure, if it is among them."""
        wanted = self._settings().items()
        for record in records:
            if record.batch_size == self.batch and all(
                record.settings.get(key) == value for key, value in wanted
            ):
                return record
        return None

    def find_what_fits(self, records: Sequence[Record]) -> Record | None:
        """Returns the record that is to stand in the table, if it is there."""
        record = None
        for attempt in self.attempts():
            record = attempt.find(records)
            if record is None or record.values:
                break
        return record

    def _settings(self) -> dict[str, Any]:
        settings = dataclasses.asdict(self)
        del settings["batch"]
        return settings

    def record(
        self, values: Sequence[int], device: dict[str, Any], **others: Any
    ) -> Record:
        """Makes the record; `others` are its error, or more settings."""
        row, error = ROWS[self.row], others.pop("error", None)
        implementation = {}
        if row.spec.mixer == "lambda":
            implementation = {"implementation": row.implementation}
        return make_record(
            "memory",
            row.title,
            "bytes",
            values,
            self.batch,
            {
                **self._settings(),
                **implementation,
                "spec": row.spec_name,
                **others,
            },
            device,
            error=error,
        )


def list_figures(settings: MemoryBenchmark) -> list[Figure]:
    """Lists the figures of the table, row by row.

    Args:
        settings: What is asked for.

    Returns:
        Figures; a row has none where it has nothing to say.
    """
    wanted = settings.figures.split(",")
    figures = []
    for program in settings.programs.split(","):
        size, batch = settings.image_size, settings.batch
        if program == "layer":
            size, batch = settings.layer_size, settings.layer_batch
        # The paper has a figure of what training needs; its example is one
        # layer's forward pass.
        modes = ("infer", "train") if program == "layer" else ("train",)
        for name in settings.rows.split(","):
            row = ROWS[name]
            if row.shares_embeddings and program == "layer":
                continue
            counted = Figure(
                name, program, COUNTED, None, size, batch, settings.precision
            )
            if "paper" in wanted and row.space is not None:
                figures.append(counted)
            if row.shares_embeddings and program == "model":
                # No model of ours has such layers.
                continue
            if "tpu" in wanted:
                figures += [
                    dataclasses.replace(
                        counted,
                        counting=COMPILED,
                        mode=mode,
                        topology=settings.topology,
                    )
                    for mode in modes
                ]
            if "run" in wanted:
                figures.append(
                    dataclasses.replace(
                        counted,
                        counting=RUN,
                        mode="train",
                        batch=settings.run_batch,
                    )
                )
    return figures


def measure(
    figure: Figure,
    device: dict[str, Any],
    timeout: float | None = None,
    tell: Callable[[float], None] | None = None,
) -> Record:
    """Finds a figure.

    Args:
        figure: What to find.
        device: What programs run on here, as `provenance.device` has it.
        timeout: After how many seconds to give up.
        tell: Called with the seconds gone by, as `call_in_child` does.

    Returns:
        A `Record`. Of what does not fit, its `error` is `OUT_OF_MEMORY`; but
        where a compiler says what a program would need, that is the value,
        and among the settings `fits` is false.

    Raises:
        ChildError: If there is no such figure for any other reason.
    """
    if figure.counting == COUNTED:
        row, program = ROWS[figure.row], figure.program
        counted = count_bytes(
            row, program, figure.size, figure.batch, figure.precision
        )
        return figure.record([counted], _NO_DEVICE)
    function, environment = "run_program", _RUN_ENVIRONMENT
    arguments: dict[str, Any] = {
        name: getattr(figure, name)
        for name in ("row", "program", "size", "batch", "precision")
    }
    if figure.counting == COMPILED:
        tpu = find_topology(figure.topology)
        device = {
            "kind": "TPU",
            "name": tpu.hardware.name,
            "count": tpu.devices,
            "compiled_only": True,
        }
        function, environment = "compile_program", tpu_compiler.ENVIRONMENT
        arguments |= {"mode": figure.mode, "topology": figure.topology}
    try:
        answer = call_in_child(
            f"{_CHILD}:{function}",
            environment=environment,
            timeout=timeout,
            tell=tell,
            **arguments,
        )
    except ChildError as error:
        if error.reason != OUT_OF_MEMORY:
            raise
        # The compiler's own memory is another matter than the TPU's.
        if figure.counting == COMPILED and _TPU_SHORTAGE not in error.output:
            raise ChildError("no memory to compile in", error.output) from None
        return figure.record([], device, error=OUT_OF_MEMORY)
    if figure.counting == RUN:
        return figure.record(
            [answer.pop("peak_memory_bytes")], device, **answer
        )
    # Of one device each, as the value is.
    facts = {name: answer[name] for name in _COMPILER_FACTS}
    return figure.record(
        [answer["peak_memory_bytes"] or answer["needed_bytes"]], device, **facts
    )


def find_device() -> dict[str, Any]:
    """Returns what programs run on here.

    It is asked in a process of its own: who asks keeps an accelerator's
    memory, or the accelerator.
    """
    return call_in_child(
        "lambda_keras.provenance:device", environment=_RUN_ENVIRONMENT
    )
