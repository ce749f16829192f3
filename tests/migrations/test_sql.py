"""Files of named SQL statements."""

from __future__ import annotations

import pytest

from onsale.migrations.sql import SqlFileError, load_queries, parse


def test_a_statement_by_its_name() -> None:
    """Name lines split the file; comments and the last semicolon are left out of the statement."""
    text = "-- About the file.\n\n-- a --\n-- Why.\nSELECT 1;\n\n-- b --\nSELECT 2\nFROM x;\n"

    assert parse(text, "f.sql") == {"a": "SELECT 1", "b": "SELECT 2\nFROM x"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SELECT 1;\n-- a --\nSELECT 1;", "above the first name"),
        ("-- a --\nSELECT 1;\n-- a --\nSELECT 2;", "two statements are named a"),
        ("-- a --\n-- only words\n", "a is empty"),
    ],
)
def test_a_file_that_breaks_the_grammar(text: str, why: str) -> None:
    """Each mistake is named with the file."""
    with pytest.raises(SqlFileError, match=f"f.sql.*{why}"):
        parse(text, "f.sql")


def test_a_package_without_init() -> None:
    """`onsale.queue` has no __init__.py; its statements are found all the same, and a missing file is named."""
    assert list(load_queries("onsale.queue", "numbering.sql"))
    with pytest.raises(FileNotFoundError, match=r"queue/none\.sql"):
        load_queries("onsale.queue", "none.sql")


def test_an_unknown_name() -> None:
    """Asking for a statement that is not there names the file."""
    queries = load_queries("onsale.migrations", "migrations.sql")

    with pytest.raises(AttributeError, match=r"migrations\.sql has no statement named nothing"):
        _ = queries.nothing
