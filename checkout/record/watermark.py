"""Waiting for the record. A waiter is released by the verdict of its own event, never by a number alone: "recorded up
to 500" says nothing of a claim below 500 that was refused.

One subscription a process hears every announcement of every sale. A waiter registers, is compared with what was heard,
then waits. Where an announcement was missed (its `prev` is not where the last one ended) or nothing was heard for
250 ms, one query to Postgres judges all waiters of the process.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import asyncpg
import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from onsale.checkout.record.events import Announcement
from onsale.checkout.record.reading import id_key
from onsale.lua.batching import Overloaded
from onsale.lua.keys import ShopKeys
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout.record", "watermark.sql")

# Longer than a commit, shorter than anybody notices.
SILENCE_MS: Final = 250
# A process that has more waiters than this answers "ask again" rather than grow.
WAITING_MAX: Final = 20_000
# Refusals remembered per stream for waiters that come after their announcement; older ones are asked of Postgres.
REFUSALS_MAX: Final = 10_000
STREAMS_MAX: Final = 1_000
# Every sale's channel in every epoch: `{SALE:shop}:EPOCH:verdicts`.
CHANNELS: Final = "{*:shop}:*:verdicts"
QUERY_TIMEOUT_S: Final = 2.0

_announcement = msgspec.json.Decoder(Announcement).decode
Id = tuple[int, int]
StreamName = tuple[str, str, int]  # sale, stream, epoch


class VerdictKind(StrEnum):
    ACCEPTED = "accepted"  # the event stands in Postgres
    REFUSED = "refused"  # it was read, and nothing came of it: `reason` says why
    PENDING = "pending"  # patience ended first


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the record says of one event. `reason` of a refusal: stock, limit, turn, epoch or state."""

    kind: VerdictKind
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FeedTick:
    """Announcements heard, waiters released by them or by Postgres, and how many wait."""

    heard: int
    released: int
    waiting: int


ACCEPTED: Final = Verdict(VerdictKind.ACCEPTED)
PENDING: Final = Verdict(VerdictKind.PENDING)
RECORDED: Final = "0-0"


@dataclass(slots=True, eq=False)
class Waiter:
    """One event somebody waits for."""

    name: StreamName
    event_id: str
    id: Id
    order: str
    since_ms: float
    verdict: asyncio.Future[Verdict]


@dataclass(slots=True)
class Heard:
    """What announcements said of one stream: every verdict in (from_id, upto] is known without Postgres."""

    from_id: Id
    upto: Id
    refused: OrderedDict[str, str] = field(default_factory=OrderedDict)

    def verdict(self, waiter: Waiter) -> Verdict | None:
        """None: not heard of."""
        if not self.from_id < waiter.id <= self.upto:
            return None
        reason = self.refused.get(waiter.event_id)
        return ACCEPTED if reason is None else Verdict(VerdictKind.REFUSED, reason)

    def hear(self, announcement: Announcement) -> None:
        prev, upto = id_key(announcement.prev), id_key(announcement.upto)
        if prev == self.upto:
            self.upto = upto
        elif upto == self.from_id:
            # Two writers in turn, heard in the wrong order.
            self.from_id = prev
        elif upto > self.upto:
            # Something in between was missed: nothing before this announcement is known any more.
            self.from_id, self.upto = prev, upto
            self.refused.clear()
        else:
            return
        self.refused.update((event_id, reason) for _, event_id, reason in announcement.refused)
        while len(self.refused) > REFUSALS_MAX:
            forgotten, _ = self.refused.popitem(last=False)
            self.from_id = max(self.from_id, id_key(forgotten))


class RecordFeed:
    """Verdicts for one process. `tick` must run in a loop: it listens, and asks where listening is not enough."""

    def __init__(
        self, redis: Redis, pool: asyncpg.Pool, *, clock_ms: Callable[[], float] = lambda: time.monotonic() * 1000
    ) -> None:
        self._redis = redis
        self._pool = pool
        self._clock_ms = clock_ms
        self._pubsub: PubSub | None = None
        self._heard: OrderedDict[StreamName, Heard] = OrderedDict()
        self._waiting: dict[StreamName, set[Waiter]] = {}
        self._count = 0
        # Set while some waiter's verdict cannot come by listening alone.
        self._has_gap = False
        self._asking: asyncio.Task[int] | None = None

    async def verdict(self, keys: ShopKeys, stream: str, event_id: str, order: str, patience_ms: int) -> Verdict:
        """Wait until the record has judged one event; PENDING when patience ends first. "0-0" stands for an event that
        was recorded before a rebuild. Raises Overloaded when too many wait already."""
        if event_id == RECORDED:
            return ACCEPTED
        waiter = self._register((keys.sale, stream, keys.epoch), event_id, order)
        try:
            known = self._known(waiter)
            if known is not None:
                return known
            # A timer of its own: a confirmation waits twice, and a time-out block costs more than all the rest of it.
            patience = asyncio.get_running_loop().call_later(patience_ms / 1000, _give_up, waiter)
            try:
                return await waiter.verdict
            finally:
                patience.cancel()
        finally:
            self._forget(waiter)

    async def tick(self, wait_ms: int = 50) -> FeedTick:
        """Hear what was announced, waiting at most `wait_ms` for the first, and ask Postgres for those that nothing was
        heard of. A Redis that is away is no failure here: then Postgres is asked."""
        waiting = self._count
        heard = await self._listen(wait_ms)
        if self._asking is None or self._asking.done():
            overdue = self._overdue()
            if overdue:
                # Beside the listening: a slow Postgres must not hold up verdicts that were announced.
                self._asking = asyncio.create_task(self._judge(overdue))
            if wait_ms == 0 and self._asking is not None:
                await self._asking
        return FeedTick(heard, max(0, waiting - self._count), self._count)

    async def close(self) -> None:
        """Stop listening. Waiters run out of patience by themselves."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._deafen()

    def _register(self, name: StreamName, event_id: str, order: str) -> Waiter:
        if self._count >= WAITING_MAX:
            raise Overloaded
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        waiter = Waiter(name, event_id, id_key(event_id), order, self._clock_ms(), future)
        self._waiting.setdefault(name, set()).add(waiter)
        self._count += 1
        return waiter

    def _forget(self, waiter: Waiter) -> None:
        waiters = self._waiting.get(waiter.name)
        if waiters is not None and waiter in waiters:
            waiters.discard(waiter)
            self._count -= 1
            if not waiters:
                del self._waiting[waiter.name]

    def _known(self, waiter: Waiter) -> Verdict | None:
        heard = self._heard.get(waiter.name)
        if heard is None:
            return None
        verdict = heard.verdict(waiter)
        if verdict is None and waiter.id <= heard.upto:
            self._has_gap = True
        return verdict

    # listening

    async def _listen(self, wait_ms: int) -> int:
        try:
            pubsub = await self._subscription()
            count = 0
            message = await pubsub.get_message(timeout=wait_ms / 1000)
            while message is not None:
                count += self._on_message(message)
                message = await pubsub.get_message(timeout=0)
            return count
        except (RedisError, OSError):
            await self._deafen()
            await asyncio.sleep(wait_ms / 1000)
            return 0

    async def _subscription(self) -> PubSub:
        if self._pubsub is None:
            pubsub = self._redis.pubsub()
            await pubsub.psubscribe(CHANNELS)
            self._pubsub = pubsub
            # What was announced before this is not known.
            self._heard.clear()
            self._has_gap = True
        return self._pubsub

    async def _deafen(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            try:
                await pubsub.aclose()  # type: ignore[no-untyped-call]
            except (RedisError, OSError):
                return

    def _on_message(self, message: dict[str, Any]) -> int:
        if message["type"] != "pmessage":
            return 0
        try:
            announcement = _announcement(message["data"])
            sale = message["channel"].decode()[1:].split(":shop}:", 1)[0]
            self.hear(sale, announcement)
        except (ValueError, IndexError):
            # Nobody but us publishes here; whoever else does is not believed, and waiters ask Postgres.
            return 0
        return 1

    def hear(self, sale: str, announcement: Announcement) -> None:
        """Take one announcement and release whom it judges."""
        name = (sale, announcement.stream, announcement.epoch)
        heard = self._heard.get(name)
        if heard is None:
            prev = id_key(announcement.prev)
            heard = self._heard[name] = Heard(prev, prev)
            while len(self._heard) > STREAMS_MAX:
                self._heard.popitem(last=False)
        self._heard.move_to_end(name)
        heard.hear(announcement)
        for waiter in self._waiting.get(name, ()):
            verdict = self._known(waiter)
            if verdict is not None and not waiter.verdict.done():
                waiter.verdict.set_result(verdict)

    # asking

    def _overdue(self) -> list[Waiter]:
        """Everyone who waits, as soon as one of them waits in silence or behind a gap: it is one query either way."""
        waiters = [waiter for group in self._waiting.values() for waiter in group if not waiter.verdict.done()]
        silent_since = self._clock_ms() - SILENCE_MS
        if not self._has_gap and all(waiter.since_ms > silent_since for waiter in waiters):
            return []
        self._has_gap = False
        for waiter in waiters:
            waiter.since_ms = self._clock_ms()
        return waiters

    async def _judge(self, waiters: Sequence[Waiter]) -> int:
        rows = [(at, *waiter.name, waiter.event_id, waiter.order) for at, waiter in enumerate(waiters)]
        try:
            answers = await self._ask(rows)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return 0  # Asked again after the next silence.
        released = 0
        for answer in answers:
            verdict, waiter = _verdict(answer), waiters[answer["at"]]
            if verdict is not None and not waiter.verdict.done():
                waiter.verdict.set_result(verdict)
                released += 1
        return released

    async def _ask(self, rows: Sequence[tuple[Any, ...]]) -> list[asyncpg.Record]:
        columns = [list(column) for column in zip(*rows, strict=True)]
        answers: list[asyncpg.Record] = await self._pool.fetch(SQL.verdicts_of, *columns, timeout=QUERY_TIMEOUT_S)
        return answers


def _give_up(waiter: Waiter) -> None:
    if not waiter.verdict.done():
        waiter.verdict.set_result(PENDING)


def _verdict(answer: asyncpg.Record) -> Verdict | None:
    if answer["refused"] is not None:
        return Verdict(VerdictKind.REFUSED, answer["refused"])
    if answer["is_recorded"]:
        return ACCEPTED
    # Fenced off before it was read: nothing will ever come of it.
    return Verdict(VerdictKind.REFUSED, "epoch") if answer["is_closed"] else None
