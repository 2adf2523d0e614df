import sys

import pytest

from lambda_keras.commands import progress as module
from lambda_keras.commands.progress import progress


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Two seconds pass between any two looks at it."""
    times = iter(range(0, 100, 2))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))


def test_lines_follow_each_other_in_a_pipe(capsys):
    with progress() as tell:
        for line in ("first", "first", "second", "", "second", "third"):
            tell(line)
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "[   2 s] first",
        "[   6 s] second",
        "[  10 s] third",
    ]
    assert not printed.out


def test_a_terminal_has_one_line_that_is_cleared_at_the_end(
    capsys, monkeypatch
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress() as tell:
        tell("a long line")
        tell("short")
        tell("")
        print("between", file=sys.stderr)
        tell("last")
    # What a terminal shows at the end: nothing, but what others printed.
    first, last = capsys.readouterr().err.split("between\n")
    assert "\n" not in first + last
    assert shown(first) == shown(last) == ""
    # Before it was cleared, the shorter line had taken the place of the other.
    assert shown(first.rsplit("\r", 2)[0]) == "[   4 s] short"


def shown(text):
    """What is left on a line on which each return begins anew."""
    line = ""
    for part in text.split("\r"):
        line = part + line[len(part) :]
    return line.rstrip()


def test_a_line_that_is_too_long_for_the_terminal_is_cut(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "20")
    with progress() as tell:
        tell("much more than there is room for")
    # One that went on in the next line could not be overwritten.
    assert {len(part) for part in capsys.readouterr().err.split("\r")} <= {
        *(0, 19)
    }


def test_a_failure_clears_the_line_too(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with pytest.raises(KeyboardInterrupt), progress() as tell:
        tell("working")
        raise KeyboardInterrupt
    assert shown(capsys.readouterr().err) == ""
