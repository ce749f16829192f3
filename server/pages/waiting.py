"""The page of a sale: what it offers, how this buyer's ticket stands, and, at the turn, what to order.

It shows what the API answers, from the same rooms: a buyer without scripts walks through the same states as a client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from onsale.auth.errors import NotFound
from onsale.auth.middleware import TICKETS
from onsale.auth.requests import form_fields
from onsale.catalog.handlers import BOOK
from onsale.catalog.schemas import sale_reply
from onsale.catalog.states import SaleState
from onsale.queue.handlers import FEED, TELLER
from onsale.server.pages.access import form, html, new_key, onward, page, plain, reader
from onsale.server.pages.alarms import alarm_shown
from onsale.server.pages.lines import Document, left_ms, line_document, now_ms
from onsale.server.pages.rendering import READER, YEAR_S, line_words, page_language, render, words_of
from onsale.web import messages

TICKET_COOKIE = "onsale-ticket"
JOINABLE = (SaleState.SCHEDULED, SaleState.OPEN)
# Without scripts the page asks again as often as a poll would, within these.
REFRESH_FIRST_S, REFRESH_LAST_S = 3, 30


@page
async def show_sale(request: web.Request) -> web.Response:
    """A sale, and how this buyer's ticket in it stands."""
    sale = request.app[BOOK].get(request.match_info["sale"])
    ticket = await _ticket(request)
    line = line_document(request, sale)
    lang = page_language(request)
    return render(
        request,
        "sale.html",
        is_secret=ticket is not None and ticket["pass"] is not None,
        sale=plain(sale_reply(sale, now_ms())),
        line=line,
        ticket=ticket,
        can_join=sale.state(now_ms()) in JOINABLE,
        message=(sale.message or {}).get(lang),
        left_ms=left_ms(ticket["pass"]["expires_at"]) if ticket and ticket["pass"] else 0,
        refresh_s=_refresh_s(ticket),
        key=new_key(),
        alarm=await alarm_shown(request, sale),
        words=_words(messages(lang)),
    )


@form("/sales/{sale}")
async def join(request: web.Request) -> web.Response:
    """A place in the line. The ticket's id stays in a cookie of this page, so that reloading finds it again."""
    found = reader(request)
    sale = request.app[BOOK].get(request.match_info["sale"])
    joined = await request.app[TELLER].join(request.app[FEED].line_of(sale.no), found.account)
    path = f"/sales/{sale.id}"
    answer = onward(path)
    answer.set_cookie(TICKET_COOKIE, joined.ticket, path=path, httponly=True, samesite="Lax", max_age=YEAR_S)
    return answer


@form("/sales/{sale}")
async def leave(request: web.Request) -> web.Response:
    """Give the place or the turn up."""
    found = reader(request)
    ticket = (await form_fields(request)).get("ticket", "")
    tickets = request.app[TICKETS]
    facts = tickets.facts(ticket)
    if not tickets.belongs(ticket, found.account):
        raise NotFound
    await request.app[TELLER].leave(facts, found.account)
    return onward(f"/sales/{request.match_info['sale']}")


async def _ticket(request: web.Request) -> Document | None:
    """How the ticket of this page's cookie stands, or None where the reader has none here. An admitted one is taken."""
    found = request[READER]
    ticket = request.cookies.get(TICKET_COOKIE, "")
    tickets = request.app[TICKETS]
    if found is None or not tickets.belongs(ticket, found.account):
        return None
    facts = tickets.facts(ticket)
    told = request.app[TELLER].poll(facts) or await request.app[TELLER].tell(facts, found.account)
    decoded: Document = msgspec.json.decode(told.doc)
    return decoded


def _refresh_s(ticket: Document | None) -> int:
    poll_s = -(-ticket["poll_after_ms"] // 1000) if ticket else REFRESH_LAST_S
    return min(REFRESH_LAST_S, max(REFRESH_FIRST_S, poll_s))


def _words(texts: Mapping[str, str]) -> dict[str, Any]:
    """What the page's script says."""
    return (
        line_words(texts)
        | words_of(texts, "waiting.live.")
        | {
            "odds": words_of(texts, "odds."),
            "units": words_of(texts, "unit."),
            "unknown": texts["waiting.unknown"],
            "your_turn": texts["turn.title"],
        }
    )


ROUTES = (
    html("GET", "/sales/{sale}", show_sale, "sale_page", "The waiting page."),
    html("POST", "/sales/{sale}/join", join, "join_form", "Join from the page."),
    html("POST", "/sales/{sale}/leave", leave, "leave_form", "Leave from the page."),
)
