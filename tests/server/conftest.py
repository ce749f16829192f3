"""The whole web process inside the test: real stores, real sockets, its own loops; other processes are ticked."""

from __future__ import annotations

import aiohttp
import pytest

from onsale.server.app import create_app, make_runner
from onsale.server.config import load_settings


@pytest.fixture
def environ(line_redis, shop_redis, line_redis_url, shop_redis_url, database_url, tmp_path):
    """The variables of a web process on the test's stores, which are empty."""
    return {
        "LINE_REDIS_URL": line_redis_url,
        "SHOP_REDIS_URL": shop_redis_url,
        "DATABASE_URL": database_url,
        "ONSALE_SECRET_KEYS": "test-key-" * 5,
        "ONSALE_DATA_DIR": str(tmp_path),
        "ONSALE_PUBLIC_URL": "http://127.0.0.1:8080",
        "ONSALE_DRAIN_S": "1",
    }


@pytest.fixture
def settings(environ):
    return load_settings(environ)


@pytest.fixture
async def app(settings):
    return create_app(settings)


@pytest.fixture
async def server(app):
    """A running web process; its runner."""
    from aiohttp import web

    runner = make_runner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner
    await runner.cleanup()


@pytest.fixture
async def client(server):
    """A client whose paths are the server's."""
    host, port = server.addresses[0][:2]
    async with aiohttp.ClientSession(f"http://{host}:{port}", cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session
