"""Signing up, and asking for a letter by naming an address: what is done while the asker waits.

The asker must not learn whether an address has an account, from the answer or from its time. So nothing here looks: a
request is written down, the same row for every address, and the worker (`auth/registrar.py`) looks later. Signing up
costs a password hash and one statement whether the address is free or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import asyncpg
import msgspec

from onsale.auth.accounts import COLUMNS, context, email_index, normal_email
from onsale.auth.datakeys import DataKeys
from onsale.auth.identifiers import new_id
from onsale.auth.keys import Keyring
from onsale.auth.passwordpolicy import normal_password
from onsale.auth.passwords import PasswordHasher, Place
from onsale.auth.requests import Language
from onsale.auth.schemas import Address
from onsale.auth.sealing import Sealer
from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "signups.sql")

LetterKind = Literal["verification", "password_reset"]

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class NewAccount:
    """What somebody signs up with."""

    email: str = field(repr=False)
    password: str = field(repr=False)
    name: str = field(repr=False)
    phone: str = field(repr=False)
    address: Address | None = field(repr=False)
    language: Language


class Payload(msgspec.Struct, frozen=True):
    """What a request says beyond its address: needed where the address belongs to an account nobody has verified yet,
    and for the address book."""

    password_hash: str
    name: str
    phone: str
    address: Address | None


class SignUps:
    """The request path's Postgres port."""

    def __init__(self, pool: asyncpg.Pool, keyring: Keyring, passwords: PasswordHasher) -> None:
        self._pool = pool
        self._sealer = Sealer(keyring)
        self._data_keys = DataKeys(keyring)
        self._index = email_index(keyring)
        self._passwords = passwords

    async def sign_up(self, new: NewAccount, place: Place | None = None) -> None:
        """An account, unless the address has one; a letter in both cases. `place`: the one in the hasher's queue that
        the caller has taken already."""
        request, account, email = new_id(), new_id(), normal_email(new.email)
        password_hash = await (place or self._passwords).hash(normal_password(new.password))
        data_key, sealer = self._data_keys.make(account)
        sealed = [
            sealer.seal(text.encode(), context(column, account))
            for column, text in zip(COLUMNS, (email, new.name, new.phone), strict=True)
        ]
        payload = Payload(password_hash, new.name, new.phone, new.address)
        await self._pool.execute(
            queries.sign_up,
            request,
            account,
            self._sealer.seal(_encoder.encode(payload), payload_context(request)),
            self._index.candidates(email),
            *sealed,
            password_hash,
            data_key,
            new.language,
        )

    async def ask_for(self, kind: LetterKind, email: str, language: Language) -> None:
        """A letter to this address, if anybody has it."""
        hashes = self._index.candidates(normal_email(email))
        await self._pool.execute(queries.letter_request, new_id(), kind, hashes, language)


def payload_context(request: str) -> str:
    """Where a sealed payload belongs."""
    return f"letter_requests.payload:{request}"
