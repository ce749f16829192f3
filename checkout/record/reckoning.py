"""Whether Redis is the record plus what is on its way: I1, computed while both of them move.

One Postgres snapshot (counters, watermarks, refusals, moves on their way) is taken first and kept open; then one script
reads Redis's counters and every event after those watermarks. What the record will make of these events, added to the
snapshot, must be the counters to the unit. Because the events are read after the snapshot and with the counters, no
order of the two can make a false alarm.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import msgspec
from redis.asyncio import Redis

from onsale.catalog.moves import MoveState
from onsale.checkout.record.events import OrderDoc
from onsale.checkout.record.folding import Claim, Refusal
from onsale.checkout.record.reading import (
    Amended,
    Claimed,
    Confirmed,
    Declined,
    Event,
    Poison,
    Reserved,
    Stream,
    entries,
    read,
)
from onsale.checkout.states import BOUGHT, OrderState
from onsale.lua import Script
from onsale.lua.keys import ShopKeys
from onsale.lua.replies import Reply
from onsale.lua.shop import PackedOrder
from onsale.migrations.sql import Queries, load_queries

SQL: Queries = load_queries("onsale.checkout.record", "audit.sql")

# Enough for seconds of lag at full speed; beyond, the audit waits for the flusher rather than hold Redis.
EVENTS_MAX: Final = 5_000
WHERE: Final = ("held", "claimed", "sold", "withdrawn")

STATE_AT: Final[Mapping[str, str]] = {
    OrderState.RESERVED: "held",
    OrderState.CONFIRMING: "claimed",
    **dict.fromkeys(BOUGHT, "sold"),
}

_packed_order = msgspec.msgpack.Decoder(PackedOrder).decode
Units = Counter[tuple[str, str]]  # (product, where) -> units


class NotJudged(Exception):
    """The shop is being recovered, or the record is too far behind: ask again."""


@dataclass(slots=True)
class Moment:
    """What Redis said in one moment."""

    counters: Mapping[str, int]
    events: Mapping[str, Event]  # order -> its newest event that the record has not
    docs: Mapping[str, OrderDoc]  # order -> its newest document among those events
    orders: Mapping[str, PackedOrder | None]
    applied: frozenset[str]


@dataclass(slots=True)
class Expected:
    """What Redis's counters must say."""

    units: Units = field(default_factory=Counter)
    stock: dict[str, int] = field(default_factory=dict)

    def differences(self, counters: Mapping[str, int]) -> list[str]:
        """Each counter that says something else, in words."""
        found = []
        for product, stock in self.stock.items():
            told = {where: counters.get(f"{product}:{where}", 0) for where in (*WHERE, "free", "stock")}
            placed = {where: self.units[product, where] for where in WHERE}
            wanted = {**placed, "free": stock - sum(placed.values()), "stock": stock}
            found += [
                f"{product}:{where} is {told[where]} in Redis, {wanted[where]} by the record"
                for where in told
                if told[where] != wanted[where]
            ]
        return found


async def reckon(pool: asyncpg.Pool, redis: Redis, keys: ShopKeys) -> list[str]:
    """Every difference between Redis and the record, in words. Raises NotJudged."""
    async with pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
        watermarks = {row["stream"]: row["upto"] for row in await conn.fetch(SQL.watermarks_of, keys.sale, keys.epoch)}
        if len(watermarks) < 2:
            raise NotJudged("the streams of this epoch have not been read yet")
        refusals = await conn.fetch(SQL.refusals_of, keys.sale, keys.epoch)
        moves = await conn.fetch(SQL.moves_pending, keys.sale)
        moment = await _moment(
            redis,
            keys,
            watermarks,
            [row["order_id"] for row in refusals if not row["is_settled"]],
            [row["id"] for row in moves],
        )
        expected = await _expected(conn, keys, refusals, moves, moment)
    return expected.differences(moment.counters)


async def _moment(
    redis: Redis, keys: ShopKeys, watermarks: Mapping[str, str], refused: Sequence[str], moves: Sequence[str]
) -> Moment:
    answer = await Script(redis, "reckon")(
        [keys.meta, keys.stock, keys.orders, keys.moves, keys.money, keys.holdings],
        [
            watermarks[Stream.MONEY],
            watermarks[Stream.HOLDINGS],
            EVENTS_MAX,
            msgspec.msgpack.encode(refused),
            msgspec.msgpack.encode(moves),
        ],
    )
    if Reply(answer[0]) is not Reply.OK:
        raise NotJudged(Reply(answer[0]).name.lower())
    _, stock, money, holdings, standing, applied = answer
    events = [*_events(Stream.MONEY, keys.sale, money), *_events(Stream.HOLDINGS, keys.sale, holdings)]
    return Moment(
        counters={name.decode(): int(units) for name, units in _pairs(stock)},
        events=_newest(events),
        docs=_newest_docs(events),
        orders={order.decode(): _packed_order(raw) if raw else None for order, raw in _pairs(standing)},
        applied=frozenset(move for move, is_applied in zip(moves, applied, strict=True) if is_applied),
    )


def _pairs(flat: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _events(stream: Stream, sale: str, raw: Sequence[Any]) -> Iterable[Event]:
    for entry in entries([(event_id, dict(_pairs(fields))) for event_id, fields in raw]):
        event = read(stream, sale, entry)
        if isinstance(event, Event) and not isinstance(event, Poison):
            yield event


def _newest(events: Iterable[Event]) -> dict[str, Event]:
    newest: dict[str, Event] = {}
    for event in events:
        if event.order not in newest or newest[event.order].rev < event.rev:
            newest[event.order] = event
    return newest


def _newest_docs(events: Iterable[Event]) -> dict[str, OrderDoc]:
    docs: dict[str, OrderDoc] = {}
    for event in events:
        if isinstance(event, Reserved | Amended | Claimed):
            known = docs.get(event.order)
            if known is None or known.revision < event.doc.revision:
                docs[event.order] = event.doc
    return docs


async def _expected(
    conn: asyncpg.Connection, keys: ShopKeys, refusals: Sequence[Any], moves: Sequence[Any], moment: Moment
) -> Expected:
    expected = Expected()
    for row in await conn.fetch(SQL.items_of, keys.sale):
        product = row["product"]
        expected.stock[product] = row["stock"]
        expected.units.update({(product, where): row[where] for where in ("held", "claimed", "sold")})
    for row in moves:
        is_applied = row["id"] in moment.applied
        if row["state"] == MoveState.ASKED and is_applied:
            expected.stock[row["product"]] += row["quantity"]
        if row["state"] == MoveState.ASKED or is_applied:
            continue
        if row["is_return"]:
            expected.units[row["product"], "sold"] += row["quantity"]
        else:
            expected.stock[row["product"]] -= row["quantity"]
    await _place_orders(conn, refusals, moment, expected)
    return expected


async def _place_orders(conn: asyncpg.Connection, refusals: Sequence[Any], moment: Moment, expected: Expected) -> None:
    """Move the units of every order that the snapshot does not tell of whole: from where the record has them to where
    Redis must."""
    refused = {row["order_id"]: row for row in refusals}
    orders = sorted({*moment.events, *refused})
    recorded = {row["id"]: row for row in await conn.fetch(SQL.orders_of, orders)}
    units: dict[str, dict[str, int]] = defaultdict(dict)
    for row in await conn.fetch(SQL.order_items_of, orders):
        units[row["order_id"]][row["product"]] = row["quantity"]
    for order in orders:
        row = recorded.get(order)
        here = None if row is None else _recorded_at(row)
        there = _redis_at(order, row, refused.get(order), moment)
        if here:
            expected.units.subtract({(product, here): quantity for product, quantity in units[order].items()})
        if there:
            doc = moment.docs.get(order)
            # An amendment that the record has not yet: Redis holds what its document says.
            is_newer = doc is not None and (row is None or doc.revision > row["revision"])
            lines = {item.product: item.quantity for item in doc.items} if doc and is_newer else units[order]
            expected.units.update({(product, there): quantity for product, quantity in lines.items()})


def _recorded_at(row: Mapping[str, Any]) -> str | None:
    """Under which counter the snapshot has an order's units; None = free."""
    if row["claim"] == Claim.OPEN:
        return "claimed"
    if row["claim"] == Claim.SOLD:
        return "sold"
    return "held" if row["state"] == OrderState.RESERVED else None


def _redis_at(
    order: str, row: Mapping[str, Any] | None, refusal: Mapping[str, Any] | None, moment: Moment
) -> str | None:
    """Under which counter Redis must have them: by its newest event, else by what became of its refused claim."""
    event = moment.events.get(order)
    if event is not None:
        # Of two streams one may be ahead: whichever of event and row is newer tells.
        return _event_at(event, moment) if row is None or event.rev > row["rev"] else STATE_AT.get(row["state"])
    if refusal is not None and (row is None or row["claim"] in (Claim.REFUSED, Claim.NONE)):
        if refusal["is_settled"]:
            return "withdrawn" if refusal["reason"] == Refusal.STOCK else None
        return _claim_at(moment.orders.get(order), refusal["reason"])
    return None if row is None else _recorded_at(row)


def _event_at(event: Event, moment: Moment) -> str | None:
    match event:
        case Reserved() | Amended() | Declined():
            return "held"
        case Confirmed():
            return "sold"
        case Claimed():
            return _claim_at(moment.orders.get(event.order), None)
    return None


def _claim_at(packed: PackedOrder | None, reason: str | None) -> str | None:
    """A claim that is refused leaves no event: the packed order says whether that was done."""
    if packed is None:
        return None
    if packed.state == OrderState.CONFIRMING:
        return "claimed"
    if packed.state == OrderState.RELEASED and packed.attempts:
        return "withdrawn" if (packed.attempts[-1].reason or reason) == Refusal.STOCK else None
    return None
