"""Carries moves of stock between Postgres and Redis, each once on either side. Ticked twice a second; any number run.

Every step may be repeated by anybody: Redis knows the moves it has made and those it has refused, Postgres counts a
move in the transaction that ends it, and both only in the epoch that the mover read the move in. A mover that dies at
any line leaves a move that the next one carries on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onsale.auth.errors import StoreUnavailable
from onsale.catalog.moves import Moves, MoveState, PendingMove
from onsale.checkout.errors import ProductUnknown, ShopRecovering, SoldOut
from onsale.checkout.inventory import Inventory
from onsale.lua.keys import ShopKeys

BATCH_MAX = 200


@dataclass(frozen=True, slots=True)
class MoveTick:
    """Moves that are done now, those refused for want of free units, and those that must be tried again."""

    done: int
    refused: int
    postponed: int
    more: bool


class StockMover:
    """The only caller of `move_stock.lua`."""

    def __init__(self, moves: Moves, inventory: Inventory) -> None:
        self._moves = moves
        self._inventory = inventory

    async def tick(self) -> MoveTick:
        """Carry on what is pending, oldest first."""
        return await self._carry_all(await self._moves.pending(BATCH_MAX))

    async def settle(self, *moves: str) -> None:
        """Carry these moves on as far as they go now; what they set off too."""
        await self._carry_all(await self._moves.pending(BATCH_MAX, moves))
        await self._carry_all(await self._moves.pending(BATCH_MAX, [f"{move}+" for move in moves]))

    async def _carry_all(self, pending: Sequence[PendingMove]) -> MoveTick:
        ended: dict[str, MoveState | None] = {}
        held_up: set[tuple[str, str]] = set()
        for move in pending:
            # Units are not refused because those that came before them are late.
            item = (move.sale, move.product)
            ended[move.id] = None if item in held_up else await self._carry(move)
            if ended[move.id] is None:
                held_up.add(item)
        states = list(ended.values())
        return MoveTick(
            done=states.count(MoveState.COUNTED),
            refused=states.count(MoveState.REFUSED),
            postponed=states.count(None),
            more=len(pending) == BATCH_MAX,
        )

    async def _carry(self, move: PendingMove) -> MoveState | None:
        """How one move ended; None: not yet."""
        keys = ShopKeys(move.sale, move.epoch)
        try:
            moved = await self._inventory.move_stock(keys, move.id, move.product, move.quantity)
        except (SoldOut, ProductUnknown):
            return MoveState.REFUSED if await self._moves.refuse(move) else None
        except (ShopRecovering, StoreUnavailable):
            return None
        if move.state is MoveState.COUNTED:
            await self._moves.applied(move)
            return MoveState.COUNTED
        # What left may have come back a moment before from an order whose end Postgres does not know yet.
        if not moved.is_recorded:
            return None
        return MoveState.COUNTED if await self._moves.count(move) else None
