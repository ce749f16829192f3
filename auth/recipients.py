"""Where an account's letters go. Read when a letter is sent, so that an account that was deleted gets none."""

from __future__ import annotations

import asyncpg

from onsale.auth.accounts import context
from onsale.auth.datakeys import DataKeys
from onsale.auth.keys import Keyring
from onsale.auth.mailer import Recipient
from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "recipients.sql")


class Recipients:
    """Looks addresses up."""

    def __init__(self, pool: asyncpg.Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._data_keys = DataKeys(keyring)

    async def of(self, account: str) -> Recipient | None:
        """The account's address and language; None when it has none, or was deleted."""
        row = await self._pool.fetchrow(queries.recipient_show, account)
        if row is None:
            return None
        sealer = self._data_keys.of(account, row["data_key"])
        return Recipient(sealer.open(row["email"], context("email", account)).decode(), row["language"])
