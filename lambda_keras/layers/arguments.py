"""Checks of arguments that several layers share."""

from collections.abc import Sequence


def check_positive(name: str, value: int):
    """Raises a ValueError unless `value` is a positive integer."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
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
