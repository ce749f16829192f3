"""How likely something is still left at a place, from what was bought in this sale so far. Pure, and never rosy.

Whoever stands in front either takes units or leaves them. Let `p` be the share of what they may that people take whose
turn is decided; then `c` people take about c p limit, give or take limit sqrt(c p (1 - p)): no distribution between
nothing and the limit spreads more widely than all-or-nothing. A place has an offer when those before it leave a unit
of what is free now or comes back. So the odds of a whole line are two numbers of people ahead, and any place is
compared with them. Where little is known, the unfavourable ends of intervals are taken (E. B. Wilson, 1927): nobody has
been let in yet means that everybody takes all they may.

Told so, and later found true at least as often (`onsale simulate` counts it): `likely` nine times of ten, `possible`
five.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import msgspec

# One-sided 95 %, for what is measured and for what it may come to.
Z = 1.645


class Odds(StrEnum):
    """What the holder of a place is told; shares of those told so who did have an offer."""

    LIKELY = "likely"  # nine of ten, or more
    POSSIBLE = "possible"  # half, or more
    UNLIKELY = "unlikely"


# How often each of them must come true.
PROMISED = {Odds.LIKELY: 0.9, Odds.POSSIBLE: 0.5}


class OddsAhead(msgspec.Struct, frozen=True):
    """Odds by people ahead: fewer than `likely`, else fewer than `possible`, else unlikely."""

    likely: int
    possible: int

    def of(self, ahead: int) -> Odds:
        """The odds of somebody with so many people ahead."""
        if ahead < self.likely:
            return Odds.LIKELY
        return Odds.POSSIBLE if ahead < self.possible else Odds.UNLIKELY


@dataclass(frozen=True, slots=True)
class Standing:
    """What odds rest on: units of the sale (what is claimed counts as held), seats in use, turns since the opening,
    people who were passed over and may come back first; `lapse_share` of what is held comes back."""

    free: int
    held: int
    sold: int
    active: int
    admitted: int
    absent: int
    limit_per_buyer: int
    lapse_share: float = 0.0


def lapse_share(kept: int, back: int, limit_per_buyer: int) -> float:
    """The share of held units that come back unsold, at least: of `kept + back` whose hold has ended, `back` did.

    A buyer's units come back together, so they are as few observations as they may be orders. Lapses also take longer
    than purchases, so a young sale shows too few of them, which errs on the same side.
    """
    ended = kept + back
    return min(back / ended, _lower(back / ended, ended / limit_per_buyer)) if ended else 0.0


def odds_ahead(standing: Standing) -> OddsAhead:
    """How far back something is likely left, and how far back as likely as not."""
    limit = standing.limit_per_buyer
    returning = standing.lapse_share * standing.held
    # The fewest people that can hold so much, so that those who decided are few and took much.
    holders = min(standing.active, -(-standing.held // limit))
    undecided = standing.active - holders
    decided = max(0, standing.admitted - undecided)
    taken = standing.sold + standing.held - returning
    share = min(1.0, taken / (decided * limit)) if decided else 1.0
    left = standing.free + returning
    likely = _people(left, _upper(share, decided), limit, Z) - undecided - standing.absent
    possible = _people(left, _upper(share, decided), limit, 0.0) - undecided
    return OddsAhead(likely=max(0, likely), possible=max(0, likely, possible))


def _people(left: float, share: float, limit: int, z: float) -> int:
    """Before how many people at the most something is left: c with c share limit + z limit sqrt(c share (1 - share))
    <= left - 1, and the one behind them."""
    if left < 1:
        return 0
    mean, spread = share * limit, z * limit * math.sqrt(share * (1 - share))
    root = (math.sqrt(spread * spread + 4 * mean * (left - 1)) - spread) / (2 * mean)
    return math.floor(root * root) + 1


def _upper(share: float, observations: float) -> float:
    return _wilson(share, observations, Z)


def _lower(share: float, observations: float) -> float:
    return max(0.0, _wilson(share, observations, -Z))


def _wilson(share: float, observations: float, z: float) -> float:
    """An end of Wilson's interval; for means of anything between 0 and 1 it is wide enough."""
    if observations <= 0:
        return 1.0 if z > 0 else 0.0
    squared = z * z / observations
    around = z * math.sqrt(share * (1 - share) / observations + squared / (4 * observations))
    return min(1.0, (share + squared / 2 + around) / (1 + squared))
