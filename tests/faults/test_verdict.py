"""The judge of a fault run finds what is wrong: a judge that cannot fail would prove nothing."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from bench.crowd import Log
from bench.faults import verdict
from bench.faults.verdict import Asked

SALE = "drop"


@pytest.fixture
async def conn(database: asyncpg.Pool) -> Any:
    """A sale of one item, in which everybody may buy one."""
    async with database.acquire() as conn:
        await conn.execute(
            "INSERT INTO sales (id, title, opens_at, closes_at, limit_per_buyer, hold_ttl_s, guests, opening, policy)"
            " VALUES ($1, 'Drop', now(), now() + interval '1 day', 1, 600, false, 'fifo', '{}')",
            SALE,
        )
        yield conn


def asked(shop: str = "") -> Asked:
    return Asked("", "", "", shop, "", SALE, "jacket", stock=2)


async def order(conn: asyncpg.Connection, name: str, buyer: str = "ann", state: str = "confirmed") -> None:
    """A row as the record would have it, without its ledger and payment."""
    await conn.execute(
        "INSERT INTO orders (id, sale, buyer, epoch, state, rev, amount, currency, idempotency_key, body_digest,"
        " reserved_at, expires_at) VALUES ($1, $2, $3, 1, $4, 1, 100, 'KRW', $1, '', now(), now())",
        *(name, SALE, buyer, state),
    )
    await conn.execute(
        "INSERT INTO order_items (order_id, product, title, quantity, unit_amount, list_amount, currency)"
        " VALUES ($1, 'jacket', '', 1, 100, 100, 'KRW')",
        name,
    )


async def admission(conn: asyncpg.Connection, places: list[int], *, epoch: int = 1, at_s: int = 0, **more: Any) -> None:
    row = {"returners": [], "rate_milli": 1000, "burst": 1, "active": 1, "active_max": 10} | more
    await conn.execute(
        "INSERT INTO admissions (sale, epoch, event_id, at, places, returners, rate_milli, burst, active, active_max)"
        " VALUES ($1, $2, $3, now() + make_interval(secs => $4), $5, $6, $7, $8, $9, $10)",
        *(SALE, epoch, f"{at_s + 1}-0", at_s, places, *row.values()),
    )


async def test_a_buyer_above_the_limit(conn: asyncpg.Connection) -> None:
    """I7: two units for one buyer, where one is allowed."""
    await order(conn, "one")
    assert [] == await verdict._buyers_keep_to_the_limit(conn, asked())
    await order(conn, "two")
    assert ["I7: buyer ann bought 2 of 1"] == await verdict._buyers_keep_to_the_limit(conn, asked())


async def test_a_confirmed_order_without_ledger_or_payment(conn: asyncpg.Connection) -> None:
    """I3: confirmed is one line `sold` and one capture."""
    await order(conn, "one")
    assert ["I3: order one: sold 0 times, captured 0"] == await verdict._ledger_adds_up(conn, asked())


async def test_somebody_was_overtaken(conn: asyncpg.Connection) -> None:
    """I5: a lower place after a higher one, unless it comes back; I4: a first turn in two epochs."""
    await admission(conn, [1, 3])
    await admission(conn, [2], at_s=5, returners=[2])
    assert [] == await verdict._nobody_was_overtaken(conn, asked())
    await admission(conn, [2], at_s=9)
    await admission(conn, [3], epoch=2)
    assert ["I5: place 2 was let in after 3", "I4: place 3 had its turn in epoch 1 and in 2"] == (
        await verdict._nobody_was_overtaken(conn, asked())
    )


async def test_rate_and_cap(conn: asyncpg.Connection) -> None:
    """I6: one a second with a burst of one; and never more seats than there are."""
    await admission(conn, [1])
    await admission(conn, [2], at_s=1)
    assert [] == await verdict._rate_was_kept(conn, asked())
    await admission(conn, [3, 4], at_s=2)
    await admission(conn, [5], at_s=9, active=11)
    found = await verdict._rate_was_kept(conn, asked())
    assert ["I6: 2.00 people in a bucket", "I6: 11 seats taken of 10"] == [
        fault.partition(" of 1 at")[0].partition(" at ")[0] for fault in found
    ]


async def test_a_confirmed_event_that_the_record_does_not_have(
    conn: asyncpg.Connection, shop_redis: Redis, shop_redis_url: str
) -> None:
    """Only the newest epoch's stream counts: what an older server wrote after it was fenced off is nobody's."""
    await order(conn, "one")
    await shop_redis.xadd(f"{{{SALE}:shop}}:1:money", {"verb": "confirmed", "order": "fenced off"})
    await shop_redis.xadd(f"{{{SALE}:shop}}:2:money", {"verb": "confirmed", "order": "one"})
    assert [] == await verdict._streams_are_in_the_record(conn, asked(shop_redis_url))
    await shop_redis.xadd(f"{{{SALE}:shop}}:2:money", {"verb": "confirmed", "order": "lost"})
    assert ["the stream says confirmed, the record does not: lost"] == (
        await verdict._streams_are_in_the_record(conn, asked(shop_redis_url))
    )


def test_a_place_of_two_buyers_and_a_ticket_that_moved() -> None:
    """I4, by what buyers were told; answers without a place say nothing."""
    told = [(1, "a", 7), (1, "a", 7), (2, "b", 8), (2, "b", None)]
    log = Log(calls=[{"buyer": buyer, "ticket": ticket, "place": place} for buyer, ticket, place in told])
    assert [] == verdict._places_are_single(log)
    log.calls += [{"buyer": 3, "ticket": "c", "place": 7}, {"buyer": 2, "ticket": "b", "place": 9}]
    assert ["I4: place 7 was told to two buyers", "I4: ticket b moved from 8 to 9"] == verdict._places_are_single(log)
