"""The scripted day, small: every room in one story, and an account in which nothing is left over.

In full size by hand: `python -m bench.day`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.daybook import Account, Book, Line, Stock, money_accounts, order_faults, refund_due, units_account

WITHIN_S = 120
ROOT = Path(__file__).resolve().parents[2]


def order(state: str, *, name: str = "o-1", refund: int | None = None, payment: str = "captured") -> dict[str, Any]:
    """An order of one jacket for 100 as its buyer reads it."""
    given = {} if refund is None else {"refund": {"amount": refund, "currency": "KRW"}}
    return {
        "order": name, "sale": "drop", "state": state, "total": {"amount": 100, "currency": "KRW"},
        "items": [{"product": "jacket", "quantity": 1, "unit_price": {"amount": 100, "currency": "KRW"}}],
        "payments": [{"state": payment, **given}],
    }  # fmt: skip


def book(state: str = "confirmed", *, charged: int = 100, refunded: int = 0, sold: int = 1) -> Book:
    """What record and provider have of one such order."""
    payment = {"id": "p-1", "order_id": "o-1", "amount": 100, "currency": "KRW", "state": "captured"}
    sold_row = {
        "sale": "drop",
        "product": "jacket",
        "order_id": "o-1",
        "verb": "sold",
        "quantity": sold,
        "reason": None,
    }
    return Book(
        orders={"o-1": {"id": "o-1", "sale": "drop", "state": state, "amount": 100, "currency": "KRW"}},
        items=[{"order_id": "o-1", "product": "jacket", "quantity": 1, "unit_amount": 100, "currency": "KRW"}],
        payments=[payment],
        refunds=[],
        ledger=[sold_row],
        charges=[{"order": "o-1", "amount": charged, "refunded_amount": refunded, "currency": "KRW"}],
    )


def units(told: list[dict[str, Any]], held: Book, free_at_end: int = 6) -> Account:
    return units_account("units", "jacket", "drop", Stock(8, 2, 6, free_at_end), told, held)


@pytest.mark.processes
@pytest.mark.timeout(180)
def test_a_day_balances() -> None:
    """Proposed, approved, rushed, cancelled, sold again, delivered, returned: three sides agree on unit and won."""
    words = ["--buyers", "60", "--units", "12", "--people", "4", "--brisk", "--json"]
    command = [sys.executable, "-m", "bench.day", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            said, _ = process.communicate(timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    found = json.loads(said)

    assert [] == found["broken"]
    assert 5 == len(found["accounts"])
    assert 0 == process.returncode


def test_an_account_that_balances() -> None:
    """One unit sold, one given back: no fault."""
    told = [order("confirmed")]

    assert [] == units(told, book(), free_at_end=7).faults
    assert [] == money_accounts(told, {}, book())[0].faults
    assert [] == order_faults(told, book())


def test_a_unit_that_is_nowhere_shows() -> None:
    """Neither sold nor given back."""
    assert ["units: moved in = sold for good + held + given back: 2 is not 1"] == units(
        [order("confirmed")], book()
    ).faults


def test_a_buyer_who_was_told_otherwise_shows() -> None:
    """In the units, and by the order's name."""
    told = [order("cancelled")]
    shown = " ".join(units(told, book(), free_at_end=7).faults)

    assert "cancelled and restocked" in shown
    assert "sold for good" in shown
    assert ["o-1: told cancelled, recorded confirmed"] == order_faults(told, book())


def test_a_sale_that_the_ledger_has_twice_shows() -> None:
    """The ledger is counted by itself."""
    assert ["units: the ledger's sold: 2 is not 1"] == units([order("confirmed")], book(sold=2), free_at_end=7).faults


@pytest.mark.parametrize(
    ("state", "charged", "refunded"), [("confirmed", 200, 0), ("confirmed", 0, 0), ("expired", 100, 0)]
)
def test_money_for_nothing_shows(state: str, charged: int, refunded: int) -> None:
    """Charged twice, never, or for an order that ended."""
    told = [order(state)]
    held = book(state, charged=charged, refunded=refunded)

    assert [f"o-1: {state}, charged {charged}, refunded {refunded}"] == order_faults(told, held)


def test_a_refund_that_the_provider_does_not_know_shows() -> None:
    """The buyer was told of money that never went."""
    told = [order("cancelled", refund=80, payment="refunded")]
    (money,) = money_accounts(told, {"o-1": 80}, book("cancelled"))

    assert f"money, KRW (minor units): refunded: {Line('refunded', 80, 0, 0)}" in money.faults


@pytest.mark.parametrize(
    ("days", "due"), [(None, 999), (10, 999), (9, 899), (7, 899), (6, 799), (3, 799), (2, 699), (0, 699)]
)
def test_what_is_due_back(days: int | None, due: int) -> None:
    """All of it, 90, 80 and 70 %, a half rounded up."""
    assert due == refund_due(999, days)
