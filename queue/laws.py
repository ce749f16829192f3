"""Laws of simulated sales: who comes when, how long they stay, how fast they check out, what operators do. Pure.

Two sets. `TUNING` is what the estimate of waits was tuned on; `UNSEEN` uses other families of distributions throughout
(heavy tails instead of exponential ones, fatigue instead of a constant hazard, waves instead of one rush), and is what
calibration is judged on. A law and everything drawn from it follow from the set and the seed alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

Draw = Callable[[random.Random], float]


class LawSet(StrEnum):
    TUNING = "tuning"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class Change:
    """What an operator does `at_s` after the opening: another rate, or a pause of `pause_s` (then `rate` is 0)."""

    at_s: float
    rate: float
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Law:
    """One sale. Draws are in seconds; shares are of 1."""

    kind: str
    people: int
    # Seconds after the opening at which a person joins (0 = was there before).
    arrival_s: Draw
    # How long a person is willing to wait; infinite for most.
    patience_s: Draw
    # From being let in until the seat is free.
    checkout_s: Draw
    rate: float
    seats: int
    units: int
    buys_share: float
    silent_share: float
    # How long a silent person is silent before coming back; infinite where it never does.
    silence_s: Draw
    changes: tuple[Change, ...]
    # How much higher the share of buyers is among the last to be let in than among the first.
    buys_drift: float = 0.0

    def buys(self, progress: float) -> float:
        """The share of buyers among those let in when so much of the line (of 1) has been."""
        return min(1.0, max(0.0, self.buys_share + self.buys_drift * progress))


def law_of(laws: LawSet, seed: int) -> Law:
    """The sale of that seed."""
    rng = random.Random(f"{laws}/{seed}")
    return _tuning(rng) if laws is LawSet.TUNING else _unseen(rng)


def _tuning(rng: random.Random) -> Law:
    people = round(math.exp(rng.uniform(math.log(400), math.log(8_000))))
    rate = people / rng.uniform(150, 900)
    rush_s, leave_s, pay_s = rng.uniform(20, 200), rng.uniform(600, 4_000), rng.uniform(30, 180)
    leaves = rng.random() < 0.6
    binds = rng.random() < 0.35
    return Law(
        kind=f"{'cap' if binds else 'rate'}, {'leaving' if leaves else 'patient'}",
        people=people,
        arrival_s=lambda r: r.expovariate(1 / rush_s) - 5,
        patience_s=(lambda r: r.expovariate(1 / leave_s)) if leaves else _for_ever,
        checkout_s=lambda r: r.expovariate(1 / pay_s),
        rate=rate,
        seats=_seats(rng, rate * pay_s, binds),
        units=_units(rng, people),
        buys_share=rng.uniform(0.5, 0.95),
        silent_share=rng.choice([0.0, 0.0, 0.1, 0.3]),
        silence_s=lambda r: r.expovariate(1 / 300),
        changes=_changes(rng, rate, people / rate, rng.choice([0, 0, 1, 2])),
    )


def _unseen(rng: random.Random) -> Law:
    people = round(math.exp(rng.uniform(math.log(300), math.log(12_000))))
    rate = people / rng.uniform(120, 1_200)
    waves = [rng.uniform(0, 0.5 * people / rate) for _ in range(rng.randint(1, 4))]
    width_s, fatigue_s, middle_s = rng.uniform(10, 120), rng.uniform(300, 2_500), rng.uniform(20, 150)
    staying = rng.choice(["patient", "early leavers", "fatigue"])
    binds = rng.random() < 0.35
    shape = rng.uniform(0.4, 0.9)
    return Law(
        kind=f"{'cap' if binds else 'rate'}, {staying}",
        people=people,
        arrival_s=lambda r: max(0.0, r.choice(waves) + r.lognormvariate(math.log(width_s), 0.8) - width_s),
        patience_s={
            "patient": _for_ever,
            # Two of five look at the figure and go; the others stay.
            "early leavers": lambda r: r.weibullvariate(60, 0.6) if r.random() < 0.4 else math.inf,
            "fatigue": lambda r: r.weibullvariate(fatigue_s, 2.5),
        }[staying],
        checkout_s=lambda r: r.lognormvariate(math.log(middle_s), shape),
        rate=rate,
        seats=_seats(rng, rate * middle_s * math.exp(shape * shape / 2), binds),
        units=_units(rng, people),
        buys_share=rng.uniform(0.3, 0.98),
        silent_share=rng.choice([0.0, 0.05, 0.2, 0.5]),
        silence_s=lambda r: r.paretovariate(1.2) * 60,
        changes=_changes(rng, rate, people / rate, rng.choice([0, 1, 2, 4])),
        buys_drift=rng.uniform(-0.2, 0.2),
    )


def _for_ever(_: random.Random) -> float:
    return math.inf


def _seats(rng: random.Random, needed: float, binds: bool) -> int:
    """Seats that hold the rate back, or more than it ever fills."""
    return max(2, round(needed * (rng.uniform(0.4, 0.9) if binds else rng.uniform(2, 5))))


def _units(rng: random.Random, people: int) -> int:
    """Stock that runs out in mid-sale, or does not."""
    return max(1, round(people * (rng.uniform(0.2, 0.9) if rng.random() < 0.4 else rng.uniform(1.2, 3))))


def _changes(rng: random.Random, rate: float, length_s: float, count: int) -> tuple[Change, ...]:
    """Operators who turn the rate up and down and now and then stop the line."""
    moments = sorted(rng.uniform(0.05, 0.9) * length_s for _ in range(count))
    return tuple(
        Change(at_s, 0.0, rng.uniform(10, 90))
        if rng.random() < 0.3
        else Change(at_s, rate * rng.lognormvariate(0, 0.5))
        for at_s in moments
    )
