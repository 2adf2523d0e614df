from lambda_keras.tables import markdown_table


def test_tables_are_markdown_that_is_easy_to_read():
    table = markdown_table(
        ["stage", "images/s"], [["read", "1,200.5"], ["a long name", 7]]
    )
    assert table.splitlines() == [
        "| stage       | images/s |",
        "|-------------|---------:|",
        "| read        |  1,200.5 |",
        "| a long name |        7 |",
    ]
