"""States of a ticket and of a line, and the views of them that scripts answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# Lanes by their number in tickets; a number is never reused.
LANES = ("general",)


class TicketState(StrEnum):
    SCHEDULED = "scheduled"  # -> waiting when the sale opens (decided by the clock at the request)
    WAITING = "waiting"  # -> admitted by the Admitter; an absent ticket is a waiting one that gave no sign of life
    ADMITTED = "admitted"  # -> completed or expired by turn_closed
    COMPLETED = "completed"  # final: the turn bought
    EXPIRED = "expired"  # final: the turn ended without a purchase, or could not be told three times
    LEFT = "left"  # final: its holder left
    CLOSED = "closed"  # the sale ended or sold out; waiting again if the line reopens

    @property
    def is_living(self) -> bool:
        """Whether its buyer, joining again, gets this ticket."""
        return self in (TicketState.SCHEDULED, TicketState.WAITING, TicketState.ADMITTED)


class LineState(StrEnum):
    SCHEDULED = "scheduled"  # -> open at opens_at by the clock
    OPEN = "open"
    PAUSED = "paused"  # somebody holds it: operator, provider, record, recovering
    DRAINING = "draining"  # nobody joins, those in line are let in
    SOLD_OUT = "sold_out"  # -> open by an operator's opening once units returned
    ENDED = "ended"
    RECOVERING = "recovering"  # -> what it was, by the Keeper


@dataclass(frozen=True, slots=True)
class TicketView:
    """What the line's Redis says of one ticket. Times are Redis milliseconds; 0 = not yet."""

    place: int
    state: TicketState
    buyer: str
    lane: str
    joined_ms: int
    is_absent: bool = False
    was_absent: bool = False
    # The turn's id (the pass's jti) once admitted.
    turn: str = ""
    admitted_ms: int = 0
    # When the holder was told, and when the pass made then ends; 0 = not told yet.
    told_ms: int = 0
    pass_exp_ms: int = 0
    ended_ms: int = 0
