"""What is decided about a sale from outside: the crowd's log, the public tables, the provider's book and the streams.

Shares no code with the server, and adds to `bench/judge.py` (sold, lost, doubled, charged) what the other invariants
say. A call that was not answered is unknown: it may or may not have happened, and nothing is concluded from it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import redis.asyncio
from redis.asyncio.cluster import ClusterNode

from bench.crowd import Log
from bench.faults.world import World
from bench.judge import judge

SAID_WITHIN_S = 10.0


@dataclass
class Found:
    """Counts for the table, and every promise that was broken."""

    units_sold: int = 0
    oversold: int = 0
    lost: int = 0
    doubled: int = 0
    charged_for_nothing: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """Where to look, and what was for sale."""

    postgres: str
    sandbox: str
    line: str
    shop: str
    base: str
    sale: str
    product: str
    stock: int
    limit: int = 1

    @classmethod
    def of(cls, one: World, sale: str, product: str, stock: int) -> Asked:
        """A sale of that world."""
        urls = (one.url("postgres"), one.sandbox, one.url("line"), one.url("shop"), one.base)
        return cls(*urls, sale, product, stock)


async def decide(asked: Asked, log: Log) -> Found:
    """Everything that can be said once the sale has drained."""
    verdict = await judge(asked.postgres, asked.sandbox, asked.sale, asked.stock, log.confirmed)
    found = Found(units_sold=verdict.units_sold, faults=list(verdict.faults))
    found.oversold = max(0, verdict.units_sold - asked.stock)
    found.lost = sum(fault.startswith("acknowledged but") for fault in verdict.faults)
    found.doubled = sum(fault.startswith("charged ") and " times" in fault for fault in verdict.faults)
    found.charged_for_nothing = sum(fault.startswith("charged without") for fault in verdict.faults)
    conn = await asyncpg.connect(asked.postgres)
    try:
        found.faults += await _buyers_keep_to_the_limit(conn, asked)
        found.faults += await _ledger_adds_up(conn, asked)
        found.faults += await _nobody_was_overtaken(conn, asked)
        found.faults += await _rate_was_kept(conn, asked)
        found.faults += await _streams_are_in_the_record(conn, asked)
    finally:
        await conn.close()
    found.faults += _places_are_single(log)
    found.faults += await _units_are_whole(asked, verdict.units_sold)
    found.faults += [f"5xx without Retry-After: {call}" for call in log.errors_5xx[:5]]
    return found


async def _buyers_keep_to_the_limit(conn: asyncpg.Connection, asked: Asked) -> list[str]:
    """I7."""
    rows = await conn.fetch(
        "SELECT o.buyer, sum(i.quantity) AS units FROM orders o JOIN order_items i ON i.order_id = o.id"
        " WHERE o.sale = $1 AND o.state = 'confirmed' GROUP BY o.buyer HAVING sum(i.quantity) > $2",
        asked.sale, asked.limit,
    )  # fmt: skip
    return [f"I7: buyer {row['buyer']} bought {row['units']} of {asked.limit}" for row in rows]


async def _ledger_adds_up(conn: asyncpg.Connection, asked: Asked) -> list[str]:
    """I3: a sold unit has one line `sold` in the ledger and one captured payment."""
    rows = await conn.fetch(
        "SELECT o.id,"
        " (SELECT count(*) FROM ledger l WHERE l.order_id = o.id AND l.verb = 'sold') AS sold,"
        " (SELECT count(*) FROM payments p WHERE p.order_id = o.id AND p.state = 'captured') AS captured"
        " FROM orders o WHERE o.sale = $1 AND o.state = 'confirmed'",
        asked.sale,
    )
    wrong = [row for row in rows if (row["sold"], row["captured"]) != (1, 1)]
    return [f"I3: order {row['id']}: sold {row['sold']} times, captured {row['captured']}" for row in wrong[:5]]


async def _nobody_was_overtaken(conn: asyncpg.Connection, asked: Asked) -> list[str]:
    """I4, I5: places rise within an epoch, those who had been passed over apart; a first turn is had once."""
    highest: dict[int, int] = defaultdict(int)
    had: dict[int, int] = {}
    wrong = []
    for row in await _admissions(conn, asked):
        for place in sorted(set(row["places"]) - set(row["returners"])):
            if place <= highest[row["epoch"]]:
                wrong.append(f"I5: place {place} was let in after {highest[row['epoch']]}")
            if had.setdefault(place, row["epoch"]) != row["epoch"]:
                wrong.append(f"I4: place {place} had its turn in epoch {had[place]} and in {row['epoch']}")
            highest[row["epoch"]] = max(highest[row["epoch"]], place)
    return wrong[:5]


async def _rate_was_kept(conn: asyncpg.Connection, asked: Asked) -> list[str]:
    """I6, over the whole sale, epochs and all: what was let in fits a bucket of that rate and burst, and the cap. Each
    epoch may begin with a full bucket, and so may a clock that was put back: the time between is not known."""
    level, last, epoch, wrong = 0.0, None, None, []
    for row in await _admissions(conn, asked):
        if row["epoch"] != epoch or row["at"] < last:
            level, epoch = 0.0, row["epoch"]
        else:
            level = max(0.0, level - (row["at"] - last).total_seconds() * row["rate_milli"] / 1000)
        last, level = row["at"], level + len(row["places"])
        if level > row["burst"] + 1e-6 + row["rate_milli"] / 1_000_000:
            wrong.append(f"I6: {level:.2f} people in a bucket of {row['burst']} at {row['at']}")
        if row["active"] > row["active_max"]:
            wrong.append(f"I6: {row['active']} seats taken of {row['active_max']} at {row['at']}")
    return wrong[:5]


async def _admissions(conn: asyncpg.Connection, asked: Asked) -> list[Any]:
    rows: list[Any] = await conn.fetch(
        "SELECT epoch, at, places, returners, rate_milli, burst, active, active_max FROM admissions WHERE sale = $1"
        " ORDER BY epoch, split_part(event_id, '-', 1)::bigint, split_part(event_id, '-', 2)::bigint",
        asked.sale,
    )
    return rows


def _places_are_single(log: Log) -> list[str]:
    """I4, as buyers were told: no place was ever two buyers', and no buyer's ticket changed its place."""
    owner: dict[int, int] = {}
    place_of: dict[str, int] = {}
    wrong = []
    for call in log.calls:
        if call.get("place") is None or not call.get("ticket"):
            continue
        if owner.setdefault(call["place"], call["buyer"]) != call["buyer"]:
            wrong.append(f"I4: place {call['place']} was told to two buyers")
        if place_of.setdefault(call["ticket"], call["place"]) != call["place"]:
            wrong.append(f"I4: ticket {call['ticket']} moved from {place_of[call['ticket']]} to {call['place']}")
    return wrong[:5]


async def _units_are_whole(asked: Asked, sold: int) -> list[str]:
    """I1, from the public figures: what is free, held and sold is all there ever was."""
    deadline = time.monotonic() + SAID_WITHIN_S
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{asked.base}/v1/sales/{asked.sale}/line") as answer:
                stock = (await answer.json()).get("stock") or {}
            async with session.get(f"{asked.base}/v1/products/{asked.product}/stock") as answer:
                free = (await answer.json()).get("free")
            # "Ask again shortly" just after a fault says nothing of units.
            if (free is not None and stock.get("free") is not None) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
    if stock.get("free") is None:
        return [f"I1: the line shows no stock: {stock}"]
    if stock["free"] + stock["held"] + stock["sold"] != asked.stock or stock["sold"] != sold or free != stock["free"]:
        return [f"I1: {stock} and {free} free of {asked.stock}, sold by the record {sold}"]
    return []


async def _streams_are_in_the_record(conn: asyncpg.Connection, asked: Asked) -> list[str]:
    """Whatever the newest epoch's stream of money says was confirmed stands in the record (it has drained by now)."""
    confirmed = await _confirmed_in(asked)
    rows = await conn.fetch("SELECT id FROM orders WHERE id = ANY($1) AND state = 'confirmed'", list(confirmed))
    given_back = await conn.fetch(
        "SELECT order_id FROM payments WHERE order_id = ANY($1) AND state IN ('refunding', 'refunded')", list(confirmed)
    )
    missing = confirmed - {row["id"] for row in rows} - {row["order_id"] for row in given_back}
    return [f"the stream says confirmed, the record does not: {order}" for order in sorted(missing)[:5]]


async def _confirmed_in(asked: Asked) -> set[str]:
    async with _shop(asked) as shop:
        names = [name.decode() async for name in shop.scan_iter(f"{{{asked.sale}:shop}}:*:money")]
        if not names:
            return set()
        newest = max(names, key=lambda name: int(name.split(":")[2]))
        return {
            entry[b"order"].decode()
            for _, entry in await shop.xrange(newest)
            if entry.get(b"verb") == b"confirmed" and b"order" in entry
        }


def _shop(asked: Asked) -> Any:
    if "," not in asked.shop:
        return redis.asyncio.Redis.from_url(asked.shop)
    nodes = [urlsplit(node) for node in asked.shop.split(",")]
    return redis.asyncio.RedisCluster(startup_nodes=[ClusterNode(str(node.hostname), node.port) for node in nodes])


def audit_faults(findings: Iterable[dict[str, Any]]) -> list[str]:
    """What the system's own audit has to say, the operators' chain (I10) among it."""
    return [f"audit: {json.dumps(finding)}" for finding in findings if not finding["ok"]]
