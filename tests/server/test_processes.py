"""Processes as they are run: they refuse unfit stores, and when told to stop they finish what has begun."""

import asyncio
import os
import signal
import sys

import aiohttp
import pytest

from onsale.catalog.salefile import parse_sale_file
from onsale.catalog.sales import create_sale
from onsale.server import embedded

pytestmark = pytest.mark.processes

SALE = """
[sale]
id = "drop"
title = "Drop"
opens_at = "now"
closes_at = "2030-01-01T00:00:00Z"
[admission]
rate_per_second = 1.0
active_max = 1
[[items]]
title = "Jacket"
stock = 1
price = { amount = 1, currency = "KRW" }
"""


@pytest.fixture
async def start(environ, database):
    """Starts `onsale <name>`; whatever happens it is ended."""
    started = []

    async def start(name, **more):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "onsale.server",
            name,
            env=os.environ | environ | more,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def web(start, database):
    """A web process that is ready: (process, its address)."""
    await create_sale(database, parse_sale_file(SALE), "test")
    port = embedded.free_port()
    process = await start("web", ONSALE_PORT=str(port), ONSALE_DRAIN_S="10")
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                    if response.status == 200:
                        break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0)
    return process, port


async def test_streams_are_told_to_come_back(web):
    """SIGTERM: each stream gets `retry:` and ends in good order, and the process with 0."""
    process, port = web
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/v1/sales/drop/line/events") as stream:
            assert 200 == stream.status
            await stream.content.readuntil(b"\n\n")
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                rest = await stream.content.read()

    assert b"retry:" in rest
    assert 0 == await process.wait()


async def test_a_request_that_has_begun_is_answered(web):
    """Its body may still be on its way when the process is told to stop."""
    process, port = web
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"email": "nobody@example.com", "password": "wrong password"}'
    writer.write(
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    async with asyncio.timeout(60):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        process.send_signal(signal.SIGTERM)
        # Once nobody listens any more, stopping has begun.
        while True:
            try:
                _, late = await asyncio.open_connection("127.0.0.1", port)
                late.close()
            except (ConnectionRefusedError, ConnectionResetError):
                break
        writer.write(body)
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()

    assert head.startswith(b"HTTP/1.1 401")
    assert 0 == await process.wait()


@pytest.mark.parametrize("name", ["admitter", "flusher", "worker", "sandbox"])
async def test_processes_without_a_port_of_their_own_drain(start, name):
    """SIGTERM ends each with 0."""
    process = await start(name, ONSALE_SANDBOX_URL=f"http://127.0.0.1:{embedded.free_port()}")
    async with asyncio.timeout(60):
        while b"process.started" not in (await process.stderr.readline()):
            assert process.returncode is None
        process.send_signal(signal.SIGTERM)

        assert 0 == await process.wait()


async def test_unfit_stores_end_the_process_with_2(start, shop_redis):
    """One message says what is wrong with each."""
    await shop_redis.config_set("appendfsync", "everysec")
    try:
        process = await start("worker")
        async with asyncio.timeout(60):
            _, said = await process.communicate()
    finally:
        await shop_redis.config_set("appendfsync", "always")

    assert 2 == process.returncode
    assert b"shop redis: appendfsync is everysec, must be always" in said


async def test_missing_settings_end_the_process_with_2(start):
    """Named at once, before anything is opened."""
    process = await start("web", DATABASE_URL="", ONSALE_SECRET_KEYS="short")
    async with asyncio.timeout(60):
        _, said = await process.communicate()

    assert 2 == process.returncode
    assert b"DATABASE_URL: missing" in said
    assert b"ONSALE_SECRET_KEYS" in said
