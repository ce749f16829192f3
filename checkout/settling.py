"""From what the provider said to what stands: the last steps of an attempt, the same for whoever drives it.

Every step may be repeated, and any process may start at any of them: the scripts answer a change that was made already,
the provider answers an attempt it has made already, and money that belongs to no sold claim is written down as a refund
before it is given back.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import stamina
import structlog

from onsale.auth.errors import StoreUnavailable
from onsale.catalog.sales import SaleBook
from onsale.checkout.errors import OrderStateConflict, OrderUnknown, ShopRecovering
from onsale.checkout.idempotency import AMOUNT_MISMATCH, Ending, Outcome, ended_as
from onsale.checkout.inventory import Changed, Inventory
from onsale.checkout.orders import Orders
from onsale.checkout.ports import Attempt, Charge, ChargeState, Method, PaymentProvider
from onsale.checkout.record.events import OrderDoc
from onsale.checkout.record.watermark import RecordFeed, Verdict, VerdictKind
from onsale.checkout.states import OrderState
from onsale.lua.keys import ShopKeys

log = structlog.get_logger()
Answer = TypeVar("Answer")

# How long a change of a paid claim is tried while Redis is away; then the completer goes on.
INSIST_S = 4.0


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt whose claim the record has accepted."""

    sale: str
    doc: OrderDoc
    attempt: str
    key: str
    provider: PaymentProvider

    def asked(self, method: str = Method.CARD, token: str = "") -> Attempt:
        """The attempt as its provider is asked about it."""
        return Attempt(self.attempt, self.doc.order, self.doc.amount, self.doc.currency, method, token)


class Lease:
    """The time in which one process alone calls the provider for an attempt: `drive_ms` from now, less `call_ms`, so
    that no call is begun that could outlive it.

    It is made before the record is asked for it, and the record's `drive_until` counts from a later moment: whoever is
    within this lease is within that one.
    """

    def __init__(self, drive_ms: int, call_ms: int) -> None:
        self._end_s = time.monotonic() + (drive_ms - call_ms) / 1000

    @property
    def left_s(self) -> float:
        """Seconds in which a call may still be begun."""
        return self._end_s - time.monotonic()


class Shop:
    """Calls one sale's shop in its present epoch; a sale that has just been rebuilt is asked once more."""

    def __init__(self, book: SaleBook) -> None:
        self._book = book

    def keys(self, sale: str) -> ShopKeys:
        """Raises SaleUnknown."""
        return ShopKeys(sale, self._book.seller(sale).shop_epoch)

    async def ask(self, sale: str, call: Callable[[ShopKeys], Awaitable[Answer]]) -> Answer:
        """Raises ShopRecovering when the sale is being rebuilt now, and what the call raises."""
        keys = self.keys(sale)
        try:
            return await call(keys)
        except ShopRecovering:
            await self._book.refresh()
            if self.keys(sale) == keys:
                raise
            return await call(self.keys(sale))

    async def insist(self, sale: str, call: Callable[[ShopKeys], Awaitable[Answer]]) -> Answer:
        """The same, tried again while the shop's Redis is away: for calls that are idempotent under their ids."""
        with suppress(ShopRecovering, StoreUnavailable):
            return await self.ask(sale, call)
        # Only now: a retrying context costs more than all the rest of a confirmation.
        async for attempt in stamina.retry_context(
            on=(ShopRecovering, StoreUnavailable), attempts=None, timeout=INSIST_S, wait_initial=0.05, wait_max=0.5
        ):
            with attempt:
                answer = await self.ask(sale, call)
        return answer


class Settler:
    """Ends attempts. `patience_ms` bounds the wait for the record, never the work."""

    def __init__(self, shop: Shop, inventory: Inventory, feed: RecordFeed, orders: Orders) -> None:
        self._shop = shop
        self._inventory = inventory
        self._feed = feed
        self._orders = orders

    async def settle(self, claim: Claim, charge: Charge, patience_ms: int) -> Ending:
        """Make true what the provider said. Raises ShopRecovering or StoreUnavailable when the shop stays away."""
        if charge.state is ChargeState.UNKNOWN:
            return _still_open(claim)
        if charge.state is ChargeState.DECLINED:
            return await self._declined(claim, charge, patience_ms)
        if (charge.amount, charge.currency) != (claim.doc.amount, claim.doc.currency):
            return await self._mismatched(claim, charge, patience_ms)
        return await self._captured(claim, charge, patience_ms)

    async def refuse(self, claim: Claim, event_id: str, reason: str) -> Ending:
        """The record refused the claim: put its units where they belong. When Redis is away the completer does it."""
        order, attempt = claim.doc.order, claim.attempt
        with suppress(ShopRecovering, StoreUnavailable):
            await self._shop.insist(claim.sale, lambda keys: self._inventory.refuse(keys, order, attempt, reason))
            await self._orders.settle_refusal(order, event_id)
        return Ending(attempt, claim.key, Outcome.REFUSED, reason, is_recorded=True)

    async def give_back(self, provider: PaymentProvider, asked: Attempt, charge: Charge, reason: str) -> bool:
        """Return a capture that belongs to no sold claim; False = written down, and the completer asks for it."""
        if charge.amount == 0:
            return True
        opened = await self._orders.open_refund(asked.attempt, charge.amount, charge.currency, reason)
        if not opened.is_due:
            return False
        refund = opened.refund
        # As it was written down first: of a sale that was cancelled meanwhile a part may stay paid.
        if not await provider.refund(asked, key=refund, amount=opened.amount, currency=opened.currency):
            log.warning("refund.unanswered", attempt=asked.attempt, refund=refund)
            return False
        await self._orders.close_refund(refund)
        return True

    async def _captured(self, claim: Claim, charge: Charge, patience_ms: int) -> Ending:
        try:
            keys, changed = await self._confirm_as(claim, None)
        except (OrderUnknown, OrderStateConflict):
            return await self._forgotten(claim, charge, patience_ms)
        return await self._sold(claim, charge, keys, changed, patience_ms)

    async def _forgotten(self, claim: Claim, charge: Charge, patience_ms: int) -> Ending:
        """Redis has no such open claim: the record says what to do with the money."""
        row = await self._orders.get(claim.doc.order)
        state = None if row is None else row.payment_state(claim.attempt)
        if state == "captured":
            return Ending(claim.attempt, claim.key, Outcome.SOLD, is_recorded=True)
        if state != "pending":
            return await self._unclaimed(claim, charge)
        # A claim that the record holds open outranks Redis.
        try:
            keys, changed = await self._confirm_as(claim, claim.doc)
        except OrderStateConflict:
            # It has just ended otherwise; the money goes back once the record has heard of that.
            return await self._unclaimed(claim, charge)
        return await self._sold(claim, charge, keys, changed, patience_ms)

    async def _sold(self, claim: Claim, charge: Charge, keys: ShopKeys, changed: Changed, patience_ms: int) -> Ending:
        verdict = await self._feed.verdict(keys, "money", changed.event_id, claim.doc.order, patience_ms)
        if _is_fenced(verdict):
            return _still_open(claim)
        if verdict.kind is VerdictKind.REFUSED:
            return await self._unclaimed(claim, charge)
        return Ending(
            claim.attempt,
            claim.key,
            Outcome.SOLD,
            is_recorded=verdict.kind is VerdictKind.ACCEPTED,
            event_id=changed.event_id,
        )

    async def _confirm_as(self, claim: Claim, remake: OrderDoc | None) -> tuple[ShopKeys, Changed]:
        async def confirm(keys: ShopKeys) -> tuple[ShopKeys, Changed]:
            return keys, await self._inventory.confirm(keys, claim.doc.order, claim.attempt, remake)

        return await self._shop.insist(claim.sale, confirm)

    async def _unclaimed(self, claim: Claim, charge: Charge) -> Ending:
        await self.give_back(claim.provider, claim.asked(), charge, "no_claim")
        return Ending(claim.attempt, claim.key, Outcome.REFUSED, "state", is_recorded=True)

    async def _declined(self, claim: Claim, charge: Charge, patience_ms: int) -> Ending:
        return await self._end(claim, charge.reason, patience_ms, is_retryable=charge.retryable)

    async def _mismatched(self, claim: Claim, charge: Charge, patience_ms: int) -> Ending:
        # Written down before the claim ends, so that nobody forgets the money; given back when nobody can sell it.
        if charge.amount > 0:
            await self._orders.open_refund(claim.attempt, charge.amount, charge.currency, AMOUNT_MISMATCH)
        ending = await self._end(claim, AMOUNT_MISMATCH, patience_ms, is_retryable=False)
        if ending.is_recorded:
            await self.give_back(claim.provider, claim.asked(), charge, AMOUNT_MISMATCH)
        return ending

    async def _end(self, claim: Claim, reason: str, patience_ms: int, *, is_retryable: bool) -> Ending:
        """Back to its buyer, or failed; recorded before it is answered, so that a repeat finds it."""
        verb = self._inventory.decline if is_retryable else self._inventory.fail

        def ending(remake: OrderDoc | None) -> Awaitable[tuple[ShopKeys, Changed]]:
            async def end(keys: ShopKeys) -> tuple[ShopKeys, Changed]:
                return keys, await verb(keys, claim.doc.order, claim.attempt, reason, remake)

            return self._shop.insist(claim.sale, end)

        try:
            keys, changed = await ending(None)
        except (OrderUnknown, OrderStateConflict):
            # Redis has no such open claim: the record says whether it has ended, or is to end now.
            row = await self._orders.get(claim.doc.order)
            state = None if row is None else row.payment_state(claim.attempt)
            if state != "pending":
                return Ending(claim.attempt, claim.key, ended_as(state), reason, is_recorded=True)
            keys, changed = await ending(claim.doc)
        verdict = await self._feed.verdict(keys, "money", changed.event_id, claim.doc.order, patience_ms)
        if _is_fenced(verdict):
            return _still_open(claim)
        # The fifth decline fails the order.
        is_over = not is_retryable or changed.state is OrderState.PAYMENT_FAILED
        return Ending(
            claim.attempt,
            claim.key,
            Outcome.FAILED if is_over else Outcome.DECLINED,
            reason,
            is_recorded=verdict.kind is VerdictKind.ACCEPTED,
            event_id=changed.event_id,
        )


def _is_fenced(verdict: Verdict) -> bool:
    """The event was written in an epoch that had ended: the claim is as open as before, in the next one."""
    return verdict.kind is VerdictKind.REFUSED and verdict.reason == "epoch"


def _still_open(claim: Claim) -> Ending:
    return Ending(claim.attempt, claim.key, Outcome.OPEN, is_recorded=True)
