"""The line over HTTP: decode, one call, encode.

The hot ones (`join`, `show`, `show_line`) are served past the middleware: they read no more of a request than needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from onsale.auth.errors import EmailUnverified, NotFound, PassInvalid, Unauthenticated
from onsale.auth.identifiers import new_id
from onsale.auth.middleware import PASSES, STREAM_KEYS, TICKETS, cookie, holder, identity, identity_or_none
from onsale.auth.passes import Pass
from onsale.auth.requests import Network, body_or, client_address, is_in, query
from onsale.auth.streamkeys import StreamEnded
from onsale.auth.tickets import TicketFacts, is_ticket_token
from onsale.catalog.handlers import BOOK
from onsale.catalog.sales import Sale
from onsale.queue.errors import GuestsRefused, LineRecovering
from onsale.queue.feed import Feed
from onsale.queue.line import Line
from onsale.queue.schemas import JoinRequest
from onsale.queue.states import LANES
from onsale.queue.stream import Streams
from onsale.queue.teller import Teller

FEED = web.AppKey("feed", Feed)
LINE = web.AppKey("line", Line)
STREAMS = web.AppKey("streams", Streams)
TELLER = web.AppKey("teller", Teller)
# Whose addresses are spared the budgets per address; filled by `server/app.py`.
UNLIMITED_FROM: web.AppKey[tuple[Network, ...]] = web.AppKey("unlimited_from", tuple)

JSON = {"Content-Type": "application/json"}
PUBLIC_JSON = {**JSON, "Cache-Control": "public, max-age=1"}
BEARER = "Bearer "
PASS_COOKIE = "onsale-pass"  # noqa: S105 (a name)

JOIN = msgspec.json.Decoder(JoinRequest)
NOTHING = JoinRequest()


# --- buyers


async def join(request: web.Request) -> web.Response:
    """Give the buyer a place, or the living ticket they hold."""
    _require_no_query(request)
    sale = request.app[BOOK].get(request.match_info["sale"])
    buyer = await _buyer(request, sale)
    await body_or(request, JOIN, NOTHING)
    try:
        joined = await request.app[TELLER].join(request.app[FEED].line_of(sale.no), buyer)
    except LineRecovering:
        # Perhaps this process alone does not know the epoch yet: the caller's next try finds it known.
        await request.app[BOOK].refresh()
        raise
    headers = {**JSON, "Location": f"/v1/tickets/{joined.ticket}"}
    return web.Response(status=201 if joined.is_fresh else 200, body=joined.doc, headers=headers)


async def show(request: web.Request) -> web.Response:
    """The personal poll; a sign of life."""
    _require_no_query(request)
    held = await _held(request)
    teller = request.app[TELLER]
    told = teller.poll(held.facts) or await teller.tell(held.facts, held.buyer)
    return web.Response(body=told.doc, headers=JSON)


async def leave(request: web.Request) -> web.Response:
    """Give the place up. Answers the same when repeated."""
    _require_no_query(request)
    held = await _held(request)
    await request.app[TELLER].leave(held.facts, held.buyer)
    return web.Response(status=204)


async def stream_ticket(request: web.Request) -> web.StreamResponse:
    """The personal event stream; a sign of life while its bytes are acknowledged."""
    key = query(request, stream_key=str).get("stream_key")
    try:
        held = await _held(request, is_stream=True)
    except StreamEnded:
        return web.Response(status=204)
    return await request.app[STREAMS].serve_ticket(request, held.facts, held.buyer, _end_of(request, key))


# --- everyone


async def show_line(request: web.Request) -> web.Response:
    """The line document."""
    if "?" in request.raw_path:
        query(request, lane=_lane)
    feed = request.app[FEED]
    frame = feed.line(request.match_info["sale"]).shown(feed.now_ms())
    headers = {**PUBLIC_JSON, "ETag": frame.etag}
    if _is_seen(request, frame.etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=frame.doc, headers=headers)


async def stream_line(request: web.Request) -> web.StreamResponse:
    """The line document as a stream, at most one a second."""
    query(request, lane=_lane, stream_key=str)
    line = request.app[FEED].line(request.match_info["sale"])
    address = client_address(request)
    is_spared = is_in(address, request.app.get(UNLIMITED_FROM, ()))
    return await request.app[STREAMS].serve_line(request, line, None if is_spared else address)


async def verify_pass(request: web.Request) -> web.Response:
    """204 for a pass that is good now, with what it says in headers; 401 otherwise. For proxies."""
    asked = query(request, **{"pass": str, "sale": str})
    token = request.headers.get("Admission-Pass") or cookie(request, PASS_COOKIE) or asked.get("pass")
    if not token:
        raise Unauthenticated
    seen = _good_pass(request, token, asked.get("sale"))
    headers = {"Admission-Sale": seen.sale, "Admission-Buyer": seen.buyer, "Admission-Turn": seen.turn}
    return web.Response(status=204, headers=headers)


# --- reading requests


@dataclass(frozen=True, slots=True)
class Held:
    """A ticket and the buyer who has shown to hold it."""

    facts: TicketFacts
    buyer: str


async def _held(request: web.Request, *, is_stream: bool = False) -> Held:
    """Raises Unauthenticated, and NotFound for another's ticket."""
    ticket = request.match_info["ticket"]
    tickets = request.app[TICKETS]
    authorization = request.headers.get("Authorization", "")
    if authorization.startswith(BEARER) and is_ticket_token(authorization[len(BEARER) :]):
        # The usual way of polls, straight to the cache: nothing else is asked of a ticket's token.
        facts, buyer = tickets.read_token(authorization[len(BEARER) :])
        if facts.ticket != ticket:
            raise NotFound
        return Held(facts, buyer)
    found = await holder(request, ticket, is_stream=is_stream)
    return Held(tickets.facts(ticket), found.account)


async def _buyer(request: web.Request, sale: Sale) -> str:
    """Who joins: the account that asks, or, where the sale takes guests, a guest known by the ticket's token alone."""
    if sale.guests and is_ticket_token(request.headers.get("Authorization", "").removeprefix(BEARER)):
        guest = await identity(request, by_ticket=True)
        if request.app[TICKETS].facts(guest.ticket).sale_no != sale.no:
            raise NotFound
        return guest.account
    found = await identity_or_none(request)
    if found is not None:
        if not found.is_verified:
            raise EmailUnverified
        return found.account
    if not sale.guests:
        raise GuestsRefused
    return f"guest-{new_id()}"


def _good_pass(request: web.Request, token: str, sale: str | None) -> Pass:
    """Raises Unauthenticated: a proxy knows nothing between yes and no."""
    try:
        seen = request.app[PASSES].verify(token, sale=sale)
    except PassInvalid as error:
        raise Unauthenticated from error
    if seen.exp_ms <= request.app[FEED].now_ms():
        raise Unauthenticated
    return seen


def _end_of(request: web.Request, key: str | None) -> Callable[[], Awaitable[None]]:
    async def end() -> None:
        """The stream has sent its last event: its key opens nothing any more."""
        if key is not None:
            await request.app[STREAM_KEYS].ended(key)

    return end


def _require_no_query(request: web.Request) -> None:
    # Reading the query costs as much as a cached token; hardly any request has one.
    if "?" in request.raw_path:
        query(request)


def _is_seen(request: web.Request, etag: str) -> bool:
    """RFC 9110 §13.1.2, weakly compared."""
    seen = request.headers.get("If-None-Match")
    if seen is None:
        return False
    return seen.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in seen.split(","))


def _lane(text: str) -> str:
    if text not in LANES:
        raise ValueError
    return text
