"""Entries over HTTP: their codes for the buyer, and the door that lets in by them."""

from __future__ import annotations

from aiohttp import web

from onsale.auth.middleware import require
from onsale.auth.requests import body, reply, require_no_query, rfc3339
from onsale.auth.roles import SELLERS
from onsale.checkout.entries import Entries, Entry, Redeemed
from onsale.checkout.handlers import buyer_of
from onsale.checkout.schemas import REDEEM, EntryList, EntryReply, RedemptionReply

ENTRIES = web.AppKey("entries", Entries)


async def list_entries(request: web.Request) -> web.Response:
    """GET /v1/orders/{order}/entries"""
    require_no_query(request)
    found = await request.app[ENTRIES].of(await buyer_of(request), request.match_info["order"])
    return reply(200, EntryList(tuple(entry_reply(entry) for entry in found)), {"Cache-Control": "no-store"})


async def redeem(request: web.Request) -> web.Response:
    """POST /v1/redemptions"""
    require_no_query(request)
    who = await require(request, *SELLERS)
    wanted = await body(request, REDEEM)
    redeemed = await request.app[ENTRIES].redeem(who, wanted.code)
    return reply(200, redemption_reply(redeemed), {"Cache-Control": "no-store"})


def entry_reply(entry: Entry) -> EntryReply:
    """A unit as its buyer sees it."""
    return EntryReply(
        product=entry.product,
        title=entry.title,
        visit_on=None if entry.visit_on is None else entry.visit_on.isoformat(),
        code=entry.code,
        redeemed_at=None if entry.redeemed_at_ms is None else rfc3339(entry.redeemed_at_ms),
    )


def redemption_reply(redeemed: Redeemed) -> RedemptionReply:
    """A unit as the door sees it."""
    return RedemptionReply(
        order=redeemed.order,
        product=redeemed.product,
        title=redeemed.title,
        visit_on=None if redeemed.visit_on is None else redeemed.visit_on.isoformat(),
        redeemed_at=rfc3339(redeemed.redeemed_at_ms),
    )
