"""Joining: one living ticket a buyer, one buyer a place, numbers that never come twice."""

from __future__ import annotations

import asyncio

import pytest
from line_kit import SALE, Stand, a_sale

from onsale.auth.errors import StoreUnavailable
from onsale.lua.keys import LineKeys
from onsale.queue.errors import LineRecovering, SaleDraining, SaleEnded, SaleSoldOut
from onsale.queue.numbering import PLACES_A_BLOCK
from onsale.queue.states import TicketState


async def test_a_buyer_has_one_living_ticket(stand: Stand) -> None:
    """Joining again answers the same ticket, and says that it is not new."""
    await stand.make()

    first, is_first_fresh = await stand.line.join(stand.keys, "ada")
    again, is_again_fresh = await stand.line.join(stand.keys, "ada")

    assert (is_first_fresh, is_again_fresh) == (True, False)
    assert first == again
    assert (first.place, first.state, first.buyer, first.lane) == (1, TicketState.WAITING, "ada", "general")


async def test_a_crowd_gets_places_without_gap_or_repeat(stand: Stand) -> None:
    """A thousand at once, half of them twice: a thousand places from 1 on."""
    await stand.make()
    buyers = [f"b{n}" for n in range(1000)] + [f"b{n}" for n in range(500)]

    answers = await asyncio.gather(*(stand.line.join(stand.keys, buyer) for buyer in buyers))

    assert {view.place for view, _ in answers} == set(range(1, 1001))
    assert sum(is_fresh for _, is_fresh in answers) == 1000
    assert await stand.members(stand.keys.waiting) == list(range(1, 1001))


async def test_who_left_joins_anew_at_the_end(stand: Stand) -> None:
    """A ticket that has ended does not come back."""
    await stand.make()
    await stand.crowd(3)
    await stand.line.leave(stand.keys, 1)

    view, is_fresh = await stand.line.join(stand.keys, "buyer-0")

    assert (view.place, is_fresh) == (4, True)
    assert await stand.state(1) == "left"


async def test_leaving_twice_is_leaving_once(stand: Stand) -> None:
    """The second answer is the first; the line loses one place."""
    await stand.make()
    await stand.crowd(2)

    first = await stand.line.leave(stand.keys, 1)
    await stand.later(1)
    second = await stand.line.leave(stand.keys, 1)

    assert first == second
    assert await stand.members(stand.keys.waiting) == [2]


@pytest.mark.parametrize("state", ["scheduled", "open", "paused"])
async def test_joining_is_open_in(stand: Stand, state: str) -> None:
    """Before opening, while open, and while somebody holds the line."""
    sale = a_sale()
    opens_at_ms = sale.opens_at_ms or 0
    await stand.make(opens_at_ms=opens_at_ms + 120_000 if state == "scheduled" else opens_at_ms)
    if state == "paused":
        await stand.line.pause(SALE, "provider")

    view, is_fresh = await stand.line.join(stand.keys, "ada")

    assert is_fresh
    assert view.state == ("scheduled" if state == "scheduled" else "waiting")


async def test_the_clock_opens_the_line_at_its_instant(stand: Stand) -> None:
    """A scheduled ticket waits from the opening on, without anybody writing it."""
    opens_at_ms = (a_sale().opens_at_ms or 0) + 120_000
    await stand.make(opens_at_ms=opens_at_ms)
    place = await stand.join("ada")
    assert await stand.state(place) == "scheduled"

    await stand.later(60)

    assert await stand.state(place) == "waiting"


async def test_a_draining_line_takes_nobody_but_keeps_who_is_in(stand: Stand) -> None:
    """A newcomer is refused; a holder joining again gets the ticket."""
    await stand.make()
    await stand.join("ada")
    await stand.control.drain(SALE, actor="tests")

    with pytest.raises(SaleDraining):
        await stand.line.join(stand.keys, "bob")

    assert await stand.join("ada") == 1


async def test_an_ended_line_takes_nobody(stand: Stand) -> None:
    """Neither a newcomer nor who still waited; what waited is closed, and when the sale ended is said."""
    await stand.make()
    await stand.join("ada")
    await stand.later(7200)

    for buyer in ("ada", "bob"):
        with pytest.raises(SaleEnded):
            await stand.line.join(stand.keys, buyer)

    view = await stand.line.look(stand.keys, 1)
    assert view is not None
    assert (view.state, view.ended_ms) == (TicketState.CLOSED, stand.sale.closes_at_ms)


async def test_closed_tickets_wait_again_when_the_line_reopens(stand: Stand) -> None:
    """Sold out closes who waits; an operator's opening lets them wait at their places."""
    await stand.make()
    await stand.crowd(3)
    stand.shop.free = 0
    await stand.tick()
    assert [await stand.state(place) for place in (1, 2, 3)] == ["closed"] * 3
    with pytest.raises(SaleSoldOut):
        await stand.line.join(stand.keys, "late")

    stand.shop.free = 1
    await stand.control.open(SALE, actor="tests")

    assert [await stand.state(place) for place in (1, 2, 3)] == ["waiting"] * 3
    await stand.later(0.1)
    await stand.tick()
    assert await stand.state(1) == "admitted"


async def test_a_line_reopens_with_something_to_sell_only(stand: Stand) -> None:
    """Nothing has come back: opening is refused, and nothing has changed. A shop that cannot say stops nobody."""
    await stand.make()
    await stand.crowd(1)
    stand.shop.free = 0
    await stand.tick()
    opens_at_ms = stand.sale.opens_at_ms

    with pytest.raises(SaleSoldOut):
        await stand.control.open(SALE, actor="tests")

    assert (await stand.state(1), stand.sale.opens_at_ms) == ("closed", opens_at_ms)
    assert await stand.control.audit(SALE) == []
    stand.shop.is_away = True
    await stand.control.open(SALE, actor="tests")
    assert await stand.state(1) == "waiting"


async def test_the_last_ticket_of_a_buyer_is_found(stand: Stand) -> None:
    """Living, then ended, then the next one."""
    await stand.make(rate_centi=0)
    assert await stand.line.look_for(stand.keys, "ann") is None
    await stand.join("ann")
    await stand.line.leave(stand.keys, 1)

    ended = await stand.line.look_for(stand.keys, "ann")
    await stand.join("ann")
    living = await stand.line.look_for(stand.keys, "ann")

    assert ended is not None and (ended.place, ended.state) == (1, TicketState.LEFT)
    assert living is not None and (living.place, living.state) == (2, TicketState.WAITING)


async def test_numbering_asks_postgres_before_it_passes_the_ceiling(stand: Stand) -> None:
    """No place above what Postgres holds is given, and the block is taken once however many ask."""
    await stand.make()
    await stand.redis.hset(stand.keys.meta, mapping={"tail": PLACES_A_BLOCK - 2})
    other = stand.another_line()

    answers = await asyncio.gather(
        *(line.join(stand.keys, f"b{n}") for n, line in enumerate([stand.line, other] * 5)),
    )

    assert sorted(view.place for view, _ in answers) == list(range(PLACES_A_BLOCK - 1, PLACES_A_BLOCK + 9))
    await stand.book.refresh()
    assert stand.sale.place_ceiling == 2 * PLACES_A_BLOCK


async def test_an_older_primary_gets_no_further_block(stand: Stand) -> None:
    """Registered with another server since: the old one stops at its ceiling."""
    await stand.make()
    await stand.redis.hset(stand.keys.meta, mapping={"tail": PLACES_A_BLOCK})
    await stand.pool.execute("UPDATE sales SET line_run = 'another', place_ceiling = place_ceiling + 1000")

    with pytest.raises(LineRecovering):
        await stand.line.join(stand.keys, "ada")

    assert await stand.meta("tail") == PLACES_A_BLOCK


async def test_scripts_survive_a_flushed_cache(stand: Stand) -> None:
    """SCRIPT FLUSH between calls costs nothing but the sending."""
    await stand.make()
    for n in range(3):
        await stand.redis.script_flush()
        assert await stand.join(f"b{n}") == n + 1


async def test_nothing_works_on_a_line_of_another_server(stand: Stand) -> None:
    """Another run id than the registered one: every verb says recovering, and writes nothing."""
    await stand.make()
    await stand.join("ada")
    await stand.redis.hset(stand.keys.meta, "run_id", "another")
    before = await stand.redis.hgetall(stand.keys.meta)
    line, keys = stand.line, stand.keys

    for call in (
        line.join(keys, "bob"),
        line.look(keys, 1),
        line.sign(keys, [1]),
        line.take(keys, 1),
        line.leave(keys, 1),
        line.restore(keys, 2, "bob", 1, "general"),
    ):
        with pytest.raises(LineRecovering):
            await call

    assert await stand.redis.hgetall(stand.keys.meta) == before
    assert await stand.members(keys.waiting) == [1]


def written_by_joining(keys: LineKeys) -> list[str]:
    return [keys.pauses, keys.waiting, keys.absent, keys.tickets, keys.buyers, *(keys.presence(n) for n in range(5))]


async def test_a_key_of_another_type_stops_joining_before_it_writes(stand: Stand) -> None:
    """Whatever key somebody overwrote: refused, and nothing else is touched."""
    await stand.make()
    await stand.crowd(2)
    keys = stand.keys

    for name in written_by_joining(keys):
        await stand.redis.copy(name, f"{name}:kept")
        await stand.redis.delete(name)
        await stand.redis.rpush(name, "nonsense")
        with pytest.raises(LineRecovering):
            await stand.line.join(keys, "bob")
        await stand.redis.delete(name)
        if await stand.redis.exists(f"{name}:kept"):
            await stand.redis.rename(f"{name}:kept", name)

    assert await stand.meta("tail") == 2
    assert await stand.join("bob") == 3


async def test_full_memory_refuses_joining_whole_and_lets_people_leave(stand: Stand) -> None:
    """With no memory left nothing half-written stays behind, and what frees memory works."""
    await stand.make()
    await stand.crowd(2)
    await stand.later(60)
    await stand.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable):
            await stand.line.join(stand.keys, "bob")
        left = await stand.line.leave(stand.keys, 1)
    finally:
        await stand.redis.config_set("maxmemory", 0)

    assert left.state is TicketState.LEFT
    assert await stand.meta("tail") == 2
    assert await stand.redis.hget(stand.keys.buyers, "bob") is None
