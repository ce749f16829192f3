"""How far the record is behind: the age of the oldest event of a sale that does not stand in Postgres yet.

Two round trips a second and process for all sales together. It is what operators and alerts see; what decides whether
reserving goes on is asked by the script that reserves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from onsale.catalog.sales import SaleBook
from onsale.lua.keys import ShopKeys

BEGINNING = b"0-0"


@dataclass(frozen=True, slots=True)
class LagTick:
    """The lag of every loaded sale (ms); 0 = nothing waits."""

    lag_ms: Mapping[str, int] = field(default_factory=dict)


class RecordLag:
    """Knows every sale's lag, at most a second old."""

    def __init__(self, redis: Redis, book: SaleBook) -> None:
        self._redis = redis
        self._book = book
        self._known: Mapping[str, int] = {}

    def of(self, sale: str) -> int | None:
        """Milliseconds; None where it is not known."""
        return self._known.get(sale)

    async def tick(self) -> LagTick:
        """Look at every loaded sale. Raises RedisError; then nothing is known any more."""
        self._known, found = {}, await self._look()
        self._known = found
        return LagTick(found)

    async def _look(self) -> dict[str, int]:
        sales = [ShopKeys(sale.id, sale.shop_epoch) for sale in self._book.sellers() if sale.shop_epoch > 0]
        if not sales:
            return {}
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for keys in sales:
                pipe.hmget(keys.meta, "money_upto", "holds_upto")
            (seconds, micros), *marks = await pipe.execute()
        async with self._redis.pipeline(transaction=False) as pipe:
            for keys, (money, holds) in zip(sales, marks, strict=True):
                pipe.xrange(keys.money, min=_after(money), count=1)
                pipe.xrange(keys.holdings, min=_after(holds), count=1)
            oldest = await pipe.execute()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        return {keys.sale: _lag_ms(oldest[at * 2 : at * 2 + 2], now_ms) for at, keys in enumerate(sales)}


def _after(mark: bytes | None) -> bytes:
    return b"(" + (mark or BEGINNING)


def _lag_ms(firsts: Sequence[Any], now_ms: int) -> int:
    """`firsts`: of each stream the first entry that is not recorded, if there is one; its id begins with its time."""
    return max((now_ms - int(entries[0][0].split(b"-")[0]) for entries in firsts if entries), default=0)
