"""How a batch of money becomes rows: pure, in stream order, so that what Postgres is asked for is already decided.

`MoneyFold` starts from what Postgres holds (locked by the caller), takes the events of one sale's `money` stream one by
one and ends with the rows to write. It is here that the record judges: a claim is accepted while its units, its buyer's
limit and its turn allow it, in stream order, and refused as a row otherwise; five hundred claims with room for one are
one sale and 499 refusals, never an aborted batch.

Money is applied by stream order alone (the watermark lets each event in once). `rev` only decides who describes the
order's state, because holdings are another stream, read by another task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from onsale.checkout.record.events import AttemptDoc, ItemDoc, OrderDoc
from onsale.checkout.record.reading import Amended, Claimed, Confirmed, Declined, Failed, MoneyEvent
from onsale.checkout.states import OrderState


class Claim(StrEnum):
    NONE = "none"  # -> open or refused by a claimed event
    OPEN = "open"  # -> sold by confirmed; -> released by declined, failed
    SOLD = "sold"  # -> released by a cancellation
    RELEASED = "released"  # -> open by the next try to pay
    REFUSED = "refused"  # final unless the order is claimed anew


class PaymentState(StrEnum):
    REFUSED = "refused"  # final: the record refused the claim, nobody called the provider
    PENDING = "pending"  # -> captured, declined, failed by what the provider says
    CAPTURED = "captured"  # -> refunding by a cancellation
    DECLINED = "declined"  # final; -> refunding when a late capture is found
    FAILED = "failed"  # final; -> refunding when a late capture is found
    REFUNDING = "refunding"  # -> refunded by the Completer
    REFUNDED = "refunded"  # final


class Refusal(StrEnum):
    STOCK = "stock"  # the units do not exist: withdrawn from the shop
    LIMIT = "limit"  # the buyer has as many as one may: the units are free again
    TURN = "turn"  # another order of the same turn is open or sold
    EPOCH = "epoch"  # written in an epoch that was fenced off
    STATE = "state"  # the order cannot be claimed, or was confirmed without an open claim


@dataclass(slots=True)
class OrderStanding:
    """One order as the record will hold it. `doc` is set where this batch brings the order, so that it is inserted."""

    order: str
    buyer: str
    turn: str
    items: tuple[ItemDoc, ...]
    amount: int
    currency: str
    state: str
    claim: str = Claim.NONE
    rev: int = 0
    claim_rev: int = 0
    reason: str | None = None
    doc: OrderDoc | None = None
    address: bytes | None = None
    reserved_ms: int = 0
    expires_ms: int | None = None
    confirmed_ms: int | None = None
    ended_ms: int | None = None
    # Which of its documents these are, and whether this batch brings it for an order that was known.
    revision: int = 1
    is_amended: bool = False

    def describe(self, state: OrderState, rev: int) -> bool:
        """Take a newer state; False when a newer one is known already."""
        if rev <= self.rev:
            return False
        self.state, self.rev = state, rev
        return True

    def adopt(self, doc: OrderDoc, address: bytes | None) -> None:
        """Be what a newer document says."""
        if doc.revision <= self.revision:
            return
        self.items, self.amount, self.currency, self.address = doc.items, doc.amount, doc.currency, address
        self.revision, self.is_amended = doc.revision, self.doc is None
        self.doc = doc if self.doc is not None else None

    def touch(self, rev: int) -> None:
        # Money always moves claim_rev on, even where a rebuilt order counts its revs from a smaller number.
        self.claim_rev = max(rev, self.claim_rev + 1)

    @property
    def is_over(self) -> bool:
        return OrderState(self.state).is_final


@dataclass(slots=True)
class AttemptStanding:
    """One try to pay as the record will hold it. `doc` is set where this batch brings it."""

    attempt: str
    order: str
    state: str
    amount: int
    currency: str
    reason: str | None = None
    retryable: bool = False
    doc: AttemptDoc | None = None
    instrument: bytes | None = None
    created_ms: int = 0
    ended_ms: int | None = None

    def end(self, state: PaymentState, at_ms: int, reason: str | None = None, *, retryable: bool = False) -> None:
        """The instrument is not needed any more, so it is not kept."""
        self.state, self.ended_ms, self.reason, self.retryable = state, at_ms, reason, retryable
        self.instrument = None


@dataclass(slots=True)
class ItemStanding:
    """One item's counters, and how this batch moves them."""

    stock: int
    claimed: int
    sold: int
    claimed_by: int = 0
    sold_by: int = 0

    @property
    def left(self) -> int:
        return self.stock - self.claimed - self.claimed_by - self.sold - self.sold_by


@dataclass(frozen=True, slots=True)
class LedgerRow:
    event_id: str
    at_ms: int
    order: str
    verb: str
    item: ItemDoc
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RefusalRow:
    order: str
    event_id: str
    reason: Refusal


@dataclass(frozen=True, slots=True)
class RefundRow:
    attempt: str
    amount: int
    currency: str
    reason: str


@dataclass(slots=True)
class MoneyStanding:
    """What Postgres holds of everything a batch names, under lock."""

    limit_per_buyer: int
    items: dict[str, ItemStanding] = field(default_factory=dict)
    orders: dict[str, OrderStanding] = field(default_factory=dict)
    attempts: dict[str, AttemptStanding] = field(default_factory=dict)
    bought: dict[str, int] = field(default_factory=dict)
    # Turns with an open or sold claim -> whose order.
    turns: dict[str, str] = field(default_factory=dict)


class MoneyFold:
    """Apply events in stream order; then read the rows to write."""

    def __init__(self, standing: MoneyStanding) -> None:
        self._standing = standing
        self.orders: dict[str, OrderStanding] = {}
        self.attempts: dict[str, AttemptStanding] = {}
        self.bought: dict[str, int] = {}
        self.ledger: list[LedgerRow] = []
        self.refusals: list[RefusalRow] = []
        self.refunds: list[RefundRow] = []
        # (event id, order) of events about an order that the record has never heard of.
        self.strangers: list[tuple[str, str]] = []

    @property
    def items(self) -> Mapping[str, ItemStanding]:
        """The items whose counters this batch moves."""
        return {name: item for name, item in self._standing.items.items() if item.claimed_by or item.sold_by}

    def apply(self, events: Iterable[MoneyEvent]) -> None:
        """One event after the other; what one takes, the next one misses."""
        for event in events:
            match event:
                case Amended():
                    self._amended(event)
                case Claimed():
                    self._claimed(event)
                case Confirmed():
                    self._confirmed(event)
                case Declined():
                    self._declined(event)
                case Failed():
                    self._failed(event)

    def _amended(self, event: Amended) -> None:
        order = self._standing.orders.get(event.order) or self._arrive(event)
        # A claim is for what the order held when it was made: what was changed before it was recorded before it.
        if order.claim in (Claim.OPEN, Claim.SOLD):
            return
        order.adopt(event.doc, event.address)
        order.touch(event.rev)
        if order.describe(OrderState.RESERVED, event.rev):
            order.expires_ms = event.expires_ms
        self.orders[order.order] = order

    def _claimed(self, event: Claimed) -> None:
        order = self._standing.orders.get(event.order) or self._arrive(event)
        known = self._standing.attempts.get(event.attempt.attempt)
        if known and known.order == order.order and known.state == PaymentState.PENDING and order.claim == Claim.OPEN:
            return None  # The claim of this very attempt, told again.
        if known is not None:
            return self._refuse_again(event)
        reason = self._refusal(order, event)
        if reason is None:
            return self._accept(order, event)
        return self._refuse(order, event, reason)

    def _arrive(self, event: Amended | Claimed) -> OrderStanding:
        doc = event.doc
        order = OrderStanding(
            doc.order, doc.buyer, doc.turn, doc.items, doc.amount, doc.currency, OrderState.RESERVED, doc=doc
        )
        order.address, order.reserved_ms, order.expires_ms = event.address, event.at_ms, event.expires_ms
        order.revision = doc.revision
        self._standing.orders[doc.order] = order
        return order

    def _refusal(self, order: OrderStanding, event: Claimed) -> Refusal | None:
        if order.claim in (Claim.OPEN, Claim.SOLD) or (order.is_over and order.rev >= event.rev):
            return Refusal.STATE
        if self._standing.turns.get(order.turn, order.order) != order.order:
            return Refusal.TURN
        # Stock before limit: a unit that does not exist must be withdrawn, whoever asked for it.
        items = self._standing.items
        if any(item.product not in items or items[item.product].left < item.quantity for item in order.items):
            return Refusal.STOCK
        if self._bought(order.buyer) + _units(order) > self._standing.limit_per_buyer:
            return Refusal.LIMIT
        return None

    def _accept(self, order: OrderStanding, event: Claimed) -> None:
        order.claim, order.reason = Claim.OPEN, None
        order.touch(event.rev)
        if order.describe(OrderState.CONFIRMING, event.rev):
            order.expires_ms = event.expires_ms
        self.orders[order.order] = order
        self._attempt_new(event, PaymentState.PENDING)
        self._take(order, event.id, event.at_ms)

    def _refuse(self, order: OrderStanding, event: Claimed, reason: Refusal) -> None:
        self.refusals.append(RefusalRow(order.order, event.id, reason))
        self._write(order, "refused", event.id, event.at_ms, reason)
        if order.claim not in (Claim.OPEN, Claim.SOLD):
            order.claim = Claim.REFUSED
            order.touch(event.rev)
            if order.describe(OrderState.RELEASED, event.rev):
                order.reason, order.ended_ms = reason, event.at_ms
            self.orders[order.order] = order
        self._attempt_new(event, PaymentState.REFUSED).end(PaymentState.REFUSED, event.at_ms, reason)

    def _refuse_again(self, event: Claimed) -> None:
        # An attempt is one try: its id cannot pay a second time, whatever order names it now.
        self.refusals.append(RefusalRow(event.order, event.id, Refusal.STATE))

    def _confirmed(self, event: Confirmed) -> None:
        order, attempt = self._known(event)
        if order is None or attempt is None:
            return None
        if order.claim == Claim.OPEN and attempt.state == PaymentState.PENDING:
            return self._sell(order, attempt, event)
        if order.claim == Claim.SOLD and attempt.state == PaymentState.CAPTURED:
            return None  # Told again.
        return self._give_back(attempt, event)

    def _sell(self, order: OrderStanding, attempt: AttemptStanding, event: Confirmed) -> None:
        order.claim, order.reason = Claim.SOLD, None
        order.touch(event.rev)
        # A recorded claim outranks what else is known of the order: sold is sold.
        order.describe(OrderState.CONFIRMED, max(event.rev, order.rev + 1))
        order.confirmed_ms = event.at_ms
        self.orders[order.order] = order
        self._attempt_end(attempt, PaymentState.CAPTURED, event.at_ms)
        for item in order.items:
            standing = self._standing.items[item.product]
            standing.claimed_by -= item.quantity
            standing.sold_by += item.quantity
        self._write(order, "sold", event.id, event.at_ms)

    def _give_back(self, attempt: AttemptStanding, event: Confirmed) -> None:
        """A capture without a claim: the money goes back, and the waiter learns that nothing was bought."""
        self.refusals.append(RefusalRow(event.order, event.id, Refusal.STATE))
        if attempt.state in (PaymentState.REFUNDING, PaymentState.REFUNDED):
            return
        self._attempt_end(attempt, PaymentState.REFUNDING, event.at_ms, "no_claim")
        if attempt.amount > 0:
            self.refunds.append(RefundRow(attempt.attempt, attempt.amount, attempt.currency, "no_claim"))

    def _declined(self, event: Declined) -> None:
        order, attempt = self._known(event)
        if order is None or attempt is None:
            return
        self._let_go(order, attempt, event, PaymentState.DECLINED, retryable=True)
        order.touch(event.rev)
        if order.describe(OrderState.RESERVED, event.rev):
            order.expires_ms = event.expires_ms
        self.orders[order.order] = order

    def _failed(self, event: Failed) -> None:
        order, attempt = self._known(event)
        if order is None or attempt is None:
            return
        self._let_go(order, attempt, event, PaymentState.FAILED, retryable=False)
        order.touch(event.rev)
        if order.describe(OrderState.PAYMENT_FAILED, event.rev):
            order.reason, order.ended_ms = event.reason, event.at_ms
        self.orders[order.order] = order

    def _let_go(
        self,
        order: OrderStanding,
        attempt: AttemptStanding,
        event: Declined | Failed,
        state: PaymentState,
        *,
        retryable: bool,
    ) -> None:
        """End the open claim that this attempt holds, if it holds one."""
        if order.claim != Claim.OPEN or attempt.state != PaymentState.PENDING:
            return
        order.claim = Claim.RELEASED
        self._attempt_end(attempt, state, event.at_ms, event.reason, retryable=retryable)
        for item in order.items:
            self._standing.items[item.product].claimed_by -= item.quantity
        self._set_bought(order.buyer, self._bought(order.buyer) - _units(order))
        self._standing.turns.pop(order.turn, None)
        self._write(order, "released", event.id, event.at_ms, event.reason)

    def _known(self, event: Confirmed | Declined | Failed) -> tuple[OrderStanding, AttemptStanding] | tuple[None, None]:
        order = self._standing.orders.get(event.order)
        attempt = self._standing.attempts.get(event.attempt)
        if order is None or attempt is None or attempt.order != event.order:
            self.strangers.append((event.id, event.order))
            return None, None
        return order, attempt

    def _take(self, order: OrderStanding, event_id: str, at_ms: int) -> None:
        for item in order.items:
            self._standing.items[item.product].claimed_by += item.quantity
        self._set_bought(order.buyer, self._bought(order.buyer) + _units(order))
        if order.turn:
            self._standing.turns[order.turn] = order.order
        self._write(order, "claimed", event_id, at_ms)

    def _bought(self, buyer: str) -> int:
        return self._standing.bought.get(buyer, 0)

    def _set_bought(self, buyer: str, units: int) -> None:
        self._standing.bought[buyer] = self.bought[buyer] = units

    def _attempt_new(self, event: Claimed, state: PaymentState) -> AttemptStanding:
        doc = event.attempt
        attempt = AttemptStanding(doc.attempt, event.order, state, doc.amount, doc.currency, doc=doc)
        attempt.created_ms, attempt.instrument = event.at_ms, event.instrument
        self._standing.attempts[doc.attempt] = self.attempts[doc.attempt] = attempt
        return attempt

    def _attempt_end(
        self,
        attempt: AttemptStanding,
        state: PaymentState,
        at_ms: int,
        reason: str | None = None,
        *,
        retryable: bool = False,
    ) -> None:
        attempt.end(state, at_ms, reason, retryable=retryable)
        self.attempts[attempt.attempt] = attempt

    def _write(self, order: OrderStanding, verb: str, event_id: str, at_ms: int, reason: str | None = None) -> None:
        self.ledger += [LedgerRow(event_id, at_ms, order.order, verb, item, reason) for item in order.items]


def _units(order: OrderStanding) -> int:
    return sum(item.quantity for item in order.items)
