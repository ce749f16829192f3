"""What is kept of a line for its report: each document once, whoever saw it; totals of judged waits, however often they
are written."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from onsale.catalog.salefile import parse_sale_file
from onsale.catalog.sales import create_sale
from onsale.queue.frame import Frame, Reason, StockSummary, build, rfc3339
from onsale.queue.history import WRITE_EVERY_MS, History
from onsale.queue.shown import Sums
from onsale.queue.states import LineState
from onsale.server.demo import demo_sale_text

START_MS = 1_790_000_000_000


class Stage:
    """One line whose documents the test makes, on a clock that it moves; `history()` is another web process."""

    def __init__(self, database: asyncpg.Pool) -> None:
        self.database = database
        self.line = SimpleNamespace(frame=None)
        self.shown = SimpleNamespace(totals={})
        self.now_ms = START_MS

    def history(self, database: Any = None) -> History:
        feed: Any = SimpleNamespace(lines=lambda: (self.line,), now_ms=lambda: self.now_ms)
        shown: Any = self.shown
        return History(feed, shown, database or self.database)

    def show(self, seq: int, *, epoch: int = 1, tail: int = 0) -> None:
        self.line.frame = Frame(build(
            sale="demo", state=LineState.OPEN, as_of_ms=START_MS + seq * 1_000, epoch=epoch, seq=seq,
            opens_at_ms=START_MS, closes_at_ms=START_MS + 10**7, serving=0, tail=tail, waiting=0, absent=0,
            admitted=tail, rate_target=10.0, rate_measured=10.0, active=1, active_max=10, stock=StockSummary(5, 4, 3),
            places=[], reason=Reason("rate_raised", rfc3339(START_MS)),
        ))  # fmt: skip

    def wait(self) -> None:
        self.now_ms += WRITE_EVERY_MS

    async def tails(self) -> list[int]:
        return [row["tail"] for row in await self.database.fetch("SELECT tail FROM line_seconds ORDER BY seq")]


@pytest.fixture
async def stage(database: asyncpg.Pool) -> Stage:
    await create_sale(database, parse_sale_file(demo_sale_text()), "test")
    await database.execute("UPDATE sales SET line_epoch = 1 WHERE id = 'demo'")
    return Stage(database)


async def test_two_processes_keep_each_document_once(stage: Stage) -> None:
    """Both saw both; a document that is seen twice, or after a newer one, is kept once."""
    one, other = stage.history(), stage.history()
    for seq, tail in ((1, 10), (2, 25), (1, 10), (2, 25)):
        stage.show(seq, tail=tail)
        await one.tick()
        await other.tick()
    stage.wait()
    await one.tick()
    await other.tick()

    assert await stage.tails() == [10, 25]
    row = await stage.database.fetchrow("SELECT * FROM line_seconds WHERE seq = 2")
    assert (row["free"], row["held"], row["sold"], row["reason"], row["state"]) == (5, 4, 3, "rate_raised", "open")


async def test_a_still_line_is_kept_once_a_minute(stage: Stage) -> None:
    """Two minutes in which nothing changes are three rows, not 121."""
    history = stage.history()
    for seq in range(1, 122):
        stage.show(seq, tail=7)
        stage.now_ms += 1_000
        await history.tick()
    stage.wait()
    await history.tick()

    assert await stage.tails() == [7, 7, 7]


async def test_what_could_not_be_written_is_written_later(stage: Stage) -> None:
    """Postgres away for one tick: nothing is missing afterwards."""

    class Away:
        def __init__(self) -> None:
            self.is_away = True

        async def execute(self, *arguments: Any) -> Any:
            if self.is_away:
                raise OSError
            return await stage.database.execute(*arguments)

    pool = Away()
    history = stage.history(pool)
    stage.show(1, tail=10)
    stage.shown.totals[("demo", 1, 4)] = Sums(3, 2, 3)
    with pytest.raises(OSError):
        await history.tick()
    stage.show(2, tail=20)
    pool.is_away = False
    done = await history.tick()

    assert (done.seconds, done.waits) == (2, 1)
    assert await stage.tails() == [10, 20]


async def test_an_epoch_that_is_over_writes_nothing(stage: Stage) -> None:
    """A sale that was reset stays as new, whatever a process still remembers."""
    history = stage.history()
    stage.show(1, tail=10)
    stage.shown.totals[("demo", 1, 4)] = Sums(3, 2, 3)
    await stage.database.execute("UPDATE sales SET line_epoch = 2 WHERE id = 'demo'")
    await history.tick()

    assert await stage.tails() == []
    assert await stage.database.fetchval("SELECT count(*) FROM shown_waits") == 0


async def test_totals_are_of_each_judge_and_only_grow(stage: Stage) -> None:
    """Written twice they count once; two judges add up; a late older total changes nothing."""
    one, other = stage.history(), stage.history()
    first, more = Sums(3, 2, 3), Sums(5, 3, 4)
    stage.shown.totals[("demo", 1, 4)] = more
    for history in (one, other, one):
        await history.tick()
        stage.wait()
    stage.shown.totals[("demo", 1, 4)] = replace(first)
    await one.tick()

    rows = await stage.database.fetch("SELECT ended, by_p50, by_p90 FROM shown_waits")
    assert [tuple(row) for row in rows] == [(5, 3, 4), (5, 3, 4)]
