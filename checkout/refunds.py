"""How much of an order is given back. Pure: whole days, whole minor units, no clock and no store.

An entry for a visit is worth less the nearer the visit is; what is for no day is given back in full. Days are counted
from the day of the cancellation, or from that of the purchase where the sale says so, to the day of the visit, in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from onsale.catalog.sales import RefundPolicy

# Why an order was cancelled whose whole sale was: everything is given back, whatever the policy says.
SALE_CANCELLED = "sale_cancelled"


@dataclass(frozen=True, slots=True)
class RefundLine:
    """One line of an order: what was paid for it, and the day it is for (None = no such thing)."""

    amount: int
    visit_on: date | None = None


def refund_amount(policy: RefundPolicy, lines: Iterable[RefundLine], *, purchased_on: date, cancelled_on: date) -> int:
    """Minor units to give back for all lines of an order; each line is rounded by itself, a half upwards."""
    since = cancelled_on if policy.since == "cancellation" else purchased_on
    return sum(_rounded(line.amount, _percent(policy, line.visit_on, since)) for line in lines)


def _percent(policy: RefundPolicy, visit_on: date | None, since: date) -> int:
    if visit_on is None:
        return 100
    days = (visit_on - since).days
    return next((step.percent for step in policy.steps if days >= step.days_min), policy.percent_least)


def _rounded(amount: int, percent: int) -> int:
    return (amount * percent + 50) // 100
