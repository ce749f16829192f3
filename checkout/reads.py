"""Orders as people see them: the present state from Redis while it knows the order, else from the record.

Redis is ahead of the record by a commit, so `recorded` compares the two: the record's rev has caught up with Redis's.
Where Redis is away or being rebuilt, what the record says is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgspec import structs

from onsale.auth.errors import StoreUnavailable
from onsale.auth.requests import rfc3339
from onsale.auth.sealing import Sealer
from onsale.catalog.sales import SHOP, SaleBook
from onsale.checkout.documents import DOC, opened_address, sale_of
from onsale.checkout.errors import (
    OrderExpired,
    OrderStateConflict,
    OrderUnknown,
    ShopRecovering,
)
from onsale.checkout.flow import Confirmation
from onsale.checkout.idempotency import Outcome
from onsale.checkout.inventory import Inventory, OrderView
from onsale.checkout.orders import OrderRow, Orders, Page, PaymentRow
from onsale.checkout.record.events import ItemDoc, OrderDoc
from onsale.checkout.schemas import (
    ItemReply,
    Money,
    OperatorOrder,
    OperatorPage,
    OrderDetail,
    OrderPage,
    OrderReply,
    PaymentReply,
)
from onsale.checkout.settling import Shop
from onsale.checkout.states import BOUGHT, GIVEN_BACK, OrderState

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Present:
    """One order as it is now. `row` None: the record does not have it yet."""

    doc: OrderDoc
    state: OrderState
    expires_at_ms: int
    is_recorded: bool
    row: OrderRow | None

    def reply(self) -> OrderReply:
        """For its buyer, in a list."""
        reason = self.row.reason if self.row is not None and self.is_recorded else None
        return order_reply(
            self.doc,
            self.state,
            self.expires_at_ms,
            is_recorded=self.is_recorded,
            payments=() if self.row is None else payment_replies(self.row.payments),
            reason=reason,
        )


class Reads:
    """What can be asked of orders without changing them; and giving one up, which changes nothing else."""

    def __init__(self, book: SaleBook, inventory: Inventory, orders: Orders, sealer: Sealer) -> None:
        self._book = book
        self._inventory = inventory
        self._orders = orders
        self._sealer = sealer
        self._shop = Shop(book)

    async def order(self, buyer: str, order: str) -> OrderDetail:
        """One order of this buyer, whole. OrderUnknown when it is another's."""
        present = await self._present(buyer, order)
        return OrderDetail(**structs.asdict(present.reply()), address=opened_address(present.doc, self._sealer))

    async def payments(self, buyer: str | None, order: str) -> tuple[PaymentReply, ...]:
        """Every try to pay one order of this buyer, oldest first; None = whose it is does not matter."""
        present = await self._present(buyer, order)
        return () if present.row is None else payment_replies(present.row.payments)

    async def page(self, buyer: str, page: Page) -> OrderPage:
        """One page of a buyer's orders, newest first."""
        rows = await self._orders.of_buyer(buyer, page)
        presents, next_cursor = _cut(await self._presents(rows, page), rows, page)
        return OrderPage(tuple(present.reply() for present in presents), next_cursor)

    async def sale_page(self, sale: str, page: Page) -> OperatorPage:
        """One page of a sale's orders, newest first. SaleUnknown when there is no such sale."""
        self._book.get(sale)
        rows = await self._orders.of_sale(sale, page)
        presents, next_cursor = _cut(await self._presents(rows, page), rows, page)
        items = tuple(OperatorOrder(**structs.asdict(present.reply()), buyer=present.doc.buyer) for present in presents)
        return OperatorPage(items, next_cursor)

    async def confirmed(self, confirmation: Confirmation) -> OrderReply:
        """What a confirmation answers: `confirmed` and recorded, or `confirming` as far as the record has it.

        The first try of an order, sold and recorded, is answered without asking Postgres again.
        """
        doc, ending = confirmation.doc, confirmation.ending
        is_done = ending.outcome is Outcome.SOLD and ending.is_recorded
        # An attempt that was rebuilt on its way is told of by the record alone.
        if is_done and confirmation.payment is not None and ending.created_ms and not confirmation.tries_before:
            paid = PaymentReply(
                payment=ending.attempt,
                provider=confirmation.payment.provider,
                method=confirmation.payment.method,
                state="captured",
                reason=None,
                retryable=False,
                created_at=rfc3339(ending.created_ms),
            )
            expires_at_ms = confirmation.expires_at_ms
            return order_reply(doc, OrderState.CONFIRMED, expires_at_ms, is_recorded=True, payments=(paid,))
        return await self._confirmed_so_far(confirmation)

    async def release(self, buyer: str, order: str) -> None:
        """Give a reservation up; repeating is the same. OrderUnknown, OrderExpired, OrderStateConflict."""
        sale = sale_of(self._book, order)
        try:
            await self._shop.ask(sale.id, lambda keys: self._inventory.release(keys, order, buyer))
        except OrderUnknown:
            await self._released_before(buyer, order)

    async def _released_before(self, buyer: str, order: str) -> None:
        row = await self._orders.get(order)
        if row is None or row.buyer != buyer:
            raise OrderUnknown
        if row.state is OrderState.RELEASED:
            return
        raise OrderExpired if row.state in (OrderState.EXPIRED, OrderState.RESERVED) else OrderStateConflict

    async def _confirmed_so_far(self, confirmation: Confirmation) -> OrderReply:
        ending = confirmation.ending
        try:
            row = await self._orders.get(confirmation.doc.order)
        except StoreUnavailable:
            row = None
        state = OrderState.CONFIRMED if ending.outcome is Outcome.SOLD and ending.is_recorded else OrderState.CONFIRMING
        if row is None:
            return order_reply(
                confirmation.doc, state, confirmation.expires_at_ms, is_recorded=ending.is_recorded, payments=()
            )
        if row.state in GIVEN_BACK and not confirmation.is_replay:
            raise OrderStateConflict
        if row.state in BOUGHT | GIVEN_BACK:
            state = row.state
        return order_reply(
            confirmation.doc,
            state,
            row.expires_at_ms,
            is_recorded=row.state is state,
            payments=payment_replies(row.payments),
        )

    async def _present(self, buyer: str | None, order: str) -> Present:
        sale = sale_of(self._book, order)
        looked = self._shop.ask(sale.id, lambda keys: self._inventory.look(keys, order))
        found = await asyncio.gather(looked, self._orders.get(order), return_exceptions=True)
        view, row = _unless_away(found[0]), _unless_away(found[1])
        owner = view.buyer if view is not None else row.buyer if row is not None else None
        if owner is None:
            # Only a store that answered may say that there is no such order.
            _raise_first(found)
        if buyer not in (None, owner):
            raise OrderUnknown
        return self._merged(view, row)

    async def _view(self, sale: str, order: str) -> OrderView | None:
        try:
            return await self._shop.ask(sale, lambda keys: self._inventory.look(keys, order))
        except (ShopRecovering, StoreUnavailable):
            return None

    def _merged(self, view: OrderView | None, row: OrderRow | None) -> Present:
        if row is not None and (view is None or _is_caught_up(row, view)):
            limit = 1 if row.sale is None else self._book.seller(row.sale).limit_per_buyer
            # A rebuild gives holds more time, in Redis alone.
            expires_at_ms = row.expires_at_ms if view is None else view.expires_at_ms
            return Present(row.doc(limit), row.state, expires_at_ms, True, row)
        if view is None:
            raise OrderUnknown
        return Present(DOC.decode(view.doc), view.state, view.expires_at_ms, False, row)

    async def _presents(self, rows: Sequence[OrderRow], page: Page) -> list[Present]:
        views = await asyncio.gather(*(self._moving_view(row) for row in rows))
        presents = [self._merged(view, row) for view, row in zip(views, rows, strict=True)]
        # A filter by state asks for what is so now.
        return [present for present in presents if page.state in (None, present.state)]

    async def _moving_view(self, row: OrderRow) -> OrderView | None:
        is_moving = row.state in (OrderState.RESERVED, OrderState.CONFIRMING)
        return await self._view(row.sale, row.order) if is_moving and row.sale is not None else None


def order_reply(
    doc: OrderDoc,
    state: OrderState,
    expires_at_ms: int,
    *,
    is_recorded: bool,
    payments: tuple[PaymentReply, ...] = (),
    reason: str | None = None,
) -> OrderReply:
    """An order as its buyer reads it."""
    return OrderReply(
        order=doc.order,
        sale=None if doc.sale == SHOP else doc.sale,
        state=state,
        items=tuple(item_reply(item) for item in doc.items),
        total=Money(doc.amount, doc.currency),
        expires_at=rfc3339(expires_at_ms),
        recorded=is_recorded,
        payments=payments,
        reason=reason,
    )


def item_reply(item: ItemDoc) -> ItemReply:
    """One line of an order."""
    return ItemReply(
        product=item.product,
        title=item.title,
        quantity=item.quantity,
        unit_price=Money(item.unit_amount, item.currency),
        list_price=Money(item.list_amount, item.currency),
    )


def payment_replies(rows: Sequence[PaymentRow]) -> tuple[PaymentReply, ...]:
    """Tries to pay, oldest first."""
    return tuple(
        PaymentReply(
            payment=row.payment,
            provider=row.provider,
            method=row.method,
            state=row.state,
            reason=row.reason,
            retryable=row.retryable,
            created_at=rfc3339(row.created_at_ms),
            refund=None if row.refund is None else Money(row.refund, row.currency),
        )
        for row in rows
    )


def _unless_away(found: Found | BaseException) -> Found | None:
    """What a store answered; None when it is away."""
    if isinstance(found, ShopRecovering | StoreUnavailable):
        return None
    if isinstance(found, BaseException):
        raise found
    return found


def _raise_first(found: Iterable[object]) -> None:
    for failure in found:
        if isinstance(failure, BaseException):
            raise failure


def _is_caught_up(row: OrderRow, view: OrderView) -> bool:
    # A refused claim ends in both without an event: the record wrote the refusal, Redis was told.
    return row.rev >= view.rev or (row.state is view.state and row.state.is_final)


def _cut(presents: list[Present], rows: Sequence[OrderRow], page: Page) -> tuple[list[Present], str | None]:
    """A page without the row that only says that there are more, and where the next one begins."""
    if len(rows) <= page.limit:
        return presents, None
    last = rows[page.limit - 1].order
    return [present for present in presents if present.doc.order >= last], last
