"""The shop's front: every sale and every product, looked for by name and price; and signing in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from onsale.auth.handlers import open_session
from onsale.auth.middleware import COOKIES, SESSIONS
from onsale.auth.requests import form_fields
from onsale.catalog.grams import grams
from onsale.catalog.handlers import BOOK
from onsale.catalog.product_handlers import PRODUCT_FILTERS, find_products
from onsale.catalog.sales import Sale
from onsale.catalog.schemas import sale_reply
from onsale.catalog.search import likeness
from onsale.server.pages.access import filled, form, html, onward, own_path, page, plain
from onsale.server.pages.lines import line_document, now_ms
from onsale.server.pages.rendering import READER, render

PRODUCTS_A_PAGE = 24
SEARCHED = ("q", "price_min", "price_max", "cursor")


@page
async def show_shop(request: web.Request) -> web.Response:
    """Sales and products, the newest first; those that were looked for, the best first."""
    asked = filled(request, **{name: PRODUCT_FILTERS[name] for name in SEARCHED})
    at_ms = now_ms()
    # Sales stand before the first page of products, and are all there.
    sales = [] if "cursor" in asked else _found(list(reversed(request.app[BOOK].approved())), asked)
    products = await find_products(request, {**asked, "limit": PRODUCTS_A_PAGE})
    return render(
        request,
        "shop.html",
        sales=[plain(sale_reply(sale, at_ms)) for sale in sales],
        lines={sale.id: line_document(request, sale) for sale in sales},
        products=[plain(product) for product in products.items],
        next_cursor=products.next_cursor,
        asked=asked,
        is_search=bool(asked.keys() - {"cursor"}),
        more=urlencode({name: value for name, value in asked.items() if name != "cursor"}),
    )


@page
async def show_sign_in(request: web.Request) -> web.Response:
    """Where to sign in, and where to go then."""
    return render(request, "signin.html", next=own_path(request.query.get("next", "/")))


@form("/signin")
async def sign_in(request: web.Request) -> web.Response:
    """A session in cookies."""
    fields = await form_fields(request)
    grant = await open_session(request, fields.get("email", ""), fields.get("password", ""), "browser")
    answer = onward(own_path(fields.get("next", "/")))
    request.app[COOKIES].write(answer, grant)
    return answer


@form("/")
async def sign_out(request: web.Request) -> web.Response:
    """End this browser's session."""
    answer, found = onward("/"), request[READER]
    if found is not None:
        await request.app[SESSIONS].sign_out(found.account, found.session)
    request.app[COOKIES].clear(answer)
    return answer


def _found(sales: Sequence[Sale], asked: Mapping[str, Any]) -> list[Sale]:
    """Those with an item of such a price whose title, or the sale's own, is like what was asked for."""
    wanted = grams(asked.get("q", ""))
    least, most = asked.get("price_min", 0), asked.get("price_max")
    return [
        sale
        for sale in sales
        if any(least <= item.amount and (most is None or item.amount <= most) for item in sale.items)
        and ("q" not in asked or any(likeness(wanted, title) for title in (sale.title, *_titles(sale))))
    ]


def _titles(sale: Sale) -> list[str]:
    return [item.title for item in sale.items]


ROUTES = (
    html("GET", "/", show_shop, "shop_page", "The shop."),
    html("GET", "/signin", show_sign_in, "sign_in_page", "Sign in."),
    html("POST", "/signin", sign_in, "sign_in_form", "Sign in from the page."),
    html("POST", "/signout", sign_out, "sign_out_form", "Sign out from the page."),
)
