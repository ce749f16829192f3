"""The line over HTTP: what buyers, everyone and operators are answered, and what is refused."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from line_edge_kit import DAY_MS, SALE, Edge, opened_edge, serving
from redis.asyncio import Redis

from onsale.auth.errors import StoreUnavailable
from onsale.auth.roles import Role
from onsale.catalog.sales import Policy
from onsale.queue.frame import Frame
from onsale.queue.keeper import Keeper
from onsale.queue.schemas import TicketReply

Client = TestClient[web.Request, web.Application]
TICKETS = f"/v1/sales/{SALE}/tickets"
LINE = f"/v1/sales/{SALE}/line"
ADMISSION = f"/v1/sales/{SALE}/admission"
FIELDS = ["pass" if field == "pass_" else field for field in TicketReply.__struct_fields__]


@pytest.fixture
async def edge(line_redis: Redis, database: asyncpg.Pool) -> AsyncIterator[Edge]:
    async with opened_edge(line_redis, database) as opened:
        yield opened


@pytest.fixture
async def client(edge: Edge) -> AsyncIterator[Client]:
    async with serving(edge) as client:
        yield client


async def joined(edge: Edge, client: Client, account: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The ticket, and the header that proves it."""
    async with client.post(TICKETS, headers=edge.bearer(account)) as response:
        assert response.status in (200, 201)
        ticket = await response.json()
    return ticket, {"Authorization": f"Bearer {ticket['ticket_token']}"}


async def polled(client: Client, ticket: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    async with client.get(f"/v1/tickets/{ticket['ticket']}", headers=headers) as response:
        assert 200 == response.status
        answer: dict[str, Any] = await response.json()
        return answer


# --- buyers


async def test_join_twice_is_one_ticket(edge: Edge, client: Client) -> None:
    """201 with a Location, then 200 with the same; an empty object is a body, anything else is refused."""
    async with client.post(TICKETS, headers=edge.bearer("ann")) as response:
        assert 201 == response.status
        first = await response.json()
        assert f"/v1/tickets/{first['ticket']}" == response.headers["Location"]
    async with client.post(TICKETS, headers=edge.bearer("ann"), json={}) as response:
        assert 200 == response.status
        assert first["ticket"] == (await response.json())["ticket"]
    async with client.post(TICKETS, headers=edge.bearer("ann"), json={"place": 1}) as response:
        assert 422 == response.status
        assert "#/place" == (await response.json())["errors"][0]["pointer"]
    assert set(FIELDS) == set(first)
    assert ("waiting", 1, None, None) == (first["state"], first["place"], first["pass"], first["admitted_at"])


async def test_who_may_join(edge: Edge, client: Client) -> None:
    """Nobody unknown where guests are not taken, nobody unverified, nobody to a sale that is not there."""
    async with client.post(TICKETS) as response:
        assert (401, "guests_refused") == (response.status, (await response.json())["code"])
    async with client.post(TICKETS, headers={"Authorization": "Bearer nonsense"}) as response:
        assert (401, "unauthenticated") == (response.status, (await response.json())["code"])
    async with client.post(TICKETS, headers=edge.bearer("ann", is_verified=False)) as response:
        assert (403, "email_unverified") == (response.status, (await response.json())["code"])
    async with client.post("/v1/sales/winter/tickets", headers=edge.bearer("ann")) as response:
        assert (404, "sale_unknown") == (response.status, (await response.json())["code"])
    async with client.post(f"{TICKETS}?place=1", headers=edge.bearer("ann")) as response:
        assert 422 == response.status


async def test_who_is_signed_in_is_no_guest(line_redis: Redis, database: asyncpg.Pool) -> None:
    """An access cookie that ran out must be renewed first: as a guest its buyer would stand behind their own ticket."""
    async with opened_edge(line_redis, database, guests=True) as edge, serving(edge) as client:
        headers = {"Cookie": "__Host-onsale-refresh=any", "Sec-Fetch-Site": "same-origin"}
        async with client.post(TICKETS, headers=headers) as response:
            assert 401 == response.status
        assert 0 == await line_redis.zcard(edge.known.keys.waiting)


async def test_guests_hold_their_ticket_by_its_token(line_redis: Redis, database: asyncpg.Pool) -> None:
    """Where a sale takes guests anyone joins, and joins again as the same by the ticket's token."""
    async with opened_edge(line_redis, database, guests=True) as edge, serving(edge) as client:
        async with client.post(TICKETS) as response:
            assert 201 == response.status
            ticket = await response.json()
        proof = {"Authorization": f"Bearer {ticket['ticket_token']}"}
        async with client.post(TICKETS, headers=proof) as response:
            assert (200, ticket["ticket"]) == (response.status, (await response.json())["ticket"])
        assert "waiting" == (await polled(client, ticket, proof))["state"]


async def test_the_poll_says_what_joining_said(edge: Edge, client: Client) -> None:
    """The answer put together by hand has the same fields, in the same order, as the one that is encoded."""
    ticket, proof = await joined(edge, client, "ann")
    await edge.control.pause(SALE, actor="test")
    await edge.admit()
    before = await polled(client, ticket, proof)
    edge.known.suspect()
    asked = await polled(client, ticket, proof)
    from_memory = await polled(client, ticket, proof)
    assert FIELDS[:-1] == list(from_memory)
    assert before == asked == from_memory
    assert (1, 0, "paused_by_operator") == (asked["place"], asked["ahead"], asked["reason"]["code"])
    assert asked["wait_ms"] is None


async def test_a_waiting_ticket_knows_its_wait(line_redis: Redis, database: asyncpg.Pool) -> None:
    """Behind others, in a line that moves, people ahead, a range and the odds are told."""
    policy = Policy(rate_centi=100, active_max=1_000)
    async with opened_edge(line_redis, database, policy=policy) as edge, serving(edge) as client:
        everyone = [await joined(edge, client, f"buyer {n}") for n in range(8)]
        await edge.admit()
        last, proof = everyone[-1]
        told = await polled(client, last, proof)
        assert ("waiting", 6) == (told["state"], told["ahead"])
        wait = edge.known.frame and edge.known.frame.wait_ms(8, edge.feed.now_ms())
        assert told["wait_ms"] == (wait and {"p50": wait.p50, "p90": wait.p90})
        assert "likely" == told["odds"]


async def test_being_told_is_taking(edge: Edge, client: Client) -> None:
    """The first answer that says `admitted` carries the pass, and every copy is the same."""
    ticket, proof = await joined(edge, client, "ann")
    assert 1 == await edge.admit()
    first, second = await polled(client, ticket, proof), await polled(client, ticket, edge.bearer("ann"))
    assert "admitted" == first["state"]
    assert first["pass"] == second["pass"]
    claims = jwt.decode(first["pass"]["token"], options={"verify_signature": False})
    assert (SALE, "ann", "1-1-1") == (claims["aud"], claims["sub"], claims["jti"])
    assert 600_000 == claims["exp_ms"] - claims["iat_ms"]
    assert first["admitted_at"] is not None and first["reason"] is None
    again, _ = await joined(edge, client, "ann")
    assert first["pass"] == again["pass"]


async def test_a_turn_is_told_though_its_announcement_was_lost(edge: Edge, client: Client) -> None:
    """The next document's `serving` is enough to make a process ask."""
    ticket, proof = await joined(edge, client, "ann")
    await edge.feed.close()
    await edge.admitter.tick()
    edge.known.heard_ms = 0
    await edge.feed.refresh()
    assert "admitted" == (await polled(client, ticket, proof))["state"]


async def test_a_turn_made_anew_from_the_record_is_its_holders(
    edge: Edge, client: Client, line_redis: Redis, database: asyncpg.Pool
) -> None:
    """The line is lost whole after somebody was let in. Whoever polls first is told of the turn in their own name: of
    the seat itself nobody knows whose it was."""
    ticket, proof = await joined(edge, client, "ann")
    assert 1 == await edge.admit()
    await database.execute(
        "INSERT INTO admissions (sale, epoch, event_id, at, places, rate_milli, burst, active, active_max)"
        " VALUES ($1, $2, '1-0', now(), '{1}', 0, 1, 0, 0)",
        *(SALE, edge.known.keys.epoch),
    )
    await line_redis.flushall()
    await Keeper(line_redis, database, edge.book, takeover_ms=0).tick()
    await edge.feed.refresh()

    told = await polled(client, ticket, proof)

    claims = jwt.decode(told["pass"]["token"], options={"verify_signature": False})
    assert ("admitted", "ann", "1-1-1") == (told["state"], claims["sub"], claims["jti"])


async def test_another_ticket_is_not_found(edge: Edge, client: Client) -> None:
    """Neither by another's token, nor by another account, nor without an id that was ever made."""
    ticket, _ = await joined(edge, client, "ann")
    _, other = await joined(edge, client, "bob")
    for headers in (other, edge.bearer("bob")):
        for method in ("GET", "DELETE"):
            async with client.request(method, f"/v1/tickets/{ticket['ticket']}", headers=headers) as response:
                assert 404 == response.status
    async with client.get("/v1/tickets/nonsense", headers=edge.bearer("ann")) as response:
        assert 404 == response.status
    async with client.get(f"/v1/tickets/{ticket['ticket']}") as response:
        assert 401 == response.status


async def test_leave_and_leave_again(edge: Edge, client: Client) -> None:
    """204 both times, known here at once; whoever left joins anew at the end."""
    ticket, proof = await joined(edge, client, "ann")
    for _ in range(2):
        async with client.delete(f"/v1/tickets/{ticket['ticket']}", headers=proof) as response:
            assert 204 == response.status
    left = await polled(client, ticket, proof)
    assert "left" == left["state"] and left["ended_at"] is not None
    anew, _ = await joined(edge, client, "ann")
    assert 2 == anew["place"]


async def test_leaving_with_a_pass_closes_its_turn(edge: Edge, client: Client) -> None:
    """The shop ends the turn first, so the pass buys nothing after the seat is free."""
    ticket, proof = await joined(edge, client, "ann")
    await edge.admit()
    assert "admitted" == (await polled(client, ticket, proof))["state"]
    async with client.delete(f"/v1/tickets/{ticket['ticket']}", headers=proof) as response:
        assert 204 == response.status
    assert [("1-1-1", "left")] == edge.shop.closed
    assert "left" == (await polled(client, ticket, proof))["state"]


async def test_before_the_opening(line_redis: Redis, database: asyncpg.Pool) -> None:
    """Scheduled: a joining number, and nothing ahead that could be told."""
    opens_at_ms = time.time_ns() // 1_000_000 + DAY_MS // 2
    async with opened_edge(line_redis, database, opens_at_ms=opens_at_ms) as edge, serving(edge) as client:
        ticket, proof = await joined(edge, client, "ann")
        await edge.admit()
        told = await polled(client, ticket, proof)
        assert ("scheduled", 1, None, None) == (told["state"], told["place"], told["ahead"], told["wait_ms"])


async def test_before_a_draw_nobody_has_a_place(line_redis: Redis, database: asyncpg.Pool) -> None:
    """The number of joining is no place where the opening crowd is drawn: neither the joining nor a poll tells it."""
    opens_at_ms = time.time_ns() // 1_000_000 + DAY_MS // 2
    async with (
        opened_edge(line_redis, database, opens_at_ms=opens_at_ms, opening="draw") as edge,
        serving(edge) as client,
    ):
        ticket, proof = await joined(edge, client, "ann")
        await edge.admit()
        for told in (ticket, await polled(client, ticket, proof)):
            assert ("scheduled", None, None) == (told["state"], told["place"], told["ahead"])


async def test_when_the_sale_is_closed(edge: Edge, client: Client) -> None:
    """Who waited reads `closed`; nobody joins."""
    await edge.control.pause(SALE, actor="test")
    ticket, proof = await joined(edge, client, "ann")
    async with client.post(f"/v1/sales/{SALE}/closing", headers=edge.bearer("boss", Role.MANAGER)) as response:
        assert 204 == response.status
    await edge.admit()
    told = await polled(client, ticket, proof)
    assert "closed" == told["state"] and told["ended_at"] is not None
    async with client.post(TICKETS, headers=edge.bearer("bob")) as response:
        assert (409, "sale_ended") == (response.status, (await response.json())["code"])


async def test_while_the_line_recovers(edge: Edge, client: Client, line_redis: Redis) -> None:
    """Joining answers 503 and when to ask again; who waits is told so."""
    ticket, proof = await joined(edge, client, "ann")
    await line_redis.hset(edge.known.keys.meta, "run_id", "another server")
    async with client.post(TICKETS, headers=edge.bearer("bob")) as response:
        assert (503, "recovering") == (response.status, (await response.json())["code"])
        assert "1" == response.headers["Retry-After"]
    edge.known.suspect()
    told = await polled(client, ticket, proof)
    assert ("waiting", "recovering") == (told["state"], told["reason"]["code"])


# --- everyone


async def test_the_line_document(edge: Edge, client: Client) -> None:
    """Public, cacheable for a second, and not sent twice to who has it."""
    await edge.line.join(edge.known.keys, "ann")
    await edge.admit()
    async with client.get(LINE) as response:
        assert (200, "public, max-age=1") == (response.status, response.headers["Cache-Control"])
        assert (await response.read()) == Frame(await response.read()).doc
        etag = response.headers["ETag"]
    for seen in (etag, f'"other", W/{etag}', "*"):
        async with client.get(LINE, headers={"If-None-Match": seen}) as response:
            assert (304, etag) == (response.status, response.headers["ETag"])
    async with client.get(f"{LINE}?lane=general") as response:
        assert 200 == response.status
    for bad in ("lane=express", "lanes=general"):
        async with client.get(f"{LINE}?{bad}") as response:
            assert 422 == response.status
    async with client.get("/v1/sales/winter/line") as response:
        assert 404 == response.status


async def test_verify_pass(edge: Edge, client: Client) -> None:
    """204 for a good pass wherever it is carried, 401 for any other."""
    now_ms = edge.feed.now_ms()
    claims: dict[str, Any] = {"sale": SALE, "buyer": "ann", "turn": "1-1-1", "lane": "general", "epoch": 1}
    good = edge.passes.mint(**claims, iat_ms=now_ms, exp_ms=now_ms + 60_000)
    old = edge.passes.mint(**claims, iat_ms=now_ms - 60_000, exp_ms=now_ms - 1)
    asked: list[tuple[str, dict[str, str]]] = [
        ("", {"Admission-Pass": good}),
        ("", {"Cookie": f"onsale-pass={good}"}),
        (f"?pass={good}", {}),
        (f"?sale={SALE}", {"Admission-Pass": good}),
    ]
    for query, headers in asked:
        async with client.get(f"/v1/passes/verify{query}", headers=headers) as response:
            assert (204, SALE, "ann") == (
                response.status,
                response.headers["Admission-Sale"],
                response.headers["Admission-Buyer"],
            )
    for query, token in (("", old), ("", good[:-2]), ("?sale=winter", good), ("", "")):
        async with client.get(f"/v1/passes/verify{query}", headers={"Admission-Pass": token}) as response:
            assert 401 == response.status


async def test_a_pass_ends_with_its_turn(edge: Edge, client: Client) -> None:
    """Whoever has left, bought or was put out has a pass of good signature and time that opens no door any more."""
    ticket, proof = await joined(edge, client, "ann")
    await edge.admit()
    pass_ = (await polled(client, ticket, proof))["pass"]["token"]

    async def verified() -> int:
        async with client.get("/v1/passes/verify", headers={"Admission-Pass": pass_}) as response:
            return response.status

    assert 204 == await verified()
    async with client.delete(f"/v1/tickets/{ticket['ticket']}", headers=proof) as response:
        assert 204 == response.status
    assert 401 == await verified()
    await edge.redis.hset(edge.known.keys.meta, "run_id", "another server")
    assert 204 == await verified()


# --- operators


async def test_only_operators_operate(edge: Edge, client: Client) -> None:
    """Nobody without a role, and no other role."""
    for method, path in (
        ("GET", ADMISSION),
        ("PATCH", ADMISSION),
        ("POST", f"/v1/sales/{SALE}/opening"),
        ("POST", f"/v1/sales/{SALE}/closing"),
        ("POST", f"/v1/sales/{SALE}/draining"),
        ("PUT", f"/v1/sales/{SALE}/message"),
        ("DELETE", f"/v1/sales/{SALE}/message"),
        ("GET", f"/v1/sales/{SALE}/live/events"),
        ("GET", f"/v1/sales/{SALE}/audit"),
        ("GET", TICKETS),
        ("POST", "/v1/tickets/any/revocation"),
    ):
        async with client.request(method, path) as response:
            assert 401 == response.status, path
        for role in (Role.CUSTOMER, Role.VENDOR):
            async with client.request(method, path, headers=edge.bearer("ann", role)) as response:
                assert 403 == response.status, path


async def test_settings_change_by_what_was_seen(edge: Edge, client: Client) -> None:
    """428 without If-Match, 412 with an old one, `*` always; pausing needs none, resuming does."""
    boss = edge.bearer("boss", Role.MANAGER)
    async with client.get(ADMISSION, headers=boss) as response:
        seen, etag = await response.json(), response.headers["ETag"]
    assert (1000.0, 1000, False) == (seen["rate_per_second"], seen["active_max"], seen["paused"])
    faster = {"rate_per_second": 12.34, "reason": "calm enough"}
    async with client.patch(ADMISSION, headers=boss, json=faster) as response:
        assert (428, "if_match_required") == (response.status, (await response.json())["code"])
    async with client.patch(ADMISSION, headers={**boss, "If-Match": etag}, json=faster) as response:
        changed = await response.json()
        assert (200, 12.34, "boss") == (response.status, changed["rate_per_second"], changed["changed_by"])
        assert etag != response.headers["ETag"]
    async with client.patch(ADMISSION, headers={**boss, "If-Match": etag}, json=faster) as response:
        assert 412 == response.status
    async with client.patch(ADMISSION, headers={**boss, "If-Match": "*"}, json={"active_max": 7}) as response:
        assert (200, 7) == (response.status, (await response.json())["active_max"])
    async with client.patch(ADMISSION, headers=boss, json={"paused": True}) as response:
        assert (200, True) == (response.status, (await response.json())["paused"])
    async with client.patch(ADMISSION, headers=boss, json={"paused": False}) as response:
        assert 428 == response.status
    async with client.patch(ADMISSION, headers={**boss, "If-Match": etag}, json={"paused": False}) as response:
        assert 412 == response.status


async def test_a_merge_patch_by_its_own_name(edge: Edge, client: Client) -> None:
    """RFC 7396's media type is taken, and a change may be for a while."""
    headers = {**edge.bearer("boss", Role.MASTER), "If-Match": "*", "Content-Type": "application/merge-patch+json"}
    async with client.patch(ADMISSION, headers=headers, data=b'{"rate_per_second":5,"revert_after_s":60}') as response:
        changed = await response.json()
        assert (200, 5.0) == (response.status, changed["rate_per_second"])
        assert changed["revert_at"] is not None


async def test_bad_settings_change_nothing(edge: Edge, client: Client) -> None:
    """What is out of bounds, of another type, finer than a hundredth, or unknown is refused whole."""
    headers = {**edge.bearer("boss", Role.MANAGER), "If-Match": "*", "Content-Type": "application/json"}
    before = await edge.control.admission(SALE)
    for patch in (
        b'{"rate_per_second": -1}',
        b'{"rate_per_second": 100000.01}',
        b'{"rate_per_second": 0.001}',
        b'{"rate_per_second": NaN}',
        b'{"rate_per_second": "20"}',
        b'{"rate_per_second": null}',
        b'{"active_max": 1.5}',
        b'{"active_max": -1}',
        b'{"mode": "adaptive"}',
        b'{"rate": 20}',
        b'{"revert_after_s": 0}',
        b"[]",
        b"{",
    ):
        async with client.patch(ADMISSION, headers=headers, data=patch) as response:
            assert response.status in (400, 422), patch
    assert before == await edge.control.admission(SALE)


async def test_a_new_rate_is_in_force(edge: Edge, client: Client) -> None:
    """After the answer nobody is let in at the old rate."""
    headers = {**edge.bearer("boss", Role.MANAGER), "If-Match": "*"}
    async with client.patch(ADMISSION, headers=headers, json={"rate_per_second": 0}) as response:
        assert 200 == response.status
    await joined(edge, client, "ann")
    assert 0 == await edge.admit()


async def test_a_message_reaches_the_document(edge: Edge, client: Client) -> None:
    """Said, read by everyone, taken back; too long is refused."""
    boss = edge.bearer("boss", Role.MANAGER)
    path = f"/v1/sales/{SALE}/message"
    async with client.put(path, headers=boss, json={"ko": "잠시만요", "en": "One moment"}) as response:
        assert 200 == response.status
    await edge.admit()
    async with client.get(LINE) as response:
        assert {"ko": "잠시만요", "en": "One moment"} == (await response.json())["message"]
    async with client.put(path, headers=boss, json={"ko": "가" * 201, "en": "x"}) as response:
        assert 422 == response.status
    async with client.delete(path, headers=boss) as response:
        assert 204 == response.status


async def test_everything_is_written_down(edge: Edge, client: Client) -> None:
    """Newest first, page by page, with who and why."""
    boss = edge.bearer("boss", Role.MANAGER)
    ticket, proof = await joined(edge, client, "ann")
    await edge.admit()
    assert "admitted" == (await polled(client, ticket, proof))["state"]
    async with client.post(
        f"/v1/tickets/{ticket['ticket']}/revocation", headers=boss, json={"reason": "a robot"}
    ) as response:
        assert 204 == response.status
    async with client.post(f"/v1/sales/{SALE}/draining", headers=boss) as response:
        assert 204 == response.status
    async with client.get(f"/v1/sales/{SALE}/audit?limit=1", headers=boss) as response:
        first = await response.json()
    async with client.get(f"/v1/sales/{SALE}/audit?cursor={first['next_cursor']}", headers=boss) as response:
        second = await response.json()
    assert ["drain", "revoke"] == [entry["action"] for entry in first["items"] + second["items"]]
    assert second["next_cursor"] is None
    entry = second["items"][0]
    assert ("boss", "a robot", "admitted", "left") == (
        entry["actor"],
        entry["reason"],
        entry["from"]["state"],
        entry["to"]["state"],
    )
    assert [("1-1-1", "revoked")] == [closed for closed in edge.shop.closed if closed[1] == "revoked"]
    assert "left" == (await polled(client, ticket, proof))["state"]
    assert (await edge.control.verify_chain(SALE)).is_whole


async def test_nobody_is_put_out_unwritten(edge: Edge, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the audit cannot be written nothing happens; where the shop breaks off, the try is there to be seen."""
    boss = edge.bearer("boss", Role.MASTER)
    ticket, proof = await joined(edge, client, "ann")
    await edge.admit()
    path = f"/v1/tickets/{ticket['ticket']}/revocation"

    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(edge.control, "note", away)
        async with client.post(path, headers=boss) as response:
            assert 503 == response.status
    assert [] == edge.shop.closed
    with monkeypatch.context() as patch:
        patch.setattr(edge.shop, "close_turns", away)
        async with client.post(path, headers=boss) as response:
            assert 503 == response.status
    assert "admitted" == (await polled(client, ticket, proof))["state"]
    assert ["revoke"] == [row.action for row in await edge.control.audit(SALE)]


async def test_tickets_by_page(edge: Edge, client: Client) -> None:
    """Newest first, each once."""
    boss = edge.bearer("boss", Role.MANAGER)
    tickets = [(await joined(edge, client, f"buyer {n}"))[0]["ticket"] for n in range(5)]
    await edge.admit()
    found, cursor = [], ""
    while True:
        async with client.get(f"{TICKETS}?limit=2{cursor}", headers=boss) as response:
            page = await response.json()
        found.extend(item["ticket"] for item in page["items"])
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert tickets[::-1] == found


async def test_revoking_what_is_not_there(edge: Edge, client: Client) -> None:
    """An id nobody was given is 404, whoever asks."""
    boss = edge.bearer("boss", Role.MANAGER)
    forged = edge.tickets.issue(1, 0, 99, 1, "nobody")
    for ticket in (forged, "nonsense"):
        async with client.post(f"/v1/tickets/{ticket}/revocation", headers=boss) as response:
            assert 404 == response.status
