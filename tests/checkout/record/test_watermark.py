"""A waiter gets the verdict of its own event: announced, missed, refused, fenced off, or none in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from onsale.checkout.record import watermark
from onsale.checkout.record.events import Announcement
from onsale.checkout.record.watermark import RecordFeed, Verdict, VerdictKind
from onsale.lua import connect
from onsale.lua.batching import Overloaded
from onsale.lua.keys import ShopKeys

ACCEPTED = Verdict(VerdictKind.ACCEPTED)
PENDING = Verdict(VerdictKind.PENDING)
LONG_MS = 5_000


class Clock:
    """Milliseconds that pass when told."""

    def __init__(self) -> None:
        self.ms = 0.0

    def __call__(self) -> float:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def feed(shop_redis: Redis, database: asyncpg.Pool, clock: Clock) -> AsyncIterator[RecordFeed]:
    """A feed that has subscribed, on a clock of its own."""
    made = RecordFeed(shop_redis, database, clock_ms=clock)
    await made.tick(wait_ms=0)
    yield made
    await made.close()


def refused(reason: str) -> Verdict:
    return Verdict(VerdictKind.REFUSED, reason)


async def waiting(feed: RecordFeed, hand: Any, *events: tuple[str, str], patience_ms: int = LONG_MS) -> list[Any]:
    """Tasks that wait for (event id, order) and have registered."""
    tasks = [
        asyncio.create_task(feed.verdict(hand.keys, "money", event_id, order, patience_ms))
        for event_id, order in events
    ]
    await asyncio.sleep(0)
    return tasks


async def hear(feed: RecordFeed, count: int) -> None:
    """Tick until that many announcements were heard."""
    heard = 0
    async with asyncio.timeout(5):
        while heard < count:
            heard += (await feed.tick(wait_ms=20)).heard


async def test_verdicts_are_heard(make_sale: Any, make_flusher: Any, feed: RecordFeed) -> None:
    """One batch, one announcement: the accepted and the refused each get their own verdict."""
    hand = await make_sale(stock=1)
    first, second = await hand.claimed("o1"), await hand.claimed("o2")
    tasks = await waiting(feed, hand, (first, "o1"), (second, "o2"))

    await make_flusher().money.tick()
    await hear(feed, 1)

    assert [ACCEPTED, refused("stock")] == await asyncio.gather(*tasks)


async def test_announced_before_the_waiter_registered(make_sale: Any, make_flusher: Any, feed: RecordFeed) -> None:
    """What was heard already is answered at once, refusals included, without Postgres."""
    hand = await make_sale(stock=1)
    first, second = await hand.claimed("o1"), await hand.claimed("o2")
    await make_flusher().money.tick()
    await hear(feed, 1)

    assert ACCEPTED == await feed.verdict(hand.keys, "money", first, "o1", 0)
    assert refused("stock") == await feed.verdict(hand.keys, "money", second, "o2", 0)


async def test_lost_announcement_is_asked_for_after_silence(
    make_sale: Any, make_flusher: Any, feed: RecordFeed, announcer: Any, clock: Clock
) -> None:
    """250 ms of silence: one query judges everyone who waits."""
    hand = await make_sale(stock=1)
    announcer.is_deaf = True
    first, second = await hand.claimed("o1"), await hand.claimed("o2")
    tasks = await waiting(feed, hand, (first, "o1"), (second, "o2"))
    await make_flusher().money.tick()
    await feed.tick(wait_ms=0)
    assert not any(task.done() for task in tasks)

    clock.ms += watermark.SILENCE_MS
    await feed.tick(wait_ms=0)

    assert [ACCEPTED, refused("stock")] == await asyncio.gather(*tasks)


async def test_gap_is_asked_for_at_once(make_sale: Any, make_flusher: Any, feed: RecordFeed, announcer: Any) -> None:
    """An announcement whose `prev` is not where the last one ended: those before it are not simply recorded."""
    hand = await make_sale(stock=1)
    first, second = await hand.claimed("o1"), await hand.claimed("o2")
    tasks = await waiting(feed, hand, (first, "o1"), (second, "o2"))
    flusher = make_flusher()
    announcer.is_deaf = True
    await flusher.money.tick()
    announcer.is_deaf = False
    await hand.claimed("o3")
    await flusher.money.tick()

    await hear(feed, 1)
    await feed.tick(wait_ms=0)

    assert [ACCEPTED, refused("stock")] == await asyncio.gather(*tasks)


async def test_number_alone_releases_nobody(make_sale: Any, feed: RecordFeed) -> None:
    """An announcement from 5 to 9 says nothing of event 3."""
    hand = await make_sale()
    tasks = await waiting(feed, hand, ("3-0", "o1"), ("7-0", "o2"), patience_ms=200)

    feed.hear("drop", Announcement(1, "money", "5-0", "9-0"))
    await feed.tick(wait_ms=0)

    assert [PENDING, ACCEPTED] == await asyncio.gather(*tasks)


async def test_announcements_in_the_wrong_order(make_sale: Any, feed: RecordFeed) -> None:
    """Two writers in turn, the second one's announcement first: both parts are known in the end."""
    hand = await make_sale()
    feed.hear("drop", Announcement(1, "money", "5-0", "9-0", (("o2", "7-0", "turn"),)))
    feed.hear("drop", Announcement(1, "money", "0-0", "5-0", (("o1", "3-0", "limit"),)))

    verdicts = [await feed.verdict(hand.keys, "money", event_id, "o", 0) for event_id in ("3-0", "4-0", "7-0", "9-0")]

    assert [refused("limit"), ACCEPTED, refused("turn"), ACCEPTED] == verdicts


async def test_forgotten_refusals_are_not_taken_for_accepted(
    make_sale: Any, feed: RecordFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process remembers so many refusals; what it has forgotten it asks for."""
    monkeypatch.setattr(watermark, "REFUSALS_MAX", 2)
    hand = await make_sale()
    refusals = tuple((f"o{n}", f"{n}-0", "stock") for n in range(1, 5))
    feed.hear("drop", Announcement(1, "money", "0-0", "9-0", refusals))

    assert PENDING == await feed.verdict(hand.keys, "money", "1-0", "o1", 0)
    assert PENDING == await feed.verdict(hand.keys, "money", "2-0", "o2", 0)
    assert refused("stock") == await feed.verdict(hand.keys, "money", "3-0", "o3", 0)


async def test_fenced_event_is_refused(
    make_sale: Any, make_flusher: Any, feed: RecordFeed, database: asyncpg.Pool, clock: Clock
) -> None:
    """An event of a fenced epoch that was never read: nothing will come of it. One read before stands."""
    hand = await make_sale()
    recorded = await hand.claimed("o1")
    await make_flusher().money.tick()
    lost = await hand.claimed("o2")
    await database.execute("UPDATE watermarks SET closed_at = now()")
    fresh = RecordFeed(feed._redis, database, clock_ms=clock)
    tasks = await waiting(fresh, hand, (recorded, "o1"), (lost, "o2"))

    await fresh.tick(wait_ms=0)

    assert [ACCEPTED, refused("epoch")] == await asyncio.gather(*tasks)
    await fresh.close()


async def test_recorded_before_a_rebuild(feed: RecordFeed) -> None:
    """The id that stands for "recorded before" waits for nobody."""
    assert ACCEPTED == await feed.verdict(ShopKeys("drop", 2), "money", "0-0", "o1", 0)


async def test_poison_is_a_verdict(make_sale: Any, make_flusher: Any, feed: RecordFeed) -> None:
    """Whoever waits for an event that nobody could record is not left waiting."""
    hand = await make_sale()
    event_id = await hand.claimed("o1", turn="a\x00b")
    tasks = await waiting(feed, hand, (event_id, "o1"))

    await make_flusher().money.tick()
    await hear(feed, 1)

    assert [refused("state")] == await asyncio.gather(*tasks)


async def test_poison_whose_announcement_was_lost(
    make_sale: Any, make_flusher: Any, feed: RecordFeed, announcer: Any, clock: Clock
) -> None:
    """ "Recorded so far" is no acceptance of an entry that was put aside, even one that names no order."""
    hand = await make_sale()
    announcer.is_deaf = True
    event_id = (await hand.redis.xadd(hand.keys.money, {"verb": "claimed", "order": b"\xff"})).decode()
    tasks = await waiting(feed, hand, (event_id, "o1"))
    await make_flusher().money.tick()

    clock.ms += watermark.SILENCE_MS
    await feed.tick(wait_ms=0)

    assert [refused("state")] == await asyncio.gather(*tasks)


async def test_patience_ends(make_sale: Any, feed: RecordFeed) -> None:
    """Nothing recorded in time: pending, and nothing is left behind."""
    hand = await make_sale()

    assert PENDING == await feed.verdict(hand.keys, "money", "9-0", "o1", 1)
    assert 0 == (await feed.tick(wait_ms=0)).waiting


async def test_cancelled_waiter_is_forgotten(make_sale: Any, feed: RecordFeed) -> None:
    """A request that was cancelled leaves no waiter behind."""
    hand = await make_sale()
    (task,) = await waiting(feed, hand, ("9-0", "o1"))
    task.cancel()
    await asyncio.wait([task])

    assert 0 == (await feed.tick(wait_ms=0)).waiting


async def test_waiters_are_bounded(make_sale: Any, feed: RecordFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than may wait is told so at once."""
    monkeypatch.setattr(watermark, "WAITING_MAX", 1)
    hand = await make_sale()
    (task,) = await waiting(feed, hand, ("9-0", "o1"))

    with pytest.raises(Overloaded):
        await feed.verdict(hand.keys, "money", "9-0", "o2", LONG_MS)
    task.cancel()


async def test_redis_away(make_sale: Any, make_flusher: Any, database: asyncpg.Pool, clock: Clock) -> None:
    """Without a subscription Postgres is asked: verdicts do not need Redis."""
    hand = await make_sale()
    event_id = await hand.claimed("o1")
    await make_flusher().money.tick()
    away = connect("redis://127.0.0.1:1", timeout_s=0.1)
    feed = RecordFeed(away, database, clock_ms=clock)
    tasks = await waiting(feed, hand, (event_id, "o1"))

    clock.ms += watermark.SILENCE_MS
    await feed.tick(wait_ms=0)

    assert [ACCEPTED] == await asyncio.gather(*tasks)
    await feed.close()
    await away.aclose()
