"""Event streams: told at once, alive only while acknowledged, bounded in everything, and ended so that clients stop."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from line_edge_kit import SALE, Edge, Events, opened_edge, serving
from redis.asyncio import Redis

from onsale.auth.identity import Identity
from onsale.auth.middleware import STREAM_KEYS
from onsale.auth.roles import Role
from onsale.auth.tickets import TicketFacts
from onsale.lua.line import LineScripts
from onsale.queue.states import TicketState
from onsale.queue.stream import PASS_ON_EVERY_MS, SLOT_MS, SLOTS, StreamLimits
from onsale.queue.teller import Told
from onsale.queue.wire import STALLED_MS, UNSENT_BYTES_MAX

Client = TestClient[web.Request, web.Application]
LINE_EVENTS = f"/v1/sales/{SALE}/line/events"
ROUND_MS = SLOT_MS * SLOTS
# Streams, and people who poll, of a whole line that is told at once.
CROWD, POLLS = 2_000, 200


@pytest.fixture
async def edge(line_redis: Redis, database: asyncpg.Pool) -> AsyncIterator[Edge]:
    """Paused: people are let in when the test resumes."""
    limits = StreamLimits(process_max=8, person_max=2, address_max=3)
    async with opened_edge(line_redis, database, limits=limits, is_paused=True) as opened:
        await opened.admit()
        yield opened


@pytest.fixture
async def client(edge: Edge) -> AsyncIterator[Client]:
    async with serving(edge) as client:
        yield client


async def joined(edge: Edge, account: str) -> tuple[str, dict[str, str]]:
    """The path of the ticket's stream, and the header that opens it."""
    joined = await edge.teller.join(edge.known, account)
    await edge.show()
    await edge.turn()
    token = edge.tickets.token(joined.ticket, account)
    return f"/v1/tickets/{joined.ticket}/events", {"Authorization": f"Bearer {token}"}


async def let_in(edge: Edge) -> None:
    """The operator lifts the pause; whoever waits is let in, and this process hears of it."""
    await edge.control.resume(SALE, actor="test")
    assert await edge.admit()


@asynccontextmanager
async def lazily(client: Client, path: str, proof: dict[str, str]) -> AsyncIterator[socket.socket]:
    """A client that asks for a stream and reads nothing of it by itself."""
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(lazy, (client.server.host, client.server.port))
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {proof['Authorization']}\r\n\r\n"
        await loop.sock_sendall(lazy, request.encode())
        yield lazy


async def until(condition: Any) -> None:
    """Wait for what the loop will do by itself."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_stream_begins_with_how_things_are(edge: Edge, client: Client) -> None:
    """Headers, a retry with jitter, the ticket and the document; each event has an id."""
    path, proof = await joined(edge, "ann")
    async with client.get(path, headers=proof) as response:
        assert (200, "text/event-stream", "no-store", "no") == (
            response.status,
            response.headers["Content-Type"],
            response.headers["Cache-Control"],
            response.headers["X-Accel-Buffering"],
        )
        events = Events(response)
        name, ticket = await events.next() or ("", {})
        assert ("ticket", "waiting", 1) == (name, ticket["state"], ticket["place"])
        name, line = await events.next() or ("", {})
        assert ("line", SALE) == (name, line["sale"])
        assert f"{line['epoch']}-{line['seq']}" == events.last_id
        assert 1_000 <= events.retry_ms < 20_000


async def test_a_crowd_comes_back_over_twenty_seconds(edge: Edge, client: Client) -> None:
    """However few of them are here: 20,000 who wait are told to return over 20 s, evenly; and so is, with its next
    document, a stream that was opened before they came."""
    path, proof = await joined(edge, "ann")
    async with client.get(path, headers=proof) as response:
        events = Events(response)
        await events.until("line")
        assert events.retry_ms < 2_000
        scripts = LineScripts(edge.redis)
        await scripts.ceiling(edge.known.keys, 30_000)
        for first in range(0, 20_000, 500):
            await scripts.join(edge.known.keys, [(f"crowd-{first + n}", 0) for n in range(500)])
        await edge.show()

        told_ms = [int(edge.streams._retry().split()[1]) for _ in range(20_000)]
        seconds = Counter(ms // 1_000 for ms in told_ms)
        assert set(range(1, 20)) == set(seconds)
        assert max(seconds.values()) < 1.25 * 20_000 / 19

        for is_told_again in (True, False):
            events.retry_ms = 0
            edge.clock.ms += ROUND_MS
            await edge.show()
            await edge.turn()
            await events.until("line")
            assert is_told_again is (events.retry_ms >= 1_000)


async def test_what_a_client_has_is_not_sent_again(edge: Edge, client: Client) -> None:
    """Last-Event-ID names the document it saw: the ticket comes, the document only when there is a newer one."""
    path, proof = await joined(edge, "ann")
    async with client.get(path, headers=proof) as response:
        events = Events(response)
        await events.until("line")
    async with client.get(path, headers={**proof, "Last-Event-ID": events.last_id}) as response:
        again = Events(response)
        await again.until("ticket")
        await let_in(edge)
        await edge.turn()
        assert "ticket" == (await again.next() or ("",))[0]


async def test_a_turn_is_told_at_once_and_taken(edge: Edge, client: Client) -> None:
    """The event that says `admitted` carries the pass, and the line knows that it was told."""
    path, proof = await joined(edge, "ann")
    async with client.get(path, headers=proof) as response:
        events = Events(response)
        await events.until("line")
        await let_in(edge)
        await edge.turn()
        told = await events.until("ticket", lambda ticket: ticket["state"] == "admitted")
        assert told["pass"]["token"]
        view = await edge.line.look(edge.known.keys, 1)
        assert view is not None and view.told_ms > 0


async def test_a_turn_is_not_taken_for_a_connection_that_has_gone(edge: Edge, client: Client) -> None:
    """Nobody is there to be told: the turn stays for whoever asks in time."""
    path, proof = await joined(edge, "ann")
    response = await client.get(path, headers=proof)
    await Events(response).until("line")
    response.close()
    await until(lambda: edge.streams.open_count == 0)
    await let_in(edge)
    await edge.turn()
    view = await edge.line.look(edge.known.keys, 1)
    assert view is not None and ("admitted", 0) == (view.state, view.told_ms)


async def test_a_reason_reaches_everyone(edge: Edge, client: Client) -> None:
    """What changes for all is told to all without waiting for their slots; a message has an event of its own."""
    paths = [await joined(edge, f"buyer {n}") for n in range(3)]
    responses = [await client.get(path, headers=proof) for path, proof in paths]
    streams = [Events(response) for response in responses]
    for events in streams:
        await events.until("line")
    await edge.control.set_message(SALE, {"ko": "곧", "en": "Soon"}, actor="test")
    await edge.admit()
    await edge.turn()
    for events in streams:
        assert {"ko": "곧", "en": "Soon"} == await events.until("message")


async def test_every_stream_is_served_once_a_round(edge: Edge, client: Client) -> None:
    """Each round a ticket and, if there is a newer one, the document; a living stream is a sign of life."""
    path, proof = await joined(edge, "ann")
    async with client.get(path, headers=proof) as response:
        events = Events(response)
        await events.until("line")
        await edge.turn()
        await joined(edge, "bob")
        edge.known.signed.clear()
        edge.clock.ms += ROUND_MS
        await edge.streams.tick()
        assert "ticket" == (await events.next() or ("",))[0]
        assert "line" == (await events.next() or ("",))[0]
        assert 1 in edge.known.signed


async def test_the_last_event_ends_the_stream(edge: Edge, client: Client) -> None:
    """`closed` is the last; then the stream ends, and a reconnect is answered 204."""
    path, proof = await joined(edge, "ann")
    async with client.get(path, headers=proof) as response:
        events = Events(response)
        await events.until("line")
        await edge.teller.leave(edge.tickets.facts(path.split("/")[3]), "ann")
        await edge.turn()
        assert "left" == (await events.until("ticket"))["state"]
        assert "left" == (await events.until("closed"))["state"]
        assert await events.next() is None
    async with client.get(path, headers=proof) as response:
        assert 204 == response.status
    await until(lambda: edge.streams.open_count == 0)


async def test_selling_out_tells_a_crowd_within_two_seconds(line_redis: Redis, database: asyncpg.Pool) -> None:
    """Two thousand streams end with `closed`, and two hundred who poll read it, from the moment the last unit is gone.

    One process serves them and reads them as well; the seconds are those it works, whatever else the machine does
    (`python -m bench.streams sell-out` measures a whole system by the clock)."""
    limits = StreamLimits(process_max=CROWD, person_max=1, address_max=CROWD)
    async with opened_edge(line_redis, database, limits=limits, is_paused=True) as edge, serving(edge) as client:
        async with asyncio.TaskGroup() as group:
            joining = [group.create_task(edge.teller.join(edge.known, f"buyer {n}")) for n in range(CROWD + POLLS)]
        tickets = [task.result().ticket for task in joining]
        await edge.show()
        proofs = [edge.tickets.token(ticket, f"buyer {n}") for n, ticket in enumerate(tickets)]
        streams = [await _opened(client, *pair) for pair in zip(tickets[:CROWD], proofs[:CROWD], strict=True)]
        polls = [edge.tickets.facts(ticket) for ticket in tickets[CROWD:]]
        async with asyncio.timeout(60):
            while edge.streams.open_count < CROWD:
                await asyncio.sleep(0.01)
        await edge.turn()

        began_s, edge.shop.free = time.process_time(), 0
        await edge.admit()
        await edge.turn()
        async with asyncio.timeout(60):
            heard = await asyncio.gather(*(reader.read() for reader, _ in streams))
        told = [edge.teller.poll(facts) or await edge.teller.tell(facts, "") for facts in polls]
        took_s = time.process_time() - began_s
        for _, writer in streams:
            writer.close()

    assert {True} == {b"event: closed\n" in text.rpartition(b"id: ")[2] for text in heard}
    assert {TicketState.CLOSED} == {one.state for one in told}
    assert took_s < 2


async def _opened(client: Client, ticket: str, token: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that asks for the stream of a ticket, by a client that costs little."""
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    writer.write(f"GET /v1/tickets/{ticket}/events HTTP/1.1\r\nHost: x\r\n".encode())
    writer.write(f"Authorization: Bearer {token}\r\nConnection: close\r\n\r\n".encode())
    return reader, writer


async def test_a_stream_key_dies_with_its_stream(edge: Edge, client: Client) -> None:
    """It opens the stream and its reconnects; after the last event it opens nothing, which stops EventSource."""
    path, _ = await joined(edge, "ann")
    keys = client.app[STREAM_KEYS] if client.app else None
    assert keys is not None
    now_ms = edge.feed.now_ms()
    key = keys.issue(Identity("ann", Role.CUSTOMER, "s", True, "bearer"), now_ms)
    for _ in range(2):
        async with client.get(f"{path}?stream_key={key}") as response:
            assert 200 == response.status
            events = Events(response)
            await events.until("line")
    async with client.get(f"{path}?stream_key={key}") as response:
        events = Events(response)
        await events.until("line")
        await edge.teller.leave(edge.tickets.facts(path.split("/")[3]), "ann")
        await edge.turn()
        await events.until("closed")
        assert await events.next() is None
    async with client.get(f"{path}?stream_key={key}") as response:
        assert 204 == response.status


async def test_the_line_for_everyone(edge: Edge, client: Client) -> None:
    """Nobody signs in; each new document comes once, comments keep a quiet stream open."""
    async with client.get(LINE_EVENTS) as response:
        events = Events(response)
        first = await events.until("line")
        await edge.control.set_message(SALE, {"ko": "곧", "en": "Soon"}, actor="test")
        await edge.show()
        edge.clock.ms += PASS_ON_EVERY_MS
        await edge.streams.tick()
        second = await events.until("line")
        assert {"ko": "곧", "en": "Soon"} == second["message"]
        assert (first["epoch"], first["seq"]) < (second["epoch"], second["seq"])
        edge.clock.ms += 3 * ROUND_MS
        await edge.streams.tick()
        line = await asyncio.wait_for(response.content.readline(), 5)
        assert line.startswith(b":")


async def test_the_line_for_everyone_comes_at_most_once_a_second(edge: Edge, client: Client) -> None:
    """Documents made sooner, on a change, wait for their second; a stream just opened is not told the same twice."""
    async with client.get(LINE_EVENTS) as early:
        events = Events(early)
        shown = [(await events.until("line"))["seq"]]
        edge.clock.ms += PASS_ON_EVERY_MS // 2
        for words in ("One", "Two"):
            await edge.control.set_message(SALE, {"ko": words, "en": words}, actor="test")
            await edge.show()
            await edge.streams.tick()
        async with client.get(LINE_EVENTS) as late:
            newest = (await Events(late).until("line"))["seq"]
            edge.clock.ms += PASS_ON_EVERY_MS // 2
            assert 1 == (await edge.streams.tick()).written
        shown.append((await events.until("line"))["seq"])

    assert [newest] == shown[1:]
    assert newest >= shown[0] + 2


async def test_the_last_document_ends_the_public_stream(edge: Edge, client: Client) -> None:
    """When the sale has ended there is nothing more to say."""
    async with client.get(LINE_EVENTS) as response:
        events = Events(response)
        await events.until("line")
        await edge.control.close(SALE, actor="test")
        await edge.admit()
        edge.clock.ms += PASS_ON_EVERY_MS
        await edge.streams.tick()
        assert "ended" == (await events.until("line", lambda line: line["state"] == "ended"))["state"]
        assert await events.next() is None
    async with client.get(LINE_EVENTS) as response:
        assert 204 == response.status


async def test_streams_are_bounded(edge: Edge, client: Client) -> None:
    """So many of one person, of one address, of one process; then 503, and room again when one goes."""
    path, proof = await joined(edge, "ann")
    mine = [await client.get(path, headers=proof) for _ in range(2)]
    async with client.get(path, headers=proof) as response:
        assert (503, "streams_exhausted") == (response.status, (await response.json())["code"])
        assert "5" == response.headers["Retry-After"]
    public = [await client.get(LINE_EVENTS) for _ in range(3)]
    async with client.get(LINE_EVENTS) as response:
        assert 503 == response.status
    mine[0].close()
    await until(lambda: edge.streams.open_count == 4)
    async with client.get(path, headers=proof) as response:
        assert 200 == response.status
    for response in (*mine, *public):
        response.close()


async def test_a_reader_that_reads_no_more_is_dropped(edge: Edge, client: Client) -> None:
    """What is left unsent is bounded: past that the connection is cut, and nobody else notices."""
    path, proof = await joined(edge, "ann")
    other, other_proof = await joined(edge, "bob")
    reading = Events(await client.get(other, headers=other_proof))
    await reading.until("line")
    async with lazily(client, path, proof):
        await until(lambda: edge.streams.open_count == 2)
        stream = next(s for s in edge.streams._all() if getattr(s, "buyer", "") == "ann")
        block = b": " + b"x" * UNSENT_BYTES_MAX + b"\n\n"
        async with asyncio.timeout(10):
            while not stream.wire.is_over:
                stream.wire.write(block, block, edge.clock())
                await asyncio.sleep(0)
    await until(lambda: edge.streams.open_count == 1)
    edge.clock.ms += ROUND_MS
    await edge.streams.tick()
    await reading.until("ticket")


async def test_a_stalled_reader_gives_no_sign_and_is_ended(edge: Edge, client: Client) -> None:
    """Bytes that do not get through are no sign of life; after twenty seconds of it the stream is over."""
    path, proof = await joined(edge, "ann")
    async with lazily(client, path, proof):
        await until(lambda: edge.streams.open_count == 1)
        await edge.turn()
        stream = next(edge.streams._all())
        async with asyncio.timeout(10):
            while stream.wire.is_acknowledged():
                block = b": " + b"x" * 8_000 + b"\n\n"
                stream.wire.write(block, block, edge.clock())
                await asyncio.sleep(0)
        edge.known.signed.clear()
        edge.clock.ms += ROUND_MS
        await edge.streams.tick()
        assert 1 not in edge.known.signed
        assert not stream.wire.is_live
        edge.clock.ms += STALLED_MS + ROUND_MS
        await edge.streams.tick()
        assert stream.wire.is_over
    await until(lambda: edge.streams.open_count == 0)


async def test_a_distant_reader_is_not_taken_for_a_stalled_one(edge: Edge, client: Client) -> None:
    """Something is on its way at every look, as on a slow network with an event a second: as long as what was on its
    way gets through, the stream goes on."""
    path, proof = await joined(edge, "ann")
    async with lazily(client, path, proof) as reader:
        await until(lambda: edge.streams.open_count == 1)
        stream = next(edge.streams._all())
        block = b": " + b"x" * 8_000 + b"\n\n"
        while stream.wire.is_acknowledged():
            stream.wire.write(block, block, edge.clock())
            await asyncio.sleep(0)
        stream.wire.write(2 * block, 2 * block, edge.clock())
        await until(lambda: stream.wire._transport.get_write_buffer_size() == 0)
        for _ in range(0, 2 * STALLED_MS, ROUND_MS):
            edge.clock.ms += ROUND_MS
            await edge.streams.tick()
            assert stream.wire.is_live is False
            assert not stream.wire.is_over
            unacked = stream.wire.unacknowledged_bytes()
            while stream.wire.unacknowledged_bytes() >= unacked:
                await asyncio.get_running_loop().sock_recv(reader, 1_000)


async def test_an_ended_stream_that_is_not_read_is_cut(edge: Edge, client: Client) -> None:
    """Its last bytes have twenty seconds to get through; then its room is given to others."""
    path, proof = await joined(edge, "ann")
    async with lazily(client, path, proof):
        await until(lambda: edge.streams.open_count == 1)
        stream = next(edge.streams._all())
        block = b": " + b"x" * 8_000 + b"\n\n"
        while stream.wire.is_acknowledged():
            stream.wire.write(block, block, edge.clock())
            await asyncio.sleep(0)
        while stream.wire._transport.get_write_buffer_size() == 0:
            stream.wire.write(block, block, edge.clock())
        stream.wire.finish()
        for passed_ms in (ROUND_MS, STALLED_MS):
            assert 1 == edge.streams.open_count
            edge.clock.ms += passed_ms
            await edge.streams.tick()
        edge.clock.ms += ROUND_MS
        await edge.streams.tick()
        await until(lambda: edge.streams.open_count == 0)


async def test_the_framework_lets_a_stream_go(edge: Edge, client: Client) -> None:
    """Nothing of a request is kept for as long as somebody waits. A request sent behind it is answered by nobody: the
    answer said that the connection closes, and it does."""
    path, proof = await joined(edge, "ann")
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    asked = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {proof['Authorization']}\r\n\r\n".encode()
    writer.write(2 * asked)
    head = await reader.readuntil(b"\r\n\r\n")
    await until(lambda: edge.streams.open_count == 1)
    writer.write(asked)
    assert client.server.handler is not None
    await until(lambda: client.server.handler.connections == [])

    await edge.teller.leave(edge.tickets.facts(path.split("/")[3]), "ann")
    await edge.turn()
    body = await asyncio.wait_for(reader.read(), 5)
    writer.close()

    assert b"\r\nConnection: close\r\n" in head
    assert body.endswith(b"\r\n0\r\n\r\n")
    assert 0 == body.count(b"HTTP/1.1")
    await until(lambda: edge.streams.open_count == 0)


async def test_closing_the_process_sends_clients_away_in_order(edge: Edge, client: Client) -> None:
    """Every stream hears when to come back and ends; a new one is refused."""
    path, proof = await joined(edge, "ann")
    async with client.get(path, headers=proof) as response:
        events = Events(response)
        await events.until("line")
        events.retry_ms = 0
        await edge.streams.close()
        assert await events.next() is None
        assert 1_000 <= events.retry_ms < 20_000
    async with client.get(path, headers=proof) as response:
        assert 503 == response.status


async def test_a_lost_announcement_is_told_a_round_later(edge: Edge, client: Client) -> None:
    """The newest document says that the place was passed: the stream's slot finds it out."""
    path, proof = await joined(edge, "ann")
    async with client.get(path, headers=proof) as response:
        events = Events(response)
        await events.until("line")
        await edge.turn()
        await edge.feed.close()
        await edge.control.resume(SALE, actor="test")
        await edge.admitter.tick()
        edge.known.heard_ms = 0
        await edge.feed.refresh()
        edge.clock.ms += ROUND_MS
        await edge.turn()
        assert (await events.until("ticket", lambda ticket: ticket["state"] == "admitted"))["pass"]


async def test_operators_see_figures(edge: Edge, client: Client) -> None:
    """Line, funnel, stock and ages, once a tick, to those who watch."""
    boss = edge.bearer("boss", Role.MANAGER)
    await joined(edge, "ann")
    async with client.get(f"/v1/sales/{SALE}/live/events", headers=boss) as response:
        await until(lambda: edge.streams.watched_live() == (edge.feed.line(SALE).sale.no,))
        tick = await edge.live.tick()
        assert (1, 1) == (tick.sales, tick.written)
        figures = await Events(response).until("live")
    assert (SALE, 1) == (figures["line"]["sale"], figures["funnel"]["joined"])
    assert {"free": 10_000, "held": 0, "claimed": 0, "sold": 0} == figures["stock"]
    assert figures["lag"]["line_ms"] < 3_000
    assert figures["lag"]["record_ms"] is None


async def test_streams_over_http_1_0(edge: Edge, client: Client) -> None:
    """A proxy that speaks HTTP/1.0 reads events without chunk marks."""
    path, proof = await joined(edge, "ann")
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    writer.write(f"GET {path} HTTP/1.0\r\nAuthorization: {proof['Authorization']}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: edge.streams.open_count == 1)
    await edge.teller.leave(edge.tickets.facts(path.split("/")[3]), "ann")
    await edge.turn()
    text = (await asyncio.wait_for(reader.read(), 5)).decode()
    writer.close()
    assert {"", "id", "event", "data", "retry"} == {line.partition(":")[0] for line in text.split("\n")}


@pytest.mark.parametrize("kind", ["ticket", "live"])
async def test_a_stream_ends_with_the_session_that_opened_it(edge: Edge, client: Client, kind: str) -> None:
    """Signed out, or of another role by now, nobody goes on listening; whoever opens it again is refused."""
    path, proof = await joined(edge, "ann")
    header = edge.bearer("ann", Role.MANAGER)
    asked = path if kind == "ticket" else f"/v1/sales/{SALE}/live/events"
    async with client.get(asked, headers=header) as response, client.get(path, headers=proof) as by_token:
        assert 200 == response.status == by_token.status
        await until(lambda: edge.streams.open_count == 2)
        edge.revocations.add("s", until_ms=2**60)
        edge.clock.ms += 1_000
        await edge.streams.tick()
        while await response.content.readany():
            pass

        await until(lambda: edge.streams.open_count == 1)
    async with client.get(asked, headers=header) as response:
        assert 401 == response.status


async def test_a_stream_that_opens_while_the_process_closes_ends(
    edge: Edge, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was counted before the end began: it is told how things are and when to come back, and holds nobody up."""
    path, proof = await joined(edge, "ann")
    tell = edge.teller.tell

    async def tell_late(facts: TicketFacts, buyer: str) -> Told:
        await edge.streams.close()
        return await tell(facts, buyer)

    monkeypatch.setattr(edge.teller, "tell", tell_late)
    edge.known.suspect()
    async with asyncio.timeout(5), client.get(path, headers=proof) as response:
        assert b"event: ticket" in await response.read()
