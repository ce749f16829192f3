"""What became of one's orders, newest first, as it is also told live."""

from __future__ import annotations

from aiohttp import web

from onsale.checkout.notice_handlers import BOOK
from onsale.checkout.notices import Cursor
from onsale.server.pages.access import filled, html, page, plain, reader
from onsale.server.pages.rendering import render

NOTICES_A_PAGE = 30


@page
async def show_notices(request: web.Request) -> web.Response:
    """One's own notices."""
    found = reader(request)
    asked = filled(request, cursor=Cursor.read)
    items, cursor = await request.app[BOOK].page(found.account, asked.get("cursor"), NOTICES_A_PAGE)
    return render(request, "notices.html", notices=[plain(item) for item in items], next_cursor=cursor)


ROUTES = (html("GET", "/notices", show_notices, "notices_page", "What became of one's orders."),)
