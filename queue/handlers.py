"""The line over HTTP: decode, one call, encode.

The hot ones (`join`, `show`, `show_line`) are served past the middleware: they read no more of a request than needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType
from redis.exceptions import RedisError

from onsale.auth.accounts import email_in_query
from onsale.auth.errors import (
    EmailUnverified,
    Flaw,
    Forbidden,
    InvalidRequest,
    NotFound,
    PassInvalid,
    StoreUnavailable,
    Unauthenticated,
)
from onsale.auth.identifiers import new_id
from onsale.auth.identity import Identity
from onsale.auth.middleware import (
    ACCOUNTS,
    COOKIES,
    PASSES,
    STREAM_KEYS,
    TICKETS,
    cookie,
    holder,
    identity,
    identity_or_none,
    require,
)
from onsale.auth.passes import Pass
from onsale.auth.requests import (
    PAGE_LIMIT_DEFAULT,
    Network,
    body,
    body_or,
    client_address,
    is_in,
    is_seen,
    page_limit,
    query,
    reply,
    require_no_query,
    rfc3339,
    whole,
)
from onsale.auth.roles import OPERATORS
from onsale.auth.streamkeys import StreamEnded, StreamKeys
from onsale.auth.tickets import TicketFacts, is_ticket_token
from onsale.catalog.sales import Sale
from onsale.queue.control import Admission, Control, PolicyChange
from onsale.queue.errors import GuestsRefused, LineRecovering, PolicyMissingMatch, PolicyStale, TicketUnknown
from onsale.queue.feed import Feed, KnownLine
from onsale.queue.line import Line
from onsale.queue.ports import ShopPort
from onsale.queue.schemas import (
    ActionRequest,
    AdmissionPatch,
    AdmissionReply,
    AuditEntry,
    AuditList,
    JoinRequest,
    MessageRequest,
    TicketList,
    TicketSummary,
)
from onsale.queue.states import LANES, TicketState, TicketView
from onsale.queue.stream import Streams
from onsale.queue.teller import Teller

CONTROL = web.AppKey("control", Control)
FEED = web.AppKey("feed", Feed)
LINE = web.AppKey("line", Line)
# A Protocol: an AppKey wants a class only to name its type.
SHOP: web.AppKey[ShopPort] = web.AppKey("line_shop", object)  # type: ignore[arg-type]
STREAMS = web.AppKey("streams", Streams)
TELLER = web.AppKey("teller", Teller)
# Whose addresses are spared the budgets per address; filled by `server/app.py`.
UNLIMITED_FROM: web.AppKey[tuple[Network, ...]] = web.AppKey("unlimited_from", tuple)

JSON = {"Content-Type": "application/json"}
PUBLIC_JSON = {**JSON, "Cache-Control": "public, max-age=1"}
BEARER = "Bearer "
PASS_COOKIE = "onsale-pass"  # noqa: S105 (a name)

# Five bytes of a ticket's id; four of a number in the audit.
PLACE_MAX = 2**40
SEQ_MAX = 2**31 - 1

ACTION = msgspec.json.Decoder(ActionRequest)
MESSAGE = msgspec.json.Decoder(MessageRequest)
NO_WORDS = ActionRequest()
PATCH = msgspec.json.Decoder(AdmissionPatch)
JOIN = msgspec.json.Decoder(JoinRequest)
NOTHING = JoinRequest()


# --- buyers


async def join(request: web.Request) -> web.Response:
    """Give the buyer a place, or the living ticket they hold."""
    require_no_query(request)
    line = request.app[FEED].line(request.match_info["sale"])
    buyer = await _buyer(request, line.sale)
    await body_or(request, JOIN, NOTHING)
    joined = await request.app[TELLER].join(line, buyer)
    headers = {**JSON, "Location": f"/v1/tickets/{joined.ticket}"}
    return web.Response(status=201 if joined.is_fresh else 200, body=joined.doc, headers=headers)


async def show(request: web.Request) -> web.Response:
    """The personal poll; a sign of life."""
    require_no_query(request)
    held = await _held(request)
    teller = request.app[TELLER]
    told = teller.poll(held.facts) or await teller.tell(held.facts, held.buyer)
    return web.Response(body=told.doc, headers=JSON)


async def leave(request: web.Request) -> web.Response:
    """Give the place up. Answers the same when repeated."""
    require_no_query(request)
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
    on_end = _end_of(request.app[STREAM_KEYS], key)
    return await request.app[STREAMS].serve_ticket(request, held.facts, held.buyer, held.session, on_end)


# --- everyone


async def show_line(request: web.Request) -> web.Response:
    """The line document."""
    if "?" in request.raw_path:
        query(request, lane=_lane)
    feed = request.app[FEED]
    frame = feed.line(request.match_info["sale"]).shown(feed.now_ms())
    headers = {**PUBLIC_JSON, "ETag": frame.etag}
    if is_seen(request, frame.etag):
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
    """204 for a pass that is good now, with what it says in headers; 401 otherwise. For proxies.

    A share of a batch of Redis. While the line cannot be asked, signature and time decide alone.
    """
    asked = query(request, **{"pass": str, "sale": str})
    token = request.headers.get("Admission-Pass") or cookie(request, PASS_COOKIE) or asked.get("pass")
    if not token:
        raise Unauthenticated
    seen = await _good_pass(request, token, asked.get("sale"))
    headers = {"Admission-Sale": seen.sale, "Admission-Buyer": seen.buyer, "Admission-Turn": seen.turn}
    return web.Response(status=204, headers=headers)


# --- operators


async def show_admission(request: web.Request) -> web.Response:
    """How people are let in; the ETag is needed to change it."""
    await require(request, *OPERATORS)
    query(request)
    return _admission(await request.app[CONTROL].admission(request.match_info["sale"]))


async def change_admission(request: web.Request) -> web.Response:
    """Change some of it; in force everywhere within a second. Pausing needs no If-Match: it must never be late."""
    operator = await require(request, *OPERATORS)
    query(request)
    sale, control = request.match_info["sale"], request.app[CONTROL]
    patch = await body(request, PATCH)
    change = _change(patch)
    is_pausing = change.is_only_pausing and change.paused is True
    version = None if is_pausing else await _seen_version(request, sale)
    admission = await control.set_policy(
        sale,
        change,
        actor=operator.account,
        version=version,
        reason=patch.reason,
        revert_after_s=patch.revert_after_s,
    )
    return _admission(admission)


async def open_sale(request: web.Request) -> web.Response:
    """Open now, whatever the schedule says; also what sold out, once units returned."""
    operator, why = await _acting(request)
    await request.app[CONTROL].open(request.match_info["sale"], actor=operator.account, reason=why)
    return await _done(request)


async def close_sale(request: web.Request) -> web.Response:
    """End now, whatever the schedule says."""
    operator, why = await _acting(request)
    await request.app[CONTROL].close(request.match_info["sale"], actor=operator.account, reason=why)
    return await _done(request)


async def drain_sale(request: web.Request) -> web.Response:
    """Let nobody join any more."""
    operator, why = await _acting(request)
    await request.app[CONTROL].drain(request.match_info["sale"], actor=operator.account, reason=why)
    return await _done(request)


async def set_message(request: web.Request) -> web.Response:
    """Say something to everyone who waits."""
    operator = await require(request, *OPERATORS)
    query(request)
    said = await body(request, MESSAGE)
    words = {"ko": said.ko, "en": said.en}
    await request.app[CONTROL].set_message(request.match_info["sale"], words, actor=operator.account)
    return reply(200, said)


async def clear_message(request: web.Request) -> web.Response:
    """Take it back."""
    operator = await require(request, *OPERATORS)
    query(request)
    await request.app[CONTROL].set_message(request.match_info["sale"], None, actor=operator.account)
    return web.Response(status=204)


async def stream_live(request: web.Request) -> web.StreamResponse:
    """Operators' figures, an event a second."""
    query(request, stream_key=str)
    try:
        operator = await identity(request, is_stream=True)
    except StreamEnded:
        return web.Response(status=204)
    if operator.role not in OPERATORS:
        raise Forbidden
    line = request.app[FEED].line(request.match_info["sale"])
    return await request.app[STREAMS].serve_live(request, line, operator.account, operator.session)


async def list_audit(request: web.Request) -> web.Response:
    """What operators did, newest first."""
    await require(request, *OPERATORS)
    asked = query(request, limit=page_limit, cursor=_seq)
    line = request.app[FEED].line(request.match_info["sale"])
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    rows = await request.app[CONTROL].audit(line.sale.id, limit=limit + 1, before_seq=asked.get("cursor"))
    entries = [
        AuditEntry(
            seq=row.seq,
            at=rfc3339(round(row.at.timestamp() * 1000)),
            actor=row.actor,
            action=row.action,
            from_=row.before,
            to=row.after,
            reason=row.reason,
            prev_hash=row.prev_hash,
            hash=row.hash,
        )
        for row in rows[:limit]
    ]
    return reply(200, AuditList(entries, str(entries[-1].seq) if len(rows) > limit else None))


async def list_tickets(request: web.Request) -> web.Response:
    """Everyone who was given a place, newest first; a page may be short where numbers were left out. With an e-mail
    address, the ticket of that one person: the living one, or the one that ended last."""
    await require(request, *OPERATORS)
    asked = query(request, limit=page_limit, cursor=_cursor, email=email_in_query)
    line = request.app[FEED].line(request.match_info["sale"])
    if "email" in asked:
        return reply(200, TicketList(await _tickets_of(request, line, asked["email"]), None))
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    frame = line.shown(request.app[FEED].now_ms())
    # One more than was ever shown: whoever joined since the document is on a later first page.
    last = min(asked.get("cursor", PLACE_MAX), frame.document.tail + 1) - 1
    places = range(last, max(0, last - limit), -1)
    views = await asyncio.gather(*(request.app[LINE].look(line.keys, place) for place in places))
    tickets = [_summary(request, line.sale, view) for view in views if view is not None]
    return reply(200, TicketList(tickets, str(places[-1]) if places and places[-1] > 1 else None))


async def revoke(request: web.Request) -> web.Response:
    """End a person's ticket: place, seat and pass."""
    operator, why = await _acting(request)
    tickets, ticket = request.app[TICKETS], request.match_info["ticket"]
    facts = tickets.facts(ticket)
    line = request.app[FEED].line_of(facts.sale_no)
    view = await request.app[LINE].look(line.keys, facts.place)
    if view is None or not tickets.belongs(ticket, view.buyer):
        raise TicketUnknown
    before = {"ticket": ticket, "state": view.state.value}
    after = {"ticket": ticket, "state": TicketState.LEFT.value if view.state.is_living else view.state.value}
    # Written down first: what breaks off after it is repeated, what nobody wrote down could not be found.
    await request.app[CONTROL].note(
        line.sale.id, "revoke", actor=operator.account, before=before, after=after, reason=why
    )
    if view.turn:
        # At the shop first: from then on the pass buys nothing.
        await request.app[SHOP].close_turns(line.sale.id, [view.turn], "revoked")
    await request.app[TELLER].leave(facts, view.buyer)
    return web.Response(status=204)


# --- reading requests


class Held(msgspec.Struct, frozen=True):
    """A ticket and the buyer who has shown to hold it; `session` is empty where the ticket's token showed it."""

    facts: TicketFacts
    buyer: str
    session: str = ""


async def _held(request: web.Request, *, is_stream: bool = False) -> Held:
    """The ticket of the path. Raises Unauthenticated, and NotFound for another's."""
    app = request.app
    by_token = _by_ticket_token(request, app)
    if by_token is not None:
        return by_token
    ticket = request.match_info["ticket"]
    found = await holder(request, ticket, is_stream=is_stream)
    return Held(app[TICKETS].facts(ticket), found.account, found.session)


def _by_ticket_token(request: web.Request, app: web.Application) -> Held | None:
    """The usual way of polls, straight to the cache: a ticket's token says all. None: something else was presented."""
    authorization = request.headers.get("Authorization", "")
    token = authorization[len(BEARER) :]
    if not is_ticket_token(token) or not authorization.startswith(BEARER):
        return None
    facts, buyer = app[TICKETS].read_token(token)
    if facts.ticket != request.match_info["ticket"]:
        raise NotFound
    return Held(facts, buyer)


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
    if cookie(request, request.app[COOKIES].refresh) is not None:
        # Signed in, with an access cookie that ran out: as a guest they would stand behind their own ticket.
        raise Unauthenticated
    return f"guest-{new_id()}"


async def _good_pass(request: web.Request, token: str, sale: str | None) -> Pass:
    """Raises Unauthenticated: a proxy knows nothing between yes and no. The line knows whether the turn is over before
    its time (it bought, left, or was revoked), and whether an outage of ours put its end off."""
    app = request.app
    try:
        seen = app[PASSES].verify(token, sale=sale)
    except PassInvalid as error:
        raise Unauthenticated from error
    until_ms: int | None = None
    with suppress(LineRecovering, StoreUnavailable):
        until_ms = await app[LINE].pass_until(app[FEED].line(seen.sale).keys, seen.turn)
    if (seen.exp_ms if until_ms is None else until_ms) <= app[FEED].now_ms():
        raise Unauthenticated
    return seen


async def _acting(request: web.Request) -> tuple[Identity, str | None]:
    """The operator who acts, and why, if they say."""
    operator = await require(request, *OPERATORS)
    query(request)
    return operator, (await body_or(request, ACTION, NO_WORDS)).reason


async def _done(request: web.Request) -> web.Response:
    # So that this process answers by the new hours at once, and not up to half a second later.
    await request.app[FEED].follow()
    return web.Response(status=204)


async def _seen_version(request: web.Request, sale: str) -> int | None:
    """The version that the operator saw; None = whatever it is now. Raises PolicyMissingMatch, PolicyStale."""
    match = request.headers.get("If-Match")
    if match is None:
        raise PolicyMissingMatch
    if match.strip() == "*":
        return None
    # Compared here as well: lifting a pause is not compared with the settings' version further on.
    version = (await request.app[CONTROL].admission(sale)).version
    if _etag(version) not in [tag.strip() for tag in match.split(",")]:
        raise PolicyStale(version)
    return version


def _change(patch: AdmissionPatch) -> PolicyChange:
    return PolicyChange(
        mode=patch.mode,
        rate_centi=_rate_centi(patch.rate_per_second),
        active_max=patch.active_max,
        pass_ttl_s=patch.pass_ttl_s,
        turn_ttl_s=patch.turn_ttl_s,
        absent_after_s=patch.absent_after_s,
        paused=patch.paused,
    )


def _rate_centi(rate: float | UnsetType) -> int | UnsetType:
    """Hundredths per second. What is finer is refused, not rounded: an operator reads back what was sent."""
    if rate is UNSET:
        return UNSET
    centi = round(rate * 100)
    # Both are the floats nearest to their decimals, so of a rate in whole hundredths they are the same one.
    if centi / 100 != rate:
        raise InvalidRequest(Flaw("#/rate_per_second", "bad_value", "Rates go in steps of 0.01 a second."))
    return centi


def _admission(admission: Admission) -> web.Response:
    policy = admission.policy
    value = AdmissionReply(
        mode=policy.mode,
        rate_per_second=policy.rate_centi / 100,
        active_max=policy.active_max,
        paused=admission.is_paused,
        pass_ttl_s=policy.pass_ttl_s,
        turn_ttl_s=policy.turn_ttl_s,
        absent_after_s=policy.absent_after_s,
        paused_by=admission.paused_by,
        changed_at=rfc3339(admission.changed_at_ms),
        changed_by=admission.changed_by,
        revert_at=rfc3339(admission.revert_at_ms) if admission.revert_at_ms is not None else None,
    )
    return reply(200, value, {"ETag": _etag(admission.version)})


def _etag(version: int) -> str:
    return f'"{version}"'


def _summary(request: web.Request, sale: Sale, view: TicketView) -> TicketSummary:
    ticket = request.app[TICKETS].issue(sale.no, LANES.index(view.lane), view.place, view.joined_ms, view.buyer)
    return TicketSummary(
        ticket=ticket,
        place=view.place,
        state=view.state,
        is_absent=view.is_absent,
        buyer=view.buyer,
        lane=view.lane,
        joined_at=rfc3339(view.joined_ms),
        admitted_at=rfc3339(view.admitted_ms) if view.admitted_ms else None,
        ended_at=rfc3339(view.ended_ms) if view.ended_ms else None,
    )


async def _tickets_of(request: web.Request, line: KnownLine, email: str) -> list[TicketSummary]:
    account = await request.app[ACCOUNTS].named(email)
    view = await request.app[LINE].look_for(line.keys, account) if account is not None else None
    return [] if view is None else [_summary(request, line.sale, view)]


def _seq(text: str) -> int:
    return whole(text, 1, SEQ_MAX)


def _cursor(text: str) -> int:
    return whole(text, 1, PLACE_MAX)


def _end_of(keys: StreamKeys, key: str | None) -> Callable[[], Awaitable[None]] | None:
    """What is left to do when the stream has sent its last event: the key that opened it opens nothing any more."""
    if key is None:
        return None
    opened_by = key

    async def end() -> None:
        """Where it cannot be written down, or the key was not what opened the stream, nothing is lost: whoever comes
        back is told again that there is nothing to tell."""
        with suppress(RedisError, Unauthenticated):
            await keys.ended(opened_by)

    return end


def _lane(text: str) -> str:
    if text not in LANES:
        raise ValueError
    return text
