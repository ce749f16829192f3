"""What this process knows of every line: the newest document, and which tickets Redis said are simply waiting.

One subscription a process; the newest document wins, ordered by (epoch, seq). A lost message is never fatal: documents
are also fetched each second in which none came, the replies to signs of life name every ticket that is not simply
waiting, and whenever the subscription was interrupted everything known of tickets is forgotten and asked anew.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from onsale.catalog.sales import Sale, SaleBook
from onsale.lua.keys import LineKeys
from onsale.queue.estimate import PaceTracker
from onsale.queue.frame import FRESH_MS, Frame, FrameInvalid, Reason, build, rfc3339
from onsale.queue.states import LineState, TicketState, TicketView

# Documents come once a second: silence for this long means asking for one.
SILENCE_MS = 1_000
# A subscription that carries nothing for this long is asked whether it lives, and dropped after twice that.
QUIET_MS = 3_000
# A page holds 65,536 places in 8 KiB: a line of a million takes 128 KiB however its tickets are spread over processes.
_PAGE_BITS = 16
# Of tickets that are not simply waiting only the newest are kept; any of them can be asked for again.
VIEWS_MAX = 10_000

Places = Iterable[int]
# Told of tickets whose state may have changed; None stands for every ticket of the line.
Listener = Callable[["KnownLine", Places | None], None]


class PlaceSet:
    """A set of places as bits: a million of them are 128 KiB, and adding one takes no memory."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def __contains__(self, place: int) -> bool:
        page = self._pages.get(place >> _PAGE_BITS)
        return page is not None and bool(page[place >> 3 & 0x1FFF] >> (place & 7) & 1)

    def add(self, place: int) -> bool:
        """Whether it was not in before."""
        page = self._pages.get(place >> _PAGE_BITS)
        if page is None:
            page = self._pages[place >> _PAGE_BITS] = bytearray(1 << _PAGE_BITS - 3)
        at, bit = place >> 3 & 0x1FFF, 1 << (place & 7)
        if page[at] & bit:
            return False
        page[at] |= bit
        return True

    def discard(self, place: int) -> None:
        page = self._pages.get(place >> _PAGE_BITS)
        if page is not None:
            page[place >> 3 & 0x1FFF] &= ~(1 << (place & 7)) & 0xFF

    def clear(self) -> None:
        self._pages.clear()


class FrameNews(msgspec.Struct, tag_field="kind", tag="frame", frozen=True):
    epoch: int
    seq: int
    doc: str


class AdmittedNews(msgspec.Struct, tag_field="kind", tag="admitted", frozen=True):
    epoch: int
    turns: list[tuple[int, str]]


class EndedNews(msgspec.Struct, tag_field="kind", tag="ended", frozen=True):
    """`all` names the state of every ticket when the whole line ends; else `tickets` lists those that ended."""

    epoch: int
    tickets: list[tuple[int, str]] = []
    all: str = ""


class AbsentNews(msgspec.Struct, tag_field="kind", tag="absent", frozen=True):
    epoch: int
    places: list[int]


class ChangedNews(msgspec.Struct, tag_field="kind", tag="changed", frozen=True):
    epoch: int
    reason: Reason | None = None


_decode_news = msgspec.json.Decoder(FrameNews | AdmittedNews | EndedNews | AbsentNews | ChangedNews).decode


class KnownLine:
    """What this process knows of one sale's line in one epoch."""

    __slots__ = (
        "_asking",
        "_listener",
        "_stand_in",
        "_tracker",
        "closed_ms",
        "frame",
        "heard_ms",
        "keys",
        "known",
        "news_top",
        "reason",
        "sale",
        "sign_quarter",
        "signed",
        "unsent",
        "views",
        "words",
    )

    def __init__(self, sale: Sale, listener: Listener) -> None:
        self.sale = sale
        self.keys = LineKeys(sale.id, sale.line_epoch)
        self.frame: Frame | None = None
        # Why things are as they are, from the newest document or from news that overtook it.
        self.reason: Reason | None = None
        # The reason and the opening as JSON, and what they were made of.
        self.words: tuple[object, str] | None = None
        # When the line was first seen sold out or ended; 0 while it is neither.
        self.closed_ms = 0
        self.heard_ms = 0
        # Tickets that Redis said are simply waiting, and of which no news came since.
        self.known = PlaceSet()
        # The highest place of which there was news.
        self.news_top = 0
        # The newest views of tickets that were not simply waiting.
        self.views: dict[int, TicketView] = {}
        # Signs of life of this quarter: whose was gathered, and which are not sent yet.
        self.signed = PlaceSet()
        self.sign_quarter = 0
        self.unsent: list[int] = []
        self._asking: set[int] = set()
        self._tracker = PaceTracker()
        self._listener = listener
        # Shown while there is no document, or none that is fresh.
        self._stand_in: Frame | None = None

    @property
    def is_closed(self) -> bool:
        """Whether everyone who still waits is out of luck: sold out or ended."""
        return self.closed_ms > 0

    def asking(self, place: int) -> None:
        """Redis is being asked: news of this ticket that comes before the answer makes the answer old."""
        self._asking.add(place)

    def unasked(self, place: int) -> None:
        """No answer will be learned: the asker failed, or went away."""
        self._asking.discard(place)

    def learn(self, place: int, view: TicketView | None) -> None:
        """What Redis answered; None: simply waiting."""
        if view is None or _is_waiting(view):
            # An answer that news has overtaken is old: whoever needs the ticket asks again.
            if place in self._asking:
                self.known.add(place)
        else:
            self.known.discard(place)
        self._asking.discard(place)
        self._keep(place, view)

    def forget(self, places: Iterable[int]) -> None:
        """Something happened to these tickets: whoever needs one asks Redis."""
        for place in places:
            self.known.discard(place)
            self._asking.discard(place)
            self.news_top = max(self.news_top, place)
        self._listener(self, places)

    def suspect(self) -> None:
        """News may have been lost: nothing known of any ticket counts any more."""
        self.known.clear()
        self._asking.clear()
        self._listener(self, None)

    def take_in(self, doc: bytes, heard_ms: int) -> bool:
        """A document came; whether it is newer than what we had. Raises FrameInvalid."""
        frame = Frame(doc)
        self.heard_ms = heard_ms
        if self.frame is not None and frame.order <= self.frame.order:
            return False
        frame.pace = self._tracker.observe(frame.sample())
        before, self.frame, self.reason = self.frame, frame, frame.document.reason
        is_closed = frame.document.state in (LineState.SOLD_OUT, LineState.ENDED)
        self.closed_ms = (self.closed_ms or frame.as_of_ms) if is_closed else 0
        if before is None or _words(before) != _words(frame):
            self._listener(self, None)
        return True

    def explain(self, reason: Reason | None) -> None:
        """The reason changed; the document that says so follows."""
        self.reason = reason
        self._listener(self, None)

    def shown(self, now_ms: int) -> Frame:
        """The document to show at `now_ms`: the newest, or, where that is too old to be the present, one saying so."""
        frame = self.frame
        if frame is not None and (self.is_closed or frame.is_fresh(now_ms)):
            return frame
        if frame is None:
            return self._before_first(now_ms)
        if self._stand_in is None or self._stand_in.order != frame.order:
            self._stand_in = _recovering(frame)
        return self._stand_in

    def is_fresh(self, now_ms: int) -> bool:
        """Whether the newest document may be taken for the present."""
        return self.frame is not None and self.frame.is_fresh(now_ms)

    def _before_first(self, now_ms: int) -> Frame:
        if self._stand_in is None or not self._stand_in.is_fresh(now_ms + FRESH_MS - SILENCE_MS):
            self._stand_in = _unborn(self.sale, now_ms)
        return self._stand_in

    def _keep(self, place: int, view: TicketView | None) -> None:
        before = self.views.pop(place, None)
        if view is None and before is not None and before.was_absent:
            view = before  # its holder has not read yet that it was passed over
        if view is not None and (view.was_absent or not _is_waiting(view)):
            self.views[place] = view
        if len(self.views) > VIEWS_MAX:
            del self.views[next(iter(self.views))]


@dataclass(frozen=True, slots=True)
class FeedTick:
    """What one look at the subscription brought. `more`: look again at once."""

    messages: int = 0
    malformed: int = 0
    is_connected: bool = True
    more: bool = True


@dataclass(frozen=True, slots=True)
class RefreshTick:
    """Documents fetched because none came, and the greatest age of any line's document (ms)."""

    fetched: int = 0
    age_max_ms: int = 0


class Feed:
    """One subscription for all lines of the book. `tick` receives (it waits for news, so call it again at once);
    `refresh` is called each second. Both may fail while Redis is away; what is known stays readable."""

    def __init__(
        self, redis: Redis, book: SaleBook, *, patience_s: float = 0.25, rng: random.Random | None = None
    ) -> None:
        self._redis = redis
        self._book = book
        self._patience_s = patience_s
        self._rng = rng or random.Random()
        self._pubsub: PubSub | None = None
        self._lines: dict[int, KnownLine] = {}
        self._by_channel: dict[bytes, KnownLine] = {}
        self._sales: tuple[Sale, ...] = ()
        self._listeners: list[Listener] = []
        self._quiet_since_ms = _monotonic_ms()
        self._is_pinged = False
        self._clock_offset_ms = 0
        self._looked_ms = 0

    def now_ms(self) -> int:
        """The line's Redis time, by this process's clock and how far it was off when last compared."""
        return time.time_ns() // 1_000_000 + self._clock_offset_ms

    def listen(self, listener: Listener) -> None:
        """Call `listener` whenever the state of tickets may have changed."""
        self._listeners.append(listener)

    def line(self, sale: str) -> KnownLine:
        """Raises SaleUnknown."""
        return self.line_of(self._book.get(sale).no)

    def line_of(self, sale_no: int) -> KnownLine:
        """By the number that ids carry. Raises SaleUnknown."""
        line = self._lines.get(sale_no)
        if line is None:
            return self._adopt(self._book.by_no(sale_no))
        return line

    def lines(self) -> tuple[KnownLine, ...]:
        """Every line, oldest sale first."""
        return tuple(self._lines.values())

    async def tick(self) -> FeedTick:
        """Wait a moment for news and take in all that is there. An interrupted subscription is dropped, everything
        known of tickets with it, and made anew after a pause that differs from process to process."""
        try:
            await self._subscribe()
            return await self._receive()
        except (RedisError, OSError):
            await self._lose()
            # 50-500 ms: a thousand processes must not return to a recovering Redis in one instant.
            await asyncio.sleep(self._rng.uniform(0.05, 0.5))
            return FeedTick(is_connected=False)

    async def follow(self) -> None:
        """Read the book now: something in it has just changed."""
        await self._book.refresh()
        self._meet_sales()

    async def look_for_epoch(self) -> None:
        """A line answered that it is recovering: perhaps another epoch has begun and only this process does not know.
        However many ask, the book is read four times a second."""
        if _monotonic_ms() - self._looked_ms >= 250:
            self._looked_ms = _monotonic_ms()
            await self.follow()

    async def refresh(self) -> RefreshTick:
        """Compare clocks, and fetch the documents of lines that have been silent. Raises RedisError."""
        self._meet_sales()
        silent = [line for line in self._lines.values() if _monotonic_ms() - line.heard_ms >= SILENCE_MS]
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for line in silent:
                pipe.get(line.keys.frame)
            started_ns = time.time_ns()
            (seconds, micros), *docs = await pipe.execute()
        middle_ns = (started_ns + time.time_ns()) // 2
        self._clock_offset_ms = (seconds * 1_000_000 + micros - middle_ns // 1000) // 1000
        fetched = sum(_take_in(line, doc) for line, doc in zip(silent, docs, strict=True) if doc is not None)
        now_ms = self.now_ms()
        ages = [now_ms - line.frame.as_of_ms for line in self._lines.values() if line.frame and not line.is_closed]
        return RefreshTick(fetched, max(ages, default=0))

    async def close(self) -> None:
        """End the subscription."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    def _meet_sales(self) -> None:
        """Follow the book: new sales, changed settings, new epochs."""
        sales = self._book.all()
        if sales == self._sales:
            return
        self._sales = sales
        for sale in sales:
            self._adopt(sale)

    def _adopt(self, sale: Sale) -> KnownLine:
        line = self._lines.get(sale.no)
        if line is not None and line.keys.epoch == sale.line_epoch:
            line.sale = sale
            return line
        self._lines[sale.no] = KnownLine(sale, self._tell)
        if line is not None:
            # Streams hold on to the old epoch's line: they are told to look again.
            line.suspect()
        return self._lines[sale.no]

    def _tell(self, line: KnownLine, places: Places | None) -> None:
        for listener in self._listeners:
            listener(line, places)

    async def _subscribe(self) -> None:
        self._meet_sales()
        wanted = {line.keys.feed.encode(): line for line in self._lines.values() if line.keys.epoch > 0}
        if self._pubsub is None:
            self._pubsub = self._redis.pubsub()
            self._by_channel = {}
            self._quiet_since_ms, self._is_pinged = _monotonic_ms(), False
        if wanted.keys() == self._by_channel.keys():
            self._by_channel = wanted
            return
        gone, new = self._by_channel.keys() - wanted.keys(), wanted.keys() - self._by_channel.keys()
        if new:
            await self._pubsub.subscribe(*new)
        if gone:
            await self._pubsub.unsubscribe(*gone)
        self._by_channel = wanted

    async def _receive(self) -> FeedTick:
        if self._pubsub is None or not self._by_channel:
            await asyncio.sleep(self._patience_s)
            return FeedTick()
        messages = malformed = 0
        message = await self._pubsub.get_message(timeout=self._patience_s)
        while message is not None:
            self._quiet_since_ms, self._is_pinged = _monotonic_ms(), False
            messages += 1
            if message["type"] == "message":
                malformed += not self._digest(message["channel"], message["data"])
            # 500 a look: streams and requests of this process have their turn in between.
            message = await self._pubsub.get_message(timeout=0) if messages < 500 else None
        await self._require_alive()
        return FeedTick(messages, malformed)

    async def _require_alive(self) -> None:
        quiet_ms = _monotonic_ms() - self._quiet_since_ms
        if self._pubsub is None or quiet_ms < QUIET_MS:
            return
        if quiet_ms > 2 * QUIET_MS:
            raise ConnectionResetError("the subscription carries nothing, not even an answer")
        if not self._is_pinged:
            self._is_pinged = True
            await self._pubsub.ping()

    async def _lose(self) -> None:
        pubsub, self._pubsub, self._by_channel = self._pubsub, None, {}
        for line in tuple(self._lines.values()):
            line.suspect()
        if pubsub is not None:
            try:
                await pubsub.aclose()  # type: ignore[no-untyped-call]
            except (RedisError, OSError):
                return  # it was broken already

    def _digest(self, channel: bytes, data: bytes) -> bool:
        """Take one message in; False when it cannot be read (news of a later version, or nonsense)."""
        line = self._by_channel.get(channel)
        if line is None:
            return True
        try:
            news = _decode_news(data)
        except msgspec.MsgspecError:
            return False
        if news.epoch != line.keys.epoch:
            return True
        match news:
            case FrameNews():
                return _take_in(line, news.doc.encode())
            case AdmittedNews():
                line.forget([place for place, _ in news.turns])
            case EndedNews(all=""):
                line.forget([place for place, _ in news.tickets])
            case EndedNews():
                line.suspect()
            case AbsentNews():
                line.forget(news.places)
            case ChangedNews():
                line.explain(news.reason)
        return True


def _take_in(line: KnownLine, doc: bytes) -> bool:
    """False when the document cannot be read: it must end neither the subscription nor the process."""
    try:
        line.take_in(doc, _monotonic_ms())
    except FrameInvalid:
        return False
    return True


def _is_waiting(view: TicketView) -> bool:
    return view.state in (TicketState.SCHEDULED, TicketState.WAITING) and not view.is_absent


def _words(frame: Frame) -> object:
    """What everyone should hear at once when it changes, figures aside."""
    document = frame.document
    return document.state, document.message, document.reason, document.rate_per_second.target


def _recovering(frame: Frame) -> Frame:
    """The same document, saying that it is old. Its figures are the last known ones."""
    reason = Reason(code="recovering", at=frame.document.as_of)
    document = msgspec.structs.replace(frame.document, state=LineState.RECOVERING, reason=reason)
    return Frame(msgspec.json.encode(document))


def _unborn(sale: Sale, now_ms: int) -> Frame:
    """The document of a line that this process has heard nothing of: before its first one."""
    state = LineState.SCHEDULED if now_ms < sale.opens_at_ms else LineState.RECOVERING
    reason = None if state is LineState.SCHEDULED else Reason(code="recovering", at=rfc3339(now_ms))
    doc = build(
        sale=sale.id,
        state=state,
        as_of_ms=now_ms,
        epoch=sale.line_epoch,
        seq=0,
        opens_at_ms=sale.opens_at_ms,
        closes_at_ms=sale.closes_at_ms,
        serving=0,
        tail=0,
        waiting=0,
        absent=0,
        admitted=0,
        rate_target=sale.policy.rate_centi / 100,
        rate_measured=0.0,
        active=0,
        active_max=sale.policy.active_max,
        places=(),
        stock=None,
        reason=reason,
    )
    return Frame(doc)


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
