"""What became of a try to pay, and what that says to whoever asked: the first time, again, or from another process.

A confirmation's key lives on its attempt: in Redis with the order, in Postgres as `unique (order, key)`. So a repeat is
answered from the attempt itself and no answer is stored anywhere else that could disagree with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from onsale.auth.errors import IdempotencyKeyReused
from onsale.checkout.errors import (
    AmountMismatch,
    CheckoutError,
    OrderExpired,
    OrderStateConflict,
    PassSpent,
    PaymentDeclined,
    PurchaseLimitReached,
    ShopRecovering,
    SoldOut,
)
from onsale.checkout.inventory import PackedAttempt
from onsale.checkout.orders import OrderRow, PaymentRow
from onsale.checkout.states import BOUGHT, GIVEN_BACK, OrderState

# The reason of an attempt that took another amount than the order's.
AMOUNT_MISMATCH = "amount_mismatch"

# What a claim that the record refused says to its buyer.
REFUSALS: Mapping[str, type[CheckoutError]] = {
    "stock": SoldOut,
    "limit": PurchaseLimitReached,
    "turn": PassSpent,
    "epoch": ShopRecovering,
    "state": OrderStateConflict,
}


class Outcome(StrEnum):
    """What became of an attempt; the same words stand in Redis beside it."""

    OPEN = "open"  # -> any other, by whoever has the lease
    SOLD = "sold"  # final
    DECLINED = "declined"  # final; the order may be paid otherwise
    FAILED = "failed"  # final, and the order with it
    REFUSED = "refused"  # final: the record had no units for it, no money moved


@dataclass(frozen=True, slots=True)
class Ending:
    """How far an attempt has come. `is_recorded`: the record has this outcome (of OPEN: the claim)."""

    attempt: str
    key: str
    outcome: Outcome
    reason: str = ""
    is_recorded: bool = False
    # The event that ended it; and when it began, Redis milliseconds (0 = ask the record).
    event_id: str = ""
    created_ms: int = 0


def ending_of_attempt(packed: PackedAttempt) -> Ending:
    """What Redis says of an attempt."""
    return Ending(
        packed.attempt,
        packed.key,
        Outcome(packed.outcome),
        packed.reason,
        event_id=packed.end_event_id,
        created_ms=created_ms(packed.event_id),
    )


def created_ms(event_id: str) -> int:
    # A stream id begins with the milliseconds at which it was written.
    return int(event_id.partition("-")[0] or 0)


# What the record's payment states say of an attempt; a capture on its way back was no purchase.
_OUTCOMES: Mapping[str, Outcome] = {
    "pending": Outcome.OPEN,
    "captured": Outcome.SOLD,
    "declined": Outcome.DECLINED,
    "failed": Outcome.FAILED,
    "refused": Outcome.REFUSED,
    "refunding": Outcome.FAILED,
    "refunded": Outcome.FAILED,
}


def refuse_unless_paid(ending: Ending, *, is_replay: bool) -> None:
    """Raise what an attempt that ended without a purchase says; nothing for one that is sold or still open."""
    refusal: CheckoutError
    if ending.outcome is Outcome.DECLINED:
        refusal = PaymentDeclined(ending.reason, retryable=True)
    elif ending.outcome is Outcome.REFUSED:
        refusal = REFUSALS.get(ending.reason, OrderStateConflict)()
    elif ending.outcome is Outcome.FAILED and ending.reason == AMOUNT_MISMATCH:
        refusal = AmountMismatch()
    elif ending.outcome is Outcome.FAILED:
        refusal = PaymentDeclined(ending.reason, retryable=False)
    else:
        return
    refusal.is_replay = is_replay
    raise refusal


def ending_of_row(row: OrderRow, key: str, digest: str) -> Ending:
    """What the record alone answers to a confirmation of an order that Redis does not know any more.

    Raises IdempotencyKeyReused, OrderExpired, OrderStateConflict.
    """
    own = next((payment for payment in row.payments if payment.key == key), None)
    if own is not None and own.digest != digest:
        raise IdempotencyKeyReused
    newest = own or (row.payments[-1] if row.payments else None)
    if newest is not None and (own is not None or row.state in BOUGHT or row.state is OrderState.CONFIRMING):
        return _ending(newest, is_given_back=row.state in GIVEN_BACK)
    raise OrderExpired if row.state in (OrderState.EXPIRED, OrderState.RESERVED) else OrderStateConflict


def ended_as(state: str | None) -> Outcome:
    """What the record's state of an attempt says; one that it does not have was refused."""
    return Outcome.REFUSED if state is None else _OUTCOMES[state]


def _ending(payment: PaymentRow, *, is_given_back: bool) -> Ending:
    outcome = _OUTCOMES[payment.state]
    # The one payment of an order that was bought, and cancelled afterwards.
    if is_given_back and payment.state in ("refunding", "refunded"):
        outcome = Outcome.SOLD
    return Ending(payment.payment, payment.key, outcome, payment.reason or "", is_recorded=True)
