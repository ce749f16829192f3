"""Four admitters on a real Redis, each with a schedule and connections of its own, some killed in mid-tick while the
clock stumbles and operators change their minds: judged from outside, by the recorded admissions and `admitted_at`."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from itertools import accumulate

import asyncpg
import pytest
from line_kit import NOW_KEY, Stand, with_still_clock
from redis.asyncio import Redis

import onsale.lua
from onsale.lua import connect
from onsale.queue.admitter import Admitter

PEOPLE, STEPS = 2_500, 150


@dataclass
class Terms:
    """What was in force: of every millisecond of Redis time the highest rate, and of every moment in turn the cap."""

    since_ms: int
    rate_centi: int
    cap: int
    rates: dict[int, int] = field(default_factory=dict)

    def flow(self, from_ms: int, to_ms: int) -> None:
        for ms in range(from_ms, to_ms):
            self.rates[ms] = max(self.rates.get(ms, 0), self.rate_centi)

    def excess(self, admitted: list[tuple[int, int]]) -> float:
        """By how many people the worst window passes the integral of the rate and a burst."""
        end_ms = max(self.rates) + 1
        flowed = list(accumulate((self.rates.get(ms, 0) / 100_000 for ms in range(self.since_ms, end_ms)), initial=0.0))
        worst = float("-inf")
        for first in range(len(admitted)):
            people, top = 0, 0
            for at_ms, count in admitted[first:]:
                people += count
                since, until = admitted[first][0] - self.since_ms, at_ms - self.since_ms
                top = max(top, self.rates.get(at_ms, 0), self.rates.get(at_ms - 1, 0))
                worst = max(worst, people - (flowed[until] - flowed[since]) - max(1, -(-top // 1000)))
        return worst


@pytest.mark.parametrize("seed", range(3))
async def test_rate_cap_and_order_are_exact(
    seed: int, monkeypatch: pytest.MonkeyPatch, line_redis: Redis, line_redis_url: str, database: asyncpg.Pool
) -> None:
    """Over every window never above the integral of the rate and a burst; never a seat above the cap then in force;
    nobody twice, nobody before a lower place; and each ticket says the moment that was recorded."""
    monkeypatch.setattr(onsale.lua, "source", with_still_clock(onsale.lua.source))
    chance, now_ms = random.Random(seed), time.time_ns() // 1_000_000
    await line_redis.set(NOW_KEY, now_ms)
    stand = await Stand(line_redis, database).make(rate_centi=20_000, active_max=300, turn_ttl_s=120)
    await stand.crowd(PEOPLE)
    terms = Terms(now_ms, 20_000, 300)
    clients = [connect(line_redis_url) for _ in range(4)]
    admitters = [_admitter(stand, client) for client in clients]
    caps: list[int] = []
    try:
        for _ in range(STEPS):
            step_ms = chance.choice([7, 40, 60, 110, 240]) if chance.random() > 0.06 else -chance.choice([30, 2_000])
            terms.flow(now_ms, now_ms + step_ms)
            now_ms += step_ms
            await line_redis.set(NOW_KEY, now_ms)
            await _tick_some(stand, admitters, clients, line_redis_url, chance)
            caps += [terms.cap] * (len(await stand.admissions()) - len(caps))
            for turn in chance.sample(sorted(await _seated(stand)), min(12, len(await _seated(stand)))):
                stand.shop.end(turn, "completed")
            if chance.random() < 0.08:
                terms.rate_centi, terms.cap = chance.choice([2_000, 20_000, 40_000, 0]), chance.choice([300, 200, 60])
                await stand.set(rate_centi=terms.rate_centi, active_max=terms.cap)
    finally:
        for client in clients:
            await client.aclose()

    events = await stand.admissions()
    served = [int(place) for event in events for place in event["places"].split(",")]
    assert len(served) > 100
    assert served == sorted(set(served))
    assert all(int(event["active"]) <= cap for event, cap in zip(events, caps, strict=True))
    by_time = sorted((int(event["at"]), len(event["places"].split(","))) for event in events)
    assert terms.excess(by_time) <= 1e-6
    for event in events:
        for place in event["places"].split(","):
            view = await stand.line.look(stand.keys, int(place))
            assert view is not None and view.admitted_ms == int(event["at"])
    assert [await stand.meta(name) for name in ("admitted", "inversions", "cap_violations")] == [len(served), 0, 0]


def _admitter(stand: Stand, client: Redis) -> Admitter:
    return Admitter(client, stand.book, stand.shop)


async def _seated(stand: Stand) -> set[str]:
    return {member.decode() for member in await stand.redis.zrange(stand.keys.leases, 0, -1)}


async def _tick_some(
    stand: Stand, admitters: list[Admitter], clients: list[Redis], url: str, chance: random.Random
) -> None:
    """One to four tick at once; now and then one is killed at whatever it waits for, and another takes its place."""
    chosen = chance.sample(range(len(admitters)), chance.randint(1, len(admitters)))
    ticks = [asyncio.create_task(admitters[n].tick()) for n in chosen]
    if chance.random() < 0.25:
        for _ in range(chance.randint(0, 12)):
            await asyncio.sleep(0)
        ticks[0].cancel()
        await asyncio.gather(*ticks, return_exceptions=True)
        await clients[chosen[0]].aclose()
        clients[chosen[0]] = connect(url)
        admitters[chosen[0]] = _admitter(stand, clients[chosen[0]])
    for done in await asyncio.gather(*ticks, return_exceptions=True):
        if isinstance(done, Exception):
            raise done
