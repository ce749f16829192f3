"""Every promise, checked from outside the code that keeps it: by the rows, the counters and the provider's book.

It runs while traffic flows. A figure that moves is read in an order in which movement cannot look like a violation, and
what may be seen in the middle of a change is looked at again before it is called one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import asyncpg
import msgspec
from redis.asyncio import Redis

from onsale.catalog.errors import SaleUnknown
from onsale.catalog.sales import RefundPolicy, SaleBook
from onsale.checkout.record.folding import Claim, PaymentState
from onsale.checkout.record.reckoning import NotJudged, reckon
from onsale.checkout.refunds import SALE_CANCELLED, RefundLine, refund_amount
from onsale.lua.keys import LineKeys, ShopKeys
from onsale.lua.shop import PackedBuyer, PackedOrder
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout.record", "audit.sql")

# A violation stays; a moment between two writes does not.
LOOKS: Final = 6
PAUSE_S: Final = 0.5
SCAN_COUNT: Final = 1_000
SHOWN_MAX: Final = 5
# The reaper frees the units of a lapsed hold within this.
LAPSE_MS: Final = 2_000
# A claim is recorded within seconds; a pinned hold that the record has no claim for after this is stranded.
PINNED_MS: Final = 60_000
# The completer finds a capture that came after its attempt had ended, and gives it back.
REFUND_MS: Final = 60_000
# The line's packed ticket begins [state, buyer, …]; these states are living.
LIVING: Final = frozenset({1, 2})
# A place may be given its turn three times: untold twice, it is expired.
TURNS_MAX: Final = 3

_lines = msgspec.json.Decoder(list[tuple[int, date | None]]).decode
_policy = msgspec.json.Decoder(RefundPolicy).decode
_packed_buyer = msgspec.msgpack.Decoder(PackedBuyer).decode
_packed_order = msgspec.msgpack.Decoder(PackedOrder).decode
_packed_ticket = msgspec.msgpack.Decoder(list[Any]).decode


@dataclass(frozen=True, slots=True)
class Finding:
    """One invariant of one sale: whether it holds, and what was seen."""

    invariant: str
    sale: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Capture:
    """One charge in the provider's own book. `key` is the attempt it was made with; `refunded_at_ms` 0 = not;
    `refunded` is how much of it went back."""

    order: str
    key: str
    amount: int
    charged_at_ms: int
    refunded_at_ms: int = 0
    refunded: int = 0


# The provider's whole book, and the operators' chain of a sale (what breaks it, in words): bound by the caller, because
# both live in rooms that this one does not know.
Charges = Callable[[], Awaitable[Sequence[Capture]]]
ChainCheck = Callable[[str], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the audit looks."""

    pool: asyncpg.Pool
    line: Redis
    shop: Redis
    charges: Charges | None = None
    chain: ChainCheck | None = None
    pause_s: float = PAUSE_S


@dataclass(frozen=True, slots=True)
class Audited:
    """A sale as Postgres has it at this moment."""

    sale: str
    shop_epoch: int
    line_epoch: int
    limit_per_buyer: int
    place_ceiling: int

    @property
    def shop(self) -> ShopKeys:
        return ShopKeys(self.sale, self.shop_epoch)

    @property
    def line(self) -> LineKeys:
        return LineKeys(self.sale, self.line_epoch)


Check = Callable[[Stores, Audited], Awaitable[Sequence[str]]]


async def audit(
    pool: asyncpg.Pool,
    line: Redis,
    shop: Redis,
    book: SaleBook,
    sale: str | None = None,
    *,
    charges: Charges | None = None,
    chain: ChainCheck | None = None,
    pause_s: float = PAUSE_S,
) -> list[Finding]:
    """Check every invariant of one sale, or of all; `pause_s` lies between two looks at what seems wrong. Raises
    SaleUnknown."""
    await book.refresh()
    wanted = {one.id for one in book.sellers()} if sale is None else {book.seller(sale).id}
    stores = Stores(pool, line, shop, charges, chain, pause_s)
    findings = []
    for audited in await _sales(pool):
        if audited.sale in wanted:
            findings += [await _judge(name, check, stores, audited) for name, check in CHECKS.items()]
    return findings


async def _sales(pool: asyncpg.Pool) -> list[Audited]:
    return [Audited(*row) for row in await pool.fetch(SQL.sales_all)]


async def _sale(pool: asyncpg.Pool, sale: str) -> Audited:
    for audited in await _sales(pool):
        if audited.sale == sale:
            return audited
    raise SaleUnknown


async def _judge(invariant: str, check: Check, stores: Stores, audited: Audited) -> Finding:
    """What is wrong at one look must be wrong at every look."""
    wrong: Sequence[str] = ()
    for look in range(LOOKS):
        if look:
            await asyncio.sleep(stores.pause_s)
            # A rebuild in between goes on under other keys.
            audited = await _sale(stores.pool, audited.sale)
        try:
            wrong = await check(stores, audited)
        except NotJudged as reason:
            wrong = [f"not judged: {reason}"]
        if not wrong:
            return Finding(invariant, audited.sale, True)
    return Finding(invariant, audited.sale, False, _words(wrong))


def _words(wrong: Sequence[str]) -> str:
    more = f" and {len(wrong) - SHOWN_MAX} more" if len(wrong) > SHOWN_MAX else ""
    return "; ".join(wrong[:SHOWN_MAX]) + more


async def _units_are_whole(stores: Stores, sale: Audited) -> Sequence[str]:
    """I1: Redis is the record plus what is on its way."""
    if sale.shop_epoch == 0:
        raise NotJudged("the sale was never loaded")
    return await reckon(stores.pool, stores.shop, sale.shop)


async def _never_oversold(stores: Stores, sale: Audited) -> Sequence[str]:
    """I2: the constraint stands, and the counters are what orders and ledger add up to."""
    wrong = []
    if not await stores.pool.fetchval(SQL.constraint_holds, "never_oversold", "sale_items"):
        wrong.append("the constraint never_oversold is gone")
    wrong += [
        f"{row['product']}: claimed {row['claimed']}, sold {row['sold']} of {row['stock']}; by orders"
        f" {row['orders_claimed']}, {row['orders_sold']}; by ledger {row['ledger_claimed']}, {row['ledger_sold']}"
        for row in await stores.pool.fetch(SQL.items_recounted, sale.sale)
    ]
    return wrong


async def _confirmations_are_sold(stores: Stores, sale: Audited) -> Sequence[str]:
    """I3: each confirmation has exactly one sold claim and one capture; each verdict is a row."""
    wrong = [
        f"order {row['id']} is confirmed, its claim is {row['claim']}, captures {row['captured']}"
        for row in await stores.pool.fetch(SQL.confirmations_unsold, sale.sale)
    ]
    wrong += [
        f"order {row['id']} is sold and not confirmed"
        for row in await stores.pool.fetch(SQL.sold_unconfirmed, sale.sale)
    ]
    wrong += [
        f"order {row['id']} was given back, its units were not, or twice"
        for row in await stores.pool.fetch(SQL.returns_unsettled, sale.sale)
    ]
    wrong += [
        f"order {row['id']} was refused without a row"
        for row in await stores.pool.fetch(SQL.verdicts_missing, sale.sale)
    ]
    return wrong


async def _places_are_single(stores: Stores, sale: Audited) -> Sequence[str]:
    """I4: one living ticket per buyer; no place issued twice in any epoch."""
    wrong = [
        f"place {row['place']} bought for two buyers" for row in await stores.pool.fetch(SQL.places_of_two, sale.sale)
    ]
    times: dict[tuple[int, int], int] = defaultdict(int)
    first_turns: dict[int, int] = {}
    async for row in _admissions(stores.pool, sale.sale):
        returners = set(row["returners"])
        for place in row["places"]:
            times[row["epoch"], place] += 1
            if place not in returners and first_turns.setdefault(place, row["epoch"]) != row["epoch"]:
                wrong.append(f"place {place} was let in first in epoch {first_turns[place]}, again in {row['epoch']}")
    wrong += [f"place {place} was let in {n} times" for (_, place), n in times.items() if n > TURNS_MAX]
    if sale.line_epoch > 0:
        wrong += await _living_tickets(stores, sale)
    return wrong


async def _living_tickets(stores: Stores, sale: Audited) -> list[str]:
    owners: dict[bytes, bytes] = {}
    doubted: set[bytes] = set()
    living: dict[str, set[bytes]] = defaultdict(set)
    async for buyer, place in _fields(stores.line, sale.line.buyers):
        if owners.setdefault(place, buyer) != buyer:
            doubted.add(place)
    async for place, packed in _fields(stores.line, sale.line.tickets):
        ticket = _packed_ticket(packed)
        # A seat that was made anew from the record is nobody's until its holder comes back.
        if ticket[0] in LIVING and ticket[1]:
            living[str(ticket[1])].add(place)
    ceiling = await stores.pool.fetchval(SQL.ceiling_of, sale.sale)
    wrong = [f"place {place.decode()} belongs to two buyers" for place in sorted(doubted)]
    wrong += [f"place {place.decode()} is above the ceiling {ceiling}" for place in owners if int(place) > ceiling]
    for places in living.values():
        # Seen at different moments of the scan: all of them at one moment now.
        if len(places) > 1 and len(await _living_now(stores.line, sale.line, sorted(places))) > 1:
            wrong.append(f"a buyer has {len(places)} living tickets: places {sorted(map(int, places))}")
    return wrong


async def _living_now(line: Redis, keys: LineKeys, places: Sequence[bytes]) -> list[bytes]:
    found: Any = await line.hmget(keys.tickets, list(places))
    return [
        place
        for place, packed in zip(places, found, strict=True)
        if packed is not None and _packed_ticket(packed)[0] in LIVING
    ]


async def _nobody_was_overtaken(stores: Stores, sale: Audited) -> Sequence[str]:
    """I5: within a lane and epoch, those never passed over are let in by rising place; returners apart."""
    wrong = []
    highest: dict[tuple[int, str], int] = defaultdict(int)
    async for row in _admissions(stores.pool, sale.sale):
        lane = (row["epoch"], row["lane"])
        returners = set(row["returners"])
        for place in (place for place in row["places"] if place not in returners):
            if place <= highest[lane]:
                wrong.append(f"place {place} was let in after {highest[lane]}")
            highest[lane] = max(highest[lane], place)
        if row["inversions"]:
            wrong.append(f"{row['inversions']} inversions at {row['at_ms']}")
    counted = await _line_count(stores, sale, "inversions")
    return [*wrong, f"the line counted {counted} inversions"] if counted else wrong


async def _rate_and_cap_held(stores: Stores, sale: Audited) -> Sequence[str]:
    """I6: the admissions fit a bucket that fills at the rate then in force and holds the burst; active ≤ cap."""
    wrong = []
    buckets: dict[tuple[int, str], Bucket] = {}
    async for row in _admissions(stores.pool, sale.sale):
        bucket = buckets.setdefault((row["epoch"], row["lane"]), Bucket(row))
        over = bucket.take(row)
        if over > 0:
            wrong.append(f"{over:.3f} people above rate and burst at {row['at_ms']}")
        if row["active"] > row["active_max"]:
            wrong.append(f"{row['active']} seats taken of {row['active_max']} at {row['at_ms']}")
    counted = await _line_count(stores, sale, "cap_violations")
    return [*wrong, f"the line counted {counted} admissions above the cap"] if counted else wrong


class Bucket:
    """A token bucket replayed from the rows: to overdraw it is to have let in more than the integral of the rate plus
    the burst over some window, and the other way round."""

    def __init__(self, first: Mapping[str, Any]) -> None:
        self._level = float(first["burst"])
        self._last = first

    def take(self, row: Mapping[str, Any]) -> float:
        """How many people too many this admission is; 0 = none."""
        last, self._last = self._last, row
        if row["at_ms"] < last["at_ms"]:
            # Redis' clock went back (its event ids never do): how long it really was nobody knows.
            self._level = float(row["burst"])
        # A change between two admissions is seen at the second: the higher of the two is what may have been in force.
        rate_milli = max(last["rate_milli"], row["rate_milli"])
        gained = max(0, row["at_ms"] - last["at_ms"]) * rate_milli / 1_000_000
        filled = min(self._level + gained, max(last["burst"], row["burst"]))
        self._level = min(filled, row["burst"]) - len(row["places"])
        over, self._level = max(0.0, -self._level - 1e-6), max(0.0, self._level)
        return over


async def _limits_held(stores: Stores, sale: Audited) -> Sequence[str]:
    """I7: nobody holds and has bought more than one may; by constraint in Postgres, and in Redis."""
    wrong = [
        f"buyer {row['buyer']} has {row['bought']} (by orders {row['units']}) of {row['bought_max']}"
        for row in await stores.pool.fetch(SQL.buyers_above_limit, sale.sale)
    ]
    if not await stores.pool.fetchval(SQL.constraint_holds, "never_above_limit", "sale_buyers"):
        wrong.append("the constraint never_above_limit is gone")
    async for buyer, packed in _fields(stores.shop, sale.shop.buyers):
        units = _packed_buyer(packed)
        if units.held + units.bought > sale.limit_per_buyer:
            wrong.append(f"buyer {buyer.decode()} holds {units.held} and bought {units.bought} in Redis")
    return wrong


async def _captures_are_sold_or_refunded(stores: Stores, sale: Audited) -> Sequence[str]:
    """I8: each capture belongs to one sold claim, or to one refund: in full, or for an order that was cancelled or sent
    back by the sale's policy; by the record and by the provider's own book."""
    wrong = [
        f"payment {row['id']} is {row['state']} without its claim or refund"
        for row in await stores.pool.fetch(SQL.captures_astray, sale.sale)
    ]
    for row in await stores.pool.fetch(SQL.refunds_by_policy, sale.sale):
        due = _refund_due(row)
        if row["refunded"] != due:
            wrong.append(f"order {row['id']} ({row['reason']}) gives {row['refunded']} back, {due} by its policy")
    if stores.charges is not None:
        wrong += await _book_fits(stores, sale, stores.charges)
    return wrong


def _refund_due(row: Mapping[str, Any]) -> int:
    if row["reason"] == SALE_CANCELLED:
        return int(row["amount"])
    lines = [RefundLine(amount, visit_on) for amount, visit_on in _lines(row["lines"])]
    policy = _policy(row["refunding"]) if row["refunding"] else RefundPolicy()
    return refund_amount(policy, lines, purchased_on=row["purchased_on"], cancelled_on=row["cancelled_on"])


async def _book_fits(stores: Stores, sale: Audited, charges: Charges) -> list[str]:
    # The record is read after the book for what the book has, and before it for what the record has: whatever happens
    # in between adds to what is looked in, never to what is looked for.
    captured = {row["id"]: row["amount"] for row in await stores.pool.fetch(SQL.captured_of, sale.sale)}
    book = await charges()
    orders = [capture.order for capture in book]
    ours = {row["id"] for row in await stores.pool.fetch(SQL.orders_in, sale.sale, orders)}
    captures = [capture for capture in book if capture.order in ours]
    rows = await stores.pool.fetch(SQL.payments_by_id, [capture.key for capture in captures])
    payments = {row["id"]: row for row in rows}
    newest_ms = max((capture.charged_at_ms for capture in book), default=0)
    wrong = [
        f"order {capture.order} was charged {capture.amount} for nothing (attempt {capture.key})"
        for capture in captures
        if not capture.refunded_at_ms and not _is_settled(capture, payments.get(capture.key), newest_ms)
    ]
    wrong += [
        f"order {capture.order} was given {capture.refunded} back, not what the record says (attempt {capture.key})"
        for capture in captures
        if capture.refunded and not _is_refund_as_written(capture, payments.get(capture.key))
    ]
    charged = {capture.key: capture for capture in captures}
    for payment, amount in captured.items():
        known = charged.get(payment)
        if amount and (known is None or known.amount != amount):
            wrong.append(f"payment {payment} is recorded as captured, the provider says {known and known.amount}")
    return wrong


def _is_settled(capture: Capture, payment: Mapping[str, Any] | None, newest_ms: int) -> bool:
    if payment is None:
        return False
    if payment["amount"] != capture.amount:
        # A wrong amount buys nothing; it is on its way back.
        return bool(payment["refund"] == "pending")
    if payment["state"] == PaymentState.CAPTURED:
        return bool(payment["claim"] == Claim.SOLD)
    if payment["state"] == PaymentState.REFUNDED and payment["refund"] is None:
        # Nothing was to be given back; whether that is right is judged by the policy.
        return True
    # Under way: the claim is open and the completer drives it, or its refund is written and being asked for, or the
    # capture is so fresh that the completer has not looked yet.
    is_fresh = newest_ms - capture.charged_at_ms < REFUND_MS
    return payment["state"] == PaymentState.PENDING or payment["refund"] == "pending" or is_fresh


def _is_refund_as_written(capture: Capture, payment: Mapping[str, Any] | None) -> bool:
    # A capture that the record never heard of goes back whole, and has no row to go by.
    return payment is None or payment["refund"] is None or capture.refunded == payment["refund_amount"]


async def _nothing_is_stranded(stores: Stores, sale: Audited) -> Sequence[str]:
    """I9: no unpinned hold past its end, no pinned hold without an open claim."""
    if sale.shop_epoch == 0:
        raise NotJudged("the sale was never loaded")
    seconds, microseconds = await stores.shop.time()
    now_ms = int(seconds) * 1000 + int(microseconds) // 1000
    late: Any = await stores.shop.zrange(
        sale.shop.holds, "-inf", f"({now_ms - LAPSE_MS}", byscore=True, offset=0, num=SHOWN_MAX + 1
    )
    wrong = [f"the hold of order {order.decode()} is past its end" for order in late]
    pinned: dict[str, PackedOrder] = {}
    async for order, packed in _fields(stores.shop, sale.shop.orders):
        standing = _packed_order(packed)
        if standing.state == "confirming" and _claimed_ms(standing) < now_ms - PINNED_MS:
            pinned[order.decode()] = standing
    open_claims = {row["id"] for row in await stores.pool.fetch(SQL.claims_open, list(pinned))}
    return [*wrong, *(f"order {order} is pinned without an open claim" for order in pinned.keys() - open_claims)]


def _claimed_ms(order: PackedOrder) -> int:
    return int(order.attempts[-1].event_id.partition("-")[0]) if order.attempts else 0


async def _chain_is_unbroken(stores: Stores, sale: Audited) -> Sequence[str]:
    """I10: each operator action follows from the one before it."""
    return await stores.chain(sale.sale) if stores.chain is not None else ()


async def _admissions(pool: asyncpg.Pool, sale: str) -> AsyncIterator[Mapping[str, Any]]:
    async with pool.acquire() as conn, conn.transaction(readonly=True):
        async for row in conn.cursor(SQL.admissions_of, sale, prefetch=500):
            yield row


async def _line_count(stores: Stores, sale: Audited, field: str) -> int:
    """What the line's script counted by itself, by other means than those that prevent it."""
    found: Any = await stores.line.hget(sale.line.meta, field)
    return int(found or 0)


async def _fields(redis: Redis, key: str) -> AsyncIterator[tuple[bytes, bytes]]:
    """Every field of a hash, in steps that hold Redis for less than a millisecond; one that moves may come twice."""
    cursor: Any = 0
    while True:
        answer: Any = await redis.hscan(key, cursor, count=SCAN_COUNT)
        cursor, found = answer
        for name, value in found.items():
            yield name, value
        if int(cursor) == 0:
            return


CHECKS: Final[Mapping[str, Check]] = {
    "I1": _units_are_whole,
    "I2": _never_oversold,
    "I3": _confirmations_are_sold,
    "I4": _places_are_single,
    "I5": _nobody_was_overtaken,
    "I6": _rate_and_cap_held,
    "I7": _limits_held,
    "I8": _captures_are_sold_or_refunded,
    "I9": _nothing_is_stranded,
    "I10": _chain_is_unbroken,
}


def meaning(invariant: str) -> str:
    """What an invariant says, in its check's own words."""
    return (CHECKS[invariant].__doc__ or "").partition(": ")[2]


__all__ = ["Capture", "ChainCheck", "Charges", "Finding", "audit", "meaning"]
