"""Moves of stock as Postgres has them: rows, each counted once by either side whatever dies in between.

Units that come are counted here first and told to Redis afterwards. Units that leave are asked for here, taken from
Redis while they are free, and only then counted here, in the transaction that gives them to whoever gets them. So at
every instant Postgres has each unit exactly once, and no unit is sold that Postgres has not. `checkout/mover.py`
carries moves out; it speaks to Redis between these transactions, never inside one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Protocol

import asyncpg

from onsale.auth.errors import IdempotencyKeyReused
from onsale.auth.identifiers import new_id
from onsale.catalog.errors import NotEnoughStock, ProductUnknown
from onsale.catalog.sales import SHOP
from onsale.catalog.states import ItemStatus
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.catalog", "moves.sql")


class MoveState(StrEnum):
    ASKED = "asked"  # units that shall leave -> counted once Redis has given them; -> refused where they were not free
    COUNTED = "counted"  # in Postgres's stock; final, and done once Redis has counted it too
    REFUSED = "refused"  # final: nothing was moved


@dataclass(frozen=True, slots=True)
class Move:
    """One change of a seller's stock; units that leave have a `quantity` below zero. `is_done`: both sides know it."""

    id: str
    sale: str
    product: str
    quantity: int
    state: MoveState
    is_done: bool


@dataclass(frozen=True, slots=True)
class PendingMove:
    """A move that one side has not counted, and the epoch of the keys it concerns."""

    id: str
    sale: str
    product: str
    quantity: int
    state: MoveState
    epoch: int


@dataclass(frozen=True, slots=True)
class Astray:
    """An item with units that belong to `target`."""

    sale: str
    product: str
    target: str


class Mover(Protocol):
    """Carries moves out at once where that can be done; what it cannot do now, a worker does later."""

    async def settle(self, *moves: str) -> None:
        """Never raises for a Redis that is away."""
        ...


def move_id(*parts: str) -> str:
    """The same id for the same parts: who asks again asks for the same move."""
    return blake2b("|".join(parts).encode(), digest_size=16).hexdigest()


class Moves:
    """Every method is one transaction."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def get(self, move: str) -> Move | None:
        """One move as it stands."""
        row = await self._pool.fetchrow(SQL.move_of, move)
        if row is None:
            return None
        is_done = row["state"] == MoveState.REFUSED or row["applied_epoch"] is not None
        return Move(row["id"], row["sale"], row["product"], row["quantity"], MoveState(row["state"]), is_done)

    async def pending(self, limit: int, moves: Sequence[str] | None = None) -> list[PendingMove]:
        """Moves that are not done, oldest first; where some are named, of their items alone: what came before them is
        carried out before them."""
        rows = await self._pool.fetch(SQL.moves_pending, moves, limit)
        return [
            PendingMove(r["id"], r["sale"], r["product"], r["quantity"], MoveState(r["state"]), r["epoch"])
            for r in rows
        ]

    async def applied(self, move: PendingMove) -> None:
        """Redis has counted units that came, in the keys of this epoch."""
        await self._pool.execute(SQL.move_applied, move.id, move.epoch)

    async def refuse(self, move: PendingMove) -> bool:
        """So many units were not free in this epoch; False when another epoch has begun: ask anew."""
        async with self._pool.acquire() as conn, conn.transaction():
            if await conn.fetchval(SQL.epoch_hold, move.sale) != move.epoch:
                return False
            await conn.execute(SQL.move_refuse, move.id)
        return True

    async def count(self, move: PendingMove) -> bool:
        """Redis has given the units in this epoch: they leave, and come to whoever gets them. False when that cannot be
        said yet: another epoch has begun, or the record is behind."""
        async with self._pool.acquire() as conn, conn.transaction():
            if await conn.fetchval(SQL.epoch_hold, move.sale) != move.epoch:
                return False
            row = await conn.fetchrow(SQL.move_lock, move.id)
            if row["state"] != MoveState.ASKED:
                return True
            await conn.fetch(SQL.items_lock, move.product, [move.sale, row["target"]])
            units = await conn.fetchval(SQL.move_count, move.id, move.epoch)
            if units is None:
                return False
            await deliver(conn, f"{move.id}+", row["target"], move.product, units)
        return True

    async def astray(self, sale: str | None = None) -> list[Astray]:
        """Items that have units to which they have no right any more; of one sale, or of all."""
        return [Astray(**row) for row in await self._pool.fetch(SQL.items_astray, sale)]

    async def sweep(self, item: Astray, units: int) -> str:
        """Ask for so many units of an item; the move, or "" while another sweep of it is on its way."""
        move = new_id()
        try:
            async with self._pool.acquire() as conn, conn.transaction():
                await ask(conn, move, item.sale, item.product, units, "swept", item.target)
        except asyncpg.UniqueViolationError:
            return ""
        return move


async def come(conn: asyncpg.Connection, move: str, sale: str, product: str, units: int, why: str) -> bool:
    """Count units that come to a seller's item, which must exist; False when this move is known. In the caller's
    transaction."""
    return await conn.fetchval(SQL.move_come, move, sale, product, units, why) is not None


async def ask(
    conn: asyncpg.Connection, move: str, sale: str, product: str, units: int, why: str, target: str | None
) -> bool:
    """Ask for units of a seller's item, which must exist; False when this move is known. In the caller's
    transaction."""
    return await conn.fetchval(SQL.move_ask, move, sale, product, -units, why, target) is not None


async def deliver(conn: asyncpg.Connection, move: str, target: str | None, product: str, units: int) -> None:
    """Units that left one seller arrive where they were sent, as things stand now: in a sale's stock, put aside for an
    item that is being judged, or back with the product. Without a target they leave the house."""
    if target is None:
        return
    status = ItemStatus.REFUSED if target == SHOP else await conn.fetchval(SQL.item_status, target, product)
    if status == ItemStatus.PENDING:
        await conn.execute(SQL.item_keep, target, product, units)
    elif status == ItemStatus.APPROVED:
        await come(conn, move, target, product, units, "arrived")
    else:
        await give_back(conn, move, product, units)


async def give_back(conn: asyncpg.Connection, move: str, product: str, units: int) -> None:
    """Units that no sale has are the product's again. In the caller's transaction."""
    if units:
        await conn.execute(SQL.item_ensure, product)
        await come(conn, move, SHOP, product, units, "returned")


class ShopStock:
    """Units of ordinary products: made known, added, taken away."""

    def __init__(self, pool: asyncpg.Pool, mover: Mover) -> None:
        self._pool = pool
        self._mover = mover
        self._moves = Moves(pool)

    async def change(self, move: str, product: str, quantity: int) -> Move:
        """Add units of a product to the shop, or take free ones out of the house; once per `move`. The answer may not
        be done yet. Raises NotEnoughStock, IdempotencyKeyReused (another change under this id)."""
        async with self._pool.acquire() as conn, conn.transaction():
            await conn.execute(SQL.item_ensure, product)
            if quantity > 0:
                await come(conn, move, SHOP, product, quantity, "added")
            else:
                await ask(conn, move, SHOP, product, -quantity, "taken", None)
        return await self.settled(move, SHOP, product, quantity)

    async def settled(self, move: str, sale: str, product: str, quantity: int) -> Move:
        """How a move stands after it was tried at once. Raises as `change` does."""
        await self._mover.settle(move)
        found = await self._moves.get(move)
        if found is None:
            raise ProductUnknown
        if (found.sale, found.product, found.quantity) != (sale, product, quantity):
            raise IdempotencyKeyReused
        if found.state is MoveState.REFUSED:
            raise NotEnoughStock
        return found
