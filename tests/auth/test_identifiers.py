"""Ids: opaque, sortable by time, one spelling each."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onsale.auth.identifiers import SALE_NO_MAX, from_text, is_id, new_id, order_id, sale_no_of, to_text


@given(st.binary(min_size=1, max_size=40))
def test_text_is_base32hex(raw: bytes) -> None:
    """The text is RFC 4648's base32hex in lower case without padding, and reads back."""
    text = to_text(raw)

    assert base64.b32hexencode(raw).decode().rstrip("=").lower() == text
    assert raw == from_text(text, len(raw))


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_texts_sort_as_bytes(one: bytes, other: bytes) -> None:
    """Sorting ids sorts them by the time they were made."""
    assert (one < other) == (to_text(one) < to_text(other))


@given(st.integers(0, SALE_NO_MAX))
def test_an_order_names_its_sale(sale_no: int) -> None:
    """The number of a sale is read back from any order's id."""
    order = order_id(sale_no)

    assert sale_no == sale_no_of(order)
    assert 26 == len(order)


def test_new_ids_carry_their_time() -> None:
    """An id begins with the millisecond it was made in."""
    before_ms = time.time_ns() // 1_000_000
    made_ms = int.from_bytes(from_text(new_id(), 16)[:6], "big")

    assert before_ms <= made_ms <= time.time_ns() // 1_000_000


def test_ids_made_one_after_another_sort_so() -> None:
    """Within one millisecond too: lists that go by ids show what came last first."""
    made = [new_id() for _ in range(2_000)]
    orders = [order_id(7) for _ in range(2_000)]

    assert made == sorted(made)
    assert orders == sorted(orders)


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        "x",
        "0" * 25,
        "0" * 27,
        "0" * 25 + "1",  # the padding bits of 16 bytes must be zero: one spelling an id
        "0" * 25 + "w",
        "0" * 25 + "A",
        "0" * 25 + "\n",
        " " + "0" * 25,
        "+" + "0" * 25,
        "0_0" + "0" * 23,
        "٠" * 26,
        "0" * 25 + "\0",
        "0" * 100_000,
    ],
)
def test_nonsense_is_no_id(nonsense: str) -> None:
    """What we did not write is refused, whatever Python's own parser would make of it."""
    assert not is_id(nonsense)
    with pytest.raises(ValueError):
        sale_no_of(nonsense)
