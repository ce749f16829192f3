"""Sales: made whole or not at all, and read from memory. A process's `SaleBook` is at most half a second old.

Postgres holds the truth; Redis holds what scripts need of it (schedule, policy, stock), loaded by the line's Keeper and
the record's Rebuilder. A new sale is one with epoch 0, which they load as they would rebuild one with no history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import asyncpg
import msgspec

from onsale.auth.errors import Flaw, InvalidRequest
from onsale.catalog.errors import SaleExists, SaleUnknown
from onsale.catalog.schedule import state_at
from onsale.catalog.states import ItemStatus, SaleState
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.catalog", "sales.sql")


# The seller of ordinary products: a row beside the sales, with stock and orders, without a line. Nobody can choose this
# id.
SHOP = "_shop"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How a line lets people in. `rate_centi` is admissions per 100 seconds: the rate in hundredths per second."""

    mode: Literal["manual"] = "manual"
    rate_centi: int
    active_max: int
    pass_ttl_s: int = 600
    turn_ttl_s: int = 120
    absent_after_s: int = 150


class RefundStep(msgspec.Struct, frozen=True):
    """So many days or more before the visit, so much of the price is given back."""

    days_min: int
    percent: int


class RefundPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a cancellation gives back for an entry to a visit: the first step whose days are reached, the most days
    first. Days are counted from the cancellation or from the purchase."""

    since: Literal["cancellation", "purchase"] = "cancellation"
    steps: tuple[RefundStep, ...] = (RefundStep(10, 100), RefundStep(7, 90), RefundStep(3, 80))
    percent_least: int = 70


class SaleItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a sale; amounts in minor units. `claimed` and `sold` are the record's, as old as the book."""

    product: str
    title: str
    amount: int
    list_amount: int
    currency: str
    stock: int
    claimed: int = 0
    sold: int = 0
    # The day that an entry is for.
    visit_on: date | None = None
    # Every item of the book is approved; of a sale that is read whole each has its own standing.
    status: ItemStatus = ItemStatus.APPROVED
    kept: int = 0
    reason: str | None = None


class Sale(msgspec.Struct, frozen=True, kw_only=True):
    """One sale. `opens_at_ms` and `closes_at_ms` are effective: an operator's opening or closing and the test clock are
    already in them."""

    id: str
    no: int
    title: str
    opens_at_ms: int
    closes_at_ms: int
    # As it was planned, where it cannot open because nobody has approved it.
    planned_at_ms: int = 0
    vendor: str | None = None
    is_approved: bool = True
    draining: bool
    closed: bool
    # For good: all that was bought is given back.
    is_cancelled: bool = False
    limit_per_buyer: int
    hold_ttl_s: int
    guests: bool
    opening: Literal["fifo", "draw"]
    message: dict[str, str] | None
    policy: Policy
    policy_version: int
    paused_by: tuple[str, ...]
    # When the settings were changed for a while: until when (0 = for good), what comes back then, and whether operators
    # hold the line then (None: as it is).
    revert_at_ms: int = 0
    revert_to: Policy | None = None
    revert_paused: bool | None = None
    line_epoch: int
    shop_epoch: int
    place_ceiling: int
    items: tuple[SaleItem, ...]
    refunding: RefundPolicy = RefundPolicy()

    @property
    def is_shop(self) -> bool:
        """Whether this is no sale but the shop of ordinary products."""
        return self.id == SHOP

    def state(self, now_ms: int) -> SaleState:
        """By the clock at `now_ms`."""
        return state_at(now_ms, opens_at_ms=self.opens_at_ms, closes_at_ms=self.closes_at_ms, is_draining=self.draining)

    def is_selling(self, now_ms: int) -> bool:
        """Whether it sells at `now_ms`, to whoever is in line."""
        return self.state(now_ms) in (SaleState.OPEN, SaleState.DRAINING)

    def item(self, product: str) -> SaleItem | None:
        """The item of that product, or None."""
        return next((item for item in self.items if item.product == product), None)


class NewItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item of a sale to be made; the price is the sale's, the list price what it is compared with."""

    product: str
    title: str
    stock: int
    amount: int
    list_amount: int
    currency: str
    visit_on: date | None = None


class NewSale(msgspec.Struct, frozen=True, kw_only=True):
    """A sale to be made, checked: see `catalog.salefile`. `opens_at_ms` None = now."""

    id: str
    title: str
    opens_at_ms: int | None
    closes_at_ms: int
    limit_per_buyer: int
    hold_ttl_s: int
    guests: bool
    opening: Literal["fifo", "draw"]
    policy: Policy
    is_paused: bool
    items: tuple[NewItem, ...]
    refunding: RefundPolicy | None = None


def _sale(row: Mapping[str, Any]) -> Sale:
    fields = dict(row)
    fields["message"] = msgspec.json.decode(row["message"], type=dict[str, str] | None) if row["message"] else None
    fields["policy"] = msgspec.json.decode(row["policy"], type=Policy)
    fields["items"] = msgspec.json.decode(row["items"], type=tuple[SaleItem, ...])
    fields["paused_by"] = tuple(row["paused_by"])
    fields["refunding"] = (
        msgspec.json.decode(row["refunding"], type=RefundPolicy) if row["refunding"] else RefundPolicy()
    )
    fields["revert_to"] = msgspec.json.decode(row["revert_to"], type=Policy) if row["revert_to"] else None
    return Sale(**fields)


# A running worker loads a new sale within half a second; every process reads the sales as often.
SERVED_WITHIN_S = 5
READ_WITHIN_S = 0.6


class SaleBook:
    """All sales, in memory. `refresh()` is called each half second, and at once by whoever met a newer epoch.

    What people name and see are sales; what has stock and orders are *sellers*: every sale, and the shop of ordinary
    products, whose items are too many to be kept here.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._sellers: dict[str, Sale] = {}
        self._sales: tuple[Sale, ...] = ()
        self._by_no: dict[int, Sale] = {}
        self._refreshing: asyncio.Task[None] | None = None

    def get(self, sale: str) -> Sale:
        """A sale that people may name. Raises SaleUnknown, for the shop too."""
        if sale == SHOP:
            raise SaleUnknown
        return self.seller(sale)

    def seller(self, seller: str) -> Sale:
        """A sale, or the shop. Raises SaleUnknown."""
        try:
            return self._sellers[seller]
        except KeyError:
            raise SaleUnknown from None

    def shop(self) -> Sale:
        """The seller of ordinary products."""
        return self.seller(SHOP)

    def by_no(self, no: int) -> Sale:
        """A sale by the number that its tickets carry. Raises SaleUnknown."""
        sale = self.seller_by_no(no)
        if sale.is_shop:
            raise SaleUnknown
        return sale

    def seller_by_no(self, no: int) -> Sale:
        """A seller by the number that its orders carry. Raises SaleUnknown."""
        try:
            return self._by_no[no]
        except KeyError:
            raise SaleUnknown from None

    def all(self) -> tuple[Sale, ...]:
        """Every sale, oldest first."""
        return self._sales

    def approved(self) -> tuple[Sale, ...]:
        """Every sale that people may see: an edited one that has keys stays in the book, and out of sight."""
        return tuple(sale for sale in self._sales if sale.is_approved)

    def sellers(self) -> tuple[Sale, ...]:
        """Every sale, and the shop."""
        return tuple(self._sellers.values())

    async def refresh(self) -> None:
        """Read every sale anew. Callers at the same moment share one query."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._read())
        await asyncio.shield(self._refreshing)

    async def reread(self) -> None:
        """Read every sale anew, after whatever the caller has just written."""
        await self._read()

    async def create(self, new: NewSale, created_by: str) -> Sale:
        """Make a sale and know it. Raises SaleExists, InvalidRequest."""
        sale = await create_sale(self._pool, new, created_by)
        await self._read()
        return self.get(sale)

    async def whole(self, sale: str) -> Sale:
        """One sale as Postgres has it now, approved or not, with every item. Raises SaleUnknown."""
        row = await self._pool.fetchrow(SQL.sales_all, sale)
        if row is None or row["id"] == SHOP:
            raise SaleUnknown
        return _sale(row)

    async def proposed(self, vendor: str | None, before: int | None, limit: int) -> list[Sale]:
        """What vendors, or this one, propose and proposed; newest first."""
        found = await self._pool.fetch(SQL.sales_proposed, vendor, before, limit)
        return [await self.whole(row["id"]) for row in found]

    async def until_served(self, sale: str) -> None:
        """Wait until a sale just made has its keys and every process of the system has read it, so that whoever is told
        of it finds it everywhere. Where nothing runs that would load it, the wait ends by itself."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SERVED_WITHIN_S):
                while 0 in (self.get(sale).line_epoch, self.get(sale).shop_epoch):
                    await asyncio.sleep(0.05)
                    await self.refresh()
                await asyncio.sleep(READ_WITHIN_S)

    async def _read(self) -> None:
        sellers = [_sale(row) for row in await self._pool.fetch(SQL.sales_all, None)]
        self._sellers = {seller.id: seller for seller in sellers}
        self._sales = tuple(seller for seller in sellers if not seller.is_shop)
        self._by_no = {seller.no: seller for seller in sellers}


async def create_sale(pool: asyncpg.Pool, new: NewSale, created_by: str) -> str:
    """Write a sale with its items and stock in one transaction; answers its id. Raises SaleExists, InvalidRequest."""
    async with pool.acquire() as conn, conn.transaction():
        await insert_sale(conn, new, created_by)
    return new.id


async def insert_sale(conn: asyncpg.Connection, new: NewSale, created_by: str) -> list[str]:
    """The same in the caller's transaction; answers the moves that bring units out of ordinary products."""
    try:
        no = await conn.fetchval(
            SQL.sale_insert,
            new.id,
            new.title,
            _moment(new.opens_at_ms),
            _moment(new.closes_at_ms),
            new.limit_per_buyer,
            new.hold_ttl_s,
            new.guests,
            new.opening,
            msgspec.json.encode(new.policy).decode(),
            ["operator"] if new.is_paused else [],
            created_by,
            None if new.refunding is None else msgspec.json.encode(new.refunding).decode(),
        )
    except asyncpg.CheckViolationError as error:
        if error.constraint_name != "sales_check":
            raise
        # A file that opens "now" cannot be judged before Postgres says what now is.
        flaw = Flaw("#/sale/closes_at", "out_of_range", "closes_at must be after opens_at")
        raise InvalidRequest(flaw) from None
    if no is None:
        raise SaleExists
    moves = [await _insert_item(conn, new.id, position, item) for position, item in enumerate(new.items)]
    return [move for move in moves if move]


async def _insert_item(conn: asyncpg.Connection, sale: str, position: int, item: NewItem) -> str:
    """Answers the move that brings its units, where they are an ordinary product's."""
    is_ordinary = item.stock > 0 and await conn.fetchval(SQL.item_is_ordinary, item.product)
    await conn.execute(SQL.product_insert, item.product, item.title, item.list_amount, item.currency)
    await conn.execute(
        SQL.sale_item_insert,
        sale,
        item.product,
        item.title,
        item.amount,
        item.list_amount,
        item.currency,
        0 if is_ordinary else item.stock,
        position,
        item.visit_on,
    )
    move = f"{sale}:{item.product}:opening"
    if is_ordinary:
        await conn.execute(SQL.stock_move_ask, move, sale, item.product, item.stock)
        return move
    await conn.execute(SQL.stock_move_insert, move, sale, item.product, item.stock, "opening")
    return ""


def _moment(at_ms: int | None) -> Any:
    return None if at_ms is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)


async def advance_clock(pool: asyncpg.Pool, by_ms: int) -> int:
    """Move the test clock that schedules are read with; answers the whole offset (ms)."""
    offset_ms: int = await pool.fetchval(SQL.clock_advance, by_ms)
    return offset_ms
