"""Keeps every sale's line loaded, registered with the server it is on, and told of what Postgres says.

A line found on a server with another run id (restarted, promoted, restored from a copy) goes on with the data that is
there, and numbers on at the ceiling that Postgres holds. A line that is not found, or that has forgotten people whom
the record saw let in or documents that were seen, begins a new epoch with what the record knows: whoever was let in is
gone from the line, or seated while the seat may be in use. Tickets come back by themselves, proved by their ids, while
nobody is let in for a short window, so that they stand in the old order first.

Every step may die anywhere and be repeated by any keeper: Postgres hands out each epoch and each block of places once,
and the run id is written last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from onsale.catalog.sales import Sale, SaleBook
from onsale.lua.keys import LineKeys
from onsale.lua.line import Inspection, LineRefused, LineScripts, SeatOfRecord
from onsale.lua.replies import Reply
from onsale.migrations.sql import load_queries
from onsale.queue.control import Control
from onsale.queue.errors import LineRecovering
from onsale.queue.gone import Gone, gone_of
from onsale.queue.line import SKEW_MS
from onsale.queue.numbering import PLACES_A_BLOCK, Numbering
from onsale.queue.sync import LineSync, is_in_force, settings_of

log = structlog.get_logger()
QUERIES = load_queries("onsale.queue", "keeper.sql")

# Pollers ask at least every few seconds and streams at once: by then the front of the line has come back.
GATHER_MS = 5_000
# A keeper that began an epoch loads it in milliseconds; after this long it is taken for dead.
TAKEOVER_MS = 2_000
# The next block of places is taken when this share of one is left.
BLOCK_LOW = PLACES_A_BLOCK // 2
SEATS_A_CALL = 1_000


@dataclass(frozen=True, slots=True)
class KeeperTick:
    """Sales by what was done for them; `failed` names the error of those that could not be seen to."""

    loaded: tuple[str, ...] = ()
    registered: tuple[str, ...] = ()
    synced: tuple[str, ...] = ()
    raised: tuple[str, ...] = ()
    reverted: int = 0
    failed: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Done:
    loaded: list[str] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)
    synced: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


class Keeper:
    """`tick()` each half second, in any number of processes."""

    def __init__(
        self,
        redis: Redis,
        pool: asyncpg.Pool,
        book: SaleBook,
        *,
        gather_ms: int = GATHER_MS,
        takeover_ms: int = TAKEOVER_MS,
    ) -> None:
        self._scripts = LineScripts(redis)
        self._pool = pool
        self._book = book
        self._sync = LineSync(self._scripts, book)
        self._control = Control(redis, pool, book)
        self._numbering = Numbering(pool)
        self._gather_ms = gather_ms
        self._takeover_ms = takeover_ms
        # Sales that could not be seen to, and why: each is logged once.
        self._failing: dict[str, str] = {}

    async def tick(self) -> KeeperTick:
        """See to every sale. One that fails is named and delays no other; Postgres away raises."""
        await self._book.refresh()
        reverted = await self._control.revert_due()
        done = _Done()
        await asyncio.gather(*(self._keep_or_say(sale, done) for sale in self._book.all()))
        if done.loaded:
            # So that this process knows the new epochs at once; the others do within half a second.
            await self._book.refresh()
        return KeeperTick(
            loaded=tuple(done.loaded),
            registered=tuple(done.registered),
            synced=tuple(done.synced),
            raised=tuple(done.raised),
            reverted=reverted,
            failed=tuple(done.failed),
        )

    async def _keep_or_say(self, sale: Sale, done: _Done) -> None:
        try:
            await self._keep(sale, done)
        except (LineRecovering, LineRefused, RedisError) as error:
            failure = error.reply.name if isinstance(error, LineRefused) else type(error).__name__
            done.failed.append((sale.id, failure))
            if self._failing.get(sale.id) != failure:
                log.warning("line.not_kept", sale=sale.id, epoch=sale.line_epoch, failure=failure)
            self._failing[sale.id] = failure
        else:
            self._failing.pop(sale.id, None)

    async def _keep(self, sale: Sale, done: _Done) -> None:
        keys = LineKeys(sale.id, sale.line_epoch)
        inspection = await self._scripts.inspect(keys)
        is_lost = sale.line_epoch == 0 or inspection.reply in (Reply.UNKNOWN, Reply.CORRUPT)
        if is_lost or (inspection.reply is Reply.RECOVERING and await self._is_behind(sale, keys)):
            if await self._load(sale, inspection):
                done.loaded.append(sale.id)
        elif inspection.reply is Reply.RECOVERING:
            if await self._register(sale, keys, inspection):
                done.registered.append(sale.id)
        else:
            await self._tend(sale, keys, inspection, done)

    async def _tend(self, sale: Sale, keys: LineKeys, inspection: Inspection, done: _Done) -> None:
        if not is_in_force(sale, inspection) and await self._sync.push(sale.id):
            done.synced.append(sale.id)
        if inspection.ceiling - inspection.tail < BLOCK_LOW:
            ceiling = await self._numbering.raise_above(sale.id, sale.line_epoch, inspection.run_id, inspection.ceiling)
            await self._scripts.ceiling(keys, ceiling)
            done.raised.append(sale.id)

    async def _is_behind(self, sale: Sale, keys: LineKeys) -> bool:
        """Whether this data is an older file, or a copy that lagged: it forgot somebody whom the record saw let in, and
        would let them in again; or it lacks a document that was seen, and would take back who left since. A server that
        was killed has all of its file, so that this costs the window for gathering only where something is missing."""
        reached = await self._scripts.reached(keys)
        known = await self._pool.fetchrow(QUERIES.admissions_sum, sale.id, sale.line_epoch)
        if known["admitted"] > reached.admitted:
            return True
        newest = await self._pool.fetchval(QUERIES.line_document, sale.id, sale.line_epoch)
        return newest is not None and bool(newest > reached.seq)

    async def _register(self, sale: Sale, keys: LineKeys, inspection: Inspection) -> bool:
        """The same data on a server that has started since."""
        ceiling = await self._pool.fetchval(
            QUERIES.line_take_again, sale.id, sale.line_epoch, inspection.run_id, PLACES_A_BLOCK
        )
        if ceiling is None:
            return False
        known = await self._pool.fetchrow(QUERIES.admissions_sum, sale.id, sale.line_epoch)
        won = await self._scripts.register(
            keys,
            settings_of(sale),
            is_again=True,
            run_id=inspection.run_id,
            tail=ceiling - PLACES_A_BLOCK,
            ceiling=ceiling,
            admitted=known["admitted"],
            serving=known["serving"],
            recorded_upto=known["upto"],
        )
        if won:
            log.info("line.registered", sale=sale.id, epoch=sale.line_epoch, tail=ceiling - PLACES_A_BLOCK)
        return won

    async def _load(self, sale: Sale, inspection: Inspection) -> bool:
        """No data, or data that cannot be trusted: a new epoch."""
        taken = await self._pool.fetchrow(
            QUERIES.line_take_anew, sale.id, sale.line_epoch, inspection.run_id, PLACES_A_BLOCK, self._takeover_ms
        )
        if taken is None:
            return False
        keys, ceiling = LineKeys(sale.id, taken["line_epoch"]), taken["place_ceiling"]
        # Places were given before: there is a line to gather.
        was_used = ceiling > PLACES_A_BLOCK
        gone = await gone_of(self._pool, sale.id)
        for chunk, bits in gone.chunks.items():
            await self._scripts.load_gone(keys, chunk, bits)
        history = await self._history(sale) if was_used else _History()
        for seats in _chunks(history.seats(sale, gone, inspection.now_ms)):
            await self._scripts.load(keys, seats)
        won = await self._scripts.register(
            keys,
            settings_of(sale),
            is_again=False,
            run_id=inspection.run_id,
            tail=ceiling - PLACES_A_BLOCK,
            ceiling=ceiling,
            gather_ms=self._gather_ms if was_used else 0,
            admitted=history.admitted,
            serving=history.serving,
        )
        if won:
            await self._scripts.forget(LineKeys(sale.id, sale.line_epoch))
            log.info("line.loaded", sale=sale.id, epoch=keys.epoch, admitted=history.admitted, is_rebuilt=was_used)
        return won

    async def _history(self, sale: Sale) -> _History:
        history = _History()
        for row in await self._pool.fetch(QUERIES.admissions_of_sale, sale.id):
            history.add(row["epoch"], row["at_ms"], row["places"])
        return history


@dataclass(slots=True)
class _History:
    """Whom the record saw let in: of each place the last turn, and how many turns it had in that turn's epoch."""

    admitted: int = 0
    serving: int = 0
    turns: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def add(self, epoch: int, at_ms: int, places: Sequence[int]) -> None:
        self.admitted += len(places)
        self.serving = max(self.serving, max(places, default=0))
        for place in places:
            last_epoch, turns, _ = self.turns.get(place, (epoch, 0, 0))
            self.turns[place] = (epoch, turns + 1 if last_epoch == epoch else 1, at_ms)

    def seats(self, sale: Sale, gone: Gone, now_ms: int) -> Iterator[SeatOfRecord]:
        """Those whose pass or order may still be open with their seats: rather a seat too many kept for some minutes
        than the cap passed. The shop's closings free them one by one, and of those whose pass has run out the shop is
        asked. A turn that nobody was told of by the last copy is told to whoever comes, or goes to the next; its place
        is not gone."""
        longest_ms = (sale.policy.turn_ttl_s + sale.policy.pass_ttl_s) * 1000
        # An order that was reserved with the pass's last breath lives at most twice its time to pay.
        order_ms = 2 * sale.hold_ttl_s * 1000
        for place, (epoch, turns, at_ms) in self.turns.items():
            pass_exp_ms = at_ms + longest_ms
            is_over = pass_exp_ms + order_ms + SKEW_MS <= now_ms
            is_told = not gone.is_known or place in gone
            if is_told or not is_over:
                turn = "" if is_over else f"{epoch}-{place}-{turns}"
                yield SeatOfRecord(place, turn, turns, at_ms, pass_exp_ms, pass_exp_ms + SKEW_MS, is_told)


def _chunks(seats: Iterator[SeatOfRecord]) -> Iterator[list[SeatOfRecord]]:
    chunk: list[SeatOfRecord] = []
    for seat in seats:
        chunk.append(seat)
        if len(chunk) == SEATS_A_CALL:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
