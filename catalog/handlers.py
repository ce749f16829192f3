"""The catalogue over HTTP: decode, one call, encode."""

from __future__ import annotations

import time

from aiohttp import web

from onsale.auth.requests import PAGE_LIMIT_DEFAULT, page_limit, query, reply, whole
from onsale.catalog.errors import SaleUnknown
from onsale.catalog.sales import Sale, SaleBook
from onsale.catalog.schemas import SaleList, sale_reply
from onsale.catalog.states import SaleState

BOOK = web.AppKey("book", SaleBook)

# Sales have numbers of four bytes.
CURSOR_MAX = 2**31 - 1


async def list_sales(request: web.Request) -> web.Response:
    """Sales, newest first, by keyset of their number."""
    asked = query(request, state=SaleState, limit=page_limit, cursor=sale_cursor)
    now_ms = _now_ms()
    before = asked.get("cursor")
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    state = asked.get("state")
    found = [sale for sale in reversed(request.app[BOOK].approved()) if _is_asked(sale, before, state, now_ms)]
    page = found[:limit]
    cursor = str(page[-1].no) if len(found) > limit else None
    return reply(200, SaleList([sale_reply(sale, now_ms) for sale in page], cursor))


async def show_sale(request: web.Request) -> web.Response:
    """One sale that is approved."""
    query(request)
    sale = request.app[BOOK].get(request.match_info["sale"])
    if not sale.is_approved:
        raise SaleUnknown
    return reply(200, sale_reply(sale, _now_ms()))


def sale_cursor(text: str) -> int:
    """The number of the sale that ended the page before."""
    return whole(text, 1, CURSOR_MAX)


def _is_asked(sale: Sale, before: int | None, state: SaleState | None, now_ms: int) -> bool:
    return (before is None or sale.no < before) and (state is None or sale.state(now_ms) is state)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
