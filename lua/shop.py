"""The scripts of a sale's stock, one typed method each. They answer rows; `checkout/inventory.py` gives them meaning.

A row starts with a `Reply`. Requests are structs that travel as msgpack arrays: their fields, in order, are what the
Lua file unpacks, so a field is only ever added at the end, in both places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis

from onsale.lua import Script
from onsale.lua.keys import ShopKeys
from onsale.lua.replies import Reply

# One item's answer: the reply, then what the script's header lists behind it (bytes and integers).
Row = tuple[Reply, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class StockFigures:
    """Units of a whole sale in one snapshot; `at_ms` is the shop's Redis time. Of units whose hold has ended since the
    keys were made, `kept` were sold and `back` came back."""

    free: int
    held: int
    claimed: int
    sold: int
    at_ms: int
    kept: int = 0
    back: int = 0


@dataclass(frozen=True, slots=True)
class TurnClosing:
    """One `turn_closed` event: `why` is completed, expired, left or revoked."""

    event_id: str
    turn: str
    why: str


class Reserve(msgspec.Struct, frozen=True, array_like=True):
    """One reservation. `order` is made by the caller; `items` are (product, quantity), no product twice; `doc` is the
    order's document (JSON of `OrderDoc`), kept and recorded as it is; `turn` is "" where no pass is needed. With a
    `refusal` nothing is held: it is what the key answers from now on."""

    order: str
    buyer: str
    turn: str
    pass_exp_ms: int
    items: tuple[tuple[str, int], ...]
    key: str
    digest: str
    doc: bytes
    refusal: int = 0


class PinItem(msgspec.Struct, frozen=True, array_like=True):
    """One pin: `attempt_doc` is the attempt's document (JSON of `AttemptDoc`), made for the order as it was at `rev`
    (0 = as it is)."""

    order: str
    buyer: str
    attempt: str
    key: str
    digest: str
    attempt_doc: str
    rev: int = 0


class Amend(msgspec.Struct, frozen=True, array_like=True):
    """A change of what an order holds: `items` are (product, quantity) as they shall be, no product twice; `doc` is its
    new document, made from the one of `rev`."""

    order: str
    rev: int
    pass_exp_ms: int
    items: tuple[tuple[str, int], ...]
    doc: bytes


class RemakeItem(msgspec.Struct, frozen=True, array_like=True):
    """An order that Redis has forgotten, as the record has it."""

    buyer: str
    turn: str
    items: tuple[tuple[str, int], ...]
    key: str
    digest: str
    doc: str


class Restock(msgspec.Struct, frozen=True, array_like=True):
    """Units of one product that their buyer gave back; applied once per `move`."""

    move: str
    product: str
    quantity: int
    buyer: str


class PackedAttempt(msgspec.Struct, frozen=True, array_like=True):
    """A try to pay as it is packed inside an order; positions are named in `includes/shop.lua`."""

    attempt: str
    key: str
    digest: str
    event_id: str
    outcome: str = "open"
    reason: str = ""
    end_event_id: str = ""
    end_rev: int = 0


class PackedOrder(msgspec.Struct, frozen=True, array_like=True):
    """An order as it is packed in `orders`; positions are named in `includes/shop.lua`."""

    state: str
    rev: int
    buyer: str
    turn: str
    items: tuple[tuple[str, int], ...]
    reserved_at_ms: int
    expires_at_ms: int
    key: str
    event_id: str
    attempts: tuple[PackedAttempt, ...] = ()


class PackedBuyer(msgspec.Struct, frozen=True, array_like=True):
    """Units held (or claimed) and bought, and the open order ("" = none), as packed in `buyers`."""

    held: int
    bought: int
    open_order: str = ""


class PackedTurn(msgspec.Struct, frozen=True, array_like=True):
    """`open`, `spent`, `closed` or `revoked`, and the open order ("" = none), as packed in `turns`."""

    state: str
    open_order: str = ""


class PackedEntry(msgspec.Struct, frozen=True, array_like=True):
    """What an Idempotency-Key of a reservation answers, as packed in `keys`; of a refusal only the first two."""

    digest: str
    reply: int
    order: str = ""
    expires_at_ms: int = 0
    event_id: str = ""


class ShopScripts:
    """Every script of the shop on one server or cluster. Methods raise what redis raises; nothing is repeated."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = {name: Script(redis, name) for name in KEYS}

    async def reserve(self, keys: ShopKeys, items: Sequence[Reserve]) -> list[Row]:
        """OK, order, rev, expires_at_ms, doc, is_replay, event_id | refusal, is_replay."""
        # Field by field: msgspec's `astuple` and a look at each type would cost more than the packing.
        rows = [
            (i.order, i.buyer, i.turn, i.pass_exp_ms, i.items, i.key, i.digest, _blob(i.doc), i.refusal) for i in items
        ]
        return _rows(await self._call("reserve", keys, _pack(rows)))

    async def amend(self, keys: ShopKeys, items: Sequence[Amend]) -> list[Row]:
        """OK, event_id, rev, expires_at_ms, state, is_replay | refusal."""
        rows = [(i.order, i.rev, i.pass_exp_ms, i.items, _blob(i.doc)) for i in items]
        return _rows(await self._call("amend", keys, _pack(rows)))

    async def pin(self, keys: ShopKeys, items: Sequence[PinItem]) -> list[Row]:
        """OK, state, rev, expires_at_ms, is_replay, attempt (packed) | refusal."""
        return _rows(await self._call("pin", keys, _pack(items)))

    async def confirm(self, keys: ShopKeys, items: Sequence[tuple[str, str, RemakeItem | None]]) -> list[Row]:
        """(order, attempt, remake): OK, event_id, rev, expires_at_ms, state, is_replay | refusal."""
        return _rows(await self._call("confirm", keys, _pack(items)))

    async def decline(self, keys: ShopKeys, items: Sequence[tuple[str, str, str, RemakeItem | None]]) -> list[Row]:
        """(order, attempt, reason, remake): OK, event_id, rev, expires_at_ms, state, is_replay | refusal."""
        return _rows(await self._call("decline", keys, _pack(items)))

    async def fail(self, keys: ShopKeys, items: Sequence[tuple[str, str, str, RemakeItem | None]]) -> list[Row]:
        """(order, attempt, reason, remake): OK, event_id, rev, expires_at_ms, state, is_replay | refusal."""
        return _rows(await self._call("fail", keys, _pack(items)))

    async def refuse(self, keys: ShopKeys, items: Sequence[tuple[str, str, str, str]]) -> list[Row]:
        """(order, attempt, reason, refused event): OK, event_id, rev, expires_at_ms, state, is_replay | refusal."""
        return _rows(await self._call("refuse", keys, _pack(items)))

    async def release(self, keys: ShopKeys, items: Sequence[tuple[str, str]]) -> list[Row]:
        """(order, buyer): OK, event_id, rev, expires_at_ms, state, is_replay | refusal."""
        return _rows(await self._call("release", keys, _pack(items)))

    async def order_look(self, keys: ShopKeys, orders: Sequence[str]) -> list[Row]:
        """OK, order (packed), doc | UNKNOWN."""
        return _rows(await self._call("order_look", keys, _pack(orders)))

    async def lapse(self, keys: ShopKeys, count: int) -> Row:
        """OK, orders expired, whether more wait."""
        return _row(await self._call("lapse", keys, count))

    async def figures(self, keys: ShopKeys) -> Row:
        """OK, free, held, claimed, sold, now_ms, kept, back."""
        return _row(await self._call("figures", keys))

    async def stock_free(self, keys: ShopKeys, products: Sequence[str]) -> Row:
        """OK, product, free, product, free, … of these products, or of all where none is named."""
        return _row(await self._call("stock_free", keys, _pack(products)))

    async def claiming(self, keys: ShopKeys, cursor: str, count: int, older_ms: int) -> Row:
        """OK, next cursor, order, attempt, event_id, …"""
        return _row(await self._call("claiming", keys, cursor, count, older_ms))

    async def close_turns(self, keys: ShopKeys, turns: Sequence[str], why: str) -> list[Row]:
        """OK, 0 closed or the time (ms) until which an open order keeps the turn."""
        return _rows(await self._call("close_turns", keys, why, _pack(turns)))

    async def closings(self, keys: ShopKeys, after: str, count: int) -> Row:
        """OK, entries of the stream (id, fields) after `after`."""
        return _row(await self._call("closings", keys, after, count))

    async def move_stock(self, keys: ShopKeys, move: str, product: str, quantity: int) -> Row:
        """OK, is_replay, is_recorded | SOLD_OUT (not so many free, now or when it was first tried) | UNKNOWN."""
        return _row(await self._call("move_stock", keys, move, product, quantity))

    async def restock(self, keys: ShopKeys, items: Sequence[Restock]) -> list[Row]:
        """OK, is_replay."""
        return _rows(await self._call("restock", keys, _pack(items)))

    async def announce(self, keys: ShopKeys, stream: str, upto: str, keep_ms: int, announcement: bytes) -> Row:
        """OK, how many listened."""
        return _row(await self._call("announce", keys, stream, upto, keep_ms, announcement))

    async def forget(self, keys: ShopKeys, older_ms: int, count: int, closings_ms: int) -> Row:
        """OK, entries forgotten, whether more wait."""
        return _row(await self._call("forget", keys, older_ms, count, closings_ms))

    async def shop_terms(self, keys: ShopKeys, terms: Sequence[tuple[str, int]]) -> Row:
        """OK, how many fields changed."""
        return _row(await self._call("shop_terms", keys, _pack(terms)))

    async def shop_standing(self, keys: ShopKeys) -> Row:
        """OK, run id the keys were registered with ("" = none), the server's run id, now_ms."""
        return _row(await self._call("shop_standing", keys))

    async def shop_load(self, keys: ShopKeys, step: str, values: Sequence[str | bytes | int]) -> Row:
        """OK | STALE: these keys are in use already."""
        blobs = [_blob(value) if isinstance(value, bytes) else value for value in values]
        return _row(await self._call("shop_load", keys, step, _pack(blobs)))

    async def shop_register(self, keys: ShopKeys, known_run_id: str, successor: ShopKeys) -> Row:
        """OK, the server's run id, now_ms | STALE: the keys are not the ones that were judged."""
        names = [*_names("shop_register", keys), *_names("shop_register", successor)]
        return _row(await self._scripts["shop_register"](names, [known_run_id]))

    async def _call(self, name: str, keys: ShopKeys, *args: str | bytes | int) -> Any:
        return await self._scripts[name](_names(name, keys), args)


# Everything a sale has in the shop's Redis, in one epoch.
STORED = (
    "meta",
    "stock",
    "holds",
    "orders",
    "docs",
    "buyers",
    "turns",
    "keys",
    "ended",
    "moves",
    "money",
    "holdings",
    "closings",
)
# Which keys each script takes, by their names in `ShopKeys`, in the order of its header.
KEYS: dict[str, tuple[str, ...]] = {
    "reserve": (
        "meta",
        "stock",
        "holds",
        "orders",
        "docs",
        "buyers",
        "turns",
        "keys",
        "ended",
        "money",
        "holdings",
    ),
    "amend": ("meta", "stock", "orders", "docs", "buyers", "turns", "money", "holdings"),
    "pin": ("meta", "stock", "holds", "orders", "docs", "money"),
    "confirm": ("meta", "stock", "holds", "orders", "docs", "buyers", "turns", "keys", "ended", "money", "closings"),
    "decline": ("meta", "stock", "holds", "orders", "docs", "buyers", "turns", "keys", "ended", "money"),
    "fail": ("meta", "stock", "holds", "orders", "docs", "buyers", "turns", "keys", "ended", "money"),
    "refuse": ("meta", "stock", "holds", "orders", "buyers", "turns", "ended"),
    "release": ("meta", "stock", "holds", "orders", "buyers", "turns", "ended", "holdings"),
    "order_look": ("meta", "orders", "docs"),
    "lapse": ("meta", "stock", "holds", "orders", "buyers", "turns", "ended", "holdings"),
    "figures": ("meta", "stock"),
    "claiming": ("meta", "orders"),
    "stock_free": ("meta", "stock"),
    "close_turns": ("meta", "orders", "turns", "ended", "closings"),
    "closings": ("meta", "closings"),
    "move_stock": ("meta", "stock", "moves", "money"),
    "restock": ("meta", "stock", "moves", "buyers"),
    "announce": ("meta", "money", "holdings", "verdicts"),
    "forget": ("meta", "orders", "docs", "turns", "keys", "ended", "closings", "buyers"),
    "shop_terms": ("meta",),
    "shop_standing": ("meta",),
    "shop_load": STORED,
    "shop_register": STORED,
}


def _names(script: str, keys: ShopKeys) -> list[str]:
    return [getattr(keys, key) for key in KEYS[script]]


def _pack(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def _blob(value: bytes) -> msgspec.Raw:
    """Bytes as msgpack text (str 32): Redis's cmsgpack knows no other kind, and does not look inside."""
    return msgspec.Raw(b"\xdb" + len(value).to_bytes(4, "big") + value)


def _row(raw: Sequence[Any]) -> Row:
    return Reply(raw[0]), raw[1:]


def _rows(raw: Sequence[Sequence[Any]]) -> list[Row]:
    return [_row(row) for row in raw]
