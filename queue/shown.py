"""Whether the waits that are shown come true, live: now and then some of the places in line are noted with the wait
that is shown at them, and judged when their turn has come. Half should have ended by the p50 then shown, nine tenths by
the p90.

A turn came between two documents: in the middle, as far as anybody can tell. It is the place's, whether its holder was
still there or not, as in the simulator: those who lose patience do not make the figures look better. Waits that no turn
ends are forgotten with their line.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from onsale.queue.feed import Feed, KnownLine
from onsale.queue.frame import Frame

# Few enough to cost nothing, enough for a share to settle within minutes.
ASKED_EVERY_MS, ASKED = 10_000, 10
# An hour of them; a wait longer than that is judged by those that are noted later.
PENDING_MAX = 3_600


@dataclass(frozen=True, slots=True)
class Judged:
    """Waits of one sale whose turn has come since the last tick, and how many of them ended by what was shown."""

    sale: str
    ended: int
    by_p50: int
    by_p90: int


@dataclass(frozen=True, slots=True)
class ShownTick:
    """Sales with waits that ended."""

    judged: tuple[Judged, ...] = ()


@dataclass(slots=True)
class Sums:
    """Waits of one length that ended, and how many of them by what was shown."""

    ended: int = 0
    by_p50: int = 0
    by_p90: int = 0


@dataclass(slots=True)
class _Noted:
    """Of one line in one epoch: (place, shown at, p50, p90), lowest place first."""

    line: KnownLine
    asked_ms: int = 0
    # Of the document before this one.
    seen_ms: int = 0
    waits: list[tuple[int, int, int, int]] = field(default_factory=list)


class ShownWaits:
    """`tick()` each second, in each web process: its own sample of every line."""

    def __init__(self, feed: Feed, rng: random.Random | None = None) -> None:
        self._feed = feed
        self._rng = rng or random.Random()
        self._noted: dict[int, _Noted] = {}
        # Since this process began, by sale, epoch and length: longer than half of that many seconds, up to all of them.
        self.totals: dict[tuple[str, int, int], Sums] = {}

    async def tick(self) -> ShownTick:
        """Judge the waits whose turn has come, and note new ones. Asks no store."""
        found = [self._look(line, line.frame) for line in self._feed.lines() if line.frame is not None]
        return ShownTick(tuple(judged for judged in found if judged.ended))

    def _look(self, line: KnownLine, frame: Frame) -> Judged:
        noted = self._noted.get(line.sale.no)
        if noted is None or noted.line is not line:
            noted = self._noted[line.sale.no] = _Noted(line)
        if line.is_closed:
            noted.waits.clear()
        turn_ms = (noted.seen_ms + frame.as_of_ms) // 2
        ended = by_p50 = by_p90 = 0
        while noted.waits and noted.waits[0][0] <= frame.document.serving:
            _, at_ms, p50_ms, p90_ms = heapq.heappop(noted.waits)
            waited_ms = turn_ms - at_ms
            ended += 1
            by_p50 += waited_ms <= p50_ms
            by_p90 += waited_ms <= p90_ms
            sums = self.totals.setdefault((line.sale.id, frame.document.epoch, _length_s(waited_ms)), Sums())
            sums.ended += 1
            sums.by_p50 += waited_ms <= p50_ms
            sums.by_p90 += waited_ms <= p90_ms
        noted.seen_ms = frame.as_of_ms
        if frame.as_of_ms - noted.asked_ms >= ASKED_EVERY_MS and len(noted.waits) <= PENDING_MAX - ASKED:
            noted.asked_ms = frame.as_of_ms
            self._note(noted, frame)
        return Judged(line.sale.id, ended, by_p50, by_p90)

    def _note(self, noted: _Noted, frame: Frame) -> None:
        # Who came back to a place that had been called goes next, whatever the document says.
        places = [place for place in frame.places if place > frame.document.serving]
        for place in self._rng.sample(places, min(ASKED, len(places))):
            wait = frame.wait_at(frame.step(place))
            if wait is not None:
                heapq.heappush(noted.waits, (place, frame.as_of_ms, wait.p50, wait.p90))


def _length_s(waited_ms: int) -> int:
    """The power of two, in seconds, that a wait is not longer than."""
    return 1 << max(0, -(-waited_ms // 1_000) - 1).bit_length()
