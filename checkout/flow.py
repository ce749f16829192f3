"""The order of the steps of buying: the only place that knows it.

    reserve                       pass, price, hold
    pin -> verdict                the unit is the buyer's in Postgres before the provider hears of it
        -> charge                 by the holder of the attempt's lease, with the attempt's id as the provider's key
        -> confirm -> verdict     sold, and recorded, before the answer says so

An attempt runs in a task of the process, not of the request: a client that hangs up stops nothing, and a second request
for the same attempt waits for the same task. Whatever a task leaves behind, the completer finishes from Postgres.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import stamina
import structlog

from onsale.auth.errors import Flaw, InvalidRequest, PassInvalid, PassRequired, StoreUnavailable
from onsale.auth.identifiers import new_id, order_id, sale_no_of
from onsale.auth.passes import Passes
from onsale.auth.requests import body_digest
from onsale.auth.sealing import Sealer
from onsale.catalog.errors import SaleUnknown
from onsale.catalog.sales import Sale, SaleBook
from onsale.checkout.errors import (
    CheckoutError,
    OrderUnknown,
    PriceChanged,
    ProductUnknown,
    ProviderAway,
)
from onsale.checkout.idempotency import Ending, Outcome, ending_of_row, refuse_unless_paid
from onsale.checkout.inventory import Held, Inventory, OrderView, PackedAttempt, Pin, Pinned, Reserve
from onsale.checkout.orders import Orders
from onsale.checkout.ports import Charge, ChargeState, PaymentProvider
from onsale.checkout.record.events import AttemptDoc, ItemDoc, OrderDoc
from onsale.checkout.record.watermark import RecordFeed, VerdictKind
from onsale.checkout.schemas import PaymentRequest, ReserveRequest
from onsale.checkout.settling import Claim, Lease, Settler, Shop
from onsale.checkout.states import OrderState
from onsale.lua.keys import ShopKeys

log = structlog.get_logger()

# Larger than any order we can think of, small enough that no sum of it leaves a 64-bit column or a JSON number.
AMOUNT_MAX = 2**53
# Another process drives the attempt: how often its order is looked at meanwhile.
FOLLOW_FIRST_S = 0.05
FOLLOW_LAST_S = 0.4

_encode = msgspec.json.Encoder().encode
DOC = msgspec.json.Decoder(OrderDoc)


@dataclass(frozen=True, slots=True)
class FlowPolicy:
    """How long a confirmation waits, how long one process may drive an attempt, and how many it may drive at once."""

    confirm_patience_ms: int = 5_000
    # Two calls of a provider that does not answer; then the completer, so that a dead process delays nobody for long.
    drive_ms: int = 12_000
    # A call at its longest (1 s to connect, 5 s to answer): none is begun that could outlive the lease.
    call_ms: int = 6_500
    attempts_max: int = 4_000


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


class Unanswered(Exception):
    """The provider has not said what became of the attempt."""


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
        self._driver = driver
        self._policy = policy or FlowPolicy()
        self._shop = Shop(book)
        self._settler = Settler(self._shop, inventory, feed, orders)
        self._driving: dict[str, asyncio.Task[Ending]] = {}

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
        items = priced(sale, request)
        order = order_id(sale.no)
        digest = body_digest(request)
        doc = OrderDoc(
            order=order,
            sale=sale.id,
            buyer=buyer,
            turn=admission.turn,
            lane=admission.lane,
            items=items,
            amount=_total(items, request),
            currency=items[0].currency,
            idempotency_key=key,
            body_digest=digest,
            limit_per_buyer=sale.limit_per_buyer,
            address=self._sealed_address(order, request),
        )
        held = Reserve(
            order=order,
            buyer=buyer,
            turn=admission.turn,
            pass_exp_ms=admission.exp_ms,
            items=tuple((item.product, item.quantity) for item in items),
            key=key,
            digest=digest,
            doc=_encode(doc),
        )
        return await self._shop.ask(sale.id, lambda keys: self._inventory.reserve(keys, held))

    async def confirm(self, buyer: str, order: str, payment: PaymentRequest, key: str) -> Confirmation:
        """Pay and confirm. Answers a sold attempt, or one that is still open when the patience ends.

        Raises OrderUnknown, OrderExpired, OrderStateConflict, IdempotencyKeyReused, ProviderAway (nothing was pinned),
        PaymentDeclined, AmountMismatch, SoldOut, PurchaseLimitReached, PassSpent, ShopRecovering, StoreUnavailable.
        """
        provider = self._provider(payment.provider)
        sale = sale_of(self._book, order)
        deadline_s = time.monotonic() + self._policy.confirm_patience_ms / 1000
        digest = body_digest(payment)
        while True:
            view = await self._look(sale.id, order)
            if view is None:
                return await self._confirm_recorded(sale, buyer, order, key, digest)
            if view.buyer != buyer:
                raise OrderUnknown
            confirmation = await self._confirm_once(sale, view, provider, payment, key, digest, deadline_s)
            ending = confirmation.ending
            # Another key's card was declined while this request waited for it: now its own is tried.
            if ending.key == key or ending.outcome is not Outcome.DECLINED or time.monotonic() > deadline_s:
                refuse_unless_paid(ending, is_replay=confirmation.is_replay)
                return confirmation

    async def close(self) -> None:
        """Let every attempt finish that this process drives; each ends with its lease at the latest."""
        while self._driving:
            await asyncio.wait(list(self._driving.values()))

    async def _confirm_once(
        self,
        sale: Sale,
        view: OrderView,
        provider: PaymentProvider,
        payment: PaymentRequest,
        key: str,
        digest: str,
        deadline_s: float,
    ) -> Confirmation:
        doc = DOC.decode(view.doc)
        claim = Claim(sale.id, doc, new_id(), key, provider)
        ending: Ending | None = None
        is_known = any(attempt.key == key for attempt in view.attempts)
        if provider.is_away and not is_known and view.state is OrderState.RESERVED:
            raise ProviderAway
        pin = Pin(view.order, view.buyer, self._attempt_doc(claim, payment, digest))
        task = self._begin(claim.attempt, self._attempt(claim, pin, payment.token))
        ending = await _result(task, deadline_s)
        if ending is None:
            # Still driven by this process: how far the record has followed is asked there.
            ending = Ending(claim.attempt, key, Outcome.OPEN)
        is_own = ending.attempt == claim.attempt
        if not is_own:
            ending = await self._follow(sale, view.order, ending, deadline_s)
        return Confirmation(
            doc=doc,
            ending=ending,
            expires_at_ms=view.expires_at_ms,
            is_replay=not is_own and ending.key == key,
            tries_before=len(view.attempts),
            payment=payment if is_own else None,
        )

    def _begin(self, attempt: str, driving: Coroutine[Any, Any, Ending]) -> asyncio.Task[Ending]:
        if len(self._driving) >= self._policy.attempts_max:
            driving.close()
            raise StoreUnavailable
        task = asyncio.create_task(driving, name=f"attempt {attempt}")
        self._driving[attempt] = task
        task.add_done_callback(lambda done: self._end(attempt, done))
        return task

    def _end(self, attempt: str, task: asyncio.Task[Ending]) -> None:
        del self._driving[attempt]
        # Read here, because the request that waited for it may be gone.
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, CheckoutError):
            log.warning("attempt.left", attempt=attempt, error=type(error).__name__)

    async def _attempt(self, claim: Claim, pin: Pin, token: str) -> Ending:
        """Drive one attempt to its end, or as far as the lease and the stores allow; never beyond what is true."""
        lease = Lease(self._policy.drive_ms, self._policy.call_ms)
        keys, pinned = await self._pin(claim.sale, pin)
        if pinned.is_replay:
            return Ending(
                pinned.attempt,
                pinned.key,
                Outcome(pinned.outcome),
                pinned.reason,
                created_ms=created_ms(pinned.event_id),
            )
        verdict = await self._feed.verdict(keys, "money", pinned.event_id, pin.order, int(lease.left_s * 1000))
        claimed = Ending(
            claim.attempt,
            claim.key,
            Outcome.OPEN,
            is_recorded=verdict.kind is VerdictKind.ACCEPTED,
            created_ms=created_ms(pinned.event_id),
        )
        if verdict.kind is VerdictKind.PENDING:
            return claimed
        try:
            if verdict.kind is VerdictKind.REFUSED:
                return await self._settler.refuse(claim, pinned.event_id, verdict.reason)
            charge = await self._charge(claim, pin.attempt.method, token, lease)
            ending = await self._settler.settle(claim, charge, self._policy.confirm_patience_ms)
            return replace(ending, created_ms=claimed.created_ms)
        except Exception as error:
            # Whatever broke, the verdict stands in Postgres, and the completer goes on from there.
            log.warning("attempt.left", order=pin.order, attempt=claim.attempt, error=repr(error))
            return claimed

    async def _pin(self, sale: str, pin: Pin) -> tuple[ShopKeys, Pinned]:
        async def send(keys: ShopKeys) -> tuple[ShopKeys, Pinned]:
            return keys, await self._inventory.pin(keys, pin)

        # A pin whose answer was lost may have happened: the same pin again finds out.
        keys, pinned = await self._shop.insist(sale, send)
        # Its own pin told again, after the first answer was lost, is nobody else's attempt.
        if pinned.is_replay and pinned.attempt == pin.attempt.attempt and pinned.outcome == Outcome.OPEN:
            pinned = replace(pinned, is_replay=False)
        return keys, pinned

    async def _charge(self, claim: Claim, method: str, token: str, lease: Lease) -> Charge:
        """Ask until the provider says what became of the attempt, or the lease ends. "Not found" says nothing."""
        with suppress(Unanswered):
            return await self._charge_once(claim, method, token, lease)
        with suppress(Unanswered):
            async for attempt in stamina.retry_context(
                on=Unanswered, attempts=None, timeout=max(0.0, lease.left_s), wait_initial=0.1, wait_max=2.0
            ):
                with attempt:
                    return await self._charge_once(claim, method, token, lease)
        return Charge(ChargeState.UNKNOWN)

    async def _charge_once(self, claim: Claim, method: str, token: str, lease: Lease) -> Charge:
        if lease.left_s <= 0:
            raise Unanswered
        charge = await claim.provider.charge(
            attempt=claim.attempt,
            order=claim.doc.order,
            amount=claim.doc.amount,
            currency=claim.doc.currency,
            method=method,
            token=token,
        )
        if charge.state is ChargeState.UNKNOWN:
            charge = await claim.provider.find(attempt=claim.attempt)
        if charge.state is ChargeState.UNKNOWN:
            raise Unanswered
        return charge

    async def _follow(self, sale: Sale, order: str, ending: Ending, deadline_s: float) -> Ending:
        """Wait for an attempt that another request, perhaps of another process, drives."""
        task = self._driving.get(ending.attempt)
        if task is not None:
            return await _result(task, deadline_s) or ending
        pause_s = FOLLOW_FIRST_S
        while True:
            view = await self._look(sale.id, order)
            packed = next((a for a in view.attempts if a.attempt == ending.attempt), None) if view else None
            if packed is None:
                return ending
            ending = _ending_of(packed)
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

    async def _confirm_recorded(self, sale: Sale, buyer: str, order: str, key: str, digest: str) -> Confirmation:
        row = await self._orders.get(order)
        if row is None or row.buyer != buyer:
            raise OrderUnknown
        ending = ending_of_row(row, key, digest)
        refuse_unless_paid(ending, is_replay=ending.key == key)
        return Confirmation(
            doc=row.doc(sale.limit_per_buyer),
            ending=ending,
            expires_at_ms=row.expires_at_ms,
            is_replay=ending.key == key,
            tries_before=len(row.payments),
        )

    async def _look(self, sale: str, order: str) -> OrderView | None:
        return await self._shop.ask(sale, lambda keys: self._inventory.look(keys, order))

    def _provider(self, name: str) -> PaymentProvider:
        provider = self._providers.get(name)
        if provider is None:
            raise InvalidRequest(Flaw("#/payment/provider", "provider_unknown", "There is no such provider here."))
        return provider

    def _attempt_doc(self, claim: Claim, payment: PaymentRequest, digest: str) -> AttemptDoc:
        instrument = self._sealer.seal(payment.token.encode(), instrument_context(claim.attempt))
        return AttemptDoc(
            attempt=claim.attempt,
            provider=payment.provider,
            method=payment.method,
            amount=claim.doc.amount,
            currency=claim.doc.currency,
            idempotency_key=claim.key,
            body_digest=digest,
            instrument=b64encode(instrument).decode(),
            driver=self._driver,
            drive_ms=self._policy.drive_ms,
        )

    def _sealed_address(self, order: str, request: ReserveRequest) -> str | None:
        if request.address is None:
            return None
        sealed = self._sealer.seal(_encode(request.address), address_context(order))
        return b64encode(sealed).decode()


def priced(sale: Sale, request: ReserveRequest) -> tuple[ItemDoc, ...]:
    """The items at the sale's price, by product. Raises InvalidRequest (a product twice), ProductUnknown."""
    items: dict[str, ItemDoc] = {}
    for position, asked in enumerate(request.items):
        offer = sale.item(asked.product)
        if offer is None:
            raise ProductUnknown
        if asked.product in items:
            raise InvalidRequest(Flaw(f"#/items/{position}/product", "duplicate", "This product is named twice."))
        items[asked.product] = ItemDoc(
            product=offer.product,
            title=offer.title,
            quantity=asked.quantity,
            unit_amount=offer.amount,
            list_amount=offer.list_amount,
            currency=offer.currency,
        )
    return tuple(items[product] for product in sorted(items))


def sale_of(book: SaleBook, order: str) -> Sale:
    """The sale that an order's id names. OrderUnknown for what is no id of ours."""
    try:
        return book.by_no(sale_no_of(order))
    except (ValueError, SaleUnknown):
        raise OrderUnknown from None


def instrument_context(attempt: str) -> str:
    """Where a sealed payment token belongs."""
    return f"payments.instrument:{attempt}"


def address_context(order: str) -> str:
    """Where a sealed address belongs."""
    return f"orders.address:{order}"


def _total(items: tuple[ItemDoc, ...], request: ReserveRequest) -> int:
    currency = items[0].currency
    if any(item.currency != currency for item in items):
        raise InvalidRequest(Flaw("#/items", "currency_mixed", "These products are sold in different currencies."))
    amount = sum(item.quantity * item.unit_amount for item in items)
    if amount > AMOUNT_MAX:
        raise InvalidRequest(Flaw("#/items", "total_too_large", "The total is more than one payment can be."))
    expected = request.expected_total
    if expected is not None and (expected.amount, expected.currency) != (amount, currency):
        raise PriceChanged(amount, currency)
    return amount


async def _result(task: asyncio.Task[Ending], deadline_s: float) -> Ending | None:
    """What the task ends with; None when the deadline comes first. The task goes on, whatever happens to the caller."""
    done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline_s - time.monotonic()))
    return task.result() if done else None


def _ending_of(packed: PackedAttempt) -> Ending:
    return Ending(
        packed.attempt,
        packed.key,
        Outcome(packed.outcome),
        packed.reason,
        event_id=packed.end_event_id,
        created_ms=created_ms(packed.event_id),
    )


def created_ms(event_id: str) -> int:
    # A stream id begins with the milliseconds at which it was written.
    return int(event_id.partition("-")[0] or 0)
