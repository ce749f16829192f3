"""How much of each account's budget of tries is used up: one row of Postgres, whichever process was asked.

A row is written for a try that may be taken, and none for one that is refused; whoever counts here bounds first how
many are let through to it (`auth/throttle.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "tries.sql")


@dataclass(frozen=True, slots=True)
class Budget:
    """`tries` at once, then one each `refill_ms`."""

    tries: int
    refill_ms: int

    @property
    def whole_ms(self) -> int:
        """How long a budget that is used up takes to be whole again."""
        return self.tries * self.refill_ms


@dataclass(frozen=True, slots=True)
class Used:
    """Whether the try may be taken, and in how long the budget is whole again (GCRA)."""

    is_taken: bool
    whole_in_ms: int


class Tries:
    """The Postgres port of one kind of budget, by its name."""

    def __init__(self, pool: asyncpg.Pool, name: str, budget: Budget) -> None:
        self._pool = pool
        self._name = name
        self.budget = budget

    async def take(self, account: bytes) -> Used:
        """Use one try up, where one is left."""
        row = await self._pool.fetchrow(
            queries.try_take, self._name, account, self.budget.refill_ms, self.budget.whole_ms
        )
        if row is None:
            # Another's very first try, not to be seen yet by this statement, and no room beside it.
            return Used(is_taken=False, whole_in_ms=self.budget.whole_ms)
        return Used(row["is_taken"], row["whole_in_ms"])

    async def give_back(self, account: bytes) -> None:
        """The try was a good one."""
        await self._pool.fetchval(queries.try_give_back, self._name, account, self.budget.refill_ms)
