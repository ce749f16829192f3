"""How Postgres goes about a batch: plans made while tables and batches were small have to serve the burst."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from onsale.checkout.record.flusher import Flusher

ORDERS = 300
READS_WHOLE = ("Merge Join", "Seq Scan on orders", "Seq Scan on order_items", "Seq Scan on payments")


# A pool warns before it calls the function that takes the listener away.
@pytest.mark.filterwarnings("ignore:.*active log listener")
async def test_plans_of_a_calm_minute_serve_the_burst(
    make_sale: Any, database_url: str, pooler: int | None, shop_redis: Any, line_redis: Any, announcer: Any
) -> None:
    """No statement of a batch reads tables from end to end, and its notices compare no order with each other."""
    if pooler is not None:
        pytest.skip("behind a pooler the next statement may meet a session that was told nothing")
    hand = await make_sale(stock=2 * ORDERS)
    plans: list[str] = []

    async def explaining(conn: asyncpg.Connection) -> None:
        await conn.execute("LOAD 'auto_explain'")
        for name, value in (
            ("log_min_duration", "0"),
            ("log_nested_statements", "on"),
            ("log_parameter_max_length", "0"),
        ):
            await conn.execute(f"SET auto_explain.{name} = {value}")
        await conn.execute("SET client_min_messages = log")

    def keep(_: Any, message: Any) -> None:
        plans.append(message.message)

    async def listen(conn: asyncpg.Connection) -> None:
        conn.add_log_listener(keep)

    async def leave(conn: asyncpg.Connection) -> None:
        conn.remove_log_listener(keep)

    async with asyncpg.create_pool(
        database_url, min_size=1, max_size=3, init=explaining, setup=listen, reset=leave
    ) as pool:
        flusher = Flusher(pool, shop_redis, line_redis, announcer)
        for n in range(3):
            await bought(hand, flusher, range(n, n + 1))
        plans.clear()
        await bought(hand, flusher, range(3, 3 + ORDERS))

    notices = [plan for plan in plans if "INSERT INTO notices" in plan and "old_rows" in plan]
    whole = [
        plan for plan in plans if "Merge Join" in plan or "Seq Scan on orders" in plan or "Seq Scan on pay" in plan
    ]
    assert notices and not [plan for plan in notices if "Nested Loop" in plan]
    assert [] == whole


async def bought(hand: Any, flusher: Flusher, numbers: range) -> None:
    """Reserved, claimed and confirmed, each recorded for itself."""
    for step in (hand.reserved, hand.claimed, hand.confirmed):
        for n in numbers:
            await step(f"order-{n:04}")
        await flusher.tick()
