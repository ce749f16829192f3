"""Webhooks of providers: verified, kept once, answered at once. What they say is believed by nobody.

An event is a hint that something became of a payment. The completer asks the provider, and what the provider answers
moves states, forward only; so events may come early, twice, in any order, contradict each other, or never come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import asyncpg

from onsale.auth.errors import StoreUnavailable
from onsale.checkout.errors import ProviderUnknown
from onsale.checkout.orders import AWAY
from onsale.checkout.ports import PaymentProvider
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout", "webhooks.sql")

# A provider is answered within a second: whether the event is kept, or that it should be sent again.
ANSWER_WITHIN_S = 0.8
FORGET_MAX = 1_000


class HintOutcome(StrEnum):
    """What came of a hint."""

    AGREED = "agreed"  # the record had it already
    SETTLED = "settled"  # an attempt that nobody had ended has ended
    REFUNDED = "refunded"  # a capture that belongs to no sold claim goes back
    CONTRADICTED = "contradicted"  # the provider took back what the record has as paid: for people
    SILENT = "silent"  # the provider says nothing of it


@dataclass(frozen=True, slots=True)
class Hint:
    """An event and the payment it is about, as the record has it. `instrument` is sealed; None = erased."""

    provider: str
    event_id: str
    tries: int
    attempt: str
    order: str
    method: str
    state: str
    amount: int
    currency: str
    key: str
    instrument: bytes | None
    # Whether money of it goes back already.
    is_refunding: bool


class Inbox:
    """Events of all providers, in Postgres. Any number of workers may take from it at once."""

    def __init__(self, pool: asyncpg.Pool, providers: Mapping[str, PaymentProvider]) -> None:
        self._pool = pool
        self._providers = providers

    async def receive(self, provider: str, headers: Mapping[str, str], raw: bytes, now_s: float) -> bool:
        """Whether the event is new; `raw` are the very bytes that came, for they are what was signed.

        Raises ProviderUnknown, SignatureInvalid, EventUnreadable, StoreUnavailable.
        """
        found = self._providers.get(provider)
        if found is None:
            raise ProviderUnknown
        event = found.read_event(headers, raw, now_s)
        if event is None:
            return False
        args = (provider, event.event_id, event.kind[:200], event.attempt, event.order)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await self._pool.fetchval(SQL.event_put, *args) is not None
        except AWAY as error:
            raise StoreUnavailable from error

    async def take(self, lease_ms: int, count: int) -> list[Hint]:
        """At most `count` hints that are due, ours for `lease_ms`."""
        rows: list[Any] = await self._pool.fetch(SQL.events_take, lease_ms, count)
        return [Hint(**row) for row in rows]

    async def done(self, hint: Hint, outcome: HintOutcome) -> None:
        """Nothing is left to ask."""
        await self._pool.execute(SQL.event_done, hint.provider, hint.event_id, outcome)

    async def forget(self) -> int:
        """Delete what was handled long ago; answers how many."""
        deleted: str = await self._pool.execute(SQL.events_forget, FORGET_MAX)
        return int(deleted.rpartition(" ")[2])
