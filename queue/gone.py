"""Who is gone from a line (had the turn, left, expired), and its newest document, copied to Postgres each second: after
the line's Redis was lost whole, their tickets do not come back, and those of people who were let in and never told do;
and data that has not come as far as that document is known for an older file.

What happened in the last second before a loss may be missing here. Whoever was told then is seated again from the
record of admissions; whoever left then may come back: they had a place, and limits hold in Postgres.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg
from redis.exceptions import RedisError

from onsale.catalog.sales import Sale, SaleBook
from onsale.lua.keys import LineKeys
from onsale.lua.line import GONE_CHUNK_BYTES, LineScripts
from onsale.migrations.sql import load_queries

QUERIES = load_queries("onsale.queue", "gone.sql")

# A quarter of a megabyte, two million places; a line that changes in more of it takes more ticks.
CHUNKS_A_TICK = 64


class Gone:
    """The copy of one line. `is_known` is False where nothing was ever copied: then it says nothing of anybody."""

    def __init__(self, chunks: Mapping[int, bytes]) -> None:
        self.chunks = chunks

    @property
    def is_known(self) -> bool:
        return bool(self.chunks)

    def __contains__(self, place: int) -> bool:
        chunk, bit = divmod(place, GONE_CHUNK_BYTES * 8)
        bits = self.chunks.get(chunk, b"")
        byte = bit // 8
        return byte < len(bits) and bits[byte] >> (7 - bit % 8) & 1 == 1


async def gone_of(pool: asyncpg.Pool, sale: str) -> Gone:
    """What was copied of a sale's line, in whichever epoch: a place is given once."""
    return Gone({row["chunk"]: row["bits"] for row in await pool.fetch(QUERIES.gone_of_sale, sale)})


@dataclass(frozen=True, slots=True)
class GoneTick:
    """Chunks that were copied, and sales whose line did not answer."""

    copied: int
    failed: tuple[str, ...] = ()


@dataclass(slots=True)
class _Seen:
    """What this process has copied of one line: bits set in all, and by chunk."""

    keys: LineKeys
    total: int
    chunks: list[int]
    seq: int = 0


class GoneKeeper:
    """`tick()` each second, in any number of processes. Where nobody goes it asks Redis for a few numbers a sale, and
    writes one small row of each line that made a document.

    `scripts` are the line's; raises what Postgres raises, and then copies the same again."""

    def __init__(self, scripts: LineScripts, pool: asyncpg.Pool, book: SaleBook) -> None:
        self._scripts = scripts
        self._pool = pool
        self._book = book
        self._seen: dict[str, _Seen] = {}

    async def tick(self) -> GoneTick:
        """Copy what has changed of each line."""
        copied, failed = 0, []
        newer: list[tuple[_Seen, int]] = []
        for sale in self._book.all():
            if sale.line_epoch == 0:
                continue
            seen = self._seen_of(LineKeys(sale.id, sale.line_epoch))
            try:
                reached = await self._scripts.reached(seen.keys)
                copied += await self._copy(sale, seen, reached.gone)
            except RedisError:
                failed.append(sale.id)
                continue
            if reached.seq != seen.seq:
                newer.append((seen, reached.seq))
        await self._keep_documents(newer)
        return GoneTick(copied, tuple(failed))

    async def _keep_documents(self, newer: Sequence[tuple[_Seen, int]]) -> None:
        """One statement for all lines; after who was gone by then."""
        if not newer:
            return
        rows = [(seen.keys.sale, seen.keys.epoch, seq) for seen, seq in newer]
        await self._pool.execute(QUERIES.documents_keep, *map(list, zip(*rows, strict=True)))
        for seen, seq in newer:
            seen.seq = seq

    async def _copy(self, sale: Sale, seen: _Seen, total: int) -> int:
        if total == seen.total:
            return 0
        counts = await self._scripts.gone_counts(seen.keys)
        before = seen.chunks + [0] * (len(counts) - len(seen.chunks))
        changed = [chunk for chunk, count in enumerate(counts) if count != before[chunk]][:CHUNKS_A_TICK]
        bits = await self._scripts.gone_chunks(seen.keys, changed)
        await self._pool.execute(QUERIES.gone_keep, sale.id, seen.keys.epoch, changed, bits)
        self._remember(seen, before, counts, changed)
        return len(changed)

    def _seen_of(self, keys: LineKeys) -> _Seen:
        seen = self._seen.get(keys.sale)
        if seen is None or seen.keys != keys:
            seen = self._seen[keys.sale] = _Seen(keys, 0, [])
        return seen

    @staticmethod
    def _remember(seen: _Seen, before: list[int], counts: Sequence[int], changed: Sequence[int]) -> None:
        # Counted before the chunks were read, so a bit set in between is copied again rather than missed.
        for chunk in changed:
            before[chunk] = counts[chunk]
        seen.chunks, seen.total = before, sum(before)


__all__ = ["Gone", "GoneKeeper", "GoneTick", "gone_of"]
