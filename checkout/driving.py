"""One attempt to pay, from the pin to its end: driven by a task of the process, under a lease.

A client that hangs up stops nothing. What a task leaves behind, because its process died, its lease ended or a store
was away, the completer finishes from Postgres.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace

import stamina
import structlog

from onsale.auth.errors import StoreUnavailable
from onsale.auth.sealing import Sealer
from onsale.checkout.documents import attempt_doc
from onsale.checkout.errors import CheckoutError
from onsale.checkout.idempotency import Ending, Outcome, created_ms
from onsale.checkout.inventory import Inventory, Pin, Pinned
from onsale.checkout.ports import Charge, ChargeState
from onsale.checkout.record.watermark import RecordFeed, VerdictKind
from onsale.checkout.schemas import PaymentRequest
from onsale.checkout.settling import Claim, Lease, Settler, Shop
from onsale.lua.keys import ShopKeys

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DrivePolicy:
    """How long one process may drive an attempt, and how many it may drive at once."""

    # Two calls of a provider that does not answer; then the completer, so that a dead process delays nobody for long.
    drive_ms: int = 12_000
    # A call at its longest (1 s to connect, 5 s to answer): none is begun that could outlive the lease.
    call_ms: int = 6_500
    # How long a step waits for the record; the work itself goes on.
    patience_ms: int = 5_000
    attempts_max: int = 4_000


class Unanswered(Exception):
    """The provider has not said what became of the attempt."""


class Driver:
    """The attempts of one process; `name` is its own in the record."""

    def __init__(
        self,
        name: str,
        *,
        shop: Shop,
        inventory: Inventory,
        feed: RecordFeed,
        settler: Settler,
        sealer: Sealer,
        policy: DrivePolicy,
    ) -> None:
        self.name = name
        self._shop = shop
        self._inventory = inventory
        self._feed = feed
        self._settler = settler
        self._sealer = sealer
        self._policy = policy
        self._driving: dict[str, asyncio.Task[Ending]] = {}

    def start(self, claim: Claim, buyer: str, payment: PaymentRequest, digest: str, rev: int) -> asyncio.Task[Ending]:
        """Begin an attempt for the order as it is at `rev`. Its task answers how it ended, or which attempt the order
        has instead; it raises what `Inventory.pin` raises. Raises StoreUnavailable when too many are being driven."""
        if len(self._driving) >= self._policy.attempts_max:
            raise StoreUnavailable
        doc = attempt_doc(
            claim.attempt,
            claim.doc,
            payment,
            key=claim.key,
            digest=digest,
            driver=self.name,
            drive_ms=self._policy.drive_ms,
            sealer=self._sealer,
        )
        driving = self._drive(claim, Pin(claim.doc.order, buyer, doc, rev), payment.token)
        task = asyncio.create_task(driving, name=f"attempt {claim.attempt}")
        self._driving[claim.attempt] = task
        task.add_done_callback(lambda done: self._end(claim.attempt, done))
        return task

    def task_of(self, attempt: str) -> asyncio.Task[Ending] | None:
        """The task that drives an attempt, where this process does."""
        return self._driving.get(attempt)

    async def close(self) -> None:
        """Let every attempt finish; each ends with its lease at the latest."""
        while self._driving:
            await asyncio.wait(list(self._driving.values()))

    def _end(self, attempt: str, task: asyncio.Task[Ending]) -> None:
        del self._driving[attempt]
        # Read here, because the request that waited for it may be gone.
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, CheckoutError):
            log.warning("attempt.left", attempt=attempt, error=type(error).__name__)

    async def _drive(self, claim: Claim, pin: Pin, token: str) -> Ending:
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
            ending = await self._settler.settle(claim, charge, self._policy.patience_ms)
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
        left_s = lease.left_s
        if left_s <= 0:
            return Charge(ChargeState.UNKNOWN)
        with suppress(Unanswered):
            async for attempt in stamina.retry_context(
                on=Unanswered, attempts=None, timeout=left_s, wait_initial=0.1, wait_max=2.0
            ):
                with attempt:
                    return await self._charge_once(claim, method, token, lease)
        return Charge(ChargeState.UNKNOWN)

    async def _charge_once(self, claim: Claim, method: str, token: str, lease: Lease) -> Charge:
        if lease.left_s <= 0:
            raise Unanswered
        asked = claim.asked(method, token)
        charge = await claim.provider.charge(asked)
        if charge.state is ChargeState.UNKNOWN:
            charge = await claim.provider.find(asked)
        if charge.state is ChargeState.UNKNOWN:
            raise Unanswered
        return charge
