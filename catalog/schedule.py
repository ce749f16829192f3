"""Opening and closing by the clock, at the moment of the question (pure). Jobs write labels; they decide nothing."""

from __future__ import annotations

from onsale.catalog.states import SaleState


def state_at(now_ms: int, *, opens_at_ms: int, closes_at_ms: int, is_draining: bool) -> SaleState:
    """The state of a sale at `now_ms`. The opening instant is open, the closing instant is ended."""
    if now_ms >= closes_at_ms:
        return SaleState.ENDED
    if now_ms < opens_at_ms:
        return SaleState.SCHEDULED
    return SaleState.DRAINING if is_draining else SaleState.OPEN
