"""From the streams into Postgres. Any number of flushers run; whoever moves a stream's watermark is its writer.

A flusher reads what follows the watermark that Postgres holds (never a consumer group: two readers of one group would
share the entries, and a trimmed hole would look like progress), writes it in one transaction per sale and batch, then
announces it. Each kind of stream has a lane of its own, with its own connections, so that a backlog of holdings never
stands in front of money: a buyer waits for every claim.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import asyncpg
import structlog
from redis.asyncio import Redis

from onsale.auth.errors import StoreUnavailable
from onsale.checkout.errors import ShopRecovering
from onsale.checkout.record.reading import Entry, Stream, entries, id_key
from onsale.checkout.record.recorder import (
    SQL,
    Batch,
    CrashHook,
    NotTheWriter,
    Recorded,
    Recorder,
    RefusedEvent,
    crash_hook,
)
from onsale.lua.keys import LineKeys, ShopKeys

log = structlog.get_logger()

# 1,000: past this size a row costs no less, and a lock is held for longer.
BATCH_MAX: Final = 1_000
# New sales and epochs are met, and lost mirrors mended, this often.
REFRESH_MS: Final = 500
# A sale whose batch failed is tried again after this: long enough not to slow the others down.
REST_MS: Final = 500
# Redis keeps ten minutes behind the watermark, for readers that were stopped for a while.
TRIM_BEHIND_MS: Final = 600_000
TRIM_EVERY_MS: Final = 10_000
# Where the shop's keys repeat how far each stream is recorded.
MIRRORS: Final = {Stream.MONEY: "money_upto", Stream.HOLDINGS: "holds_upto"}


class Announcer(Protocol):
    """Implemented by `onsale.checkout.inventory.Inventory`."""

    async def announce(
        self, keys: ShopKeys, stream: str, prev: str, upto: str, refused: Sequence[RefusedEvent] = ()
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class StreamTick:
    """One batch: what was recorded of one sale's stream. `lag_ms`: from its oldest event until it stood in Postgres."""

    sale: str
    stream: Stream
    epoch: int
    upto: str
    recorded: Recorded
    lag_ms: int


@dataclass(frozen=True, slots=True)
class FlushTick:
    """What one tick did. `lost`: batches another flusher was the writer of; `failed`: sales whose batch could not be
    written now; `more`: at least one batch was full."""

    batches: tuple[StreamTick, ...] = ()
    lost: int = 0
    failed: int = 0
    more: bool = False

    @property
    def events(self) -> int:
        return sum(batch.recorded.events for batch in self.batches)

    @property
    def refused(self) -> int:
        return sum(len(batch.recorded.refused) for batch in self.batches)

    @property
    def poisoned(self) -> int:
        return sum(batch.recorded.poisoned for batch in self.batches)

    @property
    def lag_ms(self) -> int:
        return max((batch.lag_ms for batch in self.batches), default=0)

    def __add__(self, other: FlushTick) -> FlushTick:
        return FlushTick(
            self.batches + other.batches,
            self.lost + other.lost,
            self.failed + other.failed,
            self.more or other.more,
        )


@dataclass(frozen=True, slots=True)
class Position:
    """Where a sale's stream is to be read from. `is_past`: the line has gone on to another epoch."""

    epoch: int
    upto: str
    is_past: bool = False


class Lane:
    """One kind of stream over all sales. `tick` waits for news, writes what is there, answers what it did."""

    def __init__(
        self, stream: Stream, pool: asyncpg.Pool, redis: Redis, announcer: Announcer, crash: CrashHook
    ) -> None:
        self.stream = stream
        self._pool = pool
        self._redis = redis
        self._announcer = announcer
        self._crash = crash
        self._recorder = Recorder(pool, crash)
        self._positions: dict[str, Position] = {}
        self._refreshed_at = float("-inf")
        self._trimmed_at = float("-inf")
        self._resting_until: dict[str, float] = {}

    async def tick(self, wait_ms: int = 0) -> FlushTick:
        """Record one batch of each sale that has news, waiting at most `wait_ms` for the first. Raises what a store
        raises; then the lane starts again from what Postgres holds."""
        try:
            if wait_ms == 0 or _clock_ms() - self._refreshed_at >= REFRESH_MS:
                await self._refresh()
            batches = await self._read(wait_ms)
            if not batches:
                return FlushTick()
            await self._crash("after_read")
            return await self._write(batches)
        except BaseException:
            self._refreshed_at = float("-inf")
            raise

    async def _write(self, batches: Sequence[Batch]) -> FlushTick:
        outcomes = await asyncio.gather(*map(self._flush, batches), return_exceptions=True)
        ticks = tuple(outcome for outcome in outcomes if isinstance(outcome, StreamTick))
        lost = sum(isinstance(outcome, NotTheWriter) for outcome in outcomes)
        failed = [
            (batch.sale, outcome)
            for batch, outcome in zip(batches, outcomes, strict=True)
            if isinstance(outcome, BaseException) and not isinstance(outcome, NotTheWriter)
        ]
        if lost or failed:
            self._refreshed_at = float("-inf")
        for sale, error in failed:
            # One sale's trouble stops no other sale. Where there is no other, or no Postgres, the caller is told.
            if len(failed) == len(batches) or not isinstance(error, Exception):
                raise error
            self._rest(sale, error)
        return FlushTick(ticks, lost, len(failed), any(len(batch.entries) == BATCH_MAX for batch in batches))

    def _rest(self, sale: str, error: Exception) -> None:
        self._resting_until[sale] = _clock_ms() + REST_MS
        log.error("record.failed", sale=sale, stream=self.stream, error=type(error).__name__, detail=str(error)[:300])

    def _is_resting(self, sale: str) -> bool:
        if self._resting_until.get(sale, 0.0) > _clock_ms():
            return True
        self._resting_until.pop(sale, None)
        return False

    async def _flush(self, batch: Batch) -> StreamTick:
        recorded = await self._recorder.record(batch)
        lag_ms = _now_ms() - id_key(batch.entries[0][0])[0]
        self._positions[batch.sale] = Position(batch.epoch, batch.upto)
        await self._announce(batch, recorded.refused)
        await self._crash("after_announce")
        return StreamTick(batch.sale, batch.stream, batch.epoch, batch.upto, recorded, lag_ms)

    async def _announce(self, batch: Batch, refused: Sequence[RefusedEvent]) -> None:
        if batch.stream is not Stream.ADMISSIONS:
            await self._tell(ShopKeys(batch.sale, batch.epoch), batch.prev, batch.upto, refused)

    async def _tell(self, keys: ShopKeys, prev: str, upto: str, refused: Sequence[RefusedEvent] = ()) -> None:
        """Release waiters at once. Where Redis cannot pass it on they ask Postgres, and the mirror is mended later."""
        with contextlib.suppress(StoreUnavailable, ShopRecovering):
            await self._announcer.announce(keys, self.stream, prev, upto, refused)

    async def _refresh(self) -> None:
        await self._pool.execute(SQL.watermarks_make, self.stream)
        rows = await self._pool.fetch(SQL.watermarks_open, self.stream)
        self._positions = {row["sale"]: Position(row["epoch"], row["upto"], row["is_past"]) for row in rows}
        if self.stream is Stream.ADMISSIONS:
            await self._trim()
        else:
            await self._mend_mirrors()
        self._refreshed_at = _clock_ms()

    async def _mend_mirrors(self) -> None:
        """An announcement lost with its flusher would leave the shop thinking that the record is behind for ever."""
        sales = list(self._positions.items())
        async with self._redis.pipeline(transaction=False) as pipe:
            for sale, position in sales:
                pipe.hget(ShopKeys(sale, position.epoch).meta, MIRRORS[self.stream])
            mirrors = await pipe.execute()
        for (sale, position), mirror in zip(sales, mirrors, strict=True):
            if id_key((mirror or b"0-0").decode()) < id_key(position.upto):
                await self._tell(ShopKeys(sale, position.epoch), position.upto, position.upto)

    async def _trim(self) -> None:
        """The line's stream has nobody else to trim it. Always behind the watermark, never by length."""
        if _clock_ms() - self._trimmed_at < TRIM_EVERY_MS:
            return
        oldest_ms = await self._redis_ms() - TRIM_BEHIND_MS
        for sale, position in self._positions.items():
            least = min(id_key(position.upto), (max(0, oldest_ms), 0))
            await self._redis.xtrim(LineKeys(sale, position.epoch).admissions, minid=f"{least[0]}-{least[1]}")
        self._trimmed_at = _clock_ms()

    async def _redis_ms(self) -> int:
        seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def _read(self, wait_ms: int) -> list[Batch]:
        sales = {
            self._key(sale, position): sale for sale, position in self._positions.items() if not self._is_resting(sale)
        }
        if not sales:
            await asyncio.sleep(wait_ms / 1000)
            return []
        after: dict[Any, Any] = {key: self._positions[sale].upto for key, sale in sales.items()}
        # One blocking call for every sale of the server, on a connection that nothing else uses meanwhile.
        answer: Any = await self._redis.xread(after, count=BATCH_MAX, block=wait_ms or None)
        news = {sales[key.decode()]: entries(raw) for key, raw in _streams(answer) if raw}
        if self.stream is Stream.ADMISSIONS:
            await self._close_past(news)
        return [self._batch(sale, found) for sale, found in news.items()]

    def _key(self, sale: str, position: Position) -> str:
        if self.stream is Stream.ADMISSIONS:
            return LineKeys(sale, position.epoch).admissions
        shop = ShopKeys(sale, position.epoch)
        return shop.money if self.stream is Stream.MONEY else shop.holdings

    def _batch(self, sale: str, found: Sequence[Entry]) -> Batch:
        position = self._positions[sale]
        return Batch(sale, self.stream, position.epoch, position.upto, found)

    async def _close_past(self, news: dict[str, list[Entry]]) -> None:
        """A line that went on to a new epoch wrote into the old stream until then: it is read to its end first."""
        for sale, position in list(self._positions.items()):
            if position.is_past and sale not in news:
                await self._pool.execute(SQL.watermark_close, sale, position.epoch, position.upto)
                self._refreshed_at = float("-inf")


class Flusher:
    """Every stream of every sale. `tick` is one pass without waiting; a process runs each lane's `tick` in a loop."""

    def __init__(
        self, pool: asyncpg.Pool, shop: Redis, line: Redis, announcer: Announcer, hook: CrashHook | None = None
    ) -> None:
        crash = crash_hook(hook)
        self.money = Lane(Stream.MONEY, pool, shop, announcer, crash)
        self.holdings = Lane(Stream.HOLDINGS, pool, shop, announcer, crash)
        self.admissions = Lane(Stream.ADMISSIONS, pool, line, announcer, crash)

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """In the order of their urgency."""
        return self.money, self.holdings, self.admissions

    async def tick(self) -> FlushTick:
        """Record at most one batch of every stream, money first; nothing waits."""
        total = FlushTick()
        for lane in self.lanes:
            total += await lane.tick()
        return total


def _streams(answer: Any) -> list[tuple[bytes, Any]]:
    # redis-py answers a list of pairs for RESP2 and a dictionary for RESP3.
    if isinstance(answer, dict):
        return [(key, raw[0] if len(raw) == 1 and isinstance(raw[0], list) else raw) for key, raw in answer.items()]
    return [(key, raw) for key, raw in answer or ()]


def _clock_ms() -> float:
    return time.monotonic() * 1000


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


__all__ = ["Announcer", "FlushTick", "Flusher", "Lane", "StreamTick"]
