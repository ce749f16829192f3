"""What the line refuses. Each class is one decision of the caller; `server/problems.py` has the numbers."""

from __future__ import annotations

from dataclasses import dataclass


class LineError(Exception):
    """The line refused."""


class TicketUnknown(LineError):
    """There is no such ticket, or it is not yours."""


class SaleDraining(LineError):
    """Nobody joins any more: those in line are being let in."""


class SaleSoldOut(LineError):
    """Everything is sold."""


class SaleEnded(LineError):
    """The sale has ended."""


class SaleNotScheduled(LineError):
    """The sale is not in a state in which this can be done."""


class LineRecovering(LineError):
    """The line is being recovered; nobody loses a place. Ask again shortly."""


class GuestsRefused(LineError):
    """This sale is for signed-in buyers."""


class PolicyMissingMatch(LineError):
    """Say which settings you saw: send If-Match."""


@dataclass
class PolicyStale(LineError):
    """Somebody changed the settings since you read them."""

    version: int = 0


class StreamsExhausted(LineError):
    """Too many event streams are open here: poll instead."""
