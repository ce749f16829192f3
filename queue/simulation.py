"""A whole sale in virtual time: the strategy and the estimate are the real ones, people follow a `Law`. Pure.

What `admit.lua` does on Redis time is done here on virtual time, a tenth of a second a step: the bucket, the burst, the
cap, the seats that stock allows, the lowest living place first, the silent passed over, those who return let in first.
Once a second there is a line document, as in the real line, and the estimate sees nothing else.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from onsale.queue.estimate import STILL, Pace, PaceTracker, Sample
from onsale.queue.laws import Change, LawSet, law_of
from onsale.queue.odds import Odds, OddsAhead, Standing, lapse_share, odds_ahead
from onsale.queue.ports import StockFigures
from onsale.queue.strategy import Snapshot, seats_by_stock

STEPS_A_SECOND = 10
GRACE_S, TURN_TTL_S = 150.0, 120.0
# A sale that takes longer than this is cut off; so are the waits that have not ended.
LENGTH_MAX_S = 4_000
# Every so often, so many of those who wait and look are asked what they see.
ASKED_EVERY_S, ASKED = 10, 25
RECENT_S, RECENT_LONG_S, RECENT_MIN = 10, 60, 20


@dataclass(frozen=True, slots=True)
class Shown:
    """What one person was shown, and how long the wait from then until the turn at that place really was; None: the
    turn never came (sold out, or cut off)."""

    at_s: float
    ahead: int
    p50_s: float
    p90_s: float
    waited_s: float | None


@dataclass(frozen=True, slots=True)
class Told:
    """What one person was told of the odds, and whether that place had an offer; None: the sale was cut off before."""

    odds: Odds
    had_offer: bool | None


@dataclass(frozen=True, slots=True)
class Second:
    """One second of the sale, for plots."""

    at_s: int
    joined: int
    admitted: int
    waiting: int
    active: int
    target: float


@dataclass(slots=True)
class Outcome:
    """One simulated sale."""

    seed: int
    kind: str
    people: int
    # Turns: a person who slept through one may have another.
    admitted: int
    sold: int
    overtaken: int
    over_cap: int
    shown: list[Shown]
    told: list[Told]
    seconds: list[Second]


class Ranks:
    """How many of the living stand before a place (a Fenwick tree; places from 1)."""

    def __init__(self, size: int) -> None:
        self._tree = [0] * (size + 1)

    def add(self, place: int, change: int) -> None:
        while place < len(self._tree):
            self._tree[place] += change
            place += place & -place

    def before(self, place: int) -> int:
        place, found = place - 1, 0
        while place > 0:
            found += self._tree[place]
            place -= place & -place
        return found


@dataclass(slots=True)
class _Line:
    """Who stands where. A place is `living` from its joining until it is let in, leaves or is put aside."""

    living: bytearray
    silent: bytearray
    ranks: Ranks
    tail: int = 0
    # Every place up to here has had its turn, has left, or was passed over.
    serving: int = 0
    waiting: int = 0
    returned: list[int] = field(default_factory=list)
    turn_at_s: dict[int, float] = field(default_factory=dict)

    def stand(self, place: int) -> None:
        self.living[place] = 1
        self.ranks.add(place, 1)
        self.waiting += 1

    def go(self, place: int) -> None:
        if self.living[place]:
            self.living[place] = 0
            self.ranks.add(place, -1)
            self.waiting -= 1

    def take(self, at_s: float) -> int:
        """The next to be let in; 0 where nobody is. A place that is passed has had its turn, whoever stood there."""
        while self.returned:
            place = heapq.heappop(self.returned)
            if self.living[place]:
                self.go(place)
                return place
        while self.serving < self.tail:
            self.serving += 1
            place = self.serving
            self.turn_at_s.setdefault(place, at_s)
            if self.living[place]:
                self.go(place)
                return place
        return 0


class Simulation:
    """One sale; `run` answers its outcome. Same law set and seed, same outcome."""

    def __init__(self, laws: LawSet, seed: int) -> None:
        self._seed = seed
        self._law = law_of(laws, seed)
        self._rng = random.Random(f"{laws}/{seed}/people")
        people = self._law.people
        self._line = _Line(bytearray(people + 2), bytearray(people + 2), Ranks(people + 1))
        self._arrivals = sorted(max(0.0, self._law.arrival_s(self._rng)) for _ in range(people))
        self._events: list[tuple[float, int, str]] = []
        self._free, self._held, self._sold, self._returned = self._law.units, 0, 0, 0
        self._absent = 0
        self._active = 0
        self._level = 0.0
        self._admitted, self._over_cap = 0, 0
        self._recent: list[int] = []
        self._seconds: list[Second] = []
        self._asked: list[tuple[float, int, int, float, float]] = []
        self._told: list[tuple[int, Odds]] = []

    def run(self) -> Outcome:
        """Until everybody has had a turn, the stock is gone, or the time is."""
        tracker, pace, rate, paused_until_s = PaceTracker(), STILL, self._law.rate, -1.0
        changes = list(self._law.changes)
        for second in range(LENGTH_MAX_S):
            before = self._admitted
            for step in range(STEPS_A_SECOND):
                at_s = second + step / STEPS_A_SECOND
                while changes and changes[0].at_s <= at_s:
                    rate, paused_until_s = _changed(changes.pop(0), rate, paused_until_s)
                self._happen(at_s)
                self._let_in(at_s, 0.0 if at_s < paused_until_s else rate)
            self._recent.append(self._admitted - before)
            is_moving = second + 1 >= paused_until_s
            pace = tracker.observe(self._document(second + 1, rate, is_moving))
            if second % ASKED_EVERY_S == ASKED_EVERY_S - 1:
                self._ask(second + 1.0, pace, self._odds())
            if self._is_over():
                break
        return self._outcome()

    def _is_over(self) -> bool:
        return self._is_sold_out() or (self._line.tail == self._law.people and self._line.waiting == 0)

    def _is_sold_out(self) -> bool:
        return self._free == 0 and self._held == 0

    def _happen(self, at_s: float) -> None:
        while self._line.tail < len(self._arrivals) and self._arrivals[self._line.tail] <= at_s:
            self._join(at_s)
        while self._events and self._events[0][0] <= at_s:
            _, place, what = heapq.heappop(self._events)
            getattr(self, f"_{what}")(place, at_s)

    def _join(self, at_s: float) -> None:
        self._line.tail += 1
        place = self._line.tail
        self._line.stand(place)
        patience_s = self._law.patience_s(self._rng)
        if patience_s < math.inf:
            self._later(at_s + patience_s, place, "left")
        if self._rng.random() < self._law.silent_share:
            # Silent from some moment of what the wait might be.
            self._later(at_s + self._rng.random() * self._law.people / self._law.rate, place, "silent")

    def _later(self, at_s: float, place: int, what: str) -> None:
        heapq.heappush(self._events, (at_s, place, what))

    def _left(self, place: int, at_s: float) -> None:
        # Whoever goes away without a word is noticed when the grace is over.
        if self._rng.random() < 0.5:
            self._line.go(place)
        elif self._line.living[place]:
            self._line.silent[place] = 1
            self._later(at_s + GRACE_S, place, "parked")

    def _silent(self, place: int, at_s: float) -> None:
        if not self._line.living[place]:
            return
        self._line.silent[place] = 1
        self._later(at_s + GRACE_S, place, "parked")
        back_s = self._law.silence_s(self._rng)
        if back_s < LENGTH_MAX_S:
            self._later(at_s + back_s, place, "back")

    def _parked(self, place: int, at_s: float) -> None:
        if self._line.silent[place]:
            self._absent += self._line.living[place]
            self._line.go(place)

    def _back(self, place: int, at_s: float) -> None:
        line = self._line
        if not line.silent[place]:
            return
        line.silent[place] = 0
        if not line.living[place]:
            self._absent = max(0, self._absent - 1)
            line.stand(place)
            if place <= line.serving:
                heapq.heappush(line.returned, place)

    def _let_in(self, at_s: float, rate: float) -> None:
        burst = max(1.0, math.ceil(rate / 10))
        self._level = min(burst, self._level + rate / STEPS_A_SECOND)
        figures = StockFigures(self._free, self._held, 0, self._sold, 0)
        seats = min(self._law.seats, seats_by_stock(Snapshot(figures, 1)))
        while self._level >= 1 and self._active < seats and (place := self._line.take(at_s)):
            self._level -= 1
            self._active += 1
            self._admitted += 1
            self._over_cap += self._active > self._law.seats
            self._check_out(place, at_s)

    def _check_out(self, place: int, at_s: float) -> None:
        if self._line.silent[place]:
            # Nobody could be told: the seat goes to the next, the place is kept.
            self._absent += 1
            self._later(at_s + TURN_TTL_S, place, "untold")
        elif self._free > 0 and self._rng.random() < 0.97:
            self._free, self._held = self._free - 1, self._held + 1
            buys_share = self._law.buys(self._admitted / self._law.people)
            what = "bought" if self._rng.random() < buys_share else "lapsed"
            self._later(at_s + self._law.checkout_s(self._rng), place, what)
        else:
            self._later(at_s + self._law.checkout_s(self._rng), place, "untold")

    def _untold(self, place: int, at_s: float) -> None:
        self._active -= 1

    def _bought(self, place: int, at_s: float) -> None:
        self._active, self._held, self._sold = self._active - 1, self._held - 1, self._sold + 1

    def _lapsed(self, place: int, at_s: float) -> None:
        self._active, self._held, self._free = self._active - 1, self._held - 1, self._free + 1
        self._returned += 1

    def _odds(self) -> OddsAhead:
        return odds_ahead(
            Standing(
                free=self._free,
                held=self._held,
                sold=self._sold,
                active=self._active,
                admitted=self._admitted,
                absent=self._absent,
                limit_per_buyer=1,
                lapse_share=lapse_share(self._sold, self._returned, 1),
            )
        )

    def _document(self, second: int, rate: float, is_moving: bool) -> Sample:
        line = self._line
        span = self._recent[-RECENT_S:]
        if sum(span) < RECENT_MIN:
            span = self._recent[-RECENT_LONG_S:]
        self._seconds.append(Second(second, line.tail, self._admitted, line.waiting, self._active, rate * is_moving))
        return Sample(
            at_ms=second * 1_000,
            admitted=self._admitted,
            waiting=line.waiting,
            joined=line.tail,
            target=round(rate, 2),
            measured=sum(span) / len(span),
            is_moving=is_moving,
            active=self._active,
            active_max=self._law.seats,
        )

    def _ask(self, at_s: float, pace: Pace, odds: OddsAhead) -> None:
        line = self._line
        for _ in range(ASKED):
            place = self._rng.randint(line.serving + 1, line.tail) if line.tail > line.serving else 0
            if place and line.living[place] and not line.silent[place]:
                ahead = line.ranks.before(place)
                self._told.append((place, odds.of(ahead)))
                wait = pace.wait(ahead)
                if wait is not None:
                    self._asked.append((at_s, place, ahead, wait.p50 / 1000, wait.p90 / 1000))

    def _outcome(self) -> Outcome:
        return Outcome(
            seed=self._seed,
            kind=self._law.kind,
            people=self._law.people,
            admitted=self._admitted,
            sold=self._sold,
            # By construction; counted all the same, by the moments at which places had their turn.
            overtaken=sum(1 for a, b in _neighbours(self._line.turn_at_s) if a > b),
            over_cap=self._over_cap,
            shown=[
                Shown(at_s, ahead, p50_s, p90_s, _since(at_s, self._line.turn_at_s.get(place)))
                for at_s, place, ahead, p50_s, p90_s in self._asked
            ],
            told=[Told(odds, self._had_offer(place)) for place, odds in self._told],
            seconds=self._seconds,
        )

    def _had_offer(self, place: int) -> bool | None:
        """People are let in while something is free alone, so a turn is an offer."""
        return True if place in self._line.turn_at_s else False if self._is_sold_out() else None


def _changed(change: Change, rate: float, paused_until_s: float) -> tuple[float, float]:
    if change.pause_s:
        return rate, max(paused_until_s, change.at_s + change.pause_s)
    return change.rate, paused_until_s


def _since(at_s: float, turn_at_s: float | None) -> float | None:
    return None if turn_at_s is None else turn_at_s - at_s


def _neighbours(turn_at_s: dict[int, float]) -> Iterator[tuple[float, float]]:
    moments = [turn_at_s[place] for place in sorted(turn_at_s)]
    return pairwise(moments)
