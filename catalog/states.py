"""States of a sale as the clock sees them. Who is let in, and whether anything is left, is the line's to say."""

from __future__ import annotations

from enum import StrEnum


class SaleState(StrEnum):
    SCHEDULED = "scheduled"  # -> open at opens_at, decided at the request
    OPEN = "open"  # -> draining by an operator; -> ended at closes_at
    DRAINING = "draining"  # nobody joins any more; -> ended at closes_at
    ENDED = "ended"  # final, unless an operator opens it again before closes_at
