"""A whole sale as the record has it, and the steps that write it into Redis. Pure: the Rebuilder computes a snapshot,
`Inventory.load` writes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import Any, Self

import msgspec

from onsale.catalog.sales import Sale
from onsale.checkout.record.events import OrderDoc
from onsale.checkout.states import OrderState
from onsale.lua.replies import Reply
from onsale.lua.shop import PackedAttempt, PackedBuyer, PackedEntry, PackedOrder, PackedTurn

# Values a step carries: Lua's unpack takes at most 8,000.
STEP_MAX = 2_000
# What the line is told of a turn that is over.
CLOSED_WHY: Mapping[str, str] = {"spent": "completed", "closed": "left", "revoked": "revoked"}


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
        return cls(
            sale.opens_at_ms,
            sale.closes_at_ms,
            sale.limit_per_buyer,
            sale.hold_ttl_s * 1000,
            pass_required=not sale.is_shop,
        )

    def fields(self) -> list[tuple[str, int]]:
        """As the sale's `meta` has them."""
        return [(name.name, int(value)) for name, value in zip(fields(self), astuple(self), strict=True)]


@dataclass(frozen=True, slots=True)
class ItemUnits:
    """One item at a rebuild: every unit of it, and those sold. What is held and claimed follows from the orders."""

    product: str
    stock: int
    sold: int = 0


@dataclass(frozen=True, slots=True)
class LiveOrder:
    """One order at a rebuild, in state reserved or confirming (or confirmed, so that repeats find it: its units are in
    `ItemUnits.sold`). `attempts` oldest first; an open claim's last attempt has the outcome `open`. `ended_ms`: when a
    confirmed one was confirmed, so that it is forgotten a day later."""

    doc: OrderDoc
    state: OrderState
    rev: int
    reserved_at_ms: int
    expires_at_ms: int
    attempts: tuple[PackedAttempt, ...] = ()
    # Its newest event, of whichever epoch; "0-0" = recorded.
    event_id: str = "0-0"
    ended_ms: int = 0


@dataclass(frozen=True, slots=True)
class ShopSnapshot:
    """A whole sale as the record has it: what a rebuild writes under a new epoch."""

    terms: ShopTerms
    items: tuple[ItemUnits, ...]
    orders: tuple[LiveOrder, ...] = ()
    # Buyer -> units sold to them.
    bought: Mapping[str, int] = field(default_factory=dict)
    # Turn -> `spent`, `closed` or `revoked`, the newest first: the line frees their seats in this order.
    turns: Mapping[str, str] = field(default_factory=dict)
    # Ids of stock moves that `items` counts already.
    moves: tuple[str, ...] = ()


def steps(snapshot: ShopSnapshot, now_ms: int, run_id: str) -> Iterator[tuple[str, Sequence[Any]]]:
    """What `shop_load` takes, in order; the last one makes scripts act on the keys."""
    yield "begin", ()
    for step, values in (
        ("meta", _flat(snapshot.terms.fields())),
        ("stock", _stock(snapshot)),
        ("docs", _flat((order.doc.order, msgspec.json.encode(order.doc)) for order in snapshot.orders)),
        ("orders", _flat((order.doc.order, _pack(packed_order(order))) for order in snapshot.orders)),
        ("keys", _flat((key_field(order.doc), _pack(_entry(order))) for order in snapshot.orders)),
        ("holds", _flat((o.expires_at_ms, o.doc.order) for o in snapshot.orders if o.state is OrderState.RESERVED)),
        ("buyers", _flat((name, _pack(buyer)) for name, buyer in _buyers(snapshot).items())),
        ("turns", _flat((name, _pack(turn)) for name, turn in _turns(snapshot).items())),
        ("ended", _ended(snapshot, now_ms)),
        ("moves", list(snapshot.moves)),
        ("closings", _flat((turn, CLOSED_WHY[state]) for turn, state in snapshot.turns.items())),
    ):
        for first in range(0, len(values), STEP_MAX):
            yield step, values[first : first + STEP_MAX]
    yield "register", (run_id,)


def packed_order(order: LiveOrder) -> PackedOrder:
    """The order as the scripts pack it."""
    doc = order.doc
    return PackedOrder(
        state=order.state.value,
        rev=order.rev,
        buyer=doc.buyer,
        turn=doc.turn,
        items=units_of(doc),
        reserved_at_ms=order.reserved_at_ms,
        expires_at_ms=order.expires_at_ms,
        key=key_field(doc),
        event_id=order.event_id,
        attempts=order.attempts,
    )


def units_of(doc: OrderDoc) -> tuple[tuple[str, int], ...]:
    """(product, quantity) of each item."""
    return tuple((item.product, item.quantity) for item in doc.items)


def key_field(doc: OrderDoc) -> str:
    """The field of an order's idempotency key in `keys`."""
    return f"{doc.buyer}|{doc.idempotency_key}"


def _entry(order: LiveOrder) -> PackedEntry:
    return PackedEntry(order.doc.body_digest, Reply.OK, order.doc.order, order.expires_at_ms, order.event_id)


def _stock(snapshot: ShopSnapshot) -> list[Any]:
    """Counters of every item. What is free is what is left, below zero where the record has given away more."""
    live: dict[tuple[str, OrderState], int] = defaultdict(int)
    for order in snapshot.orders:
        for product, quantity in units_of(order.doc):
            live[product, order.state] += quantity
    counters: list[Any] = []
    for item in snapshot.items:
        held, claimed = live[item.product, OrderState.RESERVED], live[item.product, OrderState.CONFIRMING]
        figures = {
            "free": item.stock - item.sold - held - claimed,
            "held": held,
            "claimed": claimed,
            "sold": item.sold,
            "withdrawn": 0,
            "stock": item.stock,
        }
        counters += _flat((f"{item.product}:{name}", units) for name, units in figures.items())
    return counters


def _buyers(snapshot: ShopSnapshot) -> dict[str, PackedBuyer]:
    buyers = {buyer: PackedBuyer(0, bought) for buyer, bought in snapshot.bought.items() if bought}
    for order in _open_orders(snapshot):
        known = buyers.get(order.doc.buyer, PackedBuyer(0, 0))
        held = known.held + sum(quantity for _, quantity in units_of(order.doc))
        buyers[order.doc.buyer] = PackedBuyer(held, known.bought, order.doc.order)
    return buyers


def _turns(snapshot: ShopSnapshot) -> dict[str, PackedTurn]:
    turns = {turn: PackedTurn(state) for turn, state in snapshot.turns.items()}
    for order in _open_orders(snapshot):
        if order.doc.turn:
            state = snapshot.turns.get(order.doc.turn, "open")
            turns[order.doc.turn] = PackedTurn(state, order.doc.order)
    return turns


def _ended(snapshot: ShopSnapshot, now_ms: int) -> list[Any]:
    confirmed = [order for order in snapshot.orders if order.state is OrderState.CONFIRMED]
    return [
        *_flat((order.ended_ms, order.doc.order) for order in confirmed),
        *_flat((now_ms, f"t|{turn}") for turn in snapshot.turns),
    ]


def _open_orders(snapshot: ShopSnapshot) -> Iterator[LiveOrder]:
    return (order for order in snapshot.orders if order.state in (OrderState.RESERVED, OrderState.CONFIRMING))


def _pack(value: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(value)


def _flat(pairs: Any) -> list[Any]:
    return [value for pair in pairs for value in pair]
