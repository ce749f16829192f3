"""Whether what people were shown came true. Of waits that ended, how many ended at or before the p50 and the p90 then
shown; of those told that something is likely left at their turn, how many had an offer. Pure.

A sample is one person who looks at one moment of one sale. The wait is the time until the turn of that place came,
whether its holder was still there or not, so that those who lose patience do not make the figures look better. Waits
that no turn ended (sold out, cut off) are counted apart and judged nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from onsale.queue.odds import PROMISED, Odds
from onsale.queue.simulation import Outcome

P50_FROM, P50_TO = 0.45, 0.55
P90_FROM, P90_TO = 0.85, 0.95
PARTS = 10


@dataclass(frozen=True, slots=True)
class Share:
    """Of `waits`, the shares that ended at or before the p50 and the p90 shown; waits of this group in seconds."""

    waits: int
    by_p50: float
    by_p90: float
    from_s: float
    to_s: float

    @property
    def is_calibrated(self) -> bool:
        return P50_FROM <= self.by_p50 <= P50_TO and P90_FROM <= self.by_p90 <= P90_TO


@dataclass(frozen=True, slots=True)
class OddsShare:
    """Of so many who were told these odds, the share who had an offer; of sales that were cut off nobody is counted."""

    told: int
    had_offer: float
    promised: float

    @property
    def is_kept(self) -> bool:
        return self.told == 0 or self.had_offer >= self.promised


@dataclass(frozen=True, slots=True)
class Calibration:
    """The verdict over many sales."""

    sales: int
    people: int
    unended: int
    overall: Share
    by_decile: Sequence[Share]
    by_kind: Mapping[str, Share]
    by_odds: Mapping[Odds, OddsShare]
    overtaken: int
    over_cap: int

    @property
    def is_good(self) -> bool:
        are_odds_kept = all(share.is_kept for share in self.by_odds.values())
        return self.overall.is_calibrated and are_odds_kept and self.overtaken == 0 and self.over_cap == 0


# waited_s, ended by p50, ended by p90
_Wait = tuple[float, bool, bool]


def calibrate(outcomes: Sequence[Outcome]) -> Calibration:
    """Judge them together. Raises ValueError when no wait ended."""
    waits: list[_Wait] = []
    kinds: dict[str, list[_Wait]] = {}
    for outcome in outcomes:
        ended = [
            (shown.waited_s, shown.waited_s <= shown.p50_s, shown.waited_s <= shown.p90_s)
            for shown in outcome.shown
            if shown.waited_s is not None
        ]
        waits += ended
        kinds.setdefault(outcome.kind, []).extend(ended)
    if not waits:
        raise ValueError("no wait ended")
    waits.sort()
    asked = _sum(outcomes, lambda outcome: len(outcome.shown))
    return Calibration(
        sales=len(outcomes),
        people=_sum(outcomes, lambda outcome: outcome.people),
        unended=asked - len(waits),
        overall=_share(waits),
        by_decile=[_share(part) for part in _parts(waits)],
        by_kind={kind: _share(sorted(ended)) for kind, ended in sorted(kinds.items()) if ended},
        by_odds={odds: _odds_share(outcomes, odds) for odds in Odds},
        overtaken=_sum(outcomes, lambda outcome: outcome.overtaken),
        over_cap=_sum(outcomes, lambda outcome: outcome.over_cap),
    )


def _sum(outcomes: Iterable[Outcome], of: Callable[[Outcome], int]) -> int:
    return sum(of(outcome) for outcome in outcomes)


def _parts(waits: Sequence[_Wait]) -> list[Sequence[_Wait]]:
    parts = [waits[n * len(waits) // PARTS : (n + 1) * len(waits) // PARTS] for n in range(PARTS)]
    return [part for part in parts if part]


def _odds_share(outcomes: Iterable[Outcome], odds: Odds) -> OddsShare:
    told = [one.had_offer for outcome in outcomes for one in outcome.told if one.odds is odds]
    known = [had_offer for had_offer in told if had_offer is not None]
    return OddsShare(len(known), round(sum(known) / len(known), 4) if known else 0.0, PROMISED.get(odds, 0.0))


def _share(waits: Sequence[_Wait]) -> Share:
    return Share(
        waits=len(waits),
        by_p50=round(sum(by_p50 for _, by_p50, _ in waits) / len(waits), 4),
        by_p90=round(sum(by_p90 for _, _, by_p90 in waits) / len(waits), 4),
        from_s=round(waits[0][0], 1),
        to_s=round(waits[-1][0], 1),
    )
