"""When Redis is not what it was: the shop's keys are taken back, or made anew from the record.

Scripts refuse a server whose run id is not the one the keys were registered with. The Rebuilder then reads what the
streams still hold, compares the counters with the record, and fences the epoch off in Postgres (epoch + 1: no event of
the old epoch is recorded any more). Keys that agree with the record go on under names of the new epoch; all others are
made anew, the run id last; so a rebuilder may die at any line, and the next one starts from what Postgres holds. A new
sale is one whose keys were never made: epoch 0, an empty history.

Keys that agree are fenced as well: what the server lost before anybody recorded it, or what one that was cut off still
writes, had an id below those to come. In one epoch its waiter would take their progress for its own verdict, and charge
for a claim that nobody has.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from onsale.catalog.sales import SaleBook
from onsale.checkout.inventory import Inventory
from onsale.checkout.record.events import ItemDoc, OrderDoc
from onsale.checkout.record.folding import Claim, PaymentState
from onsale.checkout.record.reading import Stream, entries, id_key
from onsale.checkout.record.recorder import SQL as FLUSHER_SQL
from onsale.checkout.record.recorder import Batch, CrashHook, NotTheWriter, Recorder, crash_hook
from onsale.checkout.snapshot import ItemUnits, LiveOrder, ShopSnapshot, ShopTerms
from onsale.checkout.states import OrderState
from onsale.lua.keys import ShopKeys
from onsale.lua.shop import STORED, PackedAttempt
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout.record", "rebuild.sql")

BATCH_MAX: Final = 1_000
# No server's run id: scripts refuse keys that carry it, and a rebuilder that finds it knows that another one began.
FENCED: Final = "fenced"
# Old keys stay for an hour, for whoever wants to look at what was lost.
OLD_KEYS_KEPT_S: Final = 3_600
OUTCOMES: Final[Mapping[str, str]] = {
    PaymentState.PENDING: "open",
    PaymentState.CAPTURED: "sold",
    PaymentState.DECLINED: "declined",
    PaymentState.FAILED: "failed",
    PaymentState.REFUSED: "refused",
    PaymentState.REFUNDING: "failed",
    PaymentState.REFUNDED: "failed",
}
ORDER_STATES: Final[Mapping[str, OrderState]] = {
    Claim.OPEN: OrderState.CONFIRMING,
    Claim.SOLD: OrderState.CONFIRMED,
    Claim.NONE: OrderState.RESERVED,
    Claim.RELEASED: OrderState.RESERVED,
}
# The last id that each stream of some keys has given.
Ends = Mapping[Stream, tuple[int, int]]
_items = msgspec.json.Decoder(tuple[ItemDoc, ...]).decode
_attempts = msgspec.json.Decoder(tuple[tuple[str, str, str, str, str], ...]).decode


class FencedByAnother(Exception):
    """Another rebuilder raised the epoch first: its keys count."""


class Overtaken(Exception):
    """Since these keys were compared, a flusher has recorded what it had read before they lost it."""


@dataclass(frozen=True, slots=True)
class RebuildTick:
    """Sales by what was done: first load of a new one, keys taken back whole, keys made anew, or left to the rebuilder
    that is at it."""

    loaded: tuple[str, ...] = ()
    registered: tuple[str, ...] = ()
    rebuilt: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()

    def __add__(self, other: RebuildTick) -> RebuildTick:
        return RebuildTick(
            self.loaded + other.loaded,
            self.registered + other.registered,
            self.rebuilt + other.rebuilt,
            self.busy + other.busy,
        )


class Rebuilder:
    """Keeps every sale's shop keys those of the server it runs on. Any number may run, one at a time on a sale."""

    def __init__(
        self, pool: asyncpg.Pool, redis: Redis, inventory: Inventory, book: SaleBook, hook: CrashHook | None = None
    ) -> None:
        self._pool = pool
        self._redis = redis
        self._inventory = inventory
        self._book = book
        self._crash = crash_hook(hook)
        self._recorder = Recorder(pool)

    async def tick(self) -> RebuildTick:
        """Look at every sale and mend those that are not registered. Raises StoreUnavailable, and what went wrong with
        one sale after all were tried."""
        await self._book.refresh()
        total, failure = RebuildTick(), None
        for sale in self._book.sellers():
            try:
                if sale.shop_epoch == 0 or not await self._is_registered(ShopKeys(sale.id, sale.shop_epoch)):
                    total += await self._mend(sale.id)
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure
        return total

    async def rebuild(self, sale: str) -> RebuildTick:
        """Make a sale's keys anew from the record, whatever state they are in. Traffic is refused as recovering for the
        while; what was written until then is recorded first. Raises SaleUnknown."""
        await self._book.refresh()
        self._book.seller(sale)
        async with self._alone(sale) as is_ours:
            if not is_ours:
                return RebuildTick(busy=(sale,))
            epoch = await self._epoch(sale)
            if epoch > 0:
                await self._stop(ShopKeys(sale, epoch))
                await self._drain(ShopKeys(sale, epoch))
            return await self._make_anew(sale, epoch)

    async def _mend(self, sale: str) -> RebuildTick:
        async with self._alone(sale) as is_ours:
            if not is_ours:
                return RebuildTick(busy=(sale,))
            # Seen again now that nobody else is at it.
            epoch = await self._epoch(sale)
            if epoch == 0:
                return await self._make_anew(sale, epoch)
            keys = ShopKeys(sale, epoch)
            standing = await self._inventory.standing(keys)
            if standing.is_registered:
                return RebuildTick()
            ends = await self._ends_if_whole(keys) if standing.known_run_id else None
            if ends is not None:
                with suppress(Overtaken):
                    return await self._go_on(keys, standing.known_run_id, ends)
            return await self._make_anew(sale, epoch)

    async def _is_registered(self, keys: ShopKeys) -> bool:
        return (await self._inventory.standing(keys)).is_registered

    async def _epoch(self, sale: str) -> int:
        epoch: int = await self._pool.fetchval(SQL.epoch_of, sale)
        return epoch

    @asynccontextmanager
    async def _alone(self, sale: str) -> AsyncIterator[bool]:
        """Whether this is the only rebuilder of the sale, for as long as the block runs."""
        async with self._pool.acquire() as conn, conn.transaction():
            yield (await conn.fetchrow(SQL.rebuild_alone, sale))["is_ours"]

    # what Redis still has

    async def _ends_if_whole(self, keys: ShopKeys) -> Ends | None:
        """Where the streams of these keys end, if they have lost nothing: every recorded event was written in them, and
        once what they hold beyond is recorded too, their counters are the record's."""
        ends = {stream: await self._last_id(keys, stream) for stream in (Stream.MONEY, Stream.HOLDINGS)}
        for stream, end in ends.items():
            row = await self._pool.fetchrow(FLUSHER_SQL.watermark_of, keys.sale, stream)
            if row is None or row["epoch"] != keys.epoch or end < id_key(row["upto"]):
                return None
        await self._drain(keys)
        return ends if await self._has_record_figures(keys) else None

    async def _last_id(self, keys: ShopKeys, stream: Stream) -> tuple[int, int]:
        try:
            info = await self._redis.xinfo_stream(getattr(keys, stream))
        except ResponseError:
            return 0, 0  # No such stream: nothing was written, or everything is lost.
        return id_key(info["last-generated-id"].decode())

    async def _drain(self, keys: ShopKeys) -> None:
        """Record what the streams hold after the watermark, money first. Nobody writes into them any more."""
        for stream in (Stream.MONEY, Stream.HOLDINGS):
            while await self._drain_batch(keys, stream):
                continue
        await self._crash("after_drain")

    async def _drain_batch(self, keys: ShopKeys, stream: Stream) -> bool:
        row = await self._pool.fetchrow(FLUSHER_SQL.watermark_of, keys.sale, stream)
        if row is None or row["epoch"] != keys.epoch:
            return False
        found: Any = await self._redis.xrange(getattr(keys, stream), min=f"({row['upto']}", count=BATCH_MAX)
        if not found:
            return False
        try:
            await self._recorder.record(Batch(keys.sale, stream, keys.epoch, row["upto"], entries(found)))
        except NotTheWriter:
            return True  # A flusher was faster: read again after its watermark.
        return True

    async def _has_record_figures(self, keys: ShopKeys) -> bool:
        raw: Any = await self._redis.hgetall(keys.stock)
        counters = {name.decode(): int(units) for name, units in raw.items()}
        rows = await self._pool.fetch(SQL.figures_of, keys.sale)
        return all(_is_as_recorded(row, counters) for row in rows)

    async def _go_on(self, keys: ShopKeys, known_run_id: str, ends: Ends) -> RebuildTick:
        """Keys that lost nothing, in the next epoch; its streams are recorded from where the old ones end. Raises
        Overtaken: a flusher may have had events in hand that the keys lost, and only behind the fence is it known that
        it has not recorded them."""
        await self._crash("before_fence")
        async with self._pool.acquire() as conn, conn.transaction():
            epoch_new = await self._raise_epoch(conn, keys.sale, keys.epoch)
            rows = await conn.fetch(SQL.watermarks_continue, keys.sale, epoch_new)
            if any(ends[Stream(row["stream"])] < id_key(row["upto"]) for row in rows):
                raise Overtaken
        await self._crash("after_fence")
        await self._inventory.register(keys, known_run_id, ShopKeys(keys.sale, epoch_new))
        await self._book.refresh()
        return RebuildTick(registered=(keys.sale,))

    # anew

    async def _make_anew(self, sale: str, epoch: int) -> RebuildTick:
        snapshot, epoch_new = await self._fence(sale, epoch)
        await self._crash("after_fence")
        if epoch > 0:
            await self._retire(ShopKeys(sale, epoch))
        await self._crash("before_load")
        await self._inventory.load(ShopKeys(sale, epoch_new), snapshot)
        await self._crash("after_load")
        await self._book.refresh()
        return RebuildTick(rebuilt=(sale,)) if epoch else RebuildTick(loaded=(sale,))

    async def _fence(self, sale: str, epoch: int) -> tuple[ShopSnapshot, int]:
        """Raise the epoch and read the whole sale in one transaction, its items locked."""
        terms = ShopTerms.of(self._book.seller(sale))
        async with self._pool.acquire() as conn, conn.transaction():
            epoch_new = await self._raise_epoch(conn, sale, epoch)
            await conn.execute(SQL.watermarks_close, sale)
            await conn.execute(SQL.watermarks_begin, sale, epoch_new)
            items = [ItemUnits(*row) for row in await conn.fetch(SQL.items_lock, sale)]
            await conn.execute(SQL.moves_count, sale, epoch_new)
            await conn.execute(SQL.refusals_settle, sale)
            snapshot = ShopSnapshot(
                terms,
                tuple(items),
                tuple(_live_order(sale, row) for row in await conn.fetch(SQL.orders_live, sale)),
                {row["buyer"]: row["units"] for row in await conn.fetch(SQL.bought_of, sale)},
                {row["turn"]: row["state"] for row in await conn.fetch(SQL.turns_over, sale)},
                tuple(row["id"] for row in await conn.fetch(SQL.moves_of, sale)),
            )
            await self._crash("before_fence")
        return snapshot, epoch_new

    async def _raise_epoch(self, conn: asyncpg.Connection, sale: str, epoch: int) -> int:
        await conn.execute(SQL.fence_settings)
        epoch_new: int | None = await conn.fetchval(SQL.epoch_raise, sale, epoch)
        if epoch_new is None:
            raise FencedByAnother
        return epoch_new

    async def _stop(self, keys: ShopKeys) -> None:
        """No script acts on these keys any more; each answers that the shop is recovering."""
        if await self._redis.exists(keys.meta):
            await self._redis.hset(keys.meta, "run_id", FENCED)
        await self._crash("after_stop")

    async def _retire(self, keys: ShopKeys) -> None:
        """Keys of a fenced epoch: no use to anyone, gone in an hour."""
        await self._stop(keys)
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in STORED:
                pipe.expire(getattr(keys, name), OLD_KEYS_KEPT_S)
            await pipe.execute()


def _is_as_recorded(row: Mapping[str, Any], counters: Mapping[str, int]) -> bool:
    units = {
        name: counters.get(f"{row['product']}:{name}", 0)
        for name in ("free", "held", "claimed", "sold", "withdrawn", "stock")
    }
    return (
        # A refusal not yet carried out leaves its units among the claimed, and units withdrawn for one are accounted
        # for in its epoch alone: such keys are made anew.
        row["unsettled"] == 0
        and units["withdrawn"] == 0
        # Units on their way back are sold in Redis until it has made their moves.
        and units["sold"] in (row["sold"], row["sold"] + row["returned"])
        and units["claimed"] == row["claimed"]
        and units["held"] == row["held"]
        and units["stock"] in (row["stock"], row["stock"] - row["moving"])
        and sum(units.values()) == 2 * units["stock"]
    )


def _live_order(sale: str, row: Mapping[str, Any]) -> LiveOrder:
    doc = OrderDoc(
        order=row["id"],
        sale=sale,
        buyer=row["buyer"],
        turn=row["turn"],
        lane=row["lane"],
        items=_items(row["items"]),
        amount=row["amount"],
        currency=row["currency"],
        idempotency_key=row["idempotency_key"],
        body_digest=row["body_digest"],
        limit_per_buyer=row["limit_per_buyer"],
        address=None if row["address"] is None else b64encode(row["address"]).decode(),
        revision=row["revision"],
    )
    return LiveOrder(
        doc=doc,
        state=ORDER_STATES[row["claim"]],
        rev=row["rev"],
        reserved_at_ms=row["reserved_ms"],
        expires_at_ms=row["expires_ms"],
        attempts=tuple(_packed_attempt(*attempt) for attempt in _attempts(row["attempts"])),
        ended_ms=row["confirmed_ms"],
    )


def _packed_attempt(attempt: str, key: str, digest: str, state: str, reason: str) -> PackedAttempt:
    # Its event was recorded in whichever epoch: "0-0" is behind every watermark, so whoever waits for it is released.
    return PackedAttempt(
        attempt, key, digest, "0-0", OUTCOMES[state], reason, "" if state == PaymentState.PENDING else "0-0"
    )


__all__ = ["FENCED", "FencedByAnother", "RebuildTick", "Rebuilder"]
