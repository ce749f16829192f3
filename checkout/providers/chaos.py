"""A provider on a bad day: what befalls an attempt is drawn from the seed and its id, the same whenever it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256


class Mishap(StrEnum):
    """What goes wrong with one attempt."""

    NONE = "none"
    SILENCE = "silence"  # charges, and never answers
    EARLY = "early"  # its webhook arrives before the answer
    DOUBLE = "double"  # its webhook comes three times
    ABORTED = "aborted"  # its webhook says that it is done; then nothing is charged
    LATE = "late"  # charges long after the caller has hung up


# How many in a thousand; all others go well.
SHARES = ((Mishap.SILENCE, 50), (Mishap.EARLY, 50), (Mishap.DOUBLE, 50), (Mishap.ABORTED, 10), (Mishap.LATE, 20))


@dataclass(frozen=True, slots=True)
class Chaos:
    """Mishaps by a seed. Late is later than a driver waits (its lease is 12 s) and sooner than it is given up."""

    seed: int
    late_ms_min: int = 8_000
    late_ms_max: int = 40_000

    def mishap(self, attempt: str) -> Mishap:
        """What befalls this attempt."""
        drawn = self._draw(attempt, "mishap") % 1000
        for mishap, share in SHARES:
            if drawn < share:
                return mishap
            drawn -= share
        return Mishap.NONE

    def late_ms(self, attempt: str) -> int:
        """How late a late one is."""
        return self.late_ms_min + self._draw(attempt, "late") % (self.late_ms_max - self.late_ms_min + 1)

    def _draw(self, attempt: str, what: str) -> int:
        return int.from_bytes(sha256(f"{self.seed}:{what}:{attempt}".encode()).digest()[:8])
