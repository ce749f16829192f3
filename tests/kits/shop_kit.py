"""What tests of the shop share: a sale loaded into a real Redis, and short ways to speak of orders in it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import msgspec
from redis.asyncio import Redis

from onsale.checkout.errors import CheckoutError
from onsale.checkout.inventory import (
    Held,
    Inventory,
    ItemUnits,
    OrderView,
    Pin,
    Pinned,
    Reserve,
    ShopSnapshot,
    ShopTerms,
)
from onsale.checkout.record.events import AttemptDoc, ItemDoc, OrderDoc
from onsale.lua.keys import ShopKeys

SALE = "autumn"
KEYS = ShopKeys(SALE, 1)
# Far from any clock: passes that never end, a sale that is always open.
NEVER_MS = 4_000_000_000_000
TERMS = ShopTerms(opens_at_ms=0, closes_at_ms=NEVER_MS, limit_per_buyer=2, hold_ttl_ms=600_000)
COUNTERS = ("free", "held", "claimed", "sold", "withdrawn", "stock")

# Of one width, so that names made later sort later however many were made before: a model is replayed by it.
numbers = itertools.count(1_000_001)


def snapshot(terms: ShopTerms = TERMS, **stock: int) -> ShopSnapshot:
    """A sale nobody has bought from; `jacket=100` is 100 jackets."""
    return ShopSnapshot(terms=terms, items=tuple(ItemUnits(product, units) for product, units in stock.items()))


class Shop:
    """One sale in one Redis, with names made up as they are needed."""

    def __init__(self, redis: Redis, keys: ShopKeys = KEYS) -> None:
        self.redis = redis
        self.keys = keys
        self.inventory = Inventory(redis, lambda sale: ShopKeys(sale, keys.epoch))

    async def open(self, terms: ShopTerms = TERMS, **stock: int) -> Shop:
        """Load the sale with this stock."""
        await self.inventory.load(self.keys, snapshot(terms, **stock))
        return self

    async def open_more(self, **stock: int) -> None:
        """Move units in, or free ones out; `hat=-5` takes five hats."""
        for product, units in stock.items():
            await self.inventory.move_stock(self.keys, f"move-{next(numbers)}", product, units)

    async def refused(self, buyer: str, items: Mapping[str, int]) -> None:
        """A reservation that must be refused, so that its key keeps the refusal."""
        try:
            await self.reserve(buyer, items)
        except CheckoutError:
            return
        raise AssertionError("it was not refused")

    async def reserve(self, buyer: str = "", items: Mapping[str, int] | None = None, **fields: object) -> Held:
        """One jacket for a new buyer with a new turn, unless told otherwise."""
        return await self.inventory.reserve(self.keys, request(buyer, items, **fields))

    async def pin(self, order: str, buyer: str, attempt: AttemptDoc | None = None) -> Pinned:
        """Claim an order's units for an attempt, a new one unless told otherwise."""
        return await self.inventory.pin(self.keys, Pin(order, buyer, attempt or new_attempt()))

    async def pinned(
        self, buyer: str = "", items: Mapping[str, int] | None = None, **fields: object
    ) -> tuple[str, str]:
        """A new order that is being paid: (order, attempt)."""
        asked = request(buyer, items, **fields)
        await self.inventory.reserve(self.keys, asked)
        attempt = new_attempt()
        await self.pin(asked.order, asked.buyer, attempt)
        return asked.order, attempt.attempt

    async def look(self, order: str) -> OrderView:
        """The order, which must exist."""
        view = await self.inventory.look(self.keys, order)
        assert view is not None
        return view

    async def age(self, order: str, by_ms: int) -> None:
        """Make a hold older than it is: no test waits for time to pass."""
        await self.redis.zincrby(self.keys.holds, -by_ms, order)
        raw = msgspec.msgpack.decode(await self.redis.hget(self.keys.orders, order))
        raw[5] -= by_ms
        raw[6] -= by_ms
        await self.redis.hset(self.keys.orders, order, msgspec.msgpack.encode(raw))

    async def later(self) -> None:
        """Until this server's clock shows another millisecond."""
        began = await self._now_ms()
        while await self._now_ms() <= began:
            pass

    async def _now_ms(self) -> int:
        seconds, micros = await self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def let_pass(self, buyer: str, by_ms: int) -> None:
        """Make the last order that a buyer held and did not pay older than it is."""
        figures = msgspec.msgpack.decode(await self.redis.hget(self.keys.buyers, buyer))
        figures[4] -= by_ms
        await self.redis.hset(self.keys.buyers, buyer, msgspec.msgpack.encode(figures))

    async def units(self, product: str = "jacket") -> dict[str, int]:
        """Counters of an item that are not zero."""
        values = await self.redis.hmget(self.keys.stock, [f"{product}:{counter}" for counter in COUNTERS])
        return {counter: int(value) for counter, value in zip(COUNTERS, values, strict=True) if int(value)}

    async def events(self, stream: str) -> list[dict[str, str]]:
        """Entries of `money`, `holdings` or `closings`, oldest first."""
        entries = await self.redis.xrange(getattr(self.keys, stream))
        return [{key.decode(): value.decode() for key, value in fields.items()} for _, fields in entries]

    async def dump(self) -> dict[str, object]:
        """Everything the sale has in Redis, to compare before and after."""
        found: dict[str, object] = {}
        for key in sorted(await self.redis.keys("*")):
            kind = (await self.redis.type(key)).decode()
            read = {
                "hash": self.redis.hgetall,
                "set": self.redis.smembers,
                "stream": self.redis.xrange,
                "string": self.redis.get,
                "zset": lambda name: self.redis.zrange(name, 0, -1, withscores=True),
            }[kind]
            found[key.decode()] = await read(key)
        return found


def request(buyer: str = "", items: Mapping[str, int] | None = None, **fields: object) -> Reserve:
    """A reservation of one jacket by a new buyer with a new turn and key, unless told otherwise."""
    number = next(numbers)
    order = str(fields.get("order", f"order-{number}"))
    doc = order_doc(order, buyer or f"buyer-{number}", f"turn-{number}", items or {"jacket": 1}, f"key-{number}")
    asked = Reserve(
        order=order,
        buyer=doc.buyer,
        turn=doc.turn,
        pass_exp_ms=NEVER_MS,
        items=tuple((item.product, item.quantity) for item in doc.items),
        key=doc.idempotency_key,
        digest=doc.body_digest,
        doc=msgspec.json.encode(doc),
    )
    return msgspec.structs.replace(asked, **fields)


def order_doc(order: str, buyer: str, turn: str, items: Mapping[str, int], key: str) -> OrderDoc:
    """The document of an order; every unit costs 1,000 won."""
    lines = tuple(ItemDoc(product, product.title(), units, 1000, 1000, "KRW") for product, units in items.items())
    amount = 1000 * sum(items.values())
    return OrderDoc(order, SALE, buyer, turn, "general", lines, amount, "KRW", key, "digest", 2)


def new_attempt(**fields: object) -> AttemptDoc:
    """A new try to pay with a key of its own, unless told otherwise."""
    number = next(numbers)
    made = AttemptDoc(
        attempt=f"attempt-{number}",
        provider="sandbox",
        method="card",
        amount=1000,
        currency="KRW",
        idempotency_key=f"pay-{number}",
        body_digest="digest",
        instrument="c2VhbGVk",
        driver="web-1",
        drive_ms=10_000,
    )
    return msgspec.structs.replace(made, **fields)


def with_terms(**changes: int | bool) -> ShopTerms:
    """The usual terms but for these."""
    return replace(TERMS, **changes)
