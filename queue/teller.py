"""Tells a ticket how it stands, as its holder reads it. Being told is taking: whatever says `admitted` carries the
pass, and the line has been told first that this turn is taken.

A ticket that is simply waiting is answered from memory: its place and the newest document say everything. Only what
this process does not know of, or has heard news of, is asked of Redis, with everybody else's in one batch.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from onsale.auth.errors import StoreUnavailable
from onsale.auth.passes import Passes
from onsale.auth.tickets import TicketFacts, Tickets
from onsale.lua.keys import LineKeys
from onsale.queue.errors import LineRecovering, TicketUnknown
from onsale.queue.feed import Feed, KnownLine
from onsale.queue.frame import Frame, Reason, rfc3339
from onsale.queue.line import Line
from onsale.queue.odds import Odds
from onsale.queue.presence import Presence
from onsale.queue.states import LANES, TicketState, TicketView

# A poll nearer the front than this misses no turn by it: turns last longer by far.
POLL_FIRST_MS = 1_000
# The idle keep-alive of a connection must be at least twice as long, or polls pay for new connections.
POLL_LAST_MS = 30_000
# The first hundred of a line that does not move: few enough to ask often.
FRONT = 100
# A fifteenth of the wait: people far back ask rarely, and as they come nearer more often.
POLLS_A_WAIT = 15
# Polls of people who joined together must not stay together: each lies within a fifth of its base, by place.
SPREAD = 5

# Where no document came for seconds, Redis is away: nobody is kept waiting for it until their own patience ends.
AWAY_PATIENCE_S = 1.0

WAITS = (TicketState.SCHEDULED, TicketState.WAITING)

_encode = msgspec.json.Encoder().encode


class PassReply(msgspec.Struct, frozen=True):
    """The right to buy: show it as `Admission-Pass`."""

    token: str
    expires_at: str


class WaitReply(msgspec.Struct, frozen=True):
    """Half of all waits end by `p50`, nine tenths by `p90` (milliseconds from now)."""

    p50: int
    p90: int


class TicketReply(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket as its holder sees it. `ticket_token` is only in the answer to joining."""

    ticket: str
    sale: str
    lane: str
    state: TicketState
    place: int | None
    ahead: int | None
    wait_ms: WaitReply | None
    # Whether something is likely left at this place's turn; null while it does not wait, or nobody can say.
    odds: Odds | None = None
    poll_after_ms: int
    reason: Reason | None
    opens_at: str
    joined_at: str
    admitted_at: str | None
    ended_at: str | None
    # `pass` in JSON: a keyword in Python.
    pass_: PassReply | None = msgspec.field(name="pass")
    ticket_token: str | msgspec.UnsetType = msgspec.UNSET


class Told(msgspec.Struct, frozen=True):
    """What a holder is told: the state, and the ticket object's bytes."""

    state: TicketState
    doc: bytes

    @property
    def is_final(self) -> bool:
        """Whether there is nothing more to tell."""
        return not self.state.is_living


@dataclass(frozen=True, slots=True)
class Joined:
    """What joining answers: the ticket's id, whether it was made now, and the ticket object with its token."""

    ticket: str
    is_fresh: bool
    doc: bytes


class Teller:
    """Composes what holders read. `from_memory` never waits; `tell` may ask Redis, and takes the turn it tells of."""

    def __init__(self, line: Line, feed: Feed, presence: Presence, tickets: Tickets, passes: Passes) -> None:
        self._line = line
        self._feed = feed
        self._presence = presence
        self._tickets = tickets
        self._passes = passes

    def poll(self, facts: TicketFacts) -> Told | None:
        """What a poll reads, with no store asked; a sign of life. None: ask with `tell`."""
        line = self._feed.line_of(facts.sale_no)
        told = self.from_memory(line, facts)
        if told is not None:
            self._presence.sign(line, facts.place)
        return told

    def from_memory(self, line: KnownLine, facts: TicketFacts) -> Told | None:
        """How a ticket stands that is known to be simply waiting in an open line; None for any other."""
        frame, place = line.frame, facts.place
        if frame is None or place not in line.known or place <= frame.document.serving or line.closed_ms:
            return None
        now_ms = self._feed.now_ms()
        sale = line.sale
        if now_ms >= sale.closes_at_ms:
            return None
        if now_ms < sale.opens_at_ms or not frame.is_fresh(now_ms) or place in line.views:
            # Rarer, and said at greater length.
            return self._waiting(line, facts, now_ms)
        middle, poll_ms = _step_text(line, frame, place)
        # By hand: the same bytes as TicketReply encoded, in a third of the time. Nothing in it needs escaping.
        text = (
            f'{{"ticket":"{facts.ticket}","sale":"{sale.id}","lane":"{LANES[facts.lane]}","state":"waiting",'
            f'"place":{place},{middle}"poll_after_ms":{_spread(poll_ms, place)},{_reason_text(line)}'
            f'"joined_at":"{rfc3339(facts.joined_ms)}","admitted_at":null,"ended_at":null,"pass":null}}'
        )
        return Told(TicketState.WAITING, text.encode())

    async def tell(self, facts: TicketFacts, buyer: str) -> Told:
        """How a ticket stands, asked of Redis where memory does not know; an admitted one is taken first.

        While Redis is away, a ticket is told what was last known of it, where that is honest. Raises TicketUnknown,
        LineRecovering, StoreUnavailable, SaleUnknown.
        """
        line = self._feed.line_of(facts.sale_no)
        patience_s = None if line.is_fresh(self._feed.now_ms()) or line.is_closed else AWAY_PATIENCE_S
        try:
            async with asyncio.timeout(patience_s):
                return await self._ask(line, facts, buyer)
        except TimeoutError:
            return self._meanwhile(line, facts, StoreUnavailable())
        except (LineRecovering, StoreUnavailable) as error:
            return self._meanwhile(line, facts, error)

    async def _ask(self, line: KnownLine, facts: TicketFacts, buyer: str) -> Told:
        self._keys(line)
        view = await self._presence.ask(line, facts, buyer, LANES[facts.lane])
        if view is None:
            return self._waiting(line, facts, self._feed.now_ms())
        return await self.tell_view(line, facts, view)

    async def tell_view(self, line: KnownLine, facts: TicketFacts, view: TicketView) -> Told:
        """What to tell of a ticket that Redis has just shown us."""
        if view.state is TicketState.ADMITTED and view.told_ms == 0:
            view = await self._line.take(line.keys, facts.place)
            line.learn(facts.place, view)
        return self._told(self._reply(line, facts, view))

    async def join(self, line: KnownLine, buyer: str) -> Joined:
        """Give the buyer a place, or find the living ticket; the turn of an admitted one is taken.

        Raises SaleDraining, SaleSoldOut, SaleEnded, LineRecovering.
        """
        try:
            view, is_fresh = await self._line.join(self._keys(line), buyer)
        except LineRecovering:
            await self._feed.look_for_epoch()
            raise
        if view.state is TicketState.ADMITTED and view.told_ms == 0:
            view = await self._line.take(line.keys, view.place)
        ticket = self._tickets.issue(line.sale.no, LANES.index(view.lane), view.place, view.joined_ms, buyer)
        # Nobody could be asking for a place that was not given yet: news of it may have come before this answer.
        if view.place > line.news_top:
            line.asking(view.place)
        line.learn(view.place, view)
        # Joining was a first sign of life.
        line.signed.add(view.place)
        reply = self._reply(line, self._tickets.facts(ticket), view)
        token = self._tickets.token(ticket, buyer)
        return Joined(ticket, is_fresh, _encode(msgspec.structs.replace(reply, ticket_token=token)))

    async def leave(self, facts: TicketFacts, buyer: str) -> None:
        """Give the place or the seat up; known here at once. Nothing happens where it has ended already.

        Raises LineRecovering, StoreUnavailable.
        """
        line = self._feed.line_of(facts.sale_no)
        keys = self._keys(line)
        with suppress(TicketUnknown):
            try:
                view = await self._line.leave(keys, facts.place)
            except TicketUnknown:
                # Redis forgot it, and would take it back from its id: it is put back first, so that it can be ended.
                await self._line.restore(keys, facts.place, buyer, facts.joined_ms, LANES[facts.lane])
                view = await self._line.leave(keys, facts.place)
            line.learn(facts.place, view)
        line.forget((facts.place,))

    def _keys(self, line: KnownLine) -> LineKeys:
        """The line's keys, once it has been loaded. Raises LineRecovering."""
        if line.keys.epoch == 0:
            raise LineRecovering
        return line.keys

    def _reply(self, line: KnownLine, facts: TicketFacts, view: TicketView) -> TicketReply:
        if view.state in WAITS:
            return self._seen_waiting(line, facts, self._feed.now_ms())
        return self._seen(line, facts, view)

    def _meanwhile(self, line: KnownLine, facts: TicketFacts, error: Exception) -> Told:
        """Redis cannot say. Who last waited still does, and nobody loses a place; what has ended stays so, and who was
        told of the turn is told the same again while the pass is good. Of others nothing honest is known."""
        last = line.views.get(facts.place)
        now_ms = self._feed.now_ms()
        if last is not None and last.state not in WAITS:
            if last.state.is_living and (last.told_ms == 0 or last.pass_exp_ms <= now_ms):
                raise error
            return self._told(self._seen(line, facts, last))
        ticket = self._seen_waiting(line, facts, now_ms)
        if ticket.reason is None or ticket.reason.code != "recovering":
            ticket = msgspec.structs.replace(ticket, reason=Reason(code="recovering", at=rfc3339(now_ms)))
        return self._told(msgspec.structs.replace(ticket, wait_ms=None, odds=None))

    def _waiting(self, line: KnownLine, facts: TicketFacts, now_ms: int) -> Told:
        return self._told(self._seen_waiting(line, facts, now_ms))

    def _told(self, ticket: TicketReply) -> Told:
        return Told(ticket.state, _encode(ticket))

    def _seen_waiting(self, line: KnownLine, facts: TicketFacts, now_ms: int) -> TicketReply:
        """A ticket that Redis counts among the waiting, by the line's document and the clock."""
        sale, frame = line.sale, line.frame
        if now_ms >= sale.closes_at_ms or line.is_closed:
            return self._seen_closed(line, facts, now_ms)
        place: int | None = facts.place
        if now_ms < sale.opens_at_ms:
            state, ahead, wait, odds = TicketState.SCHEDULED, None, None, None
            # Where the opening crowd is drawn, the number of joining is no place.
            place = None if sale.opening == "draw" else place
            poll_ms = min(POLL_LAST_MS, max(2 * POLL_FIRST_MS, (sale.opens_at_ms - now_ms) // POLLS_A_WAIT))
        else:
            state = TicketState.WAITING
            ahead = frame.ahead(facts.place) if frame is not None else None
            wait = frame.wait_ms(facts.place, now_ms) if frame is not None else None
            odds = frame.odds(facts.place, now_ms) if frame is not None else None
            poll_ms = _poll_ms(wait.p50 if wait is not None else None, ahead)
        return TicketReply(
            ticket=facts.ticket,
            sale=sale.id,
            lane=LANES[facts.lane],
            state=state,
            place=place,
            ahead=ahead,
            wait_ms=WaitReply(wait.p50, wait.p90) if wait is not None else None,
            odds=odds,
            poll_after_ms=_spread(_bounded(poll_ms, line), facts.place),
            reason=self._reason(line, facts, now_ms),
            opens_at=rfc3339(sale.opens_at_ms),
            joined_at=rfc3339(facts.joined_ms),
            admitted_at=None,
            ended_at=None,
            pass_=None,
        )

    def _seen_closed(self, line: KnownLine, facts: TicketFacts, now_ms: int) -> TicketReply:
        # A sale that sold out before it ended closed its tickets then.
        ended_ms = line.closed_ms or line.sale.closes_at_ms
        return self._ended(line, facts, TicketState.CLOSED, min(ended_ms, now_ms), line.reason)

    def _seen(self, line: KnownLine, facts: TicketFacts, view: TicketView) -> TicketReply:
        """A ticket that has been admitted or has ended, as Redis showed it."""
        ended = self._ended(line, facts, view.state, view.ended_ms, None if view.state.is_living else line.reason)
        if view.admitted_ms:
            ended = msgspec.structs.replace(ended, admitted_at=rfc3339(view.admitted_ms))
        if view.state is not TicketState.ADMITTED:
            return ended
        return msgspec.structs.replace(
            ended,
            poll_after_ms=_spread(_bounded(_poll_ms(None), line), facts.place),
            reason=None,
            pass_=self._pass(line, view),
        )

    def _ended(
        self, line: KnownLine, facts: TicketFacts, state: TicketState, ended_ms: int, reason: Reason | None
    ) -> TicketReply:
        return TicketReply(
            ticket=facts.ticket,
            sale=line.sale.id,
            lane=LANES[facts.lane],
            state=state,
            place=facts.place,
            ahead=None,
            wait_ms=None,
            poll_after_ms=_bounded(POLL_LAST_MS, line),
            reason=reason,
            opens_at=rfc3339(line.sale.opens_at_ms),
            joined_at=rfc3339(facts.joined_ms),
            admitted_at=None,
            ended_at=rfc3339(ended_ms) if ended_ms else None,
            pass_=None,
        )

    def _pass(self, line: KnownLine, view: TicketView) -> PassReply:
        """The same for every copy: all claims come from Redis."""
        token = self._passes.mint(
            sale=line.sale.id,
            buyer=view.buyer,
            turn=view.turn,
            lane=view.lane,
            epoch=line.keys.epoch,
            iat_ms=view.told_ms,
            exp_ms=view.pass_exp_ms,
        )
        return PassReply(token, rfc3339(view.pass_exp_ms))

    def _reason(self, line: KnownLine, facts: TicketFacts, now_ms: int) -> Reason | None:
        view = line.views.get(facts.place)
        if view is not None and view.state in WAITS:
            # Told once: from the next answer on it is as if it had always been here.
            del line.views[facts.place]
            if view.was_absent:
                return Reason(code="was_absent", at=rfc3339(now_ms))
        if now_ms >= line.sale.opens_at_ms and not line.is_fresh(now_ms):
            return line.shown(now_ms).document.reason
        return line.reason


def _poll_ms(wait_p50_ms: int | None, ahead: int | None = None) -> int:
    """How long until the next poll is worth it. While nobody can say how long the wait is, the front asks each second,
    so that it is there when the line begins to move, and the rest every five."""
    if wait_p50_ms is None:
        return POLL_FIRST_MS if ahead is not None and ahead < FRONT else 5 * POLL_FIRST_MS
    return min(POLL_LAST_MS, max(POLL_FIRST_MS, wait_p50_ms // POLLS_A_WAIT))


def _bounded(poll_ms: int, line: KnownLine) -> int:
    """No more than a third of the grace, also after spreading: three polls fit before a ticket counts as absent."""
    third_ms = line.sale.policy.absent_after_s * 1000 // 3
    return max(1, min(poll_ms, POLL_LAST_MS, third_ms) * SPREAD // (SPREAD + 1))


def _spread(poll_ms: int, place: int) -> int:
    """Within a fifth of `poll_ms`, the same for a place each time, unlike its neighbours'."""
    return poll_ms + poll_ms * ((place * 40_503 & 0xFFFF) - 32_768) // (32_768 * SPREAD)


def _step_text(line: KnownLine, frame: Frame, place: int) -> tuple[str, int]:
    """`ahead`, `wait_ms` and `odds` of everyone at this step of a fresh document, as JSON, and when they should poll
    again."""
    step = frame.step(place)
    known = frame.texts.get(step)
    if known is None:
        wait = frame.wait_at(step)
        wait_text = "null" if wait is None else f'{{"p50":{wait.p50},"p90":{wait.p90}}}'
        ahead = frame.ahead_at(step)
        poll_ms = _bounded(_poll_ms(None if wait is None else wait.p50, ahead), line)
        odds = frame.odds_at(step)
        odds_text = "null" if odds is None else f'"{odds}"'
        known = frame.texts[step] = (f'"ahead":{ahead},"wait_ms":{wait_text},"odds":{odds_text},', poll_ms)
    return known


def _reason_text(line: KnownLine) -> str:
    """The line's reason and opening as JSON, kept until either changes."""
    key = (line.reason, line.sale.opens_at_ms)
    if line.words is None or line.words[0] != key:
        opens_at = rfc3339(line.sale.opens_at_ms)
        line.words = (key, f'"reason":{_encode(line.reason).decode()},"opens_at":"{opens_at}",')
    return line.words[1]
