"""Seats that stock allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onsale.queue.ports import StockFigures
from onsale.queue.strategy import Snapshot, seats_by_stock

units = st.integers(0, 10_000)


def seats(free: int, held: int = 0, claimed: int = 0, limit: int = 1) -> int:
    return seats_by_stock(Snapshot(StockFigures(free, held, claimed, 0, 0), limit))


def test_everyone_in_a_seat_has_a_unit_or_one_to_take() -> None:
    """Ten free and five held by five: fifteen seats."""
    assert seats(free=10, held=5) == 15


def test_a_buyer_of_many_needs_one_seat() -> None:
    """Six units held where four are allowed are at least two buyers' seats."""
    assert seats(free=10, held=4, claimed=2, limit=4) == 12


def test_nothing_free_lets_nobody_in() -> None:
    """Whatever may come back."""
    assert seats(free=0, held=100) == 0


@given(units, units, units, st.integers(1, 10))
def test_seats_without_a_unit_never_outnumber_the_free(free: int, held: int, claimed: int, limit: int) -> None:
    """However units spread over buyers, at most `free` seats are left to people who have none."""
    fewest_with_units = -(-(held + claimed) // limit)

    assert seats(free, held, claimed, limit) - fewest_with_units <= free
