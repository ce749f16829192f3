"""Documents: one a second however many admitters there are, numbered without a gap, sooner when something changed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from line_kit import SALE, Stand, a_sale

from onsale.queue.frame import Frame, sampled_ranks


async def document(stand: Stand) -> Frame:
    found = await stand.line.document(stand.keys)
    assert found is not None
    return Frame(found)


async def news(stand: Stand, *ticks: Any) -> list[dict[str, Any]]:
    """What the feed carries while these ticks run one after the other."""
    async with stand.redis.pubsub() as subscription:
        await subscription.subscribe(stand.keys.feed)
        await subscription.get_message(timeout=1)
        for tick in ticks:
            await tick()
        found = []
        while message := await subscription.get_message(ignore_subscribe_messages=True, timeout=0.1):
            found.append(msgspec.json.decode(message["data"]))
        return found


async def test_many_admitters_make_one_document_a_second(stand: Stand) -> None:
    """Numbers go up by one, whoever made the document."""
    await stand.make()
    admitters = [stand.another_admitter() for _ in range(4)]
    made = []
    for _ in range(20):
        ticks = await asyncio.gather(*(admitter.tick() for admitter in admitters))
        made += [tick.sales[0].figures.seq for tick in ticks if tick.sales[0].figures]
        await stand.later(0.25)

    assert made == list(range(1, len(made) + 1))
    assert 5 <= len(made) <= 7
    assert (await document(stand)).document.seq == len(made)


async def test_a_change_is_shown_at_once(stand: Stand) -> None:
    """A pause does not wait for the second to be over."""
    await stand.make()
    await stand.tick()
    assert (await document(stand)).document.state == "open"

    await stand.control.pause(SALE, actor="ada")
    await stand.tick()

    shown = (await document(stand)).document
    assert shown.state == "paused"
    assert shown.reason is not None
    assert shown.reason.code == "paused_by_operator"


async def test_the_document_is_the_line(stand: Stand) -> None:
    """Counts and places as they are, by rank as everyone computes them."""
    await stand.make(rate_centi=1_000_000, active_max=5)
    await stand.crowd(1_200)
    await stand.line.leave(stand.keys, 700)
    await stand.tick()
    await stand.later(1)
    await stand.tick()

    frame = await document(stand)

    shown = frame.document
    assert (shown.waiting, shown.admitted, shown.active, shown.active_max) == (1_194, 5, 5, 5)
    assert (shown.serving, shown.tail, shown.absent) == (5, 1_200, 0)
    waiting = await stand.members(stand.keys.waiting)
    assert len(frame._places) == len(sampled_ranks(1_194))
    assert frame.ahead(6) == 0
    assert [frame.ahead(place) for place in waiting[:255]] == list(range(255))
    for rank, place in enumerate(waiting):
        assert abs(frame.ahead(place) - rank) <= max(0, rank * 0.01)


async def test_the_odds_follow_what_was_bought_and_what_came_back(stand: Stand) -> None:
    """Fifty units held, none free: something is left only if they come back, as a third of the units before did."""
    await stand.make()
    stand.shop.free, stand.shop.held, stand.shop.sold = 0, 50, 1_000
    await stand.tick()
    before = (await document(stand)).document.odds
    stand.shop.kept_units, stand.shop.back_units = 2_000, 1_000
    await stand.later(1.1)
    await stand.tick()
    after = (await document(stand)).document.odds

    assert before is not None and after is not None
    assert [0, 0] == [before.likely, before.possible]
    assert 0 < after.likely <= after.possible <= 17


async def test_the_measured_rate_is_what_was_let_in(stand: Stand) -> None:
    """People of the last ten whole seconds, by the second."""
    await stand.make(rate_centi=2_000, active_max=10_000)
    await stand.crowd(1_000)
    for _ in range(150):
        await stand.later(0.1)
        await stand.tick()

    shown = await document(stand)
    second = shown.as_of_ms // 1000
    let_in = [e for e in await stand.admissions() if second - 10 <= int(e["at"]) // 1000 < second]
    people = sum(len(event["places"].split(",")) for event in let_in)

    assert people >= 20
    assert shown.document.rate_per_second.measured == people / 10


async def test_an_admission_is_announced_with_its_turns(stand: Stand) -> None:
    """So that streams hear of it at once."""
    await stand.make()
    await stand.crowd(2)

    messages = await news(stand, stand.tick)

    assert {"kind": "admitted", "epoch": 1, "turns": [[1, "1-1-1"], [2, "1-2-1"]]} in messages
    [frame] = [message for message in messages if message["kind"] == "frame"]
    assert (frame["epoch"], frame["seq"]) == (1, 1)
    assert frame["doc"].encode() == await stand.line.document(stand.keys)


async def test_the_end_of_a_line_is_announced_once(stand: Stand) -> None:
    """Sold out: one word for everyone who waits, not a million."""
    await stand.make()
    await stand.crowd(2)
    await stand.tick()
    await stand.crowd(2, "late")
    stand.shop.free = 0
    await stand.later(0.1)

    messages = await news(stand, stand.tick, stand.tick)

    assert [message for message in messages if message["kind"] == "ended"] == [
        {"kind": "ended", "epoch": 1, "all": "closed"}
    ]
    shown = (await document(stand)).document
    assert (shown.state, shown.waiting, shown.absent) == ("sold_out", 0, 0)


async def test_a_reason_that_changes_is_announced(stand: Stand) -> None:
    """When somebody holds the line, and when it moves again."""
    await stand.make()
    await stand.tick()

    async def hold() -> None:
        await stand.line.pause(SALE, "provider")
        await stand.tick()

    async def let_go() -> None:
        await stand.line.resume(SALE, "provider")
        await stand.tick()

    changed = [message for message in await news(stand, hold, let_go) if message["kind"] == "changed"]

    assert [message["reason"] and message["reason"]["code"] for message in changed] == ["provider_away", "resumed"]


async def test_a_scheduled_line_is_shown_and_opens_in_time(stand: Stand) -> None:
    """It is looked at once a second, and at the opening at once."""
    await stand.make(opens_at_ms=(a_sale().opens_at_ms or 0) + 60_000 + 10_000)
    await stand.crowd(3)
    assert len((await stand.tick()).sales) == 1
    assert (await stand.tick()).sales == ()
    for _ in range(12):
        await stand.later(1)
        await stand.tick()

    assert (await document(stand)).document.state == "open"
    assert await stand.state(1) == "admitted"


async def test_one_sale_in_trouble_delays_no_other(stand: Stand) -> None:
    """It says what is wrong; the other is served."""
    await stand.make()
    await stand.book.create(a_sale(id="other", items=()), "tests")
    await stand.keeper.tick()
    await stand.crowd(1)
    await stand.redis.hset("{other:line}:1:meta", "run_id", "another")

    ticks = {tick.sale: tick for tick in (await stand.tick()).sales}

    assert ticks["other"].failure == "RECOVERING"
    assert ticks[SALE].admitted == 1


async def test_opening_wakes_a_line_at_rest(stand: Stand) -> None:
    """A line that opens tomorrow is looked at once a second; opened by hand, it is open at the next tick."""
    now_ms = round(time.time() * 1000)
    await stand.make(opens_at_ms=now_ms + 24 * 3_600_000, closes_at_ms=now_ms + 48 * 3_600_000)
    await stand.crowd(1)
    await stand.tick()
    assert (await stand.tick()).sales == ()

    await stand.control.open(SALE, actor="ada")
    opened = (await stand.tick()).sales

    assert [(tick.state, tick.admitted) for tick in opened] == [("open", 1)]
