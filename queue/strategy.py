"""How many seats the shop's stock allows (pure). The rate is exact in admit.lua; here is what needs no exactness.

A seat that holds or has claimed units needs no free unit any more, and since a buyer has at most `limit` of them, at
least ceil(units / limit) seats have theirs. Every other seat needs a unit that is free, or one that somebody gives
back: with seats <= free + seated + lapse share x held, nobody is let in to an empty shelf.
"""

from __future__ import annotations

from dataclasses import dataclass

from onsale.queue.ports import StockFigures


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the decision rests on. `lapse_permille`: how many of a thousand held units come back; 0 until measured."""

    figures: StockFigures
    limit_per_buyer: int
    lapse_permille: int = 0


def seats_by_stock(snapshot: Snapshot) -> int:
    """The most seats that may be in use at once for the sake of stock; the cap is another limit. Nothing free: none,
    whatever may come back later."""
    figures = snapshot.figures
    if figures.free <= 0:
        return 0
    seated = -(-(figures.held + figures.claimed) // snapshot.limit_per_buyer)
    returning = figures.held * snapshot.lapse_permille // 1000
    return figures.free + seated + returning
