"""The table of an order's moves is the one that the documents show and the record's schema allows."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg

from onsale.checkout.states import TRANSITIONS, OrderState

DOCUMENT = Path(__file__).parents[2] / "docs" / "states.md"


def test_the_document_shows_the_table() -> None:
    """Every move, and no other."""
    section = DOCUMENT.read_text(encoding="utf-8").split("## An order")[1].split("### ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section, re.MULTILINE)

    assert {(state, other) for state, others in TRANSITIONS.items() for other in others} == set(rows)


def test_the_document_names_the_final_states() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split("## An order")[1]
    named = re.findall(r"`(\w+)`", re.findall(r"^Final: (.+)$", section, re.MULTILINE)[0])

    assert {state for state in OrderState if state.is_final} == set(named)


def test_every_state_is_in_the_table() -> None:
    assert set(OrderState) == set(TRANSITIONS)
    assert OrderState.RESERVED.may_become(OrderState.CONFIRMING)
    assert not OrderState.EXPIRED.may_become(OrderState.CONFIRMING)


async def test_the_schema_allows_the_same_states(database: asyncpg.Pool) -> None:
    """A state that Python knows can be written down, and no other."""
    check = await database.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'orders_state_check'"
    )

    assert set(OrderState) == set(re.findall(r"'(\w+)'", check))
