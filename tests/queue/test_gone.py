"""Who is gone from a line is known in Postgres, so that losing the line's Redis brings nobody back who had the turn."""

from __future__ import annotations

import asyncio

import pytest
from line_kit import SALE, Stand, a_sale, lose, record_admissions

from onsale.lua.line import GONE_CHUNK_BYTES, LineScripts
from onsale.queue.errors import TicketUnknown
from onsale.queue.gone import Gone, GoneKeeper, GoneTick, gone_of
from onsale.queue.keeper import GATHER_MS


@pytest.fixture
def gone_keeper(stand: Stand) -> GoneKeeper:
    return GoneKeeper(LineScripts(stand.redis), stand.pool, stand.book)


def test_a_place_is_found_by_its_bit() -> None:
    """Bits are numbered as Redis numbers them: the first is the highest of its byte."""
    gone = Gone({0: b"\x40", 1: b"\x80"})

    assert [1, GONE_CHUNK_BYTES * 8] == [place for place in range(GONE_CHUNK_BYTES * 8 + 9) if place in gone]


async def test_only_what_changed_is_copied(stand: Stand, gone_keeper: GoneKeeper) -> None:
    """A tick at rest copies nothing; a place far behind is copied with its own chunk alone."""
    await stand.make()
    await stand.crowd(3)
    await stand.line.leave(stand.keys, 2)
    far = 3 * GONE_CHUNK_BYTES * 8 + 5

    first, rest = await gone_keeper.tick(), await gone_keeper.tick()
    await stand.redis.setbit(stand.keys.gone, far, 1)
    last = await gone_keeper.tick()

    assert [GoneTick(1), GoneTick(0), GoneTick(1)] == [first, rest, last]
    gone = await gone_of(stand.pool, SALE)
    assert [2, far] == [place for place in (1, 2, 3, far - 1, far) if place in gone]


async def test_an_older_copy_changes_nothing(stand: Stand, gone_keeper: GoneKeeper) -> None:
    """Of two processes the one that read earlier and writes later takes nobody back; nor does one of an older epoch."""
    await stand.make()
    await stand.crowd(3)
    for place in (1, 2):
        await stand.line.leave(stand.keys, place)
    await gone_keeper.tick()

    await stand.redis.setbit(stand.keys.gone, 1, 0)
    await GoneKeeper(LineScripts(stand.redis), stand.pool, stand.book).tick()

    gone = await gone_of(stand.pool, SALE)
    assert [1, 2] == [place for place in range(4) if place in gone]


async def test_the_newest_document_is_copied(stand: Stand, gone_keeper: GoneKeeper) -> None:
    """Each second; what an older file or another process's late writing says of it changes nothing."""
    await stand.make()
    await stand.tick()
    newest = await stand.meta("seq")
    await gone_keeper.tick()

    await stand.redis.hset(stand.keys.meta, "seq", newest - 1)
    await gone_keeper.tick()
    row = await stand.pool.fetchrow("SELECT epoch, seq FROM line_documents WHERE sale = $1", SALE)

    assert (1, newest) == tuple(row)


async def test_who_left_does_not_come_back_after_a_loss(stand: Stand, gone_keeper: GoneKeeper) -> None:
    """Everybody else stands where they stood."""
    await stand.make(rate_centi=0)
    await stand.crowd(4)
    await stand.line.leave(stand.keys, 2)
    await gone_keeper.tick()
    await lose(stand)
    await stand.keeper.tick()

    places = []
    for place in (4, 3, 2, 1):
        try:
            places.append((await stand.line.restore(stand.keys, place, f"buyer-{place - 1}", 1, "general")).place)
        except TicketUnknown:
            places.append(0)

    assert [4, 3, 0, 1] == places
    assert [1, 3, 4] == await stand.members(stand.keys.waiting)


async def test_a_turn_that_nobody_was_told_of_is_told_after_the_loss(stand: Stand, gone_keeper: GoneKeeper) -> None:
    """Its seat is kept through the loss, so the cap holds; whoever comes takes it, with the turn it was."""
    await stand.make(active_max=2)
    await stand.crowd(3)
    await stand.admit()
    turn = (await stand.line.take(stand.keys, 1)).turn
    await record_admissions(stand)
    await gone_keeper.tick()
    await lose(stand)
    await stand.keeper.tick()

    views = [await stand.line.restore(stand.keys, place, f"buyer-{place - 1}", 1, "general") for place in (1, 2, 3)]
    taken = [await stand.line.take(stand.keys, place) for place in (1, 2)]

    assert ["admitted", "admitted", "waiting"] == [view.state for view in views]
    assert [True, False] == [view.told_ms > 0 for view in views[:2]]
    assert [turn, "1-2-1"] == [view.turn for view in taken]
    assert 2 == await stand.redis.zcard(stand.keys.leases)


async def test_a_sleeper_keeps_the_place_through_a_loss(stand: Stand, gone_keeper: GoneKeeper) -> None:
    """Let in, never told, away for an hour, and the line lost meanwhile: the place still stands."""
    await stand.make(closes_at_ms=(a_sale().closes_at_ms or 0) + 36_000_000)
    await stand.crowd(3)
    await stand.admit()
    await stand.line.take(stand.keys, 1)
    await record_admissions(stand)
    await gone_keeper.tick()
    await stand.later(3_600)
    await lose(stand)
    await stand.keeper.tick()

    with pytest.raises(TicketUnknown):
        await stand.line.restore(stand.keys, 1, "buyer-0", 1, "general")
    assert "waiting" == (await stand.line.restore(stand.keys, 2, "buyer-1", 1, "general")).state


async def test_an_untold_turn_of_the_record_goes_to_the_next(stand: Stand, gone_keeper: GoneKeeper) -> None:
    """Nobody comes for it: its seat becomes free without the shop being asked, and its place is not gone."""
    await stand.make(active_max=2, closes_at_ms=(a_sale().closes_at_ms or 0) + 36_000_000)
    await stand.crowd(3)
    await stand.admit()
    await stand.line.take(stand.keys, 1)
    await record_admissions(stand)
    await gone_keeper.tick()
    await lose(stand)
    await stand.keeper.tick()
    await stand.later(GATHER_MS / 1000)
    for _ in range(30):
        await stand.sign()
        await stand.tick()
        await stand.later(5)

    assert ("1-2-1", "expired") not in stand.shop.asked
    assert 0 == await stand.redis.getbit(stand.keys.gone, 2)
    assert "waiting" == (await stand.line.restore(stand.keys, 2, "buyer-1", 1, "general")).state


async def test_many_copy_at_once(stand: Stand) -> None:
    """Any number of processes may copy; together they have copied everybody."""
    await stand.make()
    await stand.crowd(20)
    keepers = [GoneKeeper(LineScripts(stand.redis), stand.pool, stand.book) for _ in range(4)]
    for place in range(1, 11):
        await stand.line.leave(stand.keys, place)
        await asyncio.gather(*(keeper.tick() for keeper in keepers))

    gone = await gone_of(stand.pool, SALE)
    assert list(range(1, 11)) == [place for place in range(21) if place in gone]
