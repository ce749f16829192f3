"""What checkout refuses. Each class is one decision of the caller; `server/problems.py` has the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


class CheckoutError(Exception):
    """Checkout refused."""

    # Whether this is the stored answer to a request made before under the same Idempotency-Key.
    is_replay: bool = False


class PassExpired(CheckoutError):
    """The pass has expired: join the line again."""


class PassRevoked(CheckoutError):
    """The pass was revoked."""


class PassSpent(CheckoutError):
    """The pass has been used for a purchase, or its turn has ended."""


class SoldOut(CheckoutError):
    """Not enough units are free."""


class PurchaseLimitReached(CheckoutError):
    """You hold or bought as many as one buyer may."""


class ReservationOpen(CheckoutError):
    """You have an open reservation in this sale: pay for it or give it up first."""


@dataclass
class TooManyDrops(CheckoutError):
    """You held units several times without buying them: wait before you reserve again."""

    retry_after_s: int = 1


@dataclass
class PriceChanged(CheckoutError):
    """The price is not the one you expected."""

    # What it is now; only who has the sale at hand knows it.
    amount: int = 0
    currency: str = ""


class OrderUnknown(CheckoutError):
    """There is no such order, or it is not yours."""


class OrderExpired(CheckoutError):
    """The reservation has lapsed; its units are free again."""


class OrderChanged(CheckoutError):
    """The order was changed meanwhile: look at it again."""


class SaleNotClosed(CheckoutError):
    """Close the sale first: until then its figures change."""


class FiguresChanged(CheckoutError):
    """The sum to be given back is another by now: look at it again."""


class SaleCancelled(CheckoutError):
    """The sale is cancelled."""


class OrderStateConflict(CheckoutError):
    """The order is not in a state in which this can be done."""


class EntryUnknown(CheckoutError):
    """There is no such code, or it is not for your door."""


@dataclass
class EntryRedeemed(CheckoutError):
    """The code has let somebody in before."""

    redeemed_at_ms: int


class EntryVoid(CheckoutError):
    """The order of this code was cancelled, or goes back."""


@dataclass
class EntryNotYet(CheckoutError):
    """The code is for a day that is to come."""

    visit_on: date


@dataclass
class EntryExpired(CheckoutError):
    """The code was for a day that is over."""

    visit_on: date


class SaleNotOpen(CheckoutError):
    """The sale is not open."""


class AmountMismatch(CheckoutError):
    """The provider took another amount than the order's; it was given back."""


@dataclass
class PaymentDeclined(CheckoutError):
    """The payment was declined."""

    reason: str
    retryable: bool


class ShopRecovering(CheckoutError):
    """The stock is being recovered; nothing is lost. Ask again shortly."""


class RecordBehind(CheckoutError):
    """Sales are being written down more slowly than they come in: ask again shortly."""


class ProductUnknown(CheckoutError):
    """There is no such product in this sale."""


class CartEmpty(CheckoutError):
    """The cart holds nothing to order."""


class ProductUnavailable(CheckoutError):
    """One of these products is not sold at this moment."""


class NoticesExhausted(CheckoutError):
    """There is no room for one more stream of notices here: ask again shortly."""


class ProviderAway(CheckoutError):
    """The provider of payments does not answer; the reservation stands and nothing was charged. Ask again shortly."""


class ProviderUnknown(CheckoutError):
    """There is no such provider of payments here."""


class SignatureInvalid(CheckoutError):
    """The event is not signed by its provider, or was sent more than five minutes ago."""


class EventUnreadable(CheckoutError):
    """The event is not what its provider sends."""
