"""Tables for people."""

from collections.abc import Iterable
from collections.abc import Sequence


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[object]]
) -> str:
    """Lays out a table in Markdown that also reads well as it is.

    Args:
        header: The names of the columns, the first of which is text and the
            others numbers.
        rows: The cells.

    Returns:
        Lines without one at the end.

    Example:

    >>> print(markdown_table(["stage", "images/s"], [["read", 120]]))
    | stage | images/s |
    |-------|---------:|
    | read  |      120 |
    """
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = []
    for row in cells:
        first = row[0].ljust(widths[0])
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append(f"| {' | '.join([first, *others])} |")
    rules = ["-" * (widths[0] + 2)]
    rules += ["-" * (width + 1) + ":" for width in widths[1:]]
    lines.insert(1, f"|{'|'.join(rules)}|")
    return "\n".join(lines)
