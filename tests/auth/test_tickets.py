"""Tickets that prove themselves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onsale.auth.errors import NotFound, Unauthenticated
from onsale.auth.keys import Keyring
from onsale.auth.tickets import TicketFacts, Tickets

TICKETS = Tickets(Keyring([b"n" * 32, b"o" * 32]))
BEFORE_ROTATION = Tickets(Keyring([b"o" * 32]))
STRANGERS = Tickets(Keyring([b"s" * 32]))
TICKET = TICKETS.issue(sale_no=7, lane=0, place=48_211, joined_ms=1_790_000_000_123, buyer="mina")


@given(
    sale_no=st.integers(0, 2**24 - 1),
    lane=st.integers(0, 255),
    place=st.integers(0, 2**40 - 1),
    joined_ms=st.integers(0, 2**48 - 1),
    buyer=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=40),
)
def test_a_ticket_says_what_was_written(sale_no: int, lane: int, place: int, joined_ms: int, buyer: str) -> None:
    """Facts, owner and token of any ticket read back; the same facts always make the same id."""
    ticket = TICKETS.issue(sale_no, lane, place, joined_ms, buyer)
    facts = TicketFacts(ticket, sale_no, lane, place, joined_ms)

    assert 39 == len(ticket)
    assert ticket == TICKETS.issue(sale_no, lane, place, joined_ms, buyer)
    assert facts == TICKETS.facts(ticket)
    assert TICKETS.belongs(ticket, buyer)
    assert (facts, buyer) == TICKETS.read_token(TICKETS.token(ticket, buyer))


def test_a_ticket_is_nobody_elses() -> None:
    """The id is bound to the buyer it was made for."""
    assert not TICKETS.belongs(TICKET, "minb")
    assert not STRANGERS.belongs(TICKET, "mina")


def test_tickets_outlive_a_rotation() -> None:
    """What an older secret signed is still good; the newer one's is not good for those who do not have it."""
    old = BEFORE_ROTATION.issue(7, 0, 1, 1_790_000_000_123, "mina")

    assert TICKETS.belongs(old, "mina")
    assert "mina" == TICKETS.read_token(BEFORE_ROTATION.token(old, "mina"))[1]
    assert not BEFORE_ROTATION.belongs(TICKET, "mina")
    with pytest.raises(Unauthenticated):
        BEFORE_ROTATION.read_token(TICKETS.token(TICKET, "mina"))


@settings(max_examples=300)
@given(st.data())
def test_a_changed_token_opens_nothing(data: st.DataObject) -> None:
    """Whatever one character of a token is changed to, it is refused, or is the token still."""
    token = TICKETS.token(TICKET, "mina")
    at = data.draw(st.integers(0, len(token) - 1))
    changed = token[:at] + data.draw(st.characters()) + token[at + 1 :]

    if changed != token:
        with pytest.raises(Unauthenticated):
            TICKETS.read_token(changed)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "ott",
        "ott...",
        f"ott.{TICKET}..mina",
        TICKET,
        STRANGERS.token(TICKET, "mina"),
        TICKETS.token(TICKET, "mina") + ".",
        TICKETS.token(TICKET, "mina").replace("ott.", "osk."),
        TICKETS.token(TICKET, "mina") + "x" * 100_000,
        TICKETS.token(TICKET, "mina").replace("mina", "minb"),
    ],
)
def test_forged_tokens_are_refused(token: str) -> None:
    """Another's key, another buyer, another kind, nothing at all."""
    with pytest.raises(Unauthenticated):
        TICKETS.read_token(token)


@pytest.mark.parametrize("ticket", ["", "x", "0" * 38, "0" * 40, "z" * 39, TICKET.upper(), TICKET[:-1] + "\0"])
def test_nonsense_is_no_ticket(ticket: str) -> None:
    """An id that we did not write is not found, and nobody's."""
    with pytest.raises(NotFound):
        TICKETS.facts(ticket)
    assert not TICKETS.belongs(ticket, "mina")
