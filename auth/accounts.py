"""Accounts. An e-mail address is found by a keyed hash of its normal form; it, name and phone are sealed at rest."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from onsale.auth.access import AccessTokens
from onsale.auth.datakeys import DataKeys, PersonalSealer
from onsale.auth.errors import InvalidCredentials, NotFound, StoreUnavailable
from onsale.auth.identifiers import new_id
from onsale.auth.keys import Keyring
from onsale.auth.passwordpolicy import normal_password
from onsale.auth.passwords import PasswordHasher, Place
from onsale.auth.requests import Language
from onsale.auth.roles import Role
from onsale.auth.sealing import BlindIndex
from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "accounts.sql")
session_queries = load_queries("onsale.auth", "sessions.sql")

_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]{1,190}")
# What is sealed of an account.
COLUMNS = ("email", "name", "phone")
# Rows at a time: 5,000 accounts with their sessions take Postgres some 100 ms.
_LOAD_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class Account:
    """What signing in needs to know. `password_hash`: what the password was found right against; a session begins only
    while it is still the account's."""

    id: str
    role: Role
    is_verified: bool
    password_hash: str | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Profile:
    """What an account's owner may read of it. Empty = none given."""

    account: str
    role: Role
    is_verified: bool
    email: str
    name: str
    phone: str
    language: Language
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DemoAccount:
    """One account that `onsale up` brings, with a password that its caller made."""

    email: str
    password: str = field(repr=False)
    role: Role
    name: str


class Accounts:
    """The accounts' Postgres port."""

    def __init__(self, pool: asyncpg.Pool, keyring: Keyring, passwords: PasswordHasher) -> None:
        self._pool = pool
        self._data_keys = DataKeys(keyring)
        self._index = email_index(keyring)
        self._passwords = passwords

    def email_hash(self, email: str) -> bytes:
        """What stands for an address where the address itself must not: in budgets, in look-ups."""
        return self._index.of(normal_email(email))

    async def named(self, email: str) -> str | None:
        """The id of the account with this address; None for no such account."""
        row = await self._by_email(email)
        return None if row is None else str(row["id"])

    async def check(self, email: str, password: str, place: Place | None = None) -> Account:
        """The account with this address and password. InvalidCredentials after the same work, whichever is wrong.
        `place`: the one in the hasher's queue that the caller has taken already."""
        asked = place or self._passwords
        row = await self._by_email(email)
        stored = row["password_hash"] if row else None
        checked = await asked.check(stored, normal_password(password))
        if row is None or not checked.is_right:
            raise InvalidCredentials
        if checked.is_weak:
            stored = await self._renew(row["id"], stored, await asked.hash(normal_password(password)))
        # After a rotation of keys: what is under an older one would be lost with it.
        if row["email_hash"] != self.email_hash(email) or not self._data_keys.is_current(row["data_key"]):
            await self.reseal(row["id"])
        return Account(row["id"], Role(row["role"]), row["is_verified"], stored)

    async def profile(self, account: str) -> Profile:
        """NotFound when it was deleted."""
        row = await self._pool.fetchrow(queries.account_show, account)
        if row is None:
            raise NotFound
        return self._profile(row)

    async def page(self, *, after: str | None, email: str | None, limit: int) -> Sequence[Profile]:
        """Living accounts, newest first, older than the account `after`; only the one of an address, where one is
        named."""
        hashes = None if email is None else self._index.candidates(normal_email(email))
        return [self._profile(row) for row in await self._pool.fetch(queries.accounts_page, after, hashes, limit)]

    async def change(
        self, account: str, *, name: str | None = None, phone: str | None = None, language: Language | None = None
    ) -> Profile:
        """Change what is given; the profile as it is then. NotFound when it was deleted."""
        data_key, sealer = await self._key_of(account)
        sealed = [
            None if text is None else sealer.seal(text.encode(), context(column, account))
            for column, text in (("name", name), ("phone", phone))
        ]
        if not await self._pool.fetchval(queries.account_change, account, data_key, *sealed, language):
            # Between the two its keys were rotated: once in a rotation, and the next try finds the new one.
            raise StoreUnavailable
        return await self.profile(account)

    async def reseal(self, account: str) -> bool:
        """Bring what is kept of an account under the newest secret, and what was kept without one under a data key of
        its own. False when there was nothing to do, or no such account."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(queries.account_reseal_show, account)
            if row is None or row["email"] is None:
                return False
            email_hash = self._index.of(self._unsealed(row, "email"))
            if self._data_keys.is_current(row["data_key"]) and row["email_hash"] == email_hash:
                return False
            columns = [row[column] for column in COLUMNS]
            if row["data_key"] is not None:
                data_key = self._data_keys.renewed(account, row["data_key"])
            else:
                data_key, sealer = self._data_keys.make(account)
                columns = [
                    None if row[column] is None else sealer.seal(self._unsealed(row, column).encode(), at)
                    for column, at in ((column, context(column, account)) for column in COLUMNS)
                ]
            await connection.execute(queries.account_reseal, account, email_hash, data_key, *columns)
        return True

    async def set_role(self, email: str, role: Role) -> str:
        """Change a role and end the account's sessions, whose tokens say the old one. NotFound for no such account."""
        row = await self._by_email(email)
        if row is None:
            raise NotFound
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchrow(queries.account_set_role, row["id"], role.value):
                await connection.fetch(session_queries.sessions_revoke_all, row["id"], "role")
        return str(row["id"])

    async def ensure_demo(self, demo: Sequence[DemoAccount]) -> None:
        """Bring these accounts into being; existing ones get the password and the role again if they differ."""
        for wanted in demo:
            row = await self._by_email(wanted.email)
            password = normal_password(wanted.password)
            if row is None:
                await self._insert(wanted, await self._passwords.hash(password))
            elif row["role"] != wanted.role or not await self._passwords.verify(row["password_hash"], password):
                await self._pool.execute(
                    queries.account_restore, row["id"], wanted.role.value, await self._passwords.hash(password)
                )

    async def _insert(self, wanted: DemoAccount, password_hash: str) -> None:
        account = new_id()
        data_key, sealer = self._data_keys.make(account)
        await self._pool.fetchrow(
            queries.account_insert,
            account,
            wanted.role.value,
            sealer.seal(normal_email(wanted.email).encode(), context("email", account)),
            self.email_hash(wanted.email),
            sealer.seal(wanted.name.encode(), context("name", account)),
            password_hash,
            data_key,
        )

    async def _by_email(self, email: str) -> asyncpg.Record | None:
        return await self._pool.fetchrow(queries.account_by_email, self._index.candidates(normal_email(email)))

    async def _renew(self, account: str, stored: str | None, renewed: str) -> str | None:
        """Keep a password under today's parameters; the hash that is kept then."""
        won = await self._pool.fetchval(queries.password_renew, account, stored, renewed)
        return renewed if won else stored

    async def _key_of(self, account: str) -> tuple[bytes | None, PersonalSealer]:
        row = await self._pool.fetchrow(queries.account_data_key, account)
        if row is None:
            raise NotFound
        return row["data_key"], self._data_keys.of(account, row["data_key"])

    def _profile(self, row: asyncpg.Record) -> Profile:
        return Profile(
            account=row["id"],
            role=Role(row["role"]),
            is_verified=row["is_verified"],
            email=self._unsealed(row, "email"),
            name=self._unsealed(row, "name"),
            phone=self._unsealed(row, "phone"),
            language=row["language"],
            created_at=row["created_at"],
        )

    def _unsealed(self, row: asyncpg.Record, column: str) -> str:
        sealed, account = row[column], row["id"]
        if sealed is None:
            return ""
        return self._data_keys.of(account, row["data_key"]).open(sealed, context(column, account)).decode()


async def ensure_load_accounts(
    pool: asyncpg.Pool,
    access: AccessTokens,
    *,
    count: int,
    first: int,
    ttl_s: int,
    role: Role,
    now_ms: int,
) -> list[str]:
    """Access tokens of the accounts load-000001, …, in order from number `first`; made in bulk when missing.

    They have no password and no address; each token belongs to a session that can be ended like any other.
    """
    tokens: list[str] = []
    for start in range(first, first + count, _LOAD_ROWS):
        accounts = [f"load-{number:06d}" for number in range(start, min(start + _LOAD_ROWS, first + count))]
        sessions = await _ensure_load_rows(pool, accounts, ttl_s, role)
        tokens += [
            access.mint(
                account=account, role=role, session=sessions[account], is_verified=True, now_ms=now_ms, ttl_s=ttl_s
            )
            for account in accounts
        ]
    return tokens


async def _ensure_load_rows(pool: asyncpg.Pool, accounts: list[str], ttl_s: int, role: Role) -> dict[str, str]:
    """One living session for each account, by account."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(queries.load_accounts_ensure, accounts, role.value)
        ids = [new_id() for _ in accounts]
        await connection.execute(session_queries.load_sessions_ensure, accounts, ids, ttl_s)
        rows = await connection.fetch(session_queries.load_sessions_extend, accounts, ttl_s)
    return {row["account"]: row["id"] for row in rows}


def normal_email(email: str) -> str:
    """One spelling of an address: compatibility forms folded, no case, no space around. Not checked for sense."""
    return unicodedata.normalize("NFKC", email).strip().casefold()


def is_email(text: str) -> bool:
    """Whether it has the shape of an address; only a letter to it can tell more."""
    return _EMAIL.fullmatch(text) is not None


def email_in_query(text: str) -> str:
    """An address that somebody is looked up by. Raises ValueError."""
    if not is_email(normal_email(text)):
        raise ValueError("no e-mail address")
    return text


def email_index(keyring: Keyring) -> BlindIndex:
    """How accounts are found by their address."""
    return BlindIndex(keyring, "accounts.email")


def context(column: str, account: str) -> str:
    """Where a sealed column belongs."""
    return f"accounts.{column}:{account}"
