"""Where orders went, forgotten when their buyer is: an account that was deleted leaves its orders, not its addresses.

An order on its way keeps its address until it has arrived, or ended; the tick erases it then.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from onsale.migrations.sql import load_queries

queries = load_queries("onsale.checkout", "forgetting.sql")

FORGETTING_INTERVAL_MS = 60_000
FORGET_MAX = 1_000


@dataclass(frozen=True, slots=True)
class ForgetTick:
    """How many addresses were erased. `more`: others wait for it."""

    forgotten: int
    more: bool


class AddressForgetting:
    """`forget` when an account is deleted, `tick()` now and then in any number of processes."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def forget(self, connection: asyncpg.Connection, account: str) -> None:
        """Erase what need not be known any more, in the transaction that deletes the account."""
        await connection.execute(queries.addresses_forget, account)

    async def tick(self) -> ForgetTick:
        """Erase what has arrived since."""
        forgotten = len(await self._pool.fetch(queries.addresses_forget_late, FORGET_MAX))
        return ForgetTick(forgotten, more=forgotten == FORGET_MAX)
