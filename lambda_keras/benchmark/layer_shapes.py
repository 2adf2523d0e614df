"""The shapes that layers are compared at, and how they are written."""

import dataclasses
import math
import re
from typing import Any

GLOBAL, CAUSAL = "global", "causal"
NUM_HEADS, KEY_DIM = 4, 16

SYNTAX = (
    "BATCHxSIZExCHANNELS with one to three sizes, :FIELD (the receptive field, "
    "or global), and, if need be, :uDEPTH (the intra-depth) and :causal, as in "
    "8x28x28x256:7:u4"
)
_WRITTEN = re.compile(
    r"(?P<shape>\d+(?:x\d+){2,4}):(?P<field>global|\d+)"
    r"(?::u(?P<depth>\d+))?(?P<causal>:causal)?"
)


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """An input, and what a lambda layer does with it.

    The layer has 4 heads, a key depth of 16, and as many output as input
    channels.

    Args:
        name: What people call it.
        batch: Examples.
        sizes: The spatial shape.
        channels: The channels of inputs and outputs.
        receptive_field: Along each axis; None for global.
        intra_depth: The intra-depth.
        causal: Whether a position sees only what is before it.
    """

    name: str
    batch: int
    sizes: tuple[int, ...]
    channels: int
    receptive_field: int | None = None
    intra_depth: int = 1
    causal: bool = False

    @property
    def inputs_shape(self) -> tuple[int, ...]:
        """Of the inputs and of the outputs, channels last."""
        return (self.batch, *self.sizes, self.channels)

    @property
    def positions(self) -> int:
        """The number of positions of an example."""
        return math.prod(self.sizes)

    @property
    def is_image(self) -> bool:
        """Whether there are two spatial axes."""
        return len(self.sizes) == 2

    @property
    def layer_arguments(self) -> dict[str, Any]:
        """The arguments of a `LambdaLayer`."""
        return {
            "output_dim": self.channels,
            "num_heads": NUM_HEADS,
            "key_dim": KEY_DIM,
            "intra_depth": self.intra_depth,
            "receptive_field": self.receptive_field,
            "causal": self.causal,
        }

    def __str__(self):
        field = self.receptive_field or GLOBAL
        text = f"{'x'.join(map(str, self.inputs_shape))}:{field}"
        text += f":u{self.intra_depth}" if self.intra_depth > 1 else ""
        return text + (f":{CAUSAL}" if self.causal else "")


STANDARD_SHAPES = {
    "14_global": "8x14x14x512:global",
    "14": "8x14x14x512:23",
    "32": "8x32x32x256:23",
    "64": "2x64x64x128:23",
    "128": "2x128x128x64:23",
    "28_u4": "8x28x28x256:7:u4",
    "sequence": "2x4096x256:127",
    "causal": "2x16384x128:255:causal",
}


def find_shape(text: str) -> LayerShape:
    """Returns the shape that a name or a description stands for.

    Args:
        text: A key of `STANDARD_SHAPES`, or what `SYNTAX` says.

    Returns:
        A `LayerShape`.

    Raises:
        ValueError: If it is neither, or no lambda layer takes it.

    Example:

    >>> find_shape("28_u4") == find_shape("28_u4")
    True
    >>> find_shape("2x100x64:31:causal").receptive_field
    31
    """
    match = _WRITTEN.fullmatch(STANDARD_SHAPES.get(text, text))
    if match is None:
        raise ValueError(
            f"A shape must be one of {', '.join(STANDARD_SHAPES)}, or "
            f"{SYNTAX}. Received: shape={text}"
        )
    batch, *sizes, channels = map(int, match["shape"].split("x"))
    field = None if match["field"] == GLOBAL else int(match["field"])
    shape = LayerShape(
        text,
        batch,
        tuple(sizes),
        channels,
        field,
        int(match["depth"] or 1),
        bool(match["causal"]),
    )
    _check(shape)
    return shape


def _check(shape):
    """Raises a ValueError early, where the layer would in a child."""
    numbers = (*shape.inputs_shape, shape.intra_depth)
    problems = {
        "sizes above 0": not all(numbers),
        "an odd receptive field": shape.receptive_field is not None
        and shape.receptive_field % 2 == 0,
        f"a multiple of {NUM_HEADS} channels": shape.channels % NUM_HEADS,
        "one spatial axis if it is causal": shape.causal
        and len(shape.sizes) > 1,
    }
    for expected, is_met in problems.items():
        if is_met:
            raise ValueError(
                f"A shape must have {expected}. Received: shape={shape.name}"
            )
