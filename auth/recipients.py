"""Where an account's letters go. Read when a letter is sent, so that an account that was deleted gets none."""

from __future__ import annotations

import asyncpg

from onsale.auth.mailer import Recipient
from onsale.auth.sealing import Sealer
from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "recipients.sql")


class Recipients:
    """Looks addresses up."""

    def __init__(self, pool: asyncpg.Pool, sealer: Sealer) -> None:
        self._pool = pool
        self._sealer = sealer

    async def of(self, account: str) -> Recipient | None:
        """The account's address and language; None when it has none, or was deleted."""
        row = await self._pool.fetchrow(queries.recipient_show, account)
        if row is None:
            return None
        email = self._sealer.open(row["email"], f"accounts.email:{account}").decode()
        return Recipient(email, row["language"])
