"""Sends what is in the outbox. Any number may tick; a letter is claimed by one.

Claiming puts a letter off by more than sending can take, so it needs no transaction while the mail server is talked to,
and whoever dies leaves it to the next. The one gap that is left, dying between the server's "taken" and writing it
down, sends the same letter twice under one Message-ID; the other choice would lose it.

While the mail server is away nothing is claimed: an outage uses no letter's tries up. No log and no error names whom a
letter is for or what it says.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import asyncpg
import msgspec
import structlog

from onsale.auth.letters import AddressBroken, Letter, LetterBroken, Letters
from onsale.auth.outbox import params_context, recipient_context
from onsale.auth.post import Counter, LetterPostponed, LetterRefused, Post, PostAway
from onsale.auth.requests import Language
from onsale.auth.sealing import SealBroken, Sealer
from onsale.migrations.sql import load_queries

log = structlog.get_logger()
queries = load_queries("onsale.auth", "mailer.sql")

MAILER_INTERVAL_MS = 500
FORGET_INTERVAL_MS = 600_000
# Longer than any cause can come again: a sale's alarm, an order's confirmation.
KEEP_DAYS = 90
FORGET_MAX = 1_000

Outcome = Literal["sent", "expired", "refused", "vanished"]


@dataclass(frozen=True, slots=True)
class MailerPolicy:
    """How much one tick takes, and when a letter that was not taken is tried again."""

    batch_max: int = 50
    # A letter is begun only in the first half, and no conversation takes the second.
    claim_s: int = 120
    pause_first_s: float = 15.0
    pause_last_s: float = 3_600.0


@dataclass(frozen=True, slots=True)
class Recipient:
    """Where an account's letters go."""

    email: str = field(repr=False)
    language: Language


@dataclass(frozen=True, slots=True)
class MailTick:
    """How many letters ended in which way, and how many will be tried again. `more`: others wait for it."""

    sent: int = 0
    expired: int = 0
    refused: int = 0
    vanished: int = 0
    postponed: int = 0
    more: bool = False


class Mailer:
    """`tick()` in every worker. `recipient_of` an account is None when it was deleted."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        sealer: Sealer,
        post: Post,
        letters: Letters,
        recipient_of: Callable[[str], Awaitable[Recipient | None]],
        policy: MailerPolicy | None = None,
    ) -> None:
        self._pool = pool
        self._sealer = sealer
        self._post = post
        self._letters = letters
        self._recipient_of = recipient_of
        self._policy = policy or MailerPolicy()

    async def tick(self) -> MailTick:
        """Send what is due, a batch at most. Raises PostAway; then nothing was claimed, or the rest is put off."""
        if not await self._pool.fetchval(queries.letters_due):
            return MailTick()
        async with self._post.open() as counter:
            # Before the claim is sent: by this clock it ends earlier than by the database's.
            claimed_s = time.monotonic()
            rows = await self._pool.fetch(queries.letters_claim, self._policy.batch_max, self._policy.claim_s)
            ended = {"sent": 0, "expired": 0, "refused": 0, "vanished": 0, "postponed": 0}
            for row in sorted(rows, key=lambda each: str(each["id"])):
                if time.monotonic() - claimed_s > self._policy.claim_s / 2:
                    break
                ended[await self._attend(row, counter)] += 1
        return MailTick(**ended, more=len(rows) == self._policy.batch_max)

    async def _attend(self, row: asyncpg.Record, counter: Counter) -> Outcome | Literal["postponed"]:
        """One letter, to its end or to another time."""
        try:
            outcome = await self._deliver(row, counter)
        except (LetterPostponed, PostAway, SealBroken, LetterBroken) as error:
            # A key that is not listed, a template that is not there: a person mends it, the letter is still wanted.
            await self._pool.fetchrow(queries.letter_postpone, row["id"], self._pause_s(row["tries"]))
            log.warning("mail.postponed", kind=row["kind"], error=type(error).__name__, failures=row["tries"])
            if isinstance(error, PostAway):
                raise
            return "postponed"
        await self._pool.fetchrow(queries.letter_end, row["id"], outcome)
        log.info("mail.ended", kind=row["kind"], outcome=outcome)
        return outcome

    async def _deliver(self, row: asyncpg.Record, counter: Counter) -> Outcome:
        if row["is_expired"]:
            return "expired"
        letter = await self._letter(row)
        if letter is None:
            return "vanished"
        try:
            await counter.hand_in(self._letters.write(letter))
        except (LetterRefused, AddressBroken):
            return "refused"
        return "sent"

    async def _letter(self, row: asyncpg.Record) -> Letter | None:
        to = await self._recipient(row)
        if to is None:
            return None
        sealed = self._sealer.open(row["params"], params_context(row["id"]))
        params: dict[str, Any] = msgspec.json.decode(sealed)
        return Letter(row["id"], row["kind"], to.email, row["language"] or to.language, params)

    async def _recipient(self, row: asyncpg.Record) -> Recipient | None:
        if row["account"] is not None:
            return await self._recipient_of(row["account"])
        address = self._sealer.open(row["recipient"], recipient_context(row["id"])).decode()
        return Recipient(address, row["language"])

    def _pause_s(self, tries: int) -> float:
        """Doubling, bounded, with jitter so that a server that comes back is not met by all at once."""
        longest_s = min(self._policy.pause_last_s, self._policy.pause_first_s * float(1 << min(tries - 1, 20)))
        return longest_s * random.uniform(0.75, 1.0)


@dataclass(frozen=True, slots=True)
class ForgetTick:
    """How many rows were dropped. `more`: others wait for it."""

    forgotten: int
    more: bool


class OutboxJanitor:
    """Forgets letters that ended long ago; they tell nothing but that their cause was written about."""

    def __init__(self, pool: asyncpg.Pool, *, forget_max: int = FORGET_MAX) -> None:
        self._pool = pool
        self._forget_max = forget_max

    async def tick(self) -> ForgetTick:
        """Forget a batch."""
        forgotten = len(await self._pool.fetch(queries.letters_forget, self._forget_max, KEEP_DAYS))
        return ForgetTick(forgotten, more=forgotten == self._forget_max)
