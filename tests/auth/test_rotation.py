"""Secrets change while the system runs: everything comes under the newest, and nothing is lost or written over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import TestClient
from mail_kit import MailServer

from onsale.auth.accounts import Accounts
from onsale.auth.addressbook import AddressBook
from onsale.auth.errors import InvalidCredentials
from onsale.auth.keys import Keyring
from onsale.auth.outbox import Outbox, ToAddress
from onsale.auth.passwords import PasswordHasher
from onsale.auth.rotation import COLUMNS, Rotation
from onsale.auth.sealing import SealBroken, Sealer
from onsale.auth.sessions import Sessions

EMAIL = "jun.park@example.com"
PASSWORD = "blue 전차 seven"
HOME = {"recipient": "박준", "line1": "세종대로 1"}
OLD, NEW = b"o" * 32, b"3" * 32

Deliver = Callable[[], Awaitable[Any]]


@pytest.fixture
def secrets() -> list[bytes]:
    """What the application under test runs with: the old one."""
    return [OLD]


def rotation(database: asyncpg.Pool, passwords: PasswordHasher, *listed: bytes, batch_max: int = 500) -> Rotation:
    keyring = Keyring(listed)
    return Rotation(database, keyring, COLUMNS, Accounts(database, keyring, passwords).reseal, batch_max=batch_max)


async def a_person(client: TestClient, deliver: Deliver, mail: MailServer, email: str = EMAIL) -> str:
    """Signs up with everything there is to tell; the account's id."""
    body = {"email": email, "password": PASSWORD, "name": "박준", "phone": "010-1234-5678", "address": HOME}
    await client.post("/v1/accounts", json=body)
    await deliver()
    await client.post("/v1/accounts/verification", json={"email": email, "code": mail.code(email)})
    grant = await (
        await client.post("/v1/sessions", json={"email": email, "password": PASSWORD, "device": "전화"})
    ).json()
    me = await client.get("/v1/me", headers={"Authorization": f"Bearer {grant['access_token']}"})
    return str((await me.json())["account"])


async def test_everything_comes_under_the_newest(
    client: TestClient, database: asyncpg.Pool, passwords: PasswordHasher, deliver: Deliver, mail: MailServer
) -> None:
    """In batches of two; afterwards the old secret is not needed, and a second walk has nothing to do."""
    people = [await a_person(client, deliver, mail, f"p{number}@example.com") for number in range(3)]
    async with database.acquire() as connection, connection.transaction():
        await Outbox(Sealer(Keyring([OLD]))).put(
            connection, kind="password_changed", to=ToAddress(EMAIL, "en"), params={}, once_key="x"
        )
    first = await rotation(database, passwords, NEW, OLD, batch_max=2).run()
    second = await rotation(database, passwords, NEW, OLD).run()
    newest = Keyring([NEW])
    accounts = Accounts(database, newest, passwords)

    done = {each.what: each.renewed for each in first}
    assert {"accounts": 3, "sessions.device": 3, "sessions.address": 3, "outbox.recipient": 1} == {
        name: done[name] for name in ("accounts", "sessions.device", "sessions.address", "outbox.recipient")
    }
    assert [0] * 7 == [each.renewed for each in second]
    assert [0] * 14 == [each.unreadable for each in (*first, *second)]
    for number, person in enumerate(people):
        assert person == (await accounts.check(f"p{number}@example.com", PASSWORD)).id
        assert ("박준", "010-1234-5678") == (
            (await accounts.profile(person)).name,
            (await accounts.profile(person)).phone,
        )
        assert "세종대로 1" == (await AddressBook(database, newest).page(person, before=None, limit=1))[0].address.line1


async def test_what_was_kept_without_a_data_key_gets_one(database: asyncpg.Pool, passwords: PasswordHasher) -> None:
    """Accounts made before there were any: the profile is under the secret itself until the walk."""
    sealer, index = Sealer(Keyring([OLD])), Accounts(database, Keyring([OLD]), passwords)
    await database.execute(
        "INSERT INTO accounts (id, email, email_hash, name, verified_at) VALUES ('old', $1, $2, $3, now())",
        sealer.seal(EMAIL.encode(), "accounts.email:old"),
        index.email_hash(EMAIL),
        sealer.seal("박준".encode(), "accounts.name:old"),
    )
    before = await index.profile("old")
    done = await rotation(database, passwords, NEW, OLD).run()
    after = await Accounts(database, Keyring([NEW]), passwords).profile("old")

    assert ("accounts", 1, 0) == (done[0].what, done[0].renewed, done[0].unreadable)
    assert before == after
    assert await database.fetchval("SELECT get_byte(email, 0) = 2 AND data_key IS NOT NULL FROM accounts")


async def test_what_nobody_can_open_is_counted_and_left(
    client: TestClient, database: asyncpg.Pool, passwords: PasswordHasher, deliver: Deliver, mail: MailServer
) -> None:
    """The old secret is not listed: nothing changes."""
    await a_person(client, deliver, mail)
    before = await database.fetchrow("SELECT * FROM accounts")
    done = {each.what: each for each in await rotation(database, passwords, NEW).run()}

    assert (0, 1) == (done["accounts"].renewed, done["accounts"].unreadable)
    assert (0, 1) == (done["sessions.device"].renewed, done["sessions.device"].unreadable)
    assert before == await database.fetchrow("SELECT * FROM accounts")


async def test_whoever_writes_meanwhile_is_not_written_over(
    client: TestClient,
    database: asyncpg.Pool,
    passwords: PasswordHasher,
    deliver: Deliver,
    mail: MailServer,
    sessions: Sessions,
) -> None:
    """A value that changed between reading and writing stays as it was written."""
    await a_person(client, deliver, mail)
    column = next(each for each in COLUMNS if each.context == "sessions.address")
    session, stale = await database.fetchrow("SELECT id, address FROM sessions")
    written = Sealer(Keyring([NEW, OLD])).seal(b"203.0.113.9", f"sessions.address:{session}")
    await database.execute("UPDATE sessions SET address = $1", written)

    assert None is await database.fetchval(column.renew, session, stale, b"\x01late")
    assert written == await database.fetchval("SELECT address FROM sessions")


async def test_a_value_moved_to_another_row_does_not_open(
    client: TestClient, database: asyncpg.Pool, accounts: Accounts, deliver: Deliver, mail: MailServer
) -> None:
    """Whoever can write to the database cannot give one person another's name, nor their data key."""
    one = await a_person(client, deliver, mail, "one@example.com")
    two = await a_person(client, deliver, mail, "two@example.com")
    await database.execute(
        "UPDATE accounts SET name = (SELECT name FROM accounts WHERE id = $2) WHERE id = $1", one, two
    )
    with pytest.raises(SealBroken):
        await accounts.profile(one)
    await database.execute(
        "UPDATE accounts a SET name = b.name, email = b.email, phone = b.phone, data_key = b.data_key"
        " FROM accounts b WHERE a.id = $1 AND b.id = $2",
        one,
        two,
    )
    with pytest.raises(SealBroken):
        await accounts.profile(one)


async def test_the_newest_alone_finds_nobody_before_the_walk(
    client: TestClient, database: asyncpg.Pool, passwords: PasswordHasher, deliver: Deliver, mail: MailServer
) -> None:
    """What the walk is for."""
    await a_person(client, deliver, mail)
    with pytest.raises(InvalidCredentials):
        await Accounts(database, Keyring([NEW]), passwords).check(EMAIL, PASSWORD)
