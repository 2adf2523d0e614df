"""Settings of commands: dataclass fields that say what they are and allow."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    expects: str = "",
    valid: Callable[[Any], bool] | None = None,
    positional: str = "",
) -> Any:
    """Declares one field of a settings class.

    Args:
        default: The value when nothing else is said. A field that may be
            None is not checked when it is.
        help: A sentence for `--help`.
        expects: The allowed values in words, for the error.
        valid: Function that is true of the allowed values.
        positional: What the arguments that are no flags are called, for a
            field that takes a tuple of them; empty for a flag.

    Returns:
        A `dataclasses.field`.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "expects": expects,
            "valid": valid,
            "positional": positional,
        },
    )


def choice(default: str, help: str, options: tuple[str, ...]) -> Any:
    """Declares a field that takes one of a few words; see `setting`."""
    return setting(
        default,
        help,
        expects=f"one of: {', '.join(options)}",
        valid=lambda value: value in options,
    )


def count(
    default: int | None, help: str, least: int = 1, most: int | None = None
) -> Any:
    """Declares a field that takes an integer in a range; see `setting`."""
    if most is None:
        return setting(
            default,
            help,
            expects=f"at least {least}",
            valid=lambda value: value >= least,
        )
    return setting(
        default,
        help,
        expects=f"from {least} to {most}",
        valid=lambda value: least <= value <= most,
    )


def positive(default: float | None, help: str) -> Any:
    """Declares a field that takes a finite number above 0; see `setting`."""
    return setting(
        default,
        help,
        expects="a number above 0",
        valid=lambda value: 0 < value < math.inf,
    )


def non_negative(default: float | None, help: str) -> Any:
    """Declares a field that takes a finite number from 0; see `setting`."""
    return setting(
        default,
        help,
        expects="a number of at least 0",
        valid=lambda value: 0 <= value < math.inf,
    )


def share(default: float | None, help: str) -> Any:
    """Declares a field that takes a number in `[0, 1)`; see `setting`."""
    return setting(
        default,
        help,
        expects="at least 0 and below 1",
        valid=lambda value: 0 <= value < 1,
    )


def require(settings: Any, *names: str) -> None:
    """Raises an error unless fields without a default have been given.

    Args:
        settings: An instance of a settings class.
        names: The fields.

    Raises:
        ValueError: If one of them is None or empty.
    """
    for name in names:
        value = getattr(settings, name)
        if not value:
            raise ValueError(
                f"`{name}` must be given. Received: {name}={value}"
            )


class Settings:
    """Base of settings classes: checks every field when one is made.

    Raises:
        ValueError: If a field has a value that its declaration does not
            allow.

    Example:

    >>> @dataclasses.dataclass(frozen=True)
    ... class Repeats(Settings):
    ...     repeats: int = count(3, "How often to measure.")
    >>> Repeats(repeats=0)
    Traceback (most recent call last):
    ...
    ValueError: `repeats` must be at least 1. Received: repeats=0
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, valid = getattr(self, field.name), field.metadata["valid"]
            if value is None or valid is None or valid(value):
                continue
            raise ValueError(
                f"`{field.name}` must be {field.metadata['expects']}. "
                f"Received: {field.name}={value}"
            )
