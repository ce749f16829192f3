"""Turns: told is taken; untold goes to the next and the place is kept, twice; a seat ends where its ticket ends."""

from __future__ import annotations

import asyncio

import pytest
from line_kit import SALE, Stand, restart

from onsale.queue.errors import TicketUnknown
from onsale.queue.line import SKEW_MS
from onsale.queue.ports import TurnClosing
from onsale.queue.states import TicketState

TURN_S, PASS_S = 20, 60


async def test_told_is_taken_once(stand: Stand) -> None:
    """Whoever tells, however often: one turn, one time, one end of the pass."""
    await stand.make()
    await stand.crowd(1)
    await stand.admit()
    other = stand.another_line()

    first = await stand.line.take(stand.keys, 1)
    await stand.later(7)
    copies = await asyncio.gather(*(line.take(stand.keys, 1) for line in (stand.line, other) * 3))

    assert first.pass_exp_ms == first.told_ms + PASS_S * 1000
    assert all(copy == first for copy in copies)


async def test_a_waiting_ticket_has_no_turn_to_take(stand: Stand) -> None:
    """The view says so; an unknown place is an error."""
    await stand.make()
    await stand.crowd(1)

    view = await stand.line.take(stand.keys, 1)

    assert (view.state, view.turn, view.told_ms) == (TicketState.WAITING, "", 0)
    with pytest.raises(TicketUnknown):
        await stand.line.take(stand.keys, 99)


async def test_the_seat_outlives_the_pass_by_the_skew(stand: Stand) -> None:
    """The pass is judged by another server's clock."""
    await stand.make()
    await stand.crowd(1)
    await stand.admit()

    view = await stand.line.take(stand.keys, 1)

    assert await stand.redis.zscore(stand.keys.leases, view.turn) == view.pass_exp_ms + SKEW_MS


async def test_an_untold_turn_goes_to_the_next(stand: Stand) -> None:
    """The sleeper is absent with the place kept, and goes first after coming back, with a turn of its own."""
    await stand.make(active_max=1)
    await stand.crowd(2)
    await stand.admit()
    for _ in range(2):
        await stand.later(TURN_S / 3)
        await stand.sign(2)
        assert (await stand.admit()).untold == 0
    await stand.later(TURN_S / 3)

    tick = await stand.admit()

    assert (tick.untold, tick.admitted, await stand.state(2)) == (1, 1, "admitted")
    late = await stand.line.take(stand.keys, 1)
    assert (late.state, late.is_absent, late.turn) == (TicketState.WAITING, True, "")
    await stand.sign(1)
    await stand.line.take(stand.keys, 2)
    await stand.line.leave(stand.keys, 2)
    await stand.later(1)
    await stand.admit()
    assert (await stand.line.take(stand.keys, 1)).turn == "1-1-2"
    assert [event["returners"] for event in await stand.admissions()] == ["", "", "1"]


async def test_the_last_one_let_in_is_a_returner_too(stand: Stand) -> None:
    """Its own place is the highest that was called: the audit must not take its second turn for jumping the line."""
    await stand.make()
    await stand.crowd(1)
    await stand.admit()
    for _ in range(4):
        await stand.later(TURN_S / 3)
        await stand.sign()
        await stand.admit()
    await stand.sign(1)
    await stand.later(1)
    await stand.admit()

    assert [(event["places"], event["returners"]) for event in await stand.admissions()] == [("1", ""), ("1", "1")]


async def test_the_third_untold_turn_expires(stand: Stand) -> None:
    """Twice the place is kept; then the ticket ends, and its buyer joins anew at the end."""
    await stand.make()
    await stand.crowd(2)
    for _ in range(3):
        await stand.sign(1)
        for _ in range(4):
            await stand.later(TURN_S / 3)
            await stand.sign()
            await stand.admit()

    assert await stand.state(1) == "expired"
    assert await stand.join("buyer-0") == 3


async def test_a_told_turn_whose_time_is_over_is_ended_by_the_shop(stand: Stand) -> None:
    """The shop closes it first; its closing ends the ticket and frees the seat."""
    await stand.make()
    await stand.crowd(1)
    await stand.tick()
    view = await stand.line.take(stand.keys, 1)
    await stand.live_on(PASS_S + SKEW_MS // 1000 - 1)
    await stand.tick()
    assert stand.shop.asked == []

    await stand.later(2)
    await stand.tick()
    await stand.tick()

    assert stand.shop.asked == [(view.turn, "expired")]
    assert await stand.state(1) == "expired"
    assert await stand.redis.zcard(stand.keys.leases) == 0


async def test_an_open_order_keeps_the_seat(stand: Stand) -> None:
    """Until the order's end and the skew; then the shop is asked again."""
    await stand.make()
    await stand.crowd(1)
    await stand.tick()
    view = await stand.line.take(stand.keys, 1)
    await stand.live_on(PASS_S + SKEW_MS // 1000 + 1)
    until_ms = view.pass_exp_ms + 500_000
    stand.shop.kept[view.turn] = until_ms
    await stand.tick()

    assert await stand.state(1) == "admitted"
    assert await stand.redis.zscore(stand.keys.leases, view.turn) == until_ms + SKEW_MS


@pytest.mark.parametrize(
    ("why", "state"), [("completed", "completed"), ("expired", "expired"), ("left", "left"), ("revoked", "expired")]
)
async def test_a_closing_ends_the_ticket(stand: Stand, why: str, state: str) -> None:
    """Whatever ended the turn at the shop, the seat is free and the buyer may join anew."""
    await stand.make()
    await stand.crowd(1)
    await stand.tick()
    turn = (await stand.line.take(stand.keys, 1)).turn

    stand.shop.end(turn, why)
    tick = (await stand.tick()).sales[0]

    assert (tick.freed, tick.active, await stand.state(1)) == (1, 0, state)
    assert await stand.join("buyer-0") == 2


async def test_closings_may_come_twice_late_and_out_of_order(stand: Stand) -> None:
    """Each turn is its own: one that ended stays as it ended, a turn of another time frees nobody's seat."""
    await stand.make(active_max=10)
    await stand.crowd(3)
    await stand.tick()
    turns = [(await stand.line.take(stand.keys, place)).turn for place in (1, 2, 3)]
    for number, (turn, why) in enumerate(
        [(turns[1], "completed"), ("1-1-9", "completed"), (turns[1], "expired"), (turns[0], "left"), ("junk", "left")]
    ):
        stand.shop.events.append(TurnClosing(f"{number + 1}-0", turn, why))

    ticks = await asyncio.gather(*(stand.another_admitter().tick() for _ in range(3)))
    await stand.redis.hset(stand.keys.meta, "closings_cursor", "")
    await stand.another_admitter().tick()

    assert sum(tick.sales[0].freed for tick in ticks) == 2
    assert [await stand.state(place) for place in (1, 2, 3)] == ["left", "completed", "admitted"]
    assert [member.decode() for member in await stand.redis.zrange(stand.keys.leases, 0, -1)] == [turns[2]]


async def test_a_closing_that_was_missed_frees_the_seat_in_the_end(stand: Stand) -> None:
    """The shop calls the turn closed and has no event left to tell: asked twice, the seat is free."""
    await stand.make()
    await stand.crowd(1)
    await stand.tick()
    turn = (await stand.line.take(stand.keys, 1)).turn
    stand.shop.closed.add(turn)
    await stand.live_on(PASS_S + SKEW_MS // 1000 + 1)

    for _ in range(2):
        await stand.tick()

    assert await stand.redis.zcard(stand.keys.leases) == 0
    assert await stand.state(1) == "expired"


async def test_closings_of_a_rebuilt_shop_are_read_from_their_start(stand: Stand) -> None:
    """The cursor names the shop's epoch: ids of another one say nothing."""
    await stand.make()
    await stand.crowd(2)
    await stand.tick()
    turns = [(await stand.line.take(stand.keys, place)).turn for place in (1, 2)]
    stand.shop.events = [TurnClosing("900-0", turns[0], "completed")]
    await stand.tick()

    await stand.pool.execute("UPDATE sales SET shop_epoch = shop_epoch + 1")
    await stand.book.refresh()
    stand.shop.events = [TurnClosing("1-0", turns[1], "completed")]
    await stand.tick()

    assert await stand.state(2) == "completed"


async def test_leaving_a_seat_closes_the_turn_at_the_shop_first(stand: Stand) -> None:
    """While the shop cannot be told, the seat stays: a seat is never free while its pass still buys."""
    await stand.make()
    await stand.crowd(1)
    await stand.admit()
    turn = (await stand.line.take(stand.keys, 1)).turn
    stand.shop.is_away = True
    with pytest.raises(ConnectionError):
        await stand.line.leave(stand.keys, 1)
    assert await stand.state(1) == "admitted"

    stand.shop.is_away = False
    view = await stand.line.leave(stand.keys, 1)

    assert view.state is TicketState.LEFT
    assert stand.shop.asked == [(turn, "left")]
    assert await stand.redis.zcard(stand.keys.leases) == 0


async def test_a_shop_that_is_away_keeps_every_seat(stand: Stand) -> None:
    """Turns whose time is over wait for its word; the cap holds meanwhile."""
    await stand.make(active_max=1)
    await stand.crowd(2)
    await stand.tick()
    await stand.line.take(stand.keys, 1)
    stand.shop.is_away = True
    await stand.live_on(PASS_S + SKEW_MS // 1000 + 1)

    tick = (await stand.tick()).sales[0]

    assert (tick.active, tick.admitted, tick.failure) == (1, 0, "")


async def told(stand: Stand) -> tuple[str, int]:
    """One person is let in and told; the turn, and when its pass ends."""
    await stand.crowd(1)
    await stand.tick()
    view = await stand.line.take(stand.keys, 1)
    return view.turn, view.pass_exp_ms


async def pass_exp_ms(stand: Stand) -> int:
    view = await stand.line.look(stand.keys, 1)
    assert view is not None
    return view.pass_exp_ms


async def test_a_pass_ends_later_by_what_the_shop_was_away(stand: Stand) -> None:
    """Forty seconds in which nobody could buy are given back, pass and seat, once; a short silence is none."""
    await stand.make(pass_ttl_s=60)
    turn, exp_ms = await told(stand)
    await stand.later(4)
    await stand.tick()
    assert await pass_exp_ms(stand) == exp_ms

    stand.shop.is_away = True
    for _ in range(8):
        await stand.later(5)
        await stand.tick()
    stand.shop.is_away = False
    await stand.tick()
    await stand.tick()
    extended_ms = await pass_exp_ms(stand)
    assert 40_000 <= extended_ms - exp_ms < 42_000

    # Past its first end the shop is not asked, and the seat is kept; past the second the shop ends it.
    await stand.live_on(60)
    await stand.tick()
    assert (stand.shop.asked, await stand.state(1)) == ([], "admitted")
    assert await stand.line.pass_until(stand.keys, turn) == extended_ms
    await stand.live_on(75)
    await stand.tick()
    assert stand.shop.asked == [(turn, "expired")]


async def test_an_outage_that_took_redis_with_it_counts_too(stand: Stand) -> None:
    """No admitter could tick meanwhile, and the server that is back has another run id."""
    await stand.make(pass_ttl_s=60)
    _, exp_ms = await told(stand)
    await stand.later(30)
    await restart(stand)
    await stand.keeper.tick()

    await stand.tick()

    assert 30_000 <= await pass_exp_ms(stand) - exp_ms < 32_000


async def test_a_record_that_was_behind_is_given_back(stand: Stand) -> None:
    """Its hold stopped reserving; an operator's pause stops nobody who is in. One outage seen twice counts once."""
    await stand.make(pass_ttl_s=60)
    _, exp_ms = await told(stand)
    await stand.control.pause(SALE, actor="ada")
    await stand.line.pause(SALE, "record")
    stand.shop.is_away = True
    await stand.later(10)
    stand.shop.is_away = False
    await stand.tick()
    await stand.line.resume(SALE, "record")
    await stand.later(4)
    await stand.control.resume(SALE, actor="ada")

    assert 10_000 <= await pass_exp_ms(stand) - exp_ms < 12_000
