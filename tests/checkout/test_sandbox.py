"""The sandbox provider over HTTP: each token's behaviour, one result an attempt, and books that survive its death."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from onsale.checkout.providers.sandbox_server import JOURNAL, create_sandbox

Start = Callable[[], Awaitable[TestServer]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a sandbox on the test's one folder; started again, it has the books of the one before."""
    servers: list[TestServer] = []

    async def begin() -> TestServer:
        for server in servers:
            await server.close()
        server = TestServer(create_sandbox(tmp_path / "sandbox"))
        await server.start_server()
        servers.append(server)
        return server

    yield begin
    for server in servers:
        await server.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_read=0.5)) as client:
        yield client


def asked(token: str, *, attempt: str = "a1", amount: int = 500) -> dict[str, Any]:
    return {
        "attempt": attempt,
        "order": "o1",
        "amount": amount,
        "currency": "KRW",
        "method": "card",
        "token": token,
    }


async def charge(session: aiohttp.ClientSession, server: TestServer, body: dict[str, Any]) -> tuple[int, Any]:
    async with session.post(server.make_url("/charges"), json=body) as reply:
        return reply.status, await reply.json(content_type=None)


async def charges(session: aiohttp.ClientSession, server: TestServer, order: str = "o1") -> list[dict[str, Any]]:
    async with session.get(server.make_url("/charges"), params={"order": order}) as reply:
        items: list[dict[str, Any]] = (await reply.json())["items"]
        return items


@pytest.mark.parametrize(
    ("token", "state", "reason", "is_retryable"),
    [
        ("ok", "captured", "", False),
        ("slow_5", "captured", "", False),
        ("decline_funds", "declined", "funds", True),
        ("decline_card_expired", "declined", "card_expired", True),
        ("decline_limit", "declined", "limit", True),
        ("fail_provider", "declined", "provider", False),
        ("fail_network", "declined", "network", False),
        ("fail_other", "declined", "other", False),
        ("cancelled_by_buyer", "declined", "cancelled_by_buyer", False),
        ("nonsense", "declined", "token_unknown", False),
    ],
)
async def test_token_says_what_happens(
    start: Start, session: aiohttp.ClientSession, token: str, state: str, reason: str, is_retryable: bool
) -> None:
    """Each token has its result, and only captures are in the books."""
    server = await start()

    _, result = await charge(session, server, asked(token))

    assert (state, reason, is_retryable) == (result["state"], result["reason"], result["retryable"])
    assert (1 if state == "captured" else 0) == len(await charges(session, server))


async def test_repeated_attempt_charges_once(start: Start, session: aiohttp.ClientSession) -> None:
    """Twenty calls of one attempt at once, slow ones, are one charge with one answer."""
    server = await start()

    answers = await asyncio.gather(*(charge(session, server, asked("slow_50")) for _ in range(20)))

    assert all(answer == answers[0] for answer in answers)
    assert 1 == len(await charges(session, server))


async def test_attempt_with_another_amount_is_refused(start: Start, session: aiohttp.ClientSession) -> None:
    """An attempt's id stands for one order and amount."""
    server = await start()
    await charge(session, server, asked("ok"))

    status, _ = await charge(session, server, asked("ok", amount=501))

    assert 409 == status


async def test_lost_reply_charges_then_repeats_its_answer(start: Start, session: aiohttp.ClientSession) -> None:
    """The first call breaks off after the charge; the same call again is told of that same charge."""
    server = await start()

    with pytest.raises(aiohttp.ClientError):
        await charge(session, server, asked("lost_reply"))
    before = await charges(session, server)
    _, result = await charge(session, server, asked("lost_reply"))

    assert "captured" == result["state"]
    assert before == await charges(session, server)
    assert ["a1"] == [item["key"] for item in before]


async def test_timeout_never_answers_and_never_charges(start: Start, session: aiohttp.ClientSession) -> None:
    """The caller's patience ends it; nothing is in the books."""
    server = await start()

    with pytest.raises(TimeoutError):
        await charge(session, server, asked("timeout"))

    assert [] == await charges(session, server)


async def test_voided_attempt_never_charges(start: Start, session: aiohttp.ClientSession) -> None:
    """A void is final: the slow call that comes after it is declined."""
    server = await start()

    async with session.post(server.make_url("/voids"), json={"attempt": "a1"}) as reply:
        voided = await reply.json()
    _, late = await charge(session, server, asked("ok"))

    assert ("declined", "timeout", True) == (voided["state"], voided["reason"], voided["retryable"])
    assert "declined" == late["state"]
    assert [] == await charges(session, server)


async def test_void_of_a_charge_tells_of_it(start: Start, session: aiohttp.ClientSession) -> None:
    """What was captured stays captured."""
    server = await start()
    await charge(session, server, asked("ok"))

    async with session.post(server.make_url("/voids"), json={"attempt": "a1"}) as reply:
        assert "captured" == (await reply.json())["state"]


async def test_books_survive(start: Start, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """A charge, a refund and a decline are there after a restart, even when the last line is torn."""
    server = await start()
    _, first = await charge(session, server, asked("ok"))
    await charge(session, server, asked("decline_funds", attempt="a2"))
    refund = {"attempt": "a1", "key": "r1", "amount": 200, "currency": "KRW"}
    await session.post(server.make_url("/refunds"), json=refund)
    with (tmp_path / "sandbox" / JOURNAL).open("ab") as journal:
        journal.write(b'{"type":"result","attempt":"a3","ord')

    server = await start()
    _, again = await charge(session, server, asked("ok"))
    _, declined = await charge(session, server, asked("ok", attempt="a2"))
    [judged] = await charges(session, server)

    assert first == again
    assert "declined" == declined["state"]
    assert (200, "a1") == (judged["refunded_amount"], judged["key"])
    assert judged["refunded_at"] is not None


async def test_refund_happens_once_a_key(start: Start, session: aiohttp.ClientSession) -> None:
    """Repeats of a key give the money back once, and no more can be given back than was taken."""
    server = await start()
    await charge(session, server, asked("ok"))

    async def give(key: str, amount: int) -> int:
        body = {"attempt": "a1", "key": key, "amount": amount, "currency": "KRW"}
        async with session.post(server.make_url("/refunds"), json=body) as reply:
            return reply.status

    same = await asyncio.gather(*(give("r1", 500) for _ in range(5)))
    other = await give("r2", 1)

    assert ([200] * 5, 422) == (same, other)
    assert 500 == (await charges(session, server))[0]["refunded_amount"]


async def test_refund_of_nothing_is_refused(start: Start, session: aiohttp.ClientSession) -> None:
    """There is nothing to give back of an attempt that never charged."""
    server = await start()
    body = {"attempt": "never", "key": "r1", "amount": 1, "currency": "KRW"}

    async with session.post(server.make_url("/refunds"), json=body) as reply:
        assert 404 == reply.status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"attempt": 1}', b'{"attempt": "a", "more": 1}', b"\xff"])
async def test_unreadable_body_is_refused(start: Start, session: aiohttp.ClientSession, body: bytes) -> None:
    """Whatever is not a request is 422 and changes nothing."""
    server = await start()

    async with session.post(server.make_url("/charges"), data=body) as reply:
        assert 422 == reply.status
