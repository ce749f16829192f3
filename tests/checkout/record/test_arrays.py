"""Columns of text as Postgres reads them."""

from __future__ import annotations

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onsale.checkout.record.arrays import columns, sent, text_array

# Every character but NUL, which no text in Postgres holds, and halves of surrogate pairs, which no stream entry holds.
TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
HARD = st.sampled_from(["", "NULL", '"', "\\", ",", '","', "{}", " ", "\n", '\\"', "한정판"])
BACK = "SELECT $1::text::text[]"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays=st.lists(st.lists(st.none() | HARD | TEXTS, max_size=6), max_size=20))
async def test_postgres_reads_what_was_meant(database: asyncpg.Pool, arrays: list[list[str | None]]) -> None:
    """Whatever the elements hold, and where some are NULL, the array is the same in Postgres."""
    read = [await database.fetchval(BACK, text_array(values)) for values in arrays]

    assert arrays == read


def test_only_columns_declared_so_travel_as_one_string() -> None:
    """The statement itself says which of its arguments are columns of text."""
    statement = "SELECT * FROM unnest($2::text::text[], $3::text[], $4::int[]) WHERE $1 = 'x'"

    assert ["x", '{"a","b"}', ("c", "d"), (1, 2)] == sent(statement, "x", *columns([("a", "c", 1), ("b", "d", 2)], 3))


def test_no_rows_are_empty_columns() -> None:
    """A statement is sent all its columns, also where nothing is to be written."""
    assert ["{}", ()] == sent("SELECT $1::text::text[], $2::int[]", *columns([], 2))
