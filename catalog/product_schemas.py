"""Vendors and products as they come in and go out over HTTP."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from onsale.auth.requests import rfc3339
from onsale.catalog.discounts import Discount, DiscountItem
from onsale.catalog.offers import Offer
from onsale.catalog.products import Product
from onsale.catalog.salefile import Money, Slug, Title
from onsale.catalog.states import ProductKind, ProductState, Reason
from onsale.catalog.vendors import Vendor

Name = Annotated[str, Meta(min_length=1, max_length=100)]
VendorAbout = Annotated[str, Meta(max_length=2000)]
ProductAbout = Annotated[str, Meta(max_length=4000)]
# A path on the shop's own site or its image host; never another site's address, never one that climbs.
Image = Annotated[str, Meta(pattern=r"^/(?!/)(?!.*\.\.)[A-Za-z0-9._~/-]{1,299}$(?!\n)", description="a path")]
Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Units = Annotated[int, Meta(ge=0, le=100_000_000)]
# In or out, and not nothing.
Change = Annotated[int, Meta(ge=-100_000_000, le=100_000_000)]


class VendorRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new vendor. Operators name the account that it is for."""

    name: Name
    about: VendorAbout = ""
    account: Annotated[str, Meta(min_length=1, max_length=40)] | None = None


class VendorPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What shall change."""

    name: Name | UnsetType = UNSET
    about: VendorAbout | UnsetType = UNSET


class VendorReply(msgspec.Struct, frozen=True):
    """A vendor as anyone sees it."""

    vendor: str
    name: str
    about: str
    created_at: str


class VendorList(msgspec.Struct, frozen=True):
    """A page of vendors, newest first."""

    items: list[VendorReply]
    next_cursor: str | None


class ProductRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new product with its first units. Operators may name the vendor it is for; without one it is the house's.
    An entry with a `visit_on` is sold until that day (UTC) is over, one without is good on any day."""

    product: Slug | None = None
    title: Title
    about: ProductAbout = ""
    price: Money
    stock: Units = 0
    image: Image | None = None
    available_from: Moment | None = None
    available_until: Moment | None = None
    vendor: Annotated[str, Meta(min_length=1, max_length=40)] | None = None
    kind: ProductKind = ProductKind.GOODS
    visit_on: Annotated[str, Meta(extra_json_schema={"format": "date"})] | None = None


class ProductPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What shall change; null takes away. Units are moved by calls of their own."""

    title: Title | UnsetType = UNSET
    about: ProductAbout | UnsetType = UNSET
    price: Money | UnsetType = UNSET
    image: Image | UnsetType | None = UNSET
    available_from: Moment | UnsetType | None = UNSET
    available_until: Moment | UnsetType | None = UNSET
    discontinued: bool | UnsetType = UNSET


class DiscountShown(msgspec.Struct, frozen=True):
    """The event that makes a product cheaper now."""

    discount: str
    title: str
    percent: int


class ProductReply(msgspec.Struct, frozen=True, kw_only=True):
    """A product as anyone sees it. `price` is what it costs now, outside sales: its list price less `saving`, by the
    `discount` that is on."""

    product: str
    vendor: str | None
    title: str
    about: str
    price: Money
    list_price: Money
    saving: Money
    discount: DiscountShown | None
    image: str | None
    state: ProductState
    available_from: str | None
    available_until: str | None
    created_at: str
    kind: ProductKind = ProductKind.GOODS
    visit_on: str | None = None


class ProductList(msgspec.Struct, frozen=True):
    """A page of products, newest first."""

    items: list[ProductReply]
    next_cursor: str | None


class RecommendedReply(ProductReply, frozen=True, kw_only=True):
    """A product to look at next, and why."""

    reason: Reason


class RecommendationList(msgspec.Struct, frozen=True):
    """What to show beside a product, the best first."""

    items: list[RecommendedReply]


class StockRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Units in (above zero) or out (below)."""

    quantity: Change


class MoveReply(msgspec.Struct, frozen=True):
    """A move of stock; `done` false: it is on its way, and repeating the request tells how it stands."""

    move: str
    product: str
    quantity: int
    done: bool


def vendor_reply(vendor: Vendor) -> VendorReply:
    """A vendor as anyone sees it."""
    return VendorReply(vendor.id, vendor.name, vendor.about, rfc3339(vendor.created_at_ms))


class DiscountItemRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many percent off one product."""

    product: Slug
    percent: Annotated[int, Meta(ge=1, le=100)]


DiscountItems = Annotated[tuple[DiscountItemRequest, ...], Meta(min_length=1, max_length=100)]


class DiscountRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new discount event: from its start on, and not at its end any more."""

    title: Title
    starts_at: Moment
    ends_at: Moment
    items: DiscountItems


class DiscountPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What shall change; items are replaced whole."""

    title: Title | UnsetType = UNSET
    starts_at: Moment | UnsetType = UNSET
    ends_at: Moment | UnsetType = UNSET
    items: DiscountItems | UnsetType = UNSET


class DiscountReply(msgspec.Struct, frozen=True):
    """A discount event; `on` says whether it is on now."""

    discount: str
    vendor: str | None
    title: str
    starts_at: str
    ends_at: str
    on: bool
    items: tuple[DiscountItem, ...]


class DiscountList(msgspec.Struct, frozen=True):
    """A page of discount events, newest first."""

    items: list[DiscountReply]
    next_cursor: str | None


def discount_reply(discount: Discount) -> DiscountReply:
    """An event as anyone sees it."""
    return DiscountReply(
        discount.id,
        discount.vendor,
        discount.title,
        rfc3339(discount.starts_at_ms),
        rfc3339(discount.ends_at_ms),
        discount.is_on,
        discount.items,
    )


def product_reply(product: Product, offer: Offer, *, is_on_sale: bool) -> ProductReply:
    """A product as anyone sees it now."""
    return ProductReply(
        product=product.product,
        vendor=product.vendor,
        title=product.title,
        about=product.about,
        price=Money(offer.amount, offer.currency),
        list_price=Money(offer.list_amount, offer.currency),
        saving=Money(offer.list_amount - offer.amount, offer.currency),
        discount=discount_shown(offer),
        image=product.image,
        state=product.state(is_on_sale=is_on_sale),
        available_from=_moment(product.available_from_ms),
        available_until=_moment(product.available_until_ms),
        created_at=rfc3339(product.created_at_ms),
        kind=product.kind,
        visit_on=None if product.visit_on is None else product.visit_on.isoformat(),
    )


def discount_shown(offer: Offer) -> DiscountShown | None:
    """The event behind a price."""
    if offer.discount is None or offer.discount_title is None:
        return None
    return DiscountShown(offer.discount, offer.discount_title, offer.percent)


def _moment(at_ms: int) -> str | None:
    return rfc3339(at_ms) if at_ms else None
