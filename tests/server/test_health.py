"""Stores that would lose what they acknowledged are refused at start; while running, health says what is amiss."""

import asyncpg
import pytest

from onsale.auth.keys import Keyring
from onsale.catalog.salefile import parse_sale_file
from onsale.catalog.sales import create_sale
from onsale.lua import connect
from onsale.server.config import SettingsInvalid
from onsale.server.health import KeySigns, Readiness, StoreClock, StoresUnfit, _skew, require_fit_stores
from onsale.server.stores import Stores

SALE = """
sale = { id = "drop", title = "Drop", opens_at = "now", closes_at = "2030-01-01T00:00:00Z" }
admission = { rate_per_second = 1.0, active_max = 1 }
items = [{ title = "Jacket", stock = 1, price = { amount = 1, currency = "KRW" } }]
"""


@pytest.fixture
def stores(line_redis, shop_redis, database):
    return Stores(line_redis, shop_redis, database)


@pytest.fixture
async def configured(request):
    """Sets a Redis setting for the test and puts it back."""
    undo = []

    async def configure(redis, name, value):
        before = (await redis.config_get(name))[name]
        await redis.config_set(name, value)
        undo.append((redis, name, before))

    yield configure
    for redis, name, before in undo:
        await redis.config_set(name, before)


async def test_fit_stores_pass(stores):
    """The embedded ones are as they must be."""
    await require_fit_stores(stores)


async def test_every_flaw_of_every_store_is_named_at_once(stores, configured, database_url, pooler, cluster_url):
    """A Redis that forgets, one that does not sync, a Postgres that acknowledges too early."""
    if cluster_url is not None:
        pytest.skip("line and shop are one cluster here: what is wrong with one is wrong with both")
    if pooler is not None:
        pytest.skip("PgBouncer goes on with a session from before ALTER DATABASE")
    await configured(stores.line, "maxmemory-policy", "allkeys-lru")
    await configured(stores.shop, "appendfsync", "everysec")
    name = database_url.rsplit("/", 1)[1]
    await stores.pool.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    async with asyncpg.create_pool(database_url, min_size=0, max_size=1) as pool:
        with pytest.raises(StoresUnfit) as refused:
            await require_fit_stores(Stores(stores.line, stores.shop, pool))

    assert (
        "line redis: maxmemory-policy is allkeys-lru, must be noeviction",
        "shop redis: appendfsync is everysec, must be always",
        "postgres: synchronous_commit is off, must be on",
    ) == refused.value.flaws


async def test_a_key_that_signed_tickets_of_a_running_sale_must_stay(database):
    """Rotation adds a key in front; the old one may go when the sales of its time have ended."""
    old, new = b"o" * 32, b"n" * 32
    await KeySigns(database, Keyring([old])).require()
    await create_sale(database, parse_sale_file(SALE), "test")
    await KeySigns(database, Keyring([old])).tick()
    await KeySigns(database, Keyring([new, old])).require()
    with pytest.raises(SettingsInvalid, match="tickets of drop need it"):
        await KeySigns(database, Keyring([new])).require()

    await database.execute("UPDATE sales SET closed_at = now()")
    await KeySigns(database, Keyring([new])).require()


async def test_a_store_that_never_answers_is_named(stores, monkeypatch):
    """Waited for, then named: the supervisor tries again."""
    monkeypatch.setattr("onsale.server.health.START_PATIENCE_S", 0.0)
    nowhere = connect("redis://127.0.0.1:1/0", timeout_s=0.2)

    with pytest.raises(StoresUnfit, match="line redis: does not answer"):
        await require_fit_stores(Stores(nowhere, stores.shop, stores.pool))


async def test_ready_means_every_store_answers(stores):
    """One that is away makes the process unready, and is named."""
    nowhere = connect("redis://127.0.0.1:1/0", timeout_s=0.2)
    health = await Readiness(Stores(stores.line, nowhere, stores.pool), dict).health()

    assert "failing" == health.status
    assert ["shop redis"] == [check.name for check in health.checks if not check.ok]


@pytest.mark.parametrize(("age_ms", "detail"), [(60_000, "60000 ms old"), (None, "none yet")])
async def test_an_old_document_is_reported_but_serves_on(stores, age_ms, detail):
    """Pages and streams say so themselves; taking every web process away would help nobody."""
    health = await Readiness(stores, lambda: {"drop": age_ms}).health()

    assert "degraded" == health.status
    assert [("document drop", detail)] == [(check.name, check.detail) for check in health.checks if not check.ok]


async def test_a_loop_that_fails_is_reported(stores):
    """A process that answers and does nothing else must not look whole."""
    health = await Readiness(stores, dict, lambda: ["presence"]).health()

    assert "degraded" == health.status
    assert ["loop presence"] == [check.name for check in health.checks if not check.ok]


@pytest.mark.parametrize(("offset_ms", "is_ok"), [(4_900, True), (-5_000, False), (60_000, False)])
def test_clocks_must_agree(offset_ms, is_ok):
    """A pass crosses from the line's clock to the shop's."""
    assert is_ok == _skew([StoreClock("line redis", 0), StoreClock("shop redis", offset_ms)]).ok
