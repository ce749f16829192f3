"""Holds on stock. A unit is free, held, claimed, sold or withdrawn, never two at once; Redis decides fast, and the
record is the truth it can be rebuilt from.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ClusterDownError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from onsale.auth.errors import IdempotencyKeyReused, StoreUnavailable
from onsale.checkout.errors import (
    CartEmpty,
    CheckoutError,
    OrderChanged,
    OrderExpired,
    OrderStateConflict,
    OrderUnknown,
    PassExpired,
    PassRevoked,
    PassSpent,
    PriceChanged,
    ProductUnavailable,
    ProductUnknown,
    PurchaseLimitReached,
    RecordBehind,
    ReservationOpen,
    SaleNotOpen,
    ShopRecovering,
    SoldOut,
    TooManyDrops,
)
from onsale.checkout.record.events import Announcement, AttemptDoc, OrderDoc
from onsale.checkout.snapshot import ItemUnits, LiveOrder, ShopSnapshot, ShopTerms, steps, units_of
from onsale.checkout.states import OrderState
from onsale.lua.batching import BATCH_MAX, Batcher, Overloaded
from onsale.lua.keys import ShopKeys
from onsale.lua.replies import Reply
from onsale.lua.shop import (
    Amend,
    PackedAttempt,
    PackedOrder,
    PinItem,
    RemakeItem,
    Reserve,
    Restock,
    Row,
    ShopScripts,
    StockFigures,
    TurnClosing,
)

__all__ = [
    "Amend",
    "Changed",
    "Claiming",
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
    "Restock",
    "ShopSnapshot",
    "ShopTerms",
    "Standing",
    "StockFigures",
    "TurnClosing",
]


@dataclass(frozen=True, slots=True)
class StockMoved:
    """Units came or left: now or before, and whether the record has all that came before they left."""

    is_new: bool
    is_recorded: bool


@dataclass(frozen=True, slots=True)
class Held:
    """What a reservation answers. `doc` is the order as it was reserved; `event_id` its event in `holdings`."""

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
    # As the caller saw the order when it made the attempt; 0 = whatever it is now.
    rev: int = 0


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
    """An order as Redis has it; `attempts` oldest first, `event_id` is the order's newest event."""

    order: str
    state: OrderState
    rev: int
    buyer: str
    turn: str
    items: tuple[tuple[str, int], ...]
    reserved_at_ms: int
    expires_at_ms: int
    doc: bytes
    event_id: str
    attempts: tuple[PackedAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Claiming:
    """An order being paid: its open attempt and that attempt's `claimed` event."""

    order: str
    attempt: str
    event_id: str


@dataclass(frozen=True, slots=True)
class LapseTick:
    """Holds that expired in one go, and whether more are past their expiry."""

    expired: int
    more: bool


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


# Readers start at Postgres's watermark; ten minutes leave room for one that is restored or asks again.
TRIM_BEHIND_MS = 600_000
# The line reads closings within a second; after an hour a seat's lease has ended by itself.
CLOSINGS_KEPT_MS = 3_600_000
# Idempotency keys are promised for 24 hours.
FORGET_AFTER_MS = 86_400_000
FORGET_MAX = 500
# Orders looked at in one step through them all: about a millisecond of Redis.
SCAN_STEP = 500
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
        PassSpent, ReservationOpen, TooManyDrops, PurchaseLimitReached, ProductUnknown, ProductUnavailable,
        PriceChanged, SoldOut."""
        assert item.refusal or (item.items and len({product for product, _ in item.items}) == len(item.items))
        reply, row = await self._batched("reserve", keys, item)
        if reply is not Reply.OK:
            refused = _refusal(reply, unknown=ProductUnknown, is_replay=bool(row and row[0]))
            if isinstance(refused, TooManyDrops):
                refused.retry_after_s = -(-row[1] // 1000)
            raise refused
        order, rev, expires_at_ms, doc, is_replay, event_id = row
        return Held(order.decode(), rev, expires_at_ms, doc or item.doc, bool(is_replay), event_id.decode())

    async def look(self, keys: ShopKeys, order: str) -> OrderView | None:
        """The order as Redis has it; None when Redis does not know it (ended a day ago, or before a rebuild)."""
        reply, row = await self._batched("order_look", keys, order)
        if reply is Reply.UNKNOWN:
            return None
        _must(reply)
        return _view(order, PACKED_ORDER.decode(row[0]), row[1])

    async def amend(self, keys: ShopKeys, item: Amend) -> Changed:
        """Hold other units for an order that is not being paid, or none of the change; its time stays. Not idempotent
        by itself: the same change once more finds another rev. Raises OrderUnknown, OrderExpired, OrderStateConflict,
        OrderChanged, SaleNotOpen, RecordBehind, PassExpired, PassRevoked, PassSpent, PurchaseLimitReached, SoldOut."""
        return _changed(await self._batched("amend", keys, item))

    async def pin(self, keys: ShopKeys, item: Pin) -> Pinned:
        """Take an order off the reaper's list and claim its units for one attempt. A key that tried before answers that
        try; an order that is being or has been paid answers its attempt, whatever the key: see `Pinned.is_replay`.
        Raises OrderUnknown, OrderExpired, OrderStateConflict, OrderChanged (it is not at the rev the attempt was made
        for), IdempotencyKeyReused (same key, other body)."""
        attempt = item.attempt
        request = PinItem(
            item.order,
            item.buyer,
            attempt.attempt,
            attempt.idempotency_key,
            attempt.body_digest,
            msgspec.json.encode(attempt).decode(),
            item.rev,
        )
        reply, row = await self._batched("pin", keys, request)
        _must(reply)
        state, rev, expires_at_ms, is_replay, packed = row
        made = PACKED_ATTEMPT.decode(packed)
        return Pinned(
            event_id=made.event_id,
            rev=rev,
            attempt=made.attempt,
            is_replay=bool(is_replay),
            state=OrderState(state.decode()),
            expires_at_ms=expires_at_ms,
            key=made.key,
            outcome=made.outcome,
            reason=made.reason,
        )

    async def confirm(self, keys: ShopKeys, order: str, attempt: str, remake: OrderDoc | None = None) -> Changed:
        """The claim is paid: its units are sold, its turn is spent. Repeating answers the same. With `remake`, an order
        or a claim that Redis forgot is made again, even below zero free: a recorded claim outranks Redis; pass it only
        while the record has this claim open. Raises OrderUnknown (and no `remake`), OrderStateConflict (the claim ended
        otherwise: refund)."""
        request = (order, attempt, _remake_item(remake) if remake else None)
        return _changed(await self._batched("confirm", keys, request))

    async def decline(
        self, keys: ShopKeys, order: str, attempt: str, reason: str, remake: OrderDoc | None = None
    ) -> Changed:
        """A retryable decline: back to reserved with at least 60 s to pay, never beyond twice the hold's life. After
        the fifth try, or where no time is left, the order fails instead: `state` says which. Repeating answers the
        same. With `remake` a claim that Redis forgot ends as well; pass it only while the record has the claim open.
        Raises OrderUnknown (and no `remake`), OrderStateConflict."""
        request = (order, attempt, reason, _remake_item(remake) if remake else None)
        with _store_errors():
            rows = await self._scripts.decline(keys, [request])
        return _changed(rows[0])

    async def fail(
        self, keys: ShopKeys, order: str, attempt: str, reason: str, remake: OrderDoc | None = None
    ) -> Changed:
        """A final decline: payment_failed, the units free again. Repeating answers the same. `remake` as above. Raises
        OrderUnknown, OrderStateConflict (sold already)."""
        request = (order, attempt, reason, _remake_item(remake) if remake else None)
        with _store_errors():
            rows = await self._scripts.fail(keys, [request])
        return _changed(rows[0])

    async def refuse(self, keys: ShopKeys, order: str, attempt: str, reason: str, event_id: str = "") -> Changed | None:
        """The record refused a claim: `stock` withdraws its units (the record has none for them), any other reason
        frees them; the order is released. So is one that was sold by `event_id`, where that is what was refused. Never
        twice. None when Redis knows no such claim: nothing is left to undo. Raises OrderStateConflict."""
        with _store_errors():
            rows = await self._scripts.refuse(keys, [(order, attempt, reason, event_id)])
        return None if rows[0][0] is Reply.UNKNOWN else _changed(rows[0])

    async def release(self, keys: ShopKeys, order: str, buyer: str) -> Changed:
        """Give a reservation up: its units are free, turn and pass stay. Repeating answers the same. Raises
        OrderUnknown (also when it is another's), OrderExpired, OrderStateConflict (being paid, or paid)."""
        return _changed(await self._batched("release", keys, (order, buyer)))

    async def lapse(self, keys: ShopKeys, count: int) -> LapseTick:
        """Free the units of at most `count` unpinned orders past their expiry, oldest first."""
        with _store_errors():
            reply, row = await self._scripts.lapse(keys, count)
        _must(reply)
        return LapseTick(expired=row[0], more=bool(row[1]))

    async def figures(self, sale: str) -> StockFigures:
        """Units of the whole sale in one snapshot; an item below zero free counts as none."""
        with _store_errors():
            reply, row = await self._scripts.figures(self._keys_of(sale))
        _must(reply)
        return StockFigures(*row)

    async def free(self, sale: str, products: Sequence[str] = ()) -> dict[str, int]:
        """Units free of these products of the sale, those it has; of all where none is named."""
        with _store_errors():
            reply, row = await self._scripts.stock_free(self._keys_of(sale), products)
        _must(reply)
        return {product.decode(): units for product, units in zip(row[::2], row[1::2], strict=True)}

    async def claiming(self, keys: ShopKeys, cursor: str, older_ms: int) -> tuple[str, tuple[Claiming, ...]]:
        """One step through the orders being paid for longer than `older_ms`: the next cursor ("0" = begin, and when it
        comes back, the end) and what was met."""
        with _store_errors():
            reply, row = await self._scripts.claiming(keys, cursor, SCAN_STEP, older_ms)
        _must(reply)
        texts = [text.decode() for text in row]
        found = zip(texts[1::3], texts[2::3], texts[3::3], strict=True)
        return texts[0], tuple(Claiming(*one) for one in found)

    async def close_turns(self, sale: str, turns: Sequence[str], why: str) -> Sequence[int]:
        """End turns (`why`: expired, left, revoked). For each: 0 closed, its `turn_closed` event written once; or, for
        `expired` alone, the time (ms) until which its open order keeps the seat. A turn nobody reserved with is
        remembered as closed, so that a late reserve is refused."""
        keys, answers = self._keys_of(sale), list[int]()
        for some in _chunks(turns, BATCH_MAX):
            with _store_errors():
                rows = await self._scripts.close_turns(keys, some, why)
            for reply, row in rows:
                _must(reply)
                answers.append(row[0])
        return answers

    async def closings(self, sale: str, after: str, count: int) -> Sequence[TurnClosing]:
        """`turn_closed` events after a stream id, oldest first; kept for an hour."""
        with _store_errors():
            reply, row = await self._scripts.closings(self._keys_of(sale), after, count)
        _must(reply)
        return [_closing(entry) for entry in row]

    async def move_stock(self, keys: ShopKeys, move: str, product: str, quantity: int) -> StockMoved:
        """Add units to an item (making it), or take free ones away (`quantity` < 0); decided once per `move`. Raises
        SoldOut (not so many free; never to be applied), ProductUnknown."""
        with _store_errors():
            reply, row = await self._scripts.move_stock(keys, move, product, quantity)
        if reply is not Reply.OK:
            raise _refusal(reply, unknown=ProductUnknown)
        return StockMoved(is_new=not row[0], is_recorded=bool(row[1]))

    async def restock(self, keys: ShopKeys, items: Sequence[Restock]) -> list[str]:
        """Units that were sold are free again, and their buyers' limits with them; once per move. Answers the moves
        that are made now, by whomever; one that does not fit the counters is left out, for the audit to tell."""
        with _store_errors():
            rows = await self._scripts.restock(keys, items)
        if any(reply is Reply.RECOVERING for reply, _ in rows):
            raise ShopRecovering
        return [item.move for item, (reply, _) in zip(items, rows, strict=True) if reply is Reply.OK]

    async def announce(
        self, keys: ShopKeys, stream: str, prev: str, upto: str, refused: Sequence[tuple[str, str, str]] = ()
    ) -> None:
        """Tell every process that `stream` (`money`, `holdings`) is recorded up to `upto`, mirror that into the sale's
        keys (forward only) and trim the stream ten minutes behind it. Works with Redis's memory full."""
        announcement = Announcement(keys.epoch, stream, prev, upto, tuple(refused))
        with _store_errors():
            reply, _ = await self._scripts.announce(
                keys, stream, upto, TRIM_BEHIND_MS, msgspec.json.encode(announcement)
            )
        _must(reply)

    async def forget(self, keys: ShopKeys) -> bool:
        """Drop orders and turns that ended over a day ago and are recorded, keys of old refusals, old closings; True
        when there is more to drop."""
        with _store_errors():
            reply, row = await self._scripts.forget(keys, FORGET_AFTER_MS, FORGET_MAX, CLOSINGS_KEPT_MS)
        _must(reply)
        return bool(row[1])

    async def set_terms(self, keys: ShopKeys, terms: ShopTerms) -> bool:
        """Put a sale's hours and limits in force; True when they were others."""
        with _store_errors():
            reply, row = await self._scripts.shop_terms(keys, terms.fields())
        _must(reply)
        return bool(row[0])

    async def standing(self, keys: ShopKeys) -> Standing:
        """Whose keys these are. Never raises ShopRecovering."""
        with _store_errors():
            reply, row = await self._scripts.shop_standing(keys)
        _must(reply)
        return Standing(row[0].decode(), row[1].decode(), row[2])

    async def load(self, keys: ShopKeys, snapshot: ShopSnapshot) -> None:
        """Write a whole sale under keys of a new epoch; scripts act on them once the last step has written the run id.
        What a rebuilder that died left under the same keys is removed first. Raises OrderStateConflict when these keys
        are in use already, or their server has started anew meanwhile and may have lost a step. Never raises
        ShopRecovering."""
        standing = await self.standing(keys)
        for step, values in steps(snapshot, standing.at_ms, standing.server_run_id):
            with _store_errors():
                reply, _ = await self._scripts.shop_load(keys, step, values)
            if reply is Reply.STALE:
                raise OrderStateConflict
            _must(reply)

    async def register(self, keys: ShopKeys, known_run_id: str, successor: ShopKeys) -> Standing:
        """Take keys that survived a restart of their server on into the next epoch, under the names of `successor`: the
        caller has compared them with the record and fenced their own epoch. Raises ShopRecovering when they are not
        the ones registered under `known_run_id`."""
        with _store_errors():
            reply, row = await self._scripts.shop_register(keys, known_run_id, successor)
        if reply is Reply.STALE:
            raise ShopRecovering
        _must(reply)
        return Standing(row[0].decode(), row[0].decode(), row[1])

    async def close(self) -> None:
        """Let every batch in flight finish."""
        for batcher in list(self._batchers.values()):
            await batcher.close()

    async def _batched(self, script: str, keys: ShopKeys, item: Any) -> Row:
        with _store_errors():
            return await self._batcher(script, keys).submit(item)

    def _batcher(self, script: str, keys: ShopKeys) -> Batcher[Any, Row]:
        """One a script and sale; the longest unused goes. What it still has in flight ends by itself."""
        batcher = self._batchers.get((script, keys))
        if batcher is None:
            batcher = Batcher(partial(getattr(self._scripts, script), keys), batch_max=BATCH_MAX)
            self._batchers[script, keys] = batcher
            if len(self._batchers) > BATCHERS_MAX:
                self._batchers.popitem(last=False)
        self._batchers.move_to_end((script, keys))
        return batcher


Item = TypeVar("Item")
REFUSALS: Mapping[Reply, type[Exception]] = {
    Reply.RECOVERING: ShopRecovering,
    Reply.NOT_OPEN: SaleNotOpen,
    Reply.SOLD_OUT: SoldOut,
    Reply.PASS_EXPIRED: PassExpired,
    Reply.PASS_REVOKED: PassRevoked,
    Reply.PASS_SPENT: PassSpent,
    Reply.LIMIT_REACHED: PurchaseLimitReached,
    Reply.RESERVATION_OPEN: ReservationOpen,
    Reply.TOO_MANY_DROPS: TooManyDrops,
    Reply.KEY_REUSED: IdempotencyKeyReused,
    Reply.RECORD_BEHIND: RecordBehind,
    Reply.PRICE_CHANGED: PriceChanged,
    Reply.UNAVAILABLE: ProductUnavailable,
    Reply.CART_EMPTY: CartEmpty,
    Reply.ORDER_EXPIRED: OrderExpired,
    Reply.STATE_CONFLICT: OrderStateConflict,
    Reply.STALE: OrderChanged,
    Reply.NOT_YOURS: OrderUnknown,
    # Something else wrote into the sale's keys: nobody can buy until an operator has rebuilt it.
    Reply.CORRUPT: StoreUnavailable,
}
PACKED_ORDER = msgspec.msgpack.Decoder(PackedOrder)
PACKED_ATTEMPT = msgspec.msgpack.Decoder(PackedAttempt)
CANNOT_WRITE = (OutOfMemoryError, ReadOnlyError, ClusterDownError)
# The same where no class says so: 6.2 wraps a script's error in text, and some codes have no class.
CANNOT_WRITE_TEXT = re.compile(r"used memory > 'maxmemory'|MISCONF|NOREPLICAS|READONLY|BUSY")


def _refusal(reply: Reply, *, unknown: type[Exception] = OrderUnknown, is_replay: bool = False) -> Exception:
    error = unknown() if reply is Reply.UNKNOWN else REFUSALS[reply]()
    if isinstance(error, CheckoutError):
        error.is_replay = is_replay
    return error


def _must(reply: Reply) -> None:
    if reply is not Reply.OK:
        raise _refusal(reply)


@contextmanager
def _store_errors() -> Iterator[None]:
    """Redis away, silent or refusing to write: StoreUnavailable. An error of a script is a fault of ours and rises."""
    try:
        yield
    except Overloaded as error:
        raise StoreUnavailable from error
    except ResponseError as error:
        if isinstance(error, CANNOT_WRITE) or CANNOT_WRITE_TEXT.search(str(error)):
            raise StoreUnavailable from error
        raise
    except RedisError as error:
        raise StoreUnavailable from error


def _changed(answer: Row) -> Changed:
    reply, row = answer
    _must(reply)
    event_id, rev, expires_at_ms, state, is_replay = row
    return Changed(event_id.decode(), rev, expires_at_ms, OrderState(state.decode()), bool(is_replay))


def _view(order: str, packed: PackedOrder, doc: bytes) -> OrderView:
    return OrderView(
        order=order,
        state=OrderState(packed.state),
        rev=packed.rev,
        buyer=packed.buyer,
        turn=packed.turn,
        items=packed.items,
        reserved_at_ms=packed.reserved_at_ms,
        expires_at_ms=packed.expires_at_ms,
        doc=doc,
        event_id=packed.event_id,
        attempts=packed.attempts,
    )


def _closing(entry: tuple[bytes, Sequence[bytes]]) -> TurnClosing:
    event_id, flat = entry
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return TurnClosing(event_id.decode(), fields[b"turn"].decode(), fields[b"why"].decode())


def _remake_item(doc: OrderDoc) -> RemakeItem:
    return RemakeItem(
        buyer=doc.buyer,
        turn=doc.turn,
        items=units_of(doc),
        key=doc.idempotency_key,
        digest=doc.body_digest,
        doc=msgspec.json.encode(doc).decode(),
    )


def _chunks(values: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for first in range(0, len(values), size):
        yield values[first : first + size]
