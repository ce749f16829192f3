"""The delivery clock: paid orders are prepared, shipped, delivered and completed as the days pass, returns come back.

Ticked each second; any number may run. Each step is one guarded statement: whoever locks an order first moves it on or
cancels it, and the other one finds another state. Days are counted on the shop's clock from the moment of confirmation,
so a worker that slept for a week catches up in one tick, and an order made after a test clock was moved is a day old
a day later.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from onsale.checkout.aftersale import AfterSale
from onsale.checkout.states import OrderState
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout", "delivery.sql")

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """When an order takes its steps, counted from its confirmation; a return from its request."""

    # An hour in which somebody who clicked too fast finds the order as it was confirmed.
    preparing_after_ms: int = 3_600_000
    shipped_after_ms: int = DAY_MS
    delivered_after_ms: int = 2 * DAY_MS
    completed_after_ms: int = 3 * DAY_MS
    returned_after_ms: int = DAY_MS
    # A thousand rows are one short transaction.
    batch_max: int = 1_000


@dataclass(frozen=True, slots=True)
class DeliveryTick:
    """Orders moved on in this tick, by the state they came to, and whether more are due."""

    prepared: int = 0
    shipped: int = 0
    delivered: int = 0
    completed: int = 0
    returned: int = 0
    more: bool = False


class Delivery:
    """Moves orders on. Raises what Postgres raises; what was moved stays moved."""

    def __init__(self, pool: asyncpg.Pool, after_sale: AfterSale, policy: DeliveryPolicy | None = None) -> None:
        self._pool = pool
        self._after_sale = after_sale
        self._policy = policy or DeliveryPolicy()

    async def tick(self) -> DeliveryTick:
        """Each step in turn, so that an order that missed days takes all of its steps at once."""
        policy = self._policy
        prepared = len(await self._pool.fetch(SQL.orders_prepare, policy.preparing_after_ms, policy.batch_max))
        shipped = await self._move(OrderState.PREPARING, OrderState.SHIPPED, policy.shipped_after_ms)
        delivered = await self._move(OrderState.SHIPPED, OrderState.DELIVERED, policy.delivered_after_ms)
        completed = await self._move(OrderState.DELIVERED, OrderState.COMPLETED, policy.completed_after_ms)
        returned = await self._return()
        counts = (prepared, shipped, delivered, completed, returned)
        return DeliveryTick(*counts, more=max(counts) >= policy.batch_max)

    async def _move(self, state: OrderState, to: OrderState, after_ms: int) -> int:
        assert state.may_become(to)
        # A visit's order ships on its day as others do a day after they were confirmed.
        later_ms = after_ms - self._policy.shipped_after_ms
        return len(await self._pool.fetch(SQL.orders_move_on, state, to, after_ms, later_ms, self._policy.batch_max))

    async def _return(self) -> int:
        rows = await self._pool.fetch(SQL.returns_due, self._policy.returned_after_ms, self._policy.batch_max)
        done = [await self._after_sale.finish_return(row["id"]) for row in rows]
        return sum(done)
