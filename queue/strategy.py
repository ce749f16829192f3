"""How many seats the shop's stock allows (pure). The rate is exact in admit.lua; here is what needs no exactness.

A seat that holds or has claimed units needs no free unit any more, and since a buyer has at most `limit` of them, at
least ceil(units / limit) seats have theirs. Every other seat needs a unit that is free: with seats <= free + seated,
nobody is let in to an empty shelf. Units that may come back are no seats, however surely some of them will: the
admitter sees one that did at its next tick, so that letting people in on hope would gain a tenth of a second and show
them nothing to buy. How many come back is what odds rest on (`odds.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from onsale.queue.ports import StockFigures


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the decision rests on."""

    figures: StockFigures
    limit_per_buyer: int


def seats_by_stock(snapshot: Snapshot) -> int:
    """The most seats that may be in use at once for the sake of stock; the cap is another limit. Nothing free: none,
    whatever may come back later."""
    figures = snapshot.figures
    if figures.free <= 0:
        return 0
    seated = -(-(figures.held + figures.claimed) // snapshot.limit_per_buyer)
    return figures.free + seated
