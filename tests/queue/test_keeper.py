"""Losing Redis: nobody loses a place, no place is given twice, and what stood still stands still."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from line_kit import SALE, Stand, a_sale, lose, record_admissions, restart

from onsale.auth.errors import StoreUnavailable
from onsale.queue.errors import LineRecovering, TicketUnknown
from onsale.queue.keeper import GATHER_MS
from onsale.queue.numbering import PLACES_A_BLOCK


async def test_a_new_sale_is_loaded(stand: Stand) -> None:
    """Epoch 1, numbering from 1, its policy and schedule in force."""
    await stand.make(rate_centi=4_200)

    assert stand.sale.line_epoch == 1
    assert await stand.join("ada") == 1
    tick = (await stand.tick()).sales[0]
    assert tick.figures is not None
    assert (tick.figures.rate_centi, tick.figures.opens_at_ms) == (4_200, stand.sale.opens_at_ms)


async def test_many_keepers_load_a_sale_once(stand: Stand) -> None:
    """One epoch, whoever was first."""
    await stand.book.create(a_sale(), "tests")
    keepers = [stand.another_keeper() for _ in range(4)]
    for keeper in keepers:
        keeper._takeover_ms = 60_000

    ticks = await asyncio.gather(*(keeper.tick() for keeper in keepers))

    await stand.book.refresh()
    assert sum(len(tick.loaded) for tick in ticks) == 1
    assert stand.sale.line_epoch == 1


async def test_a_keeper_that_died_is_taken_over(stand: Stand) -> None:
    """It had begun an epoch and written nothing: after a while another begins the next one."""
    await stand.book.create(a_sale(), "tests")
    await stand.pool.execute(
        "UPDATE sales SET line_epoch = 1, line_epoch_at = now(), place_ceiling = $1", PLACES_A_BLOCK
    )
    patient = stand.another_keeper()
    patient._takeover_ms = 60_000
    assert (await patient.tick()).loaded == ()

    await stand.keeper.tick()

    assert stand.sale.line_epoch == 2
    assert await stand.scripts.ceiling(stand.keys, 0) == 2 * PLACES_A_BLOCK


async def test_after_a_restart_numbering_goes_on_at_the_ceiling(stand: Stand) -> None:
    """Tickets, seats and order are as they were; what is numbered next was never given, whatever was forgotten."""
    await stand.make(active_max=1)
    await stand.crowd(3)
    await stand.admit()
    await restart(stand)
    with pytest.raises(LineRecovering):
        await stand.join("late")

    tick = await stand.keeper.tick()

    assert tick.registered == (SALE,)
    assert stand.sale.line_epoch == 1
    assert await stand.join("late") == PLACES_A_BLOCK + 1
    assert [await stand.state(place) for place in (1, 2, 3)] == ["admitted", "waiting", "waiting"]
    assert await stand.redis.zcard(stand.keys.leases) == 1


async def test_many_keepers_register_a_restart_once(stand: Stand) -> None:
    """And numbering stays above everything that was given before."""
    await stand.make()
    await stand.crowd(3)
    await restart(stand)

    ticks = await asyncio.gather(*(stand.another_keeper().tick() for _ in range(4)))

    assert sum(len(tick.registered) for tick in ticks) == 1
    assert await stand.join("late") > PLACES_A_BLOCK


async def test_a_restart_parks_nobody(stand: Stand) -> None:
    """Signs of life of the time before count from the registration on."""
    await stand.make()
    await stand.crowd(3)
    await stand.later(300)
    await restart(stand)
    await stand.keeper.tick()
    await stand.sign()
    await stand.later(1)

    assert (await stand.admit()).admitted == 3


async def forget_admissions(stand: Stand) -> None:
    """As an older file has it: the first five wait, nobody was let in, and documents are numbered from 1."""
    await stand.redis.hset(stand.keys.meta, mapping={"seq": 0, "admitted": 0, "serving": 0})
    await stand.redis.delete(stand.keys.leases)
    await stand.redis.zadd(stand.keys.waiting, {str(place): place for place in range(1, 6)})
    for place in range(1, 6):
        [joined] = await stand.redis.hmget(stand.keys.tickets, str(place))
        ticket = msgspec.msgpack.decode(joined)
        await stand.redis.hset(stand.keys.tickets, str(place), msgspec.msgpack.encode([1, *ticket[1:3]]))


async def test_an_older_file_lets_nobody_in_twice(stand: Stand) -> None:
    """Data that forgot people whom the record saw let in is not gone on with: they have their seats, and those behind
    them come back to the places they had. The count of people let in never falls."""
    await stand.make(rate_centi=100_000, active_max=5)
    await stand.crowd(8)
    await stand.tick()
    await record_admissions(stand)
    await forget_admissions(stand)
    await restart(stand)

    tick = await stand.keeper.tick()
    views = [
        await stand.line.restore(stand.keys, place, f"buyer-{place - 1}", 1, "general") for place in range(8, 0, -1)
    ]
    await stand.later(GATHER_MS / 1000)
    await stand.sign()
    figures = (await stand.tick()).sales[0].figures

    assert ((SALE,), 2) == (tick.loaded, stand.sale.line_epoch)
    assert ["waiting"] * 3 + ["admitted"] * 5 == [view.state for view in views]
    assert figures is not None
    assert (5, 5, 3) == (figures.admitted, figures.active, figures.waiting)
    assert [] == await stand.admissions()


async def test_documents_go_on_above_those_that_were_shown(stand: Stand) -> None:
    """The end of the data may be missing: what it says next is numbered above every document that anybody has."""
    await stand.make(rate_centi=100_000)
    await stand.crowd(5)
    await stand.tick()
    shown = await stand.meta("seq")
    await stand.redis.hset(stand.keys.meta, "seq", 0)
    await restart(stand)

    await stand.keeper.tick()
    await stand.later(1)
    figures = (await stand.tick()).sales[0].figures

    assert figures is not None
    assert figures.seq > shown


async def test_a_restart_pays_out_no_burst(stand: Stand) -> None:
    """Whom the bucket let in may be what was forgotten: it fills anew from nothing."""
    await stand.make(rate_centi=10_000)
    await stand.crowd(50)
    await restart(stand)
    await stand.keeper.tick()

    assert (await stand.admit()).admitted <= 1
    await stand.later(0.5)
    assert (await stand.admit()).admitted == 10


async def test_events_after_a_restart_lie_behind_what_is_recorded(stand: Stand) -> None:
    """A promoted server's clock may be behind: what it writes is read all the same, because it follows the mark."""
    await stand.make()
    await stand.crowd(1)
    mark = (round(time.time() * 1000) + 3_600_000, 7)
    await stand.pool.execute(
        "INSERT INTO watermarks (sale, stream, epoch, upto) VALUES ($1, 'admissions', $2, $3)",
        *(SALE, stand.keys.epoch, "{}-{}".format(*mark)),
    )
    await restart(stand)
    await stand.keeper.tick()
    await stand.later(1)
    await stand.admit()

    [(event_id, _)] = await stand.redis.xrange(stand.keys.admissions)
    assert tuple(map(int, event_id.decode().split("-"))) > mark


async def test_a_restart_without_web_processes_parks_nobody(stand: Stand) -> None:
    """The machine comes back, and nobody to tell a turn: nobody is let in or missed before a web process is heard."""
    await stand.make()
    await stand.crowd(5)
    await restart(stand)
    await stand.keeper.tick()
    await stand.later(11)
    for _ in range(20):
        assert (await stand.admit()).admitted == 0
        await stand.later(10)
    await stand.sign()

    tick = await stand.admit()

    assert (tick.admitted, tick.passed_over) == (5, 0)


async def test_a_flushed_line_begins_anew_and_is_gathered_in_the_old_order(stand: Stand) -> None:
    """Tickets come back from their ids in any order while nobody is let in; then the lowest place is the first."""
    await stand.make(active_max=2)
    await stand.crowd(5)
    joined_ms = (await stand.line.look(stand.keys, 1) or pytest.fail()).joined_ms
    await lose(stand)
    with pytest.raises(LineRecovering):
        await stand.join("late")

    assert (await stand.keeper.tick()).loaded == (SALE,)
    assert stand.sale.line_epoch == 2
    with pytest.raises(LineRecovering):
        await stand.join("late")
    for place in (4, 2, 5, 1, 3):
        await stand.line.restore(stand.keys, place, f"buyer-{place - 1}", joined_ms, "general")
    assert (await stand.tick()).sales[0].state == "recovering"
    await stand.later(GATHER_MS / 1000)
    await stand.tick()
    await stand.later(1)
    await stand.tick()

    assert [await stand.state(place) for place in range(1, 6)] == ["admitted"] * 2 + ["waiting"] * 3
    assert await stand.join("late") == PLACES_A_BLOCK + 1
    assert await stand.join("buyer-4") == 5


async def test_gathering_pays_out_no_burst(stand: Stand) -> None:
    """The bucket is empty after a loss: no burst is let in twice."""
    await stand.make(rate_centi=10_000)
    await stand.crowd(50)
    await stand.admit()
    await lose(stand)
    await stand.keeper.tick()
    for place in range(11, 51):
        await stand.line.restore(stand.keys, place, f"buyer-{place - 1}", 1, "general")
    await stand.later(GATHER_MS / 1000)

    assert (await stand.admit()).admitted == 0


async def test_whoever_was_let_in_does_not_come_back(stand: Stand) -> None:
    """Known from the record: seated again while the pass may be in use, gone afterwards."""
    await stand.make(active_max=3)
    await stand.crowd(5)
    await stand.admit()
    turn = (await stand.line.take(stand.keys, 1)).turn
    await record_admissions(stand)
    await lose(stand)
    await stand.keeper.tick()

    assert await stand.redis.zcard(stand.keys.leases) == 3
    view = await stand.line.restore(stand.keys, 1, "buyer-0", 1, "general")
    assert (view.state, view.turn, view.buyer) == ("admitted", turn, "buyer-0")
    stand.shop.end("1-2-1", "completed")
    await stand.tick()
    assert await stand.redis.zcard(stand.keys.leases) == 2
    assert (await stand.line.restore(stand.keys, 2, "buyer-1", 1, "general")).state == "completed"
    assert await stand.join("buyer-0") == 1
    assert await stand.meta("admitted") == 3
    assert await stand.meta("serving") == 3


async def test_the_newest_turn_counts_whatever_the_clock_said(stand: Stand) -> None:
    """A place had a turn in two epochs, the later one by a clock that was behind: its seat is of the later turn."""
    await stand.make()
    await stand.crowd(1)
    await stand.admit()
    await record_admissions(stand)
    await stand.pool.execute(
        "INSERT INTO admissions SELECT sale, 2, '1-0', lane, at - interval '10 s', places, returners, rate_milli,"
        " burst, active, active_max FROM admissions"
    )
    await stand.pool.execute("UPDATE sales SET line_epoch = 2")
    await lose(stand)
    await stand.keeper.tick()

    assert await stand.redis.zrange(stand.keys.leases, 0, -1) == [b"2-1-1"]


async def test_seats_whose_time_is_over_are_not_taken_up_again(stand: Stand) -> None:
    """An hour after the admission the place is gone and the seat is free."""
    await stand.make(closes_at_ms=(a_sale().closes_at_ms or 0) + 36_000_000)
    await stand.crowd(2)
    await stand.admit()
    await record_admissions(stand)
    await stand.later(3_600)
    await lose(stand)
    await stand.keeper.tick()

    assert await stand.redis.zcard(stand.keys.leases) == 0
    with pytest.raises(TicketUnknown):
        await stand.line.restore(stand.keys, 1, "buyer-0", 1, "general")


async def test_an_open_order_keeps_its_seat_through_a_loss(stand: Stand) -> None:
    """The pass has run out, the order has not: the seat counts, so that the cap holds; the other one is free."""
    await stand.make(closes_at_ms=(a_sale().closes_at_ms or 0) + 36_000_000)
    await stand.crowd(2)
    await stand.admit()
    await record_admissions(stand)
    await stand.later(120)
    await lose(stand)
    await stand.keeper.tick()
    stand.shop.kept["1-2-1"] = round(time.time() * 1000) + stand.skew.ms + 60_000
    await stand.later(GATHER_MS / 1000)
    for _ in range(3):
        await stand.tick()

    assert await stand.redis.zrange(stand.keys.leases, 0, -1) == [b"1-2-1"]
    assert (await stand.line.restore(stand.keys, 1, "buyer-0", 1, "general")).state == "expired"


async def test_of_two_places_of_one_buyer_the_lower_wins(stand: Stand) -> None:
    """Whoever joined anew before the old ticket came back keeps one living ticket, the better one."""
    await stand.make(rate_centi=0)
    await stand.crowd(3)
    await lose(stand)
    await stand.keeper.tick()
    await stand.later(GATHER_MS / 1000)
    await stand.admit()
    again = await stand.join("buyer-1")
    assert again == PLACES_A_BLOCK + 1

    view = await stand.line.restore(stand.keys, 2, "buyer-1", 1, "general")

    assert (view.place, await stand.state(again)) == (2, "left")
    assert await stand.join("buyer-1") == 2
    with pytest.raises(TicketUnknown):
        await stand.line.restore(stand.keys, 3, "buyer-1", 1, "general")


async def test_restoring_twice_is_restoring_once(stand: Stand) -> None:
    """And what was never given cannot be restored."""
    await stand.make(rate_centi=0)
    await stand.crowd(2)
    await lose(stand)
    await stand.keeper.tick()

    views = [await stand.line.restore(stand.keys, 1, "buyer-0", 7, "general") for _ in range(2)]

    assert views[0] == views[1]
    with pytest.raises(TicketUnknown):
        await stand.line.restore(stand.keys, PLACES_A_BLOCK + 1, "eve", 7, "general")
    with pytest.raises(TicketUnknown):
        await stand.line.restore(stand.keys, 1, "eve", 7, "general")


async def test_paused_stays_paused(stand: Stand) -> None:
    """An operator's stop and a provider's survive the loss of Redis, and the gathering lifts only its own hold."""
    await stand.make()
    await stand.control.pause(SALE, actor="ada")
    await stand.line.pause(SALE, "provider")
    await lose(stand)
    await stand.keeper.tick()
    await stand.later(GATHER_MS / 1000)
    await stand.tick()

    assert (await stand.tick()).sales[0].state == "paused"
    assert await stand.redis.smembers(stand.keys.pauses) == {b"operator", b"provider"}


async def test_a_provider_may_hold_while_postgres_is_away(stand: Stand) -> None:
    """Then the hold is Redis's alone."""
    await stand.make()
    await stand.pool.close()

    await stand.line.pause(SALE, "provider")

    assert await stand.redis.smembers(stand.keys.pauses) == {b"provider"}


async def test_keys_that_somebody_overwrote_begin_a_new_epoch(stand: Stand) -> None:
    """Data that cannot be trusted is not read."""
    await stand.make()
    await stand.crowd(2)
    await stand.redis.delete(stand.keys.waiting)
    await stand.redis.set(stand.keys.waiting, "nonsense")

    assert (await stand.keeper.tick()).loaded == (SALE,)

    assert stand.sale.line_epoch == 2
    assert (await stand.line.restore(stand.keys, 1, "buyer-0", 1, "general")).place == 1
    assert await stand.redis.keys("{drop:line}:1:*") == []


async def test_joining_past_the_ceiling_waits_for_postgres(stand: Stand) -> None:
    """Away: an honest refusal, and nothing is numbered above what Postgres holds."""
    await stand.make()
    await stand.redis.hset(stand.keys.meta, "tail", PLACES_A_BLOCK)
    await stand.pool.close()

    with pytest.raises(StoreUnavailable):
        await stand.join("ada")

    assert await stand.meta("tail") == PLACES_A_BLOCK


async def test_what_postgres_says_comes_into_force(stand: Stand) -> None:
    """A change that its maker could not bring into the line is brought by the keeper, once."""
    await stand.make()
    await stand.pool.execute('UPDATE sales SET draining_at = now(), message = \'{"ko": "가", "en": "a"}\'')

    first, second = await stand.keeper.tick(), await stand.keeper.tick()

    assert (first.synced, second.synced) == ((SALE,), ())
    figures = (await stand.tick()).sales[0].figures
    assert figures is not None
    assert (figures.state, figures.message) == ("draining", '{"en":"a","ko":"가"}')


async def test_numbering_is_raised_ahead_of_need(stand: Stand) -> None:
    """Before the block is used up, so that joining waits for Postgres only in a storm."""
    await stand.make()
    await stand.redis.hset(stand.keys.meta, "tail", PLACES_A_BLOCK - 100)

    tick = await stand.keeper.tick()

    assert tick.raised == (SALE,)
    assert await stand.scripts.ceiling(stand.keys, 0) == 2 * PLACES_A_BLOCK
