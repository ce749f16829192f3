"""What buyers are told while they look: one hub a process, whatever transport carries it.

The record writes a notice with each change of an order. The hub asks Postgres for those of everyone who listens here in
one query, several times a second, and puts them into each listener's bounded queue; a listener that does not keep up is
let go and comes back with the id it saw last. Nobody polls for one buyer.

Notices are read up to a horizon below which every transaction has ended, so none is missed however late it commits.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec

from onsale.auth.requests import rfc3339
from onsale.catalog.sales import SHOP
from onsale.checkout.errors import NoticesExhausted
from onsale.checkout.orders import fetch
from onsale.checkout.schemas import Money, NoticeReply
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout", "notices.sql")

# What one listener may be behind: a cancelled sale tells a buyer two things an order.
QUEUE_MAX = 256
CURSOR = re.compile(r"([0-9]{1,18})-([0-9]{1,18})", re.ASCII)
MISSED_MAX = 200
# What a cart is told to hurry for: this many units, or too few for what it holds.
LOW_STOCK = 5

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a notice stands among all; its text is an event's id and a list's cursor."""

    xid: int
    id: int

    @classmethod
    def read(cls, text: str) -> Cursor:
        """ValueError for what is none."""
        match = CURSOR.fullmatch(text)
        if match is None:
            raise ValueError("no cursor")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.xid}-{self.id}"


@dataclass(frozen=True, slots=True)
class Said:
    """One event for one listener: its id, its name, its JSON on one line."""

    id: str
    name: str
    data: bytes


class Listener:
    """Somebody who listens here: the handler takes from `queue`; None ends it."""

    def __init__(self, account: str, session: str, since: int) -> None:
        self.account = account
        self.session = session
        # Notices of transactions from here on are told by the hub; those before are looked up.
        self.since = since
        self.queue: asyncio.Queue[Said | None] = asyncio.Queue(QUEUE_MAX)
        self.is_over = False
        # Products of its cart that it has been told are low.
        self.low: dict[str, int] = {}

    def tell(self, said: Said) -> None:
        """Queue an event; one that does not keep up is let go."""
        try:
            self.queue.put_nowait(said)
        except asyncio.QueueFull:
            self.end()

    def end(self) -> None:
        """No more comes; what is queued is still taken where there is room for saying so."""
        if self.is_over:
            return
        self.is_over = True
        if self.queue.full():
            self.queue.get_nowait()
        self.queue.put_nowait(None)


@dataclass(frozen=True, slots=True)
class NoticeLimits:
    """How many listeners this process has room for, and one person."""

    process_max: int = 10_000
    person_max: int = 6


@dataclass(frozen=True, slots=True)
class NoticeTick:
    """Events told to listeners, and listeners there are."""

    told: int = 0
    listeners: int = 0


class NoticeBook:
    """Notices as the record has them. Raises StoreUnavailable when Postgres is away."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def horizon(self) -> int:
        """Where a listener of now begins."""
        return int((await self._fetch(SQL.horizon))[0][0])

    async def between(self, since: int, accounts: Sequence[str]) -> tuple[int, list[Mapping[str, Any]]]:
        """The present horizon, and what was written for these accounts from `since` up to it, in order."""
        rows = await self._fetch(SQL.notices_between, since, accounts)
        return int(rows[0]["horizon"]), [row for row in rows if row["account"] is not None]

    async def missed(self, account: str, after: Cursor, until: int) -> list[Said]:
        """What one account was not told after a notice, up to a horizon."""
        rows = await self._fetch(SQL.notices_missed, account, after.xid, after.id, until, MISSED_MAX)
        return [said_of(row) for row in rows]

    async def page(self, account: str, after: Cursor | None, limit: int) -> tuple[list[NoticeReply], str | None]:
        """A page, newest first, and where the next one begins."""
        bounds = (None, None) if after is None else (after.xid, after.id)
        rows = await self._fetch(SQL.notices_page, account, *bounds, limit + 1)
        items = [notice_reply(row) for row in rows[:limit]]
        return items, items[-1].notice if len(rows) > limit else None

    async def _fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        return await fetch(self._pool, query, *args)


# What the carts of these accounts hold (account -> product -> units), and the units free of these products.
Carts = Callable[[Sequence[str]], Awaitable[Mapping[str, Mapping[str, int]]]]
FreeUnits = Callable[[Sequence[str]], Awaitable[Mapping[str, int | None]]]


class NoticeHub:
    """Everyone who listens in this process. `revoked` is what it knows of sessions that were ended."""

    def __init__(
        self, book: NoticeBook, limits: NoticeLimits | None = None, *, revoked: Container[str] = frozenset()
    ) -> None:
        self._book = book
        self._limits = limits or NoticeLimits()
        self._revoked = revoked
        self._listeners: defaultdict[str, dict[Listener, None]] = defaultdict(dict)
        self._owners: Counter[str] = Counter()
        # Up to which horizon was read; None while nobody listens. Whoever joins does so between two readings, so that
        # each reading is for everyone it has to be for.
        self._read_to: int | None = None
        self._reading = asyncio.Lock()
        self._is_closing = False

    @property
    def count(self) -> int:
        """Listeners there are."""
        return self._owners.total()

    async def join(self, account: str, session: str) -> Listener:
        """Listen from now on. Raises NoticesExhausted, StoreUnavailable."""
        if self._is_closing or self.count >= self._limits.process_max:
            raise NoticesExhausted
        if self._owners[account] >= self._limits.person_max:
            raise NoticesExhausted
        # Counted before anything is waited for: a thousand that join at once must not all find room.
        self._owners[account] += 1
        try:
            async with self._reading:
                if self._read_to is None:
                    self._read_to = await self._book.horizon()
                listener = Listener(account, session, self._read_to)
                self._listeners[account][listener] = None
        except BaseException:
            self._forget(account)
            raise
        return listener

    def leave(self, listener: Listener) -> None:
        """Listen no more."""
        listener.end()
        self._listeners[listener.account].pop(listener, None)
        if not self._listeners[listener.account]:
            del self._listeners[listener.account]
        self._forget(listener.account)

    async def tick(self) -> NoticeTick:
        """Tell everyone what was written since the last tick, in one query. Raises StoreUnavailable: told later."""
        self._end_revoked()
        async with self._reading:
            if not self._listeners:
                self._read_to = None
            if self._read_to is None:
                return NoticeTick()
            self._read_to, rows = await self._book.between(self._read_to, list(self._listeners))
            return NoticeTick(sum(self._tell(row) for row in rows), self.count)

    async def warn(self, carts: Carts, free_units: FreeUnits) -> NoticeTick:
        """Tell those whose carts hold what is running out, each time it is another figure."""
        accounts = list(self._listeners)
        held = await carts(accounts) if accounts else {}
        products = sorted({product for cart in held.values() for product in cart})
        free = await free_units(products) if products else {}
        told = 0
        for account, cart in held.items():
            known = {product: units for product in cart if (units := free.get(product)) is not None}
            low = {product: units for product, units in known.items() if units <= max(LOW_STOCK, cart[product] - 1)}
            told += sum(self._warn(listener, low) for listener in self._listeners.get(account, {}))
        return NoticeTick(told, self.count)

    def close(self) -> None:
        """End every listener: their clients come back elsewhere."""
        self._is_closing = True
        for listener in [one for mine in self._listeners.values() for one in mine]:
            listener.end()

    def _tell(self, row: Mapping[str, Any]) -> int:
        said = said_of(row)
        listeners = list(self._listeners.get(row["account"], {}))
        for listener in listeners:
            listener.tell(said)
        return len(listeners)

    def _warn(self, listener: Listener, low: Mapping[str, int]) -> int:
        news = {product: free for product, free in low.items() if listener.low.get(product) != free}
        listener.low = dict(low)
        for product, free in news.items():
            data = _encode({"kind": "stock", "product": product, "free": free})
            # Not kept: what comes back after it is what came after the last notice.
            listener.tell(Said("", "stock", data))
        return len(news)

    def _end_revoked(self) -> None:
        for listener in [one for mine in self._listeners.values() for one in mine if one.session in self._revoked]:
            listener.end()

    def _forget(self, account: str) -> None:
        self._owners[account] -= 1
        if not self._owners[account]:
            del self._owners[account]


def notice_reply(row: Mapping[str, Any]) -> NoticeReply:
    """A notice as its buyer reads it."""
    return NoticeReply(
        notice=str(Cursor(row["xid"], row["id"])),
        kind=row["kind"],
        order=row["order"],
        sale=None if row["sale"] == SHOP else row["sale"],
        state=row["state"],
        reason=row["reason"],
        refund=None if row["amount"] is None else Money(row["amount"], row["currency"]),
        at=rfc3339(row["at_ms"]),
    )


def said_of(row: Mapping[str, Any]) -> Said:
    """A notice as an event."""
    reply = notice_reply(row)
    return Said(reply.notice, reply.kind, _encode(reply))
