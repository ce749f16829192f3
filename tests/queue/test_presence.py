"""Signs of life are gathered: waiting costs Redis a share of a batch, and the batch tells what has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import msgspec
import pytest
from line_edge_kit import Edge, opened_edge
from redis.asyncio import Redis

from onsale.auth.tickets import TicketFacts
from onsale.catalog.sales import Policy
from onsale.queue.errors import LineRecovering, TicketUnknown
from onsale.queue.states import TicketState, TicketView


@pytest.fixture
async def edge(line_redis: Redis, database: asyncpg.Pool) -> AsyncIterator[Edge]:
    """Nobody is let in: what changes is what the test changes."""
    async with opened_edge(line_redis, database, is_paused=True) as opened:
        yield opened


async def joined(edge: Edge, buyer: str) -> TicketFacts:
    return edge.tickets.facts((await edge.teller.join(edge.known, buyer)).ticket)


async def commands(redis: Redis) -> int:
    """How many scripts the server has run."""
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_nobody_waits_long_for_a_redis_that_hangs(
    edge: Edge, line_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No document for seconds, and no answer either: a second later who waited reads that they still do, and why."""
    facts = await joined(edge, "ann")
    edge.known.suspect()
    monkeypatch.setattr("onsale.queue.teller.AWAY_PATIENCE_S", 0.05)
    monkeypatch.setattr(edge.feed, "now_ms", lambda: time.time_ns() // 1_000_000 + 60_000)
    await line_redis.client_pause(1_500)
    async with asyncio.timeout(1):
        answer = msgspec.json.decode((await edge.teller.tell(facts, "ann")).doc)
    assert ("waiting", "recovering") == (answer["state"], answer["reason"]["code"])


async def test_one_sign_a_quarter(edge: Edge) -> None:
    """Ten polls of one ticket are one sign, and after a quarter of the grace it gives another."""
    facts = await joined(edge, "ann")
    edge.known.signed.clear()
    await edge.presence.tick()
    for _ in range(10):
        edge.presence.sign(edge.known, facts.place)
    assert 1 == (await edge.presence.tick()).signed
    edge.presence.sign(edge.known, facts.place)
    assert 0 == (await edge.presence.tick()).signed
    edge.known.sign_quarter -= 1  # as if the quarter had ended
    await edge.presence.tick()
    edge.presence.sign(edge.known, facts.place)
    assert 1 == (await edge.presence.tick()).signed


async def test_what_cannot_be_sent_is_kept_once(edge: Edge, line_redis: Redis) -> None:
    """However many quarters the line cannot take signs for, there is one of a ticket to send afterwards."""
    facts = await joined(edge, "ann")
    run_id = await line_redis.hget(edge.known.keys.meta, "run_id")
    await line_redis.hset(edge.known.keys.meta, "run_id", "another server")
    for _ in range(4):
        edge.known.sign_quarter -= 1
        assert 1 == (await edge.presence.tick()).failed
        edge.presence.sign(edge.known, facts.place)
    await line_redis.hset(edge.known.keys.meta, "run_id", run_id)

    assert 1 == (await edge.presence.tick()).signed


async def test_a_thousand_polls_cost_nothing(edge: Edge, line_redis: Redis) -> None:
    """Known tickets are answered from memory, whatever their number; a second's signs are one script."""
    held = [await joined(edge, f"buyer {n}") for n in range(20)]
    await edge.admit()
    before = await commands(line_redis)
    for _ in range(50):
        assert all(edge.teller.poll(facts) is not None for facts in held)
    assert before == await commands(line_redis)
    await edge.presence.tick()
    assert before + 1 == await commands(line_redis)


async def test_many_who_are_unknown_share_a_batch(edge: Edge, line_redis: Redis) -> None:
    """After everything became suspect, all that ask in one moment are one script."""
    held = [(await joined(edge, f"buyer {n}"), f"buyer {n}") for n in range(30)]
    await edge.admit()
    edge.known.suspect()
    before = await commands(line_redis)
    told = await asyncio.gather(*(edge.teller.tell(facts, buyer) for facts, buyer in held))
    assert {TicketState.WAITING} == {each.state for each in told}
    assert before + 1 == await commands(line_redis)
    assert all(edge.teller.poll(facts) is not None for facts, _ in held)


async def test_the_reply_names_who_left(edge: Edge) -> None:
    """A leaving whose announcement was lost is learned from the next batch of signs."""
    facts = await joined(edge, "ann")
    await edge.admit()
    await edge.line.leave(edge.known.keys, facts.place)
    assert edge.teller.poll(facts) is not None, "this process has not heard"
    edge.known.signed.clear()
    edge.presence.sign(edge.known, facts.place)
    assert 1 == (await edge.presence.tick()).changed
    assert edge.teller.poll(facts) is None
    assert TicketState.LEFT is (await edge.teller.tell(facts, "ann")).state


async def test_a_forgotten_ticket_comes_back(edge: Edge, line_redis: Redis) -> None:
    """Redis lost it; its id proves it; it stands where it stood."""
    facts, _ = await joined(edge, "ann"), await joined(edge, "bob")
    await line_redis.hdel(edge.known.keys.tickets, str(facts.place))
    await line_redis.hdel(edge.known.keys.buyers, "ann")
    await line_redis.zrem(edge.known.keys.waiting, facts.place)
    edge.known.suspect()
    assert TicketState.WAITING is (await edge.teller.tell(facts, "ann")).state
    view = await edge.line.look(edge.known.keys, facts.place)
    assert view is not None and ("ann", facts.joined_ms) == (view.buyer, view.joined_ms)


async def test_a_ticket_that_had_its_turn_does_not_come_back(edge: Edge, line_redis: Redis) -> None:
    """What is marked as gone stays gone, whatever Redis forgot."""
    facts = await joined(edge, "ann")
    await edge.teller.leave(facts, "ann")
    await line_redis.hdel(edge.known.keys.tickets, str(facts.place))
    with pytest.raises(TicketUnknown):
        await edge.teller.tell(facts, "ann")


async def test_who_was_passed_over_reads_so_once(edge: Edge, line_redis: Redis) -> None:
    """The first answer afterwards is `waiting` with the reason `was_absent`; the next is as ever."""
    facts = await joined(edge, "ann")
    await edge.admit()
    keys = edge.known.keys
    await line_redis.zrem(keys.waiting, facts.place)
    await line_redis.zadd(keys.absent, {str(facts.place): facts.place})
    edge.known.forget((facts.place,))
    first, second = await edge.teller.tell(facts, "ann"), await edge.teller.tell(facts, "ann")
    assert b'"was_absent"' in first.doc and TicketState.WAITING is first.state
    assert b'"was_absent"' not in second.doc and TicketState.WAITING is second.state
    assert 1 == await line_redis.zcard(keys.waiting)


async def test_signs_are_kept_while_the_line_recovers(edge: Edge, line_redis: Redis) -> None:
    """A batch that failed is sent again with the next."""
    facts = await joined(edge, "ann")
    edge.known.signed.clear()
    await edge.presence.tick()
    edge.presence.sign(edge.known, facts.place)
    run_id = await line_redis.hget(edge.known.keys.meta, "run_id")
    await line_redis.hset(edge.known.keys.meta, "run_id", "another server")
    assert (0, 1) == ((tick := await edge.presence.tick()).signed, tick.failed)
    await line_redis.hset(edge.known.keys.meta, "run_id", run_id)
    assert 1 == (await edge.presence.tick()).signed


async def test_while_redis_is_away_who_waits_still_waits(edge: Edge, line_redis: Redis) -> None:
    """A ticket that must be asked about is told that the line is being recovered, not that it is unknown."""
    facts = await joined(edge, "ann")
    await edge.admit()
    edge.known.suspect()
    await line_redis.hset(edge.known.keys.meta, "run_id", "another server")
    told = await edge.teller.tell(facts, "ann")
    assert TicketState.WAITING is told.state
    assert b'"code":"recovering"' in told.doc and b'"wait_ms":null' in told.doc


async def test_while_redis_is_away_what_was_told_is_told_again(edge: Edge, line_redis: Redis) -> None:
    """The turn with the same pass, while that is good, and what has ended; a turn nobody was told of is not made up."""
    facts = await joined(edge, "ann")
    waiting = await edge.teller.tell(facts, "ann")
    view = TicketView(facts.place, TicketState.ADMITTED, "ann", "general", facts.joined_ms, turn="1-1-1", admitted_ms=1)
    now_ms = edge.feed.now_ms()
    await line_redis.hset(edge.known.keys.meta, "run_id", "another server")
    for last, said in (
        (replace(view, told_ms=2, pass_exp_ms=now_ms + 60_000), "admitted"),
        (replace(view, told_ms=2, pass_exp_ms=now_ms), None),
        (view, None),
        (replace(view, state=TicketState.LEFT, ended_ms=3), "left"),
    ):
        edge.known.learn(facts.place, last)
        if said is None:
            with pytest.raises(LineRecovering):
                await edge.teller.tell(facts, "ann")
        else:
            told = [await edge.teller.tell(facts, "ann") for _ in range(2)]
            assert said == told[0].state and told[0].doc == told[1].doc != waiting.doc


def test_views_are_bounded(edge: Edge) -> None:
    """However many tickets end, a process remembers the newest only."""
    for place in range(1, 12_001):
        edge.known.learn(place, TicketView(place, TicketState.LEFT, "b", "general", 1))
    assert 10_000 == len(edge.known.views)
    assert 12_000 in edge.known.views


@pytest.mark.parametrize("absent_after_s", [20, 150, 3600])
async def test_polls_fit_the_grace(line_redis: Redis, database: asyncpg.Pool, absent_after_s: int) -> None:
    """Three polls fit before a ticket counts as absent, and neighbours do not poll together."""
    policy = Policy(rate_centi=100, active_max=1, absent_after_s=absent_after_s)
    async with opened_edge(line_redis, database, policy=policy, is_paused=True) as edge:
        polls = []
        for n in range(20):
            facts = await joined(edge, f"buyer {n}")
            told = edge.teller.poll(facts) or await edge.teller.tell(facts, f"buyer {n}")
            polls.append(msgspec.json.decode(told.doc)["poll_after_ms"])
        assert max(polls) <= min(absent_after_s * 1000 / 3, 30_000)
        assert len(set(polls)) > 10
