"""The four providers behind one handle: what a test does to any of them, each on a server of its own."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestServer
from provider_fakes import Entry, Fake, FakePortone, FakeStripe, FakeToss

from onsale.checkout.ports import Attempt, Charge, ChargeState, Method
from onsale.checkout.providers import Guarded, ProviderClient
from onsale.checkout.providers.credentials import Credentials
from onsale.checkout.providers.portone import PortoneProvider
from onsale.checkout.providers.sandbox import SandboxProvider
from onsale.checkout.providers.sandbox_server import BOOKS, create_sandbox
from onsale.checkout.providers.signatures import sign_standard, sign_stripe
from onsale.checkout.providers.stripe import StripeProvider
from onsale.checkout.providers.toss import TossProvider
from onsale.checkout.providers.wire import WirePolicy

NAMES = ("sandbox", "portone", "toss", "stripe")
SECRET, OLD_SECRET = b"current webhook secret", b"the one before"
ORDER, AMOUNT = "order-1", 1_000
READ_TIMEOUT_S = 0.4
Signed = tuple[dict[str, str], bytes]
# What the sandbox calls what a fake's books call by the card.
SANDBOX = {
    "funds": "decline_funds", "expired": "decline_card_expired", "limit": "decline_limit", "stolen": "fail_refused",
    "lost": "lost_reply", "hang": "slow_900", "silent": "timeout",
}  # fmt: skip


@dataclass
class Rig:
    """One provider: its adapter behind a breaker, and what a stranger sees in its books."""

    name: str
    server: TestServer
    client: ProviderClient
    guarded: Guarded
    fake: Fake | None

    def asked(
        self, behaviour: str = "ok", attempt: str = "attempt-1", *, order: str = ORDER, amount: int = AMOUNT
    ) -> Attempt:
        """A try to pay that will end so."""
        return Attempt(attempt, order, amount, "KRW", Method.CARD, self.token(behaviour, order, amount))

    def token(self, behaviour: str, order: str = ORDER, amount: int = AMOUNT) -> str:
        """What a page would have been given for such a card."""
        match self.fake:
            case FakeToss() as toss:
                return toss.authenticate(order, amount, behaviour)
            case FakeStripe():
                return f"pm_{behaviour}"
            case FakePortone():
                return f"billing-key-{behaviour}"
        return SANDBOX.get(behaviour, behaviour)

    async def charge(self, asked: Attempt) -> Charge:
        """As a driver asks: what was not answered is looked up."""
        charge = await self.guarded.charge(asked)
        return charge if charge.state is not ChargeState.UNKNOWN else await self.guarded.find(asked)

    def captures(self) -> list[tuple[int, int]]:
        """Amounts taken, and how much of each was given back."""
        if self.fake is not None:
            return [(entry.amount, entry.refunded) for entry in self.fake.captured()]
        return [(one.amount, one.refunded_amount) for one in self.server.app[BOOKS].captures(None)]

    def keys(self, path: str) -> list[str]:
        """The idempotency keys of calls whose path ends so."""
        assert self.fake is not None
        return [call.key for call in self.fake.calls if call.path.endswith(path)]

    def event(
        self, attempt: str, *, secret: bytes = SECRET, at_s: float | None = None, event_id: str = "evt-1"
    ) -> Signed:
        """A webhook about an attempt, as the provider sends it."""
        at = int(time.time() if at_s is None else at_s)
        match self.fake:
            case FakeToss() as toss:
                raw = _json(toss.event(_entry(toss, lambda entry: entry.order == ORDER)))
                return {
                    "tosspayments-webhook-transmission-id": event_id,
                    "tosspayments-webhook-transmission-time": datetime.fromtimestamp(at, UTC).isoformat(),
                    "tosspayments-webhook-transmission-retried-count": "0",
                }, raw
            case FakeStripe() as stripe:
                raw = _json(stripe.event(_entry(stripe, lambda entry: entry.attempt == attempt), event_id))
                return {"Stripe-Signature": f"t={at},{sign_stripe(at, raw, secret)},v0=old"}, raw
            case FakePortone() as portone:
                raw = _json(portone.event(portone.entries[attempt]))
            case _:
                raw = _json({"type": "charge.captured", "data": {"attempt": attempt}})
        headers = {"webhook-id": event_id, "webhook-timestamp": str(at)}
        return {**headers, "webhook-signature": sign_standard(event_id, at, raw, secret)}, raw


@asynccontextmanager
async def rig_of(name: str, folder: Path, *, read_timeout_s: float = READ_TIMEOUT_S) -> AsyncIterator[Rig]:
    """One of NAMES, on loopback."""
    policy = WirePolicy(read_timeout_s=read_timeout_s)
    fake: Fake | None = None
    client: ProviderClient
    make: Callable[[Credentials, WirePolicy], ProviderClient]
    match name:
        case "stripe":
            fake, make = FakeStripe(), StripeProvider
        case "toss":
            fake, make = FakeToss(), TossProvider
        case "portone":
            fake, make = FakePortone(), PortoneProvider
        case _:
            make = SandboxProvider
    server = TestServer(create_sandbox(folder / "sandbox") if fake is None else fake.app)
    await server.start_server()
    secret = getattr(fake, "secret", "")
    client = make(Credentials(str(server.make_url("")), secret, (SECRET, OLD_SECRET)), policy)
    yield Rig(name, server, client, Guarded(client, open_s=0.0), fake)
    await client.close()
    await server.close()


def _entry(fake: Fake, is_meant: Callable[[Entry], bool]) -> Entry:
    return next(entry for entry in fake.entries.values() if is_meant(entry))


def _json(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
