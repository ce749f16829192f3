"""The desks: where vendors keep their products and propose sales, and where operators judge what was proposed."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from onsale.auth.errors import Flaw, InvalidRequest
from onsale.auth.identity import Identity
from onsale.auth.requests import form_fields
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
from onsale.catalog.product_schemas import ProductPatch, ProductRequest, StockRequest, VendorRequest
from onsale.catalog.proposal_handlers import PROPOSALS, let_sell, make_sale, proposals_of
from onsale.catalog.proposal_schemas import RefusalRequest
from onsale.catalog.salefile import SaleFile
from onsale.catalog.vendors import OPERATORS, Vendor
from onsale.server.pages.access import (
    converted,
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
)
from onsale.server.pages.rendering import OPERATORS as JUDGES
from onsale.server.pages.rendering import SELLERS, render

PRODUCTS_A_PAGE, PROPOSALS_A_PAGE = 50, 20
# How a vendor's sale lets people in at first; operators change it live.
ADMISSION = {"rate_per_second": 10.0, "active_max": 200}
# Where a day and an hour without a zone may be meant; a page without scripts does not know its reader's.
ZONES = {"seoul": "+09:00", "utc": "Z"}


@page
async def show_desk(request: web.Request) -> web.Response:
    """One's own products and proposals; of operators, everyone's."""
    who = reader(request, *SELLERS)
    vendor = await _vendor(request, who)
    if vendor is None and who.role not in OPERATORS:
        return render(request, "desk_vendor.html")
    asked = filled(request, cursor=PRODUCT_FILTERS["cursor"])
    limits = {"limit": PRODUCTS_A_PAGE} | ({} if vendor is None else {"vendor": vendor.id})
    products = await find_products(request, asked | limits)
    proposals = await proposals_of(request, who, None, PROPOSALS_A_PAGE)
    return render(
        request,
        "desk.html",
        vendor=vendor,
        products=[plain(product) for product in products.items],
        next_cursor=products.next_cursor,
        proposals=[plain(proposal) for proposal in proposals.items],
        zones=list(ZONES),
    )


@form("/desk")
async def become_vendor(request: web.Request) -> web.Response:
    """Sell here under a name."""
    who = reader(request, *SELLERS)
    fields = await form_fields(request)
    new = converted({"name": fields.get("name"), "about": fields.get("about", "")}, VendorRequest)
    await request.app[VENDORS].create(who.account, new.name, new.about)
    return onward("/desk")


@form("/desk")
async def offer(request: web.Request) -> web.Response:
    """A new product with its first units."""
    who = reader(request, *SELLERS)
    fields = await form_fields(request)
    new = converted(_described(fields) | {"stock": fields.get("stock")}, ProductRequest)
    product = new_product(new, await vendor_for(request, who, None))
    made = await request.app[PRODUCTS].create(product, new.stock)
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


@form("/desk/products/{product}")
async def edit(request: web.Request) -> web.Response:
    """Another title, description, picture or price; sold no more, or again."""
    who = reader(request, *SELLERS)
    fields = await form_fields(request)
    patch = converted(_described(fields) | {"discontinued": "discontinued" in fields}, ProductPatch)
    await request.app[PRODUCTS].edit(request.match_info["product"], who, changes_of(patch))
    return onward(named(request, "/desk/products/{product}"))


@form("/desk/products/{product}")
async def change_stock(request: web.Request) -> web.Response:
    """Units in, or free ones out; once a form."""
    who = reader(request, *SELLERS)
    fields = await form_fields(request)
    change = converted({"quantity": fields.get("quantity")}, StockRequest)
    if change.quantity == 0:
        raise InvalidRequest(Flaw("#/quantity", "out_of_range", "must not be zero"))
    product = request.match_info["product"]
    await request.app[PRODUCTS].require_edits(product, who)
    move = move_id(who.account, request.path, form_key(fields))
    await request.app[SHOP_STOCK].change(move, product, change.quantity)
    return onward(named(request, "/desk/products/{product}"))


@form("/desk")
async def propose(request: web.Request) -> web.Response:
    """A sale of one product: a vendor's is judged first, an operator's is approved."""
    who = reader(request, *SELLERS)
    fields = await form_fields(request)
    product = await request.app[PRODUCTS].get(fields.get("product", ""))
    wanted = {
        "sale": {
            "title": fields.get("title"),
            "opens_at": _moment(fields, "opens_at"),
            "closes_at": _moment(fields, "closes_at"),
            "limit_per_buyer": fields.get("limit_per_buyer"),
        },
        "admission": ADMISSION,
        "items": [
            {
                "product": product.product,
                "title": product.title,
                "stock": fields.get("stock"),
                "price": {"amount": fields.get("amount"), "currency": product.currency},
                "list_price": {"amount": product.amount, "currency": product.currency},
            }
        ],
    }
    await make_sale(request, who, converted(wanted, SaleFile))
    return onward("/desk")


@page
async def show_approvals(request: web.Request) -> web.Response:
    """What vendors proposed, the newest first."""
    who = reader(request, *JUDGES)
    asked = filled(request, cursor=sale_cursor)
    found = await proposals_of(request, who, asked.get("cursor"), PROPOSALS_A_PAGE)
    return render(
        request, "approvals.html", proposals=[plain(one) for one in found.items], next_cursor=found.next_cursor
    )


@form("/approvals")
async def approve(request: web.Request) -> web.Response:
    """Let an item be sold when the sale's time comes."""
    reader(request, *JUDGES)
    await let_sell(request, request.match_info["sale"], request.match_info["product"])
    return onward("/approvals")


@form("/approvals")
async def refuse(request: web.Request) -> web.Response:
    """Refuse an item, and say why; its units are the product's again."""
    reader(request, *JUDGES)
    why = converted({"reason": (await form_fields(request)).get("reason") or None}, RefusalRequest).reason
    await request.app[PROPOSALS].refuse(request.match_info["sale"], request.match_info["product"], why)
    return onward("/approvals")


async def _vendor(request: web.Request, who: Identity) -> Vendor | None:
    try:
        return None if who.role in OPERATORS else await request.app[VENDORS].of(who.account)
    except VendorMissing:
        return None


def _described(fields: dict[str, str]) -> dict[str, Any]:
    return {
        "title": fields.get("title"),
        "about": fields.get("about", ""),
        "image": fields.get("image") or None,
        "price": {"amount": fields.get("amount"), "currency": fields.get("currency")},
    }


def _moment(fields: dict[str, str], name: str) -> str:
    """A day and an hour as browsers send them, in the zone that was chosen."""
    return fields.get(name, "") + ZONES.get(fields.get("zone", ""), "Z")


ROUTES = (
    html("GET", "/desk", show_desk, "desk_page", "A seller's desk."),
    html("POST", "/desk/vendor", become_vendor, "become_vendor_form", "Become a vendor from the desk."),
    html("POST", "/desk/products", offer, "offer_form", "Offer a product from the desk."),
    html("GET", "/desk/products/{product}", show_own, "desk_product_page", "One of one's own products."),
    html("POST", "/desk/products/{product}", edit, "edit_product_form", "Change a product from the desk."),
    html("POST", "/desk/products/{product}/stock", change_stock, "stock_form", "Move units from the desk."),
    html("POST", "/desk/sales", propose, "propose_form", "Propose a sale from the desk."),
    html("GET", "/approvals", show_approvals, "approvals_page", "What vendors proposed."),
    html("POST", "/approvals/{sale}/{product}/approval", approve, "approve_form", "Approve an item from the desk."),
    html("POST", "/approvals/{sale}/{product}/refusal", refuse, "refuse_form", "Refuse an item from the desk."),
)
