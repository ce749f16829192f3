"""A line to try things on: a sale in Postgres, its line in Redis, and a shop that says what a test tells it to say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from redis.asyncio import Redis

from onsale.catalog.sales import NewItem, NewSale, Policy, Sale, SaleBook
from onsale.lua.keys import LineKeys
from onsale.lua.line import AdmitTick, LineScripts, StockNote
from onsale.queue.admitter import Admitter, AdmitterTick
from onsale.queue.control import Control, PolicyChange
from onsale.queue.holders import Holders
from onsale.queue.keeper import Keeper
from onsale.queue.line import Line
from onsale.queue.numbering import Numbering
from onsale.queue.ports import StockFigures, TurnClosing

SALE = "drop"
HOUR_MS = 3_600_000
JOINS_A_CALL = 500
PLENTY = StockNote(free=1_000_000, held=0, claimed=0, sold=0, seats_max=1_000_000, age_ms=0)


@dataclass
class FakeShop:
    """The shop as the line sees it. Turns with an entry in `kept` have an open order until then."""

    free: int = 1_000_000
    held: int = 0
    claimed: int = 0
    sold: int = 0
    # Of units whose hold has ended.
    kept_units: int = 0
    back_units: int = 0
    is_away: bool = False
    kept: dict[str, int] = field(default_factory=dict)
    events: list[TurnClosing] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def figures(self, sale: str) -> StockFigures:
        self._must_answer()
        return StockFigures(self.free, self.held, self.claimed, self.sold, 0, self.kept_units, self.back_units)

    async def close_turns(self, sale: str, turns: Sequence[str], why: str) -> Sequence[int]:
        self._must_answer()
        self.asked.extend((turn, why) for turn in turns)
        return [self._close(turn, why) for turn in turns]

    async def closings(self, sale: str, after: str, count: int) -> Sequence[TurnClosing]:
        self._must_answer()
        seen = int(after.removesuffix("-0"))
        return [event for event in self.events if int(event.event_id.removesuffix("-0")) > seen][:count]

    def end(self, turn: str, why: str) -> None:
        """A turn ends in the shop; its closing is written once."""
        if turn not in self.closed:
            self.closed.add(turn)
            self.events.append(TurnClosing(f"{len(self.events) + 1}-0", turn, why))

    def _close(self, turn: str, why: str) -> int:
        if why == "expired" and turn in self.kept:
            return self.kept[turn]
        self.end(turn, why)
        return 0

    def _must_answer(self) -> None:
        if self.is_away:
            raise ConnectionError("the shop is away")


class Skew:
    """Moves the clock that scripts see. Redis keeps its own; tests add to it what they like."""

    # Where the line's keys are, also on a cluster.
    KEY = f"{{{SALE}:line}}:test:skew_ms"

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.ms = 0

    async def advance(self, ms: int) -> None:
        self.ms += ms
        await self._redis.set(self.KEY, self.ms)


CLOCK = "return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)"
NOW_KEY = f"{{{SALE}:line}}:test:now_ms"


def with_skew(source: Callable[[str], str]) -> Callable[[str], str]:
    """Scripts as they are, but for the one line that reads the clock: `Skew` is added to it."""
    # Another sale's shard of a cluster has no such key: its clock is moved by nobody.
    moved = f'(function() local ms = redis.pcall("GET", "{Skew.KEY}") return type(ms) == "string" and ms or 0 end)()'
    return _with_clock(source, f"{CLOCK} + tonumber({moved})")


def with_still_clock(source: Callable[[str], str]) -> Callable[[str], str]:
    """Scripts whose time is what the test wrote at NOW_KEY: the same calls do the same every time."""
    return _with_clock(source, f'return tonumber(redis.call("GET", "{NOW_KEY}"))')


def _with_clock(source: Callable[[str], str], clock: str) -> Callable[[str], str]:
    def changed(name: str) -> str:
        text = source(name)
        assert text.count(CLOCK) <= 1
        return text.replace(CLOCK, clock)

    return changed


def a_policy(**changes: Any) -> Policy:
    """100 a second, 100 seats, and a grace of 40 s."""
    settings: dict[str, Any] = {
        "rate_centi": 10_000,
        "active_max": 100,
        "pass_ttl_s": 60,
        "turn_ttl_s": 20,
        "absent_after_s": 40,
    }
    return Policy(**(settings | changes))


def a_sale(**changes: Any) -> NewSale:
    """A sale that opened a minute ago; fields of `Policy` are its policy's."""
    now_ms = round(time.time() * 1000)
    policy = {name: changes.pop(name) for name in Policy.__struct_fields__ if name in changes}
    fields: dict[str, Any] = {
        "id": SALE,
        "title": "Drop",
        "opens_at_ms": now_ms - 60_000,
        "closes_at_ms": now_ms + HOUR_MS,
        "limit_per_buyer": 2,
        "hold_ttl_s": 600,
        "guests": False,
        "opening": "fifo",
        "policy": a_policy(**policy),
        "is_paused": False,
        "items": (NewItem(product="jacket", title="Jacket", stock=100, amount=100, list_amount=100, currency="KRW"),),
    }
    return NewSale(**(fields | changes))


class Stand:
    """One sale with everything that serves its line, on a clock that the test moves."""

    def __init__(self, redis: Redis, pool: asyncpg.Pool) -> None:
        self.redis = redis
        self.pool = pool
        self.book = SaleBook(pool)
        self.shop = FakeShop()
        self.scripts = LineScripts(redis)
        self.line = self.another_line()
        self.keeper = self.another_keeper()
        self.admitter = self.another_admitter()
        self.control = Control(redis, pool, self.book, self.shop)
        self.skew = Skew(redis)
        self._elapsed_s = 0.0

    def another_line(self) -> Line:
        return Line(self.redis, Numbering(self.pool), Holders(self.pool), self.shop, self.book)

    def another_admitter(self) -> Admitter:
        return Admitter(self.redis, self.book, self.shop, clock=lambda: self._elapsed_s)

    def another_keeper(self) -> Keeper:
        return Keeper(self.redis, self.pool, self.book, takeover_ms=0)

    @property
    def sale(self) -> Sale:
        return self.book.get(SALE)

    @property
    def keys(self) -> LineKeys:
        return LineKeys(SALE, self.sale.line_epoch)

    async def make(self, **changes: Any) -> Stand:
        """Write the sale and load its line."""
        await self.book.create(a_sale(**changes), "tests")
        await self.keeper.tick()
        return self

    async def join(self, buyer: str) -> int:
        view, _ = await self.line.join(self.keys, buyer)
        return view.place

    async def crowd(self, count: int, prefix: str = "buyer") -> list[int]:
        """So many buyers join, one after the other, in batches as web processes send them; answers their places."""
        buyers, places = [(f"{prefix}-{n}", 0) for n in range(count)], []
        for first in range(0, count, JOINS_A_CALL):
            answers = await self.scripts.join(self.keys, buyers[first : first + JOINS_A_CALL])
            places += [row[0] for _, row in answers]
        return places

    async def admit(self, stock: StockNote | None = PLENTY, *, admit_max: int = 1_000) -> AdmitTick:
        return await self.scripts.admit(self.keys, stock, admit_max=admit_max)

    async def tick(self) -> AdmitterTick:
        return await self.admitter.tick()

    async def later(self, seconds: float) -> None:
        """The clock of the scripts moves (back, where negative), and the admitter's, which never goes back."""
        self._elapsed_s += max(0.0, seconds)
        await self.skew.advance(round(seconds * 1000))

    async def live_on(self, seconds: float) -> None:
        """Time passes in which the system works: an admitter ticks every four seconds, the last time just before the
        end. A leap in which nobody ticks would be an outage of ours, and put the ends of passes off."""
        while seconds > 4:
            seconds -= 4
            await self.later(4)
            await self.tick()
        await self.later(seconds)

    async def set(self, **changes: Any) -> None:
        """Other settings, by the way every change goes."""
        await self.control.set_policy(SALE, PolicyChange(**changes), actor="tests", version=None)

    async def sign(self, *places: int) -> list[Any]:
        return await self.line.sign(self.keys, places)

    async def state(self, place: int) -> str:
        view = await self.line.look(self.keys, place)
        return str(view.state) if view else "unknown"

    async def meta(self, name: str) -> int:
        value: Any = self.redis.hget(self.keys.meta, name)
        return int(await value or 0)

    async def members(self, key: str) -> list[int]:
        return [int(member) for member in await self.redis.zrange(key, 0, -1)]

    async def admissions(self) -> list[dict[str, str]]:
        """Every admissions event, oldest first."""
        entries = await self.redis.xrange(self.keys.admissions)
        return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in entries]


async def restart(stand: Stand) -> None:
    """The same data on a server that started since: another run id than the one registered."""
    await stand.redis.hset(stand.keys.meta, "run_id", "the one before")


async def lose(stand: Stand) -> None:
    """FLUSHALL; the skew of the tests stays."""
    await stand.redis.flushall()
    await stand.skew.advance(0)


async def record_admissions(stand: Stand) -> None:
    """What the flusher would have written."""
    for event in await stand.admissions():
        places = [int(place) for place in event["places"].split(",")]
        await stand.pool.execute(
            "INSERT INTO admissions (sale, epoch, event_id, at, places, rate_milli, burst, active, active_max)"
            " VALUES ($1, $2, $3, to_timestamp($4 / 1000.0), $5, 0, 1, 0, 0)",
            *(SALE, stand.keys.epoch, event["at"], int(event["at"]), places),
        )
