"""The life of a sale before it opens: proposed, approved or refused item by item, edited, and its units given back.

A vendor's proposal is pending until an operator approves it, at the latest half an hour before the sale; what
operators make is approved at once. Units leave the product when they are proposed and are put aside until they are
approved: nobody can buy them anywhere, and refused, removed or left over they are the product's again. Every change
locks the sale first, then its item.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg

from onsale.auth.errors import Flaw, Forbidden, IdempotencyKeyReused, InvalidRequest
from onsale.auth.identifiers import new_id
from onsale.auth.identity import Identity
from onsale.auth.roles import OPERATORS
from onsale.catalog import moves
from onsale.catalog.errors import (
    ApprovalTooLate,
    ItemExists,
    NotEnoughStock,
    ProductUnknown,
    ProposalDecided,
    SaleEnded,
    SaleRunning,
    SalesOverlap,
    SaleUnknown,
    VendorMissing,
)
from onsale.catalog.moves import Move, Mover, Moves, MoveState
from onsale.catalog.rules import ProposalRules
from onsale.catalog.sales import SHOP, NewSale, insert_sale
from onsale.catalog.states import ItemStatus
from onsale.catalog.vendors import Vendors
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.catalog", "proposals.sql")

# Why a proposal that nobody decided in time was refused.
TOO_LATE = "too_late"


class Sweeper(Protocol):
    """Takes units out of items that have no right to them any more."""

    async def sweep(self, sale: str) -> None:
        """At once, as far as that goes now; a worker does the rest."""
        ...


@dataclass(frozen=True, slots=True)
class NewProposal:
    """An item to be proposed; `list_amount` and `title` are the product's."""

    product: str
    stock: int
    amount: int
    currency: str
    pointer: str = "#"


@dataclass(frozen=True, slots=True)
class Plan:
    """What of a sale can be edited; None = as it is. Moments are on the shop's clock."""

    title: str | None = None
    opens_at_ms: int | None = None
    closes_at_ms: int | None = None
    limit_per_buyer: int | None = None
    hold_ttl_s: int | None = None


class Proposals:
    """Sales and items on their way into the shop."""

    def __init__(
        self, pool: asyncpg.Pool, vendors: Vendors, mover: Mover, sweeper: Sweeper, rules: ProposalRules
    ) -> None:
        self._pool = pool
        self._vendors = vendors
        self._mover = mover
        self._sweeper = sweeper
        self._rules = rules
        self._moves = Moves(pool)

    async def create(self, new: NewSale, who: Identity) -> None:
        """Make an operator's sale, or propose a vendor's. Raises SaleExists, InvalidRequest, ProductUnknown, Forbidden,
        VendorMissing, SalesOverlap, NotEnoughStock."""
        vendor = None if who.role in OPERATORS else (await self._vendors.of(who.account)).id
        async with self._pool.acquire() as conn, conn.transaction():
            if vendor is not None:
                await self._require_proposable(conn, new, vendor)
            arriving = await insert_sale(conn, new, who.account)
            if vendor is not None:
                await conn.execute(SQL.sale_propose, new.id, vendor)
                await conn.execute(SQL.items_propose, new.id, vendor)
        if not await self._arrive(*arriving):
            await self._pool.execute(SQL.sale_withdraw, new.id)
            await self._give_back(new.id, [item.product for item in new.items])
            raise NotEnoughStock

    async def edit(self, sale: str, who: Identity, plan: Plan) -> None:
        """Change a sale that has not begun; a vendor's is judged anew. Raises SaleUnknown, Forbidden, SaleRunning,
        SaleEnded, InvalidRequest, SalesOverlap."""
        async with self._locked(sale) as (conn, row):
            await self._require_sale(who, row)
            _require_before(row)
            opens_at_ms = row["opens_at_ms"] if plan.opens_at_ms is None else plan.opens_at_ms
            closes_at_ms = row["closes_at_ms"] if plan.closes_at_ms is None else plan.closes_at_ms
            if closes_at_ms <= opens_at_ms:
                raise InvalidRequest(Flaw("#/closes_at", "out_of_range", "closes_at must be after opens_at"))
            vendor = None if who.role in OPERATORS else row["vendor"]
            if vendor is not None:
                self._rules.require_window(opens_at_ms, row["now_ms"], "#/opens_at")
                await _require_alone(conn, vendor, sale, opens_at_ms, closes_at_ms)
            await conn.execute(
                SQL.sale_update,
                sale,
                plan.title or row["title"],
                opens_at_ms,
                closes_at_ms,
                plan.limit_per_buyer or row["limit_per_buyer"],
                plan.hold_ttl_s or row["hold_ttl_s"],
            )
            if vendor is not None:
                await conn.execute(SQL.sale_unapprove, sale)
        await self._sweeper.sweep(sale)

    async def propose(self, sale: str, who: Identity, new: NewProposal) -> None:
        """Add an item to a sale that has not begun; an operator's is approved at once. Raises SaleUnknown, Forbidden,
        SaleRunning, SaleEnded, ProductUnknown, ItemExists, InvalidRequest, SalesOverlap, NotEnoughStock."""
        move = new_id()
        is_operator = who.role in OPERATORS
        async with self._locked(sale) as (conn, row):
            _require_before(row)
            product = await self._proposable(conn, who, new)
            vendor: str | None = None if is_operator else product["vendor"]
            if vendor is not None:
                if row["vendor"] not in (None, vendor):
                    raise Forbidden
                self._rules.require_window(row["opens_at_ms"], row["now_ms"], "#/opens_at")
                await _require_alone(conn, vendor, sale, row["opens_at_ms"], row["closes_at_ms"])
            await self._put(conn, sale, new, product, vendor)
            if is_operator:
                await conn.execute(SQL.sale_approve, sale)
            if new.stock:
                await moves.ask(conn, move, SHOP, new.product, new.stock, "proposed", sale)
        if new.stock and not await self._arrive(move):
            await self._end(sale, new.product, ItemStatus.REMOVED, "not_enough_stock")
            raise NotEnoughStock

    async def approve(self, sale: str, product: str) -> None:
        """Let an item be sold when the sale's time comes; again is the same. Raises SaleUnknown, ProductUnknown,
        ProposalDecided, ApprovalTooLate, SaleEnded."""
        move = new_id()
        async with self._locked(sale) as (conn, row):
            item = await _item(conn, sale, product)
            if item["status"] == ItemStatus.APPROVED:
                return
            status = self._rules.status(ItemStatus(item["status"]), row["opens_at_ms"], row["now_ms"])
            if status is not ItemStatus.PENDING:
                raise ApprovalTooLate if item["status"] == ItemStatus.PENDING else ProposalDecided
            units = await conn.fetchval(SQL.item_settle, sale, product, ItemStatus.APPROVED, None)
            if units:
                await moves.come(conn, move, sale, product, units, "approved")
            await conn.execute(SQL.sale_approve, sale)
        await self._mover.settle(move)

    async def refuse(self, sale: str, product: str, reason: str | None) -> None:
        """Give a proposal's units back; again is the same. Raises SaleUnknown, ProductUnknown, ProposalDecided."""
        async with self._locked(sale) as (conn, _):
            item = await _item(conn, sale, product)
            if item["status"] == ItemStatus.REFUSED:
                return
            if item["status"] != ItemStatus.PENDING:
                raise ProposalDecided
        await self._end(sale, product, ItemStatus.REFUSED, reason)

    async def remove(self, sale: str, product: str, who: Identity) -> None:
        """Take an item out of a sale that has not begun; its units are the product's again. Raises SaleUnknown,
        ProductUnknown, Forbidden, SaleRunning, SaleEnded."""
        async with self._locked(sale) as (conn, row):
            await self._require_item(who, await _item(conn, sale, product))
            _require_before(row)
        await self._end(sale, product, ItemStatus.REMOVED, None)

    async def move(self, move: str, sale: str, product: str, quantity: int, who: Identity) -> Move:
        """Move units of the product into a sale's item, or free ones back; once per `move`. Raises SaleUnknown,
        ProductUnknown, Forbidden, SaleEnded, NotEnoughStock, IdempotencyKeyReused."""
        async with self._locked(sale) as (conn, row):
            item = await _item(conn, sale, product)
            await self._require_item(who, item)
            if quantity > 0 and item["status"] not in (ItemStatus.PENDING, ItemStatus.APPROVED):
                raise ProductUnknown
            if quantity > 0 and row["is_over"]:
                raise SaleEnded
            await conn.execute(moves.SQL.item_ensure, product)
            if quantity > 0:
                await moves.ask(conn, move, SHOP, product, quantity, f"into {sale}", sale)
            elif item["status"] == ItemStatus.PENDING:
                await self._take_kept(conn, move, sale, product, -quantity)
            else:
                await moves.ask(conn, move, sale, product, -quantity, "out", SHOP)
        await self._mover.settle(move)
        return await self._moved(move, sale, product, quantity)

    async def require_sight(self, sale: str, who: Identity) -> None:
        """Whether someone may see how a proposal stands. Raises SaleUnknown where not."""
        if who.role in OPERATORS:
            return
        vendor = (await self._vendors.of(who.account)).id
        if not await self._pool.fetchval(SQL.sale_is_of, sale, vendor):
            raise SaleUnknown

    async def tick(self) -> int:
        """Write down that proposals were refused by the clock, and give their units back; how many."""
        late = await self._pool.fetch(SQL.items_late, self._rules.approval_lead_ms)
        for row in late:
            await self._end(row["sale"], row["product"], ItemStatus.REFUSED, TOO_LATE)
        return len(late)

    async def _end(self, sale: str, product: str, status: ItemStatus, reason: str | None) -> None:
        """An item is no longer the sale's: what was put aside goes back in this transaction, what it has in Redis is
        swept."""
        move = new_id()
        async with self._locked(sale) as (conn, row):
            item = await _item(conn, sale, product)
            # Approved meanwhile, or the sale has begun: whoever was first has decided.
            if item["status"] == ItemStatus.APPROVED and (status is ItemStatus.REFUSED or row["is_running"]):
                raise ProposalDecided
            units = await conn.fetchval(SQL.item_settle, sale, product, status, reason)
            await moves.give_back(conn, move, product, units)
        await self._mover.settle(move)
        await self._sweeper.sweep(sale)

    async def _give_back(self, sale: str, products: list[str]) -> None:
        for product in products:
            await self._end(sale, product, ItemStatus.REMOVED, "not_enough_stock")

    async def _arrive(self, *arriving: str) -> bool:
        """Whether these units have come, or are on their way; False when some were not free."""
        await self._mover.settle(*arriving)
        found = [await self._moves.get(move) for move in arriving]
        return all(move is None or move.state is not MoveState.REFUSED for move in found)

    async def _moved(self, move: str, sale: str, product: str, quantity: int) -> Move:
        found = await self._moves.get(move)
        if found is None:
            raise NotEnoughStock
        # Units that were put aside go to the product as they come.
        expected = {(SHOP, -quantity), (sale, quantity)} if quantity < 0 else {(SHOP, -quantity)}
        if found.product != product or (found.sale, found.quantity) not in expected:
            raise IdempotencyKeyReused
        if found.state is MoveState.REFUSED:
            raise NotEnoughStock
        return Move(found.id, sale, product, quantity, found.state, found.is_done)

    async def _take_kept(self, conn: asyncpg.Connection, move: str, sale: str, product: str, units: int) -> None:
        is_new = await moves.come(conn, move, SHOP, product, units, "returned")
        if is_new and await conn.fetchval(SQL.item_keep, sale, product, -units) is None:
            raise NotEnoughStock

    async def _put(
        self,
        conn: asyncpg.Connection,
        sale: str,
        new: NewProposal,
        product: Mapping[str, Any],
        vendor: str | None,
    ) -> None:
        known = await _item_or_none(conn, sale, new.product)
        if known is not None and known["status"] in (ItemStatus.PENDING, ItemStatus.APPROVED):
            raise ItemExists
        others = await conn.fetchval(SQL.item_currency, sale)
        if others not in (None, new.currency):
            raise InvalidRequest(Flaw("#/price/currency", "mismatch", "one sale, one currency"))
        await conn.execute(
            SQL.item_put,
            sale,
            new.product,
            product["title"],
            new.amount,
            product["amount"],
            new.currency,
            ItemStatus.APPROVED if vendor is None else ItemStatus.PENDING,
            vendor,
        )

    async def _proposable(self, conn: asyncpg.Connection, who: Identity, new: NewProposal) -> Mapping[str, Any]:
        """The product, if it may be sold at this price by whom it is. Raises ProductUnknown, Forbidden, InvalidRequest,
        NotEnoughStock."""
        product: Mapping[str, Any] | None = await conn.fetchrow(SQL.product_of, new.product)
        if product is None:
            raise ProductUnknown
        await self._vendors.require_edits(who, product["vendor"])
        if product["currency"] != new.currency:
            raise InvalidRequest(Flaw(f"{new.pointer}/price/currency", "mismatch", "must be the product's currency"))
        if new.amount > product["amount"] or (new.amount == product["amount"] and who.role not in OPERATORS):
            raise InvalidRequest(Flaw(f"{new.pointer}/price/amount", "out_of_range", "must be below the list price"))
        if new.stock > product["units_left"]:
            raise NotEnoughStock
        return product

    async def _require_proposable(self, conn: asyncpg.Connection, new: NewSale, vendor: str) -> None:
        now_ms: int = await conn.fetchval(SQL.now_ms)
        self._rules.require_window(new.opens_at_ms or now_ms, now_ms, "#/sale/opens_at")
        await _require_alone(conn, vendor, new.id, new.opens_at_ms or now_ms, new.closes_at_ms)
        for n, item in enumerate(new.items):
            product = await conn.fetchrow(SQL.product_of, item.product)
            if product is None:
                raise ProductUnknown
            if product["vendor"] != vendor:
                raise Forbidden
            if product["currency"] != item.currency:
                flaw = Flaw(f"#/items/{n}/price/currency", "mismatch", "must be the product's currency")
                raise InvalidRequest(flaw)
            if item.amount >= product["amount"]:
                flaw = Flaw(f"#/items/{n}/price/amount", "out_of_range", "must be below the list price")
                raise InvalidRequest(flaw)
            if item.stock > product["units_left"]:
                raise NotEnoughStock

    async def _require_sale(self, who: Identity, row: Mapping[str, Any]) -> None:
        await self._vendors.require_edits(who, row["vendor"])

    async def _require_item(self, who: Identity, item: Mapping[str, Any]) -> None:
        await self._vendors.require_edits(who, item["proposed_by"])

    @asynccontextmanager
    async def _locked(self, sale: str) -> AsyncIterator[tuple[asyncpg.Connection, Mapping[str, Any]]]:
        async with self._pool.acquire() as conn, conn.transaction():
            row = await conn.fetchrow(SQL.sale_lock, sale)
            if row is None:
                raise SaleUnknown
            yield conn, row


async def _item(conn: asyncpg.Connection, sale: str, product: str) -> Mapping[str, Any]:
    row = await _item_or_none(conn, sale, product)
    if row is None:
        raise ProductUnknown
    return row


async def _item_or_none(conn: asyncpg.Connection, sale: str, product: str) -> Mapping[str, Any] | None:
    # With the shop's item, in the order in which movers lock both.
    await conn.fetch(moves.SQL.items_lock, product, [sale, SHOP])
    row: Mapping[str, Any] | None = await conn.fetchrow(SQL.item_of, sale, product)
    return row


def _require_before(row: Mapping[str, Any]) -> None:
    if row["is_over"]:
        raise SaleEnded
    if row["is_running"]:
        raise SaleRunning


async def _require_alone(conn: asyncpg.Connection, vendor: str, sale: str, opens_at_ms: int, closes_at_ms: int) -> None:
    """No other sale of the vendor at the same time; those who propose wait for each other here."""
    if await conn.fetchval(SQL.vendor_lock, vendor) is None:
        raise VendorMissing
    if await conn.fetchval(SQL.sales_overlapping, vendor, sale, opens_at_ms, closes_at_ms) is not None:
        raise SalesOverlap
