"""Event streams, written straight to their connections by one pump. No task, no queue and no timer a stream.

Each stream stands in one of 101 slots and is served when its slot comes round, about every five seconds; news is
written to those it concerns at once. Writing goes in slices, so that ten thousand streams never hold the loop. A
handler only begins the answer; then the pump has its connection, and ends it when there is nothing more to tell, when
it is stalled or too far behind. A stream is a sign of life only while the network has acknowledged all that was written
to it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import msgspec
from aiohttp import web

from onsale.auth.errors import StoreUnavailable
from onsale.auth.tickets import TicketFacts
from onsale.lua.batching import Overloaded
from onsale.queue.errors import LineRecovering, StreamsExhausted, TicketUnknown
from onsale.queue.feed import Feed, KnownLine, Places
from onsale.queue.frame import Frame
from onsale.queue.presence import Presence
from onsale.queue.states import LineState, TicketState
from onsale.queue.teller import WAITS, Teller, Told
from onsale.queue.wire import Answer, Wire, chunk, event

# Slots of 50 ms: each stream is served every 5.05 s, and each look at the clock serves one in a hundred.
SLOT_MS = 50
SLOTS = 101
# A holder's stream carries the document no oftener, so that a slot is never just too early.
LINE_EVERY_MS = 5_000
# A public stream carries no more than one a second: one that was made sooner, on a change, waits its time.
PASS_ON_EVERY_MS = 1_000
# A slice of 100 writes takes one or two milliseconds: nothing else in the process waits longer than that.
SLICE = 100
# Streams whose tickets are asked of Redis in one go.
ASKED_MAX = 250
# An admitted ticket's news may be lost too: without any, it is asked again this often.
ASK_AGAIN_MS = 30_000
# What was just said is not said again: news and the slot often ask about the same ticket.
REPEAT_MS = 1_000
# One comment at least every 15 s is promised; ten leave room for a slow loop.
SILENCE_MS = 10_000
# After a restart streams return over 1 s, and over 1 ms for each person who waits where there are more than a thousand:
# whichever process dies, and if it is all of them.
RETRY_FIRST_MS = 1_000
RETRY_SPREAD_MAX_MS = 19_000

# Redis is away or busy: the tickets concerned are asked for again when their slot comes round.
FORESEEN = (LineRecovering, StoreUnavailable, Overloaded)

HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How many streams may be open in this process: of all kinds, of one person, of one address that is not spared."""

    process_max: int = 20_000
    person_max: int = 6
    address_max: int = 200


@dataclass(frozen=True, slots=True)
class StreamTick:
    """What the pump wrote, and whom it dropped."""

    written: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class TellTick:
    """Tickets that were asked of Redis for their streams. `more`: others wait for it, or streams ended meanwhile."""

    told: int = 0
    failed: int = 0
    more: bool = False


COMMENT = b": still here\n\n"

# What is left to do when a stream has sent its last event.
OnEnd = Callable[[], Awaitable[None]]


class TicketStream:
    """One holder's stream."""

    __slots__ = (
        "asked_ms",
        "buyer",
        "facts",
        "framed_ms",
        "message",
        "on_end",
        "order",
        "session",
        "spread_ms",
        "told",
        "wire",
    )

    def __init__(
        self,
        wire: Wire,
        facts: TicketFacts,
        buyer: str,
        session: str,
        on_end: OnEnd | None,
        told: Told,
        frame: Frame,
        spread_ms: int,
    ) -> None:
        self.wire = wire
        self.on_end = on_end
        # The sign-in that opened it; empty where a ticket's token did.
        self.session = session
        self.facts = facts
        self.buyer = buyer
        self.told = told
        # Of the document that was written last: which, when; and the operators' message last shown.
        self.order = frame.order
        self.framed_ms = wire.wrote_ms
        self.message = frame.document.message
        self.asked_ms = wire.wrote_ms
        # Over how long its client and the others were told to come back.
        self.spread_ms = spread_ms


class LineStream:
    """One stream of a line's documents."""

    __slots__ = ("opened_ms", "order", "sale_no", "wire")

    # Nobody signs in.
    session = ""

    def __init__(self, wire: Wire, sale_no: int, frame: Frame) -> None:
        self.wire = wire
        self.sale_no = sale_no
        # When it was opened, and with which document.
        self.opened_ms = wire.wrote_ms
        self.order = frame.order


class LiveStream:
    """One operator's stream of figures."""

    __slots__ = ("sale_no", "session", "wire")

    def __init__(self, wire: Wire, sale_no: int, session: str) -> None:
        self.wire = wire
        self.session = session
        self.sale_no = sale_no


Stream = TicketStream | LineStream | LiveStream


class Room:
    """What one stream takes up of its owner's share; kept by the stream that was opened, until that has gone."""

    __slots__ = ("is_kept", "owner")

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.is_kept = False


S = TypeVar("S", TicketStream, LineStream, LiveStream, Stream)


class Streams:
    """Every event stream of this process. `tick` (every 50 ms) writes what memory knows, `tell` (every 20 ms) asks
    Redis for those of whom there is news. Neither waits for any client. `revoked` is what this process knows of
    sessions that were ended: their streams end within a second of it."""

    def __init__(
        self,
        teller: Teller,
        feed: Feed,
        presence: Presence,
        limits: StreamLimits,
        *,
        revoked: Container[str] = frozenset(),
        rng: random.Random | None = None,
        clock_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
    ) -> None:
        self._teller = teller
        self._feed = feed
        self._presence = presence
        self._limits = limits
        self._revoked = revoked
        self._rng = rng or random.Random()
        self._clock_ms = clock_ms
        self._slots: list[dict[Stream, None]] = [{} for _ in range(SLOTS)]
        self._slot_next = 0
        self._served_to = self._clock_ms() // SLOT_MS
        self._swept_ms = 0
        self._by_ticket: dict[tuple[int, int], list[TicketStream]] = {}
        self._on_line: defaultdict[int, dict[LineStream, None]] = defaultdict(dict)
        self._live: defaultdict[int, dict[LiveStream, None]] = defaultdict(dict)
        # Of each line with public streams: which document was passed on last, and when.
        self._passed_on: dict[int, tuple[tuple[int, int], int]] = {}
        # Streams of every kind, and how many of them each person or address has.
        self.open_count = 0
        self._owners: Counter[str] = Counter()
        self._to_tell: dict[TicketStream, None] = {}
        self._to_end: list[OnEnd] = []
        self._lines_to_tell: dict[int, None] = {}
        self._is_closing = False
        feed.listen(self._notice)

    async def serve_ticket(
        self, request: web.Request, facts: TicketFacts, buyer: str, session: str, on_end: OnEnd | None = None
    ) -> web.StreamResponse:
        """Open a holder's stream; it goes on until its last event or until the client goes. `on_end` is awaited after
        the last event.

        204 when there is nothing more to tell. Raises StreamsExhausted, and what telling raises.
        """
        async with self._room(f"buyer {buyer}", self._limits.person_max) as room:
            return await self._serve_ticket(room, request, facts, buyer, session, on_end)

    async def serve_line(self, request: web.Request, line: KnownLine, address: str | None) -> web.StreamResponse:
        """A line's documents as they come, to anyone. `address` None: not counted. 204 when the sale has ended."""
        address_max = self._limits.process_max if address is None else self._limits.address_max
        async with self._room(f"address {address or ''}", address_max) as room:
            return await self._serve_line(room, request, line)

    async def serve_live(
        self, request: web.Request, line: KnownLine, operator: str, session: str
    ) -> web.StreamResponse:
        """Operators' figures of a sale, as `publish_live` gives them."""
        async with self._room(f"operator {operator}", self._limits.person_max) as room:
            return await self._serve_live(room, request, line, session)

    def watched_live(self) -> tuple[int, ...]:
        """Numbers of the sales whose figures somebody watches."""
        return tuple(sale_no for sale_no, streams in self._live.items() if streams)

    async def publish_live(self, sale_no: int, figures: bytes, event_id: str) -> int:
        """Write a sale's figures to those who watch; answers to how many."""
        plain = event("live", figures, event_id)
        chunked = chunk(plain)

        def publish(stream: LiveStream, now_ms: int) -> bool:
            return stream.wire.write(plain, chunked, now_ms)

        return await self._in_slices(tuple(self._live[sale_no]), publish, self._clock_ms())

    async def tick(self) -> StreamTick:
        """Serve the slots that are due, pass new documents on, and look after sessions that were ended."""
        now_ms = self._clock_ms()
        written = dropped = 0
        for sale_no in tuple(self._lines_to_tell):
            del self._lines_to_tell[sale_no]
            written += await self._in_slices(self._of_line(sale_no), self._refresh, now_ms)
        for sale_no in tuple(self._on_line):
            written += await self._pass_on(sale_no, now_ms)
        due = now_ms // SLOT_MS
        for slot in range(max(self._served_to, due - SLOTS) + 1, due + 1):
            written += await self._in_slices(tuple(self._slots[slot % SLOTS]), self._serve, now_ms)
        self._served_to = due
        if now_ms - self._swept_ms >= 1_000:
            self._swept_ms = now_ms
            dropped = await self._sweep()
        return StreamTick(written, dropped)

    async def tell(self) -> TellTick:
        """Ask Redis how the tickets stand of which there was news, and tell their holders: for the admitted this takes
        the turn, so nobody is asked for whose connection is in doubt. Then see to those who were told their last."""
        batch = list(islice(self._to_tell, ASKED_MAX))
        for stream in batch:
            del self._to_tell[stream]
        live = [stream for stream in batch if stream.wire.is_live]
        results = await asyncio.gather(*map(self._tell_one, live), return_exceptions=True)
        ending, self._to_end = self._to_end, []
        await asyncio.gather(*(end() for end in ending))
        failures = [result for result in results if isinstance(result, BaseException)]
        unforeseen = [error for error in failures if not isinstance(error, FORESEEN)]
        if unforeseen:
            raise unforeseen[0]
        return TellTick(len(live) - len(failures), len(failures), more=bool(self._to_tell or self._to_end))

    async def close(self) -> None:
        """End every stream so that its client comes back, not all of them at once."""
        self._is_closing = True
        now_ms = self._clock_ms()
        for stream in tuple(self._all()):
            retry = self._retry()
            stream.wire.write(retry, chunk(retry), now_ms)
            stream.wire.finish()
        await asyncio.sleep(0)

    # --- opening and ending

    @asynccontextmanager
    async def _room(self, owner: str, owner_max: int) -> AsyncIterator[Room]:
        """Room for one stream, counted before it is opened: a thousand that open at once must not all find some.

        Raises StreamsExhausted; but a client that reconnects is not refused for its own dead connections.
        """
        if not self._has_room(owner, owner_max):
            # What has closed already is forgotten before this goes on.
            await asyncio.sleep(0)
        if not self._has_room(owner, owner_max):
            raise StreamsExhausted
        self._owners[owner] += 1
        self.open_count += 1
        room = Room(owner)
        try:
            yield room
        finally:
            if not room.is_kept:
                self._give(room)

    def _has_room(self, owner: str, owner_max: int) -> bool:
        is_full = self.open_count >= self._limits.process_max or self._owners[owner] >= owner_max
        return not is_full and not self._is_closing

    def _give(self, room: Room) -> None:
        self.open_count -= 1
        self._owners[room.owner] -= 1
        if not self._owners[room.owner]:
            del self._owners[room.owner]

    async def _serve_ticket(
        self,
        room: Room,
        request: web.Request,
        facts: TicketFacts,
        buyer: str,
        session: str,
        on_end: OnEnd | None,
    ) -> web.StreamResponse:
        line = self._feed.line_of(facts.sale_no)
        told = self._teller.from_memory(line, facts) or await self._teller.tell(facts, buyer)
        if told.is_final:
            return web.Response(status=204)
        frame = line.shown(self._feed.now_ms())
        first = [self._retry(), event("ticket", told.doc, _id(frame))]
        if request.headers.get("Last-Event-ID") != _id(frame):
            first.append(event("line", frame.doc, _id(frame)))
            first.extend([_message(frame)] if frame.document.message is not None else [])
        answer, wire = await self._open(request, b"".join(first))
        if wire is None:
            return answer
        stream = TicketStream(wire, facts, buyer, session, on_end, told, frame, self._spread_ms())
        self._by_ticket.setdefault((facts.sale_no, facts.place), []).append(stream)
        self._park(stream, room)
        if self._teller.from_memory(line, facts) is None:
            # News may have come while the stream was being opened.
            self._to_tell[stream] = None
        return answer

    async def _serve_line(self, room: Room, request: web.Request, line: KnownLine) -> web.StreamResponse:
        frame = line.shown(self._feed.now_ms())
        if frame.document.state is LineState.ENDED:
            return web.Response(status=204)
        is_known = request.headers.get("Last-Event-ID") == _id(frame)
        news = COMMENT if is_known else event("line", frame.doc, _id(frame))
        answer, wire = await self._open(request, self._retry() + news)
        if wire is None:
            return answer
        stream = LineStream(wire, line.sale.no, frame)
        self._on_line[line.sale.no][stream] = None
        self._passed_on.setdefault(line.sale.no, (frame.order, stream.opened_ms))
        self._park(stream, room)
        return answer

    async def _serve_live(self, room: Room, request: web.Request, line: KnownLine, session: str) -> web.StreamResponse:
        answer, wire = await self._open(request, self._retry())
        if wire is None:
            return answer
        stream = LiveStream(wire, line.sale.no, session)
        self._live[line.sale.no][stream] = None
        self._park(stream, room)
        return answer

    async def _open(self, request: web.Request, first: bytes) -> tuple[web.StreamResponse, Wire | None]:
        """Begin the answer, and take its connection. Without a wire there is nothing to keep open: HEAD asks for
        headers only."""
        if request.method == "HEAD":
            return web.Response(headers=HEADERS), None
        answer = Answer(HEADERS)
        await answer.prepare(request)
        await answer.write(first)
        return answer, Wire.take(request, now_ms=self._clock_ms())

    def _park(self, stream: Stream, room: Room) -> None:
        """Into the next slot, until its connection has gone: slots fill evenly, whenever streams come."""
        slot = self._slots[self._slot_next]
        self._slot_next = (self._slot_next + 1) % SLOTS
        slot[stream] = None
        room.is_kept = True
        stream.wire.watch(partial(self._forget, stream, slot, room))
        if self._is_closing:
            stream.wire.finish()  # it was on its way while all others were ended

    def _forget(self, stream: Stream, slot: dict[Stream, None], room: Room) -> None:
        del slot[stream]
        self._give(room)
        if isinstance(stream, TicketStream):
            self._to_tell.pop(stream, None)
            ticket = stream.facts.sale_no, stream.facts.place
            self._by_ticket[ticket].remove(stream)
            if not self._by_ticket[ticket]:
                del self._by_ticket[ticket]
        elif isinstance(stream, LineStream):
            self._on_line[stream.sale_no].pop(stream, None)
        else:
            del self._live[stream.sale_no][stream]

    def _retry(self) -> bytes:
        return b"retry: %d\n\n" % (RETRY_FIRST_MS + self._rng.randrange(self._spread_ms()))

    def _spread_ms(self) -> int:
        waiting = max((line.frame.waiting for line in self._feed.lines() if line.frame is not None), default=0)
        return min(RETRY_SPREAD_MAX_MS, max(RETRY_FIRST_MS, self.open_count, waiting))

    # --- news

    def _notice(self, line: KnownLine, places: Places | None) -> None:
        """The feed's news: these tickets may have changed, or (None) every ticket of the line."""
        sale_no = line.sale.no
        if places is None:
            self._lines_to_tell[sale_no] = None
            return
        for place in places:
            for stream in self._by_ticket.get((sale_no, place), ()):
                self._to_tell[stream] = None

    async def _tell_one(self, stream: TicketStream) -> None:
        stream.asked_ms = self._clock_ms()
        try:
            told = await self._teller.tell(stream.facts, stream.buyer)
        except TicketUnknown:
            told = Told(TicketState.CLOSED, b"")
        now_ms = self._clock_ms()
        if told.doc != stream.told.doc or now_ms - stream.wire.wrote_ms >= REPEAT_MS:
            self._write_ticket(stream, told, now_ms)

    # --- writing

    def _refresh(self, stream: Stream, now_ms: int) -> bool:
        """Something that everyone should hear has changed: say it from memory, or find out first."""
        if not isinstance(stream, TicketStream):
            return False
        line = self._feed.line_of(stream.facts.sale_no)
        told = self._teller.from_memory(line, stream.facts)
        if told is None:
            self._to_tell[stream] = None
            return False
        return self._write_ticket(stream, told, now_ms)

    def _serve(self, stream: Stream, now_ms: int) -> bool:
        """A stream's turn in its slot."""
        # Also asked of those that are over: what is still on its way must not be so for ever.
        if not stream.wire.is_moving(now_ms) or stream.wire.is_over:
            return False
        if not isinstance(stream, TicketStream):
            return now_ms - stream.wire.wrote_ms >= SILENCE_MS and stream.wire.write(COMMENT, chunk(COMMENT), now_ms)
        line = self._feed.line_of(stream.facts.sale_no)
        told = self._teller.from_memory(line, stream.facts)
        if told is None and self._is_settled(stream, now_ms):
            told = stream.told
        if told is None:
            self._to_tell[stream] = None
            return False
        if told.state in WAITS and stream.wire.is_acknowledged():
            self._presence.sign(line, stream.facts.place)
        return self._write_ticket(stream, told, now_ms)

    def _is_settled(self, stream: TicketStream, now_ms: int) -> bool:
        """Admitted, told so, and asked about lately: only news changes that."""
        return stream.told.state is TicketState.ADMITTED and now_ms - stream.asked_ms < ASK_AGAIN_MS

    def _write_ticket(self, stream: TicketStream, told: Told, now_ms: int) -> bool:
        if stream.wire.is_over:
            return False
        frame = self._feed.line_of(stream.facts.sale_no).shown(self._feed.now_ms())
        event_id = _id(frame)
        events = [event("ticket", told.doc, event_id)] if told.doc else []
        stream.told = told
        if frame.document.message != stream.message:
            stream.message = frame.document.message
            events.append(_message(frame))
        if frame.order != stream.order and now_ms - stream.framed_ms >= LINE_EVERY_MS:
            stream.order, stream.framed_ms = frame.order, now_ms
            if (spread_ms := self._spread_ms()) >= 2 * stream.spread_ms:
                # Whoever came before the crowd did must not all be back before the rest of it.
                stream.spread_ms = spread_ms
                events.append(self._retry())
            events.append(event("line", frame.doc, event_id))
        if told.is_final:
            events.append(event("closed", _encode({"ticket": stream.facts.ticket, "state": told.state}), event_id))
        payload = b"".join(events)
        is_written = stream.wire.write(payload, chunk(payload), now_ms)
        if told.is_final:
            stream.wire.finish()
            self._to_end.extend([stream.on_end] if stream.on_end is not None else [])
        return is_written

    async def _pass_on(self, sale_no: int, now_ms: int) -> int:
        """A line's newest document to its public streams; its last one ends them."""
        streams = self._on_line[sale_no]
        if not streams:
            del self._on_line[sale_no]
            self._passed_on.pop(sale_no, None)
            return 0
        frame = self._feed.line_of(sale_no).shown(self._feed.now_ms())
        order, passed_ms = self._passed_on[sale_no]
        if frame.order == order or now_ms - passed_ms < PASS_ON_EVERY_MS:
            return 0
        self._passed_on[sale_no] = (frame.order, now_ms)
        plain = event("line", frame.doc, _id(frame))
        chunked = chunk(plain)
        is_last = frame.document.state is LineState.ENDED

        def pass_on(stream: LineStream, now_ms: int) -> bool:
            # Just opened, and with this one or the one before: it waits for the next, unless there is none.
            is_early = stream.order == frame.order or (now_ms - stream.opened_ms < PASS_ON_EVERY_MS and not is_last)
            is_written = not is_early and stream.wire.write(plain, chunked, now_ms)
            if is_last:
                stream.wire.finish()
            return is_written

        return await self._in_slices(tuple(streams), pass_on, now_ms)

    async def _in_slices(self, streams: Sequence[S], serve: Callable[[S, int], bool], now_ms: int) -> int:
        written = 0
        for start in range(0, len(streams), SLICE):
            if start:
                await asyncio.sleep(0)
            for stream in streams[start : start + SLICE]:
                if not stream.wire.is_gone:
                    written += serve(stream, now_ms)
        return written

    async def _sweep(self) -> int:
        """End the streams of those whose session was ended: they come back and are refused."""
        dropped = 0
        streams = tuple(self._all())
        for start in range(0, len(streams), 20 * SLICE):
            await asyncio.sleep(0)
            for stream in streams[start : start + 20 * SLICE]:
                if stream.session in self._revoked and not stream.wire.is_over:
                    stream.wire.finish()
                    dropped += 1
        return dropped

    def _all(self) -> Iterator[Stream]:
        return (stream for slot in self._slots for stream in slot)

    def _of_line(self, sale_no: int) -> tuple[Stream, ...]:
        return tuple(s for s in self._all() if isinstance(s, TicketStream) and s.facts.sale_no == sale_no)


def _id(frame: Frame) -> str:
    epoch, seq = frame.order
    return f"{epoch}-{seq}"


def _message(frame: Frame) -> bytes:
    return event("message", _encode(frame.document.message), _id(frame))
