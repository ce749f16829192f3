"""Wish lists and carts as they come in and go out over HTTP."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from onsale.auth.requests import rfc3339
from onsale.catalog.lists import CartItem
from onsale.catalog.offers import Offer
from onsale.catalog.product_schemas import DiscountShown, ProductReply, discount_shown
from onsale.catalog.salefile import Money


class WishList(msgspec.Struct, frozen=True):
    """A page of wishes, newest first."""

    items: list[ProductReply]
    next_cursor: str | None


class QuantityRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many units."""

    quantity: Annotated[int, Meta(ge=1, le=1000)]


class CartItemReply(msgspec.Struct, frozen=True, kw_only=True):
    """One item as it would be bought now: `available` says whether it is sold at all, `free` how many there are (null:
    not known now)."""

    product: str
    title: str
    quantity: int
    unit_price: Money
    list_price: Money
    discount: DiscountShown | None
    total: Money
    available: bool
    free: int | None
    expires_at: str


class CartReply(msgspec.Struct, frozen=True):
    """A cart at the prices of this moment; `totals` has the sum of what is available, one for each currency."""

    items: tuple[CartItemReply, ...]
    totals: tuple[Money, ...]


def cart_reply(items: Sequence[CartItem], offers: Mapping[str, Offer], free: Mapping[str, int | None]) -> CartReply:
    """The cart as it would be bought now; what is no product any more is left out."""
    shown = tuple(_item(item, offers[item.product], free) for item in items if item.product in offers)
    sums: dict[str, int] = defaultdict(int)
    for item in shown:
        if item.available:
            sums[item.total.currency] += item.total.amount
    return CartReply(shown, tuple(Money(amount, currency) for currency, amount in sorted(sums.items())))


def _item(item: CartItem, offer: Offer, free: Mapping[str, int | None]) -> CartItemReply:
    return CartItemReply(
        product=item.product,
        title=offer.title,
        quantity=item.quantity,
        unit_price=Money(offer.amount, offer.currency),
        list_price=Money(offer.list_amount, offer.currency),
        discount=discount_shown(offer),
        total=Money(offer.amount * item.quantity, offer.currency),
        available=offer.is_available,
        free=free.get(item.product),
        expires_at=rfc3339(item.ends_at_ms),
    )
