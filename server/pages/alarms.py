"""Alarms: asking for a letter before a sale starts, from the sale's page, and what one asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from onsale.catalog.alarm_handlers import ALARMS
from onsale.catalog.alarm_schemas import alarm_reply
from onsale.catalog.alarms import ASKED_AHEAD_MIN
from onsale.catalog.product_handlers import product_cursor
from onsale.catalog.sales import Sale
from onsale.server.pages.access import filled, form, html, onward, page, plain, reader
from onsale.server.pages.lines import now_ms
from onsale.server.pages.rendering import READER, render

ALARMS_A_PAGE = 24


@page
async def show_alarms(request: web.Request) -> web.Response:
    """What one asked for, newest first."""
    asked = filled(request, cursor=product_cursor)
    found = await request.app[ALARMS].page(reader(request).account, asked.get("cursor"), ALARMS_A_PAGE + 1)
    shown = found[:ALARMS_A_PAGE]
    return render(
        request,
        "alarms.html",
        alarms=[plain(alarm_reply(alarm)) for alarm in shown],
        next_cursor=shown[-1].no if len(found) > ALARMS_A_PAGE else None,
    )


@form("/sales/{sale}")
async def ask(request: web.Request) -> web.Response:
    """Have a letter sent."""
    sale = request.match_info["sale"]
    await request.app[ALARMS].put(reader(request).account, sale)
    return onward(f"/sales/{sale}")


@form("/alarms")
async def unask(request: web.Request) -> web.Response:
    """Have none sent."""
    await request.app[ALARMS].remove(reader(request).account, request.match_info["sale"])
    return onward("/alarms")


async def alarm_shown(request: web.Request, sale: Sale) -> Mapping[str, Any] | None:
    """What a sale's page says of its alarm: whether this reader asked for one; None where none can be asked for.

    Nothing is read when the start is near: that is when the crowd reloads.
    """
    found = request[READER]
    if sale.closed or sale.opens_at_ms - now_ms() < ASKED_AHEAD_MIN * 60_000:
        return None
    return {"is_on": found is not None and await request.app[ALARMS].of(found.account, sale.id) is not None}


ROUTES = (
    html("GET", "/alarms", show_alarms, "alarms_page", "Letters that one asked for before sales start."),
    html("POST", "/alarms/{sale}/removal", unask, "remove_alarm_form", "Have no letter sent, from the list."),
    html("POST", "/sales/{sale}/alarm", ask, "put_alarm_form", "Have a letter sent before the sale starts."),
)
