"""The catalogue over HTTP: decode, one call, encode."""

from __future__ import annotations

import time

import msgspec
from aiohttp import web

from onsale.auth.middleware import require
from onsale.auth.requests import PAGE_LIMIT_DEFAULT, body, page_limit, query, reply, require_no_query, whole
from onsale.auth.roles import Role
from onsale.catalog.salefile import SaleFile, new_sale
from onsale.catalog.sales import Sale, SaleBook
from onsale.catalog.schemas import SaleList, sale_reply
from onsale.catalog.states import SaleState

BOOK = web.AppKey("book", SaleBook)

# Sales have numbers of four bytes.
CURSOR_MAX = 2**31 - 1
NEW_SALE = msgspec.json.Decoder(SaleFile)


async def list_sales(request: web.Request) -> web.Response:
    """Sales, newest first, by keyset of their number."""
    asked = query(request, state=SaleState, limit=page_limit, cursor=_cursor)
    now_ms = _now_ms()
    before = asked.get("cursor")
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    state = asked.get("state")
    found = [sale for sale in reversed(request.app[BOOK].all()) if _is_asked(sale, before, state, now_ms)]
    page = found[:limit]
    cursor = str(page[-1].no) if len(found) > limit else None
    return reply(200, SaleList([sale_reply(sale, now_ms) for sale in page], cursor))


async def create_sale(request: web.Request) -> web.Response:
    """A manager's sale: approved, and open as soon as its clock says so."""
    identity = await require(request, Role.MANAGER, Role.MASTER)
    require_no_query(request)
    new = new_sale(await body(request, NEW_SALE))
    book = request.app[BOOK]
    sale = await book.create(new, identity.account)
    await book.until_served(sale.id)
    return reply(201, sale_reply(book.get(sale.id), _now_ms()), {"Location": f"/v1/sales/{sale.id}"})


async def show_sale(request: web.Request) -> web.Response:
    """One sale."""
    query(request)
    return reply(200, sale_reply(request.app[BOOK].get(request.match_info["sale"]), _now_ms()))


def _cursor(text: str) -> int:
    return whole(text, 1, CURSOR_MAX)


def _is_asked(sale: Sale, before: int | None, state: SaleState | None, now_ms: int) -> bool:
    return (before is None or sale.no < before) and (state is None or sale.state(now_ms) is state)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
