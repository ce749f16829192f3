"""Letters to people, written beside what causes them.

`Outbox.put` runs inside the caller's transaction: the letter is written if and only if its cause is. `once_key` names
the cause (`order_confirmed:<order>`, `sale_alarm:<sale>:<account>`): whoever comes second writes nothing, whatever
process it is. The worker's `Mailer` sends. Whom a letter is for and what it says are sealed, and erased when it ends.

A new kind of letter is a pair of templates, `web/templates/mail/<kind>.ko.txt` and `.en.txt`: the subject in the first
line, then the text; `params` are their variables, `url` is our own address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from onsale.auth.identifiers import new_id
from onsale.auth.requests import Language
from onsale.auth.sealing import Sealer
from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "outbox.sql")

# Three days: mail servers themselves give up after four or five.
EXPIRES_AFTER_S = 3 * 24 * 3600

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class ToAccount:
    """For an account: its address, and its language unless one is named, are looked up when the letter is sent. An
    account that was deleted meanwhile gets none."""

    account: str
    language: Language | None = None


@dataclass(frozen=True, slots=True)
class ToAddress:
    """For an e-mail address that no account stands behind."""

    address: str = field(repr=False)
    language: Language


class Outbox:
    """Writes letters. Needs no pool: each is part of somebody's transaction."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    async def put(
        self,
        connection: asyncpg.Connection,
        *,
        kind: str,
        to: ToAccount | ToAddress,
        params: Mapping[str, Any],
        once_key: str,
        not_before: datetime | None = None,
        expires_after_s: int = EXPIRES_AFTER_S,
    ) -> bool:
        """Write a letter, in the transaction that `connection` has begun; False when its cause has written one already.

        `params` are what JSON can say. `not_before`: send it then, not at once. After `expires_after_s` from there it
        is of no use and no longer tried.
        """
        letter = new_id()
        address = to.address if isinstance(to, ToAddress) else None
        row = await connection.fetchrow(
            queries.letter_insert,
            letter,
            once_key,
            kind,
            to.account if isinstance(to, ToAccount) else None,
            None if address is None else self._sealer.seal(address.encode(), recipient_context(letter)),
            to.language,
            self._sealer.seal(_encoder.encode(params), params_context(letter)),
            not_before,
            expires_after_s,
        )
        return row is not None


def recipient_context(letter: str) -> str:
    """Where a sealed recipient belongs."""
    return f"outbox.recipient:{letter}"


def params_context(letter: str) -> str:
    """Where sealed params belong."""
    return f"outbox.params:{letter}"
