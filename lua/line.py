"""The line's scripts, typed: what goes in as it is sent, what comes out as it is read. No rule lives here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LineFigures:
    """What a line document is made of: one consistent look at the line on Redis time."""

    epoch: int
    # The document made from this look has this number; publishing it is a compare-and-set.
    seq: int
    # A LineState.
    state: str
    as_of_ms: int
    opens_at_ms: int
    closes_at_ms: int
    serving: int
    tail: int
    waiting: int
    absent: int
    admitted: int
    rate_centi: int
    # Let in during the last whole seconds: (seconds, people) over 10 s and over 60 s, shorter just after opening.
    recent_short: tuple[int, int]
    recent_long: tuple[int, int]
    active: int
    active_max: int
    # Places of the living of rank 1, 2, …, 256, then of ranks r -> max(r + 1, floor(51 r / 50)), the last being `waiting`.
    places: tuple[int, ...]
    # How many of `places` are of consecutive ranks from 1.
    exact: int
    # Units as the admitter last knew them; -1 = not known, or too old.
    stock_free: int
    stock_held: int
    stock_sold: int
    # JSON of {"ko", "en"} or empty.
    message: str
    # Empty, or why the line stands or what changed, since when, and a JSON object of facts.
    reason: str
    reason_at_ms: int
    reason_params: str
