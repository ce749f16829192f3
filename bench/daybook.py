"""The account of a day: every unit and every unit of money, from three sides that share no code.

    told      what vendors and buyers read in answers over HTTP, at the end of the day
    record    Postgres' public tables (`orders`, `order_items`, `payments`, `ledger`), and the rows of `refunds`
    provider  the sandbox provider's own book

A line balances when all sides that can know it say the same figure, and the lines add up: what came in is where it is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

# Bought and kept: whoever reads one of these has the goods, or has them coming.
KEPT = ("confirmed", "preparing", "shipped", "delivered", "completed", "return_requested")
BOUGHT = (*KEPT, "cancelled", "returned")
UNBOUGHT = ("expired", "released", "payment_failed")
PAID = ("captured", "refunding", "refunded")
# By days before the visit, as the shop's rules have it: more than nine, seven, three, fewer.
REFUND_STEPS = ((10, 100), (7, 90), (3, 80))
REFUND_LEAST = 70


@dataclass(frozen=True)
class Line:
    """One figure as each side has it; a side that cannot know it is left out."""

    what: str
    told: int | None = None
    record: int | None = None
    provider: int | None = None

    @property
    def figure(self) -> int:
        """The figure, where all agree."""
        return next(side for side in self._sides if side is not None)

    @property
    def is_agreed(self) -> bool:
        """Whether all sides that know it say the same."""
        return len({side for side in self._sides if side is not None}) == 1

    @property
    def _sides(self) -> tuple[int | None, ...]:
        return (self.told, self.record, self.provider)


@dataclass
class Account:
    """Lines about one thing that add up."""

    name: str
    lines: list[Line] = field(default_factory=list)
    # (what, left, right)
    sums: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """What does not balance."""
        return [
            *(f"{self.name}: {line.what}: {line}" for line in self.lines if not line.is_agreed),
            *(f"{self.name}: {what}: {left} is not {right}" for what, left, right in self.sums if left != right),
        ]

    def text(self) -> str:
        """As a table."""
        rows = [f"{self.name:<42}{'told':>14}{'record':>14}{'provider':>14}"]
        for line in self.lines:
            sides = "".join(f"{'' if side is None else f'{side:,}':>14}" for side in line._sides)
            rows.append(f"  {line.what:<40}{sides}{'' if line.is_agreed else '   <- DIFFERS'}")
        for what, left, right in self.sums:
            rows.append(f"  {what}: {left:,} = {right:,}" + ("" if left == right else "   <- DIFFERS"))
        return "\n".join(rows)


@dataclass(frozen=True)
class Stock:
    """Units of a product as its vendor was told of them: before all, moved into the sale, and free at the end."""

    had: int
    moved_in: int
    free_after_proposal: int
    free_at_end: int


@dataclass(frozen=True)
class Book:
    """What record and provider hold at the end of the day."""

    orders: Mapping[str, Mapping[str, Any]]
    items: Sequence[Mapping[str, Any]]
    payments: Sequence[Mapping[str, Any]]
    refunds: Sequence[Mapping[str, Any]]
    ledger: Sequence[Mapping[str, Any]]
    charges: Sequence[Mapping[str, Any]]


async def read_book(database_url: str, charges: Sequence[Mapping[str, Any]]) -> Book:
    """Everything, in one snapshot."""
    conn = await asyncpg.connect(database_url)
    try:
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            orders = await conn.fetch("SELECT id, sale, buyer, state, amount, currency FROM orders")
            items = await conn.fetch("SELECT order_id, product, quantity, unit_amount, currency FROM order_items")
            payments = await conn.fetch("SELECT id, order_id, state, amount, currency FROM payments")
            refunds = await conn.fetch(
                "SELECT p.order_id, r.amount, r.currency, r.state FROM refunds r JOIN payments p ON p.id = r.payment_id"
            )
            ledger = await conn.fetch("SELECT sale, product, order_id, verb, quantity, reason FROM ledger")
    finally:
        await conn.close()
    return Book({row["id"]: row for row in orders}, items, payments, refunds, ledger, charges)


def units_account(
    name: str, product: str, sale: str, stock: Stock, told: Iterable[Mapping[str, Any]], book: Book
) -> Account:
    """Where the units of a product are that a seller had to sell. `told`: orders as their buyers read them."""
    heard = _units_told(told, product, sale)
    recorded = Counter[str]()
    for item in book.items:
        order = book.orders[item["order_id"]]
        if item["product"] == product and order["sale"] == sale:
            recorded[order["state"]] += item["quantity"]
    ledger = Counter[str]()
    for row in book.ledger:
        if row["product"] == product and row["sale"] == sale:
            is_returned = row["verb"] == "restocked" and row["reason"] == "returned"
            ledger["returned" if is_returned else row["verb"]] += row["quantity"]

    def both(what: str, states: Iterable[str]) -> Line:
        states = tuple(states)
        return Line(what, sum(heard[s] for s in states), sum(recorded[s] for s in states))

    bought = both("bought", BOUGHT)
    cancelled, returned = both("cancelled and restocked", ("cancelled",)), both("returned and restocked", ("returned",))
    kept, held = both("sold for good", KEPT), both("still held or being paid", ("reserved", "confirming"))
    given_back = stock.free_at_end - stock.free_after_proposal
    came_back = cancelled.figure + returned.figure
    return Account(
        name,
        [
            Line("moved in", stock.moved_in, stock.had - stock.free_after_proposal),
            bought, cancelled, returned, kept, held,
            Line("given back to the product", given_back),
        ],
        [
            ("moved in = sold for good + held + given back", stock.moved_in, kept.figure + held.figure + given_back),
            ("bought = sold for good + cancelled + returned", bought.figure, kept.figure + came_back),
            ("the ledger's sold", ledger["sold"], bought.figure),
            ("the ledger's restocked", ledger["restocked"], cancelled.figure),
            ("the ledger's returned", ledger["returned"], returned.figure),
        ],
    )  # fmt: skip


def _units_told(told: Iterable[Mapping[str, Any]], product: str, sale: str) -> Counter[str]:
    heard = Counter[str]()
    for order in told:
        if (order["sale"] or "_shop") == sale:
            heard[order["state"]] += sum(item["quantity"] for item in order["items"] if item["product"] == product)
    return heard


def money_accounts(told: Iterable[Mapping[str, Any]], owed: Mapping[str, int], book: Book) -> list[Account]:
    """Where the money is, currency by currency. `owed`: what the rules give back for each order that was given back."""
    heard: dict[str, Counter[str]] = defaultdict(Counter)
    for order in told:
        counts = heard[order["total"]["currency"]]
        for payment in order["payments"]:
            if payment["state"] in PAID:
                counts["charged"] += order["total"]["amount"]
                counts["refunded"] += (payment.get("refund") or {"amount": 0})["amount"]
        counts["owed"] += owed.get(order["order"], 0)
        counts["kept"] += order["total"]["amount"] if order["state"] in KEPT else 0
        if order["order"] in owed:
            counts["withheld"] += order["total"]["amount"] - owed[order["order"]]
    return [_money_account(currency, counts, book) for currency, counts in sorted(heard.items())]


def _money_account(currency: str, heard: Counter[str], book: Book) -> Account:
    def total(rows: Iterable[Mapping[str, Any]], column: str = "amount") -> int:
        return sum(row[column] for row in rows if row["currency"] == currency)

    paid = [payment for payment in book.payments if payment["state"] in PAID]
    kept = [order for order in book.orders.values() if order["state"] in KEPT]
    charged = Line("charged", heard["charged"], total(paid), total(book.charges))
    refunded = Line("refunded", heard["refunded"], total(book.refunds), total(book.charges, "refunded_amount"))
    for_goods = Line("kept for what was sold for good", heard["kept"], total(kept))
    still_pending = total(refund for refund in book.refunds if refund["state"] != "done")
    return Account(
        f"money, {currency} (minor units)",
        [charged, refunded, for_goods, Line("kept of what was cancelled late", heard["withheld"])],
        [
            ("charged = refunded + kept", charged.figure, refunded.figure + for_goods.figure + heard["withheld"]),
            ("refunded = what the rules give back", refunded.figure, heard["owed"]),
            ("refunds under way", still_pending, 0),
        ],
    )


def order_faults(told: Iterable[Mapping[str, Any]], book: Book) -> list[str]:
    """Order by order: the buyer, the record and the provider say the same of each; nothing was charged for nothing."""
    charged, refunded = Counter[str](), Counter[str]()
    for charge in book.charges:
        charged[charge["order"]] += charge["amount"]
        refunded[charge["order"]] += charge["refunded_amount"]
    heard = {order["order"]: order for order in told}
    faults = [f"told and not recorded: {order}" for order in heard.keys() - book.orders.keys()]
    for order, row in book.orders.items():
        is_bought = row["state"] in BOUGHT
        if order in heard and heard[order]["state"] != row["state"]:
            faults.append(f"{order}: told {heard[order]['state']}, recorded {row['state']}")
        if order not in heard and row["state"] not in UNBOUGHT:
            faults.append(f"{order}: {row['state']}, and nobody knows it")
        if charged[order] - (0 if is_bought else refunded[order]) != (row["amount"] if is_bought else 0):
            faults.append(f"{order}: {row['state']}, charged {charged[order]}, refunded {refunded[order]}")
    return faults


def refund_due(amount: int, days: int | None) -> int:
    """What cancelling gives back of a line so many days before its visit; None = there is no visit."""
    if days is None:
        return amount
    percent = next((percent for days_min, percent in REFUND_STEPS if days >= days_min), REFUND_LEAST)
    return (amount * percent + 50) // 100
