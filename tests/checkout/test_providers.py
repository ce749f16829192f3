"""The adapter and its breaker: what is said of a provider that answers, hangs, breaks off, or is not there."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from flow_kit import Sandbox

from onsale.checkout.ports import Attempt, Charge, ChargeState, Method
from onsale.checkout.providers import Guarded, NoReply, NotReached, ProviderWatch, WatchTick
from onsale.checkout.providers.credentials import Credentials
from onsale.checkout.providers.sandbox import SandboxProvider
from onsale.checkout.providers.sandbox_server import create_sandbox
from onsale.checkout.providers.wire import CONNECTIONS_FIRST, CONNECTIONS_MAX, WirePolicy


def asked(attempt: str = "a1", token: str = "ok") -> Attempt:
    return Attempt(attempt, "o1", 500, "KRW", Method.CARD, token)


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("ok", Charge(ChargeState.CAPTURED, amount=500, currency="KRW", reference="a1")),
        ("slow_20", Charge(ChargeState.CAPTURED, amount=500, currency="KRW", reference="a1")),
        ("decline_funds", Charge(ChargeState.DECLINED, "funds", True, 500, "KRW", "a1")),
        ("fail_network", Charge(ChargeState.DECLINED, "network", False, 500, "KRW", "a1")),
    ],
)
async def test_answers_are_translated(sandbox: Sandbox, token: str, expected: Charge) -> None:
    """State, reason, amount and reference as the port has them; the same when it is asked what became of it."""
    charge = await sandbox.client.charge(asked("a1", token))

    assert expected == charge
    assert expected == await sandbox.client.find(asked("a1"))


async def test_unknown_attempt_is_unknown(sandbox: Sandbox) -> None:
    """Not found says nothing."""
    assert ChargeState.UNKNOWN is (await sandbox.client.find(asked("never"))).state


async def test_void_is_final(sandbox: Sandbox) -> None:
    """A voided attempt is declined, and so is the charge that comes late; one that was captured stays captured."""
    await sandbox.client.charge(asked("paid", "ok"))

    voided = await sandbox.client.void(asked("a1"))
    late = await sandbox.client.charge(asked("a1", "ok"))

    assert [ChargeState.DECLINED] * 2 == [voided.state, late.state]
    assert ChargeState.CAPTURED is (await sandbox.client.void(asked("paid"))).state


async def test_silence_and_broken_connections_are_no_reply(sandbox: Sandbox) -> None:
    """What was sent and not answered may have been done."""
    with pytest.raises(NoReply):
        await sandbox.client.charge(asked("a1", "timeout"))
    with pytest.raises(NoReply):
        await sandbox.client.charge(asked("a2", "lost_reply"))

    assert ChargeState.CAPTURED is (await sandbox.client.find(asked("a2"))).state


async def test_nobody_there_is_not_reached() -> None:
    """A refused connection sent nothing."""
    client = SandboxProvider(Credentials(f"http://127.0.0.1:{unused_port()}"))
    with pytest.raises(NotReached):
        await client.find(asked("a1"))
    await client.close()


async def test_refund_is_done_once(sandbox: Sandbox) -> None:
    """The same key again is done; more than was taken is not."""
    await sandbox.client.charge(asked("a1", "ok"))

    assert [True, True, False] == [
        await sandbox.client.refund(asked(), key=key, amount=500, currency="KRW") for key in ("r", "r", "other")
    ]
    [charge] = await sandbox.charges("o1")
    assert charge["refunded_at"]


@dataclass
class Moody:
    """A provider in the mood that a test sets."""

    name = "sandbox"
    methods = frozenset(Method)
    mood: Exception | None = None
    asked: int = 0

    async def _answer(self) -> Charge:
        self.asked += 1
        if self.mood is not None:
            raise self.mood
        return Charge(ChargeState.CAPTURED)

    async def charge(self, asked: Attempt) -> Charge:
        return await self._answer()

    async def find(self, asked: Attempt) -> Charge:
        return await self._answer()

    async def void(self, asked: Attempt) -> Charge:
        return await self._answer()

    async def refund(self, asked: Attempt, *, key: str, amount: int, currency: str) -> bool:
        await self._answer()
        return True

    def read_event(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> None:
        return None

    async def close(self) -> None:
        pass


async def charge(guarded: Guarded) -> ChargeState:
    return (await guarded.charge(asked("a1", "ok"))).state


async def test_a_call_does_not_wait_for_a_connection_beyond_its_time(sandbox: Sandbox) -> None:
    """While others hold every connection nothing is sent: a call begun within a lease ends within it."""
    client = SandboxProvider(Credentials(sandbox.url), WirePolicy(connect_timeout_s=0.05, connections_max=1))
    slow = asyncio.create_task(client.charge(asked("first", "slow_400")))
    await asyncio.sleep(0)
    with pytest.raises(NotReached):
        await client.charge(asked("second", "ok"))

    assert ChargeState.CAPTURED is (await slow).state
    assert ChargeState.UNKNOWN is (await client.find(asked("second"))).state
    await client.close()


@pytest.mark.parametrize("mood", [NotReached, NoReply])
async def test_failures_are_unknown_never_errors(mood: type[Exception]) -> None:
    """The port never raises for the network."""
    guarded = Guarded(Moody(mood()))

    assert ChargeState.UNKNOWN is await charge(guarded)
    assert ChargeState.UNKNOWN is (await guarded.find(asked("a1"))).state
    assert ChargeState.UNKNOWN is (await guarded.void(asked("a1"))).state
    assert not await guarded.refund(asked(), key="r", amount=1, currency="KRW")


async def test_breaker_opens_after_failures_in_a_row() -> None:
    """Five in a row; an answer in between begins the count anew."""
    moody = Moody(NotReached())
    guarded = Guarded(moody)
    for mood in [NotReached()] * 2 + [None] + [NotReached()] * 4:
        moody.mood = mood
        await charge(guarded)
    assert not guarded.is_away

    await charge(guarded)
    assert guarded.is_away


async def test_hanging_charges_do_not_open_the_breaker() -> None:
    """Cards that hang say nothing about the provider; questions that nobody answers do."""
    guarded = Guarded(Moody(NoReply()))
    for _ in range(20):
        await charge(guarded)
    assert not guarded.is_away

    for _ in range(5):
        await guarded.find(asked("a1"))
    assert guarded.is_away


async def test_a_probe_closes_the_breaker() -> None:
    """Once the provider answers a question, it is back."""
    moody = Moody(NotReached())
    guarded = Guarded(moody, open_s=0.0)
    for _ in range(5):
        await charge(guarded)
    assert not await guarded.probe()
    assert guarded.is_away

    moody.mood = None
    assert await guarded.probe()
    assert not guarded.is_away


@dataclass
class Book:
    """Sales as the watch sees them."""

    sales: list[Any]

    def all(self) -> tuple[Any, ...]:
        return tuple(self.sales)


@dataclass
class Line:
    """Holders by sale; the book shows them, as the real one does half a second later."""

    holders: dict[str, set[str]] = field(default_factory=dict)

    @dataclass
    class View:
        id: str
        holders: set[str]
        closed: bool = False

        @property
        def paused_by(self) -> tuple[str, ...]:
            return tuple(self.holders)

    def open(self, *sales: str) -> Book:
        self.holders = {sale: set() for sale in sales}
        return Book([self.View(sale, self.holders[sale]) for sale in sales])

    async def pause(self, sale: str, holder: str) -> None:
        self.holders[sale].add(holder)

    async def resume(self, sale: str, holder: str) -> None:
        self.holders[sale].discard(holder)


async def test_lines_wait_while_the_provider_is_away() -> None:
    """Paused in the name "provider" and let go on by that name; an operator's stop stays."""
    moody, line = Moody(NotReached()), Line()
    guarded = Guarded(moody, open_s=0.0)
    watch = ProviderWatch([guarded], line, line.open("a", "b"))  # type: ignore[arg-type]
    await line.pause("b", "operator")
    assert WatchTick() == await watch.tick()
    assert 0 == moody.asked

    for _ in range(5):
        await charge(guarded)
    assert ("a", "b") == (await watch.tick()).paused
    assert {"a": {"provider"}, "b": {"operator", "provider"}} == line.holders
    assert WatchTick() == await watch.tick()

    moody.mood = None
    assert ("a", "b") == (await watch.tick()).resumed
    assert {"a": set(), "b": {"operator"}} == line.holders


async def test_pause_of_a_dead_process_is_lifted_by_another() -> None:
    """Whoever can reach the provider lets the line go on."""
    line = Line()
    book = line.open("a")
    await line.pause("a", "provider")

    tick = await ProviderWatch([Guarded(Moody())], line, book).tick()  # type: ignore[arg-type]

    assert ("a",) == tick.resumed


async def test_provider_that_dies_and_comes_back(tmp_path: Path) -> None:
    """A real server: killed it is away within five calls, started again it is back at the next probe."""
    port = unused_port()
    guarded = Guarded(SandboxProvider(Credentials(f"http://127.0.0.1:{port}")), open_s=0.0)
    server = TestServer(create_sandbox(tmp_path), port=port)
    await server.start_server()
    assert ChargeState.CAPTURED is await charge(guarded)
    await server.close()

    began_s = time.monotonic()
    for _ in range(6):
        await guarded.find(asked("a1"))
    assert guarded.is_away
    assert time.monotonic() - began_s < 5

    server = TestServer(create_sandbox(tmp_path), port=port)
    await server.start_server()
    assert await guarded.probe()
    assert not guarded.is_away
    assert ChargeState.CAPTURED is (await guarded.find(asked("a1"))).state
    await guarded._client.close()  # type: ignore[attr-defined]
    await server.close()


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of a server that greets nobody: its queue is full, and whoever else comes is not answered."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for caller in callers:
            caller.close()


@pytest.mark.parametrize(("busy_s", "is_away"), [(0.0, True), (0.8, False)])
async def test_what_we_were_too_busy_for_does_not_open_the_breaker(deaf: str, busy_s: float, is_away: bool) -> None:
    """Forty calls find no connection in time: that is the provider's silence, unless our own loop stood still."""
    client = SandboxProvider(Credentials(deaf), WirePolicy(connect_timeout_s=0.4))
    guarded = Guarded(client)
    calls = [asyncio.create_task(guarded.find(asked(f"a{number}"))) for number in range(40)]
    while not client._wire._beat._calls:
        await asyncio.sleep(0)
    time.sleep(busy_s)
    charges = await asyncio.gather(*calls)
    await client.close()

    assert {ChargeState.UNKNOWN} == {charge.state for charge in charges}
    assert is_away == guarded.is_away


async def test_connections_grow_with_answers() -> None:
    """A crowd that comes at once opens few connections; every answer lets more of it through, and all are served."""
    most = running = served = 0
    may_answer = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        nonlocal most, running, served
        running += 1
        most = max(most, running)
        await may_answer.wait()
        running -= 1
        served += 1
        return web.Response(status=404)

    app = web.Application()
    app.router.add_get("/attempts/{attempt}", answer)
    server = TestServer(app)
    await server.start_server()
    client = SandboxProvider(Credentials(str(server.make_url(""))))
    calls = [asyncio.create_task(client.find(asked(f"a{number}"))) for number in range(400)]
    while running < CONNECTIONS_FIRST:
        await asyncio.sleep(0.001)
    for _ in range(20):
        await asyncio.sleep(0)
    first = most
    may_answer.set()
    await asyncio.gather(*calls)
    await client.close()
    await server.close()

    assert (CONNECTIONS_FIRST, 400) == (first, served)
    assert CONNECTIONS_MAX >= most
