"""Entries: units that are redeemed on the visit, each once, with a code that the buyer shows.

A code is 80 random bits, found by its hash and sealed for its buyer to read; it is made when the buyer first asks, so
nothing has to happen between the payment and the door. Whether it lets somebody in is decided under the order's lock,
which cancelling and sending back take too: of two doors, or of a door and a cancellation, one comes first and the other
is refused. An entry for a day is good on that day of the shop's clock (UTC, as all its days are); one without a day is
good for as long as its order is bought.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from typing import Any

import asyncpg

from onsale.auth.errors import StoreUnavailable
from onsale.auth.identity import Identity
from onsale.auth.roles import OPERATORS
from onsale.auth.sealing import Sealer
from onsale.checkout.errors import EntryExpired, EntryNotYet, EntryRedeemed, EntryUnknown, EntryVoid, OrderUnknown
from onsale.checkout.orders import AWAY
from onsale.checkout.states import BOUGHT, OrderState
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout", "entries.sql")

# States of an order whose entries let in: what is on its way back does not.
GOOD = tuple(BOUGHT - {OrderState.RETURN_REQUESTED})
CODE_BYTES = 10
GROUP = 4
# A letter that base32 has for each digit that people type or read instead.
_LOOKALIKES = str.maketrans("018", "OIB", "- \t\r\n")


@dataclass(frozen=True, slots=True)
class Entry:
    """One unit as its buyer sees it."""

    product: str
    title: str
    visit_on: date | None
    code: str
    redeemed_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Redeemed:
    """One unit as the door sees it: who it was bought by is not told."""

    order: str
    product: str
    title: str
    visit_on: date | None
    redeemed_at_ms: int


class Entries:
    """Every method raises StoreUnavailable when Postgres is away or too slow."""

    def __init__(self, pool: asyncpg.Pool, sealer: Sealer) -> None:
        self._pool = pool
        self._sealer = sealer

    async def of(self, buyer: str, order: str) -> list[Entry]:
        """The entries of a bought order with their codes, the same whenever it is asked; none where it has none, is not
        bought yet, or is no more. Raises OrderUnknown, for an order that the record does not have yet too."""
        try:
            rows = await self._pool.fetch(SQL.entry_lines, order, buyer, GOOD)
            if not rows:
                raise OrderUnknown
            lines = {row["product"]: row for row in rows if row["product"] is not None and row["is_good"]}
            if not lines:
                return []
            wanted = {
                f"{order}:{name}:{n}": name for name, line in lines.items() for n in range(1, line["quantity"] + 1)
            }
            found = await self._pool.fetch(SQL.entries_of, order)
            if len(found) < len(wanted):
                await self._write(order, wanted)
                found = await self._pool.fetch(SQL.entries_of, order)
        except AWAY as error:
            raise StoreUnavailable from error
        units = {row["id"]: row for row in found}
        return [self._entry(units[id_], lines[name]) for id_, name in wanted.items()]

    async def redeem(self, who: Identity, code: str) -> Redeemed:
        """Let in whoever shows this code, once. Raises EntryUnknown (another vendor's, too), EntryRedeemed, EntryVoid,
        EntryNotYet, EntryExpired."""
        try:
            async with self._pool.acquire() as conn, conn.transaction():
                row = await conn.fetchrow(SQL.entry_lock, _hash(code), who.account, who.role in OPERATORS, GOOD)
                _check(row)
                redeemed_at_ms = await conn.fetchval(SQL.entry_redeem, row["id"], who.account, row["door"])
        except AWAY as error:
            raise StoreUnavailable from error
        return Redeemed(row["order_id"], row["product"], row["title"], row["visit_on"], redeemed_at_ms)

    async def redeemed(self, who: Identity, limit: int) -> list[Redeemed]:
        """Whom one's doors let in, the last first; of operators, everyone's."""
        try:
            rows = await self._pool.fetch(SQL.entries_redeemed, who.account, who.role in OPERATORS, limit)
        except AWAY as error:
            raise StoreUnavailable from error
        return [
            Redeemed(row["order_id"], row["product"], row["title"], row["visit_on"], row["redeemed_at_ms"])
            for row in rows
        ]

    async def _write(self, order: str, wanted: Mapping[str, str]) -> None:
        codes = [new_code() for _ in wanted]
        sealed = [
            self._sealer.seal(code.encode(), f"entries.code:{id_}") for id_, code in zip(wanted, codes, strict=True)
        ]
        hashes = [_hash(code) for code in codes]
        await self._pool.execute(SQL.entries_write, order, list(wanted), list(wanted.values()), hashes, sealed)

    def _entry(self, unit: Mapping[str, Any], line: Mapping[str, Any]) -> Entry:
        code = self._sealer.open(unit["code"], f"entries.code:{unit['id']}").decode()
        return Entry(unit["product"], line["title"], line["visit_on"], code, unit["redeemed_at_ms"])


def new_code() -> str:
    """Sixteen letters and digits in groups of four."""
    letters = base64.b32encode(secrets.token_bytes(CODE_BYTES)).decode()
    return "-".join(letters[n : n + GROUP] for n in range(0, len(letters), GROUP))


def _hash(code: str) -> bytes:
    """However it was typed: small letters, other gaps, a nought for an O."""
    return sha256(code.upper().translate(_LOOKALIKES).encode()).digest()


def _check(row: Mapping[str, Any] | None) -> None:
    if row is None:
        raise EntryUnknown
    if row["redeemed_at_ms"] is not None:
        raise EntryRedeemed(row["redeemed_at_ms"])
    if not row["is_good"]:
        raise EntryVoid
    if row["visit_on"] is not None and row["today"] < row["visit_on"]:
        raise EntryNotYet(row["visit_on"])
    if row["visit_on"] is not None and row["today"] > row["visit_on"]:
        raise EntryExpired(row["visit_on"])
