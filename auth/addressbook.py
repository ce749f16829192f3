"""Where a person has things sent: several addresses, at most one of them the default. Sealed under the account's key.

An order keeps a copy of its own; what is changed here changes no order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg
import msgspec

from onsale.auth.datakeys import DataKeys
from onsale.auth.errors import AddressBookFull, AddressUnknown, NotFound
from onsale.auth.identifiers import is_id, new_id
from onsale.auth.keys import Keyring
from onsale.auth.schemas import Address
from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "addressbook.sql")

# More than anybody has homes, few enough to show.
ADDRESSES_MAX = 50

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Address)


@dataclass(frozen=True, slots=True)
class Entry:
    """One address of a book."""

    id: str
    address: Address = field(repr=False)
    is_default: bool
    created_at: datetime


class AddressBook:
    """The address books' Postgres port. Each change locks its account: of two that make a default, the later wins."""

    def __init__(self, pool: asyncpg.Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._data_keys = DataKeys(keyring)

    async def page(self, account: str, *, before: str | None, limit: int) -> Sequence[Entry]:
        """Addresses, newest first, older than the cursor `before`."""
        rows = await self._pool.fetch(queries.addresses_page, account, before, limit)
        return [self._entry(account, row["data_key"], row) for row in rows]

    async def show(self, account: str, entry: str) -> Entry:
        """One address. AddressUnknown."""
        return await self._show(self._pool, account, entry)

    async def add(self, account: str, address: Address, *, is_default: bool) -> Entry:
        """Another address. AddressBookFull; NotFound when the account was deleted."""
        async with self._pool.acquire() as connection, connection.transaction():
            data_key = await _locked(connection, account)
            if await connection.fetchval(queries.addresses_count, account) >= ADDRESSES_MAX:
                raise AddressBookFull
            return await self._insert(connection, account, data_key, address, is_default)

    async def change(
        self, account: str, entry: str, change: Callable[[Address], Address], *, is_default: bool | None
    ) -> Entry:
        """What an address says now, and whether it is the default (None: as it was). AddressUnknown."""
        async with self._pool.acquire() as connection, connection.transaction():
            data_key = await _locked(connection, account)
            present = await self._show(connection, account, entry)
            changed = change(present.address)
            becomes_default = present.is_default if is_default is None else is_default
            if becomes_default:
                await connection.execute(queries.default_clear, account)
            sealed = self._sealed(account, data_key, entry, changed)
            await connection.execute(queries.address_change, account, entry, sealed, becomes_default)
        return Entry(entry, changed, becomes_default, present.created_at)

    async def remove(self, account: str, entry: str) -> None:
        """Take an address out. AddressUnknown, also the second time."""
        if not is_id(entry) or not await self._pool.fetchval(queries.address_delete, account, entry):
            raise AddressUnknown

    async def replace_all(
        self, connection: asyncpg.Connection, account: str, data_key: bytes | None, address: Address
    ) -> None:
        """The one address that somebody signed up with, in the caller's transaction, which holds the account."""
        await connection.execute(queries.addresses_delete, account)
        await self._insert(connection, account, data_key, address, True)

    async def _show(self, database: asyncpg.Connection | asyncpg.Pool, account: str, entry: str) -> Entry:
        row = await database.fetchrow(queries.address_show, account, entry) if is_id(entry) else None
        if row is None:
            raise AddressUnknown
        return self._entry(account, row["data_key"], row)

    async def _insert(
        self, connection: asyncpg.Connection, account: str, data_key: bytes | None, address: Address, is_default: bool
    ) -> Entry:
        entry = new_id()
        if is_default:
            await connection.execute(queries.default_clear, account)
        sealed = self._sealed(account, data_key, entry, address)
        created_at = await connection.fetchval(queries.address_insert, entry, account, sealed, is_default)
        return Entry(entry, address, is_default, created_at)

    def _entry(self, account: str, data_key: bytes | None, row: asyncpg.Record) -> Entry:
        opened = self._data_keys.of(account, data_key).open(row["sealed"], _context(row["id"]))
        return Entry(row["id"], _decoder.decode(opened), row["is_default"], row["created_at"])

    def _sealed(self, account: str, data_key: bytes | None, entry: str, address: Address) -> bytes:
        return self._data_keys.of(account, data_key).seal(_encoder.encode(address), _context(entry))


async def _locked(connection: asyncpg.Connection, account: str) -> bytes | None:
    row = await connection.fetchrow(queries.book_lock, account)
    if row is None:
        raise NotFound
    data_key: bytes | None = row["data_key"]
    return data_key


def _context(entry: str) -> str:
    return f"addresses.sealed:{entry}"
