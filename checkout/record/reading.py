"""What a stream entry says. Each entry becomes one typed event, or a `Poison` that says why nobody can read it.

Nothing here raises for what an entry holds: a reader that stops at a bad entry stops the record of the whole sale.
"""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from onsale.checkout.record.events import AttemptDoc, OrderDoc

# The largest numbers that the record's columns hold: an entry beyond them is poison here, not an error in SQL.
REV_MAX: Final = 2**31 - 1
MILLISECONDS_MAX: Final = 253_402_300_799_999  # the end of the year 9999
COUNT_MAX: Final = 2**63 - 1


class Stream(StrEnum):
    """The streams that are recorded, in the order in which they are drained."""

    MONEY = "money"
    HOLDINGS = "holdings"
    ADMISSIONS = "admissions"


class Event(msgspec.Struct, frozen=True, gc=False):
    """What every event of an order says: the entry's id, the order, its change counter, Redis milliseconds."""

    id: str
    order: str
    rev: int
    at_ms: int


class Reserved(Event, frozen=True, gc=False):
    expires_ms: int
    doc: OrderDoc
    # Sealed bytes; None where the order has none.
    address: bytes | None


class Amended(Event, frozen=True, gc=False):
    expires_ms: int
    doc: OrderDoc
    address: bytes | None


class Lapsed(Event, frozen=True, gc=False):
    pass


class Released(Event, frozen=True, gc=False):
    pass


class Claimed(Event, frozen=True, gc=False):
    expires_ms: int
    doc: OrderDoc
    address: bytes | None
    attempt: AttemptDoc
    instrument: bytes


class Confirmed(Event, frozen=True, gc=False):
    attempt: str


class Declined(Event, frozen=True, gc=False):
    attempt: str
    reason: str
    expires_ms: int


class Failed(Event, frozen=True, gc=False):
    attempt: str
    reason: str


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """One admission of the line: who was let in, under which rate and cap."""

    id: str
    lane: str
    at_ms: int
    places: tuple[int, ...]
    returners: tuple[int, ...]
    rate_milli: int
    burst: int
    active: int
    active_max: int
    passed_over: int
    inversions: int


class Poison(msgspec.Struct, frozen=True, gc=False):
    """An entry that cannot be recorded, kept whole: `payload` is its fields as text, `order` "" where it names none."""

    id: str
    order: str
    payload: dict[str, str]
    error: str


# Events that carry the document of their order.
BRINGS_ORDER: Final = (Claimed, Reserved, Amended)

MoneyEvent = Amended | Claimed | Confirmed | Declined | Failed
HoldingsEvent = Reserved | Lapsed | Released
AnyEvent = MoneyEvent | HoldingsEvent | Admitted
Fields = Mapping[bytes, bytes]
Entry = tuple[str, Fields]

_doc = msgspec.json.Decoder(OrderDoc).decode
_attempt = msgspec.json.Decoder(AttemptDoc).decode


# The small numbers of an admission, in the order of `Admitted`.
ADMITTED_COUNTS: Final = (b"burst", b"active", b"active_max", b"passed_over", b"inversions")


class EntryUnreadable(ValueError):
    """An entry does not follow the table of its stream."""


def read(stream: Stream, sale: str, entry: Entry) -> AnyEvent | Poison:
    """The event in one entry of that sale's stream, or the poison it is."""
    event_id, fields = entry
    try:
        if stream is Stream.ADMISSIONS:
            return _admitted(event_id, fields)
        event = _readers(stream, fields)(event_id, fields)
        if isinstance(event, BRINGS_ORDER):
            _assert_same_order(event, sale)
        return event
    except (KeyError, ValueError, ArithmeticError) as error:
        return poison(entry, f"{type(error).__name__}: {error}")


def poison(entry: Entry, error: str) -> Poison:
    """That entry as a row nobody has to understand."""
    event_id, fields = entry
    payload = {_text(name): _text(value) for name, value in fields.items()}
    return Poison(event_id, payload.get("order", ""), payload, error.replace("\x00", "\\x00")[:500])


def _text(raw: bytes) -> str:
    # jsonb takes every character but NUL.
    return raw.decode("utf-8", "backslashreplace").replace("\x00", "\\x00")


def _readers(stream: Stream, fields: Fields) -> Callable[[str, Fields], MoneyEvent | HoldingsEvent]:
    verb = fields[b"verb"]
    try:
        return VERBS[stream][verb]
    except KeyError:
        raise EntryUnreadable(f"{_text(verb)} is no verb of {stream}") from None


def _reserved(event_id: str, fields: Fields) -> Reserved:
    doc = _doc(fields[b"doc"])
    return Reserved(event_id, *_common(fields), _ms(fields[b"expires"]), doc, _address(doc))


def _amended(event_id: str, fields: Fields) -> Amended:
    doc = _doc(fields[b"doc"])
    return Amended(event_id, *_common(fields), _ms(fields[b"expires"]), doc, _address(doc))


def _lapsed(event_id: str, fields: Fields) -> Lapsed:
    return Lapsed(event_id, *_common(fields))


def _released(event_id: str, fields: Fields) -> Released:
    return Released(event_id, *_common(fields))


def _claimed(event_id: str, fields: Fields) -> Claimed:
    doc, attempt = _doc(fields[b"doc"]), _attempt(fields[b"attempt"])
    instrument = a2b_base64(attempt.instrument, strict_mode=True)
    return Claimed(event_id, *_common(fields), _ms(fields[b"expires"]), doc, _address(doc), attempt, instrument)


def _confirmed(event_id: str, fields: Fields) -> Confirmed:
    return Confirmed(event_id, *_common(fields), fields[b"attempt_id"].decode())


def _declined(event_id: str, fields: Fields) -> Declined:
    attempt, reason = fields[b"attempt_id"].decode(), fields[b"reason"].decode()
    return Declined(event_id, *_common(fields), attempt, reason, _ms(fields[b"expires"]))


def _failed(event_id: str, fields: Fields) -> Failed:
    return Failed(event_id, *_common(fields), fields[b"attempt_id"].decode(), fields[b"reason"].decode())


def _admitted(event_id: str, fields: Fields) -> Admitted:
    return Admitted(
        event_id,
        fields[b"lane"].decode(),
        _ms(fields[b"at"]),
        _places(fields[b"places"]),
        _places(fields[b"returners"]),
        _number(fields[b"rate_milli"], COUNT_MAX),
        *(_number(fields[name], REV_MAX) for name in ADMITTED_COUNTS),
    )


def _common(fields: Fields) -> tuple[str, int, int]:
    order = fields[b"order"].decode()
    if not order:
        raise EntryUnreadable("the order is empty")
    return order, _number(fields[b"rev"], REV_MAX), _ms(fields[b"at"])


def _address(doc: OrderDoc) -> bytes | None:
    return None if doc.address is None else a2b_base64(doc.address, strict_mode=True)


def _number(raw: bytes, most: int) -> int:
    if not raw.isdigit():
        raise EntryUnreadable(f"{_text(raw)[:40]} is no number")
    number = int(raw)
    if number > most:
        raise EntryUnreadable(f"{number} is beyond {most}")
    return number


def _ms(raw: bytes) -> int:
    return _number(raw, MILLISECONDS_MAX)


def _places(raw: bytes) -> tuple[int, ...]:
    return tuple(_number(place, COUNT_MAX) for place in raw.split(b",")) if raw else ()


def _assert_same_order(event: Reserved | Amended | Claimed, sale: str) -> None:
    doc = event.doc
    if doc.order != event.order or (doc.sale or "") != sale:
        raise EntryUnreadable(f"the document is of order {doc.order} in sale {doc.sale}")
    # Most orders have one line, which is no other's twin.
    if len(doc.items) != 1 and not 0 < len({item.product for item in doc.items}) == len(doc.items):
        raise EntryUnreadable("the document has no items, or one of them twice")


VERBS: Mapping[Stream, Mapping[bytes, Callable[[str, Fields], MoneyEvent | HoldingsEvent]]] = {
    Stream.MONEY: {
        b"amended": _amended,
        b"claimed": _claimed,
        b"confirmed": _confirmed,
        b"declined": _declined,
        b"failed": _failed,
    },
    Stream.HOLDINGS: {b"reserved": _reserved, b"lapsed": _lapsed, b"released": _released},
}


def id_key(event_id: str) -> tuple[int, int]:
    """A stream id as a pair that sorts in stream order."""
    ms, _, seq = event_id.partition("-")
    return int(ms), int(seq)


def entries(raw: Sequence[tuple[bytes, Fields]]) -> list[Entry]:
    """What redis-py answers of a range, with text ids; an entry deleted in place has no fields."""
    return [(event_id.decode(), fields or {}) for event_id, fields in raw]
