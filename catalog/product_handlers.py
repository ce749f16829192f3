"""Vendors and products over HTTP: decode, one call, encode."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from onsale.auth.errors import Flaw, InvalidRequest
from onsale.auth.identifiers import from_text
from onsale.auth.identity import Identity
from onsale.auth.middleware import require
from onsale.auth.requests import (
    PAGE_LIMIT_DEFAULT,
    body,
    idempotency_key,
    page_limit,
    query,
    reply,
    require_no_query,
    whole,
)
from onsale.auth.roles import OPERATORS, SELLERS
from onsale.catalog.discounts import DiscountItem, DiscountPlan, Discounts
from onsale.catalog.errors import ProductUnknown
from onsale.catalog.handlers import BOOK
from onsale.catalog.moves import Move, ShopStock, move_id
from onsale.catalog.offers import Offers
from onsale.catalog.product_schemas import (
    DiscountItemRequest,
    DiscountList,
    DiscountPatch,
    DiscountRequest,
    MoveReply,
    ProductList,
    ProductPatch,
    ProductReply,
    ProductRequest,
    RecommendationList,
    RecommendedReply,
    StockRequest,
    VendorList,
    VendorPatch,
    VendorRequest,
    discount_reply,
    product_reply,
    vendor_reply,
)
from onsale.catalog.products import Asked, Product, Products
from onsale.catalog.recommendations import Recommendations
from onsale.catalog.salefile import moment_ms, slug, visit_day
from onsale.catalog.sales import SaleBook
from onsale.catalog.search import SCORE_MIN, Search
from onsale.catalog.states import ProductKind, ProductState
from onsale.catalog.vendors import Vendors

VENDORS = web.AppKey("vendors", Vendors)
PRODUCTS = web.AppKey("products", Products)
SEARCH = web.AppKey("search", Search)
RECOMMENDATIONS = web.AppKey("recommendations", Recommendations)
OFFERS = web.AppKey("offers", Offers)
DISCOUNTS = web.AppKey("discounts", Discounts)
SHOP_STOCK = web.AppKey("shop_stock", ShopStock)

SEARCH_MAX = 100
CURSOR_MAX = 999_999_999
AMOUNT_MAX = 2**53 - 1
NEW_VENDOR = msgspec.json.Decoder(VendorRequest)
VENDOR_PATCH = msgspec.json.Decoder(VendorPatch)
NEW_PRODUCT = msgspec.json.Decoder(ProductRequest)
PRODUCT_PATCH = msgspec.json.Decoder(ProductPatch)
NEW_DISCOUNT = msgspec.json.Decoder(DiscountRequest)
DISCOUNT_PATCH = msgspec.json.Decoder(DiscountPatch)
STOCK_CHANGE = msgspec.json.Decoder(StockRequest)


async def list_vendors(request: web.Request) -> web.Response:
    """GET /v1/vendors"""
    asked = query(request, limit=page_limit, cursor=_id_cursor)
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    found = await request.app[VENDORS].page(asked.get("cursor"), limit + 1)
    page = [vendor_reply(vendor) for vendor in found[:limit]]
    return reply(200, VendorList(page, page[-1].vendor if len(found) > limit else None))


async def create_vendor(request: web.Request) -> web.Response:
    """POST /v1/vendors"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    new = await body(request, NEW_VENDOR)
    vendor = await request.app[VENDORS].create(_account_for(who, new), new.name, new.about)
    return reply(201, vendor_reply(vendor), {"Location": f"/v1/vendors/{vendor.id}"})


async def show_vendor(request: web.Request) -> web.Response:
    """GET /v1/vendors/{vendor}"""
    require_no_query(request)
    return reply(200, vendor_reply(await request.app[VENDORS].get(request.match_info["vendor"])))


async def edit_vendor(request: web.Request) -> web.Response:
    """PATCH /v1/vendors/{vendor}"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    patch = await body(request, VENDOR_PATCH)
    name, about = _given(patch.name), _given(patch.about)
    return reply(200, vendor_reply(await request.app[VENDORS].edit(request.match_info["vendor"], who, name, about)))


async def delete_vendor(request: web.Request) -> web.Response:
    """DELETE /v1/vendors/{vendor}"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    await request.app[VENDORS].delete(request.match_info["vendor"], who)
    return web.Response(status=204)


async def list_products(request: web.Request) -> web.Response:
    """GET /v1/products"""
    return reply(200, await find_products(request, query(request, **PRODUCT_FILTERS)))


async def find_products(request: web.Request, asked: Mapping[str, Any]) -> ProductList:
    """The page of products that values of PRODUCT_FILTERS ask for, as anyone sees them. Raises InvalidRequest."""
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    score, no = asked.get("cursor", (None, None))
    if (score is None) != ("q" not in asked) and "cursor" in asked:
        raise InvalidRequest(Flaw("?cursor", "bad_value", "This cursor is of another list."))
    wanted = Asked(
        limit=limit + 1,
        after=no,
        state=asked.get("state"),
        vendor=asked.get("vendor"),
        price_min=asked.get("price_min"),
        price_max=asked.get("price_max"),
        on_sale=sorted(products_on_sale(request.app[BOOK], _now_ms())),
    )
    if "q" in asked:
        return await _search(request, asked["q"], wanted, None if score is None else (score, no))
    found = await request.app[PRODUCTS].page(wanted)
    page = await shown_all(request, found[:limit])
    return ProductList(page, str(found[limit - 1].no) if len(found) > limit else None)


async def _search(request: web.Request, text: str, wanted: Asked, after: tuple[int, int] | None) -> ProductList:
    found = await request.app[SEARCH].find(text, wanted, after)
    limit = wanted.limit - 1
    page = await shown_all(request, [one.product for one in found[:limit]])
    last = found[limit - 1] if len(found) > limit else None
    return ProductList(page, None if last is None else f"{last.score}-{last.product.no}")


async def create_product(request: web.Request) -> web.Response:
    """POST /v1/products"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    new = await body(request, NEW_PRODUCT)
    product = new_product(new, await vendor_for(request, who, new.vendor))
    made = await request.app[PRODUCTS].create(product, new.stock)
    return reply(201, await shown(request, made), {"Location": f"/v1/products/{made.product}"})


async def show_product(request: web.Request) -> web.Response:
    """GET /v1/products/{product}"""
    require_no_query(request)
    return reply(200, await shown(request, await request.app[PRODUCTS].get(request.match_info["product"])))


async def list_recommendations(request: web.Request) -> web.Response:
    """GET /v1/products/{product}/recommendations"""
    require_no_query(request)
    product = await request.app[PRODUCTS].get(request.match_info["product"])
    return reply(200, RecommendationList(await recommended(request, product.product)))


async def edit_product(request: web.Request) -> web.Response:
    """PATCH /v1/products/{product}"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    changes = changes_of(await body(request, PRODUCT_PATCH))
    product = await request.app[PRODUCTS].edit(request.match_info["product"], who, changes)
    return reply(200, await shown(request, product))


async def delete_product(request: web.Request) -> web.Response:
    """DELETE /v1/products/{product}"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    await request.app[PRODUCTS].delete(request.match_info["product"], who)
    return web.Response(status=204)


async def list_discounts(request: web.Request) -> web.Response:
    """GET /v1/discounts"""
    asked = query(request, limit=page_limit, cursor=_id_cursor)
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    found = await request.app[DISCOUNTS].page(asked.get("cursor"), limit + 1)
    page = [discount_reply(discount) for discount in found[:limit]]
    return reply(200, DiscountList(page, page[-1].discount if len(found) > limit else None))


async def create_discount(request: web.Request) -> web.Response:
    """POST /v1/discounts"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    new = await body(request, NEW_DISCOUNT)
    starts_at_ms, ends_at_ms = _window(new.starts_at, new.ends_at)
    made = await request.app[DISCOUNTS].create(who, new.title, starts_at_ms, ends_at_ms, _items(new.items))
    return reply(201, discount_reply(made), {"Location": f"/v1/discounts/{made.id}"})


async def show_discount(request: web.Request) -> web.Response:
    """GET /v1/discounts/{discount}"""
    require_no_query(request)
    return reply(200, discount_reply(await request.app[DISCOUNTS].get(request.match_info["discount"])))


async def edit_discount(request: web.Request) -> web.Response:
    """PATCH /v1/discounts/{discount}"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    patch = await body(request, DISCOUNT_PATCH)
    starts_at_ms, ends_at_ms = _window(_given(patch.starts_at), _given(patch.ends_at))
    items = None if isinstance(patch.items, UnsetType) else _items(patch.items)
    plan = DiscountPlan(_given(patch.title), starts_at_ms, ends_at_ms, items)
    return reply(200, discount_reply(await request.app[DISCOUNTS].edit(request.match_info["discount"], who, plan)))


async def delete_discount(request: web.Request) -> web.Response:
    """DELETE /v1/discounts/{discount}"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    await request.app[DISCOUNTS].delete(request.match_info["discount"], who)
    return web.Response(status=204)


async def change_stock(request: web.Request) -> web.Response:
    """POST /v1/products/{product}/stock"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    key = idempotency_key(request)
    change = await body(request, STOCK_CHANGE)
    if change.quantity == 0:
        raise InvalidRequest(Flaw("#/quantity", "out_of_range", "must not be zero"))
    product = request.match_info["product"]
    await request.app[PRODUCTS].require_edits(product, who)
    move = move_id(who.account, request.path, key)
    return move_reply(await request.app[SHOP_STOCK].change(move, product, change.quantity))


def move_reply(move: Move) -> web.Response:
    """200 when a move is done, 202 while it is on its way."""
    return reply(200 if move.is_done else 202, MoveReply(move.id, move.product, move.quantity, move.is_done))


def products_on_sale(book: SaleBook, now_ms: int) -> frozenset[str]:
    """Every product that an open sale has at this moment."""
    return frozenset(item.product for sale in book.all() if sale.is_selling(now_ms) for item in sale.items)


async def shown(request: web.Request, product: Product) -> ProductReply:
    """A product as anyone sees it now. Raises ProductUnknown."""
    found = await shown_all(request, [product])
    if not found:
        raise ProductUnknown
    return found[0]


async def shown_all(request: web.Request, products: Sequence[Product]) -> list[ProductReply]:
    """Products as anyone sees them now; those deleted meanwhile left out."""
    on_sale = products_on_sale(request.app[BOOK], _now_ms())
    offers = await request.app[OFFERS].now([product.product for product in products])
    return [
        product_reply(product, offers[product.product], is_on_sale=product.product in on_sale)
        for product in products
        if product.product in offers
    ]


async def recommended(request: web.Request, product: str) -> list[RecommendedReply]:
    """What to show beside a product, as anyone sees it now."""
    on_sale = sorted(products_on_sale(request.app[BOOK], _now_ms()))
    found = await request.app[RECOMMENDATIONS].of(product, on_sale)
    reasons = {one.product.product: one.reason for one in found}
    return [
        RecommendedReply(**msgspec.structs.asdict(seen), reason=reasons[seen.product])
        for seen in await shown_all(request, [one.product for one in found])
    ]


def _account_for(who: Identity, new: VendorRequest) -> str:
    if new.account is None or new.account == who.account:
        return who.account
    if who.role not in OPERATORS:
        raise InvalidRequest(Flaw("#/account", "bad_value", "A vendor is made for oneself."))
    return new.account


async def vendor_for(request: web.Request, who: Identity, vendor: str | None) -> str | None:
    """Whose a new product is: a vendor's own, or whom an operator names."""
    if who.role in OPERATORS:
        return None if vendor is None else (await request.app[VENDORS].get(vendor)).id
    own = (await request.app[VENDORS].of(who.account)).id
    if vendor not in (None, own):
        raise InvalidRequest(Flaw("#/vendor", "bad_value", "A vendor sells its own products."))
    return own


def new_product(new: ProductRequest, vendor: str | None) -> Product:
    """What shall be written down. Raises InvalidRequest."""
    available_from_ms, available_until_ms = _moments(new.available_from, new.available_until)
    visit_on = None if new.visit_on is None else _visit_day(new.kind, new.visit_on)
    return Product(
        product=new.product or slug(new.title, "product"),
        no=0,
        vendor=vendor,
        title=new.title,
        about=new.about,
        image=new.image,
        amount=new.price.amount,
        currency=new.price.currency,
        available_from_ms=available_from_ms,
        available_until_ms=available_until_ms,
        kind=new.kind,
        visit_on=visit_on,
    )


def _visit_day(kind: ProductKind, text: str) -> date:
    """Raises InvalidRequest."""
    if kind is not ProductKind.ENTRY:
        raise InvalidRequest(Flaw("#/visit_on", "bad_value", "Only an entry is for a day."))
    flaws: list[Flaw] = []
    day = visit_day(text, "#/visit_on", flaws)
    if day is None:
        raise InvalidRequest(*flaws)
    return day


def changes_of(patch: ProductPatch) -> Mapping[str, Any]:
    """What shall change, by the names of a product's fields. Raises InvalidRequest."""
    available_from_ms, available_until_ms = _moments(_given(patch.available_from), _given(patch.available_until))
    fields: dict[str, tuple[object, Any]] = {
        "title": (patch.title, patch.title),
        "about": (patch.about, patch.about),
        "image": (patch.image, patch.image),
        "amount": (patch.price, getattr(patch.price, "amount", None)),
        "currency": (patch.price, getattr(patch.price, "currency", None)),
        "available_from_ms": (patch.available_from, available_from_ms),
        "available_until_ms": (patch.available_until, available_until_ms),
        "is_discontinued": (patch.discontinued, patch.discontinued),
    }
    return {name: value for name, (given, value) in fields.items() if given is not UNSET}


def _moments(available_from: str | None, available_until: str | None) -> tuple[int, int]:
    flaws: list[Flaw] = []
    from_ms = moment_ms(available_from, "#/available_from", flaws) if available_from is not None else 0
    until_ms = moment_ms(available_until, "#/available_until", flaws) if available_until is not None else 0
    if not flaws and from_ms and until_ms and until_ms <= from_ms:
        flaws.append(Flaw("#/available_until", "out_of_range", "must be after available_from"))
    if flaws:
        raise InvalidRequest(*flaws)
    return from_ms or 0, until_ms or 0


def _window(starts_at: str | None, ends_at: str | None) -> tuple[Any, Any]:
    flaws: list[Flaw] = []
    starts_at_ms = None if starts_at is None else moment_ms(starts_at, "#/starts_at", flaws)
    ends_at_ms = None if ends_at is None else moment_ms(ends_at, "#/ends_at", flaws)
    if flaws:
        raise InvalidRequest(*flaws)
    return starts_at_ms, ends_at_ms


def _items(items: tuple[DiscountItemRequest, ...]) -> tuple[DiscountItem, ...]:
    return tuple(DiscountItem(item.product, item.percent) for item in items)


def _given(value: Any | UnsetType) -> Any:
    return None if value is UNSET else value


def product_cursor(text: str) -> int:
    """The number that ended the page before."""
    return whole(text, 1, CURSOR_MAX)


def _list_cursor(text: str) -> tuple[int | None, int]:
    score, dash, no = text.rpartition("-")
    return (whole(score, SCORE_MIN, 1000) if dash else None), product_cursor(no)


def _text(text: str) -> str:
    if not 1 <= len(text) <= SEARCH_MAX:
        raise ValueError("1 to 100 characters")
    return text


def _amount(text: str) -> int:
    return whole(text, 0, AMOUNT_MAX)


def _id_cursor(text: str) -> str:
    from_text(text, 16)
    return text


# What a list of products can be asked for, and how each is read.
PRODUCT_FILTERS: Mapping[str, Callable[[str], Any]] = {
    "limit": page_limit,
    "cursor": _list_cursor,
    "q": _text,
    "state": ProductState,
    "vendor": str,
    "price_min": _amount,
    "price_max": _amount,
}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
