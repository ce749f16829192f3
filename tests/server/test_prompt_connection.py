"""Writing to Redis without waiting where there is nothing to wait for: what if nobody reads, or nobody is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from onsale.lua import connect

TIMEOUT_S = 0.3
# More than two sockets hold.
LARGE = b"x" * (16 << 20)


@dataclass
class Server:
    """Says OK to whatever comes, until it is to hear nothing, or to hang up."""

    mood: str = "polite"
    url: str = ""
    connections: int = 0
    heard: list[bytes] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while data := await reader.read(65_536):
            self.heard.append(data)
            if self.mood == "deaf":
                await self.over.wait()
            if self.mood != "polite":
                break
            writer.write(b"+OK\r\n" * data.count(b"*"))
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0?protocol=2"
    yield made
    made.over.set()
    listening.close()


async def test_what_nobody_reads_ends_in_time(server: Server) -> None:
    """A write that the kernel does not take is given up after the time-out, as an unanswered read is."""
    client = connect(server.url, timeout_s=TIMEOUT_S)
    await client.execute_command("PING")
    server.mood = "deaf"
    # Far more than the time-out: the machine may be busy. Without one this would never end.
    async with asyncio.timeout(15):
        with pytest.raises(RedisTimeoutError):
            await client.execute_command("SET", "key", LARGE)
    await client.aclose()


async def test_a_lost_server_is_said_and_asked_anew(server: Server) -> None:
    """One call fails, nothing is sent twice, and the next call makes a connection of its own."""
    client = connect(server.url, timeout_s=TIMEOUT_S)
    await client.execute_command("PING")
    server.mood = "rude"
    with pytest.raises(RedisConnectionError):
        await client.execute_command("SET", "key", "value")
    server.mood = "polite"

    assert b"OK" == await client.execute_command("GET", "key")
    assert 2 == server.connections
    assert 1 == sum(b"value" in data for data in server.heard)
    await client.aclose()
