"""What a web process knows before its first request, and what reaches those who listen already."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from onsale.auth.accounts import Account
from onsale.auth.middleware import SESSIONS
from onsale.auth.roles import Role
from onsale.catalog.salefile import parse_sale_file
from onsale.catalog.sales import create_sale
from onsale.queue.admitter import Admitter
from onsale.queue.keeper import Keeper
from onsale.server.app import ROOMS, create_app, make_runner
from onsale.server.loop import Loops

SALE = """
sale = { id = "drop", title = "Drop", opens_at = "now", closes_at = "2030-01-01T00:00:00Z" }
admission = { rate_per_second = 1.0, active_max = 1 }
items = [{ title = "Jacket", stock = 1, price = { amount = 1, currency = "KRW" } }]
"""


@asynccontextmanager
async def _never(_loops, _drain_s):
    yield


@pytest.fixture
async def predecessor(app, server):
    """A process that has been here before: a line with a document, and a session that it ended."""
    rooms, sessions = app[ROOMS], app[SESSIONS]
    await rooms.stores.pool.execute("INSERT INTO accounts (id, role, verified_at) VALUES ('ada', 'customer', now())")
    grant = await sessions.sign_in(
        Account("ada", Role.CUSTOMER, is_verified=True), device="", address="", now_ms=time.time_ns() // 1_000_000
    )
    await sessions.sign_out("ada", grant.session)
    await create_sale(rooms.stores.pool, parse_sale_file(SALE), "test")
    await Keeper(rooms.stores.line, rooms.stores.pool, rooms.book).tick()
    await Admitter(rooms.stores.line, rooms.book, rooms.inventory).tick()
    return grant


async def test_a_process_knows_what_matters_before_it_listens(predecessor, settings, monkeypatch):
    """Not even its first request, before any of its loops has turned, is let in by a session that was ended, or told
    that the line is being recovered."""
    monkeypatch.setattr(Loops, "running", _never)

    runner = make_runner(create_app(settings))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = "http://{}:{}".format(*runner.addresses[0])

    async with aiohttp.ClientSession(address) as client:
        headers = {"Authorization": f"Bearer {predecessor.access_token}"}
        async with client.get("/v1/me", headers=headers) as answer:
            assert 401 == answer.status
        async with client.get("/v1/sales/drop/line") as answer:
            assert "open" == (await answer.json())["state"]
    await runner.cleanup()
