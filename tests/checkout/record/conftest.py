"""A sale as the record sees it: rows in Postgres, streams in Redis, and a hand that writes events as the scripts do."""

from __future__ import annotations

import itertools
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from onsale.catalog.sales import SaleBook
from onsale.checkout.inventory import Changed, Held, Inventory, Pin, Reserve
from onsale.checkout.record.events import Announcement, AttemptDoc, ItemDoc, OrderDoc
from onsale.checkout.record.flusher import Flusher
from onsale.checkout.record.rebuild import Rebuilder
from onsale.lua.keys import LineKeys, ShopKeys

NOW_MS = 1_790_000_000_000
NEVER_MS = 2**41


class Announcer:
    """Publishes as the shop's script does, and can be told to lose announcements."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.is_deaf = False
        self.said: list[Announcement] = []

    async def announce(
        self, keys: ShopKeys, stream: str, prev: str, upto: str, refused: Sequence[tuple[str, str, str]] = ()
    ) -> None:
        announcement = Announcement(keys.epoch, stream, prev, upto, tuple(refused))
        self.said.append(announcement)
        if not self.is_deaf:
            await self._redis.hset(keys.meta, {"money": "money_upto", "holdings": "holds_upto"}[stream], upto)
            await self._redis.publish(keys.verdicts, msgspec.json.encode(announcement))


@dataclass
class Hand:
    """Writes events into one sale's streams."""

    sale: str
    redis: Redis
    line: Redis
    limit: int
    epoch: int = 1
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    revs: dict[str, int] = field(default_factory=dict)

    @property
    def keys(self) -> ShopKeys:
        return ShopKeys(self.sale, self.epoch)

    def doc(self, order: str, *, buyer: str = "", turn: str = "", quantity: int = 1, product: str = "") -> OrderDoc:
        item = ItemDoc(product or f"{self.sale}-p", "Jacket", quantity, 100, 120, "KRW")
        return OrderDoc(
            order=order,
            sale=self.sale,
            buyer=buyer or f"buyer-of-{order}",
            turn=turn or f"1-{order}-1",
            lane="general",
            items=(item,),
            amount=100 * quantity,
            currency="KRW",
            idempotency_key=f"key-{order}",
            body_digest="digest",
            limit_per_buyer=self.limit,
        )

    def attempt(self, order: str, attempt: str) -> AttemptDoc:
        return AttemptDoc(
            attempt=attempt,
            provider="sandbox",
            method="card",
            amount=100,
            currency="KRW",
            idempotency_key=f"pay-{attempt}",
            body_digest="digest",
            instrument=b64encode(b"sealed").decode(),
            driver="test",
            drive_ms=30_000,
        )

    async def write(self, stream: str, order: str, verb: str, **more: Any) -> str:
        rev = self.revs[order] = self.revs.get(order, 0) + 1
        values = {"verb": verb, "order": order, "rev": rev, "at": NOW_MS, **more}
        encoded = {
            name: msgspec.json.encode(value) if isinstance(value, msgspec.Struct) else value
            for name, value in values.items()
        }
        event_id = await self.redis.xadd(getattr(self.keys, stream), encoded, id=f"{NOW_MS + next(self._numbers)}-0")
        return event_id.decode()

    async def reserved(self, order: str, **doc: Any) -> str:
        return await self.write("holdings", order, "reserved", expires=NOW_MS + 60_000, doc=self.doc(order, **doc))

    async def lapsed(self, order: str) -> str:
        return await self.write("holdings", order, "lapsed")

    async def released(self, order: str) -> str:
        return await self.write("holdings", order, "released")

    async def claimed(self, order: str, attempt: str = "", **doc: Any) -> str:
        return await self.write(
            "money",
            order,
            "claimed",
            expires=NOW_MS + 60_000,
            doc=self.doc(order, **doc),
            attempt=self.attempt(order, attempt or f"try-{order}"),
        )

    async def confirmed(self, order: str, attempt: str = "") -> str:
        return await self.write("money", order, "confirmed", attempt_id=attempt or f"try-{order}")

    async def declined(self, order: str, attempt: str = "") -> str:
        return await self.write(
            "money", order, "declined", attempt_id=attempt or f"try-{order}", reason="funds", expires=NOW_MS + 90_000
        )

    async def failed(self, order: str, attempt: str = "") -> str:
        return await self.write("money", order, "failed", attempt_id=attempt or f"try-{order}", reason="provider")

    async def admitted(self, *places: int, at: int = NOW_MS, **more: Any) -> str:
        fields = {
            "lane": "general",
            "at": at,
            "places": ",".join(map(str, places)),
            "returners": "",
            "rate_milli": 20_000,
            "burst": 2,
            "active": 10,
            "active_max": 100,
            "passed_over": 0,
            "inversions": 0,
        }
        keys = LineKeys(self.sale, self.epoch)
        event_id = await self.line.xadd(keys.admissions, fields | more, id=f"{at + next(self._numbers)}-0")
        return event_id.decode()


MakeSale = Callable[..., Awaitable[Hand]]


@pytest.fixture
async def make_sale(database: asyncpg.Pool, shop_redis: Redis, line_redis: Redis) -> MakeSale:
    """Make a sale with one item, as the catalogue would, already loaded under epoch 1."""

    async def make(sale: str = "drop", *, stock: int = 100, limit: int = 2, epoch: int = 1) -> Hand:
        product = f"{sale}-p"
        await database.execute("INSERT INTO products VALUES ($1, 'Jacket', 100, 'KRW')", product)
        await database.execute(
            """INSERT INTO sales (id, title, opens_at, closes_at, limit_per_buyer, hold_ttl_s, policy, shop_epoch,
                                  line_epoch)
               VALUES ($1, 'Drop', now() - interval '1 hour', now() + interval '1 day', $2, 600,
                       '{"rate_centi": 2000, "active_max": 100}', $3, $3)""",
            sale,
            limit,
            epoch,
        )
        await database.execute(
            """INSERT INTO sale_items (sale, product, title, amount, list_amount, currency, stock)
               VALUES ($1, $2, 'Jacket', 100, 120, 'KRW', $3)""",
            sale,
            product,
            stock,
        )
        return Hand(sale, shop_redis, line_redis, limit, epoch)

    return make


@pytest.fixture
def announcer(shop_redis: Redis) -> Announcer:
    return Announcer(shop_redis)


@pytest.fixture
def make_flusher(
    database: asyncpg.Pool, shop_redis: Redis, line_redis: Redis, announcer: Announcer
) -> Callable[..., Flusher]:
    """A flusher on the test's stores, with a crash hook if given."""
    return lambda hook=None: Flusher(database, shop_redis, line_redis, announcer, hook)


@pytest.fixture
def counters(database: asyncpg.Pool) -> Callable[[str], Awaitable[tuple[int, int]]]:
    """(claimed, sold) of a sale's only item."""

    async def read(sale: str = "drop") -> tuple[int, int]:
        row = await database.fetchrow("SELECT claimed, sold FROM sale_items WHERE sale = $1", sale)
        return row["claimed"], row["sold"]

    return read


@dataclass
class Shop:
    """One sale with its real scripts, flusher and rebuilder."""

    hand: Any
    pool: asyncpg.Pool
    redis: Redis
    inventory: Inventory
    book: SaleBook
    flusher: Flusher

    @property
    def sale(self) -> str:
        return str(self.hand.sale)

    @property
    def keys(self) -> ShopKeys:
        return ShopKeys(self.sale, self.book.get(self.sale).shop_epoch)

    def rebuilder(self, hook: Any = None) -> Rebuilder:
        return Rebuilder(self.pool, self.redis, self.inventory, self.book, hook)

    async def reserve(self, order: str, **more: Any) -> Held:
        doc: OrderDoc = self.hand.doc(order, **more)
        units = tuple((item.product, item.quantity) for item in doc.items)
        encoded = msgspec.json.encode(doc)
        item = Reserve(order, doc.buyer, doc.turn, NEVER_MS, units, doc.idempotency_key, "digest", encoded)
        return await self.inventory.reserve(self.keys, item)

    async def pin(self, order: str, attempt: str = "", buyer: str = "") -> Any:
        doc = self.hand.attempt(order, attempt or f"try-{order}")
        return await self.inventory.pin(self.keys, Pin(order, buyer or f"buyer-of-{order}", doc))

    async def confirm(self, order: str, attempt: str = "") -> Changed:
        return await self.inventory.confirm(self.keys, order, attempt or f"try-{order}")

    async def record(self) -> None:
        while (await self.flusher.tick()).batches:
            continue

    async def stock(self) -> dict[str, int]:
        raw = await self.redis.hgetall(self.keys.stock)
        return {name.decode().split(":")[1]: int(units) for name, units in raw.items()}

    async def lose_run_id(self) -> None:
        """As after a restart of the server: the keys are whole, but another server's."""
        await self.redis.hset(self.keys.meta, "run_id", "of-another-server")


MakeShop = Callable[..., Awaitable[Shop]]


@pytest.fixture
async def make_shop(
    make_sale: Any, database: asyncpg.Pool, shop_redis: Redis, line_redis: Redis
) -> AsyncIterator[MakeShop]:
    """A sale as it was created, loaded by its first rebuild."""
    inventories: list[Inventory] = []

    async def make(sale: str = "drop", **more: Any) -> Shop:
        hand = await make_sale(sale, epoch=0, **more)
        book = SaleBook(database)
        inventory = Inventory(shop_redis, lambda name: ShopKeys(name, book.seller(name).shop_epoch))
        inventories.append(inventory)
        flusher = Flusher(database, shop_redis, line_redis, inventory)
        shop = Shop(hand, database, shop_redis, inventory, book, flusher)
        await shop.rebuilder().tick()
        return shop

    yield make
    for inventory in inventories:
        await inventory.close()
