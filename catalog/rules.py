"""When vendors may propose sales, and until when a proposal can be approved (pure). Operators are bound by neither."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onsale.auth.errors import Flaw, InvalidRequest
from onsale.catalog.states import ItemStatus

DAY_MINUTES = 24 * 60
MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class SaleHours:
    """Between which minutes of the day sales may open, on the clock of a place that is `offset_min` ahead of UTC."""

    from_min: int = 0
    until_min: int = DAY_MINUTES
    offset_min: int = 0

    def allow(self, at_ms: int) -> bool:
        """Whether a sale may open at that moment."""
        minute = (at_ms // MINUTE_MS + self.offset_min) % DAY_MINUTES
        return self.from_min <= minute < self.until_min


@dataclass(frozen=True, slots=True)
class ProposalRules:
    """How far ahead a vendor's sale begins, and how long before its beginning it must have been approved."""

    lead_ms: int = 60 * MINUTE_MS
    approval_lead_ms: int = 30 * MINUTE_MS
    hours: SaleHours = SaleHours()

    def require_window(self, opens_at_ms: int, now_ms: int, pointer: str) -> None:
        """Raises InvalidRequest where a vendor's sale may not begin then."""
        flaws = list(self._flaws(opens_at_ms, now_ms, pointer))
        if flaws:
            raise InvalidRequest(*flaws)

    def _flaws(self, opens_at_ms: int, now_ms: int, pointer: str) -> Iterator[Flaw]:
        if opens_at_ms < now_ms + self.lead_ms:
            yield Flaw(pointer, "too_soon", f"must be at least {self.lead_ms // MINUTE_MS} minutes from now")
        if not self.hours.allow(opens_at_ms):
            yield Flaw(pointer, "outside_hours", "sales do not open at this time of the day")

    def status(self, status: ItemStatus, opens_at_ms: int, now_ms: int) -> ItemStatus:
        """What a proposal is at this moment: one that nobody approved in time is refused, whoever writes that down."""
        is_late = now_ms > opens_at_ms - self.approval_lead_ms
        return ItemStatus.REFUSED if status is ItemStatus.PENDING and is_late else status
