"""`onsale sale reset`: a sale as it was before anybody came, for demos and trials.

Refused while money is in flight. Places already given are not given again, and the operators' audit stays.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from onsale.catalog.errors import SaleUnknown
from onsale.migrations.sql import load_queries
from onsale.server.errors import MoneyInFlight

SQL: Final = load_queries("onsale.server", "reset.sql")
# In the order in which rows refer to each other.
STEPS: Final = (
    SQL.refunds_delete,
    SQL.payments_delete,
    SQL.moves_delete,
    SQL.requests_delete,
    SQL.notices_delete,
    SQL.entries_delete,
    SQL.order_items_delete,
    SQL.refusals_delete,
    SQL.orders_delete,
    SQL.ledger_delete,
    SQL.sale_buyers_delete,
    SQL.admissions_delete,
    SQL.places_gone_delete,
    SQL.line_documents_delete,
    SQL.line_seconds_delete,
    SQL.shown_waits_delete,
    SQL.watermarks_delete,
    SQL.poison_delete,
    SQL.items_reset,
)


async def reset_sale(pool: asyncpg.Pool, sale: str) -> None:
    """Forget what was bought and who came, in one transaction. Raises SaleUnknown, MoneyInFlight."""
    async with pool.acquire() as connection, connection.transaction():
        if await connection.fetchval(SQL.sale_fence, sale) is None:
            raise SaleUnknown
        if await connection.fetchval(SQL.money_in_flight, sale):
            raise MoneyInFlight
        for step in STEPS:
            await connection.execute(step, sale)
