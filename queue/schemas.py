"""What clients of the line send, and what they read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from onsale.queue.frame import LineDocument, Message
from onsale.queue.states import TicketState
from onsale.queue.teller import TicketReply

__all__ = ["LineDocument", "Message", "TicketReply"]

Why = Annotated[str, Meta(max_length=500)]
Sentence = Annotated[str, Meta(min_length=1, max_length=200)]


class JoinRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Joining needs nothing but who joins."""


class AdmissionPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """A merge patch of how people are let in. `revert_after_s`: take the change back by itself."""

    mode: Literal["manual"] | UnsetType = UNSET
    rate_per_second: Annotated[float, Meta(ge=0, le=100_000)] | UnsetType = UNSET
    active_max: Annotated[int, Meta(ge=0, le=10_000_000)] | UnsetType = UNSET
    paused: bool | UnsetType = UNSET
    pass_ttl_s: Annotated[int, Meta(ge=30, le=7200)] | UnsetType = UNSET
    turn_ttl_s: Annotated[int, Meta(ge=5, le=3600)] | UnsetType = UNSET
    absent_after_s: Annotated[int, Meta(ge=20, le=3600)] | UnsetType = UNSET
    reason: Why | None = None
    revert_after_s: Annotated[int, Meta(ge=1, le=86_400)] | None = None


class AdmissionReply(Struct, frozen=True):
    """How people are let in, and who said so last."""

    mode: Literal["manual"]
    rate_per_second: float
    active_max: int
    paused: bool
    pass_ttl_s: int
    turn_ttl_s: int
    absent_after_s: int
    # Everyone who holds the line still: operator, provider, record, recovering.
    paused_by: tuple[str, ...]
    changed_at: str | None
    changed_by: str | None
    revert_at: str | None


class MessageRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What every waiting buyer reads, in both languages."""

    ko: Sentence
    en: Sentence


class AuditEntry(Struct, frozen=True, kw_only=True):
    """One thing an operator did. `hash` covers the entry and the hash before it."""

    seq: int
    at: str
    actor: str
    action: str
    # `from` in JSON: a keyword in Python.
    from_: dict[str, Any] = field(name="from")
    to: dict[str, Any]
    reason: str | None
    prev_hash: str
    hash: str


class AuditList(Struct, frozen=True):
    """A page of what operators did, newest first."""

    items: list[AuditEntry]
    next_cursor: str | None


class TicketSummary(Struct, frozen=True):
    """A ticket as operators see it."""

    ticket: str
    place: int
    state: TicketState
    is_absent: bool
    buyer: str
    lane: str
    joined_at: str
    admitted_at: str | None
    ended_at: str | None


class TicketList(Struct, frozen=True):
    """A page of tickets, newest first."""

    items: list[TicketSummary]
    next_cursor: str | None


class ActionRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """An operator's action that needs nothing but, if they like, why."""

    reason: Why | None = None


class Funnel(Struct, frozen=True):
    """Where everyone is: given a place, waiting, passed over, let in, seated, holding units, paying; and units sold."""

    joined: int
    waiting: int
    absent: int
    admitted: int
    active: int
    held: int | None
    claimed: int | None
    sold: int | None


class LiveStock(Struct, frozen=True):
    """Units of the whole sale."""

    free: int
    held: int
    claimed: int
    sold: int


class Lag(Struct, frozen=True):
    """How old what is shown is (ms); null where it is not known."""

    line_ms: int
    stock_ms: int | None
    record_ms: int | None


class LiveFigures(Struct, frozen=True):
    """Operators' figures of one sale, once a second."""

    as_of: str
    line: LineDocument
    funnel: Funnel
    stock: LiveStock | None
    record_lag_ms: int | None
    lag: Lag
    # Event streams open in the process that answers.
    streams: int
