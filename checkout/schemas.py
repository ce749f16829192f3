"""What checkout reads and answers over HTTP. Bounds are in the types; one decoder a message."""

from __future__ import annotations

from typing import Annotated

import msgspec

from onsale.auth.schemas import Address as Address
from onsale.checkout.ports import Method

ITEMS_MAX = 50
QUANTITY_MAX = 1000
# What a person typed, such as a name or a line of an address.
Line = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
# In Python `$` also matches before a line's end; the look-ahead says that there is none.
Word = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$(?!\n)")]


class Money(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Integer minor units and an ISO currency."""

    amount: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$(?!\n)")]


class ItemRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Units of one product."""

    product: Word
    quantity: Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)]


class ReserveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reserve all of these or nothing. `expected_total` protects against paying another price than was shown."""

    items: Annotated[tuple[ItemRequest, ...], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]
    address: Address | None = None
    expected_total: Money | None = None


class OrderRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same of ordinary products: these `items`, or, with `cart` true, all that the buyer's cart holds."""

    items: Annotated[tuple[ItemRequest, ...], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    cart: bool = False
    address: Address | None = None
    expected_total: Money | None = None


class AmendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A merge patch of a reservation. `items` are what it shall hold, all of them, at the price of now; `address` null
    takes it away."""

    items: Annotated[tuple[ItemRequest, ...], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    address: Address | msgspec.UnsetType | None = msgspec.UNSET
    expected_total: Money | None = None


class PaymentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to pay; `token` is the provider's, sealed before it is kept and erased when the attempt ends."""

    provider: Word
    method: Method
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]


class ConfirmRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pay and confirm."""

    payment: PaymentRequest


class CancelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Give a bought order back. Says nothing but that; the key says which request it is."""


class ItemReply(msgspec.Struct, frozen=True):
    """One line of an order, priced as it was reserved."""

    product: str
    title: str
    quantity: int
    unit_price: Money
    list_price: Money


class PaymentReply(msgspec.Struct, frozen=True):
    """One try to pay; `state` is pending, captured, declined, failed, refused, refunding or refunded."""

    payment: str
    provider: str
    method: str
    state: str
    reason: str | None
    retryable: bool
    created_at: str
    # What goes back of it while it is refunding, or has gone.
    refund: Money | None = None


class OrderReply(msgspec.Struct, frozen=True):
    """An order; `recorded` says that this state stands in Postgres."""

    order: str
    sale: str | None
    state: str
    items: tuple[ItemReply, ...]
    total: Money
    expires_at: str
    recorded: bool
    payments: tuple[PaymentReply, ...] = ()
    # Why it ended, where it did not end well.
    reason: str | None = None


class OrderDetail(OrderReply, frozen=True):
    """An order with its address as it was."""

    address: Address | None = None


class OperatorOrder(OrderReply, frozen=True):
    """An order as the sale's managers see it."""

    buyer: str = ""


class OrderPage(msgspec.Struct, frozen=True):
    """Newest first; `next_cursor` null = no more."""

    items: tuple[OrderReply, ...]
    next_cursor: str | None


class OperatorPage(msgspec.Struct, frozen=True):
    """The same for managers."""

    items: tuple[OperatorOrder, ...]
    next_cursor: str | None


class PaymentList(msgspec.Struct, frozen=True):
    """Every try to pay an order, oldest first."""

    items: tuple[PaymentReply, ...]
    next_cursor: str | None = None


class EntryReply(msgspec.Struct, frozen=True):
    """One unit that is redeemed on the visit: on `visit_on` (null: on any day), once, with this `code`."""

    product: str
    title: str
    visit_on: str | None
    code: str
    redeemed_at: str | None


class EntryList(msgspec.Struct, frozen=True):
    """Every entry of an order; none before it is bought, nor once it goes back."""

    items: tuple[EntryReply, ...]
    next_cursor: str | None = None


class RedeemRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Let in whoever shows this code; gaps and small letters do not matter."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class RedemptionReply(msgspec.Struct, frozen=True):
    """Somebody was let in."""

    order: str
    product: str
    title: str
    visit_on: str | None
    redeemed_at: str


class EventReply(msgspec.Struct, frozen=True):
    """To a provider: its event is kept, or was before."""

    received: bool


class NoticeReply(msgspec.Struct, frozen=True):
    """Something that happened to an order: `kind` order (its `state` is another now) or refund (money is back)."""

    notice: str
    kind: str
    order: str
    sale: str | None
    state: str
    reason: str | None
    refund: Money | None
    at: str


class NoticePage(msgspec.Struct, frozen=True):
    """Newest first; `next_cursor` null = no more."""

    items: list[NoticeReply]
    next_cursor: str | None


class StockReply(msgspec.Struct, frozen=True):
    """Units that can be reserved now, at most a second old."""

    free: int


RESERVE = msgspec.json.Decoder(ReserveRequest)
CONFIRM = msgspec.json.Decoder(ConfirmRequest)
ORDER = msgspec.json.Decoder(OrderRequest)
AMEND = msgspec.json.Decoder(AmendRequest)
REDEEM = msgspec.json.Decoder(RedeemRequest)
CANCEL = msgspec.json.Decoder(CancelRequest)
ADDRESS = msgspec.json.Decoder(Address)
