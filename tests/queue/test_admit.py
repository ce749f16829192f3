"""Letting in: exact in rate, cap and order, whoever asks and however often; judged by the events the record reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest
from line_kit import PLENTY, SALE, Stand, a_sale
from msgspec.structs import replace

from onsale.lua.line import StockNote

Event = dict[str, str]


def places(event: Event) -> list[int]:
    return [int(place) for place in event["places"].split(",")]


def excess(events: Sequence[Event], rate_centi: int) -> float:
    """By how many people the worst window passes rate x time + burst; not above 0 where the rate was kept."""
    burst = max(1, -(-rate_centi // 1000))
    worst = float("-inf")
    for first in range(len(events)):
        people = 0
        for last in range(first, len(events)):
            people += len(places(events[last]))
            window_ms = int(events[last]["at"]) - int(events[first]["at"])
            worst = max(worst, people - rate_centi * window_ms / 100_000 - burst)
    return worst


@pytest.mark.parametrize("rate_centi", [1, 50, 2_000, 12_345, 1_000_000])
async def test_the_rate_is_kept_over_every_window(stand: Stand, rate_centi: int) -> None:
    """Several admitters, ticks at odd times and a clock that stumbles: never above rate x time + burst, and over the
    whole not below it either."""
    await stand.make(rate_centi=rate_centi, active_max=1_000_000)
    await stand.crowd(4_000)
    # At the slowest more than the 10 s after which nobody's silence counts: the crowd gave its one sign at joining.
    step_s = max(0.037, 10.1 / rate_centi)
    for n in range(60):
        await asyncio.gather(*(stand.admit(admit_max=97) for _ in range(3)))
        await stand.later(-0.02 if n == 30 else step_s)
    await stand.admit()

    events = await stand.admissions()

    assert excess(events, rate_centi) <= 1e-6
    admitted = sum(len(places(event)) for event in events)
    seconds = 58 * step_s
    expected = min(4_000, rate_centi / 100 * seconds)
    assert admitted >= 0.9 * expected - 1
    assert await stand.meta("admitted") == admitted


async def test_the_first_of_a_slow_line_goes_at_once(stand: Stand) -> None:
    """A first opening finds the bucket full: at 0.01 a second nobody waits 100 s for nothing."""
    await stand.make(rate_centi=1)
    await stand.crowd(3)

    first = await stand.admit()
    await stand.later(99)
    second = await stand.admit()
    await stand.later(1)
    third = await stand.admit()

    assert [first.admitted, second.admitted, third.admitted] == [1, 0, 1]


async def test_a_rate_of_zero_lets_nobody_in(stand: Stand) -> None:
    """Not even the one the bucket would hold."""
    await stand.make(rate_centi=0)
    await stand.crowd(1)
    await stand.later(1_000)

    assert (await stand.admit()).admitted == 0


async def test_lowering_cuts_what_had_gathered(stand: Stand) -> None:
    """A bucket of 1,000 people does not outlive the rate it gathered at."""
    await stand.make(rate_centi=1_000_000, active_max=100_000)
    await stand.later(10)

    await stand.set(rate_centi=100)
    await stand.crowd(2_000)

    assert (await stand.admit()).admitted == 1


async def test_raising_is_in_force_at_once(stand: Stand) -> None:
    """From 1 a second to 1,000: a tenth of a second later 100 more are in."""
    await stand.make(rate_centi=100, active_max=10_000)
    await stand.crowd(2_000)
    assert (await stand.admit()).admitted == 1

    await stand.set(rate_centi=100_000)
    await stand.later(0.1)

    assert 100 <= (await stand.admit()).admitted <= 102


@pytest.mark.parametrize("holders", [["operator"], ["provider"], ["operator", "provider"]])
async def test_a_hold_pays_nothing_out(stand: Stand, holders: list[str]) -> None:
    """Twenty seconds held at 10 a second are not 200 people afterwards, and not even a full bucket."""
    await stand.make(rate_centi=1_000, active_max=10_000)
    await stand.crowd(300)
    await stand.later(0.05)
    await stand.admit()
    for holder in holders:
        await stand.line.pause(SALE, holder)
    await stand.later(10)
    assert (await stand.admit()).admitted == 0
    await stand.later(10)
    for holder in holders:
        assert (await stand.admit()).admitted == 0
        await stand.line.resume(SALE, holder)

    assert (await stand.admit()).admitted == 0


async def test_nobody_lifts_anothers_hold(stand: Stand) -> None:
    """The provider's return does not lift the operator's stop."""
    await stand.make()
    await stand.crowd(1)
    await stand.control.pause(SALE, actor="ada")
    await stand.line.pause(SALE, "provider")

    await stand.line.resume(SALE, "provider")
    await stand.keeper.tick()

    assert (await stand.admit()).state == "paused"
    await stand.control.resume(SALE, actor="ada")
    assert (await stand.admit()).admitted == 1


async def test_before_its_time_a_line_gathers_nothing(stand: Stand) -> None:
    """At the opening instant the bucket holds a burst, not the minute that passed."""
    await stand.make(opens_at_ms=(a_sale().opens_at_ms or 0) + 120_000, rate_centi=10_000, active_max=1_000)
    await stand.crowd(500)
    assert (await stand.admit()).admitted == 0
    await stand.later(60)

    assert 10 <= (await stand.admit()).admitted <= 20


async def test_the_cap_is_on_seats_not_on_ticks(stand: Stand) -> None:
    """Ten seats are ten however often one asks; each seat that is freed lets one in."""
    await stand.make(rate_centi=1_000_000, active_max=10)
    await stand.crowd(100)
    for _ in range(5):
        await asyncio.gather(*(stand.admit() for _ in range(4)))
        await stand.later(1)
    assert await stand.redis.zcard(stand.keys.leases) == 10

    await stand.line.take(stand.keys, 1)
    await stand.line.leave(stand.keys, 1)
    await asyncio.gather(*(stand.admit() for _ in range(4)))

    assert await stand.redis.zcard(stand.keys.leases) == 10
    assert await stand.state(11) == "admitted"
    assert max(int(event["active"]) for event in await stand.admissions()) == 10
    assert await stand.meta("cap_violations") == 0


async def test_a_lowered_cap_waits_for_seats_to_end(stand: Stand) -> None:
    """Nobody in a seat loses it; nobody is let in until seats are below the new cap."""
    await stand.make(rate_centi=1_000_000, active_max=10)
    await stand.crowd(30)
    await stand.admit()

    await stand.set(active_max=3)
    await stand.later(1)

    tick = await stand.admit()
    assert (tick.active, tick.admitted) == (10, 0)


async def test_stock_bounds_all_seats(stand: Stand) -> None:
    """Ten units: ten seats in all, not ten a tick, although each tick reads ten free units."""
    await stand.make(rate_centi=1_000_000, active_max=1_000)
    await stand.crowd(100)
    note = StockNote(free=10, held=0, claimed=0, sold=0, seats_max=10, age_ms=0)

    for _ in range(5):
        await stand.admit(note)
        await stand.later(0.1)

    assert await stand.redis.zcard(stand.keys.leases) == 10


async def test_old_figures_let_nobody_in(stand: Stand) -> None:
    """The age travels with the figure: what was read over two seconds ago says nothing."""
    await stand.make()
    await stand.crowd(3)

    assert (await stand.admit(replace(PLENTY, age_ms=2_001))).admitted == 0
    assert (await stand.admit(PLENTY)).admitted == 3


async def test_an_admitter_with_older_figures_does_not_undo_newer_ones(stand: Stand) -> None:
    """The newest figures count, whoever brought them."""
    await stand.make(rate_centi=1_000_000)
    await stand.crowd(50)
    await stand.admit(StockNote(free=5, held=0, claimed=0, sold=0, seats_max=5, age_ms=0))
    await stand.admit(replace(PLENTY, age_ms=1_500))

    assert await stand.redis.zcard(stand.keys.leases) == 5


async def test_an_away_shop_lets_nobody_in_and_says_so(stand: Stand) -> None:
    """After two seconds without figures the line stands, with a reason."""
    await stand.make()
    await stand.tick()
    stand.shop.is_away = True
    await stand.crowd(3)
    await stand.later(3)

    tick = (await stand.tick()).sales[0]

    assert tick.admitted == 0
    assert tick.figures is not None
    assert tick.figures.reason == "stock_unknown"


async def test_nothing_free_but_held_keeps_the_sale_open(stand: Stand) -> None:
    """Nobody is let in, the state stays open, and the reason says what may come back."""
    await stand.make()
    await stand.crowd(3)
    stand.shop.free, stand.shop.held = 0, 7

    tick = (await stand.tick()).sales[0]

    assert (tick.state, tick.admitted) == ("open", 0)
    assert tick.figures is not None
    assert (tick.figures.reason, tick.figures.reason_params) == ("sold_out_holds_pending", '{"held":7}')


async def test_claimed_units_are_not_sold_out(stand: Stand) -> None:
    """A claim may still fail: the sale is sold out when nothing is free, held or claimed."""
    await stand.make()
    stand.shop.free, stand.shop.claimed = 0, 1
    assert (await stand.tick()).sales[0].state == "open"

    stand.shop.claimed, stand.shop.sold = 0, 1
    await stand.later(0.1)

    assert (await stand.tick()).sales[0].state == "sold_out"


async def test_one_call_writes_one_event(stand: Stand) -> None:
    """What the audit computes fairness and rate from."""
    await stand.make(rate_centi=2_000, active_max=7)
    await stand.crowd(5)

    await stand.admit()

    [event] = await stand.admissions()
    at = int(event.pop("at"))
    assert abs(at - round((await stand.redis.time())[0] * 1000)) < 5_000
    assert event == {
        "verb": "admitted",
        "lane": "general",
        "places": "1,2",
        "returners": "",
        "rate_milli": "20000",
        "burst": "2",
        "active": "2",
        "active_max": "7",
        "passed_over": "0",
        "inversions": "0",
    }


async def test_lowest_place_first(stand: Stand) -> None:
    """Over many ticks of many admitters places ascend, and no inversion is counted."""
    await stand.make(rate_centi=50_000, active_max=10_000)
    await stand.crowd(600)
    for _ in range(12):
        await asyncio.gather(*(stand.admit() for _ in range(3)))
        await stand.later(0.1)

    order = [place for event in await stand.admissions() for place in places(event)]

    assert len(order) >= 550
    assert all(before < after for before, after in pairwise(order))
    assert await stand.meta("inversions") == 0


async def test_a_large_step_takes_several_calls(stand: Stand) -> None:
    """A tick at a high rate lets everybody in whom the rate allows, 250 people a call."""
    await stand.make(rate_centi=10_000_000, active_max=100_000)
    await stand.crowd(3_000)

    tick = await stand.tick()

    assert tick.admitted == 3_000
    assert max(len(places(event)) for event in await stand.admissions()) == 250


async def test_an_ended_line_lets_nobody_in(stand: Stand) -> None:
    """At closes_at admission ends, whoever still waits."""
    await stand.make()
    await stand.crowd(3)
    await stand.later(7_200)

    assert ((await stand.admit()).state, (await stand.admit()).admitted) == ("ended", 0)


async def test_a_clock_that_goes_back_stops_nothing(stand: Stand) -> None:
    """After a step of ten minutes back people are let in at the rate again, and documents are made."""
    await stand.make(rate_centi=1_000, opens_at_ms=(a_sale().opens_at_ms or 0) - 3_600_000)
    await stand.crowd(50)
    await stand.tick()
    await stand.later(-600)
    await stand.tick()
    await stand.later(1)

    tick = (await stand.tick()).sales[0]

    assert tick.admitted == 1
    assert tick.figures is not None


async def test_keys_of_another_type_stop_admission_before_it_writes(stand: Stand) -> None:
    """Every key of the script in turn."""
    await stand.make()
    await stand.crowd(2)
    keys = stand.keys
    for name in (keys.policy, keys.pauses, keys.waiting, keys.absent, keys.tickets, keys.leases,
                 keys.gone, keys.admissions, *(keys.presence(slot) for slot in range(5))):  # fmt: skip
        had = await stand.redis.copy(name, f"{name}:kept")
        await stand.redis.delete(name)
        await stand.redis.rpush(name, "nonsense")
        tick = (await stand.tick()).sales[0]
        assert tick.failure == "CORRUPT"
        await stand.redis.delete(name)
        if had:
            await stand.redis.rename(f"{name}:kept", name)

    assert (await stand.tick()).admitted == 2


async def test_an_inversion_is_told(stand: Stand) -> None:
    """The count in the event and in the line is one, not a promise: a score that lies makes somebody overtake."""
    await stand.make()
    await stand.crowd(5)
    await stand.redis.zadd(stand.keys.waiting, {"4": 0})

    await stand.admit(admit_max=1)

    [event] = await stand.admissions()
    assert event["places"] == "4"
    assert int(event["inversions"]) > 0
    assert await stand.meta("inversions") == int(event["inversions"])
