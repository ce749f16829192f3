"""Accounts: found by a keyed hash, sealed at rest, brought into being in bulk for load."""

from __future__ import annotations

import time

import asyncpg
import pytest

from onsale.auth.access import AccessTokens
from onsale.auth.accounts import Account, Accounts, DemoAccount, ensure_load_accounts, is_email
from onsale.auth.errors import InvalidCredentials, NotFound, Unauthenticated
from onsale.auth.keys import Keyring
from onsale.auth.passwords import PasswordHasher
from onsale.auth.revocations import Revocations
from onsale.auth.roles import Role
from onsale.auth.sessions import Sessions

EMAIL = "Mina.Kim@Example.com"
PASSWORD = "버터 쿠키 seven boats"
DEMO = [
    DemoAccount("buyer@demo.example", "pass-buyer", Role.CUSTOMER, "Bora"),
    DemoAccount("manager@demo.example", "pass-manager", Role.MANAGER, "Manuel"),
]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.mark.parametrize("typed", [EMAIL, EMAIL.lower(), f"  {EMAIL.upper()} ", "mina.kim@example.com"])
async def test_an_address_has_one_meaning(accounts: Accounts, mina: Account, typed: str) -> None:
    """Case, space around and full-width forms make no difference."""
    assert mina == await accounts.check(typed, PASSWORD)


@pytest.mark.parametrize(
    ("email", "password"),
    [
        (EMAIL, "wrong"),
        (EMAIL, ""),
        (EMAIL, PASSWORD + " "),
        (EMAIL, PASSWORD.upper()),
        ("nobody@example.com", PASSWORD),
        ("' OR 1=1 --", PASSWORD),
    ],
)
async def test_wrong_credentials_are_one_answer(accounts: Accounts, mina: Account, email: str, password: str) -> None:
    """Whichever of the two is wrong."""
    with pytest.raises(InvalidCredentials):
        await accounts.check(email, password)


async def test_a_deleted_account_does_not_sign_in(accounts: Accounts, mina: Account, database: asyncpg.Pool) -> None:
    """And the table refuses to keep anything of it."""
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute("UPDATE accounts SET deleted_at = now()")
    await database.execute(
        "UPDATE accounts SET deleted_at = now(), email = NULL, email_hash = NULL, password_hash = NULL"
    )

    with pytest.raises(InvalidCredentials):
        await accounts.check(EMAIL, PASSWORD)
    with pytest.raises(NotFound):
        await accounts.profile(mina.id)


async def test_an_account_survives_two_rotations(
    database: asyncpg.Pool, passwords: PasswordHasher, mina: Account
) -> None:
    """Signing in while both secrets are listed moves the address to the newer, so that the older may go."""
    both = Accounts(database, Keyring([b"3" * 32, b"n" * 32]), passwords)
    newest = Accounts(database, Keyring([b"3" * 32]), passwords)
    with pytest.raises(InvalidCredentials):
        await newest.check(EMAIL, PASSWORD)
    await both.check(EMAIL, PASSWORD)

    assert mina == await newest.check(EMAIL, PASSWORD)
    assert EMAIL.lower() == (await newest.profile(mina.id)).email


async def test_demo_accounts_are_made_once(accounts: Accounts, database: asyncpg.Pool) -> None:
    """Starting again changes nothing; another password or role takes effect."""
    for _ in range(2):
        await accounts.ensure_demo(DEMO)
    buyer = await accounts.check("buyer@demo.example", "pass-buyer")
    manager = await accounts.check("manager@demo.example", "pass-manager")
    await accounts.ensure_demo([DemoAccount("buyer@demo.example", "another", Role.VENDOR, "Bora")])

    assert [Role.CUSTOMER, Role.MANAGER] == [buyer.role, manager.role]
    assert 2 == await database.fetchval("SELECT count(*) FROM accounts")
    assert Account(buyer.id, Role.VENDOR, True) == await accounts.check("buyer@demo.example", "another")
    assert ("Bora", "buyer@demo.example") == (
        (await accounts.profile(buyer.id)).name,
        (await accounts.profile(buyer.id)).email,
    )


async def test_personal_data_is_sealed(accounts: Accounts, database: asyncpg.Pool) -> None:
    """No column shows an address, a name or a password."""
    await accounts.ensure_demo(DEMO)
    rows = await database.fetch("SELECT * FROM accounts")
    everything = b"".join(repr(tuple(row)).encode() for row in rows)

    for secret in (b"buyer@demo", b"Bora", b"pass-buyer"):
        assert secret not in everything


async def test_a_role_is_in_force_at_once(
    accounts: Accounts, sessions: Sessions, database: asyncpg.Pool, keyring: Keyring, mina: Account
) -> None:
    """Tokens that say the old role end with the next tick; the same role again ends nothing."""
    elsewhere = Revocations(database)
    access = AccessTokens(keyring, "https://shop.example", elsewhere)
    grant = await sessions.sign_in(mina, device="", address="::1", now_ms=now_ms())

    assert mina.id == await accounts.set_role(EMAIL, Role.CUSTOMER)
    assert 0 == (await elsewhere.tick(now_ms())).added
    assert mina.id == await accounts.set_role(EMAIL, Role.MANAGER)
    await elsewhere.tick(now_ms())

    with pytest.raises(Unauthenticated):
        access.verify(grant.access_token, now_ms())
    assert Role.MANAGER == (await accounts.check(EMAIL, PASSWORD)).role
    with pytest.raises(NotFound):
        await accounts.set_role("nobody@example.com", Role.MASTER)


async def load_tokens(database: asyncpg.Pool, access: AccessTokens, **asked) -> list[str]:
    wanted = {"count": 3, "first": 1, "ttl_s": 3600, "role": Role.CUSTOMER, "now_ms": now_ms(), **asked}
    return await ensure_load_accounts(database, access, **wanted)


async def test_load_accounts_are_made_when_missing(database: asyncpg.Pool, access: AccessTokens) -> None:
    """Tokens come in order, for accounts of known names; asking again makes nothing new."""
    await load_tokens(database, access)
    tokens = await load_tokens(database, access, count=4, first=2)
    identities = [access.verify(token, now_ms()) for token in tokens]

    assert ["load-000002", "load-000003", "load-000004", "load-000005"] == [each.account for each in identities]
    assert {(Role.CUSTOMER, True)} == {(each.role, each.is_verified) for each in identities}
    assert 5 == await database.fetchval("SELECT count(*) FROM accounts")
    assert 5 == await database.fetchval("SELECT count(*) FROM sessions")


async def test_load_accounts_span_batches(database: asyncpg.Pool, access: AccessTokens) -> None:
    """12,000 accounts, each with a session of its own."""
    tokens = await load_tokens(database, access, count=12_000)

    assert 12_000 == len({access.verify(token, now_ms()).session for token in tokens})


async def test_a_load_token_can_be_ended(
    database: asyncpg.Pool, access: AccessTokens, sessions: Sessions, revocations: Revocations
) -> None:
    """For as long as it would have lived; the next one asked for is good again."""
    (token,) = await load_tokens(database, access, count=1, ttl_s=6 * 3600)
    await sessions.sign_out_everywhere("load-000001")
    await revocations.tick(now_ms() + 5 * 3600 * 1000)

    with pytest.raises(Unauthenticated):
        access.verify(token, now_ms() + 5 * 3600 * 1000)
    (another,) = await load_tokens(database, access, count=1, role=Role.MANAGER)
    assert Role.MANAGER == access.verify(another, now_ms()).role


@pytest.mark.parametrize("text", ["a@b.kr", "mina.kim+drop@example.com", "미나@예시.한국"])
def test_addresses_look_like_addresses(text: str) -> None:
    """Anything a mail server may know."""
    assert is_email(text)


@pytest.mark.parametrize("text", ["", "a", "@", "a@", "@b", "a b@c.d", "a@b@c", "a\n@b.c", "a\0@b.c", "a@" + "b" * 300])
def test_nonsense_is_no_address(text: str) -> None:
    """What cannot be one is told at once."""
    assert not is_email(text)
