"""One batch of a stream, one transaction: its rows, its counters and the watermark stand together or not at all.

The transaction begins by moving the watermark from where the batch was read; whoever cannot is not the writer and
leaves nothing behind. A batch that Postgres refuses for what one event holds is halved until that event stands alone;
it is kept as poison and the rest goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import msgspec

from onsale.checkout.record.arrays import columns, sent
from onsale.checkout.record.events import ItemDoc, OrderDoc
from onsale.checkout.record.folding import (
    AttemptStanding,
    ItemStanding,
    LedgerRow,
    MoneyFold,
    MoneyStanding,
    OrderStanding,
    Refusal,
)
from onsale.checkout.record.reading import (
    Admitted,
    Amended,
    AnyEvent,
    Claimed,
    Entry,
    HoldingsEvent,
    Lapsed,
    MoneyEvent,
    Poison,
    Reserved,
    Stream,
    poison,
    read,
)
from onsale.checkout.states import OrderState
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout.record", "flusher.sql")


class _KnownOrder(msgspec.Struct, frozen=True):
    """An order as `standing_lock` tells of it; `attempts` are the first fields of `AttemptStanding`."""

    order: str
    buyer: str
    turn: str
    items: tuple[ItemDoc, ...]
    amount: int
    currency: str
    state: str
    claim: str
    rev: int
    claim_rev: int
    reason: str | None
    revision: int
    attempts: list[tuple[str, str, str, int, str, str | None, bool]]


_known_orders = msgspec.json.Decoder(list[_KnownOrder]).decode
_counters = msgspec.json.Decoder(list[tuple[str, int, int, int]]).decode
_bought = msgspec.json.Decoder(list[tuple[str, int]]).decode
_turns = msgspec.json.Decoder(list[tuple[str, str]]).decode

# Errors that lie in a batch's values: repeating them changes nothing. Classes of SQLSTATE: cardinality, data,
# constraint, program limit. Everything else (connection, deadlock, lock, schema) is for the caller to try again.
VALUE_ERROR_CLASSES: Final = frozenset({"21", "22", "23", "54"})

# What a batch passes on its way, in order; a test may stop or kill the process at each.
CRASH_POINTS: Final = ("after_read", "before_tx", "after_rows", "before_commit", "after_commit", "after_announce")
CrashHook = Callable[[str], Awaitable[None]]
# (order, event id, reason)
RefusedEvent = tuple[str, str, str]


class NotTheWriter(Exception):
    """The watermark is not where this batch was read from: another flusher is ahead, or the epoch was fenced off."""


class Contended(Exception):
    """A row was not as it was read under lock: roll back and read again."""


class HookRefused(Exception):
    """Crash points exist for tests alone."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries of one stream that follow `prev` without a gap."""

    sale: str
    stream: Stream
    epoch: int
    prev: str
    entries: Sequence[Entry]

    @property
    def upto(self) -> str:
        return self.entries[-1][0]

    def halves(self) -> tuple[Batch, Batch]:
        middle = len(self.entries) // 2
        first = Batch(self.sale, self.stream, self.epoch, self.prev, self.entries[:middle])
        return first, Batch(self.sale, self.stream, self.epoch, first.upto, self.entries[middle:])


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a batch: events written, claims refused, entries kept as poison."""

    events: int
    refused: tuple[RefusedEvent, ...] = ()
    poisoned: int = 0

    def __add__(self, other: Recorded) -> Recorded:
        return Recorded(self.events + other.events, self.refused + other.refused, self.poisoned + other.poisoned)


async def no_crash(point: str) -> None:
    """Outside tests nothing happens at a crash point."""


def crash_hook(hook: CrashHook | None) -> CrashHook:
    """The hook itself, in tests. Raises HookRefused anywhere else."""
    if hook is None or hook is no_crash:
        return no_crash
    if "pytest" not in sys.modules:
        raise HookRefused
    return hook


class Recorder:
    """Writes batches into one Postgres."""

    def __init__(self, pool: asyncpg.Pool, hook: CrashHook | None = None) -> None:
        self._pool = pool
        self._crash = crash_hook(hook)

    async def record(self, batch: Batch) -> Recorded:
        """Write a batch and move the watermark to its end. Raises NotTheWriter, and what Postgres raises for its own
        reasons; then nothing of the part that raised was written."""
        events = [read(batch.stream, batch.sale, entry) for entry in batch.entries]
        try:
            return await self._transaction(batch, events)
        except Exception as error:
            if not _is_of_values(error):
                raise
            return await self._isolate(batch, error)

    async def _isolate(self, batch: Batch, error: Exception) -> Recorded:
        if len(batch.entries) > 1:
            first, second = batch.halves()
            return await self.record(first) + await self.record(second)
        return await self._transaction(batch, [poison(batch.entries[0], f"{type(error).__name__}: {error}")])

    async def _transaction(self, batch: Batch, events: Sequence[AnyEvent | Poison]) -> Recorded:
        await self._crash("before_tx")
        async with self._pool.acquire() as conn:
            async with conn.transaction():
                moved = await conn.fetchrow(
                    SQL.watermark_move, batch.sale, batch.stream, batch.epoch, batch.prev, batch.upto
                )
                if moved is None:
                    raise NotTheWriter
                recorded = await _Writing(conn, batch, moved["limit_per_buyer"]).write(events)
                await self._crash("after_rows")
                await self._crash("before_commit")
            await self._crash("after_commit")
        return recorded


def _is_of_values(error: Exception) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in VALUE_ERROR_CLASSES
    # What asyncpg cannot even send (a number beyond its column) is a ValueError of its own.
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)


class _Writing:
    """The rows of one batch, on a connection whose transaction has moved the watermark."""

    def __init__(self, conn: asyncpg.Connection, batch: Batch, limit_per_buyer: int) -> None:
        self._conn = conn
        self._batch = batch
        self._limit = limit_per_buyer
        self._refused: list[RefusedEvent] = []
        self._poison: list[Poison] = []
        self._entries = dict(batch.entries)

    async def write(self, events: Sequence[AnyEvent | Poison]) -> Recorded:
        self._poison = [event for event in events if isinstance(event, Poison)]
        sound: list[Any] = [event for event in events if not isinstance(event, Poison)]
        if sound:
            await self._write_sound(sound)
        if self._poison:
            await self._write_poison()
        await self._write_refusals()
        return Recorded(len(events) - len(self._poison), tuple(self._refused), len(self._poison))

    async def _write_sound(self, events: list[Any]) -> None:
        match self._batch.stream:
            case Stream.MONEY:
                await self._money(events)
            case Stream.HOLDINGS:
                await self._holdings(events)
            case Stream.ADMISSIONS:
                await self._admissions(events)

    # money

    async def _money(self, events: Sequence[MoneyEvent]) -> None:
        fold = MoneyFold(await self._standing(events))
        fold.apply(events)
        self._refused += [(row.order, row.event_id, row.reason) for row in fold.refusals]
        self._poison += [self._stranger(event_id) for event_id, _ in fold.strangers]
        if fold.orders or fold.attempts:
            await self._write_money(fold)
        if fold.refunds:
            rows = [(refund.attempt, refund.amount, refund.currency, refund.reason) for refund in fold.refunds]
            await self._conn.execute(SQL.refunds_insert, *columns(rows, 4))

    async def _standing(self, events: Sequence[MoneyEvent]) -> MoneyStanding:
        standing = MoneyStanding(self._limit)
        docs = [event.doc for event in events if isinstance(event, Amended | Claimed)]
        row = await self._conn.fetchrow(
            SQL.standing_lock,
            self._batch.sale,
            sorted({event.order for event in events}),
            sorted({item.product for doc in docs for item in doc.items}),
            sorted({doc.buyer for doc in docs}),
            sorted({doc.turn for doc in docs} - {""}),
        )
        for known in _known_orders(row["orders"]):
            standing.orders[known.order] = _order_standing(known)
            standing.attempts |= {attempt[0]: AttemptStanding(*attempt) for attempt in known.attempts}
        standing.items = {product: ItemStanding(*counters) for product, *counters in _counters(row["items"])}
        standing.bought = dict(_bought(row["buyers"]))
        standing.turns = dict(_turns(row["turns"]))
        return standing

    async def _write_money(self, fold: MoneyFold) -> None:
        new = sorted((order for order in fold.orders.values() if order.doc is not None), key=lambda order: order.order)
        known = [order for order in fold.orders.values() if order.doc is None]
        attempts = fold.attempts.values()
        # Counters and units move with a line of the ledger, or not at all.
        moved = [(product, item.claimed_by, item.sold_by) for product, item in fold.items.items() if fold.ledger]
        bought = sorted(fold.bought.items()) if fold.ledger else []
        arguments = sent(
            SQL.money_write,
            self._batch.sale,
            self._batch.epoch,
            self._limit,
            *columns(map(_claim_insert_row, new), 19),
            *columns((row[:-1] for row in _line_rows(order for order in new if order.revision == 1)), 7),
            *columns((_attempt_row(attempt) for attempt in attempts if attempt.doc is not None), 16),
            *columns(map(_claim_update_row, known), 9),
            *columns((_attempt_end_row(attempt) for attempt in attempts if attempt.doc is None), 5),
            *columns(moved, 3),
            *columns(bought, 2),
            *columns(map(_ledger_row, fold.ledger), 9),
        )
        written = await self._conn.fetchval(SQL.money_write, *arguments)
        if written != len(fold.orders):
            raise Contended
        amended = [order for order in known if order.is_amended]
        if amended or any(order.revision > 1 for order in new):
            await self._write_amended(amended, [order for order in new if order.revision > 1])

    async def _write_amended(self, known: Sequence[OrderStanding], new: Sequence[OrderStanding]) -> None:
        """Documents that were changed since the order was reserved; few orders are."""
        if known:
            rows = [(order.order, order.revision, order.amount, order.currency, order.address) for order in known]
            await self._conn.execute(SQL.orders_amend, *columns(rows, 5))
        lines = list(_line_rows((*known, *new)))
        await self._conn.execute(SQL.order_items_delete, *columns(((row[0], row[1], row[-1]) for row in lines), 3))
        await self._conn.execute(SQL.order_items_insert, *columns(lines, 8))

    # holdings

    async def _holdings(self, events: Sequence[HoldingsEvent]) -> None:
        events = sorted(events, key=lambda event: event.order)
        await self._conn.fetch(SQL.orders_lock_ids, [event.order for event in events])
        begun = {event.order: event for event in events if isinstance(event, Reserved)}
        ended = {event.order: event for event in events if not isinstance(event, Reserved)}
        if begun:
            holds = columns((_hold_row(event, ended.get(order)) for order, event in begun.items()), 14)
            lines = columns(_line_rows(event.doc for event in begun.values()), 8)
            arguments = sent(SQL.orders_hold_insert, self._batch.sale, self._batch.epoch, *holds, *lines)
            await self._conn.execute(SQL.orders_hold_insert, *arguments)
        alone = [event for order, event in ended.items() if order not in begun]
        if alone:
            rows = [(event.order, _ended_state(event), event.rev, event.at_ms) for event in alone]
            known = {row["id"] for row in await self._conn.fetch(SQL.orders_hold_end, *columns(rows, 4))}
            self._poison += [self._stranger(event.id) for event in alone if event.order not in known]

    # admissions

    async def _admissions(self, events: Sequence[Admitted]) -> None:
        rows = columns(map(_admission_row, events), 11)
        await self._conn.execute(SQL.admissions_insert, self._batch.sale, self._batch.epoch, *rows)

    # verdicts

    def _stranger(self, event_id: str) -> Poison:
        return poison((event_id, self._entries[event_id]), "the record knows no such order or attempt")

    async def _write_poison(self) -> None:
        batch = self._batch
        rows = [(event.id, msgspec.json.encode(event.payload).decode(), event.error) for event in self._poison]
        await self._conn.execute(SQL.poison_insert, batch.sale, batch.stream, batch.epoch, *columns(rows, 3))
        # Whoever waits for one of these gets a verdict too: what cannot be recorded is refused.
        if batch.stream is Stream.MONEY:
            self._refused += [(event.order, event.id, Refusal.STATE) for event in self._poison]

    async def _write_refusals(self) -> None:
        if self._refused:
            rows = columns((row for row in self._refused if row[0]), 3)
            await self._conn.execute(SQL.refusals_insert, self._batch.sale, self._batch.epoch, *rows)


def _order_standing(known: _KnownOrder) -> OrderStanding:
    return OrderStanding(
        known.order,
        known.buyer,
        known.turn,
        known.items,
        known.amount,
        known.currency,
        OrderState(known.state),
        known.claim,
        known.rev,
        known.claim_rev,
        known.reason,
        revision=known.revision,
    )


def _line_rows(orders: Iterable[OrderStanding | OrderDoc]) -> Iterator[tuple[Any, ...]]:
    """The lines of orders, and last the revision of the document that they stand in."""
    for order in orders:
        for item in order.items:
            yield (
                order.order,
                item.product,
                item.title,
                item.quantity,
                item.unit_amount,
                item.list_amount,
                item.currency,
                order.revision,
            )


def _ledger_row(row: LedgerRow) -> tuple[Any, ...]:
    item = row.item
    amount = item.unit_amount * item.quantity
    columns = (row.at_ms, item.product, row.order, row.verb, item.quantity, amount, item.currency)
    return (*columns, row.event_id, row.reason)


def _claim_insert_row(order: OrderStanding) -> tuple[Any, ...]:
    doc = order.doc
    assert doc is not None
    return (
        order.order,
        order.buyer,
        order.turn,
        doc.lane,
        order.state,
        order.claim,
        order.reason,
        order.rev,
        order.claim_rev,
        order.amount,
        order.currency,
        order.address,
        doc.idempotency_key,
        doc.body_digest,
        order.reserved_ms,
        order.expires_ms,
        order.confirmed_ms,
        order.ended_ms,
        order.revision,
    )


def _claim_update_row(order: OrderStanding) -> tuple[Any, ...]:
    return (
        order.order,
        order.claim,
        order.claim_rev,
        order.state,
        order.rev,
        order.reason,
        order.expires_ms,
        order.confirmed_ms,
        order.ended_ms,
    )


def _attempt_end_row(attempt: AttemptStanding) -> tuple[Any, ...]:
    return attempt.attempt, attempt.state, attempt.reason, attempt.retryable, attempt.ended_ms


def _attempt_row(attempt: AttemptStanding) -> tuple[Any, ...]:
    doc = attempt.doc
    assert doc is not None
    return (
        attempt.attempt,
        attempt.order,
        doc.provider,
        doc.method,
        attempt.state,
        attempt.reason,
        attempt.retryable,
        attempt.amount,
        attempt.currency,
        doc.idempotency_key,
        doc.body_digest,
        attempt.instrument,
        doc.driver,
        doc.drive_ms,
        attempt.created_ms,
        attempt.ended_ms,
    )


def _hold_row(event: Reserved, ended: HoldingsEvent | None) -> tuple[Any, ...]:
    doc = event.doc
    return (
        doc.order,
        doc.buyer,
        doc.turn,
        doc.lane,
        OrderState.RESERVED if ended is None else _ended_state(ended),
        event.rev if ended is None else ended.rev,
        doc.amount,
        doc.currency,
        event.address,
        doc.idempotency_key,
        doc.body_digest,
        event.at_ms,
        event.expires_ms,
        None if ended is None else ended.at_ms,
    )


def _ended_state(event: HoldingsEvent) -> OrderState:
    return OrderState.EXPIRED if isinstance(event, Lapsed) else OrderState.RELEASED


def _admission_row(event: Admitted) -> tuple[Any, ...]:
    return (
        event.id,
        event.lane,
        event.at_ms,
        _array(event.places),
        _array(event.returners),
        event.rate_milli,
        event.burst,
        event.active,
        event.active_max,
        event.passed_over,
        event.inversions,
    )


def _array(places: Sequence[int]) -> str:
    return "{" + ",".join(map(str, places)) + "}"
