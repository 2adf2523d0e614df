from lambda_keras.messages import first_line
from lambda_keras.messages import last_line


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\nIt is wrong.\nAt length:\n...")) == (
        "It is wrong."
    )
    assert first_line(ValueError()) == ""


def test_the_last_line_of_a_traceback():
    assert (
        last_line("Traceback\n  File\nValueError: no\n\n") == "ValueError: no"
    )
    assert last_line("") == ""
