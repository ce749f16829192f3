"""Real stores for every test: one Postgres and two Redis servers a session, clean data a test.

`ONSALE_TEST_REDIS` names another redis-server or valkey-server program, so the same tests run on each version.
`ONSALE_TEST_PGBOUNCER=1` puts PgBouncer in transaction mode before Postgres, `ONSALE_TEST_CLUSTER=1` line and shop on a
Redis Cluster of three masters and three replicas.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from cluster_kit import WholeCluster
from redis.asyncio import Redis

from bench.faults import cluster
from bench.faults.pooler import Pooler
from onsale import lua
from onsale.lua import connect
from onsale.migrations import migrate
from onsale.server import embedded
from onsale.server.embedded import Launch

# Stores of tests keep their durable settings; in memory an fsync costs nothing, and hundreds of tests make databases.
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4 * 1024**3
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN:
    os.environ["TMPDIR"] = str(MEMORY)
    tempfile.tempdir = None

READY_WITHIN_S = 20.0
TEMPLATE = "onsale_template"
database_numbers = itertools.count(1)


@contextmanager
def running(launch: Launch) -> Iterator[Launch]:
    """Start a store as a child of the tests and stop it, whatever happens in between."""
    process = subprocess.Popen(
        launch.command,
        cwd=launch.directory,
        env=embedded.PLAIN_ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=launch.prepare(),
    )
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not launch.is_ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{launch.name} did not start: {process.returncode}")
            time.sleep(0.01)
        yield launch
    finally:
        process.send_signal(launch.stop_signal)
        process.wait(timeout=10)


@pytest.fixture(scope="session")
def stores_directory() -> Iterator[Path]:
    """Where the session's stores keep their data; gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="onsale tests "))
    yield path
    # Where root could make no user namespace, Postgres's data are a link to a place of their own.
    shutil.rmtree((path / "postgres").resolve(), ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_program() -> str | None:
    """The redis-server under test; None = the one onsale would choose."""
    return os.environ.get("ONSALE_TEST_REDIS")


@pytest.fixture(scope="session")
def line_redis_launch(stores_directory: Path, redis_program: str | None) -> Iterator[Launch]:
    """The line's Redis, as `onsale up` would start it."""
    directory = stores_directory / "line"
    port = embedded.free_port()
    with running(embedded.redis_launch("line", directory, fsync="everysec", port=port, binary=redis_program)) as launch:
        yield launch


@pytest.fixture(scope="session")
def shop_redis_launch(stores_directory: Path, redis_program: str | None) -> Iterator[Launch]:
    """The shop's Redis, as `onsale up` would start it."""
    directory = stores_directory / "shop"
    port = embedded.free_port()
    with running(embedded.redis_launch("shop", directory, fsync="always", port=port, binary=redis_program)) as launch:
        yield launch


@pytest.fixture(scope="session")
def postgres(stores_directory: Path) -> Iterator[str]:
    """A Postgres with a migrated database to copy from; answers the address of the server's own database."""
    with running(embedded.postgres_launch(stores_directory / "postgres", port=embedded.free_port())) as launch:
        asyncio.run(_make_template(launch.url))
        yield launch.url


async def _make_template(url: str) -> None:
    admin = await asyncpg.connect(url)
    await admin.execute(f"CREATE DATABASE {TEMPLATE}")
    await admin.close()
    connection = await asyncpg.connect(_with_name(url, TEMPLATE))
    await migrate(connection)
    await connection.close()


def _with_name(url: str, name: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{name}"


@pytest.fixture(scope="session")
def cluster_url(stores_directory: Path, redis_program: str | None) -> Iterator[str | None]:
    """The addresses of a cluster's nodes, where one was asked for."""
    if os.environ.get("ONSALE_TEST_CLUSTER") != "1":
        yield None
        return
    lua.Cluster = WholeCluster
    with ExitStack() as nodes:
        launches = []
        for number in range(2 * cluster.MASTERS):
            directory, port = stores_directory / f"node-{number}", cluster.node_port()
            launch = embedded.redis_launch("node", directory, fsync="always", port=port, binary=redis_program)
            launches.append(nodes.enter_context(running(replace(launch, command=(*launch.command, *cluster.FLAGS)))))
        asyncio.run(cluster.form(launches))
        yield ",".join(launch.url for launch in launches)


@pytest.fixture
def line_redis_url(line_redis_launch: Launch, cluster_url: str | None) -> str:
    return cluster_url or line_redis_launch.url


@pytest.fixture
def shop_redis_url(shop_redis_launch: Launch, cluster_url: str | None) -> str:
    return cluster_url or shop_redis_launch.url


@pytest.fixture
async def line_redis(line_redis_url: str) -> AsyncIterator[Redis]:
    """The line's Redis, empty."""
    client = connect(line_redis_url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def shop_redis(shop_redis_url: str) -> AsyncIterator[Redis]:
    """The shop's Redis, empty."""
    client = connect(shop_redis_url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def empty_database_url(postgres: str) -> AsyncIterator[str]:
    """A database without a schema."""
    async for url in _database(postgres, "template1"):
        yield url


@pytest.fixture(scope="session")
def pooler(stores_directory: Path, postgres: str) -> Iterator[int | None]:
    """The port of a PgBouncer before the session's Postgres, where one was asked for."""
    if os.environ.get("ONSALE_TEST_PGBOUNCER") != "1":
        yield None
        return
    before = Pooler(stores_directory, urlsplit(postgres).port or 0)
    process = subprocess.Popen(before.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not _listens(before.port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"pgbouncer did not start: {process.returncode}")
            time.sleep(0.01)
        # For every process and command of ours that a test starts.
        os.environ["ONSALE_PGBOUNCER"] = "1"
        yield before.port
    finally:
        process.terminate()
        process.wait(timeout=10)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
        return True
    return False


@pytest.fixture(scope="session")
def pooled(pooler: int | None) -> Callable[[str], str]:
    """Makes of an address of the session's Postgres one that leads through the PgBouncer, where there is one."""
    return lambda url: url if pooler is None else url.replace(f":{urlsplit(url).port}/", f":{pooler}/")


@pytest.fixture
async def database_url(postgres: str, pooled: Callable[[str], str]) -> AsyncIterator[str]:
    """A database with every migration applied, copied from the session's template."""
    async for url in _database(postgres, TEMPLATE):
        yield pooled(url)


async def _database(server: str, template: str) -> AsyncIterator[str]:
    name = f"test_{next(database_numbers)}"
    admin = await asyncpg.connect(server)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _with_name(server, name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def database(database_url: str, pooler: int | None) -> AsyncIterator[asyncpg.Pool]:
    """A pool on the test's database."""
    # A pooler may give the next statement another server, which has prepared nothing.
    options = {"statement_cache_size": 0} if pooler is not None else {}
    pool = await asyncpg.create_pool(database_url, min_size=1, max_size=10, **options)
    yield pool
    await pool.close()
