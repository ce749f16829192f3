"""Compact tokens: taken apart in one way, and only as we write them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onsale.auth.compact import NotCompact, from_base64url, split, to_base64url


@given(st.binary(max_size=100))
def test_base64url_is_that_of_everybody(raw: bytes) -> None:
    """What we write, any library reads; and what it writes we read."""
    text = to_base64url(raw)

    assert base64.urlsafe_b64encode(raw).rstrip(b"=") == text
    assert raw == from_base64url(text)


@pytest.mark.parametrize("text", [b"A", b"+A", b"/A", b"AA==A", b"A A", b"AA\n"])
def test_other_spellings_are_refused(text: bytes) -> None:
    """The other alphabet, half a byte, spaces."""
    with pytest.raises(NotCompact):
        from_base64url(text)


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.b.c.d", "é.b.c", "a.b." + "c" * 2_048])
def test_what_has_not_three_parts_is_refused(token: str) -> None:
    """Nor is what is longer than any token of ours."""
    with pytest.raises(NotCompact):
        split(token)
