"""How large a trial is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How large one row is. `lasts_s`: the longest that one stop, partition or absence lasts."""

    buyers: int = 240
    units: int = 160
    rate: float = 8.0
    sales: int = 1
    every_s: float = 1.5
    lasts_s: float = 5.0
    patience_s: float = 240.0
    # After so many strikes there are no more.
    times: int = 1_000_000
    # People who only wait, and how often a second they poll, together.
    bystanders: int = 100
    polls_per_s: float = 500.0
    # Streams whose reader never reads; holds that lapse in one instant.
    never_reading: int = 200
    holds: int = 2_000
