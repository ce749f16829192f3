"""What the line needs of the shop, bound in `server/app.py`. Line and stock may live on different servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from onsale.lua.shop import StockFigures, TurnClosing

__all__ = ["ShopPort", "StockFigures", "TurnClosing"]


class ShopPort(Protocol):
    """Implemented by `onsale.checkout.inventory.Inventory`."""

    async def figures(self, sale: str) -> StockFigures:
        """Raises StoreUnavailable or ShopRecovering."""
        ...

    async def close_turns(self, sale: str, turns: Sequence[str], why: str) -> Sequence[int]:
        """End turns. For each: 0 closed (a `turn_closed` event is written, once), or the time (ms) until which its open
        order keeps the seat; `left` and `revoked` close at once whatever is open."""
        ...

    async def closings(self, sale: str, after: str, count: int) -> Sequence[TurnClosing]:
        """`turn_closed` events after a stream id, oldest first."""
        ...
