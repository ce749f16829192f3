"""The shop's front: every sale and every product, looked for by name and price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from onsale.catalog.grams import grams
from onsale.catalog.handlers import BOOK
from onsale.catalog.product_handlers import PRODUCT_FILTERS, find_products
from onsale.catalog.sales import Sale
from onsale.catalog.schemas import sale_reply
from onsale.catalog.search import likeness
from onsale.server.pages.access import filled, html, page, plain
from onsale.server.pages.lines import line_document, now_ms
from onsale.server.pages.rendering import render

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


ROUTES = (html("GET", "/", show_shop, "shop_page", "The shop."),)
