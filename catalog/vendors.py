"""Vendors: who sells. An account has one active vendor at most; a deleted one keeps its row for the record's sake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from onsale.auth.errors import Flaw, Forbidden, InvalidRequest
from onsale.auth.identifiers import new_id
from onsale.auth.identity import Identity
from onsale.auth.roles import OPERATORS, Role
from onsale.catalog.errors import VendorExists, VendorMissing, VendorUnknown
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.catalog", "vendors.sql")



@dataclass(frozen=True, slots=True)
class Vendor:
    """One vendor; `account` is its owner's."""

    id: str
    account: str
    name: str
    about: str
    created_at_ms: int


class Vendors:
    """Vendors in Postgres."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def create(self, account: str, name: str, about: str) -> Vendor:
        """Raises VendorExists, and InvalidRequest where there is no such account."""
        vendor = new_id()
        try:
            made = await self._pool.fetchval(SQL.vendor_insert, vendor, account, name, about)
        except asyncpg.ForeignKeyViolationError as error:
            raise InvalidRequest(Flaw("#/account", "bad_value", "There is no such account.")) from error
        if made is None:
            raise VendorExists
        return await self.get(vendor)

    async def get(self, vendor: str) -> Vendor:
        """Raises VendorUnknown, for a deleted one too."""
        return _vendor(await self._pool.fetchrow(SQL.vendor_get, vendor))

    async def of(self, account: str) -> Vendor:
        """The active vendor of an account. Raises VendorMissing."""
        row = await self._pool.fetchrow(SQL.vendor_of, account)
        if row is None:
            raise VendorMissing
        return _vendor(row)

    async def page(self, after: str | None, limit: int) -> list[Vendor]:
        """Newest first."""
        return [_vendor(row) for row in await self._pool.fetch(SQL.vendors_page, after, limit)]

    async def edit(self, vendor: str, who: Identity, name: str | None, about: str | None) -> Vendor:
        """Change what is given. Raises VendorUnknown, Forbidden."""
        require_owner(who, await self.get(vendor))
        return _vendor(await self._pool.fetchrow(SQL.vendor_update, vendor, name, about))

    async def delete(self, vendor: str, who: Identity) -> None:
        """End a vendor; its products are discontinued. Raises VendorUnknown, Forbidden."""
        require_owner(who, await self.get(vendor))
        await self._pool.execute(SQL.vendor_delete, vendor)

    async def require_edits(self, who: Identity, vendor: str | None) -> None:
        """Whether someone may edit what belongs to a vendor (None: to the house). Raises Forbidden."""
        if who.role in OPERATORS:
            return
        if vendor is None:
            raise Forbidden
        try:
            require_owner(who, await self.get(vendor))
        except VendorUnknown:
            raise Forbidden from None


def require_owner(who: Identity, vendor: Vendor) -> None:
    """Raises Forbidden unless it is the vendor's owner or an operator."""
    if who.role not in OPERATORS and (who.role is not Role.VENDOR or who.account != vendor.account):
        raise Forbidden


def _vendor(row: Mapping[str, Any] | None) -> Vendor:
    if row is None:
        raise VendorUnknown
    return Vendor(**row)
