"""What to tell of errors that others raise."""


def first_line(error: Exception) -> str:
    """Returns what an error says before it goes into details."""
    return str(error).strip().partition("\n")[0]


def last_line(text: str) -> str:
    """Returns where a traceback says what went wrong."""
    return next((x for x in reversed(text.splitlines()) if x.strip()), "")
