"""Stream keys: one stream and its reconnects, through any process, until that stream ends."""

from __future__ import annotations

import time

import pytest
from redis.asyncio import Redis

from onsale.auth.errors import Unauthenticated
from onsale.auth.identity import Identity
from onsale.auth.keys import Keyring
from onsale.auth.roles import Role
from onsale.auth.streamkeys import StreamEnded, StreamKeys
from onsale.lua import Script
from onsale.lua.keys import stream_key

NOW_MS = 1_790_000_000_000
MINA = Identity(account="mina", role=Role.CUSTOMER, session="s1", is_verified=True, via="bearer")
GUEST = Identity(account="guest", role=Role.CUSTOMER, session="", is_verified=True, via="ticket", ticket="t1")
PATH = "/v1/tickets/t1/events"


def stream_keys(keyring: Keyring, redis: Redis, revoked: frozenset[str] = frozenset()) -> StreamKeys:
    return StreamKeys(keyring, revoked, Script(redis, "stream_key_open"), Script(redis, "stream_key_end"))


@pytest.fixture
def keys(keyring: Keyring, line_redis: Redis) -> StreamKeys:
    return stream_keys(keyring, line_redis)


@pytest.fixture
def elsewhere(keyring: Keyring, line_redis: Redis) -> StreamKeys:
    """Another web process."""
    return stream_keys(keyring, line_redis)


@pytest.mark.parametrize("identity", [MINA, GUEST])
async def test_a_key_speaks_for_whom_it_was_made(keys: StreamKeys, identity: Identity) -> None:
    """All of the identity but how it was shown; a ticket's holder stays bound to the ticket."""
    found = await keys.open(keys.issue(identity, NOW_MS), PATH, NOW_MS)

    assert "stream_key" == found.via
    assert (identity.account, identity.session, identity.ticket) == (found.account, found.session, found.ticket)


async def test_a_stream_reconnects_through_any_process(keys: StreamKeys, elsewhere: StreamKeys) -> None:
    """Hours later as well: the thirty seconds are for the first opening."""
    key = keys.issue(MINA, NOW_MS)
    await keys.open(key, PATH, NOW_MS + 29_999)

    assert "mina" == (await elsewhere.open(key, PATH, NOW_MS + 3_600_000)).account


async def test_a_key_that_opened_nothing_in_time_is_old(keys: StreamKeys) -> None:
    """Thirty seconds."""
    with pytest.raises(Unauthenticated):
        await keys.open(keys.issue(MINA, NOW_MS), PATH, NOW_MS + 30_000)


async def test_a_key_opens_one_stream(keys: StreamKeys, elsewhere: StreamKeys) -> None:
    """Another path is refused; the first stays good."""
    key = keys.issue(MINA, NOW_MS)
    await keys.open(key, PATH, NOW_MS)
    with pytest.raises(Unauthenticated):
        await elsewhere.open(key, "/v1/notices/events", NOW_MS)

    assert "mina" == (await keys.open(key, PATH, NOW_MS)).account


async def test_an_ended_stream_stays_ended(keys: StreamKeys, elsewhere: StreamKeys) -> None:
    """A reconnect is told so, even while the key is young; ending twice is ending."""
    key = keys.issue(MINA, NOW_MS)
    await keys.open(key, PATH, NOW_MS)
    await keys.ended(key)
    await keys.ended(key)
    for path in (PATH, "/v1/notices/events"):
        with pytest.raises(StreamEnded):
            await elsewhere.open(key, path, NOW_MS)


async def test_a_signed_out_session_opens_no_stream(keyring: Keyring, line_redis: Redis) -> None:
    """A key outlives no session."""
    keys = stream_keys(keyring, line_redis, frozenset({"s1"}))
    with pytest.raises(Unauthenticated):
        await keys.open(keys.issue(MINA, NOW_MS), PATH, NOW_MS)


async def test_keys_outlive_a_rotation(keys: StreamKeys, old_keyring: Keyring, line_redis: Redis) -> None:
    """Streams go on reconnecting while secrets change."""
    key = stream_keys(old_keyring, line_redis).issue(MINA, NOW_MS)

    assert "mina" == (await keys.open(key, PATH, NOW_MS)).account


async def test_redis_holds_no_key_and_forgets(keys: StreamKeys, line_redis: Redis) -> None:
    """Only a digest, and for twelve hours at most."""
    key = keys.issue(MINA, NOW_MS)
    await keys.open(key, PATH, NOW_MS)
    (name,) = await line_redis.keys("*")

    assert key.encode() not in name and key.split(".")[1].encode() not in name
    assert 0 < await line_redis.pttl(name) <= 12 * 3600 * 1000


async def test_a_forgotten_key_is_refused(keys: StreamKeys, line_redis: Redis) -> None:
    """Redis was emptied: the client asks for another key."""
    key = keys.issue(MINA, NOW_MS)
    await keys.open(key, PATH, NOW_MS)
    await line_redis.flushall()

    with pytest.raises(Unauthenticated):
        await keys.open(key, PATH, NOW_MS + 60_000)


async def test_a_wrong_type_in_redis_is_refused(keys: StreamKeys, line_redis: Redis) -> None:
    """No script trips over somebody else's key."""
    key = keys.issue(MINA, NOW_MS)
    await keys.open(key, PATH, NOW_MS)
    (name,) = await line_redis.keys("*")
    await line_redis.delete(name)
    await line_redis.rpush(name, "x")

    with pytest.raises(Unauthenticated):
        await keys.open(key, PATH, NOW_MS)


def forged(keyring: Keyring, stranger_keyring: Keyring, redis: Redis) -> list[str]:
    ours = stream_keys(keyring, redis).issue(MINA, NOW_MS)
    strangers = stream_keys(stranger_keyring, redis).issue(MINA, NOW_MS)
    kind, payload, mac = ours.split(".")
    return [
        "",
        "osk",
        "osk..",
        strangers,
        f"{kind}.{payload}.{strangers.split('.')[2]}",
        f"{kind}.{payload[:-1]}.{mac}",
        f"{kind}.{payload}.{mac[::-1]}",
        f"ort.{payload}.{mac}",
        ours + ".x",
        ours + "\0",
        ours + "x" * 100_000,
    ]


async def test_forged_keys_are_refused(keyring: Keyring, stranger_keyring: Keyring, line_redis: Redis) -> None:
    """Another's secret, a changed payload, another kind, nothing at all: and no store is asked."""
    keys = stream_keys(keyring, line_redis)
    for key in forged(keyring, stranger_keyring, line_redis):
        with pytest.raises(Unauthenticated):
            await keys.open(key, PATH, NOW_MS)
        with pytest.raises(Unauthenticated):
            await keys.ended(key)

    assert [] == await line_redis.keys("*")


def test_a_key_is_safe_in_an_address(keys: StreamKeys) -> None:
    """It needs no escaping, and its name in Redis is under one hash tag."""
    key = keys.issue(MINA, time.time_ns() // 1_000_000)

    assert 512 >= len(key)
    assert set(key) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert "{stream-key:x}" == stream_key("x")
