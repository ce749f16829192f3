"""What a cancellation gives back: the table of days, both ways of counting them, and whole units."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from onsale.catalog.sales import RefundPolicy, RefundStep
from onsale.checkout.refunds import RefundLine, refund_amount

VISIT = date(2027, 3, 20)


def given_back(days: int, amount: int = 1_000, policy: RefundPolicy | None = None, bought: int = 30) -> int:
    """Of an entry that was bought and cancelled so many days before the visit."""
    return refund_amount(
        policy or RefundPolicy(),
        [RefundLine(amount, VISIT)],
        purchased_on=VISIT - timedelta(days=bought),
        cancelled_on=VISIT - timedelta(days=days),
    )


@pytest.mark.parametrize(
    ("days", "percent"),
    [(40, 100), (10, 100), (9, 90), (7, 90), (6, 80), (3, 80), (2, 70), (1, 70), (0, 70), (-1, 70)],
)
def test_the_nearer_the_visit_the_less(days: int, percent: int) -> None:
    """More than 9 days: all; 7 to 9: 90 %; 3 to 6: 80 %; 2 or fewer: 70 %."""
    assert percent * 10 == given_back(days)


def test_days_from_the_purchase() -> None:
    """Where the sale says so, the day of the purchase counts, not that of the cancellation."""
    policy = RefundPolicy(since="purchase")

    assert 1_000 == given_back(0, policy=policy, bought=10)
    assert 800 == given_back(0, policy=policy, bought=5)


@pytest.mark.parametrize(("amount", "whole"), [(1, 1), (15, 14), (999, 899), (1_995, 1_796), (0, 0)])
def test_whole_units(amount: int, whole: int) -> None:
    """90 % of it to the nearest whole minor unit, a half upwards."""
    assert whole == given_back(8, amount)


def test_lines_are_judged_by_themselves() -> None:
    """What is for no day is given back in full beside an entry for tomorrow."""
    lines = [RefundLine(1_000, VISIT), RefundLine(500)]
    tomorrow = VISIT - timedelta(days=1)

    assert 1_200 == refund_amount(RefundPolicy(), lines, purchased_on=tomorrow, cancelled_on=tomorrow)


def test_a_sale_s_own_steps() -> None:
    """Steps are the sale's, and so is what is left below the last."""
    policy = RefundPolicy(steps=(RefundStep(1, 50),), percent_least=0)

    assert (500, 0) == (given_back(1, policy=policy), given_back(0, policy=policy))
