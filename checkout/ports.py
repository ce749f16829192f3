"""What checkout needs of others: a provider of payments, and the line's patience. Bound in `server/app.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class ChargeState(StrEnum):
    CAPTURED = "captured"
    DECLINED = "declined"
    UNKNOWN = "unknown"  # no answer, or not found: never final, a slow call may still charge


@dataclass(frozen=True, slots=True)
class Charge:
    """What a provider says of one attempt."""

    state: ChargeState
    reason: str = ""
    retryable: bool = False
    amount: int = 0
    currency: str = ""
    # The provider's own id of the payment.
    reference: str = ""


class PaymentProvider(Protocol):
    """Charges are idempotent by `attempt`: the same attempt charged twice moves money once."""

    name: str

    @property
    def is_away(self) -> bool:
        """Whether it is not worth asking now."""
        ...

    async def charge(self, *, attempt: str, order: str, amount: int, currency: str, method: str, token: str) -> Charge:
        """Never raises for the network: an unanswered call is UNKNOWN."""
        ...

    async def find(self, *, attempt: str) -> Charge:
        """What became of an attempt."""
        ...

    async def void(self, *, attempt: str) -> Charge:
        """See to it that an attempt never charges from now on: CAPTURED if it has, DECLINED if it never will, UNKNOWN
        if that cannot be said."""
        ...

    async def refund(self, *, attempt: str, key: str, amount: int, currency: str) -> bool:
        """Give money back, idempotent by `key`; False = not known to have been done, ask again."""
        ...


class LinePause(Protocol):
    """Holds the line still in checkout's own name; nobody lifts another's pause."""

    async def pause(self, sale: str, holder: str) -> None: ...

    async def resume(self, sale: str, holder: str) -> None: ...
