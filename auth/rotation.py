"""Seals everything anew under the newest secret, while the system runs, so that an older one can be dropped.

A value is read, sealed again and put back only where it is still the value that was read: whoever writes it meanwhile
writes it under the newest secret anyway. A walk that is broken off begins anew and finds what is left. What no listed
secret opens stays as it is, and is counted.

Accounts need more than a new seal (their address is found by a hash under the secret): `Accounts.reseal` does it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg

from onsale.auth.keys import Keyring
from onsale.auth.sealing import SealBroken, Sealer
from onsale.migrations.sql import Queries, load_queries

queries = load_queries("onsale.auth", "rotation.sql")
account_queries = load_queries("onsale.auth", "accounts.sql")

BATCH_MAX = 500


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values: `context` is what they are bound to beside the row's id."""

    context: str
    stale: str
    renew: str


def sealed_column(found: Queries, table: str, column: str) -> SealedColumn:
    """By the statements `<table>_<column>_stale` and `…_renew`."""
    name = f"{table}_{column}"
    return SealedColumn(f"{table}.{column}", getattr(found, f"{name}_stale"), getattr(found, f"{name}_renew"))


# What this room keeps sealed under the secrets themselves.
COLUMNS = tuple(
    sealed_column(queries, table, column)
    for table, column in (
        ("sessions", "device"),
        ("sessions", "address"),
        ("outbox", "recipient"),
        ("outbox", "params"),
        ("letter_requests", "payload"),
        ("addresses", "sealed"),
    )
)


@dataclass(frozen=True, slots=True)
class Renewed:
    """How many values of one column were sealed anew, and how many no listed secret opens."""

    what: str
    renewed: int
    unreadable: int


class Rotation:
    """One walk over everything. `reseal` brings one account under the newest secret, and says whether it had to."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        keyring: Keyring,
        columns: Sequence[SealedColumn],
        reseal: Callable[[str], Awaitable[bool]],
        *,
        batch_max: int = BATCH_MAX,
    ) -> None:
        self._pool = pool
        self._sealer = Sealer(keyring)
        self._columns = columns
        self._reseal = reseal
        self._batch_max = batch_max

    async def run(self) -> Sequence[Renewed]:
        """Seal anew whatever is under an older secret; what was done, column by column."""
        return [await self._accounts(), *[await self._column(column) for column in self._columns]]

    async def _accounts(self) -> Renewed:
        renewed, unreadable, after = 0, 0, ""
        stale = account_queries.accounts_to_reseal
        while rows := await self._pool.fetch(stale, self._sealer.key_id, after, self._batch_max):
            after = rows[-1]["id"]
            for row in rows:
                try:
                    renewed += await self._reseal(row["id"])
                except SealBroken:
                    unreadable += 1
        return Renewed("accounts", renewed, unreadable)

    async def _column(self, column: SealedColumn) -> Renewed:
        renewed, unreadable, after = 0, 0, ""
        while rows := await self._pool.fetch(column.stale, self._sealer.key_id, after, self._batch_max):
            after = rows[-1]["id"]
            for row in rows:
                try:
                    anew = self._sealer.renewed(row["sealed"], f"{column.context}:{row['id']}")
                except SealBroken:
                    unreadable += 1
                    continue
                won = await self._pool.fetchval(column.renew, row["id"], row["sealed"], anew)
                renewed += won is not None
        return Renewed(column.context, renewed, unreadable)
