"""What goes with a product: bought together, best sellers, newest. Counted by a job, read by key.

Nothing is added up: a product whose orders changed is counted anew, from its newest orders. So a job that died, ran
twice or came late leaves nothing wrong, what was given back drops out, and a product costs the same however old it is.
Which products changed is read from the notices of orders, up to the horizon below which every transaction has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from onsale.catalog.products import Product
from onsale.catalog.states import Reason
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.catalog", "recommendations.sql")

SHOWN_MAX = 10
# Three times what is shown: some of it may be sold out.
OTHERS_MAX = 30
BEST_SELLERS_MAX = 100
NEWEST_MAX = 100
# What people bought lately says more than what they ever bought, and bounds the work.
ORDERS_OF_PRODUCT_MAX = 1_000
ORDERS_RANKED_MAX = 50_000
RANKED_FOR_S = 600.0
# A notice costs a look-up, a product up to a thousand orders: both batches are well under a second.
NOTICES_MAX = 2_000
COUNTED_MAX = 50


@dataclass(frozen=True, slots=True)
class Recommended:
    """A product to show, and why."""

    product: Product
    reason: Reason


@dataclass(frozen=True, slots=True)
class RecommendTick:
    """Products whose orders changed, products counted anew, best sellers ranked; whether more is to be done."""

    changed: int
    counted: int
    ranked: int = 0
    more: bool = False


class Recommendations:
    """What is shown beside products."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def of(self, product: str, on_sale: Sequence[str]) -> list[Recommended]:
        """Up to ten, the best first; `on_sale` are the products that an open sale has now. For any id."""
        rows = await self._pool.fetch(SQL.recommended, product, on_sale, SHOWN_MAX, NEWEST_MAX)
        return [_recommended(row) for row in rows]


class Recommender:
    """Counts what changed. Any number may run; raises what Postgres raises, and then the next tick does it."""

    def __init__(self, pool: asyncpg.Pool, ranked_for_s: float = RANKED_FOR_S) -> None:
        self._pool = pool
        self._ranked_for_s = ranked_for_s

    async def tick(self) -> RecommendTick:
        """A batch of changes, a batch of products, and the best sellers where they are due."""
        changed, is_read = await self._read_changes()
        counted = await self._count()
        ranked = await self._rank()
        return RecommendTick(changed, counted, ranked, more=not is_read or counted == COUNTED_MAX)

    async def _read_changes(self) -> tuple[int, bool]:
        """How many products changed, and whether all notices there are have been read."""
        async with self._pool.acquire() as conn, conn.transaction():
            start = await conn.fetchval(SQL.changes_lock)
            end, horizon = await conn.fetchrow(SQL.changes_end, start, NOTICES_MAX)
            changed = await conn.fetch(SQL.products_due, start, end)
            await conn.execute(SQL.changes_read, end)
        return len(changed), end == horizon

    async def _count(self) -> int:
        async with self._pool.acquire() as conn, conn.transaction():
            # Locked first: the count that follows sees every order that had marked them until then.
            due = [row["product"] for row in await conn.fetch(SQL.due_lock, COUNTED_MAX)]
            await conn.execute(SQL.together_count, due, ORDERS_OF_PRODUCT_MAX, OTHERS_MAX)
        return len(due)

    async def _rank(self) -> int:
        async with self._pool.acquire() as conn, conn.transaction():
            if await conn.fetchval(SQL.ranking_claim, self._ranked_for_s) is None:
                return 0
            await conn.execute(SQL.ranking_delete)
            return len(await conn.fetch(SQL.ranking_insert, ORDERS_RANKED_MAX, BEST_SELLERS_MAX))


def _recommended(row: Mapping[str, Any]) -> Recommended:
    fields = dict(row)
    reason = Reason(fields.pop("reason"))
    return Recommended(Product(**fields), reason)
