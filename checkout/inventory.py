"""Holds on stock. A unit is free, held, claimed, sold or withdrawn, never two at once; Redis decides fast, and the record
is the truth it can be rebuilt from.

`Inventory` is the room's only port to the shop's Redis. Each method is one script; what many requests ask of the same
script in one tick of the loop travels as one batch. Nothing is retried here: every change is idempotent under an id its
caller made, so the caller repeats it knowingly. All times are milliseconds of the shop's Redis clock.

Every method raises ShopRecovering when this Redis is not the one the sale was loaded into (nothing was changed), and
StoreUnavailable when Redis is away or refuses to write: then a change may or may not have happened, and repeating the
same call with the same ids finds out.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from onsale.auth.errors import IdempotencyKeyReused, StoreUnavailable
from onsale.catalog.sales import Sale
from onsale.checkout.errors import (
    CheckoutError,
    OrderExpired,
    OrderStateConflict,
    OrderUnknown,
    PassExpired,
    PassRevoked,
    PassSpent,
    ProductUnknown,
    PurchaseLimitReached,
    RecordBehind,
    ReservationOpen,
    SaleNotOpen,
    ShopRecovering,
    SoldOut,
)
from onsale.checkout.record.events import Announcement, AttemptDoc, OrderDoc
from onsale.checkout.states import OrderState
from onsale.lua.batching import Batcher, Overloaded
from onsale.lua.keys import ShopKeys
from onsale.lua.replies import Reply
from onsale.lua.shop import (
    PackedAttempt,
    PackedBuyer,
    PackedOrder,
    PinItem,
    RemakeItem,
    Reserve,
    Row,
    ShopScripts,
    StockFigures,
    TurnClosing,
)

__all__ = [
    "Changed",
    "Held",
    "Inventory",
    "ItemUnits",
    "LapseTick",
    "LiveOrder",
    "OrderView",
    "PackedAttempt",
    "Pin",
    "Pinned",
    "Reserve",
    "ShopSnapshot",
    "ShopTerms",
    "Standing",
    "StockFigures",
    "TurnClosing",
]


@dataclass(frozen=True, slots=True)
class Held:
    """What a reservation answers. `doc` is the order as it was reserved; `event_id` the `reserved` event in `holdings`."""

    order: str
    rev: int
    expires_at_ms: int
    doc: bytes
    is_replay: bool
    event_id: str


@dataclass(frozen=True, slots=True)
class Pin:
    """Who starts to pay which order. Everything in `attempt` is made before the pin."""

    order: str
    buyer: str
    attempt: AttemptDoc


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a pin answers. `is_replay`: the attempt is not the caller's new one but the one that key, or the order, has
    already; then `outcome` is what became of it (`open`, `sold`, `declined`, `failed`, `refused`) and `reason` why.
    `event_id` is that attempt's `claimed` event in `money`; `state` the order's present state."""

    event_id: str
    rev: int
    attempt: str
    is_replay: bool
    state: OrderState
    expires_at_ms: int
    # The idempotency key the answered attempt was made with.
    key: str
    outcome: str = "open"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change of state answers: its event's id ("" where it writes none) and the order's present state."""

    event_id: str
    rev: int
    expires_at_ms: int
    state: OrderState
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order as Redis has it. `attempt`, `key`, `digest` are the newest try's ("" before the first); `event_id` is the
    order's newest event."""

    order: str
    state: OrderState
    rev: int
    buyer: str
    turn: str
    items: tuple[tuple[str, int], ...]
    reserved_at_ms: int
    expires_at_ms: int
    tries: int
    attempt: str
    key: str
    digest: str
    doc: bytes
    event_id: str
    attempts: tuple[PackedAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class LapseTick:
    """Holds that expired in one go, and whether more are past their expiry."""

    expired: int
    more: bool


@dataclass(frozen=True, slots=True)
class ShopTerms:
    """What the scripts need of a sale: its hours, limits and what they refuse by."""

    opens_at_ms: int
    closes_at_ms: int
    limit_per_buyer: int
    hold_ttl_ms: int
    pass_required: bool = True
    # 10 s: the flusher's failover takes 2 to 3; behind by more, what is sold may not be what the record will accept.
    record_behind_ms: int = 10_000

    @classmethod
    def of(cls, sale: Sale) -> Self:
        """The terms of a sale with its effective hours."""
        return cls(sale.opens_at_ms, sale.closes_at_ms, sale.limit_per_buyer, sale.hold_ttl_s * 1000)


@dataclass(frozen=True, slots=True)
class ItemUnits:
    """One item at a rebuild: every unit of it, and those sold. What is held and claimed follows from the orders."""

    product: str
    stock: int
    sold: int = 0


@dataclass(frozen=True, slots=True)
class LiveOrder:
    """One order at a rebuild, in state reserved or confirming (or confirmed, so that repeats find it; its units are in
    `ItemUnits.sold`). `attempts` oldest first; an open claim's last attempt has the outcome `open`."""

    doc: OrderDoc
    state: OrderState
    rev: int
    reserved_at_ms: int
    expires_at_ms: int
    attempts: tuple[PackedAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class ShopSnapshot:
    """A whole sale as the record has it: what a rebuild writes under a new epoch."""

    terms: ShopTerms
    items: tuple[ItemUnits, ...]
    orders: tuple[LiveOrder, ...] = ()
    # Buyer -> units sold to them.
    bought: Mapping[str, int] = field(default_factory=dict)
    # Turn -> `spent`, `closed` or `revoked`.
    turns: Mapping[str, str] = field(default_factory=dict)
    # Ids of stock moves that `items` counts already.
    moves: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """Whose keys these are: the run id they were registered with ("" = none) and this server's own."""

    known_run_id: str
    server_run_id: str
    at_ms: int

    @property
    def is_registered(self) -> bool:
        """Whether scripts act on these keys."""
        return self.known_run_id == self.server_run_id


# A million a second for ten minutes would fit; readers start at Postgres's watermark, which is never so old while it moves.
TRIM_BEHIND_MS = 600_000
# The line reads closings within a second; after an hour a seat's lease has ended by itself.
CLOSINGS_KEPT_MS = 3_600_000
# Idempotency keys are promised for 24 hours.
FORGET_AFTER_MS = 86_400_000
FORGET_MAX = 500
LOAD_CHUNK = 1_000
# Five verbs are batched: this many sales at once keep their batchers.
BATCHERS_MAX = 5 * 256


class Inventory:
    """The stock and the live orders of every sale on one Redis server or cluster.

    `keys_of(sale)` answers the keys of a sale in its present epoch (from the SaleBook); it may raise SaleUnknown.
    """

    def __init__(self, redis: Redis, keys_of: Callable[[str], ShopKeys]) -> None:
        self._scripts = ShopScripts(redis)
        self._keys_of = keys_of
        self._batchers: OrderedDict[tuple[str, ShopKeys], Batcher[Any, Row]] = OrderedDict()

    async def reserve(self, keys: ShopKeys, item: Reserve) -> Held:
        """Hold every unit of an order, or none. The same buyer and key again answer the same, refusals of business
        included (`is_replay`). Raises IdempotencyKeyReused, SaleNotOpen, RecordBehind, PassExpired, PassRevoked,
        PassSpent, ReservationOpen, PurchaseLimitReached, ProductUnknown, SoldOut."""
        raise NotImplementedError

    async def look(self, keys: ShopKeys, order: str) -> OrderView | None:
        """The order as Redis has it; None when Redis does not know it (ended a day ago, or before a rebuild)."""
        raise NotImplementedError

    async def pin(self, keys: ShopKeys, item: Pin) -> Pinned:
        """Take an order off the reaper's list and claim its units for one attempt. A key that tried before answers that
        try; an order that is being or has been paid answers its attempt, whatever the key: see `Pinned.is_replay`.
        Raises OrderUnknown, OrderExpired, OrderStateConflict, IdempotencyKeyReused (same key, other body)."""
        raise NotImplementedError

    async def confirm(self, keys: ShopKeys, order: str, attempt: str, remake: OrderDoc | None = None) -> Changed:
        """The claim is paid: its units are sold, its turn is spent. Repeating answers the same. With `remake`, an order
        or a claim that Redis forgot is made again, even below zero free: a recorded claim outranks Redis; pass it only
        while the record has this claim open. Raises OrderUnknown (and no `remake`), OrderStateConflict (the claim ended
        otherwise: refund)."""
        raise NotImplementedError

    async def decline(self, keys: ShopKeys, order: str, attempt: str, reason: str) -> Changed:
        """A retryable decline: back to reserved with at least 60 s to pay, never beyond twice the hold's life. After
        the fifth try, or where no time is left, the order fails instead: `state` says which. Repeating answers the
        same. Raises OrderUnknown, OrderStateConflict."""
        raise NotImplementedError

    async def fail(self, keys: ShopKeys, order: str, attempt: str, reason: str) -> Changed:
        """A final decline: payment_failed, the units free again. Repeating answers the same. Raises OrderUnknown,
        OrderStateConflict (sold already)."""
        raise NotImplementedError

    async def refuse(self, keys: ShopKeys, order: str, attempt: str, reason: str) -> Changed | None:
        """The record refused a claim: `stock` withdraws its units (the record has none for them), any other reason frees
        them; the order is released. Never twice. None when Redis knows no such claim: nothing is left to undo."""
        raise NotImplementedError

    async def release(self, keys: ShopKeys, order: str, buyer: str) -> Changed:
        """Give a reservation up: its units are free, turn and pass stay. Repeating answers the same. Raises
        OrderUnknown (also when it is another's), OrderExpired, OrderStateConflict (being paid, or paid)."""
        raise NotImplementedError

    async def lapse(self, keys: ShopKeys, count: int) -> LapseTick:
        """Free the units of at most `count` unpinned orders past their expiry, oldest first."""
        raise NotImplementedError

    async def figures(self, sale: str) -> StockFigures:
        """Units of the whole sale in one snapshot; an item below zero free counts as none."""
        raise NotImplementedError

    async def close_turns(self, sale: str, turns: Sequence[str], why: str) -> Sequence[int]:
        """End turns (`why`: expired, left, revoked). For each: 0 closed, its `turn_closed` event written once; or, for
        `expired` alone, the time (ms) until which its open order keeps the seat. A turn nobody reserved with is
        remembered as closed, so that a late reserve is refused."""
        raise NotImplementedError

    async def closings(self, sale: str, after: str, count: int) -> Sequence[TurnClosing]:
        """`turn_closed` events after a stream id, oldest first; kept for an hour."""
        raise NotImplementedError

    async def move_stock(self, keys: ShopKeys, move: str, product: str, quantity: int) -> bool:
        """Add units to an item (making it), or take free ones away (`quantity` < 0); applied once per `move`. False when
        it was applied before. Raises SoldOut (not so many free; not applied), ProductUnknown."""
        raise NotImplementedError

    async def announce(
        self, keys: ShopKeys, stream: str, prev: str, upto: str, refused: Sequence[tuple[str, str, str]] = ()
    ) -> None:
        """Tell every process that `stream` (`money`, `holdings`) is recorded up to `upto`, mirror that into the sale's
        keys (forward only) and trim the stream ten minutes behind it. Works with Redis's memory full."""
        raise NotImplementedError

    async def forget(self, keys: ShopKeys) -> bool:
        """Drop orders and turns that ended over a day ago and are recorded, keys of old refusals, old closings; True
        when there is more to drop."""
        raise NotImplementedError

    async def set_terms(self, keys: ShopKeys, terms: ShopTerms) -> bool:
        """Put a sale's hours and limits in force; True when they were others."""
        raise NotImplementedError

    async def standing(self, keys: ShopKeys) -> Standing:
        """Whose keys these are. Never raises ShopRecovering."""
        raise NotImplementedError

    async def load(self, keys: ShopKeys, snapshot: ShopSnapshot) -> None:
        """Write a whole sale under keys of a new epoch; scripts act on them once the last step has written the run id.
        What a rebuilder that died left under the same keys is removed first. Raises OrderStateConflict when these keys
        are in use already. Never raises ShopRecovering."""
        raise NotImplementedError

    async def register(self, keys: ShopKeys, known_run_id: str) -> Standing:
        """Accept keys that survived a restart of their server, after the caller compared them with the record. Raises
        ShopRecovering when they are not the ones registered under `known_run_id`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let every batch in flight finish."""
        for batcher in list(self._batchers.values()):
            await batcher.close()
