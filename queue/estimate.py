"""How long a place still waits, as a range. Half of all waits end by `p50`, nine tenths by `p90`. Pure.

The line is a queue that drains at a measured, noisy rate and from which people also walk away. With rate `r`, hazard
of leaving `h` (per waiting person and second) and `n` people to clear, dn/dt = -r - h n, so the middle of the wait is
ln(1 + h n / r) / h, which is n / r where nobody leaves. The spread around it has three parts: admissions arrive in
lumps (dispersion D, variance over mean of a second's admissions: D n / r^2), the holder stands somewhere between two
admissions (uniform: 1 / 12 r^2), and the rate measured now is not the rate of the next minutes (a share of the wait).
`n / r` alone, what a naive line shows, is the answer only where D, h and that share are all nothing.

While seats are still filling, the rate of now ends when the cap is reached: from then on people come in as fast as
seats become free. Both follow from dA/dt = r - A / life, the life of a seat from Little's law (J. D. C. Little, 1961).
The shares were fitted on simulated sales (`onsale simulate --laws tuning`) and are judged on others.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

# Nine tenths of a normal distribution lie below its mean + 1.2816 standard deviations.
Z90 = 1.2816
# What the coming minutes do to a rate that was steady until now, as a share of the wait: operators change their mind, a
# payment provider has a bad minute. A floor for the near, growing with the root of the seconds as a random walk does.
DRIFT_SHARE, WANDER = 0.05, 0.012
# Such news is more often bad than good (a pause has no opposite): the middle lies this share of it later.
SKEW = 0.03
# A sample from this long ago counts half: long enough to even out lumps, short enough to follow a cap that fills.
HALF_LIFE_S = 8.0
HISTORY_S = 60.0
# Below this span the history is all lumps: the document's own measured rate is better.
SPAN_MIN_S = 3.0
# Nobody admitted for this long, or for as long as three admissions should take: the line does not move.
STILL_S = 5.0
# Fewer seats that became free say too little of how long one is in use.
FREED_MIN = 20


@dataclass(frozen=True, slots=True)
class Wait:
    """Milliseconds from now."""

    p50: int
    p90: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What one line document says of movement. `joined` is its `tail`, `target` the rate operators set, per second."""

    at_ms: int
    admitted: int
    waiting: int
    joined: int
    target: float
    measured: float
    is_moving: bool
    # Seats in use, and the most that may be.
    active: int = 0
    active_max: int = 0


@dataclass(frozen=True, slots=True)
class Pace:
    """How the line moves now: admissions per second, how lumpy they are, and how readily people walk away."""

    rate_per_s: float
    dispersion: float = 1.0
    hazard_per_s: float = 0.0
    drift_share: float = DRIFT_SHARE
    # When the seats will all be in use, and the rate from then on: as fast as they become free.
    full_in_s: float = math.inf
    rate_full_per_s: float = 0.0

    def wait(self, ahead: int) -> Wait | None:
        """The wait of someone with `ahead` living people in front; None while the line does not move."""
        rate = self.rate_per_s
        if rate <= 0.0:
            return None
        # Half a person: the next admission is, in the middle, half an interval away.
        middle_s = self._clearing_s(ahead + 0.5)
        lumps = (self.dispersion * (ahead + 1) + 1 / 12) / (rate * rate)
        # People who walk away shorten the line, and with it the part of the spread that they would have caused.
        lumps *= (middle_s * rate / (ahead + 0.5)) ** 2
        drift_s = middle_s * math.hypot(self.drift_share, WANDER * math.sqrt(middle_s))
        spread_s = math.hypot(math.sqrt(lumps), drift_s)
        p50_s = middle_s + SKEW * drift_s
        return Wait(p50=round(p50_s * 1000), p90=round((p50_s + Z90 * spread_s) * 1000))

    def _clearing_s(self, people: float) -> float:
        at_once_s = self._clearing_at(self.rate_per_s, people)
        if at_once_s <= self.full_in_s:
            return at_once_s
        return self.full_in_s + self._clearing_at(self.rate_full_per_s, self._left_after(self.full_in_s, people))

    def _clearing_at(self, rate: float, people: float) -> float:
        if self.hazard_per_s < 1e-9:
            return people / rate
        return math.log1p(self.hazard_per_s * people / rate) / self.hazard_per_s

    def _left_after(self, seconds: float, people: float) -> float:
        if self.hazard_per_s < 1e-9:
            return people - self.rate_per_s * seconds
        balance = self.rate_per_s / self.hazard_per_s
        return (people + balance) * math.exp(-self.hazard_per_s * seconds) - balance


STILL = Pace(rate_per_s=0.0)


class PaceTracker:
    """Learns the pace of one line from its documents, newest last. Small: a minute of samples."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=128)
        # Share of the target that was really admitted before the target last changed: carried over the change.
        self._usage: float | None = None

    def observe(self, sample: Sample) -> Pace:
        """Take in one document; answers the pace after it."""
        if self._samples and sample.at_ms <= self._samples[-1].at_ms:
            self._samples.clear()
        if self._samples and sample.target != self._samples[-1].target:
            self._carry_over(self._samples[-1])
        if not sample.is_moving:
            self._samples.clear()
            return STILL
        self._samples.append(sample)
        while sample.at_ms - self._samples[0].at_ms > HISTORY_S * 1000:
            self._samples.popleft()
        return self._pace()

    def _carry_over(self, last: Sample) -> None:
        if last.target > 0 and last.measured > 0:
            self._usage = min(1.0, last.measured / last.target)
        self._samples.clear()

    def _pace(self) -> Pace:
        first, last = self._samples[0], self._samples[-1]
        span_s = (last.at_ms - first.at_ms) / 1000
        if span_s < SPAN_MIN_S:
            return self._early_pace(last)
        if self._is_still(last):
            return STILL
        rate, dispersion, leaving_per_s, weight_s = self._weighed()
        if leaving_per_s < 0:
            # People who had been passed over came back and went first: admissions that moved nobody forward.
            rate, leaving_per_s = max(0.0, rate + leaving_per_s), 0.0
        if rate <= 0.0:
            return STILL
        waiting = max(1.0, (first.waiting + last.waiting) / 2)
        unsure = math.sqrt(dispersion / (rate * weight_s))
        full_in_s, rate_full = self._filling(rate)
        return Pace(rate, dispersion, leaving_per_s / waiting, math.hypot(DRIFT_SHARE, unsure), full_in_s, rate_full)

    def _filling(self, rate: float) -> tuple[float, float]:
        """When the cap will bind, and the rate then. Seats in use follow dA/dt = rate - A / life, so the life of a seat
        follows from how fast they become free (Little's law), and the rest from it."""
        first, last = self._samples[0], self._samples[-1]
        span_s = (last.at_ms - first.at_ms) / 1000
        freed = (last.admitted - first.admitted) - (last.active - first.active)
        if freed < FREED_MIN or last.active_max <= 0 or last.active >= last.active_max:
            return math.inf, 0.0
        life_s = (first.active + last.active) / 2 * span_s / freed
        level = rate * life_s
        if level <= last.active_max:
            return math.inf, 0.0
        full_in_s = life_s * math.log((level - last.active) / (level - last.active_max))
        return full_in_s, last.active_max / life_s

    def _early_pace(self, last: Sample) -> Pace:
        """Too little history: what another process measured, or, after a change, as much of the target as before."""
        if last.admitted == 0:
            return STILL
        measured = min(last.measured, last.target)
        rate = measured if self._usage is None else last.target * self._usage
        return Pace(rate, drift_share=3 * DRIFT_SHARE)

    def _is_still(self, last: Sample) -> bool:
        patience_s = max(STILL_S, 3 / last.target if last.target > 0 else STILL_S)
        then = next((s for s in reversed(self._samples) if last.at_ms - s.at_ms >= patience_s * 1000), None)
        return then is not None and then.admitted == last.admitted

    def _weighed(self) -> tuple[float, float, float, float]:
        """Rate, dispersion, people leaving per second, and the seconds all of this rests on; younger counts more."""
        samples = list(self._samples)
        end_ms = samples[-1].at_ms
        steps: list[tuple[float, float, int, int]] = []
        for before, after in pairwise(samples):
            step_s = (after.at_ms - before.at_ms) / 1000
            weight = 0.5 ** ((end_ms - after.at_ms) / 1000 / HALF_LIFE_S)
            came = after.admitted - before.admitted
            left = (after.joined - before.joined) - came - (after.waiting - before.waiting)
            steps.append((weight, step_s, came, left))
        weight_s = sum(w * s for w, s, _, _ in steps)
        rate = sum(w * came for w, _, came, _ in steps) / weight_s
        leaving = sum(w * left for w, _, _, left in steps) / weight_s
        if rate <= 0:
            return 0.0, 1.0, leaving, weight_s
        weights = sum(w for w, _, _, _ in steps)
        lumps = sum(w * (came - rate * s) ** 2 / (rate * s) for w, s, came, _ in steps) / weights
        return rate, max(0.05, lumps), leaving, weight_s
