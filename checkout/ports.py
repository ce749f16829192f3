"""What checkout needs of others: a provider of payments, prices, and the line's patience. Bound in `server/app.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from onsale.catalog.offers import Offer


class Method(StrEnum):
    """How a buyer pays; a provider offers some of these."""

    CARD = "card"
    BANK_TRANSFER = "bank_transfer"
    MOBILE = "mobile"
    WALLET = "wallet"


class ChargeState(StrEnum):
    CAPTURED = "captured"
    DECLINED = "declined"
    UNKNOWN = "unknown"  # no answer, or not found: never final, a slow call may still charge


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to pay, as a provider is asked about it, the same whoever asks. `attempt` is its idempotency key."""

    attempt: str
    order: str
    amount: int
    currency: str
    method: str = Method.CARD
    # What is paid with; "" = erased, or not at hand.
    token: str = ""


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


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """A hint from a provider that something became of a payment: an attempt's, or of the one payment of an order. What
    it says of that is not believed; the provider is asked."""

    event_id: str
    kind: str
    attempt: str = ""
    order: str = ""


class PaymentProvider(Protocol):
    """Charges are idempotent by `attempt`: the same attempt charged twice moves money once."""

    @property
    def name(self) -> str:
        """As requests and the record call it."""
        ...

    @property
    def methods(self) -> frozenset[Method]:
        """What may be paid with here."""
        ...

    @property
    def is_away(self) -> bool:
        """Whether it is not worth asking now."""
        ...

    async def charge(self, asked: Attempt) -> Charge:
        """Never raises for the network: an unanswered call is UNKNOWN."""
        ...

    async def find(self, asked: Attempt) -> Charge:
        """What became of an attempt."""
        ...

    async def void(self, asked: Attempt) -> Charge:
        """See to it that an attempt never charges from now on: CAPTURED if it has, DECLINED if it never will, UNKNOWN
        if that cannot be said."""
        ...

    async def refund(self, asked: Attempt, *, key: str, amount: int, currency: str) -> bool:
        """Give money back, all or a part, idempotent by `key`; False = not known to have been done, ask again."""
        ...

    def read_event(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> ProviderEvent | None:
        """What a webhook is about; None = nothing of ours. Raises SignatureInvalid, EventUnreadable."""
        ...


class Offers(Protocol):
    """What ordinary products cost at this very moment."""

    async def for_order(self, products: Sequence[str]) -> Mapping[str, Offer]:
        """All of these products, each sold now. Raises the catalogue's ProductUnknown, ProductUnavailable."""
        ...


class CartItem(Protocol):
    """So many units of one product."""

    @property
    def product(self) -> str: ...
    @property
    def quantity(self) -> int: ...


class Carts(Protocol):
    """What buyers mean to buy of ordinary products."""

    async def items(self, account: str) -> Sequence[CartItem]:
        """What the cart holds now."""
        ...

    async def take(self, account: str, order: str, ordered: Mapping[str, int]) -> None:
        """What was ordered is in the cart no more, unless its order ends unbought; what was changed meanwhile stays."""
        ...


class PassTimes(Protocol):
    """What the line knows of passes beyond what they say themselves."""

    async def until_ms(self, sale: str, turn: str) -> int:
        """When the pass of a turn ends now (ms): an outage of ours has put it off. 0 where nobody can say."""
        ...


class LinePause(Protocol):
    """Holds the line still in checkout's own name; nobody lifts another's pause."""

    async def pause(self, sale: str, holder: str) -> None: ...

    async def resume(self, sale: str, holder: str) -> None: ...
