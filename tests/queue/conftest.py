"""A line to try things on: a sale in Postgres, its line in Redis, and a shop that says what a test tells it to say."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

import asyncpg
import pytest
from redis.asyncio import Redis

import onsale.lua
from onsale.catalog.sales import NewItem, NewSale, Policy, Sale, SaleBook
from onsale.lua.keys import LineKeys
from onsale.lua.line import AdmitTick, LineScripts, StockNote
from onsale.queue.admitter import Admitter
from onsale.queue.keeper import Keeper
from onsale.queue.line import Line
from onsale.queue.numbering import Numbering
from onsale.queue.ports import StockFigures, TurnClosing

SALE = "drop"
HOUR_MS = 3_600_000


@dataclass
class FakeShop:
    """The shop as the line sees it. Turns with an entry in `kept` have an open order until then."""

    free: int = 1_000_000
    held: int = 0
    claimed: int = 0
    sold: int = 0
    is_away: bool = False
    kept: dict[str, int] = field(default_factory=dict)
    events: list[TurnClosing] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def figures(self, sale: str) -> StockFigures:
        self._must_answer()
        return StockFigures(self.free, self.held, self.claimed, self.sold, 0)

    async def close_turns(self, sale: str, turns: Sequence[str], why: str) -> Sequence[int]:
        self._must_answer()
        self.asked.extend((turn, why) for turn in turns)
        return [self._close(turn, why) for turn in turns]

    async def closings(self, sale: str, after: str, count: int) -> Sequence[TurnClosing]:
        self._must_answer()
        return [event for event in self.events if int(event.event_id[:-2]) > int(after[:-2])][:count]

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

    KEY = "test:skew_ms"

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.ms = 0

    async def advance(self, ms: int) -> None:
        self.ms += ms
        await self._redis.set(self.KEY, self.ms)


def with_skew(source: Callable[[str], str]) -> Callable[[str], str]:
    """Scripts as they are, but for the one line that reads the clock."""
    read = "return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)"

    def skewed(name: str) -> str:
        text = source(name)
        assert text.count(read) <= 1
        return text.replace(read, f'{read} + tonumber(redis.call("GET", "{Skew.KEY}") or 0)')

    return skewed


@pytest.fixture
def moved_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts made from here on see a clock that `Skew` moves."""
    monkeypatch.setattr(onsale.lua, "source", with_skew(onsale.lua.source))


def a_policy(**changes: int) -> Policy:
    settings = {"rate_centi": 10_000, "active_max": 100, "pass_ttl_s": 60, "turn_ttl_s": 20, "absent_after_s": 40}
    return Policy(**(settings | changes))


def a_sale(sale_id: str = SALE, *, policy: Policy | None = None, **changes: object) -> NewSale:
    """A sale that opened a minute ago."""
    now_ms = round(time.time() * 1000)
    fields: dict[str, object] = {
        "id": sale_id,
        "title": "Drop",
        "opens_at_ms": now_ms - 60_000,
        "closes_at_ms": now_ms + HOUR_MS,
        "limit_per_buyer": 2,
        "hold_ttl_s": 600,
        "guests": False,
        "opening": "fifo",
        "policy": policy or a_policy(),
        "is_paused": False,
        "items": (NewItem(product="jacket", title="Jacket", stock=100, amount=100, list_amount=100, currency="KRW"),),
    }
    return NewSale(**(fields | changes))  # type: ignore[arg-type]


@dataclass
class Stand:
    """One sale with everything that serves its line."""

    redis: Redis
    pool: asyncpg.Pool
    book: SaleBook
    shop: FakeShop
    scripts: LineScripts
    line: Line
    keeper: Keeper
    admitter: Admitter
    skew: Skew
    elapsed: list[float] = field(default_factory=lambda: [0.0])

    @property
    def sale(self) -> Sale:
        return self.book.get(SALE)

    @property
    def keys(self) -> LineKeys:
        return LineKeys(SALE, self.sale.line_epoch)

    async def make(self, new: NewSale | None = None) -> None:
        """Write the sale and load its line."""
        await self.book.create(new or a_sale(), "tests")
        await self.keeper.tick()

    async def places(self, count: int, prefix: str = "buyer") -> list[int]:
        return [(await self.line.join(self.keys, f"{prefix}-{n}"))[0].place for n in range(count)]

    async def admit(self, stock: StockNote | None = None, admit_max: int = 1_000) -> AdmitTick:
        """One call of the script; without figures, with plenty of stock."""
        plenty = StockNote(1_000_000, 0, 0, 0, 1_000_000, 0)
        return await self.scripts.admit(self.keys, stock or plenty, admit_max=admit_max)

    async def meta(self, name: str) -> int:
        return int(await self.redis.hget(self.keys.meta, name) or 0)  # type: ignore[misc]

    async def later(self, seconds: float) -> None:
        """The clock of the scripts moves on, and so does the admitter's."""
        self.elapsed[0] += seconds
        await self.skew.advance(round(seconds * 1000))

    async def set_policy(self, **changes: int) -> None:
        """Other settings, by the way every change goes."""
        await self.redis.hset(self.keys.policy, mapping={k: v for k, v in changes.items()})  # type: ignore[misc]


@pytest.fixture
async def stand(
    moved_clock: None, line_redis: Redis, database: asyncpg.Pool
) -> AsyncIterator[Stand]:
    """A line whose clock tests move."""
    book, shop, elapsed = SaleBook(database), FakeShop(), [0.0]
    yield Stand(
        redis=line_redis,
        pool=database,
        book=book,
        shop=shop,
        scripts=LineScripts(line_redis),
        line=Line(line_redis, Numbering(database), shop, book),
        keeper=Keeper(line_redis, database, book, takeover_ms=0),
        admitter=Admitter(line_redis, book, shop, clock=lambda: elapsed[0]),
        skew=Skew(line_redis),
        elapsed=elapsed,
    )


__all__ = ["SALE", "FakeShop", "Stand", "a_policy", "a_sale", "replace"]
