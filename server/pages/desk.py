"""The desks: where vendors keep their products and propose sales, and where operators judge what was proposed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, Literal

from aiohttp import web
from msgspec import Meta, Struct

from onsale.auth.errors import Flaw, InvalidRequest
from onsale.auth.identity import Identity
from onsale.auth.requests import form_fields
from onsale.auth.roles import OPERATORS, SELLERS
from onsale.catalog.errors import VendorMissing
from onsale.catalog.handlers import sale_cursor
from onsale.catalog.moves import move_id
from onsale.catalog.product_handlers import (
    PRODUCT_FILTERS,
    PRODUCTS,
    SHOP_STOCK,
    VENDORS,
    changes_of,
    find_products,
    new_product,
    shown,
    vendor_for,
)
from onsale.catalog.product_schemas import (
    Image,
    ProductAbout,
    ProductPatch,
    ProductRequest,
    StockRequest,
    Units,
    VendorRequest,
)
from onsale.catalog.proposal_handlers import PROPOSALS, let_sell, make_sale, proposals_of
from onsale.catalog.proposal_schemas import RefusalRequest
from onsale.catalog.salefile import Amount, Currency, Money, SaleFile, Slug, Title
from onsale.catalog.states import ProductKind
from onsale.catalog.vendors import Vendor
from onsale.server.pages.access import (
    converted,
    entered,
    filled,
    form,
    form_key,
    html,
    named,
    new_key,
    onward,
    page,
    plain,
    reader,
    typed,
)
from onsale.server.pages.rendering import render

PRODUCTS_A_PAGE, PROPOSALS_A_PAGE = 50, 20
Limit = Annotated[int, Meta(ge=1, le=1000)]
# How a vendor's sale lets people in at first; operators change it live.
ADMISSION = {"rate_per_second": 10.0, "active_max": 200}
# Where the form of a sale says what the sale's own document has there.
FIELDS = {
    "#/sale/opens_at": "#/opens_at",
    "#/sale/closes_at": "#/closes_at",
    "#/items/0/price/amount": "#/amount",
    "#/items/0/list_price/amount": "#/amount",
}
# Where a day and an hour without a zone may be meant; a page without scripts does not know its reader's.
ZONES = {"seoul": "+09:00", "utc": "Z"}


class Description(Struct, frozen=True):
    """What the form of a product says."""

    title: Title
    amount: Amount
    currency: Currency
    about: ProductAbout = ""
    image: Image | None = None


class Offer(Description, frozen=True, kw_only=True):
    """A new product, with its first units; what it is, it stays."""

    stock: Units
    kind: ProductKind = ProductKind.GOODS
    visit_on: str | None = None


class Proposal(Struct, frozen=True):
    """A sale of one product, at moments in one of our zones."""

    title: Title
    product: Slug
    amount: Amount
    stock: Units
    opens_at: str
    closes_at: str
    zone: Literal["seoul", "utc"]
    limit_per_buyer: Limit


@page
async def show_desk(request: web.Request) -> web.Response:
    """One's own products and proposals; of operators, everyone's."""
    who = reader(request, *SELLERS)
    vendor = await _vendor(request, who)
    if vendor is None and who.role not in OPERATORS:
        return render(request, "desk_vendor.html")
    asked = filled(request, cursor=PRODUCT_FILTERS["cursor"])
    products = await find_products(request, asked | _limits(vendor))
    proposals = await proposals_of(request, who, None, PROPOSALS_A_PAGE)
    return render(
        request,
        "desk.html",
        vendor=vendor,
        products=[plain(product) for product in products.items],
        next_cursor=products.next_cursor,
        proposals=[plain(proposal) for proposal in proposals.items],
        key=new_key(),
    )


@page
async def show_vendor(request: web.Request) -> web.Response:
    """Where selling begins."""
    reader(request, *SELLERS)
    return render(request, "desk_vendor.html")


@form("/desk/vendor", again=show_vendor)
async def become_vendor(request: web.Request) -> web.Response:
    """Sell here under a name."""
    who = reader(request, *SELLERS)
    new = entered(await typed(request), VendorRequest)
    await request.app[VENDORS].create(who.account, new.name, new.about)
    return onward("/desk")


@page
async def show_offer(request: web.Request) -> web.Response:
    """Where a product is offered."""
    reader(request, *SELLERS)
    return render(request, "desk_offer.html", filled={"currency": "KRW", "stock": "0"}, kinds=list(ProductKind))


@form("/desk/products", again=show_offer)
async def offer(request: web.Request) -> web.Response:
    """A new product with its first units."""
    who = reader(request, *SELLERS)
    asked = entered(await typed(request), Offer)
    new = ProductRequest(**_described(asked), stock=asked.stock, kind=asked.kind, visit_on=asked.visit_on)
    made = await request.app[PRODUCTS].create(new_product(new, await vendor_for(request, who, None)), new.stock)
    return onward(f"/desk/products/{made.product}")


@page
async def show_own(request: web.Request) -> web.Response:
    """One of one's own products, to be changed."""
    who = reader(request, *SELLERS)
    name = request.match_info["product"]
    await request.app[PRODUCTS].require_edits(name, who)
    product = await request.app[PRODUCTS].get(name)
    told = plain(await shown(request, product))
    return render(request, "desk_product.html", product=told, units=product.units_left, key=new_key())


@form("/desk/products/{product}", again=show_own)
async def edit(request: web.Request) -> web.Response:
    """Another title, description, picture or price; sold no more, or again."""
    who = reader(request, *SELLERS)
    fields = await typed(request)
    patch = ProductPatch(**_described(entered(fields, Description)), discontinued="discontinued" in fields)
    await request.app[PRODUCTS].edit(request.match_info["product"], who, changes_of(patch))
    return onward(named(request, "/desk/products/{product}?said=saved"))


@form("/desk/products/{product}/stock", again=show_own)
async def change_stock(request: web.Request) -> web.Response:
    """Units in, or free ones out; once a form."""
    who = reader(request, *SELLERS)
    fields = await typed(request)
    change = entered(fields, StockRequest)
    if change.quantity == 0:
        raise InvalidRequest(Flaw("#/quantity", "bad_value", "must not be zero"))
    product = request.match_info["product"]
    await request.app[PRODUCTS].require_edits(product, who)
    move = move_id(who.account, request.path, form_key(fields))
    await request.app[SHOP_STOCK].change(move, product, change.quantity)
    return onward(named(request, "/desk/products/{product}?said=saved"))


@page
async def show_proposal(request: web.Request) -> web.Response:
    """Where a sale is proposed."""
    who = reader(request, *SELLERS)
    products = await find_products(request, _limits(await _vendor(request, who)))
    return render(
        request,
        "desk_sale.html",
        filled={"limit_per_buyer": "1", "product": request.query.get("product", "")},
        products=[plain(product) for product in products.items],
        zones=list(ZONES),
    )


@form("/desk/sales", again=show_proposal)
async def propose(request: web.Request) -> web.Response:
    """A sale of one product: a vendor's is judged first, an operator's is approved."""
    who = reader(request, *SELLERS)
    asked = entered(await typed(request), Proposal)
    product = await request.app[PRODUCTS].get(asked.product)
    wanted = {
        "sale": {
            "title": asked.title,
            "opens_at": asked.opens_at + ZONES[asked.zone],
            "closes_at": asked.closes_at + ZONES[asked.zone],
            "limit_per_buyer": asked.limit_per_buyer,
        },
        "admission": ADMISSION,
        "items": [
            {
                "product": product.product,
                "title": product.title,
                "stock": asked.stock,
                "price": {"amount": asked.amount, "currency": product.currency},
                "list_price": {"amount": product.amount, "currency": product.currency},
            }
        ],
    }
    with _beside_fields():
        await make_sale(request, who, converted(wanted, SaleFile))
    return onward("/desk")


@form("/desk")
async def move_units(request: web.Request) -> web.Response:
    """Units of the product into a sale's item, or free ones back, also while the sale runs; once a form."""
    who = reader(request, *SELLERS)
    fields = await form_fields(request)
    quantity = entered(fields, StockRequest).quantity
    if quantity == 0:
        raise InvalidRequest(Flaw("#/quantity", "bad_value", "must not be zero"))
    sale, product = request.match_info["sale"], request.match_info["product"]
    move = move_id(who.account, request.path, form_key(fields))
    await request.app[PROPOSALS].move(move, sale, product, quantity, who)
    return onward("/desk?said=units_moved")


@page
async def show_approvals(request: web.Request) -> web.Response:
    """What vendors proposed, the newest first."""
    who = reader(request, *OPERATORS)
    asked = filled(request, cursor=sale_cursor)
    found = await proposals_of(request, who, asked.get("cursor"), PROPOSALS_A_PAGE)
    return render(
        request, "approvals.html", proposals=[plain(one) for one in found.items], next_cursor=found.next_cursor
    )


@form("/approvals")
async def approve(request: web.Request) -> web.Response:
    """Let an item be sold when the sale's time comes."""
    reader(request, *OPERATORS)
    await let_sell(request, request.match_info["sale"], request.match_info["product"])
    return onward("/approvals")


@form("/approvals")
async def refuse(request: web.Request) -> web.Response:
    """Refuse an item, and say why; its units are the product's again."""
    reader(request, *OPERATORS)
    why = converted({"reason": (await form_fields(request)).get("reason") or None}, RefusalRequest).reason
    await request.app[PROPOSALS].refuse(request.match_info["sale"], request.match_info["product"], why)
    return onward("/approvals")


async def _vendor(request: web.Request, who: Identity) -> Vendor | None:
    try:
        return None if who.role in OPERATORS else await request.app[VENDORS].of(who.account)
    except VendorMissing:
        return None


def _limits(vendor: Vendor | None) -> dict[str, Any]:
    return {"limit": PRODUCTS_A_PAGE} | ({} if vendor is None else {"vendor": vendor.id})


def _described(asked: Description) -> dict[str, Any]:
    return {
        "title": asked.title,
        "about": asked.about,
        "image": asked.image,
        "price": Money(asked.amount, asked.currency),
    }


@contextmanager
def _beside_fields() -> Iterator[None]:
    """What a sale will not take is said beside the field of the form that says it."""
    try:
        yield
    except InvalidRequest as refused:
        raise InvalidRequest(
            *(replace(flaw, pointer=FIELDS.get(flaw.pointer, flaw.pointer)) for flaw in refused.errors)
        ) from None


ROUTES = (
    html("GET", "/desk", show_desk, "desk_page", "A seller's desk."),
    html("GET", "/desk/vendor", show_vendor, "become_vendor_page", "Where selling begins."),
    html("POST", "/desk/vendor", become_vendor, "become_vendor_form", "Become a vendor from the desk."),
    html("GET", "/desk/products", show_offer, "offer_page", "Where a product is offered."),
    html("POST", "/desk/products", offer, "offer_form", "Offer a product from the desk."),
    html("GET", "/desk/products/{product}", show_own, "desk_product_page", "One of one's own products."),
    html("POST", "/desk/products/{product}", edit, "edit_product_form", "Change a product from the desk."),
    html("GET", "/desk/products/{product}/stock", show_own, "stock_page", "The same, after units were refused."),
    html("POST", "/desk/products/{product}/stock", change_stock, "stock_form", "Add units or take them out."),
    html("GET", "/desk/sales", show_proposal, "propose_page", "Where a sale is proposed."),
    html("POST", "/desk/sales", propose, "propose_form", "Propose a sale from the desk."),
    html("POST", "/desk/sales/{sale}/{product}/stock", move_units, "move_units_form", "Move units from the desk."),
    html("GET", "/approvals", show_approvals, "approvals_page", "What vendors proposed."),
    html("POST", "/approvals/{sale}/{product}/approval", approve, "approve_form", "Approve an item from the desk."),
    html("POST", "/approvals/{sale}/{product}/refusal", refuse, "refuse_form", "Refuse an item from the desk."),
)
