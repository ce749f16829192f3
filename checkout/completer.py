"""Finishes what a process left behind: one janitor for money, working from what Postgres knows.

Open claims whose driver's time is over are driven on, by the same call with the same key: the provider answers an
attempt it has made already, and "not found" is never taken for "not charged". Only an attempt that the provider has
made void ends without an answer. Refunds are asked for until they are done; units of refused claims go where they
belong; orders that Redis says are being paid, and of whose claim the record knows nothing, are let go. What a provider
told by itself is a reason to ask it: of an attempt that is open, and of one that ended, for a capture may come late.

Any number of workers may tick at once: every piece of work is under a lease, or idempotent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import structlog

from onsale.auth.errors import StoreUnavailable
from onsale.auth.sealing import SealBroken, Sealer
from onsale.catalog.sales import SaleBook
from onsale.checkout.backlog import Backlog, OpenAttempt, OpenRefund, OpenRefusal
from onsale.checkout.documents import instrument_context, sale_of
from onsale.checkout.errors import OrderStateConflict, ShopRecovering
from onsale.checkout.idempotency import Outcome
from onsale.checkout.inventory import Inventory
from onsale.checkout.orders import Orders
from onsale.checkout.ports import Attempt, Charge, ChargeState, PaymentProvider
from onsale.checkout.record.watermark import RecordFeed
from onsale.checkout.settling import Claim, Lease, Settler, Shop
from onsale.checkout.webhooks import Hint, HintOutcome, Inbox

log = structlog.get_logger()
Work = TypeVar("Work")
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class CompleterPolicy:
    """How much one tick takes, and how long it has for it."""

    batch_max: int = 50
    # Three calls at their longest (the charge, the question, the void), and a recorded step.
    drive_ms: int = 25_000
    call_ms: int = 20_000
    patience_ms: int = 2_000
    # Between two tries of an attempt that the provider does not answer.
    wait_ms: int = 2_000
    # Longer than any provider we know leaves a card-holder at a password page; then the attempt is made void.
    give_up_ms: int = 60_000
    # The process that waited for a refusal puts its units back within this.
    refusal_grace_ms: int = 2_000
    # How often a provider that says nothing is asked about an attempt that has ended.
    hint_tries_max: int = 5
    # A claim is recorded within milliseconds, and no record that takes a minute is only slow.
    stray_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class CompleteTick:
    """What one tick did. `unanswered`: attempts of which the provider still says nothing. `contradicted`: hints of
    payments that the provider took back and the record has as paid."""

    attempts: int = 0
    unanswered: int = 0
    refunds: int = 0
    refusals: int = 0
    strays: int = 0
    hints: int = 0
    contradicted: int = 0
    more: bool = False


class Completer:
    """One a worker. `backlog` names the worker as a driver."""

    def __init__(
        self,
        *,
        backlog: Backlog,
        book: SaleBook,
        inventory: Inventory,
        feed: RecordFeed,
        orders: Orders,
        providers: Mapping[str, PaymentProvider],
        sealer: Sealer,
        inbox: Inbox,
        policy: CompleterPolicy | None = None,
    ) -> None:
        self._backlog = backlog
        self._inbox = inbox
        self._book = book
        self._inventory = inventory
        self._orders = orders
        self._providers = providers
        self._sealer = sealer
        self._policy = policy or CompleterPolicy()
        self._shop = Shop(book)
        self._settler = Settler(self._shop, inventory, feed, orders)
        # Where the walk through each sale's orders stands.
        self._cursors: dict[str, str] = {}

    async def tick(self) -> CompleteTick:
        """A bounded piece of each kind of work, money first."""
        policy = self._policy
        lease = Lease(policy.drive_ms, policy.call_ms)
        attempts = await self._backlog.attempts(policy.drive_ms, policy.batch_max)
        endings = await self._each(lambda attempt: self._attempt(attempt, lease), attempts)
        refunds = await self._backlog.refunds(policy.drive_ms, policy.batch_max)
        refunded = await self._each(self._refund, refunds)
        hints = await self._inbox.take(policy.drive_ms, policy.batch_max)
        heeded = await self._each(self._hint, hints)
        refusals = await self._backlog.refusals(policy.refusal_grace_ms, policy.batch_max)
        settled = await self._each(self._refusal, refusals)
        strays = await self._each(self._strays, [sale.id for sale in self._book.sellers()])
        return CompleteTick(
            attempts=sum(endings),
            unanswered=len(attempts) - sum(endings),
            refunds=sum(refunded),
            refusals=sum(settled),
            strays=sum(strays),
            hints=len(heeded),
            contradicted=heeded.count(HintOutcome.CONTRADICTED),
            more=policy.batch_max in (len(attempts), len(refunds), len(hints), len(refusals)),
        )

    async def _each(self, work: Callable[[Work], Awaitable[Done | None]], pieces: Iterable[Work]) -> list[Done]:
        """What came of the pieces of which something came."""
        ends = await asyncio.gather(*(self._guarded(work, piece) for piece in pieces))
        return [end for end in ends if end is not None]

    async def _guarded(self, work: Callable[[Work], Awaitable[Done | None]], piece: Work) -> Done | None:
        # One piece that cannot be finished now stops no other; its lease runs out, and it is tried again.
        try:
            return await work(piece)
        except (ShopRecovering, StoreUnavailable):
            return None
        except Exception:
            log.exception("completer.stumbled", piece=_name(piece))
            return None

    async def _attempt(self, open_attempt: OpenAttempt, lease: Lease) -> int:
        """Drive one attempt on; 1 when it has ended."""
        claim = await self._claim(open_attempt.order, open_attempt.attempt, open_attempt.key, open_attempt.provider)
        # A process that was stopped in between has no lease any more.
        if lease.left_s <= 0:
            return 0
        charge = await self._charge(claim, open_attempt)
        ending = await self._settler.settle(claim, charge, self._policy.patience_ms)
        if ending.outcome is Outcome.OPEN:
            await self._backlog.wait(open_attempt.attempt, self._policy.wait_ms)
            return 0
        log.info("attempt.completed", order=open_attempt.order, attempt=ending.attempt, outcome=ending.outcome)
        return 1

    async def _claim(self, order: str, attempt: str, key: str, provider: str) -> Claim:
        row = await self._orders.get(order)
        assert row is not None, "an attempt has an order by its foreign key"
        sale = sale_of(self._book, row.order)
        return Claim(sale.id, row.doc(sale.limit_per_buyer), attempt, key, self._providers[provider])

    async def _charge(self, claim: Claim, open_attempt: OpenAttempt) -> Charge:
        token = self._token(open_attempt.attempt, open_attempt.instrument)
        asked = claim.asked(open_attempt.method, token or "")
        charge = Charge(ChargeState.UNKNOWN)
        if token is not None:
            charge = await claim.provider.charge(asked)
        if charge.state is ChargeState.UNKNOWN:
            charge = await claim.provider.find(asked)
        is_given_up = token is None or open_attempt.age_ms > self._policy.give_up_ms
        if charge.state is ChargeState.UNKNOWN and is_given_up:
            charge = await claim.provider.void(asked)
        return charge

    def _token(self, attempt: str, instrument: bytes | None) -> str | None:
        """What to pay with; None when it cannot be read any more: the attempt can then only be found or made void."""
        if instrument is None:
            return None
        try:
            return self._sealer.open(instrument, instrument_context(attempt)).decode()
        except SealBroken:
            log.error("instrument.unreadable", attempt=attempt)
            return None

    async def _hint(self, hint: Hint) -> HintOutcome | None:
        """Ask the provider about what it told; None while something is left to ask."""
        token = self._token(hint.attempt, hint.instrument) or ""
        asked = Attempt(hint.attempt, hint.order, hint.amount, hint.currency, hint.method, token)
        charge = await self._providers[hint.provider].find(asked)
        outcome = await self._heed(hint, asked, charge)
        if outcome is not None:
            await self._inbox.done(hint, outcome)
        return outcome

    async def _heed(self, hint: Hint, asked: Attempt, charge: Charge) -> HintOutcome | None:
        """Make true what the provider answers. Only asked, never charged: its driver may be at it this very moment, and
        settling is the same whoever does it."""
        if charge.state is ChargeState.UNKNOWN:
            # An open attempt is driven on in any case.
            is_over = hint.state == "pending" or hint.tries >= self._policy.hint_tries_max
            return HintOutcome.SILENT if is_over else None
        if hint.state == "pending":
            claim = await self._claim(hint.order, hint.attempt, hint.key, hint.provider)
            ending = await self._settler.settle(claim, charge, self._policy.patience_ms)
            return None if ending.outcome is Outcome.OPEN else HintOutcome.SETTLED
        if hint.is_refunding:
            return HintOutcome.AGREED
        if charge.state is ChargeState.CAPTURED and hint.state != "captured":
            log.error("capture.late", order=hint.order, attempt=hint.attempt, state=hint.state)
            await self._settler.give_back(self._providers[hint.provider], asked, charge, "late_capture")
            return HintOutcome.REFUNDED
        if charge.state is ChargeState.DECLINED and hint.state == "captured":
            log.error("capture.reversed", order=hint.order, attempt=hint.attempt, reason=charge.reason)
            return HintOutcome.CONTRADICTED
        return HintOutcome.AGREED

    async def _refund(self, refund: OpenRefund) -> int:
        provider = self._providers[refund.provider]
        asked = Attempt(refund.attempt, refund.order, refund.charged, refund.currency, refund.method)
        is_done = await provider.refund(asked, key=refund.refund, amount=refund.amount, currency=refund.currency)
        return int(is_done and await self._orders.close_refund(refund.refund))

    async def _refusal(self, refusal: OpenRefusal) -> int:
        # After a rebuild nothing is left to undo: it counted what the record has.
        if refusal.epoch == self._shop.keys(refusal.sale).epoch:
            await self._put_back(refusal)
        await self._orders.settle_refusal(refusal.order, refusal.event_id)
        return 1

    async def _put_back(self, refusal: OpenRefusal) -> None:
        view = await self._shop.ask(refusal.sale, lambda keys: self._inventory.look(keys, refusal.order))
        attempts = () if view is None else view.attempts
        attempt = next((a.attempt for a in attempts if refusal.event_id in (a.event_id, a.end_event_id)), None)
        if attempt is None:
            return
        order, reason, event_id = refusal.order, refusal.reason, refusal.event_id
        try:
            await self._shop.ask(
                refusal.sale, lambda keys: self._inventory.refuse(keys, order, attempt, reason, event_id)
            )
        except OrderStateConflict:
            # That attempt ended otherwise in Redis: the audit compares the two stores, a rebuild makes them one.
            log.error("refusal.contradicted", order=order, attempt=attempt, reason=reason)
            return
        await self._backlog.end_stray(order)

    async def _strays(self, sale: str) -> int:
        keys = self._shop.keys(sale)
        cursor = self._cursors.get(sale, "0")
        self._cursors[sale], claiming = await self._inventory.claiming(keys, cursor, self._policy.stray_ms)
        if not claiming:
            return 0
        strays = await self._backlog.strays(keys, claiming)
        for stray in strays:
            log.error("claim.lost", order=stray.order, attempt=stray.attempt, event_id=stray.event_id)
            await self._inventory.refuse(keys, stray.order, stray.attempt, "state")
            await self._backlog.end_stray(stray.order)
        return len(strays)


def _name(piece: object) -> str:
    """A piece of work without what is sealed in it."""
    return piece if isinstance(piece, str) else str(getattr(piece, "order", getattr(piece, "refund", "")))
