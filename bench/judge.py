"""The judge: compares what the crowd was told with what record and provider hold. Shares no code with the server.

It knows only the public tables (`orders`, `order_items`, `payments`, `ledger`, `admissions`) and the sandbox provider's
`GET /charges`. A call without an answer is unknown, never failed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp
import asyncpg


@dataclass(frozen=True)
class Verdict:
    """What was found. `faults` is empty when every promise was kept."""

    confirmed_recorded: int
    units_sold: int
    charged_orders: int
    refunded: int
    faults: tuple[str, ...]


async def judge(database_url: str, sandbox_url: str, sale: str, stock: int, acknowledged: Iterable[str]) -> Verdict:
    """Check one sale after it drained: oversold, lost, doubled, charged without an order."""
    conn = await asyncpg.connect(database_url)
    try:
        orders = await conn.fetch("SELECT id, state FROM orders WHERE sale = $1", sale)
        units = await conn.fetchval(
            "SELECT coalesce(sum(i.quantity), 0) FROM order_items i JOIN orders o ON o.id = i.order_id"
            " WHERE o.sale = $1 AND o.state = 'confirmed'",
            sale,
        )
    finally:
        await conn.close()
    states = {row["id"]: row["state"] for row in orders}
    charges = await _charges(sandbox_url, list(states))
    faults = [
        *(f"oversold: {units} of {stock}" for _ in range(1) if units > stock),
        *(f"acknowledged but not recorded: {order}" for order in acknowledged if states.get(order) != "confirmed"),
        *_money_faults(states, charges),
    ]
    return Verdict(
        confirmed_recorded=sum(state == "confirmed" for state in states.values()),
        units_sold=units,
        charged_orders=len({c["order"] for c in charges if not c.get("refunded_at")}),
        refunded=sum(bool(c.get("refunded_at")) for c in charges),
        faults=tuple(faults),
    )


async def payments_made(database_url: str) -> int:
    """How many tries to pay the record has."""
    conn = await asyncpg.connect(database_url)
    try:
        made: int = await conn.fetchval("SELECT count(*) FROM payments")
    finally:
        await conn.close()
    return made


async def payment_figures(database_url: str) -> dict[str, Any]:
    """Tries to pay by how they ended, and how long the slowest took."""
    conn = await asyncpg.connect(database_url)
    try:
        rows = await conn.fetch(
            "SELECT state || coalesce(' ' || reason, '') AS ended, count(*) AS n FROM payments GROUP BY 1 ORDER BY 1"
        )
        took = await conn.fetchrow(
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY s) AS p50, max(s) AS longest,"
            " percentile_cont(0.95) WITHIN GROUP (ORDER BY s) AS p95 FROM (SELECT extract(epoch FROM ended_at -"
            " created_at)::float8 AS s FROM payments WHERE ended_at IS NOT NULL) AS took"
        )
    finally:
        await conn.close()
    figures = {name: round(seconds or 0.0, 2) for name, seconds in took.items()}
    return {"payments": sum(row["n"] for row in rows), "ended": dict(map(tuple, rows)), "payment_s": figures}


async def until_none_confirming(database_url: str, within_s: float) -> list[str]:
    """Orders that are still being paid when the time is over."""
    conn = await asyncpg.connect(database_url)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    try:
        while True:
            left = [row["id"] for row in await conn.fetch("SELECT id FROM orders WHERE state = 'confirming'")]
            if not left or loop.time() > deadline:
                return left
            await asyncio.sleep(1)
    finally:
        await conn.close()


def _money_faults(states: dict[str, str], charges: list[dict[str, Any]]) -> Iterable[str]:
    kept = Counter(c["order"] for c in charges if c.get("charged_at") and not c.get("refunded_at"))
    yield from (f"charged {n} times: {order}" for order, n in kept.items() if n > 1)
    yield from (
        f"charged without a sold order: {order} is {states.get(order)}"
        for order in kept
        if states.get(order) != "confirmed"
    )
    yield from (
        f"sold without a charge: {order}"
        for order, state in states.items()
        if state == "confirmed" and order not in kept
    )


async def _charges(sandbox_url: str, orders: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    at_once = asyncio.Semaphore(32)
    async with aiohttp.ClientSession() as session:

        async def ask(order: str) -> None:
            async with at_once, session.get(f"{sandbox_url}/charges", params={"order": order}) as answer:
                body = await answer.json()
                found.extend(body["items"] if isinstance(body, dict) else body)

        await asyncio.gather(*(ask(order) for order in orders))
    return found


def rate_faults(admitted_at: Iterable[str], rate_per_second: float, burst: int) -> list[str]:
    """Every window of the admissions seen from outside holds at most rate × window + burst people."""
    moments = sorted(datetime.fromisoformat(text).timestamp() for text in admitted_at)
    # The worst window ends at some admission: with a leaky bucket of that rate and burst, its level is the excess.
    level, last = 0.0, moments[0] if moments else 0.0
    worst = 0.0
    for moment in moments:
        level = max(0.0, level - (moment - last) * rate_per_second) + 1
        last = moment
        worst = max(worst, level)
    # 1 ms steps of `admitted_at` can hide up to that much of the rate.
    allowed = burst + 1 + rate_per_second / 1000
    return [f"admissions above the rate: {worst:.2f} in the bucket, {allowed:.2f} allowed"] if worst > allowed else []
