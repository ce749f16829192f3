"""Lets people in. Any number of admitters work at once and none leads: what is exact (rate, cap, order) is decided in
admit.lua on Redis time, what is once (a document a second, each closing) by compare-and-set.

One tick of one sale, in this order: free the seats of turns that the shop has closed, read the shop's figures, admit,
ask the shop about turns whose time is over, and where it is due make the line's document and put the silent aside.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from onsale.catalog.sales import Sale, SaleBook
from onsale.lua.keys import LineKeys
from onsale.lua.line import AdmitTick, LineFigures, LineRefused, LineScripts, StockNote
from onsale.queue.frame import Message, Reason, StockSummary, build, rfc3339
from onsale.queue.line import SKEW_MS
from onsale.queue.odds import OddsAhead, Standing, lapse_share, odds_ahead
from onsale.queue.ports import ShopPort
from onsale.queue.states import LineState
from onsale.queue.strategy import Snapshot, seats_by_stock

log = structlog.get_logger()

# 250 people are about a millisecond of Redis; a higher rate takes more calls.
ADMIT_MAX = 250
ROUNDS_MAX = 40
CLOSINGS_MAX = 500
# Each second an admitter looks at up to this many places for silence (about 5 ms of Redis), and parks the silent.
PARK_LOOK_MAX, PARK_ROUNDS = 1_500, 20
PARK_MAX = 1_000
# A sale that has ended, or opens later than this, is visited once in such a time.
REST_S = 1.0
# Fewer admissions than this in ten seconds say too little of a rate: a minute is looked at.
RECENT_MIN = 20
CLOSED = (LineState.SOLD_OUT, LineState.ENDED)
BEGINNING = "0-0"


@dataclass(frozen=True, slots=True)
class SaleTick:
    """What one tick did for one sale."""

    sale: str
    state: str = ""
    active: int = 0
    admitted: int = 0
    passed_over: int = 0
    untold: int = 0
    expired: int = 0
    freed: int = 0
    parked: int = 0
    # The look behind the document that this tick published; None when it published none.
    figures: LineFigures | None = None
    # Why nothing was done, the name of an error; empty otherwise.
    failure: str = ""


@dataclass(frozen=True, slots=True)
class AdmitterTick:
    """What one tick did, sale by sale; sales at rest are left out."""

    sales: tuple[SaleTick, ...]

    @property
    def admitted(self) -> int:
        return sum(sale.admitted for sale in self.sales)


@dataclass(slots=True)
class _Known:
    """What this admitter remembers of a line; nothing here is needed, a new process begins without it."""

    keys: LineKeys
    cursor: str = ""
    # Turns that the shop called closed; asked about again, their closing has been missed.
    closed: set[str] = field(default_factory=set)
    rest_until: float = 0.0
    # The sale as it was when its line was left to rest.
    rested: Sale | None = None
    park_after: float = 0.0
    failure: str = ""


class Admitter:
    """`tick()` every 50 to 100 ms, in any number of processes. `clock` is monotonic seconds."""

    def __init__(self, redis: Redis, book: SaleBook, shop: ShopPort, *, clock: Callable[[], float] = time.monotonic):
        self._scripts = LineScripts(redis)
        self._book = book
        self._shop = shop
        self._clock = clock
        self._known: dict[str, _Known] = {}

    async def tick(self) -> AdmitterTick:
        """Serve every sale that is loaded. One that fails says so in its SaleTick and delays no other."""
        due = [sale for sale in self._book.all() if sale.line_epoch > 0 and not self._rests(sale)]
        return AdmitterTick(tuple(await asyncio.gather(*(self._serve_or_say(sale) for sale in due))))

    def _rests(self, sale: Sale) -> bool:
        known = self._known.get(sale.id)
        if known is None or known.keys.epoch != sale.line_epoch:
            self._known[sale.id] = _Known(LineKeys(sale.id, sale.line_epoch))
            return False
        # Whatever an operator changes wakes it: opened now means now.
        return sale == known.rested and self._clock() < known.rest_until

    async def _serve_or_say(self, sale: Sale) -> SaleTick:
        known = self._known[sale.id]
        try:
            tick = await self._serve(sale, known)
        except (LineRefused, RedisError) as error:
            failure = error.reply.name if isinstance(error, LineRefused) else type(error).__name__
            if failure != known.failure:
                log.warning("line.unattended", sale=sale.id, epoch=known.keys.epoch, failure=failure)
            known.failure = failure
            return SaleTick(sale.id, failure=failure)
        if known.failure:
            log.info("line.attended", sale=sale.id, epoch=known.keys.epoch)
        known.failure = ""
        return tick

    async def _serve(self, sale: Sale, known: _Known) -> SaleTick:
        freed = await self._apply_closings(sale, known)
        ticks = await self._admit(sale, known.keys)
        last = ticks[-1]
        known.cursor = last.closings_cursor
        freed += await self._settle_overdue(sale, known, last.overdue)
        figures = await self._show(sale, known.keys) if any(tick.is_due for tick in ticks) else None
        parked = await self._park(known)
        self._rest(sale, known, last, figures)
        return SaleTick(
            sale=sale.id,
            state=last.state,
            active=last.active,
            admitted=sum(tick.admitted for tick in ticks),
            passed_over=sum(tick.passed_over for tick in ticks),
            untold=sum(tick.untold for tick in ticks),
            expired=sum(tick.expired for tick in ticks),
            freed=freed,
            parked=parked,
            figures=figures,
        )

    async def _admit(self, sale: Sale, keys: LineKeys) -> list[AdmitTick]:
        ticks = [await self._scripts.admit(keys, await self._stock(sale), admit_max=ADMIT_MAX, skew_ms=SKEW_MS)]
        while ticks[-1].is_more and len(ticks) < ROUNDS_MAX:
            ticks.append(await self._scripts.admit(keys, await self._stock(sale), admit_max=ADMIT_MAX, skew_ms=SKEW_MS))
        return ticks

    async def _stock(self, sale: Sale) -> StockNote | None:
        """The shop's figures with their age; None while it cannot say, and then nobody is let in for long."""
        asked_at = self._clock()
        try:
            figures = await self._shop.figures(sale.id)
        except Exception as error:
            # Whatever keeps the other room from answering is its own to report.
            log.debug("shop.figures_missing", sale=sale.id, error=type(error).__name__)
            return None
        return StockNote(
            free=figures.free,
            held=figures.held,
            claimed=figures.claimed,
            sold=figures.sold,
            seats_max=seats_by_stock(Snapshot(figures, sale.limit_per_buyer)),
            age_ms=round((self._clock() - asked_at) * 1000),
            kept=figures.kept,
            back=figures.back,
        )

    async def _apply_closings(self, sale: Sale, known: _Known) -> int:
        """Free the seats of turns that ended. The cursor names the shop's epoch; another epoch is read whole."""
        epoch, _, after = known.cursor.partition(":")
        if epoch != str(sale.shop_epoch):
            after = BEGINNING
        try:
            closings = await self._shop.closings(sale.id, after, CLOSINGS_MAX)
        except Exception as error:
            log.debug("shop.closings_missing", sale=sale.id, error=type(error).__name__)
            return 0
        if not closings:
            return 0
        upto = f"{sale.shop_epoch}:{closings[-1].event_id}"
        turns = [(closing.turn, closing.why) for closing in closings]
        _, freed, known.cursor = await self._scripts.close_seats(
            known.keys, seen=known.cursor, upto=upto, closings=turns
        )
        return freed

    async def _settle_overdue(self, sale: Sale, known: _Known, turns: Sequence[str]) -> int:
        """Ask the shop about told turns whose time is over: an open order keeps the seat, otherwise it ends there first
        and its closing frees it here. A turn that ended there long ago has no closing left to come: it ends here."""
        missed = [turn for turn in turns if turn in known.closed]
        known.closed.intersection_update(turns)
        freed = 0
        if missed:
            _, freed, known.cursor = await self._scripts.close_seats(
                known.keys, seen=known.cursor, upto=known.cursor, closings=[(turn, "expired") for turn in missed]
            )
        asked = [turn for turn in turns if turn not in known.closed]
        if not asked:
            return freed
        try:
            answers = await self._shop.close_turns(sale.id, asked, "expired")
        except Exception as error:
            log.debug("shop.turns_missing", sale=sale.id, error=type(error).__name__)
            return freed
        pairs = list(zip(asked, answers, strict=True))
        known.closed.update(turn for turn, until_ms in pairs if until_ms == 0)
        kept = [(turn, until_ms + SKEW_MS) for turn, until_ms in pairs if until_ms > 0]
        if kept:
            await self._scripts.extend_seats(known.keys, kept)
        return freed

    async def _show(self, sale: Sale, keys: LineKeys) -> LineFigures | None:
        figures = await self._scripts.document(keys)
        if figures is None:
            return None
        document = document_of(sale.id, figures, sale.limit_per_buyer)
        is_published = await self._scripts.publish(keys, figures, document, _messages(figures, document))
        return figures if is_published else None

    async def _park(self, known: _Known) -> int:
        """Once a second: look for silence over the next stretch of the line."""
        if self._clock() < known.park_after:
            return 0
        known.park_after = self._clock() + 1.0
        parked_all = 0
        for _ in range(PARK_ROUNDS):
            looked, parked = await self._scripts.park(
                known.keys, look_max=PARK_LOOK_MAX, park_max=PARK_MAX - parked_all
            )
            parked_all += parked
            if looked < PARK_LOOK_MAX or parked_all >= PARK_MAX:
                break
        return parked_all

    def _rest(self, sale: Sale, known: _Known, tick: AdmitTick, figures: LineFigures | None) -> None:
        if tick.active or tick.overdue:
            return
        opens_in_ms = sale.opens_at_ms - figures.as_of_ms if figures else 0
        if tick.state == LineState.ENDED or (tick.state == LineState.SCHEDULED and opens_in_ms > 2_000 * REST_S):
            known.rested, known.rest_until = sale, self._clock() + REST_S


def document_of(sale: str, figures: LineFigures, limit_per_buyer: int) -> bytes:
    """The line document made from one look at the line."""
    counted = figures.stock_free >= 0
    return build(
        sale=sale,
        state=LineState(figures.state),
        as_of_ms=figures.as_of_ms,
        epoch=figures.epoch,
        seq=figures.seq,
        opens_at_ms=figures.opens_at_ms,
        closes_at_ms=figures.closes_at_ms,
        serving=figures.serving,
        tail=figures.tail,
        waiting=figures.waiting,
        absent=figures.absent,
        admitted=figures.admitted,
        rate_target=figures.rate_centi / 100,
        rate_measured=_rate(figures),
        active=figures.active,
        active_max=figures.active_max,
        places=figures.places,
        stock=StockSummary(figures.stock_free, figures.stock_held, figures.stock_sold) if counted else None,
        odds=_odds(figures, limit_per_buyer) if counted else None,
        message=msgspec.json.decode(figures.message, type=Message) if figures.message else None,
        reason=_reason(figures),
    )


def _odds(figures: LineFigures, limit_per_buyer: int) -> OddsAhead:
    return odds_ahead(
        Standing(
            free=figures.stock_free,
            held=figures.stock_held,
            sold=figures.stock_sold,
            active=figures.active,
            admitted=figures.admitted,
            absent=figures.absent,
            limit_per_buyer=limit_per_buyer,
            lapse_share=lapse_share(figures.units_kept, figures.units_back, limit_per_buyer),
        )
    )


def _rate(figures: LineFigures) -> float:
    seconds, people = figures.recent_short
    if people < RECENT_MIN:
        seconds, people = figures.recent_long
    return people / seconds if seconds else 0.0


def _reason(figures: LineFigures) -> Reason | None:
    if not figures.reason:
        return None
    params = msgspec.json.decode(figures.reason_params, type=dict[str, str | int | float | bool | None])
    return Reason(figures.reason, rfc3339(figures.reason_at_ms), params)


def _messages(figures: LineFigures, document: bytes) -> list[bytes]:
    """What every web process hears with this document."""
    news: list[dict[str, object]] = [
        {"kind": "frame", "epoch": figures.epoch, "seq": figures.seq, "doc": document.decode()}
    ]
    if figures.reason != figures.shown_reason:
        news.append({"kind": "changed", "epoch": figures.epoch, "reason": _reason(figures)})
    if figures.state in CLOSED and figures.shown_state not in CLOSED:
        news.append({"kind": "ended", "epoch": figures.epoch, "all": "closed"})
    return [msgspec.json.encode(message) for message in news]
