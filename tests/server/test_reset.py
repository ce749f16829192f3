"""A sale made as new: nothing that was bought in it is left, nothing of another sale is touched."""

from __future__ import annotations

import asyncpg
import pytest

from onsale.catalog.errors import SaleUnknown
from onsale.catalog.salefile import parse_sale_file
from onsale.catalog.sales import create_sale
from onsale.server.demo import demo_sale_text
from onsale.server.errors import MoneyInFlight
from onsale.server.reset import reset_sale

TABLES = ("orders", "order_items", "payments", "refunds", "ledger", "sale_buyers")


@pytest.fixture
async def two_sales(database: asyncpg.Pool) -> asyncpg.Pool:
    """Two sales, each with one order that was sold, paid for and given back."""
    for sale in ("demo", "other"):
        await create_sale(database, parse_sale_file(demo_sale_text().replace('id = "demo"', f'id = "{sale}"')), "test")
        await buy(database, sale)
    return database


async def buy(database: asyncpg.Pool, sale: str) -> None:
    await database.execute(
        "INSERT INTO orders (id, sale, buyer, turn, epoch, state, claim, rev, amount, currency, idempotency_key,"
        " body_digest, reserved_at, expires_at)"
        " VALUES ($1, $2, 'b', 't', 1, 'confirmed', 'sold', 3, 5, 'KRW', 'k', 'd', now(), now())",
        f"order-{sale}",
        sale,
    )
    await database.execute(
        "INSERT INTO order_items (order_id, product, title, quantity, unit_amount, list_amount, currency)"
        " VALUES ($1, 'demo-cap', 'Cap', 1, 5, 5, 'KRW')",
        f"order-{sale}",
    )
    await database.execute(
        "INSERT INTO payments (id, order_id, provider, method, state, amount, currency, idempotency_key, body_digest,"
        " created_at) VALUES ($1, $2, 'sandbox', 'card', 'captured', 5, 'KRW', 'k', 'd', now())",
        f"payment-{sale}",
        f"order-{sale}",
    )
    await database.execute(
        "INSERT INTO refunds (id, payment_id, amount, currency, reason, state)"
        " VALUES ($1, $2, 5, 'KRW', 'late', 'done')",
        f"refund-{sale}",
        f"payment-{sale}",
    )
    await database.execute(
        "INSERT INTO ledger (at, sale, product, order_id, verb, quantity, amount, currency, epoch, event_id)"
        " VALUES (now(), $1, 'demo-cap', $2, 'sold', 1, 5, 'KRW', 1, '1-0')",
        sale,
        f"order-{sale}",
    )
    await database.execute("INSERT INTO sale_buyers (sale, buyer, bought, bought_max) VALUES ($1, 'b', 1, 2)", sale)
    await database.execute("UPDATE sale_items SET sold = 1 WHERE sale = $1 AND product = 'demo-cap'", sale)


async def counts(database: asyncpg.Pool) -> dict[str, int]:
    return {table: await database.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}


async def sold(database: asyncpg.Pool, sale: str) -> int:
    return int(await database.fetchval("SELECT sum(sold) FROM sale_items WHERE sale = $1", sale))


async def test_only_this_sale_is_as_new(two_sales: asyncpg.Pool) -> None:
    """Its orders, payments, ledger and limits are gone, its epochs are new; the other sale keeps all of them."""
    assert await counts(two_sales) == dict.fromkeys(TABLES, 2)

    await reset_sale(two_sales, "demo")

    assert await counts(two_sales) == dict.fromkeys(TABLES, 1)
    assert (await sold(two_sales, "demo"), await sold(two_sales, "other")) == (0, 1)
    epochs = await two_sales.fetchrow("SELECT line_epoch, shop_epoch FROM sales WHERE id = 'demo'")
    assert tuple(epochs) == (1, 1)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE payments SET state = 'pending' WHERE id = 'payment-demo'",
        "UPDATE refunds SET state = 'pending' WHERE id = 'refund-demo'",
    ],
)
async def test_money_in_flight_refuses(two_sales: asyncpg.Pool, change: str) -> None:
    """While a payment may still be charged, or is on its way back, nothing is forgotten."""
    await two_sales.execute(change)

    with pytest.raises(MoneyInFlight):
        await reset_sale(two_sales, "demo")

    assert await counts(two_sales) == dict.fromkeys(TABLES, 2)
    assert await two_sales.fetchval("SELECT shop_epoch FROM sales WHERE id = 'demo'") == 0


async def test_an_unknown_sale(database: asyncpg.Pool) -> None:
    """There is nothing to reset."""
    with pytest.raises(SaleUnknown):
        await reset_sale(database, "nothing")
