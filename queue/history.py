"""What the report of a sale is made from later: the line's documents, and how the waits shown in it were judged,
written to Postgres each ten seconds by every web process. All of them see the same documents, so each is kept once.

Nobody waits for this: while Postgres is away it is kept in memory within bounds, and the end of an epoch (a Redis that
was lost, a sale that was reset) may miss its last ten seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec

from onsale.migrations.sql import load_queries
from onsale.queue.feed import Feed
from onsale.queue.frame import Frame
from onsale.queue.shown import ShownWaits

QUERIES = load_queries("onsale.queue", "history.sql")

WRITE_EVERY_MS = 10_000
# A line in which nothing changes is kept once in such a time.
STILL_MS = 60_000
# What is kept while Postgres is away, over all lines; the oldest goes first. And what one write takes.
SECONDS_MAX, SECONDS_A_WRITE = 20_000, 2_000


@dataclass(frozen=True, slots=True)
class HistoryTick:
    """Documents and totals that were written, in a tick that was due."""

    seconds: int = 0
    waits: int = 0


@dataclass(slots=True)
class _Known:
    """Of one line: the newest document that was looked at, and the one that was kept last."""

    order: tuple[int, int] = (0, -1)
    kept_ms: int = 0
    kept: tuple[object, ...] = ()


class History:
    """`tick()` each second, in each web process. Raises what Postgres raises, and then writes the same again."""

    def __init__(self, feed: Feed, shown: ShownWaits, pool: asyncpg.Pool) -> None:
        self._feed = feed
        self._shown = shown
        self._pool = pool
        self._judge = uuid4().hex
        self._known: dict[str, _Known] = {}
        self._seconds: deque[dict[str, Any]] = deque(maxlen=SECONDS_MAX)
        # Of each total, how many waits are in Postgres.
        self._kept: dict[tuple[str, int, int], int] = {}
        self._written_ms = 0

    async def tick(self) -> HistoryTick:
        """Look at every line; each ten seconds, write."""
        for line in self._feed.lines():
            if line.frame is not None:
                self._look(line.frame)
        now_ms = self._feed.now_ms()
        if 0 <= now_ms - self._written_ms < WRITE_EVERY_MS:
            return HistoryTick()
        # Not before it is done: what fails is tried again at the next tick.
        done = HistoryTick(await self._write_seconds(), await self._write_waits())
        self._written_ms = now_ms
        return done

    def _look(self, frame: Frame) -> None:
        known = self._known.setdefault(frame.document.sale, _Known())
        if frame.order <= known.order:
            return
        known.order = frame.order
        second = _second(frame)
        figures = tuple(value for name, value in second.items() if name not in ("seq", "at"))
        if figures != known.kept or not 0 <= frame.as_of_ms - known.kept_ms < STILL_MS:
            known.kept, known.kept_ms = figures, frame.as_of_ms
            self._seconds.append(second)

    async def _write_seconds(self) -> int:
        written = 0
        while batch := list(islice(self._seconds, SECONDS_A_WRITE)):
            await self._pool.execute(QUERIES.seconds_keep, msgspec.json.encode(batch).decode())
            for second in batch:
                # The deque may have dropped its oldest meanwhile.
                if self._seconds and self._seconds[0] is second:
                    self._seconds.popleft()
            written += len(batch)
        return written

    async def _write_waits(self) -> int:
        more = {key: replace(sums) for key, sums in self._shown.totals.items() if sums.ended != self._kept.get(key, 0)}
        totals = [
            {"sale": sale, "epoch": epoch, "judge": self._judge, "upto_s": upto_s} | asdict(sums)
            for (sale, epoch, upto_s), sums in more.items()
        ]
        if totals:
            await self._pool.execute(QUERIES.waits_keep, msgspec.json.encode(totals).decode())
            self._kept |= {key: sums.ended for key, sums in more.items()}
        return len(totals)


def _second(frame: Frame) -> dict[str, Any]:
    """A row of `line_seconds`."""
    document = frame.document
    stock = document.stock
    return {
        "sale": document.sale,
        "epoch": document.epoch,
        "seq": document.seq,
        "at": document.as_of,
        "state": document.state,
        "serving": document.serving,
        "tail": document.tail,
        "waiting": document.waiting,
        "absent": document.absent,
        "admitted": document.admitted,
        "rate_target": document.rate_per_second.target,
        "active": document.active,
        "active_max": document.active_max,
        "free": stock and stock.free,
        "held": stock and stock.held,
        "sold": stock and stock.sold,
        "reason": document.reason and document.reason.code,
    }
