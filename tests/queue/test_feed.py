"""A process knows the newest document and who simply waits, and forgets the latter whenever news may have been lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_edge_kit import SALE, Edge, opened_edge
from redis.asyncio import Redis

from onsale.catalog.errors import SaleUnknown
from onsale.lua.keys import LineKeys
from onsale.queue.feed import PlaceSet
from onsale.queue.frame import Reason, build
from onsale.queue.states import LineState, TicketView


@pytest.fixture
async def edge(line_redis: Redis, database: asyncpg.Pool) -> AsyncIterator[Edge]:
    async with opened_edge(line_redis, database) as opened:
        yield opened


def document(edge: Edge, seq: int, *, epoch: int = 1, waiting: int = 0, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "sale": SALE,
        "state": LineState.OPEN,
        "as_of_ms": edge.feed.now_ms(),
        "epoch": epoch,
        "seq": seq,
        "opens_at_ms": 0,
        "closes_at_ms": 1,
        "serving": 0,
        "tail": waiting,
        "waiting": waiting,
        "absent": 0,
        "admitted": 0,
        "rate_target": 1.0,
        "rate_measured": 1.0,
        "active": 0,
        "active_max": 1,
        "places": range(1, waiting + 1),
        "stock": None,
    }
    return build(**(fields | changes))  # type: ignore[arg-type]


async def publish(edge: Edge, **news: object) -> None:
    await edge.redis.publish(edge.known.keys.feed, msgspec.json.encode(news))


@given(st.lists(st.tuples(st.sampled_from(["add", "discard"]), st.integers(1, 2**40)), max_size=60))
def test_place_set_is_a_set(steps: list[tuple[str, int]]) -> None:
    """Whatever is added and taken out, it holds what a set would."""
    places, model = PlaceSet(), set[int]()
    for step, place in steps:
        if step == "add":
            assert places.add(place) is (place not in model)
            model.add(place)
        else:
            places.discard(place)
            model.discard(place)
        assert (place in places) is (place in model)
    assert all(place in places for place in model)
    places.clear()
    assert not any(place in places for place in model)


async def test_documents_come_by_themselves(edge: Edge) -> None:
    """What an admitter publishes is known without asking."""
    await edge.line.join(edge.known.keys, "ann")
    await edge.admitter.tick()
    await edge.hear()
    frame = edge.known.frame
    assert frame is not None
    assert (SALE, LineState.OPEN, 1) == (frame.document.sale, frame.document.state, frame.document.tail)


async def test_a_silent_line_is_asked(edge: Edge, line_redis: Redis) -> None:
    """A document whose announcement was lost is found a second later."""
    await line_redis.set(edge.known.keys.frame, document(edge, 900, waiting=3))
    edge.known.heard_ms = 0
    tick = await edge.feed.refresh()
    assert 1 == tick.fetched
    assert edge.known.frame is not None and 3 == edge.known.frame.waiting


async def test_older_documents_are_ignored(edge: Edge) -> None:
    """Order is epoch, then number; never the order of arrival."""
    for seq in (905, 904, 905):
        await publish(edge, kind="frame", epoch=1, seq=seq, doc=document(edge, seq, waiting=seq - 900).decode())
    await edge.hear()
    assert edge.known.frame is not None and (1, 905) == edge.known.frame.order


async def test_nonsense_is_counted_not_fatal(edge: Edge) -> None:
    """Neither broken JSON nor a broken document nor news of a later version ends the subscription."""
    await edge.redis.publish(edge.known.keys.feed, b"{")
    await publish(edge, kind="frame", epoch=1, seq=910, doc="{}")
    await publish(edge, kind="news of a later version", epoch=1)
    await publish(edge, kind="frame", epoch=1, seq=911, doc=document(edge, 911).decode())
    malformed = 0
    while (tick := await edge.feed.tick()).messages:
        malformed += tick.malformed
    assert 3 == malformed
    assert edge.known.frame is not None and (1, 911) == edge.known.frame.order


@pytest.mark.parametrize(
    "news",
    [
        {"kind": "admitted", "turns": [[7, "1-7-1"]]},
        {"kind": "ended", "tickets": [[7, "left"]]},
        {"kind": "absent", "places": [7]},
    ],
)
async def test_news_of_a_ticket_makes_it_unknown(edge: Edge, news: dict[str, object]) -> None:
    """Whoever needs it next asks Redis; its neighbour's is still known."""
    for place in (7, 8):
        edge.known.asking(place)
        edge.known.learn(place, None)
    await publish(edge, epoch=1, **news)
    await edge.hear()
    assert [False, True] == [place in edge.known.known for place in (7, 8)]


async def test_an_answer_overtaken_by_news_is_old(edge: Edge) -> None:
    """Asked, then admitted, then answered "waiting": the answer is not believed."""
    edge.known.asking(7)
    await publish(edge, kind="admitted", epoch=1, turns=[[7, "1-7-1"]])
    await edge.hear()
    edge.known.learn(7, None)
    assert 7 not in edge.known.known


async def test_news_of_another_epoch_is_not_ours(edge: Edge) -> None:
    """An old primary may say what it likes."""
    edge.known.asking(7)
    edge.known.learn(7, None)
    await publish(edge, kind="admitted", epoch=2, turns=[[7, "2-7-1"]])
    await edge.hear()
    assert 7 in edge.known.known


async def test_a_cut_subscription_makes_everything_suspect(edge: Edge, line_redis: Redis) -> None:
    """News may have been lost: nothing known of tickets counts, and the next subscription hears again."""
    edge.known.asking(7)
    edge.known.learn(7, None)
    told: list[object] = []
    edge.feed.listen(lambda _line, places: told.append(places))
    assert 1 == await line_redis.client_kill_filter(_type="pubsub")
    assert not (await edge.feed.tick()).is_connected
    assert 7 not in edge.known.known
    assert [None] == told
    assert (await edge.feed.tick()).is_connected
    await publish(edge, kind="frame", epoch=1, seq=920, doc=document(edge, 920).decode())
    await edge.hear()
    assert edge.known.frame is not None and (1, 920) == edge.known.frame.order


async def test_a_new_epoch_is_a_new_line(edge: Edge, database: asyncpg.Pool) -> None:
    """After a rebuild the old epoch's knowledge and channel are left behind."""
    edge.known.asking(7)
    edge.known.learn(7, None)
    await database.execute("UPDATE sales SET line_epoch = 2")
    await edge.feed.follow()
    await edge.feed.tick()
    assert 2 == edge.known.keys.epoch
    assert 7 not in edge.known.known
    await publish(edge, kind="frame", epoch=2, seq=1, doc=document(edge, 1, epoch=2).decode())
    await edge.hear()
    assert edge.known.frame is not None and (2, 1) == edge.known.frame.order


async def test_a_reason_overtakes_its_document(edge: Edge) -> None:
    """Why the line stands is known at once."""
    await publish(
        edge, kind="changed", epoch=1, reason={"code": "paused_by_operator", "at": "2026-11-20T00:00:00.000Z"}
    )
    await edge.hear()
    assert Reason("paused_by_operator", "2026-11-20T00:00:00.000Z") == edge.known.reason


async def test_an_old_document_is_shown_as_such(edge: Edge) -> None:
    """Past 3 s the figures stay, the state says that the line is being recovered, and clients see another ETag."""
    await publish(edge, kind="frame", epoch=1, seq=930, doc=document(edge, 930, waiting=5).decode())
    await edge.hear()
    now_ms = edge.feed.now_ms()
    fresh, old = edge.known.shown(now_ms), edge.known.shown(now_ms + 4_000)
    assert (LineState.OPEN, LineState.RECOVERING) == (fresh.document.state, old.document.state)
    assert 5 == old.waiting
    assert old.document.reason is not None and "recovering" == old.document.reason.code
    assert fresh.etag != old.etag


async def test_before_the_first_document(edge: Edge) -> None:
    """A line nobody has heard of yet has a document that says so."""
    frame = edge.known.shown(edge.feed.now_ms())
    assert (SALE, LineState.RECOVERING, 0) == (frame.document.sale, frame.document.state, frame.waiting)


async def test_an_unknown_sale(edge: Edge) -> None:
    """What the book does not know has no line."""
    with pytest.raises(SaleUnknown):
        edge.feed.line("winter")


async def test_news_that_overtakes_the_answer_to_joining(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody waits, a buyer may be let in before the process reads that they have joined: it must not take them
    for waiting."""
    join = edge.line.join

    async def join_and_be_let_in(keys: LineKeys, buyer: str) -> tuple[TicketView, bool]:
        answer = await join(keys, buyer)
        assert await edge.admit()
        return answer

    monkeypatch.setattr(edge.line, "join", join_and_be_let_in)
    await edge.teller.join(edge.known, "ann")
    monkeypatch.undo()
    await edge.teller.join(edge.known, "bob")

    assert (False, True) == (1 in edge.known.known, 2 in edge.known.known)
