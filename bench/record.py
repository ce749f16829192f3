"""How fast the record is: a flusher and a backlog of whole orders beside the least that writes the same rows; and how
far the record is behind at a steady rate.

    python -m bench.record                      both, three rounds of 10,000 orders
    python -m bench.record --orders 30000 --rounds 1 --no-lag

Floor and ours write into one Postgres, in turn, each with the machine to itself but for the stores: one process that
sends a thousand orders a transaction. The floor is told its rows; it inserts them once, as they end, into tables with
the real columns and primary keys and nothing else, while a flusher reads them from streams, judges each claim, and
takes every order through its states in two streams, with the real tables' indexes, foreign keys and notices. `narrow`
is the floor of the promise: order, item and two lines of the ledger, six columns at most. Rows are
those left behind: each order's own was updated once or twice on its way.

Lag is of each event: from its id, which is Redis's clock, until the announcement that it is recorded is heard here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
import time
from base64 import b64encode
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import uvloop
from redis.asyncio import Redis

from bench.floors import Meter, Server, median, store
from bench.scenarios import ONSALE, SALE
from onsale.catalog.sales import SaleBook
from onsale.checkout.inventory import Inventory
from onsale.checkout.record.events import Announcement, AttemptDoc, ItemDoc, OrderDoc
from onsale.checkout.record.rebuild import Rebuilder
from onsale.lua.keys import ShopKeys
from onsale.server import embedded

BATCH = 1_000
NARROW_ROWS_AN_ORDER, SAME_ROWS_AN_ORDER = 4, 6
DRAINED_WITHIN_S = 120.0
# The writer of the steady rate wakes this often.
BEAT_S = 0.01
EPOCH_MS = 1_790_000_000_000

ROWS_LEFT = """
SELECT (SELECT count(*) FROM orders WHERE sale = $1) + (SELECT count(*) FROM sale_buyers WHERE sale = $1)
     + (SELECT count(*) FROM ledger WHERE sale = $1) + (SELECT count(*) FROM notices WHERE sale = $1)
     + (SELECT count(*) FROM order_items i JOIN orders o ON o.id = i.order_id WHERE o.sale = $1)
     + (SELECT count(*) FROM payments p JOIN orders o ON o.id = p.order_id WHERE o.sale = $1)
"""
NARROW_TABLES = """
CREATE TABLE narrow_orders (id text PRIMARY KEY, buyer text, state text, rev int, amount bigint, at bigint);
CREATE TABLE narrow_items (order_id text, product text, quantity int, amount bigint, PRIMARY KEY (order_id, product));
CREATE TABLE narrow_ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id text, verb text, quantity int)
"""
NARROW = (
    "INSERT INTO narrow_orders"
    " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::bigint[], $6::bigint[])",
    "INSERT INTO narrow_items SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[])",
    "INSERT INTO narrow_ledger (order_id, verb, quantity) SELECT * FROM unnest($1::text[], $2::text[], $3::int[])",
)
# The real columns that an order fills.
SAME_COLUMNS = {
    "orders": "id text, sale text, buyer text, turn text, lane text, epoch int, state text, claim text, rev int, "
    "claim_rev int, amount bigint, currency text, idempotency_key text, body_digest text, reserved_ms bigint, "
    "expires_ms bigint, confirmed_ms bigint, revision int",
    "order_items": "order_id text, product text, title text, quantity int, unit_amount bigint, list_amount bigint, "
    "currency text",
    "payments": "id text, order_id text, provider text, method text, state text, amount bigint, currency text, "
    "idempotency_key text, body_digest text, driver text, drive_ms bigint, created_ms bigint, ended_ms bigint",
    "sale_buyers": "sale text, buyer text, bought int, bought_max int",
    "ledger": "at_ms bigint, sale text, product text, order_id text, verb text, quantity int, amount bigint, "
    "currency text, epoch int, event_id text",
}
SAME_KEYS = {
    "orders": "id", "order_items": "order_id, product", "payments": "id", "sale_buyers": "sale, buyer",
    "ledger": "order_id, product, verb, epoch, event_id",
}  # fmt: skip


@dataclass
class Drained:
    """One round: orders a second, and CPU µs an order of each process."""

    per_second: float
    cpu_us: dict[str, float]
    rows_an_order: float

    @property
    def rows_per_second(self) -> float:
        return self.per_second * self.rows_an_order

    @property
    def cpu_us_a_row(self) -> float:
        """Of all processes: what a busy machine does not change much."""
        return self.cpu_us["sum"] / self.rows_an_order


@dataclass
class Lag:
    """Milliseconds from an event until its recording was announced, by stream; `late_ms`: of the writer itself."""

    offered: int
    orders: int
    events: dict[str, dict[str, float]]
    late_ms: float
    cpu_us: dict[str, float]


@dataclass
class Record:
    """Stores, one flusher, and one connection to each store for whoever measures."""

    environ: dict[str, str]
    folder: Path
    pids: dict[str, int]
    pool: asyncpg.Pool
    shop: Redis
    flusher: subprocess.Popen[bytes]
    _sales: int = field(default=0)

    def meter(self) -> Meter:
        return Meter(Server("ours", 0, {"flusher": self.flusher.pid, **self.pids}))

    async def sale(self, units: int) -> Sale:
        """A sale that is loaded: its first epoch, its streams empty."""
        self._sales += 1
        name = f"record-{self._sales}"
        file = self.folder / f"{name}.toml"
        file.write_text(SALE.format(sale=name, units=units, rate=0, cap=1, limit=1, hold_ttl_s=600, absent_after_s=150))
        await command(self.environ, "sale", "create", str(file))
        book = SaleBook(self.pool)
        inventory = Inventory(self.shop, lambda sale: ShopKeys(sale, book.seller(sale).shop_epoch))
        await Rebuilder(self.pool, self.shop, inventory, book).tick()
        keys = ShopKeys(name, book.seller(name).shop_epoch)
        await inventory.close()
        return Sale(name, keys, self)


@dataclass
class Sale:
    """Writes events as the scripts do, and knows how far they are recorded."""

    name: str
    keys: ShopKeys
    record: Record

    def events(self, n: int) -> list[tuple[str, Any]]:
        """The events of one whole order, each with its stream."""
        order, at = f"{self.name}-{n:020}", EPOCH_MS + n
        item = ItemDoc(f"{self.name}-1", "Only one kind", 1, 1_990_000, 1_990_000, "KRW")
        doc = msgspec.json.encode(
            OrderDoc(
                order, self.name, f"buyer-{n:020}", f"1-{n}-1", "general", (item,), 1_990_000, "KRW", f"key-{n}",
                "digest-of-the-body", 1, b64encode(b"a" * 180).decode(),
            )
        )  # fmt: skip
        attempt = msgspec.json.encode(
            AttemptDoc(
                f"try-{order}", "sandbox", "card", 1_990_000, "KRW", f"pay-{n}", "digest-of-the-body",
                b64encode(b"i" * 80).decode(), "web-1", 30_000,
            )
        )  # fmt: skip
        common = {"order": order, "at": at}
        reserved = common | {"verb": "reserved", "rev": 1, "expires": at, "doc": doc}
        claimed = common | {"verb": "claimed", "rev": 2, "expires": at, "doc": doc, "attempt": attempt}
        confirmed = common | {"verb": "confirmed", "rev": 3, "attempt_id": f"try-{order}"}
        return [(self.keys.holdings, reserved), (self.keys.money, claimed), (self.keys.money, confirmed)]

    async def fill(self, first: int, orders: int) -> None:
        """Whole orders into the streams, as fast as Redis takes them."""
        for start in range(first, first + orders, BATCH):
            async with self.record.shop.pipeline(transaction=False) as pipe:
                for n in range(start, min(start + BATCH, first + orders)):
                    for stream, event in self.events(n):
                        pipe.xadd(stream, event)
                await pipe.execute()

    async def until_recorded(self) -> None:
        """Until Postgres has both streams whole."""
        last: list[Any] = [
            await self.record.shop.xrevrange(key, count=1) for key in (self.keys.money, self.keys.holdings)
        ]
        ends = {entries[0][0].decode() for entries in last if entries}
        deadline = time.monotonic() + DRAINED_WITHIN_S
        while time.monotonic() < deadline:
            rows = await self.record.pool.fetch("SELECT upto FROM watermarks WHERE sale = $1", self.name)
            if ends <= {row["upto"] for row in rows}:
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"{self.name} was not recorded within {DRAINED_WITHIN_S:.0f} s")


async def command(environ: dict[str, str], *words: str) -> None:
    process = await asyncio.create_subprocess_exec(ONSALE, *words, env=environ, stdout=subprocess.DEVNULL)
    if await process.wait():
        raise RuntimeError(f"onsale {' '.join(words)} failed")


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Record]:
    """Stores as durable as onsale's, the real schema, one flusher."""
    async with AsyncExitStack() as closing:
        temporary = tempfile.TemporaryDirectory(prefix="onsale-record-", ignore_cleanup_errors=True)
        folder = Path(closing.enter_context(temporary))
        line = embedded.redis_launch("line", folder / "line", fsync="everysec", port=embedded.free_port())
        shop = embedded.redis_launch("shop", folder / "shop", fsync="always", port=embedded.free_port())
        postgres = embedded.postgres_launch(folder / "postgres", port=embedded.free_port())
        pids = {one.name: await closing.enter_async_context(store(one)) for one in (line, shop, postgres)}
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("ONSALE_", "REDIS"))} | {
            "LINE_REDIS_URL": line.url,
            "SHOP_REDIS_URL": shop.url,
            "DATABASE_URL": postgres.url,
            "ONSALE_SECRET_KEYS": secrets.token_urlsafe(48),
            "ONSALE_DATA_DIR": str(folder / "data"),
        }
        await command(environ, "migrate")
        flusher = closing.enter_context(_running(environ))
        pool = await closing.enter_async_context(asyncpg.create_pool(postgres.url, min_size=1, max_size=4))
        redis = await closing.enter_async_context(Redis.from_url(shop.url))
        yield Record(environ, folder, pids, pool, redis, flusher)


@contextlib.contextmanager
def _running(environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([ONSALE, "flusher"], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(20)


# --- ours


async def drain(record: Record, orders: int) -> Drained:
    """A stopped flusher finds a backlog of whole orders and goes on."""
    sale = await record.sale(orders + 100)
    await sale.fill(0, 20)
    await sale.until_recorded()
    record.flusher.send_signal(signal.SIGSTOP)
    await sale.fill(20, orders)
    before = await _rows_of(sale)
    with record.meter() as meter:
        record.flusher.send_signal(signal.SIGCONT)
        await sale.until_recorded()
    sold = await record.pool.fetchval("SELECT sold FROM sale_items WHERE sale = $1", sale.name)
    if sold != orders + 20:
        raise RuntimeError(f"{sold} of {orders + 20} orders are sold in the record")
    rows = await _rows_of(sale) - before
    return Drained(orders / meter.took_s, meter.us(orders), rows / orders)


async def _rows_of(sale: Sale) -> int:
    counted = await sale.record.pool.fetchval(ROWS_LEFT, sale.name)
    return int(counted)


# --- floors


async def narrow_floor(record: Record, orders: int) -> Drained:
    """Order, item and two ledger rows of a few columns."""
    await record.pool.execute("DROP TABLE IF EXISTS narrow_orders, narrow_items, narrow_ledger")
    await record.pool.execute(NARROW_TABLES)
    with _Floor(record) as floor:
        async with record.pool.acquire() as conn:
            for start in range(0, orders, BATCH):
                ids = [f"order-{n:020}" for n in range(start, start + BATCH)]
                ones = [1] * BATCH
                async with conn.transaction():
                    await conn.execute(NARROW[0], ids, ids, ["confirmed"] * BATCH, ones, ones, ones)
                    await conn.execute(NARROW[1], ids, ["p"] * BATCH, ones, ones)
                    await conn.execute(NARROW[2], ids + ids, ["claimed"] * BATCH + ["sold"] * BATCH, ones + ones)
    return floor.drained(orders, NARROW_ROWS_AN_ORDER)


async def same_floor(record: Record, orders: int) -> Drained:
    """The rows that ours writes, with their columns, once."""
    statements = {}
    for table, declared in SAME_COLUMNS.items():
        await record.pool.execute(f"DROP TABLE IF EXISTS same_{table}")
        await record.pool.execute(f"CREATE TABLE same_{table} ({declared}, PRIMARY KEY ({SAME_KEYS[table]}))")
        kinds = [column.split()[1] for column in declared.split(", ")]
        arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(kinds, 1))
        statements[table] = f"INSERT INTO same_{table} SELECT * FROM unnest({arrays})"
    with _Floor(record) as floor:
        async with record.pool.acquire() as conn:
            for start in range(0, orders, BATCH):
                async with conn.transaction():
                    for table, columns in _same_rows(start).items():
                        await conn.execute(statements[table], *columns)
    return floor.drained(orders, SAME_ROWS_AN_ORDER)


def _same_rows(start: int) -> dict[str, list[list[Any]]]:
    numbers = range(start, start + BATCH)
    ids = [f"order-{n:020}" for n in numbers]
    buyers = [f"buyer-{n:020}" for n in numbers]
    tries = [f"try-order-{n:020}" for n in numbers]
    at = [EPOCH_MS + n for n in numbers]

    def each(value: Any) -> list[Any]:
        return [value] * BATCH

    sale, product, won, digest = each("floor"), each("floor-1"), each("KRW"), each("digest-of-the-body")
    ones, amount, captured = each(1), each(1_990_000), each("captured")
    keys = [f"key-{n}" for n in numbers]
    return {
        "orders": [ids, sale, buyers, [f"1-{n}-1" for n in numbers], each("general"), ones, each("confirmed"),
                   each("sold"), each(3), each(3), amount, won, keys, digest, at, at, at, ones],
        "order_items": [ids, product, each("Only one kind"), ones, amount, amount, won],
        "payments": [tries, ids, each("sandbox"), each("card"), captured, amount, won, keys, digest, each("web-1"),
                     each(30_000), at, at],
        "sale_buyers": [sale, buyers, ones, ones],
        "ledger": [at + at, sale + sale, product + product, ids + ids, each("claimed") + each("sold"), ones + ones,
                   amount + amount, won + won, ones + ones, [f"{ms}-0" for ms in at] + [f"{ms}-1" for ms in at]],
    }  # fmt: skip


class _Floor:
    """A floor's own round: this process and Postgres. (The stores are this process's children, so `cpu_s` of it would
    count them twice.)"""

    def __init__(self, record: Record) -> None:
        self._meter = Meter(Server("floor", 0, {"postgres": record.pids["postgres"]}))

    def __enter__(self) -> _Floor:
        self._meter.__enter__()
        self._began_s = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._meter.__exit__()
        self._meter.used_s["floor"] = time.process_time() - self._began_s

    def drained(self, orders: int, rows_an_order: int) -> Drained:
        return Drained(orders / self._meter.took_s, self._meter.us(orders), rows_an_order)


# --- lag


async def lag(record: Record, per_second: int, seconds: float) -> Lag:
    """Whole orders at a steady rate: reserved, claimed a beat later, confirmed a beat after that."""
    orders = int(per_second * seconds)
    sale = await record.sale(orders + 100)
    await sale.fill(0, 20)
    await sale.until_recorded()
    waiting: dict[str, deque[tuple[int, int]]] = {"money": deque(), "holdings": deque()}
    found: dict[str, list[float]] = {"money": [], "holdings": []}
    async with record.shop.pubsub() as heard:
        await heard.subscribe(sale.keys.verdicts)
        listening = asyncio.create_task(_listen(heard, waiting, found))
        try:
            with record.meter() as meter:
                late_ms = await _write_steadily(sale, orders, per_second, waiting)
                await sale.until_recorded()
            async with asyncio.timeout(5):
                while any(waiting.values()):
                    await asyncio.sleep(BEAT_S)
        finally:
            listening.cancel()
    return Lag(per_second, orders, {name: _quantiles(ms) for name, ms in found.items()}, late_ms, meter.us(orders))


async def _write_steadily(
    sale: Sale, orders: int, per_second: int, waiting: dict[str, deque[tuple[int, int]]]
) -> float:
    """Answers how late the latest beat was (ms)."""
    late_s, done = 0.0, [0, 0, 0]
    began = time.perf_counter()
    beat = 0
    while done[2] < orders:
        beat += 1
        due = began + beat * BEAT_S
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        late_s = max(late_s, time.perf_counter() - due)
        until = [min(orders, int(max(0, beat - step) * BEAT_S * per_second)) for step in range(3)]
        async with record_pipe(sale) as pipe:
            for step in range(3):
                for n in range(done[step], until[step]):
                    pipe.xadd(*sale.events(20 + n)[step])
            sent = [step for step in range(3) for _ in range(done[step], until[step])]
            done = until
            for step, event_id in zip(sent, await pipe.execute(), strict=True):
                waiting["money" if step else "holdings"].append(_id(event_id))
    return late_s * 1000


def record_pipe(sale: Sale) -> Any:
    return sale.record.shop.pipeline(transaction=False)


async def _listen(heard: Any, waiting: dict[str, deque[tuple[int, int]]], found: dict[str, list[float]]) -> None:
    heard_upto = {"money": (0, 0), "holdings": (0, 0)}
    while True:
        message = await heard.get_message(ignore_subscribe_messages=True, timeout=BEAT_S)
        now_ms = time.time() * 1000
        if message is not None:
            told = msgspec.json.decode(message["data"], type=Announcement)
            heard_upto[told.stream] = max(heard_upto[told.stream], _id(told.upto.encode()))
        for stream, ids in waiting.items():
            while ids and ids[0] <= heard_upto[stream]:
                found[stream].append(now_ms - ids.popleft()[0])


def _id(event_id: bytes) -> tuple[int, int]:
    ms, _, seq = event_id.partition(b"-")
    return int(ms), int(seq)


def _quantiles(ms: list[float]) -> dict[str, float]:
    ordered = sorted(ms)
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * q))], 1)
        for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


async def compare(record: Record, orders: int, rounds: int, say: Callable[[str], None]) -> dict[str, Drained]:
    """Both floors and ours in turn; the round of the middle speed of each."""
    found: dict[str, list[Drained]] = {"narrow": [], "same": [], "ours": []}
    for _ in range(rounds):
        for name, measure in (("narrow", narrow_floor), ("same", same_floor), ("ours", drain)):
            found[name].append(await measure(record, orders))
            say(f"record, {name}: {found[name][-1]}")
    return {
        name: next(one for one in drained if one.per_second == median([each.per_second for each in drained]))
        for name, drained in found.items()
    }


async def run(asked: argparse.Namespace) -> None:
    """Print what was asked for."""
    async with opened() as record:
        found = await compare(record, asked.orders, asked.rounds, print)
        ours = found["ours"]
        for name in ("narrow", "same"):
            rows, orders = ours.rows_per_second / found[name].rows_per_second, ours.per_second / found[name].per_second
            cpu = found[name].cpu_us_a_row / ours.cpu_us_a_row
            print(f"of {name}: {rows:.2f} in rows, {orders:.2f} in orders, {cpu:.2f} in CPU a row", flush=True)
        if asked.lag:
            print(await lag(record, asked.rate, asked.seconds))


def main() -> None:
    """Command line; see the file's head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=10_000, help="a multiple of 1,000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-lag", dest="lag", action="store_false")
    parser.add_argument("--rate", type=int, default=2_000, help="orders a second of the steady part")
    parser.add_argument("--seconds", type=float, default=8.0)
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
