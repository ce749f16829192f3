"""What the line needs of the shop, bound in `server/app.py`. Line and stock may live on different servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StockFigures:
    """Units of a whole sale in one snapshot; `at_ms` is the shop's Redis time."""

    free: int
    held: int
    claimed: int
    sold: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class TurnClosing:
    """One `turn_closed` event: `why` is completed, expired, left or revoked."""

    event_id: str
    turn: str
    why: str


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
