"""What is compared by `lambda-keras benchmark layer`."""

import dataclasses
import fnmatch
import importlib.util
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from lambda_keras.benchmark.layer_shapes import LayerShape
from lambda_keras.layers.contractions import IMPLEMENTATIONS

AUTO = "auto"
REMATERIALIZED = "auto_rematerialized"
# Attention and the convolution compute something else than a lambda layer.
ATTENTION, CONVOLUTION = "attention_", "plain_convolution"
TIMM, LISTING = "timm", "listing"

OURS, BASELINE, FOREIGN = "ours", "baseline", "foreign"

# How each way to run is called, and the Keras engine of its process.
TENSORFLOW, TENSORFLOW_JIT, JAX = "tf", "tf_jit", "jax"
EAGER, COMPILED = "eager", "compiled"
ENGINES = {
    TENSORFLOW: "tensorflow",
    TENSORFLOW_JIT: "tensorflow",
    JAX: "jax",
    EAGER: "torch",
    COMPILED: "torch",
}
KERAS_RUNS = (TENSORFLOW, TENSORFLOW_JIT, JAX)
TORCH_RUNS = (EAGER, COMPILED)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layer, and how it is run.

    Args:
        layer: `"auto"` or an implementation, for `LambdaLayer`;
            `"attention_"` and a scope; `"plain_convolution"`; `"timm"`; or
            `"listing"`.
        run: A key of `ENGINES`.
    """

    layer: str
    run: str

    @property
    def engine(self) -> str:
        """The Keras engine of its process."""
        return ENGINES[self.run]

    @property
    def kind(self) -> str:
        """`OURS`, `BASELINE` (which computes something else) or `FOREIGN`."""
        if self.layer in (TIMM, LISTING):
            return FOREIGN
        if self.layer == CONVOLUTION or self.layer.startswith(ATTENTION):
            return BASELINE
        return OURS

    @property
    def packages(self) -> tuple[str, ...]:
        """What must be installed."""
        return (self.engine, *([TIMM] if self.layer == TIMM else []))

    @property
    def layer_arguments(self) -> dict[str, Any]:
        """What a `LambdaLayer` is given beside the shape."""
        if self.layer == REMATERIALIZED:
            return {"rematerialize": True}
        return {"implementation": self.layer}

    def __str__(self):
        return f"{self.layer}/{self.run}"


def find_candidate(text: str) -> Candidate:
    """Returns the candidate that is written so, as `auto/jax`."""
    layer, _, run = text.partition("/")
    return Candidate(layer, run)


def list_candidates(shape: LayerShape) -> list[Candidate]:
    """Returns all that can be compared at a shape."""
    layers = [AUTO, *IMPLEMENTATIONS, REMATERIALIZED]
    if not shape.causal:
        layers += [f"{ATTENTION}global", f"{ATTENTION}local"]
        if len(shape.sizes) > 1:
            layers.append(f"{ATTENTION}axial")
    layers.append(CONVOLUTION)
    foreign = [LISTING]
    if shape.is_image and shape.intra_depth == 1:
        foreign.insert(0, TIMM)
    return [
        *(Candidate(layer, run) for layer in layers for run in KERAS_RUNS),
        *(Candidate(layer, run) for layer in foreign for run in TORCH_RUNS),
    ]


def choose_candidates(
    shapes: Iterable[LayerShape], patterns: Sequence[str]
) -> dict[LayerShape, list[Candidate]]:
    """Picks candidates by their names.

    Args:
        shapes: Where they are compared.
        patterns: As shells have them, of a whole name, `auto/jax`, or of
            what is before or after its slash.

    Returns:
        The candidates of each shape, installed or not.

    Raises:
        ValueError: If a pattern fits no candidate of any shape.

    Example:

    >>> from lambda_keras.benchmark.layer_shapes import find_shape
    >>> shape = find_shape("14")
    >>> chosen = choose_candidates([shape], ["auto", "timm*"])[shape]
    >>> print(*chosen)
    auto/tf auto/tf_jit auto/jax timm/eager timm/compiled
    """
    everything = {shape: list_candidates(shape) for shape in shapes}
    for pattern in patterns:
        known = [one for many in everything.values() for one in many]
        if not any(_fits(pattern, candidate) for candidate in known):
            names = dict.fromkeys(one.layer for one in known)
            raise ValueError(
                f"`candidates` must fit some of {', '.join(names)}, run by "
                f"{', '.join(ENGINES)}, as auto/jax does. "
                f"Received: candidates={pattern}"
            )
    return {
        shape: [
            candidate
            for candidate in candidates
            if any(_fits(pattern, candidate) for pattern in patterns)
        ]
        for shape, candidates in everything.items()
    }


def missing_packages(candidate: Candidate) -> list[str]:
    """Returns what is not installed of what a candidate needs."""
    return [
        name
        for name in candidate.packages
        if importlib.util.find_spec(name) is None
    ]


def _fits(pattern, candidate):
    names = (str(candidate), candidate.layer, candidate.run)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)
