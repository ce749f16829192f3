"""Sessions: refresh tokens that are used once, and sign-outs that are known everywhere within a tick."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from onsale.auth.access import AccessTokens
from onsale.auth.accounts import Account
from onsale.auth.errors import RefreshInvalid, SessionUnknown, Unauthenticated
from onsale.auth.keys import Keyring
from onsale.auth.revocations import Revocations
from onsale.auth.sessions import Grant, Sessions

ISSUER = "https://shop.example"
ADDRESS = "203.0.113.9"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def sign_in(sessions: Sessions, account: Account, device: str = "phone") -> Grant:
    return await sessions.sign_in(account, device=device, address=ADDRESS, now_ms=now_ms())


async def refresh(sessions: Sessions, token: str) -> Grant:
    return await sessions.refresh(token, address=ADDRESS, now_ms=now_ms())


async def end_grace(database: asyncpg.Pool) -> None:
    """Six seconds pass for every refresh token."""
    await database.execute("UPDATE sessions SET rotated_at = rotated_at - interval '6 s'")


async def test_a_session_is_kept_alive_by_refreshing(sessions: Sessions, access: AccessTokens, mina: Account) -> None:
    """Each refresh gives the next token; the session stays the same."""
    grant = await sign_in(sessions, mina)
    for _ in range(3):
        before, grant = grant, await refresh(sessions, grant.refresh_token)
        assert before.refresh_token != grant.refresh_token
        assert before.session == grant.session

    found = access.verify(grant.access_token, now_ms())
    assert (mina.id, grant.session) == (found.account, found.session)


async def test_a_lost_answer_is_given_again(sessions: Sessions, mina: Account) -> None:
    """Within the grace the immediate parent gets the same successor, however many ask at once."""
    grant = await sign_in(sessions, mina)
    answers = await asyncio.gather(*(refresh(sessions, grant.refresh_token) for _ in range(8)))

    assert 1 == len({answer.refresh_token for answer in answers})
    assert answers[0].session == (await refresh(sessions, answers[0].refresh_token)).session


async def test_the_parent_is_refused_after_the_grace(
    sessions: Sessions, access: AccessTokens, mina: Account, database: asyncpg.Pool
) -> None:
    """Five seconds later it means a thief: the family ends, in this process at once."""
    grant = await sign_in(sessions, mina)
    following = await refresh(sessions, grant.refresh_token)
    await end_grace(database)

    with pytest.raises(RefreshInvalid):
        await refresh(sessions, grant.refresh_token)
    with pytest.raises(RefreshInvalid):
        await refresh(sessions, following.refresh_token)
    with pytest.raises(Unauthenticated):
        access.verify(following.access_token, now_ms())


async def test_a_grandparent_ends_the_family_at_once(sessions: Sessions, mina: Account) -> None:
    """The grace is for the immediate parent alone."""
    first = await sign_in(sessions, mina)
    second = await refresh(sessions, first.refresh_token)
    third = await refresh(sessions, second.refresh_token)

    with pytest.raises(RefreshInvalid):
        await refresh(sessions, first.refresh_token)
    with pytest.raises(RefreshInvalid):
        await refresh(sessions, third.refresh_token)


async def test_nonsense_ends_nothing(sessions: Sessions, mina: Account) -> None:
    """Only a token that we made can end a family: knowing a session's id is not enough."""
    grant = await sign_in(sessions, mina)
    kind, session, secret, mac = grant.refresh_token.split(".")
    forged = f"{kind}.{session}.{secret[::-1]}.{mac}"
    for nonsense in ("", "x", forged, grant.access_token, grant.refresh_token + "\0", "ort." + "0" * 100_000):
        with pytest.raises(RefreshInvalid):
            await refresh(sessions, nonsense)

    assert session == (await refresh(sessions, grant.refresh_token)).session


@pytest.mark.parametrize(
    "ending",
    [
        "UPDATE sessions SET expires_at = now()",
        "UPDATE accounts SET deleted_at = now(), email = NULL, email_hash = NULL, password_hash = NULL",
        "UPDATE sessions SET revoked_at = now(), revoked_for = 'signed_out'",
    ],
)
async def test_what_has_ended_is_not_refreshed(
    sessions: Sessions, mina: Account, database: asyncpg.Pool, ending: str
) -> None:
    """An expired session, a deleted account's, a signed-out one's."""
    grant = await sign_in(sessions, mina)
    await database.execute(ending)

    with pytest.raises(RefreshInvalid):
        await refresh(sessions, grant.refresh_token)


async def test_a_session_never_outlives_180_days(sessions: Sessions, mina: Account, database: asyncpg.Pool) -> None:
    """However often it is refreshed."""
    grant = await sign_in(sessions, mina)
    await database.execute("UPDATE sessions SET created_at = created_at - interval '179 days 23 hours'")

    assert 3600 >= (await refresh(sessions, grant.refresh_token)).refresh_expires_in_s


async def test_rotated_keys_refresh_old_tokens(
    database: asyncpg.Pool, keyring: Keyring, old_keyring: Keyring, mina: Account
) -> None:
    """A token made under the older secret is good, and its grace holds across the rotation."""
    before = _sessions(database, old_keyring)
    after = _sessions(database, keyring)
    grant = await sign_in(before, mina)
    rotated = await refresh(before, grant.refresh_token)

    assert rotated.refresh_token == (await refresh(after, grant.refresh_token)).refresh_token
    assert grant.session == (await refresh(after, rotated.refresh_token)).session


async def test_signing_out_is_known_here_at_once(sessions: Sessions, access: AccessTokens, mina: Account) -> None:
    """The access token is refused, though it has minutes left; other devices stay in."""
    phone, laptop = await sign_in(sessions, mina), await sign_in(sessions, mina, "laptop")
    await sessions.sign_out(mina.id, phone.session)

    with pytest.raises(Unauthenticated):
        access.verify(phone.access_token, now_ms())
    assert laptop.session == access.verify(laptop.access_token, now_ms()).session


async def test_signing_out_is_known_elsewhere_at_the_next_tick(
    database: asyncpg.Pool, keyring: Keyring, mina: Account
) -> None:
    """Another process learns of it when it asks, one that starts later as well."""
    here, elsewhere = Revocations(database), Revocations(database)
    sessions = Sessions(database, keyring, AccessTokens(keyring, ISSUER, here), here)
    access = AccessTokens(keyring, ISSUER, elsewhere)
    grant = await sign_in(sessions, mina)
    await elsewhere.tick(now_ms())
    await sessions.sign_out(mina.id, grant.session)
    assert grant.session == access.verify(grant.access_token, now_ms()).session

    tick = await elsewhere.tick(now_ms())

    assert (1, 1) == (tick.added, tick.remembered)
    with pytest.raises(Unauthenticated):
        access.verify(grant.access_token, now_ms())
    assert 1 == (await Revocations(database).tick(now_ms())).added
    assert 0 == (await elsewhere.tick(now_ms())).added


async def test_a_revocation_is_forgotten_with_its_tokens(
    database: asyncpg.Pool, sessions: Sessions, revocations: Revocations, mina: Account
) -> None:
    """What is remembered is bounded by the life of access tokens."""
    await sessions.sign_out(mina.id, (await sign_in(sessions, mina)).session)
    assert 1 == (await revocations.tick(now_ms())).remembered
    await database.execute("UPDATE sessions SET access_until = now()")

    assert 0 == (await revocations.tick(now_ms() + 3_600_000)).remembered
    assert 0 == (await Revocations(database).tick(now_ms())).remembered


async def test_signing_out_everywhere(sessions: Sessions, access: AccessTokens, mina: Account) -> None:
    """Every device is out; nobody else's."""
    grants = [await sign_in(sessions, mina) for _ in range(3)]

    assert 3 == await sessions.sign_out_everywhere(mina.id)
    assert [] == await sessions.page(mina.id, before=None, limit=10)
    for grant in grants:
        with pytest.raises(Unauthenticated):
            access.verify(grant.access_token, now_ms())


async def test_nobody_ends_anothers_session(sessions: Sessions, mina: Account, make_account) -> None:
    """Another's session is as unknown as one that never was."""
    thief = await make_account("thief@example.com")
    grant = await sign_in(sessions, mina)
    for unknown in (grant.session, "0" * 26, "", "\0", "x" * 100_000):
        with pytest.raises(SessionUnknown):
            await sessions.sign_out(thief.id, unknown)

    assert 1 == len(await sessions.page(mina.id, before=None, limit=10))


async def test_sessions_are_listed_newest_first(sessions: Sessions, mina: Account) -> None:
    """A page at a time, by cursor, with what its owner knows a device by."""
    for device in ("phone", "laptop", "전화"):
        await sign_in(sessions, mina, device)
    first = await sessions.page(mina.id, before=None, limit=2)
    rest = await sessions.page(mina.id, before=first[-1].session, limit=2)

    assert ["전화", "laptop", "phone"] == [view.device for view in (*first, *rest)]
    assert {ADDRESS} == {view.address for view in first}


async def test_nothing_of_a_session_is_kept_in_the_clear(
    sessions: Sessions, mina: Account, database: asyncpg.Pool
) -> None:
    """Neither a token, nor where somebody was, nor what the device is called."""
    grant = await sign_in(sessions, mina, "Mina's phone")
    following = await refresh(sessions, grant.refresh_token)
    row = bytes(await database.fetchval("SELECT convert_to(s::text, 'UTF8') FROM sessions s"))
    raw = b"".join(value for value in await database.fetchrow("SELECT * FROM sessions") if isinstance(value, bytes))

    for secret in (grant.refresh_token, following.refresh_token, following.access_token, ADDRESS, "Mina's phone"):
        assert secret.encode() not in row + raw
        assert secret.encode().hex().encode() not in row


def _sessions(database: asyncpg.Pool, keyring: Keyring) -> Sessions:
    revocations = Revocations(database)
    return Sessions(database, keyring, AccessTokens(keyring, ISSUER, revocations), revocations)
