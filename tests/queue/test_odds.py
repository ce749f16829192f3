"""How likely something is left, and how likely held units come back: never rosier than what was seen."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onsale.queue.odds import Odds, Standing, lapse_share, odds_ahead

units = st.integers(0, 100_000)
limits = st.integers(1, 10)
standings = st.builds(
    Standing,
    free=units,
    held=units,
    sold=units,
    active=units,
    admitted=units,
    absent=units,
    limit_per_buyer=limits,
    lapse_share=st.floats(0, 1),
)
# A sale in its middle: half of a thousand who came in bought one each.
MIDDLE = Standing(free=400, held=0, sold=500, active=0, admitted=1_000, absent=0, limit_per_buyer=1)


@given(units, units, limits)
def test_the_measured_share_is_below_the_seen_one(kept: int, back: int, limit: int) -> None:
    """At the most what was seen, and a share."""
    assert 0 <= lapse_share(kept, back, limit) <= back / max(1, kept + back)


def test_few_observations_say_little() -> None:
    """The same share counts for more the more often it was seen; for nothing where nothing was."""
    shares = [lapse_share(4 * seen, seen, 1) for seen in (0, 1, 10, 100, 10_000)]

    assert 0 == shares[0]
    assert shares == sorted(shares)
    assert 0.05 > shares[1]
    assert 0.19 < shares[-1] <= 0.2


def test_units_that_come_back_together_are_one_observation() -> None:
    """Where a buyer may hold ten, a hundred units may be ten people's."""
    assert lapse_share(80, 20, 10) < lapse_share(80, 20, 1)


@pytest.mark.parametrize("true_share", [0.02, 0.2, 0.7])
def test_the_measured_share_is_seldom_above_the_true_one(true_share: float) -> None:
    """In nine of ten trials at least, at whatever moment it is asked."""
    rng = random.Random(17)
    trials = [sum(rng.random() < true_share for _ in range(held)) for held in (20, 200, 2_000) for _ in range(200)]
    asked = [held for held in (20, 200, 2_000) for _ in range(200)]
    above = sum(lapse_share(held - back, back, 1) > true_share for held, back in zip(asked, trials, strict=True))

    assert above <= 60


@given(standings)
def test_odds_fall_with_the_people_ahead(standing: Standing) -> None:
    """Likely in front, then possible, then unlikely."""
    odds = odds_ahead(standing)

    assert 0 <= odds.likely <= odds.possible
    assert Odds.UNLIKELY == odds.of(odds.possible)


@given(standings)
def test_nothing_left_is_unlikely_for_everybody(standing: Standing) -> None:
    """Neither free nor coming back: even the next one is told so."""
    assert Odds.UNLIKELY == odds_ahead(replace(standing, free=0, lapse_share=0.0)).of(0)


@given(standings, st.integers(1, 1_000))
def test_more_on_the_shelf_is_never_worse(standing: Standing, more: int) -> None:
    """Free units push both bounds back; people who may come first pull them near."""
    odds, richer = odds_ahead(standing), odds_ahead(replace(standing, free=standing.free + more))
    crowded = odds_ahead(replace(standing, absent=standing.absent + more))

    assert richer.likely >= odds.likely >= crowded.likely
    assert richer.possible >= odds.possible >= crowded.possible


def test_nobody_let_in_yet_means_that_everybody_buys_all() -> None:
    """Ten units, two a buyer: the fifth can be sure of one, the sixth is told nothing good."""
    odds = odds_ahead(Standing(free=10, held=0, sold=0, active=0, admitted=0, absent=0, limit_per_buyer=2))

    assert [Odds.LIKELY, Odds.UNLIKELY] == [odds.of(4), odds.of(5)]


def test_what_people_took_says_what_they_will_take() -> None:
    """Half of them buy: 400 units are likely enough for those behind 600, not behind 800, though not for sure there."""
    odds = odds_ahead(MIDDLE)

    assert [Odds.LIKELY, Odds.UNLIKELY] == [odds.of(600), odds.of(800)]
    assert odds.likely < odds.possible < 800


def test_people_inside_who_hold_nothing_go_first() -> None:
    """A hundred more of them are as a hundred more ahead."""
    inside = odds_ahead(replace(MIDDLE, active=100, admitted=1_100))

    assert odds_ahead(MIDDLE).likely - inside.likely == 100


def test_held_units_count_by_the_share_that_comes_back() -> None:
    """None of them without a measured share, some of them with one."""
    held = replace(MIDDLE, free=0, held=200, active=200, admitted=1_200)
    hopeful = replace(held, lapse_share=0.3)

    assert 0 == odds_ahead(held).possible
    assert 60 <= odds_ahead(hopeful).possible <= 60 / 0.4
