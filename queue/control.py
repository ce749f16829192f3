"""What operators do to a sale: each change, its audit row and its version in one transaction, then into the line.

Postgres is the truth; the line is told at once by whoever changed it, and again by the Keeper where that failed. Each
audit row carries the hash of the one before it, so a row that was changed, added or taken out breaks the chain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import asyncpg
import msgspec
import structlog
from msgspec import UNSET, UnsetType
from redis.asyncio import Redis
from redis.exceptions import RedisError

from onsale.catalog.errors import SaleUnknown
from onsale.catalog.sales import Policy, SaleBook
from onsale.lua.keys import LineKeys
from onsale.lua.line import LineRefused, LineScripts
from onsale.migrations.sql import load_queries
from onsale.queue.errors import LineRecovering, PolicyStale, SaleEnded, SaleNotScheduled, SaleSoldOut
from onsale.queue.ports import ShopPort
from onsale.queue.sync import LineSync

log = structlog.get_logger()
QUERIES = load_queries("onsale.queue", "control.sql")

OPERATOR = "operator"
# Who did what nobody does by hand.
SYSTEM = "system"
# What the first row of a chain names as the hash before it.
GENESIS = "0" * 64


class PolicyChange(msgspec.Struct, frozen=True, kw_only=True):
    """A merge patch of the policy, values checked; what is not set stays."""

    mode: Literal["manual"] | UnsetType = UNSET
    rate_centi: int | UnsetType = UNSET
    active_max: int | UnsetType = UNSET
    pass_ttl_s: int | UnsetType = UNSET
    turn_ttl_s: int | UnsetType = UNSET
    absent_after_s: int | UnsetType = UNSET
    paused: bool | UnsetType = UNSET

    def settings(self) -> dict[str, Any]:
        """What is set, without `paused`."""
        return {
            name: value
            for name in self.__struct_fields__
            if name != "paused" and (value := getattr(self, name)) is not UNSET
        }

    @property
    def is_only_pausing(self) -> bool:
        return self.paused is not UNSET and not self.settings()


@dataclass(frozen=True, slots=True)
class Admission:
    """How people are let in now, and who said so last. `version` is the ETag."""

    policy: Policy
    paused_by: tuple[str, ...]
    version: int
    changed_at_ms: int
    changed_by: str | None
    revert_at_ms: int | None

    @property
    def is_paused(self) -> bool:
        """Whether an operator holds the line."""
        return OPERATOR in self.paused_by


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One operator action."""

    seq: int
    at: datetime
    actor: str
    action: str
    before: dict[str, Any]
    after: dict[str, Any]
    reason: str | None
    prev_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class Chain:
    """The verdict on a sale's audit: rows read, and the number of the first that does not fit (None: whole)."""

    rows: int
    broken_at: int | None = None

    @property
    def is_whole(self) -> bool:
        return self.broken_at is None


class Control:
    """Changes of a sale by its operators, in force in every process within a second. `actor` is who asks; `shop` says
    whether a sale that sold out has anything to open with (None: for whoever opens nothing).

    Every method raises SaleUnknown."""

    def __init__(self, redis: Redis, pool: asyncpg.Pool, book: SaleBook, shop: ShopPort | None = None) -> None:
        self._scripts = LineScripts(redis)
        self._pool = pool
        self._book = book
        self._shop = shop
        self._sync = LineSync(self._scripts, book)

    async def admission(self, sale: str) -> Admission:
        """The settings in force."""
        row = await self._pool.fetchrow(QUERIES.admission, sale)
        if row is None:
            raise SaleUnknown
        return Admission(
            policy=msgspec.json.decode(row["policy"], type=Policy),
            paused_by=tuple(row["paused_by"]),
            version=row["policy_version"],
            changed_at_ms=row["changed_at_ms"],
            changed_by=row["policy_changed_by"],
            revert_at_ms=row["revert_at_ms"],
        )

    async def set_policy(
        self,
        sale: str,
        change: PolicyChange,
        *,
        actor: str,
        version: int | None,
        reason: str | None = None,
        revert_after_s: int | None = None,
    ) -> Admission:
        """Change settings if they are still those of `version` (None: whatever they are). With `revert_after_s` what
        was before comes back by itself; of changes for a while that follow each other, what was before the first.
        A pause or a resumption for a while comes back as well, unless somebody paused or resumed since. A change that
        only pauses or resumes compares no version. Raises PolicyStale."""
        async with self._locked(sale) as (conn, row):
            if version is not None and version != row["policy_version"] and not change.is_only_pausing:
                raise PolicyStale(row["policy_version"])
            before = msgspec.json.decode(row["policy"], type=Policy)
            after = msgspec.structs.replace(before, **change.settings())
            holders = _held(row["paused_by"], change.paused)
            if change.is_only_pausing and revert_after_s is None:
                if holders != row["paused_by"]:
                    await self._set_pause(conn, row, sale, holders, actor, reason)
            else:
                back = _back(row, change) if revert_after_s is not None else None
                await conn.execute(QUERIES.policy_set, sale, _json(after), holders, actor, revert_after_s, back)
                told = {"revert_after_s": revert_after_s} if revert_after_s is not None else {}
                await _record(
                    conn, sale, row["at"], actor, "set_admission",
                    _told(before, row["paused_by"]), _told(after, holders) | told, reason,
                )  # fmt: skip
        await self._tell(sale)
        return await self.admission(sale)

    async def pause(self, sale: str, *, actor: str, reason: str | None = None) -> Admission:
        """Hold the line in the operators' name. Idempotent."""
        return await self.set_policy(sale, PolicyChange(paused=True), actor=actor, version=None, reason=reason)

    async def resume(self, sale: str, *, actor: str, reason: str | None = None) -> Admission:
        """Lift the operators' hold; what others hold stays held. Idempotent."""
        return await self.set_policy(sale, PolicyChange(paused=False), actor=actor, version=None, reason=reason)

    async def open(self, sale: str, *, actor: str, reason: str | None = None) -> None:
        """Open now: before its time, after a closing, or again after a sell-out, when units returned; also ends a
        draining. Nothing happens where the sale is open. Raises SaleEnded when its scheduled end has passed or it was
        cancelled, and SaleSoldOut where not one unit has returned: it would be sold out again before anybody read that
        it is open."""
        is_sold_out = await self._is_sold_out(sale)
        is_empty = is_sold_out and not await self._has_units(sale)
        async with self._locked(sale) as (conn, row):
            if row["now_ms"] >= row["closes_at_ms"] or row["cancelled_at"]:
                raise SaleEnded
            if is_empty:
                raise SaleSoldOut
            is_early = row["now_ms"] < row["opens_at_ms"]
            if is_early or is_sold_out or row["closed_at"]:
                await conn.execute(QUERIES.opening_set, sale)
            elif row["draining_at"]:
                await conn.execute(QUERIES.draining_end, sale)
            else:
                return
            await _record(conn, sale, row["at"], actor, "open", _hours(row), {"opened": True}, reason)
        await self._tell(sale)

    async def close(self, sale: str, *, actor: str, reason: str | None = None) -> None:
        """Close now, whatever the schedule says. Nothing happens where the sale has ended."""
        async with self._locked(sale) as (conn, row):
            if row["closed_at"] or row["now_ms"] >= row["closes_at_ms"]:
                return
            await conn.execute(QUERIES.closing_set, sale)
            await _record(conn, sale, row["at"], actor, "close", _hours(row), {"closed": True}, reason)
        await self._tell(sale)

    async def cancel(self, sale: str, *, actor: str, key: str, digest: str, reason: str | None = None) -> bool:
        """Note that a closed sale is cancelled for good, by the request of this key; False where it was already.
        What was bought in it is given back by whoever keeps the money."""
        async with self._locked(sale) as (conn, row):
            if not await conn.fetchval(QUERIES.cancellation_set, sale, key, digest):
                return False
            await _record(conn, sale, row["at"], actor, "cancel", _hours(row), {"cancelled": True}, reason)
        await self._tell(sale)
        return True

    async def drain(self, sale: str, *, actor: str, reason: str | None = None) -> None:
        """Let nobody join any more, and those in line in. Raises SaleEnded, and SaleNotScheduled before the opening."""
        async with self._locked(sale) as (conn, row):
            if row["closed_at"] or row["now_ms"] >= row["closes_at_ms"]:
                raise SaleEnded
            if row["now_ms"] < row["opens_at_ms"]:
                raise SaleNotScheduled
            if row["draining_at"]:
                return
            await conn.execute(QUERIES.draining_set, sale)
            await _record(conn, sale, row["at"], actor, "drain", _hours(row), {"draining": True}, reason)
        await self._tell(sale)

    async def set_message(self, sale: str, message: dict[str, str] | None, *, actor: str) -> None:
        """What every waiting buyer reads, {"ko", "en"}; None takes it away."""
        async with self._locked(sale) as (conn, row):
            before = json.loads(row["message"]) if row["message"] else None
            if before == message:
                return
            await conn.execute(QUERIES.message_set, sale, _json(message) if message else None)
            await _record(conn, sale, row["at"], actor, "set_message", {"message": before}, {"message": message}, None)
        await self._tell(sale)

    async def note(
        self,
        sale: str,
        action: str,
        *,
        actor: str,
        before: dict[str, Any],
        after: dict[str, Any],
        reason: str | None = None,
    ) -> None:
        """Write down what an operator did to something that is not kept here: a person's ticket."""
        async with self._locked(sale) as (conn, row):
            await _record(conn, sale, row["at"], actor, action, before, after, reason)

    async def audit(self, sale: str, *, limit: int = 20, before_seq: int | None = None) -> list[AuditRow]:
        """Operator actions, newest first."""
        rows = await self._pool.fetch(QUERIES.audit_page, sale, before_seq or 2**31 - 1, limit)
        return [_row(row) for row in rows]

    async def verify_chain(self, sale: str) -> Chain:
        """Whether every row follows from the one before it."""
        return await verify_chain(self._pool, sale)

    async def revert_due(self) -> int:
        """Take back what was changed for a while that is over; how many sales that was."""
        due = [row["id"] for row in await self._pool.fetch(QUERIES.sales_to_revert)]
        reverted = [sale for sale in due if await self._revert(sale)]
        for sale in reverted:
            await self._tell(sale)
        return len(reverted)

    async def _revert(self, sale: str) -> bool:
        async with self._locked(sale) as (conn, row):
            now = await conn.fetchrow(QUERIES.revert, sale, SYSTEM)
            if now is None:
                return False
            before, after = (msgspec.json.decode(each["policy"], type=Policy) for each in (row, now))
            await _record(
                conn, sale, row["at"], SYSTEM, "revert",
                _told(before, row["paused_by"]), _told(after, now["paused_by"]), None,
            )  # fmt: skip
            return True

    async def _set_pause(
        self, conn: asyncpg.Connection, row: asyncpg.Record, sale: str, holders: list[str], actor: str, why: str | None
    ) -> None:
        await conn.execute(QUERIES.pause_set, sale, holders, actor)
        action = "pause" if OPERATOR in holders else "resume"
        await _record(
            conn, sale, row["at"], actor, action, {"paused_by": row["paused_by"]}, {"paused_by": holders}, why
        )

    async def _is_sold_out(self, sale: str) -> bool:
        try:
            inspection = await self._scripts.inspect(LineKeys(sale, self._book.get(sale).line_epoch))
        except RedisError:
            return False
        return inspection.is_sold_out

    async def _has_units(self, sale: str) -> bool:
        """Whether anything is left that may be sold; a shop that cannot say stops nobody from opening."""
        if self._shop is None:
            return True
        try:
            figures = await self._shop.figures(sale)
        except Exception as error:
            # Whatever keeps the other room from answering is its own to report.
            log.debug("shop.figures_missing", sale=sale, error=type(error).__name__)
            return True
        return figures.free + figures.held + figures.claimed > 0

    @asynccontextmanager
    async def _locked(self, sale: str) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.Record]]:
        """One transaction on a sale nobody else changes meanwhile. Nothing but Postgres happens inside."""
        async with self._pool.acquire() as conn, conn.transaction():
            row = await conn.fetchrow(QUERIES.sale_lock, sale)
            if row is None:
                raise SaleUnknown
            yield conn, row

    async def _tell(self, sale: str) -> None:
        """Into the line now; where that fails the Keeper does it as soon as it can be done."""
        try:
            await self._sync.push(sale)
        except (LineRecovering, LineRefused, RedisError) as error:
            log.warning("line.not_told", sale=sale, error=type(error).__name__)


async def audit_trail(connection: asyncpg.Pool | asyncpg.Connection, sale: str) -> list[AuditRow]:
    """Every operator action on a sale, oldest first."""
    return [_row(record) for record in await connection.fetch(QUERIES.audit_all, sale)]


async def verify_chain(pool: asyncpg.Pool, sale: str) -> Chain:
    """Whether every row of a sale's audit follows from the one before it."""
    expected, rows = GENESIS, 0
    for row in await audit_trail(pool, sale):
        rows += 1
        fits = row.seq == rows and row.prev_hash == expected and row.hash == _hash(sale, row)
        if not fits:
            return Chain(rows, row.seq)
        expected = row.hash
    return Chain(rows)


async def _record(
    conn: asyncpg.Connection,
    sale: str,
    at: datetime,
    actor: str,
    action: str,
    before: dict[str, Any],
    after: dict[str, Any],
    reason: str | None,
) -> None:
    last = await conn.fetchrow(QUERIES.audit_last, sale)
    seq, prev_hash = (last["seq"] + 1, last["hash"]) if last else (1, GENESIS)
    row = AuditRow(seq, at, actor, action, before, after, reason, prev_hash, "")
    await conn.execute(
        QUERIES.audit_insert,
        *(sale, seq, at, actor, action, _json(before), _json(after), reason, prev_hash, _hash(sale, row)),
    )


def _hash(sale: str, row: AuditRow) -> str:
    """SHA-256 of the row as JSON with sorted names and no spaces; times in microseconds."""
    content = {
        "sale": sale,
        "seq": row.seq,
        "at": round(row.at.timestamp() * 1_000_000),
        "actor": row.actor,
        "action": row.action,
        "from": row.before,
        "to": row.after,
        "reason": row.reason,
        "prev_hash": row.prev_hash,
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _row(record: asyncpg.Record) -> AuditRow:
    return AuditRow(
        seq=record["seq"],
        at=record["at"],
        actor=record["actor"],
        action=record["action"],
        before=json.loads(record["before"]),
        after=json.loads(record["after"]),
        reason=record["reason"],
        prev_hash=record["prev_hash"],
        hash=record["hash"],
    )


def _held(holders: list[str], paused: bool | UnsetType) -> list[str]:
    if paused is UNSET:
        return holders
    others = [holder for holder in holders if holder != OPERATOR]
    return [OPERATOR, *others] if paused else others


def _back(row: asyncpg.Record, change: PolicyChange) -> str:
    """What comes back of a change for a while: the policy, and `paused` where that was changed."""
    back: dict[str, Any] = json.loads(row["revert_to"] or row["policy"])
    if change.paused is not UNSET:
        back.setdefault("paused", OPERATOR in row["paused_by"])
    return _json(back)


def _told(policy: Policy, holders: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(policy)
    return told | {"paused_by": holders}


def _hours(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "opened_at": row["opened_at"].isoformat() if row["opened_at"] else None,
        "closed_at": row["closed_at"].isoformat() if row["closed_at"] else None,
        "draining_at": row["draining_at"].isoformat() if row["draining_at"] else None,
    }


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
