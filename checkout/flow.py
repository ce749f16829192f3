"""The order of the steps of buying: the only place that knows it.

    reserve                       pass, price, hold
    pin -> verdict                the unit is the buyer's in Postgres before the provider hears of it
        -> charge                 by the holder of the attempt's lease, with the attempt's id as the provider's key
        -> confirm -> verdict     sold, and recorded, before the answer says so

The steps after the reservation are driven by a task of the process, and a second request for the same attempt, with the
same key or another, waits for what becomes of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

import msgspec
from msgspec import UNSET

from onsale.auth.errors import Flaw, IdempotencyKeyReused, InvalidRequest, PassInvalid, PassRequired
from onsale.auth.identifiers import new_id, order_id
from onsale.auth.passes import Pass, Passes
from onsale.auth.requests import body_digest
from onsale.auth.sealing import Sealer
from onsale.catalog.errors import ProductUnavailable as OfferUnavailable
from onsale.catalog.errors import ProductUnknown as OfferUnknown
from onsale.catalog.sales import Sale, SaleBook
from onsale.checkout.documents import DOC, Offered, amended_doc, order_doc, sale_of
from onsale.checkout.driving import DrivePolicy, Driver
from onsale.checkout.errors import (
    CartEmpty,
    OrderChanged,
    OrderExpired,
    OrderStateConflict,
    OrderUnknown,
    PassExpired,
    PriceChanged,
    ProductUnavailable,
    ProductUnknown,
    ProviderAway,
    SaleNotOpen,
)
from onsale.checkout.idempotency import (
    Ending,
    Outcome,
    created_ms,
    ending_of_attempt,
    ending_of_row,
    refuse_unless_paid,
)
from onsale.checkout.inventory import Amend, Held, Inventory, OrderView, Reserve
from onsale.checkout.orders import Orders
from onsale.checkout.ports import Carts, Method, Offers, PassTimes, PaymentProvider
from onsale.checkout.record.events import OrderDoc
from onsale.checkout.record.watermark import RECORDED, RecordFeed, VerdictKind
from onsale.checkout.schemas import (
    ITEMS_MAX,
    Address,
    AmendRequest,
    ItemRequest,
    OrderRequest,
    PaymentRequest,
    ReserveRequest,
)
from onsale.checkout.settling import Claim, Settler, Shop
from onsale.checkout.snapshot import units_of
from onsale.checkout.states import OrderState
from onsale.lua.replies import Reply

Refusal = PriceChanged | ProductUnknown | ProductUnavailable | CartEmpty
# What is refused before the shop is asked, and kept there under its key all the same.
REFUSALS: Mapping[type[Refusal], Reply] = {
    PriceChanged: Reply.PRICE_CHANGED,
    ProductUnknown: Reply.UNKNOWN,
    ProductUnavailable: Reply.UNAVAILABLE,
    CartEmpty: Reply.CART_EMPTY,
}
# Another process drives the attempt: how often its order is looked at meanwhile.
FOLLOW_FIRST_S = 0.05
FOLLOW_LAST_S = 0.4
# An order is amended by its buyer's own hand: more changes than these at once are not one person's.
AMEND_TRIES_MAX = 5
# Reservations kept until they are paid, about 2 kB each: those of some seconds of the fastest sale.
RESERVED_HERE_MAX = 8_192

# Clocks may differ by this much: a pass that lasts longer by this machine's is not over by the shop's.
PASS_SURE_MS = 30_000

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class FlowPolicy:
    """How long a confirmation waits, and how its attempt is driven."""

    confirm_patience_ms: int = 5_000
    drive: DrivePolicy = field(default_factory=DrivePolicy)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a confirmation answers: the order as it was reserved, and how far its attempt has come."""

    doc: OrderDoc
    ending: Ending
    expires_at_ms: int
    is_replay: bool
    # Tries before this one: their payments are in the record alone.
    tries_before: int
    # What was asked to be paid with, where this request's own attempt is the one answered.
    payment: PaymentRequest | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to pay: with what, under which key, until when it waits."""

    payment: PaymentRequest
    key: str
    digest: str
    deadline_s: float


class CheckoutFlow:
    """One a process. `driver` names the process in the record."""

    def __init__(
        self,
        *,
        book: SaleBook,
        inventory: Inventory,
        feed: RecordFeed,
        orders: Orders,
        providers: Mapping[str, PaymentProvider],
        sealer: Sealer,
        passes: Passes,
        offers: Offers,
        carts: Carts,
        pass_times: PassTimes,
        driver: str,
        policy: FlowPolicy | None = None,
    ) -> None:
        self._book = book
        self._inventory = inventory
        self._feed = feed
        self._orders = orders
        self._providers = providers
        self._sealer = sealer
        self._passes = passes
        self._offers = offers
        self._carts = carts
        self._pass_times = pass_times
        self._policy = policy or FlowPolicy()
        self._shop = Shop(book)
        # What this process reserved and nobody has tried to pay yet, oldest first. Whoever reserves mostly pays on the
        # same connection, and a pin refuses an order that is not as it was any more: no need to look at it before.
        self._reserved_here: dict[str, OrderView] = {}
        self._driver = Driver(
            driver,
            shop=self._shop,
            inventory=inventory,
            feed=feed,
            settler=Settler(self._shop, inventory, feed, orders),
            sealer=sealer,
            policy=self._policy.drive,
        )

    async def reserve(self, sale_id: str, buyer: str, token: str, request: ReserveRequest, key: str) -> Held:
        """Hold every unit of an order, or none, at the server's price.

        Raises SaleUnknown, PassRequired, PassInvalid, InvalidRequest, ProductUnknown, PriceChanged, and what
        `Inventory.reserve` raises.
        """
        sale = self._book.get(sale_id)
        if not token:
            raise PassRequired
        admission = self._passes.verify(token, sale=sale.id)
        if admission.buyer != buyer:
            raise PassInvalid
        return await self._reserve(sale, await self._as_of_now(admission), request, key, body_digest(request))

    async def order(self, buyer: str, request: OrderRequest, key: str) -> Held:
        """The same for ordinary products, those named or the buyer's whole cart: no line, no pass, and the price is
        what a product costs at this moment.

        Raises InvalidRequest, CartEmpty, ProductUnknown, ProductUnavailable, PriceChanged, and what `Inventory.reserve`
        raises.
        """
        if request.cart == (request.items is not UNSET):
            raise InvalidRequest(Flaw("#/items", "bad_value", "Name the items or order the cart: one of both."))
        shop = self._book.shop()
        admission = Pass(shop.id, buyer, "", "general", 0, 0, 0)
        if request.items is UNSET:
            return await self._order_cart(shop, admission, request, key)
        wanted = ReserveRequest(request.items, request.address, request.expected_total)
        return await self._reserve(shop, admission, wanted, key, body_digest(wanted))

    async def _order_cart(self, shop: Sale, admission: Pass, request: OrderRequest, key: str) -> Held:
        """The key stands for the question, not for what the cart held: asked again, when the cart is another or none,
        it answers the same order. What is reserved leaves the cart, and is back in it when the order ends unbought."""
        digest = body_digest(request)
        held = await self._carts.items(admission.buyer)
        if not held:
            return await self._refuse(shop, admission, key, digest, CartEmpty())
        if len(held) > ITEMS_MAX:
            # Filled before carts were as small as orders.
            raise InvalidRequest(Flaw("#/cart", "out_of_range", f"an order takes at most {ITEMS_MAX} products"))
        items = tuple(ItemRequest(item.product, item.quantity) for item in held)
        wanted = ReserveRequest(items, request.address, request.expected_total)
        order = await self._reserve(shop, admission, wanted, key, digest)
        if not order.is_replay:
            # Killed before this, the cart holds it still, and a second order is refused while the first is open.
            await self._carts.take(admission.buyer, order.order, {item.product: item.quantity for item in items})
        return order

    async def _reserve(self, sale: Sale, admission: Pass, request: ReserveRequest, key: str, digest: str) -> Held:
        try:
            offers = await self._offered(sale, request.items)
            doc = order_doc(sale, admission, offers, request, key, digest, self._sealer)
        except (PriceChanged, ProductUnknown, ProductUnavailable) as refusal:
            return await self._refuse(sale, admission, key, digest, refusal)
        asked = Reserve(
            order=doc.order,
            buyer=doc.buyer,
            turn=doc.turn,
            pass_exp_ms=admission.exp_ms,
            items=tuple((item.product, item.quantity) for item in doc.items),
            key=key,
            digest=doc.body_digest,
            doc=_encode(doc),
        )
        try:
            held = await self._shop.ask(sale.id, lambda keys: self._inventory.reserve(keys, asked))
        except PriceChanged as noted:
            noted.amount, noted.currency = doc.amount, doc.currency
            raise
        except PassExpired:
            # Redis keeps a key for a day, the record for as long as its order; by then the pass has long expired.
            before = await self._held_before(sale, asked)
            if before is None:
                raise
            return before
        if not held.is_replay:
            self._keep_reserved(doc, held)
        return held

    async def confirm(self, buyer: str, order: str, payment: PaymentRequest, key: str) -> Confirmation:
        """Pay and confirm. Answers a sold attempt, or one that is still open when the patience ends.

        Raises OrderUnknown, OrderExpired, OrderStateConflict, IdempotencyKeyReused, ProviderAway (nothing was pinned),
        PaymentDeclined, AmountMismatch, SoldOut, PurchaseLimitReached, PassSpent, ShopRecovering, StoreUnavailable.
        """
        provider = self._provider(payment)
        sale = sale_of(self._book, order)
        deadline_s = time.monotonic() + self._policy.confirm_patience_ms / 1000
        asked = Asked(payment, key, body_digest(payment), deadline_s)
        while True:
            # Once: whatever a pin says against it, the order is looked at next.
            view = self._reserved_here.pop(order, None)
            # While the provider is away a key that has paid before must still be found.
            if view is None or provider.is_away:
                view = await self._look(sale.id, order)
            if view is None:
                return await self._confirm_recorded(sale, buyer, order, asked)
            if view.buyer != buyer:
                raise OrderUnknown
            try:
                confirmation = await self._confirm_once(sale, view, provider, asked)
            except (OrderChanged, OrderUnknown):
                # Amended, declined or forgotten since it was looked at: the attempt would charge another total.
                if time.monotonic() > deadline_s:
                    raise
                continue
            ending = confirmation.ending
            # Another key's card was declined while this request waited for it: now its own is tried.
            if ending.key == key or ending.outcome is not Outcome.DECLINED or time.monotonic() > deadline_s:
                refuse_unless_paid(ending, is_replay=confirmation.is_replay)
                return confirmation

    async def amend(self, buyer: str, order: str, token: str, request: AmendRequest) -> None:
        """Change what a reservation holds, or its address, at the server's price; asked twice it changes once.

        Raises OrderUnknown, PassRequired, PassInvalid, InvalidRequest, ProductUnknown, PriceChanged, and what
        `Inventory.amend` raises.
        """
        sale = sale_of(self._book, order)
        await self._amend(sale, buyer, order, request, partial(self._pass_exp_ms, sale, token=token))

    async def send_to(self, buyer: str, order: str, address: Address | None) -> None:
        """Say where a reservation goes, and nothing else of it: no pass is asked for, which guards units, and may run
        out while somebody types. Raises OrderUnknown, and what `Inventory.amend` raises."""

        async def as_long_as_it_holds(view: OrderView) -> int:
            return view.expires_at_ms

        await self._amend(sale_of(self._book, order), buyer, order, AmendRequest(address=address), as_long_as_it_holds)

    async def _amend(
        self,
        sale: Sale,
        buyer: str,
        order: str,
        request: AmendRequest,
        allowed_until_ms: Callable[[OrderView], Awaitable[int]],
    ) -> None:
        for _ in range(AMEND_TRIES_MAX):
            view = await self._look(sale.id, order)
            if view is None:
                await self._refuse_forgotten(buyer, order)
            if view.buyer != buyer:
                raise OrderUnknown
            pass_exp_ms = await allowed_until_ms(view)
            doc = DOC.decode(view.doc)
            offers = {} if request.items is UNSET else await self._offered(sale, request.items)
            amended = amended_doc(offers, doc, request, self._sealer)
            if amended is doc and view.state is OrderState.RESERVED:
                return
            asked = Amend(order, view.rev, pass_exp_ms, units_of(amended), _encode(amended))
            with suppress(OrderChanged):
                await self._shop.ask(sale.id, partial(self._inventory.amend, item=asked))
                return
        raise OrderChanged

    @property
    def methods(self) -> Mapping[str, Sequence[Method]]:
        """What can be paid with here, by provider."""
        return {name: sorted(provider.methods) for name, provider in sorted(self._providers.items())}

    async def close(self) -> None:
        """Let every attempt finish that this process drives; each ends with its lease at the latest."""
        await self._driver.close()

    async def _offered(self, sale: Sale, wanted: Sequence[ItemRequest]) -> Mapping[str, Offered]:
        """What these products cost now. Raises ProductUnknown, ProductUnavailable."""
        if not sale.is_shop:
            return {item.product: item for item in sale.items}
        try:
            return await self._offers.for_order([item.product for item in wanted])
        except OfferUnknown:
            raise ProductUnknown from None
        except OfferUnavailable:
            raise ProductUnavailable from None

    async def _pass_exp_ms(self, sale: Sale, view: OrderView, *, token: str) -> int:
        """When the pass runs out with which the order was made; an ordinary order was made with none."""
        if not view.turn:
            return 0
        if not token:
            raise PassRequired
        admission = self._passes.verify(token, sale=sale.id)
        if (admission.buyer, admission.turn) != (view.buyer, view.turn):
            raise PassInvalid
        return (await self._as_of_now(admission)).exp_ms

    async def _as_of_now(self, admission: Pass) -> Pass:
        """A pass with its end as the line has it. Only one that is over, or nearly, is asked about: the others are good
        as they are."""
        if admission.exp_ms > time.time_ns() // 1_000_000 + PASS_SURE_MS:
            return admission
        until_ms = await self._pass_times.until_ms(admission.sale, admission.turn)
        return replace(admission, exp_ms=max(admission.exp_ms, until_ms))

    async def _refuse_forgotten(self, buyer: str, order: str) -> NoReturn:
        """What Redis does not know any more has ended."""
        row = await self._orders.get(order)
        if row is None or row.buyer != buyer:
            raise OrderUnknown
        raise OrderExpired if row.state in (OrderState.EXPIRED, OrderState.RESERVED) else OrderStateConflict

    def _keep_reserved(self, doc: OrderDoc, held: Held) -> None:
        self._reserved_here[held.order] = OrderView(
            order=held.order,
            state=OrderState.RESERVED,
            rev=held.rev,
            buyer=doc.buyer,
            turn=doc.turn,
            items=units_of(doc),
            reserved_at_ms=created_ms(held.event_id),
            expires_at_ms=held.expires_at_ms,
            doc=held.doc,
            event_id=held.event_id,
        )
        if len(self._reserved_here) > RESERVED_HERE_MAX:
            del self._reserved_here[next(iter(self._reserved_here))]

    async def _refuse(self, sale: Sale, admission: Pass, key: str, digest: str, refusal: Refusal) -> Held:
        """Keep a refusal of ours under its key: its answer from now on, unless it has another one already."""
        asked = Reserve(
            order=order_id(sale.no),
            buyer=admission.buyer,
            turn=admission.turn,
            pass_exp_ms=admission.exp_ms,
            items=(),
            key=key,
            digest=digest,
            doc=b"",
            refusal=REFUSALS[type(refusal)],
        )
        try:
            return await self._shop.ask(sale.id, lambda keys: self._inventory.reserve(keys, asked))
        except type(refusal) as kept:
            refusal.is_replay = kept.is_replay
            raise refusal from None

    async def _held_before(self, sale: Sale, asked: Reserve) -> Held | None:
        row = await self._orders.by_key(sale.id, asked.buyer, asked.key)
        if row is None:
            return None
        if row.body_digest != asked.digest:
            raise IdempotencyKeyReused
        doc = _encode(row.doc(sale.limit_per_buyer))
        return Held(row.order, row.rev, row.expires_at_ms, doc, is_replay=True, event_id=RECORDED)

    async def _confirm_once(self, sale: Sale, view: OrderView, provider: PaymentProvider, asked: Asked) -> Confirmation:
        is_known = any(attempt.key == asked.key for attempt in view.attempts)
        if sale.is_cancelled and not is_known and view.state is OrderState.RESERVED:
            raise SaleNotOpen
        if provider.is_away and not is_known and view.state is OrderState.RESERVED:
            raise ProviderAway
        doc = DOC.decode(view.doc)
        claim = Claim(sale.id, doc, new_id(), asked.key, provider)
        task = self._driver.start(claim, view.buyer, asked.payment, asked.digest, view.rev)
        # Without an answer it is still being driven, and how far is asked of the record.
        ending = await result_of(task, asked.deadline_s) or Ending(claim.attempt, asked.key, Outcome.OPEN)
        is_own = ending.attempt == claim.attempt
        if not is_own:
            ending = await self._follow(sale, view.order, ending, asked.deadline_s)
        return Confirmation(
            doc=doc,
            ending=ending,
            expires_at_ms=view.expires_at_ms,
            is_replay=not is_own and ending.key == asked.key,
            tries_before=len(view.attempts),
            payment=asked.payment if is_own else None,
        )

    async def _follow(self, sale: Sale, order: str, ending: Ending, deadline_s: float) -> Ending:
        """Wait for an attempt that another request, perhaps of another process, drives."""
        task = self._driver.task_of(ending.attempt)
        if task is not None:
            return await result_of(task, deadline_s) or ending
        pause_s = FOLLOW_FIRST_S
        while True:
            view = await self._look(sale.id, order)
            packed = next((a for a in view.attempts if a.attempt == ending.attempt), None) if view else None
            if packed is None:
                return ending
            ending = ending_of_attempt(packed)
            if ending.outcome is not Outcome.OPEN:
                return await self._recorded(sale, order, ending, deadline_s)
            if time.monotonic() + pause_s > deadline_s:
                return ending
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, FOLLOW_LAST_S)

    async def _recorded(self, sale: Sale, order: str, ending: Ending, deadline_s: float) -> Ending:
        if not ending.event_id:
            return ending
        patience_ms = max(0, int((deadline_s - time.monotonic()) * 1000))
        keys = self._shop.keys(sale.id)
        verdict = await self._feed.verdict(keys, "money", ending.event_id, order, patience_ms)
        return replace(ending, is_recorded=verdict.kind is VerdictKind.ACCEPTED)

    async def _confirm_recorded(self, sale: Sale, buyer: str, order: str, asked: Asked) -> Confirmation:
        row = await self._orders.get(order)
        if row is None or row.buyer != buyer:
            raise OrderUnknown
        ending = ending_of_row(row, asked.key, asked.digest)
        refuse_unless_paid(ending, is_replay=ending.key == asked.key)
        return Confirmation(
            doc=row.doc(sale.limit_per_buyer),
            ending=ending,
            expires_at_ms=row.expires_at_ms,
            is_replay=ending.key == asked.key,
            tries_before=len(row.payments),
        )

    async def _look(self, sale: str, order: str) -> OrderView | None:
        return await self._shop.ask(sale, lambda keys: self._inventory.look(keys, order))

    def _provider(self, payment: PaymentRequest) -> PaymentProvider:
        provider = self._providers.get(payment.provider)
        if provider is None:
            raise InvalidRequest(Flaw("#/payment/provider", "provider_unknown", "There is no such provider here."))
        if payment.method not in provider.methods:
            raise InvalidRequest(Flaw("#/payment/method", "method_unknown", "This provider does not offer it."))
        return provider


async def result_of(task: asyncio.Task[Ending], deadline_s: float) -> Ending | None:
    """What the task ends with; None when the deadline comes first. The task goes on, whatever happens to the caller."""
    if not task.done():
        # By hand: `asyncio.wait` costs three times as much, and every confirmation comes by here.
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()

        def wake(_: object = None) -> None:
            if not turn.done():
                turn.set_result(None)

        patience = loop.call_later(max(0.0, deadline_s - time.monotonic()), wake)
        task.add_done_callback(wake)
        try:
            await turn
        finally:
            patience.cancel()
            task.remove_done_callback(wake)
    return task.result() if task.done() else None
