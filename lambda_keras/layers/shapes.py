"""Checks of the shapes of inputs, contexts and masks."""

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

Shape = Sequence[int | None]


def check_shapes(
    inputs_shape: Shape,
    context_shape: Shape | None,
    context_channels: int | None = None,
) -> None:
    """Raises a ValueError unless there are inputs and a context of one rank.

    Args:
        inputs_shape: The shape of the inputs.
        context_shape: The shape of the context, or `None` for the inputs.
        context_channels: The channels that a built layer expects, if any.
    """
    received = describe(inputs_shape, context_shape)
    context_shape = context_shape or inputs_shape
    if len(inputs_shape) not in (3, 4, 5):
        raise ValueError(
            "`inputs` must have shape (batch, *spatial, channels) with 1, 2 "
            f"or 3 spatial axes. {received}"
        )
    if 0 in (*inputs_shape[1:], *context_shape[1:]):
        raise ValueError(f"No axis may be of size 0. {received}")
    if len(context_shape) != len(inputs_shape):
        raise ValueError(
            f"`context` must have the rank of `inputs`. {received}"
        )
    if inputs_shape[-1] is None or context_shape[-1] is None:
        raise ValueError(f"The last axis must be of known size. {received}")
    if context_channels not in (None, context_shape[-1]):
        raise ValueError(
            f"`context` must have {context_channels} channels, as when the "
            f"layer was built. {received}"
        )


def check_receptive_field(
    receptive_field: int | tuple[int, ...], inputs_shape: Shape
) -> None:
    """Raises a ValueError unless it has an entry for each spatial axis."""
    rank = len(inputs_shape) - 2
    if isinstance(receptive_field, tuple) and len(receptive_field) != rank:
        raise ValueError(
            f"`receptive_field` has {len(receptive_field)} axes and the "
            f"inputs have {rank} spatial axes: they must match. Received: "
            f"receptive_field={receptive_field}. {describe(inputs_shape)}"
        )


def check_global_sizes(
    option: str,
    inputs_shape: Shape,
    context_shape: Shape | None,
    taps: Sequence[int] | None = None,
) -> None:
    """Raises a ValueError unless a table of all offsets fits these sizes.

    Args:
        option: The argument that makes the table global, for the message.
        inputs_shape: The shape of the inputs.
        context_shape: The shape of the context, or `None` for the inputs.
        taps: The spatial shape of the table, if there is one yet.
    """
    received = describe(inputs_shape, context_shape)
    for shape in (inputs_shape, context_shape or inputs_shape):
        sizes = shape[1:-1]
        if None in sizes:
            raise ValueError(
                f"`{option}` needs spatial sizes that are known when the layer "
                f"is built; a finite receptive field does not. {received}"
            )
        if taps and any(2 * s - 1 > t for s, t in zip(sizes, taps)):
            raise ValueError(
                f"`{option}` was built for spatial sizes up to "
                f"{tuple(t // 2 + 1 for t in taps)}. {received}"
            )


def check_mask(mask: Any, context: Any) -> None:
    """Raises a ValueError unless there is an entry for each position."""
    positions = math.prod(ops.shape(context)[1:-1])
    fits = len(mask.shape) == 2 and (
        mask.shape[1] is None
        or not isinstance(positions, int)
        or mask.shape[1] == positions
    )
    if not fits:
        raise ValueError(
            "`mask` must have shape (batch, context positions). Received: "
            f"mask.shape={tuple(mask.shape)}, "
            f"context.shape={tuple(context.shape)}"
        )


def describe(inputs_shape: Shape, context_shape: Shape | None = None) -> str:
    """Returns the end of a message about shapes."""
    received = f"Received: inputs_shape={tuple(inputs_shape)}"
    if context_shape is not None:
        received += f", context_shape={tuple(context_shape)}"
    return received
