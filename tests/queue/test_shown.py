"""Shown waits, judged live: by the documents alone, against the turns that came."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from onsale.queue.estimate import Pace
from onsale.queue.frame import Frame, build, sampled_ranks
from onsale.queue.shown import ASKED, Judged, ShownWaits
from onsale.queue.states import LineState

START_MS = 1_790_000_000_000


def frame(second: int, serving: int, pace: Pace, people: int = 1_000) -> Frame:
    """A line of that many, of whom `serving` have had their turn by then."""
    waiting = people - serving
    doc = build(
        sale="drop", state=LineState.OPEN, as_of_ms=START_MS + second * 1_000, epoch=1, seq=second,
        opens_at_ms=START_MS, closes_at_ms=START_MS + 10**7, serving=serving, tail=people, waiting=waiting, absent=0,
        admitted=serving,
        rate_target=10.0, rate_measured=10.0, active=0, active_max=10, stock=None,
        places=[serving + rank for rank in sampled_ranks(waiting)],
    )  # fmt: skip
    return Frame(doc, pace)


async def judge(pace: Pace) -> tuple[Judged, Any]:
    """Ten people a second have their turn until nobody waits; what was judged in all."""
    line = SimpleNamespace(sale=SimpleNamespace(no=1, id="drop"), frame=None, is_closed=False)
    shown = ShownWaits(SimpleNamespace(lines=lambda: (line,)), random.Random(1))  # type: ignore[arg-type]
    total = [0, 0, 0]
    for second in range(101):
        line.frame = frame(second, 10 * second, pace)
        for judged in (await shown.tick()).judged:
            total = [a + b for a, b in zip(total, (judged.ended, judged.by_p50, judged.by_p90), strict=True)]
    return Judged("drop", *total), shown


async def test_each_noted_wait_is_judged_once() -> None:
    """Ten of them each ten seconds; none is left when everybody has had a turn."""
    judged, shown = await judge(Pace(10.0))

    assert judged.ended == 10 * ASKED
    assert shown._noted[1].waits == []
    assert 0.3 * judged.ended <= judged.by_p50 <= judged.by_p90
    assert judged.by_p90 >= 0.9 * judged.ended


async def test_too_short_and_too_long_waits_are_told_apart() -> None:
    """At twice the true rate nobody's turn came by then, at half of it everybody's did."""
    hasty, _ = await judge(Pace(20.0))
    slow, _ = await judge(Pace(5.0))

    assert hasty.by_p50 <= 0.15 * hasty.ended
    assert slow.by_p50 >= 0.95 * slow.ended


async def test_a_line_that_closes_judges_nobody() -> None:
    """No turn came: what was noted is forgotten."""
    line = SimpleNamespace(sale=SimpleNamespace(no=1, id="drop"), frame=frame(0, 0, Pace(10.0)), is_closed=False)
    shown = ShownWaits(SimpleNamespace(lines=lambda: (line,)), random.Random(1))  # type: ignore[arg-type]
    await shown.tick()
    line.frame, line.is_closed = frame(50, 900, Pace(10.0)), True

    assert (await shown.tick()).judged == ()
