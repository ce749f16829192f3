"""Checkout on real stores and a real provider; what a test gets is in `flow_kit`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from aiohttp.test_utils import TestServer
from flow_kit import READ_TIMEOUT_S, Checkout, Sandbox, checkout_on
from redis.asyncio import Redis
from shop_kit import Shop

from onsale.checkout.providers.credentials import Credentials
from onsale.checkout.providers.sandbox import SandboxProvider
from onsale.checkout.providers.sandbox_server import create_sandbox
from onsale.checkout.providers.wire import WirePolicy


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    """A provider of its own, on loopback."""
    server = TestServer(create_sandbox(tmp_path / "sandbox"))
    await server.start_server()
    client = SandboxProvider(Credentials(str(server.make_url(""))), WirePolicy(read_timeout_s=READ_TIMEOUT_S))
    async with aiohttp.ClientSession() as session:
        yield Sandbox(server, session, client)
    await client.close()
    await server.close()


@pytest.fixture
async def checkout(
    database: asyncpg.Pool, shop_redis: Redis, line_redis: Redis, sandbox: Sandbox
) -> AsyncIterator[Checkout]:
    """Ten jackets, two a buyer; recording as it comes."""
    async with checkout_on(database, shop_redis, line_redis, sandbox) as made:
        yield made


@pytest.fixture
async def shop(shop_redis: Redis) -> Shop:
    """The shop's Redis alone: ten jackets and five hats, two units a buyer."""
    return await Shop(shop_redis).open(jacket=10, hat=5)
