"""The whole web process inside the test: real stores, real sockets, its own loops; other processes are ticked."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from aiohttp import web
from contract_kit import System, tokens
from mail_kit import mail_server

from onsale.auth.accounts import ensure_load_accounts
from onsale.auth.middleware import ACCESS
from onsale.auth.roles import Role
from onsale.catalog import sales
from onsale.checkout.providers.sandbox_server import create_sandbox
from onsale.lua import connect
from onsale.server import processes, rooms
from onsale.server.app import ROOMS, SETTINGS, create_app, make_runner
from onsale.server.config import load_settings
from onsale.server.loop import Loops
from onsale.server.processes import admitter_loops, flusher_loops, mail_loops, worker_loops

# In the system that tests of a file share: what each loop's interval is there.
HURRIED_MS = {"KEEP_INTERVAL_MS": 100, "COMPLETE_INTERVAL_MS": 100, "REAP_INTERVAL_MS": 250, "SECOND_MS": 250}


def variables(line_redis_url, shop_redis_url, database_url, data_dir):
    """The environment of a web process on the test's stores."""
    return {
        "LINE_REDIS_URL": line_redis_url,
        "SHOP_REDIS_URL": shop_redis_url,
        "DATABASE_URL": database_url,
        "ONSALE_SECRET_KEYS": "test-key-" * 5,
        "ONSALE_DATA_DIR": str(data_dir),
        "ONSALE_PUBLIC_URL": "http://127.0.0.1:8080",
        "ONSALE_DRAIN_S": "1",
        # Set where the tests' way to Postgres leads through one (tests/conftest.py).
        "ONSALE_PGBOUNCER": os.environ.get("ONSALE_PGBOUNCER", "0"),
    }


@asynccontextmanager
async def running(app):
    """The application on a port of its own; its runner."""
    runner = make_runner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner
    finally:
        await runner.cleanup()


@asynccontextmanager
async def talking_to(runner):
    """A client whose paths are the server's."""
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession(f"http://{host}:{port}", cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


class Caller:
    """One account's calls; each answers (status, body, headers)."""

    def __init__(self, client, token):
        self._client = client
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def __call__(self, method, path, body=None, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._client.request(method, path, json=body, headers=self._headers | named) as response:
            is_json = "json" in response.content_type
            return response.status, await response.json() if is_json else await response.read(), response.headers

    async def until(self, path, is_so):
        """Ask until the answer is as wanted; the system's loops run meanwhile."""
        async with asyncio.timeout(60):
            while True:
                status, body, _ = await self("GET", path)
                if status == 200 and is_so(body):
                    return body

    async def insist(self, method, path, body=None, **headers):
        """Repeat while the system asks for patience: a sale that was just made is being loaded."""
        async with asyncio.timeout(60):
            while True:
                answer = await self(method, path, body, **headers)
                if answer[0] != 503:
                    return answer


async def tokens_of(app, role, count, first=1):
    """Access tokens of accounts load-000001, …"""
    return await ensure_load_accounts(
        app[ROOMS].stores.pool,
        app[ACCESS],
        count=count,
        first=first,
        ttl_s=600,
        role=Role(role),
        now_ms=time.time_ns() // 1_000_000,
    )


# --- a process of its own for each test


@pytest.fixture
def environ(line_redis, shop_redis, line_redis_url, shop_redis_url, database_url, tmp_path):
    """Variables on empty stores."""
    return variables(line_redis_url, shop_redis_url, database_url, tmp_path)


@pytest.fixture
def settings(environ):
    return load_settings(environ)


@pytest.fixture
async def app(settings):
    return create_app(settings)


@pytest.fixture
async def server(app):
    async with running(app) as runner:
        yield runner


@pytest.fixture
async def client(server):
    async with talking_to(server) as session:
        yield session


@pytest.fixture
async def accounts(app, server, client):
    """Makes callers: `await accounts("customer", 3)`."""
    made = 0

    async def make(role, count=1):
        nonlocal made
        tokens = await tokens_of(app, role, count, first=made + 1)
        made += count
        return [Caller(client, token) for token in tokens]

    return make


@pytest.fixture
def anyone(client):
    """A caller who is not signed in."""
    return Caller(client, None)


# --- one process for all tests of a file that only look


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_server(line_redis_launch, shop_redis_launch, postgres_database, tmp_path_factory):
    """A web process behind a proxy at 127.0.0.1 that it trusts; its runner."""
    environ = variables(
        line_redis_launch.url, shop_redis_launch.url, postgres_database, tmp_path_factory.mktemp("shared")
    )
    app = create_app(load_settings(environ | {"ONSALE_TRUSTED_PROXIES": "127.0.0.1"}))
    async with running(app) as runner:
        yield runner


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_client(shared_server):
    async with talking_to(shared_server) as session:
        yield session


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def postgres_database(postgres, pooled):
    """A migrated database for the whole file."""
    name = f"shared_{time.monotonic_ns()}"
    admin = await asyncpg.connect(postgres)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE onsale_template")
    yield pooled(f"{postgres.rsplit('/', 1)[0]}/{name}")
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


# --- every process's loops in one, for the tests of a file


@pytest.fixture(scope="module")
def hurried():
    """What a loop does each second is done more often, so that tests wait less for it."""
    with pytest.MonkeyPatch.context() as patch:
        for interval, ms in HURRIED_MS.items():
            patch.setattr(processes, interval, ms)
        patch.setattr(rooms, "BOOK_INTERVAL_MS", 100)
        patch.setattr(sales, "READ_WITHIN_S", 0.5)
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(hurried, line_redis_launch, shop_redis_launch, postgres_database, tmp_path_factory):
    """The whole system, with its provider of payments, and two managers."""
    for launch in (line_redis_launch, shop_redis_launch):
        client = connect(launch.url)
        await client.flushall()
        await client.aclose()
    folder = tmp_path_factory.mktemp("system")
    sandbox = web.AppRunner(create_sandbox(folder / "sandbox"), access_log=None)
    await sandbox.setup()
    await web.TCPSite(sandbox, "127.0.0.1", 0).start()
    environ = variables(line_redis_launch.url, shop_redis_launch.url, postgres_database, folder)
    url = "http://{}:{}".format(*sandbox.addresses[0])
    async with mail_server() as mail:
        app = create_app(load_settings(environ | {"ONSALE_SANDBOX_URL": url, "SMTP_URL": mail.url}))
        async with running(app) as runner:
            loops = Loops()
            for add in (admitter_loops, flusher_loops, worker_loops):
                add(app[ROOMS], loops)
            mail_loops(app[SETTINGS], app[ROOMS], loops)
            async with loops.running(drain_s=2.0):
                managers = await tokens(app, Role.MANAGER, 2, first=9001)
                [master] = await tokens(app, Role.MASTER, 1, first=9003)
                yield System(app, runner.addresses[0][:2], managers, master, mail)
    await sandbox.cleanup()
