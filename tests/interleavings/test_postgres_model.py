"""The model of Postgres is held to Postgres: both are given the same histories, and must answer and hold the same."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
import pytest

from bench.interleavings.network import Network
from bench.interleavings.postgres_model import Pool, PostgresModel
from bench.interleavings.statements import HANDLERS, TABLES, checks, uniques
from onsale.catalog.moves import SQL as MOVES
from onsale.checkout.backlog import SQL as COMPLETER
from onsale.checkout.orders import SQL as ORDERS
from onsale.checkout.record.events import AttemptDoc, ItemDoc, OrderDoc
from onsale.checkout.record.reading import Entry, Stream
from onsale.checkout.record.rebuild import SQL as REBUILD
from onsale.checkout.record.recorder import SQL as FLUSHER
from onsale.checkout.record.recorder import Batch, NotTheWriter, Recorder
from onsale.checkout.record.watermark import SQL as WATERMARK

SALE, PRODUCTS, LIMIT, STOCK = "drop", ("hat", "jacket"), 3, 4
NOW_MS = 1_767_225_600_000
# By Postgres's own clock: whether there is a time is compared, not which.
OWN_TIMES = {"drive_until", "created_at", "settled_at", "done_at", "closed_at", "ended_at"}
# Known by nobody but the store that wrote it.
LEFT_OUT = {"age_ms", "reserved_at", "payload", "error"}


class Near(Network):
    """A wire without a way to go."""

    def delay_s(self) -> float:
        return 0.0


def model_of(rng: random.Random) -> tuple[PostgresModel, Pool]:
    """The model with one sale, and its pool."""
    loop: Any = asyncio.get_running_loop()
    clock = itertools.count(int(time.time() * 1000), 5)
    model = PostgresModel(loop, rng, lambda: next(clock), (*TABLES, "advisory"), HANDLERS)
    model.checks, model.uniques = checks(), uniques()
    tx = model.transaction(model)
    tx.writes["sales", (SALE,)] = {"id": SALE, "no": 1, "limit_per_buyer": LIMIT, "shop_epoch": 1, "line_epoch": 1}
    for product in PRODUCTS:
        tx.writes["sale_items", (SALE, product)] = {
            "sale": SALE, "product": product, "stock": STOCK, "claimed": 0, "sold": 0,
        }  # fmt: skip
    tx.end(commits=True)
    return model, Pool(Near(loop, rng), model)


@pytest.fixture
async def real(database: asyncpg.Pool) -> asyncpg.Pool:
    """Postgres with the same sale."""
    await database.execute(
        """INSERT INTO sales (id, title, opens_at, closes_at, limit_per_buyer, hold_ttl_s, policy, shop_epoch,
                              line_epoch)
           VALUES ($1, 'Drop', now() - interval '1 hour', now() + interval '1 day', $2, 600,
                   '{"rate_centi": 2000, "active_max": 100}', 1, 1)""",
        SALE,
        LIMIT,
    )
    for product in PRODUCTS:
        await database.execute("INSERT INTO products VALUES ($1, 'Thing', 100, 'KRW')", product)
        await database.execute(
            """INSERT INTO sale_items (sale, product, title, amount, list_amount, currency, stock)
               VALUES ($1, $2, 'Thing', 100, 120, 'KRW', $3)""",
            SALE,
            product,
            STOCK,
        )
    return database


class History:
    """Events of a sale as scripts write them, and as they never do: stale, doubled, of strangers."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.ids = itertools.count(1)
        self.docs: dict[str, OrderDoc] = {}
        self.revs: dict[str, int] = {}
        self.tries: dict[str, list[str]] = {}
        self.upto = dict.fromkeys((Stream.MONEY, Stream.HOLDINGS), "0-0")
        self.written: list[tuple[str, str, str]] = []

    def batch(self) -> Batch:
        """The next events of one stream."""
        stream = self.rng.choice((Stream.MONEY, Stream.MONEY, Stream.HOLDINGS))
        entries = [self._entry(stream) for _ in range(self.rng.randint(1, 5))]
        prev = self.upto[stream] if self.rng.random() < 0.95 else "1-1"
        if prev != "1-1":
            self.upto[stream] = entries[-1][0]
        return Batch(SALE, stream, 1, prev, entries)

    def order(self) -> str:
        return f"o{self.rng.randrange(9)}"

    def _entry(self, stream: Stream) -> Entry:
        order = self.order()
        known = self.docs.get(order)
        verbs = ("reserved", "lapsed", "released") if stream is Stream.HOLDINGS else MONEY_VERBS
        verb = self.rng.choice(verbs)
        if known is None or verb == "amended":
            self.docs[order] = self._doc(order, 1 if known is None else known.revision + 1)
        rev = self.revs[order] = max(1, self.revs.get(order, 0) + self.rng.choice((1, 1, 1, 1, 0)))
        event_id = f"{NOW_MS + next(self.ids)}-0"
        fields = {"verb": verb, "order": order, "rev": rev, "at": NOW_MS + next(self.ids)} | self._more(order, verb)
        self.written.append((stream, event_id, order))
        return event_id, {name.encode(): _encoded(value) for name, value in fields.items()}

    def _more(self, order: str, verb: str) -> dict[str, Any]:
        doc, expires = self.docs[order], NOW_MS + 400_000_000_000 + self.rng.randrange(1_000_000)
        attempt = self.rng.choice(self.tries.get(order) or ["nobody's"])
        if verb in ("reserved", "amended"):
            return {"expires": expires, "doc": doc}
        if verb == "claimed":
            return {"expires": expires, "doc": doc, "attempt": self._attempt(order)}
        if verb == "confirmed":
            return {"attempt_id": attempt}
        if verb == "declined":
            return {"attempt_id": attempt, "reason": "funds", "expires": expires}
        return {"attempt_id": attempt, "reason": "provider"} if verb == "failed" else {}

    def _doc(self, order: str, revision: int) -> OrderDoc:
        number = int(order[1:])
        items = tuple(
            ItemDoc(product, "Thing", self.rng.randint(1, 2), 100, 120, "KRW")
            for product in self.rng.sample(PRODUCTS, self.rng.randint(1, 2))
        )
        return OrderDoc(
            order=order, sale=SALE, buyer=f"b{number % 4}", turn=f"t{number % 6}" if number % 3 else "",
            lane="general", items=items, amount=sum(item.quantity * 100 for item in items), currency="KRW",
            idempotency_key=f"key-{order}", body_digest="digest", limit_per_buyer=LIMIT, revision=revision,
            address=b64encode(b"sealed").decode() if number % 2 else None,
        )  # fmt: skip

    def _attempt(self, order: str) -> AttemptDoc:
        tries = self.tries.setdefault(order, [])
        # Ids sort as they were made: a payment's age breaks no tie that its id would break otherwise.
        attempt = self.rng.choice(tries) if tries and self.rng.random() < 0.1 else f"a{next(self.ids):06}"
        tries.append(attempt)
        return AttemptDoc(
            attempt=attempt, provider="sandbox", method="card", amount=self.docs[order].amount, currency="KRW",
            idempotency_key=f"pay-{attempt}", body_digest="digest", instrument=b64encode(b"card").decode(),
            driver="web", drive_ms=self.rng.choice((0, 600_000)),
        )  # fmt: skip


MONEY_VERBS = ("claimed", "claimed", "claimed", "confirmed", "confirmed", "declined", "failed", "amended")


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value) if isinstance(value, msgspec.Struct) else str(value).encode()


def plain(value: Any) -> Any:
    """As both stores can say it."""
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, str) and value.startswith(("[", "{")):
        return sorted(json.loads(value), key=repr)
    return value


def row_of(row: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(
        (name, row[name] is None if name in OWN_TIMES else plain(row[name]))
        for name in sorted(names)
        if name not in LEFT_OUT
    )


async def answers(pool: Any, query: str, args: Sequence[Any]) -> list[Any] | str:
    """What a statement answers, in no order; an error by its name."""
    try:
        rows = await pool.fetch(query, *args)
    except asyncpg.PostgresError as error:
        return type(error).__name__
    return sorted((row_of(row, list(row.keys())) for row in rows), key=repr)


async def recorded(pool: Any, batch: Batch) -> Any:
    try:
        return await Recorder(pool).record(batch)
    except NotTheWriter:
        return NotTheWriter


def question(history: History) -> tuple[str, Sequence[Any]]:
    """One of the other statements, with arguments of this history."""
    rng, order = history.rng, history.order()
    attempt = rng.choice(history.tries.get(order) or ["nobody's"])
    some = [event for event in history.written if event[0] == Stream.MONEY] or [("money", "1-1", order)]
    stream, event_id, owner = rng.choice(some)
    move = f"m{rng.randrange(4)}"
    return rng.choice((
        (ORDERS.order_get, (order,)),
        (ORDERS.order_by_key, (f"b{rng.randrange(4)}", SALE, f"key-{order}")),
        (ORDERS.refund_open, (attempt, 100, "KRW", "no_claim")),
        (ORDERS.refund_close, (f"{attempt}-refund",)),
        (ORDERS.refusal_settle, (owner, event_id)),
        (WATERMARK.verdicts_of, ([0], [SALE], [str(stream)], [1], [event_id], [owner])),
        (COMPLETER.attempts_take, ("worker", 0, 20)),
        (COMPLETER.attempts_wait, (attempt, "worker", 0)),
        (COMPLETER.refunds_take, (0, 20)),
        (COMPLETER.refusals_open, (-60_000, 20)),
        (COMPLETER.strays_of, (SALE, 1, [owner], [attempt], [event_id])),
        (COMPLETER.stray_end, (order,)),
        (MOVES.move_ask, (move, SALE, rng.choice(PRODUCTS), -1, "taken", None)),
        (MOVES.moves_pending, (None, 20)),
        (MOVES.move_count, (move, 1)),
        (MOVES.move_refuse, (move,)),
        (REBUILD.figures_of, (SALE,)),
        (REBUILD.orders_live, (SALE,)),
        (REBUILD.bought_of, (SALE,)),
        (REBUILD.turns_over, (SALE,)),
        (REBUILD.moves_of, (SALE,)),
        (REBUILD.items_lock, (SALE,)),
    ))  # fmt: skip


ENDINGS: Sequence[Sequence[tuple[str, Sequence[Any]]]] = (
    ((REBUILD.epoch_raise, (SALE, 1)), (REBUILD.watermarks_continue, (SALE, 2))),
    (
        (REBUILD.epoch_raise, (SALE, 1)), (REBUILD.watermarks_close, (SALE,)), (REBUILD.watermarks_begin, (SALE, 2)),
        (REBUILD.moves_count, (SALE, 2)), (REBUILD.refusals_settle, (SALE,)), (REBUILD.epoch_raise, (SALE, 1)),
    ),
)  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
async def test_same_history(real: asyncpg.Pool, seed: int) -> None:
    """Batches of every kind of event, and every other statement between them: same answers, same tables."""
    history = History(random.Random(seed))
    model, pool = model_of(random.Random(seed))
    for stream in (Stream.MONEY, Stream.HOLDINGS):
        for one in (real, pool):
            await one.execute(FLUSHER.watermarks_make, stream)
    for _ in range(40):
        batch = history.batch()
        assert await recorded(real, batch) == await recorded(pool, batch)
        for _ in range(2):
            await _assert_same_answers(real, pool, *question(history))
    for query, args in history.rng.choice(ENDINGS):
        await _assert_same_answers(real, pool, query, args)
    await _assert_same_tables(real, model)


async def _assert_same_answers(real: asyncpg.Pool, pool: Pool, query: str, args: Sequence[Any]) -> None:
    expected, found = await answers(real, query, args), await answers(pool, query, args)
    assert expected == found, f"{query}\n{args}"


async def _assert_same_tables(real: asyncpg.Pool, model: PostgresModel) -> None:
    for table in TABLES:
        mine = model.rows(table)
        if not mine:
            assert 0 == await real.fetchval(f"SELECT count(*) FROM {table}"), table
            continue
        names = [name for name in mine[0] if table != "sales" or name in ("id", "shop_epoch")]
        known = "WHERE id <> '_shop'" if table == "sales" else ""
        theirs = await real.fetch(f"SELECT {', '.join(names)} FROM {table} {known}")
        expected = sorted((row_of(row, names) for row in theirs), key=repr)
        found = sorted((row_of(row, names) for row in mine), key=repr)
        differing = [row for row in expected if row not in found], [row for row in found if row not in expected]
        assert (len(expected), [], []) == (len(found), *differing), table


@pytest.fixture(params=["postgres", "model"])
def store(request: pytest.FixtureRequest, real: asyncpg.Pool) -> str:
    return str(request.param)


def pool_of(store: str, real: asyncpg.Pool) -> Any:
    return real if store == "postgres" else model_of(random.Random(1))[1]


MOVE = (FLUSHER.watermark_move, SALE, "money", 1)


@pytest.mark.parametrize("is_committed", [True, False])
async def test_who_moves_the_watermark(store: str, real: asyncpg.Pool, is_committed: bool) -> None:
    """The second of two writers waits for the first, then looks again at where the watermark is."""
    pool = pool_of(store, real)
    await pool.execute(FLUSHER.watermarks_make, "money")
    async with pool.acquire() as first, pool.acquire() as second:
        begun = first.transaction()
        await begun.__aenter__()
        assert await first.fetchrow(*MOVE, "0-0", "5-0") is not None
        async with second.transaction():
            moving = asyncio.create_task(second.fetchrow(*MOVE, "0-0", "3-0"))
            await asyncio.sleep(0.05)
            assert not moving.done()
            await begun.__aexit__(*((None, None, None) if is_committed else (ValueError, ValueError(), None)))
            moved = await moving

    assert is_committed == (moved is None)


async def test_a_blocked_writer_gives_up(store: str, real: asyncpg.Pool) -> None:
    """A transaction of the record waits a second for a lock, no longer."""
    pool = pool_of(store, real)
    await pool.execute(FLUSHER.watermarks_make, "money")
    async with pool.acquire() as first, pool.acquire() as second, first.transaction():
        await first.fetchrow(*MOVE, "0-0", "5-0")
        with pytest.raises(asyncpg.LockNotAvailableError):
            async with second.transaction():
                await second.fetchrow(*MOVE, "0-0", "3-0")


async def test_counters_are_read_once_they_are_locked(store: str, real: asyncpg.Pool) -> None:
    """A batch that waits for an item judges by the counters that it finds then."""
    pool = pool_of(store, real)
    await pool.execute(MOVES.move_ask, "m", SALE, "hat", -1, "taken", None)
    async with pool.acquire() as first, pool.acquire() as second:
        begun = first.transaction()
        await begun.__aenter__()
        await first.fetch(MOVES.items_lock, "hat", [SALE, None])
        await first.fetchval(MOVES.move_count, "m", 1)
        standing = asyncio.create_task(second.fetchrow(FLUSHER.standing_lock, SALE, [], ["hat"], [], []))
        await asyncio.sleep(0.05)
        assert not standing.done()
        await begun.__aexit__(None, None, None)
        row = await standing

    assert [["hat", STOCK - 1, 0, 0]] == json.loads(row["items"])


async def test_deadlock(store: str, real: asyncpg.Pool) -> None:
    """Of two that wait for each other one is told, and the other goes on."""
    pool = pool_of(store, real)

    async def lock_both(products: Sequence[str], turn: asyncio.Event, other: asyncio.Event) -> str:
        async with pool.acquire() as conn, conn.transaction():
            await conn.fetch(MOVES.items_lock, products[0], [SALE])
            turn.set()
            await other.wait()
            await conn.fetch(MOVES.items_lock, products[1], [SALE])
        return "done"

    one, two = asyncio.Event(), asyncio.Event()
    found = await asyncio.gather(
        lock_both(PRODUCTS, one, two), lock_both(PRODUCTS[::-1], two, one), return_exceptions=True
    )

    assert ["DeadlockDetectedError", "done"] == sorted(
        one if isinstance(one, str) else type(one).__name__ for one in found
    )
