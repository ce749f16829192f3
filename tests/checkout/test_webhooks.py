"""Webhooks: kept once, answered at once, believed by nobody; the completer asks, and states move forward only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, unused_port
from flow_kit import PRICE, Checkout, Fate, Sandbox

from onsale.checkout import handlers
from onsale.checkout.errors import EventUnreadable, ProviderUnknown, SignatureInvalid
from onsale.checkout.ports import Attempt, Charge, ChargeState, Method
from onsale.checkout.providers import Guarded
from onsale.checkout.providers.chaos import Chaos, Mishap
from onsale.checkout.providers.credentials import Credentials
from onsale.checkout.providers.hooks import Hook, Hooks, hook
from onsale.checkout.providers.sandbox import SandboxProvider
from onsale.checkout.providers.signatures import sign_standard
from onsale.checkout.states import OrderState
from onsale.checkout.webhooks import Inbox
from onsale.server.problems import problem_response
from onsale.server.routes import ROUTES

SECRET = b"a secret of the sandbox's own"


@pytest.fixture
async def inbox(checkout: Checkout) -> AsyncIterator[Inbox]:
    """An inbox that knows the sandbox's secret."""
    client = SandboxProvider(Credentials(checkout.sandbox.url, webhook_secrets=(SECRET,)))
    yield Inbox(checkout.pool, {"sandbox": Guarded(client)})
    await client.close()


async def tell(inbox: Inbox, attempt: str, kind: str = "charge.captured", event_id: str = "evt-1") -> bool:
    """The sandbox says so."""
    told = Hook(event_id, hook(kind, attempt).body)
    at_s = time.time()
    signature = sign_standard(event_id, int(at_s), told.body, SECRET)
    headers = {"webhook-id": event_id, "webhook-timestamp": str(int(at_s)), "webhook-signature": signature}
    return await inbox.receive("sandbox", headers, told.body, at_s)


async def make_due(checkout: Checkout) -> None:
    await checkout.pool.execute("UPDATE provider_events SET due_at = now() - interval '1 s'")


async def outcomes(checkout: Checkout) -> list[Any]:
    return [
        row["outcome"] for row in await checkout.pool.fetch("SELECT outcome FROM provider_events ORDER BY event_id")
    ]


async def attempt_of(checkout: Checkout, order: str) -> str:
    return (await checkout.row(order)).payments[-1].payment


async def die(process: Checkout, order: str, token: str = "ok") -> None:
    """Confirm in a process that meets its fate."""
    with pytest.raises(asyncio.CancelledError):
        await process.confirm("ann", order, token)


async def test_an_event_is_kept_once(checkout: Checkout, inbox: Inbox) -> None:
    """However often and at once it is sent."""
    order = await checkout.bought("ann")
    attempt = await attempt_of(checkout, order)

    kept = await asyncio.gather(*(tell(inbox, attempt) for _ in range(10)))

    assert 1 == sum(kept)
    assert 1 == await checkout.pool.fetchval("SELECT count(*) FROM provider_events")


async def test_what_is_about_nothing_of_ours_is_not_kept(checkout: Checkout, inbox: Inbox) -> None:
    """Whoever can sign, or need not, cannot fill the inbox with payments that we never made."""
    assert not await tell(inbox, "of another shop")
    assert 0 == await checkout.pool.fetchval("SELECT count(*) FROM provider_events")


async def test_an_event_finishes_what_a_dead_process_left(checkout: Checkout, inbox: Inbox) -> None:
    """Charged, the process died, its lease has long to run: the event is reason enough to ask."""
    process = checkout.another(fate=Fate("after charge"))
    held = await process.reserve("ann")
    await die(process, held.order)
    attempt = await attempt_of(checkout, held.order)
    await tell(inbox, attempt)
    assert 0 == (await checkout.completer.tick()).hints

    await make_due(checkout)
    tick = await checkout.completer.tick()

    assert (1, 0) == (tick.hints, tick.attempts)
    assert OrderState.CONFIRMED is (await checkout.row(held.order)).state
    assert ["settled"] == await outcomes(checkout)
    assert 1 == len(await checkout.sandbox.charges(held.order))


@pytest.mark.parametrize("kinds", [("charge.declined",), ("charge.captured", "charge.declined"), ("charge.refunded",)])
async def test_an_event_that_lies_moves_nothing(checkout: Checkout, inbox: Inbox, kinds: tuple[str, ...]) -> None:
    """Bought and paid; events say otherwise, in any order: the provider is asked, and it agrees with us."""
    order = await checkout.bought("ann")
    attempt = await attempt_of(checkout, order)
    for number, kind in enumerate(kinds):
        await tell(inbox, attempt, kind, f"evt-{number}")
    await make_due(checkout)

    await checkout.completer.tick()

    assert OrderState.CONFIRMED is (await checkout.row(order)).state
    assert ["agreed"] * len(kinds) == await outcomes(checkout)
    assert {"free": 9, "sold": 1} == await checkout.units()


async def test_done_before_it_was_aborted(checkout: Checkout, inbox: Inbox) -> None:
    """ "Captured", says the event; nothing was: the order is not sold on a rumour."""
    process = checkout.another(fate=Fate("after charge"))
    held = await process.reserve("ann")
    await die(process, held.order, "decline_funds")
    await tell(inbox, await attempt_of(checkout, held.order), "charge.captured")
    await make_due(checkout)

    await checkout.completer.tick()

    row = await checkout.row(held.order)
    assert (OrderState.RESERVED, "declined", "funds") == (row.state, row.payments[0].state, row.payments[0].reason)
    assert {"free": 9, "held": 1} == await checkout.units()


class Late(Guarded):
    """A provider whose answers a test sets; the rest is the sandbox."""

    def __init__(self, sandbox: Sandbox, answer: Charge) -> None:
        super().__init__(sandbox.client)
        self.answer = answer
        self.given_back: list[tuple[str, int]] = []

    async def find(self, asked: Attempt) -> Charge:
        return self.answer

    async def refund(self, asked: Attempt, *, key: str, amount: int, currency: str) -> bool:
        self.given_back.append((key, amount))
        return True


async def test_a_capture_that_comes_after_the_end_is_given_back(checkout: Checkout, inbox: Inbox) -> None:
    """Declined and failed, says the record; then the provider took the money after all: back it goes, once."""
    late = Late(checkout.sandbox, Charge(ChargeState.CAPTURED, amount=PRICE, currency="KRW"))
    process = checkout.another(fate=Fate("after fail"))
    held = await process.reserve("ann")
    await die(process, held.order, "fail_other")
    attempt = await attempt_of(checkout, held.order)
    await checkout.stop_record()
    await checkout.record()
    await tell(inbox, attempt)
    await tell(inbox, attempt, event_id="evt-2")
    await make_due(checkout)

    worker = checkout.another(provider=late)
    for _ in range(3):
        await worker.completer.tick()

    assert {(f"{attempt}-refund", PRICE)} == set(late.given_back)
    row = await checkout.row(held.order)
    assert (OrderState.PAYMENT_FAILED, "refunded") == (row.state, row.payments[0].state)
    assert 1 == await checkout.pool.fetchval("SELECT count(*) FROM refunds WHERE state = 'done'")
    assert None not in await outcomes(checkout)


async def test_a_capture_that_was_taken_back_is_left_to_people(checkout: Checkout, inbox: Inbox) -> None:
    """The provider reversed what the record has as paid: said so, and no state moves backwards."""
    order = await checkout.bought("ann")
    reversed_ = Late(checkout.sandbox, Charge(ChargeState.DECLINED, "reversed"))
    await tell(inbox, await attempt_of(checkout, order))
    await make_due(checkout)

    tick = await checkout.another(provider=reversed_).completer.tick()

    assert (1, 1) == (tick.hints, tick.contradicted)
    assert ["contradicted"] == await outcomes(checkout)
    assert OrderState.CONFIRMED is (await checkout.row(order)).state


async def test_a_silent_provider_is_asked_a_few_times(checkout: Checkout, inbox: Inbox) -> None:
    """Of an attempt that ended it need not say more; the hint does not stay for ever."""
    order = await checkout.bought("ann")
    silent = Late(checkout.sandbox, Charge(ChargeState.UNKNOWN))
    await tell(inbox, await attempt_of(checkout, order))
    worker = checkout.another(provider=silent)
    hints = 0
    for _ in range(5):
        await make_due(checkout)
        hints += (await worker.completer.tick()).hints

    assert 1 == hints
    assert ["silent"] == await outcomes(checkout)


async def test_two_workers_share_the_hints(checkout: Checkout, inbox: Inbox) -> None:
    """Each is asked about once."""
    orders = [await checkout.bought(buyer) for buyer in ("ann", "bob", "cat")]
    for number, order in enumerate(orders):
        await tell(inbox, await attempt_of(checkout, order), event_id=f"evt-{number}")
    await make_due(checkout)

    ticks = await asyncio.gather(checkout.completer.tick(), checkout.another().completer.tick())

    assert 3 == sum(tick.hints for tick in ticks)


async def test_unknown_provider_and_nonsense(inbox: Inbox) -> None:
    """Each is refused for what it is."""
    with pytest.raises(ProviderUnknown):
        await inbox.receive("nobody", {}, b"{}", time.time())
    with pytest.raises(SignatureInvalid):
        await inbox.receive("sandbox", {}, b"{}", time.time())
    at_s = int(time.time())
    for raw in (b"", b"{", b"[]", b'{"type": 1}', b"\xff", b"[" * 5000):
        headers = {
            "webhook-id": "e",
            "webhook-timestamp": str(at_s),
            "webhook-signature": sign_standard("e", at_s, raw, SECRET),
        }
        with pytest.raises(EventUnreadable):
            await inbox.receive("sandbox", headers, raw, at_s)


async def test_what_was_handled_long_ago_is_forgotten(checkout: Checkout, inbox: Inbox) -> None:
    """A month later nobody sends it again; what is open stays."""
    attempt = await attempt_of(checkout, await checkout.bought("ann"))
    await tell(inbox, attempt, event_id="old")
    await tell(inbox, attempt, event_id="open")
    await checkout.pool.execute(
        "UPDATE provider_events SET handled_at = now() - interval '31 days', outcome = 'agreed' WHERE event_id = 'old'"
    )

    assert (1, 0) == (await inbox.forget(), await inbox.forget())
    assert "open" == await checkout.pool.fetchval("SELECT event_id FROM provider_events")


@web.middleware
async def problems(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:
        return problem_response(error, language="en", request_id="r")


async def test_the_sandbox_tells_over_http(checkout: Checkout, inbox: Inbox) -> None:
    """A lost reply is told of, signed, and taken with 200; the same again is 200 and kept once; a forgery is 403."""
    route = next(route for route in ROUTES if route.handler is handlers.provider_event)
    app = web.Application(middlewares=[problems])
    app.router.add_route(route.method, route.path, route.handler)
    app[handlers.INBOX] = inbox
    order = await checkout.bought("ann")
    told = hook("charge.captured", await attempt_of(checkout, order))
    async with TestClient(TestServer(app)) as http:
        hooks = Hooks(str(http.make_url("/v1/provider-events/sandbox")), SECRET)
        hooks.start()
        assert await hooks.send(told)
        assert await hooks.send(told)
        await hooks.close()
        forged = await http.post("/v1/provider-events/sandbox", data=told.body, headers={"webhook-id": told.event_id})

    assert 403 == forged.status
    assert [told.event_id] == [
        row["event_id"] for row in await checkout.pool.fetch("SELECT event_id FROM provider_events")
    ]


async def test_hooks_that_nobody_takes() -> None:
    """A shop that is away loses hints, and the sandbox is not held up by it."""
    hooks = Hooks(f"http://127.0.0.1:{unused_port()}/", SECRET)
    hooks.start()
    for _ in range(30_000):
        hooks.tell(hook("charge.captured", "a"))
    assert not await hooks.send(hook("charge.captured", "a"))
    await hooks.close()


def test_mishaps_come_in_their_shares() -> None:
    """5 % each, 1 % and 2 %, by the seed; the same attempt always meets the same."""
    chaos = Chaos(7)
    found = [chaos.mishap(f"attempt-{number}") for number in range(20_000)]

    shares = {mishap: round(found.count(mishap) / 200, 0) for mishap in Mishap}
    assert {
        Mishap.NONE: 82,
        Mishap.SILENCE: 5,
        Mishap.EARLY: 5,
        Mishap.DOUBLE: 5,
        Mishap.ABORTED: 1,
        Mishap.LATE: 2,
    } == shares
    assert found[:100] == [Chaos(7).mishap(f"attempt-{number}") for number in range(100)]
    assert found != [Chaos(8).mishap(f"attempt-{number}") for number in range(20_000)]


def test_methods_are_a_closed_list() -> None:
    """What a request may say, and what each provider offers of it."""
    assert {"card", "bank_transfer", "mobile", "wallet"} == set(Method)
    attempt = Attempt("a", "o", 1, "KRW")
    assert replace(attempt, method=Method.WALLET).method == "wallet"
