"""The wait is a range: half of all waits end by its p50, nine tenths by its p90, also where people walk away."""

from __future__ import annotations

import random

import pytest

from onsale.queue.estimate import STILL, Pace, PaceTracker, Sample


class SimulatedLine:
    """Everyone has a place; each tenth of a second some are admitted, and everyone may walk away."""

    def __init__(self, chance: random.Random, *, size: int, rate: float, usage: float, hazard: float) -> None:
        self.chance, self.rate, self.usage, self.hazard = chance, rate, usage, hazard
        self.places = list(range(1, size + 1))
        self.size, self.admitted, self.at_ms, self.tokens = size, 0, 0, 0.0

    def step(self) -> None:
        self.at_ms += 100
        self.places = [place for place in self.places if self.chance.random() >= self.hazard * 0.1]
        # Not every turn of the bucket finds a free seat.
        self.tokens += self.rate * 0.1 * self.usage * self.chance.uniform(0.5, 1.5)
        ready = min(int(self.tokens), len(self.places))
        self.tokens -= ready
        self.admitted += ready
        del self.places[:ready]

    def sample(self) -> Sample:
        return Sample(self.at_ms, self.admitted, len(self.places), self.size, self.rate, self.rate * self.usage, True)


@pytest.mark.parametrize("hazard", [0.0, 0.004])
@pytest.mark.parametrize("usage", [1.0, 0.6])
def test_waits_end_within_the_range(hazard: float, usage: float) -> None:
    """Over many simulated lines p50 and p90 cover what they say, give or take."""
    by_p50 = by_p90 = rounds = 0
    for seed in range(120):
        line = SimulatedLine(random.Random(seed), size=700, rate=10.0, usage=usage, hazard=hazard)
        tracker, pace = PaceTracker(), STILL
        for _ in range(20):
            pace = tracker.observe(line.sample())
            for _ in range(10):
                line.step()
        pace = tracker.observe(line.sample())
        ahead = 40 + seed
        place, asked_ms = line.places[ahead], line.at_ms
        wait = pace.wait(ahead)
        assert wait is not None
        # The one we ask for does not walk away.
        while line.places and line.places[0] <= place:
            line.step()
        rounds += 1
        by_p50 += line.at_ms - asked_ms <= wait.p50
        by_p90 += line.at_ms - asked_ms <= wait.p90
    assert 0.25 <= by_p50 / rounds <= 0.75
    assert 0.80 <= by_p90 / rounds


def test_leaving_shortens_the_wait() -> None:
    """A line from which people walk away is not rate x position."""
    steady, leaving = Pace(10.0).wait(6_000), Pace(10.0, hazard_per_s=0.002).wait(6_000)
    assert steady is not None and leaving is not None
    assert 600_000 <= steady.p50 <= 615_000
    assert leaving.p50 < steady.p50 / 1.5


def test_a_line_that_does_not_move_has_no_wait() -> None:
    """Paused, at rate 0, or open with nobody admitted for seconds: no number is honest."""
    tracker = PaceTracker()
    for second in range(10):
        moving = tracker.observe(Sample(second * 1000, 20 * second, 500, 600 + 20 * second, 20.0, 20.0, True))
    assert moving.wait(100) is not None
    assert tracker.observe(Sample(10_000, 180, 500, 600, 20.0, 20.0, False)).wait(100) is None
    for second in range(11, 22):
        still = tracker.observe(Sample(second * 1000, 180, 500, 600, 20.0, 0.0, True))
    assert still.wait(100) is None


def test_a_changed_rate_is_believed_at_once() -> None:
    """The first document after operators double the rate halves the wait."""
    tracker = PaceTracker()
    for second in range(20):
        before = tracker.observe(Sample(second * 1000, 20 * second, 5_000, 6_000 + 20 * second, 20.0, 20.0, True)).wait(
            1_000
        )
    after = tracker.observe(Sample(20_000, 400, 5_000, 6_400, 40.0, 20.0, True)).wait(1_000)
    assert before is not None and after is not None
    assert after.p50 == pytest.approx(before.p50 / 2, rel=0.1)
    assert after.p90 - after.p50 > 0


def test_numbering_that_goes_back_starts_afresh() -> None:
    """After a recovered Redis with an older clock nothing of the old history is mixed in."""
    tracker = PaceTracker()
    for second in range(20, 40):
        tracker.observe(Sample(second * 1000, 20 * second, 500, 600 + 20 * second, 20.0, 20.0, True))
    pace = tracker.observe(Sample(5_000, 100, 500, 600, 20.0, 10.0, True))
    assert 10.0 == pace.rate_per_s
