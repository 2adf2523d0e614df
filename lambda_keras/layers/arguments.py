"""Checks of arguments that several layers share."""

import numbers
from collections.abc import Sequence


def check_positive(name: str, value: int):
    """Raises a ValueError unless `value` is a positive integer."""
    is_integer = isinstance(value, numbers.Integral)
    if not is_integer or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )


def check_normalization(epsilon: float, momentum: float):
    """Raises a ValueError unless batch normalization can work with these."""
    if not epsilon > 0:
        raise ValueError(
            f"`epsilon` must be positive. Received: epsilon={epsilon}"
        )
    if not 0 <= momentum < 1:
        raise ValueError(
            "`momentum` must be at least 0 and less than 1. "
            f"Received: momentum={momentum}"
        )


def standardize_receptive_field(
    value: int | Sequence[int] | None,
) -> int | tuple[int, ...] | None:
    """Returns an odd size, a tuple of one per axis, or None; else raises."""
    if value is None:
        return None
    sizes = tuple(value) if isinstance(value, Sequence) else (value,)
    valid = all(
        isinstance(s, int) and not isinstance(s, bool) and s > 0 and s % 2
        for s in sizes
    )
    if not valid or not 1 <= len(sizes) <= 3:
        raise ValueError(
            "`receptive_field` must be an odd positive integer, one for each "
            f"of up to 3 spatial axes, or None. Received: "
            f"receptive_field={value!r}"
        )
    return sizes if isinstance(value, Sequence) else value
