"""Accounts. An e-mail address is found by a keyed hash of its normal form; it, name and phone are sealed at rest."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from onsale.auth.access import AccessTokens
from onsale.auth.errors import InvalidCredentials, NotFound
from onsale.auth.identifiers import new_id
from onsale.auth.keys import Keyring
from onsale.auth.passwords import PasswordHasher
from onsale.auth.roles import Role
from onsale.auth.sealing import BlindIndex, Sealer
from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "accounts.sql")
session_queries = load_queries("onsale.auth", "sessions.sql")

_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]{1,190}")
# Rows at a time: 5,000 accounts with their sessions take Postgres some 100 ms.
_LOAD_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class Account:
    """What signing in needs to know."""

    id: str
    role: Role
    is_verified: bool


@dataclass(frozen=True, slots=True)
class Profile:
    """What an account's owner may read of it. Empty = none given."""

    account: str
    role: Role
    is_verified: bool
    email: str
    name: str
    phone: str
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
        self._sealer = Sealer(keyring)
        self._index = BlindIndex(keyring, "accounts.email")
        self._passwords = passwords

    def email_hash(self, email: str) -> bytes:
        """What stands for an address where the address itself must not: in budgets, in look-ups."""
        return self._index.of(normal_email(email))

    async def named(self, email: str) -> str | None:
        """The id of the account with this address; None for no such account."""
        row = await self._by_email(email)
        return None if row is None else str(row["id"])

    async def check(self, email: str, password: str) -> Account:
        """The account with this address and password. InvalidCredentials after the same work, whichever is wrong."""
        row = await self._by_email(email)
        is_right = await self._passwords.verify(row["password_hash"] if row else None, normal_password(password))
        if row is None or not is_right:
            raise InvalidCredentials
        await self._rehash(row["id"], email)
        return Account(row["id"], Role(row["role"]), row["is_verified"])

    async def profile(self, account: str) -> Profile:
        """NotFound when it was deleted."""
        row = await self._pool.fetchrow(queries.account_show, account)
        if row is None:
            raise NotFound
        return Profile(
            account=row["id"],
            role=Role(row["role"]),
            is_verified=row["is_verified"],
            email=self._unsealed(row, "email"),
            name=self._unsealed(row, "name"),
            phone=self._unsealed(row, "phone"),
            created_at=row["created_at"],
        )

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
        await self._pool.fetchrow(
            queries.account_insert,
            account,
            wanted.role.value,
            self._sealed("email", account, normal_email(wanted.email)),
            self.email_hash(wanted.email),
            self._sealed("name", account, wanted.name),
            password_hash,
            True,
        )

    async def _by_email(self, email: str) -> asyncpg.Record | None:
        return await self._pool.fetchrow(queries.account_by_email, self._index.candidates(normal_email(email)))

    async def _rehash(self, account: str, email: str) -> None:
        """After a rotation of keys: the hash under an older one would be lost with it."""
        email = normal_email(email)
        if len(self._index.candidates(email)) > 1:
            await self._pool.execute(
                queries.email_rehash, account, self._index.of(email), self._sealed("email", account, email)
            )

    def _sealed(self, column: str, account: str, text: str) -> bytes:
        return self._sealer.seal(text.encode(), _context(column, account))

    def _unsealed(self, row: asyncpg.Record, column: str) -> str:
        sealed = row[column]
        return "" if sealed is None else self._sealer.open(sealed, _context(column, row["id"])).decode()


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


def normal_password(password: str) -> str:
    """The same password typed on another keyboard (NIST SP 800-63B §5.1.1.2)."""
    return unicodedata.normalize("NFKC", password)


def _context(column: str, account: str) -> str:
    return f"accounts.{column}:{account}"
