"""The operators' console: every sale, or one of them live. Its figures and knobs are the API's, called by scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from onsale.auth.roles import OPERATORS
from onsale.catalog.handlers import BOOK
from onsale.catalog.schemas import sale_reply
from onsale.server.pages.access import html, page, plain, reader
from onsale.server.pages.lines import line_document, now_ms
from onsale.server.pages.rendering import line_words, page_language, render, words_of
from onsale.web import messages


@page
async def show_console(request: web.Request) -> web.Response:
    """Every sale to choose from, and the chosen one."""
    reader(request, *OPERATORS)
    at_ms, book = now_ms(), request.app[BOOK]
    chosen = request.query.get("sale")
    sales = list(reversed(book.all()))
    return render(
        request,
        "console.html",
        sales=[plain(sale_reply(sale, at_ms)) for sale in sales],
        sale=plain(sale_reply(book.get(chosen), at_ms)) if chosen else None,
        lines={sale.id: line_document(request, sale) for sale in sales},
        words=_words(messages(page_language(request))),
    )


def _words(texts: Mapping[str, str]) -> dict[str, Any]:
    """What the console's scripts say."""
    named = {"actions": "action.", "settings": "setting.", "tickets": "ticket_state."}
    return (
        line_words(texts)
        | words_of(texts, "console.live.")
        | {name: words_of(texts, prefix) for name, prefix in named.items()}
    )


ROUTES = (html("GET", "/console", show_console, "console_page", "The operators' console."),)
