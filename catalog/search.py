"""Finding products by what their titles are like. Two fifths of the pieces of what was asked must be there.

To have k of n pieces, a title must have one of any n − k + 1 of them: so only the rarest of them are looked up, and
what is found by those is judged whole. How common pieces are is what Postgres counts for its planner anyway.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from onsale.catalog.grams import grams
from onsale.catalog.products import Asked, Product
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.catalog", "search.sql")

SCORE_MIN = 400
# How common pieces are changes with the whole catalogue, slowly.
COMMON_FOR_S = 60.0
# A thousand titles are cut and written in about 150 ms.
INDEX_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Found:
    """A product, and how much of what was asked its title has (thousandths)."""

    product: Product
    score: int


@dataclass(frozen=True, slots=True)
class IndexTick:
    """Products whose titles were cut, and whether there are more."""

    indexed: int
    more: bool


class Search:
    """The index, as one process reads it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._common: Mapping[str, float] = {}
        self._common_until_s = 0.0

    async def find(self, text: str, asked: Asked, after: tuple[int, int] | None) -> list[Found]:
        """The best first; `after` is score and number of what ended the page before."""
        wanted = grams(text)
        if not wanted:
            return []
        score, no = after or (None, None)
        rows = await self._pool.fetch(
            SQL.products_search,
            await self._rarest(wanted),
            wanted,
            asked.limit,
            asked.state,
            asked.vendor,
            asked.price_min,
            asked.price_max,
            asked.on_sale,
            SCORE_MIN,
            score,
            no,
        )
        return [_found(row) for row in rows]

    async def tick(self) -> IndexTick:
        """Cut titles that are not cut yet."""
        async with self._pool.acquire() as conn, conn.transaction():
            rows = await conn.fetch(SQL.products_unindexed, INDEX_MAX)
            await write_grams(conn, [(row["no"], row["title"]) for row in rows])
        return IndexTick(len(rows), more=len(rows) == INDEX_MAX)

    async def _rarest(self, wanted: Sequence[str]) -> list[str]:
        if time.monotonic() >= self._common_until_s:
            self._common_until_s = time.monotonic() + COMMON_FOR_S
            row = await self._pool.fetchrow(SQL.grams_common)
            self._common = {} if row is None else dict(zip(row["grams"], row["shares"], strict=True))
        need = -(-len(wanted) * SCORE_MIN // 1000)
        return sorted(wanted, key=lambda gram: self._common.get(gram, 0.0))[: len(wanted) - need + 1]


def likeness(wanted: Sequence[str], title: str) -> int:
    """How much of the pieces that were asked for a title has (thousandths); 0 where that is too little to be found."""
    pieces = set(grams(title))
    score = sum(gram in pieces for gram in wanted) * 1000 // max(1, len(wanted))
    return score if score >= SCORE_MIN else 0


async def write_grams(conn: asyncpg.Connection, titles: Sequence[tuple[int, str]]) -> None:
    """Cut the titles of these products (by number). In the caller's transaction."""
    cut = [(no, grams(title)) for no, title in titles]
    await conn.execute(SQL.grams_delete, [no for no, _ in cut])
    pairs = [(gram, no) for no, pieces in cut for gram in pieces]
    await conn.execute(SQL.grams_insert, [gram for gram, _ in pairs], [no for _, no in pairs])
    await conn.executemany(SQL.grams_note, [(no, list(pieces)) for no, pieces in cut])


def _found(row: Mapping[str, Any]) -> Found:
    fields = dict(row)
    score = fields.pop("score")
    return Found(Product(**fields), score)
