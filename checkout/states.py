"""States of an order, who moves it on, and the one table of moves, which scripts and the record's SQL keep to."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class OrderState(StrEnum):
    RESERVED = "reserved"  # -> confirming by pin(); -> released by its buyer; -> expired by the Reaper at expires_at
    CONFIRMING = "confirming"  # -> confirmed, reserved or payment_failed by the flow, else by the Completer
    CONFIRMED = "confirmed"  # -> preparing by the delivery clock; -> cancelled by its buyer
    PREPARING = "preparing"  # -> shipped by the delivery clock; -> cancelled by its buyer
    SHIPPED = "shipped"  # -> delivered by the delivery clock
    DELIVERED = "delivered"  # -> completed by the delivery clock; -> return_requested by its buyer
    COMPLETED = "completed"  # final
    EXPIRED = "expired"  # final: its units are free again
    RELEASED = "released"  # final: given up by its buyer, or its claim was refused by the record
    PAYMENT_FAILED = "payment_failed"  # final: a final decline, or the fifth retryable one
    CANCELLED = "cancelled"  # final: refunded
    RETURN_REQUESTED = "return_requested"  # -> returned by the delivery clock
    RETURNED = "returned"  # final: refunded

    @property
    def is_final(self) -> bool:
        """Whether nothing moves the order on."""
        return not TRANSITIONS[self]

    def may_become(self, other: OrderState) -> bool:
        """Whether the table has this move."""
        return other in TRANSITIONS[self]


TRANSITIONS: Mapping[OrderState, frozenset[OrderState]] = {
    OrderState.RESERVED: frozenset({OrderState.CONFIRMING, OrderState.RELEASED, OrderState.EXPIRED}),
    OrderState.CONFIRMING: frozenset(
        # released: the record refused the claim, so no money moved.
        {OrderState.CONFIRMED, OrderState.RESERVED, OrderState.PAYMENT_FAILED, OrderState.RELEASED}
    ),
    OrderState.CONFIRMED: frozenset({OrderState.PREPARING, OrderState.CANCELLED}),
    OrderState.PREPARING: frozenset({OrderState.SHIPPED, OrderState.CANCELLED}),
    OrderState.SHIPPED: frozenset({OrderState.DELIVERED}),
    OrderState.DELIVERED: frozenset({OrderState.COMPLETED, OrderState.RETURN_REQUESTED}),
    OrderState.COMPLETED: frozenset(),
    OrderState.EXPIRED: frozenset(),
    OrderState.RELEASED: frozenset(),
    OrderState.PAYMENT_FAILED: frozenset(),
    OrderState.CANCELLED: frozenset(),
    OrderState.RETURN_REQUESTED: frozenset({OrderState.RETURNED}),
    OrderState.RETURNED: frozenset(),
}

# States in which an order's units are sold to its buyer.
BOUGHT = frozenset(
    {
        OrderState.CONFIRMED,
        OrderState.PREPARING,
        OrderState.SHIPPED,
        OrderState.DELIVERED,
        OrderState.COMPLETED,
        OrderState.RETURN_REQUESTED,
    }
)
# States of an order that was bought and is no more.
GIVEN_BACK = frozenset({OrderState.CANCELLED, OrderState.RETURNED})
