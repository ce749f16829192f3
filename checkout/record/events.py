"""The events that shop scripts write and the flusher records: field names, and the documents inside them.

A stream entry has the fields `verb`, `order`, `rev`, `at` (Redis ms) and, by verb:

| stream   | verb      | further fields |
|----------|-----------|----------------|
| holdings | reserved  | expires, doc |
| holdings | lapsed, released | (none) |
| money    | claimed   | expires, doc, attempt (document) |
| money    | confirmed | attempt_id |
| money    | declined  | attempt_id, reason, expires: back to reserved, a retryable decline |
| money    | failed    | attempt_id, reason: the claim ends, its units are free again |
| money    | amended   | expires, doc: what a reservation holds was changed, or its address; in one order with claims |

`closings` entries have `turn`, `why`, `at`. `admissions` entries (the line's): `lane`, `at`, `places`, `returners`
(comma-separated), `rate_milli`, `burst`, `active`, `active_max`, `passed_over`, `inversions`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

# What the record's columns hold; a document beyond them is not one of ours.
Units = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
MinorUnits = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class ItemDoc(msgspec.Struct, frozen=True):
    """One line of an order, priced as it was reserved (minor units)."""

    product: str
    title: str
    quantity: Units
    unit_amount: MinorUnits
    list_amount: MinorUnits
    currency: str


class OrderDoc(msgspec.Struct, frozen=True):
    """An order as it was reserved: enough to write it down whole from any event that carries it."""

    order: str
    sale: str | None
    buyer: str
    turn: str
    lane: str
    items: tuple[ItemDoc, ...]
    amount: MinorUnits
    currency: str
    idempotency_key: str
    body_digest: str
    # The buyer's limit in this sale, repeated by a constraint in the record.
    limit_per_buyer: Units
    # Sealed, base64; null where the order has none.
    address: str | None = None
    # Counts how often it was amended, so that of two documents the newer is known.
    revision: Units = 1


class AttemptDoc(msgspec.Struct, frozen=True):
    """One try to pay. `attempt` is the provider's idempotency key."""

    attempt: str
    provider: str
    method: str
    amount: MinorUnits
    currency: str
    idempotency_key: str
    body_digest: str
    # The payment token, sealed, base64; erased from the record when the attempt ends.
    instrument: str
    # Which process drives it, and for how long after it is recorded nobody else may.
    driver: str
    drive_ms: Milliseconds


class Announcement(msgspec.Struct, frozen=True):
    """Published on `ShopKeys.verdicts` after each recorded batch. `prev` lets a reader see a gap."""

    epoch: int
    stream: str
    prev: str
    upto: str
    # (order, event id, reason) of claims that were refused in this batch.
    refused: tuple[tuple[str, str, str], ...] = ()
