"""Answers requests for letters: looks who has the address, and writes the letter that fits. Run by the worker.

One transaction takes a request, writes its code or token and puts the letter into the outbox, so a request is answered
once whatever dies. Any number may tick.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg
import msgspec
import structlog

from onsale.auth.accounts import context
from onsale.auth.addressbook import AddressBook
from onsale.auth.datakeys import DataKeys
from onsale.auth.keys import Keyring
from onsale.auth.outbox import Outbox, ToAccount
from onsale.auth.resets import RESET_TTL_S, new_token, token_hash
from onsale.auth.sealing import SealBroken, Sealer
from onsale.auth.signups import Payload, payload_context
from onsale.auth.verifications import CODE_TTL_S, Verifications
from onsale.migrations.sql import load_queries

log = structlog.get_logger()
queries = load_queries("onsale.auth", "registrar.sql")

REGISTRAR_INTERVAL_MS = 250
BATCH_MAX = 50
# An account's letters an hour, however many processes and addresses ask: nobody fills another's mailbox through us.
LETTERS_AN_HOUR_MAX = 12
_KINDS = ("verification", "password_reset", "account_exists")

Said = dict[str, str | int]

_payload = msgspec.json.Decoder(Payload)


@dataclass(frozen=True, slots=True)
class RegistrarTick:
    """Requests answered with a letter, and those that were not: nobody has the address, or had too many. `more`: others
    wait."""

    answered: int = 0
    dropped: int = 0
    more: bool = False


class Registrar:
    """`tick()` in every worker."""

    def __init__(self, pool: asyncpg.Pool, keyring: Keyring, outbox: Outbox, *, batch_max: int = BATCH_MAX) -> None:
        self._pool = pool
        self._sealer = Sealer(keyring)
        self._data_keys = DataKeys(keyring)
        self._verifications = Verifications(pool, keyring)
        self._addresses = AddressBook(pool, keyring)
        self._outbox = outbox
        self._batch_max = batch_max

    async def tick(self) -> RegistrarTick:
        """A batch, the oldest first."""
        answered = 0
        async with self._pool.acquire() as connection, connection.transaction():
            requests = await connection.fetch(queries.requests_take, self._batch_max)
            # By address first: two workers that meet the same accounts lock them in one order.
            for request in sorted(requests, key=lambda each: (each["email_hashes"][0], each["id"])):
                answered += await self._answer(connection, request)
        return RegistrarTick(answered, len(requests) - answered, more=len(requests) == self._batch_max)

    async def _answer(self, connection: asyncpg.Connection, request: asyncpg.Record) -> bool:
        """Whether a letter was written."""
        account = await connection.fetchrow(queries.account_asked_for, request["email_hashes"], _KINDS)
        if account is None:
            return False
        try:
            # A savepoint: a request that cannot be read takes nothing of the others back.
            async with connection.transaction():
                if request["kind"] == "sign_up" and not account["is_verified"]:
                    await self._register(connection, request, account)
                if account["letters"] >= LETTERS_AN_HOUR_MAX:
                    log.warning("mail.withheld", account=account["id"], kind=request["kind"])
                    return False
                return await self._write(connection, request, account)
        except SealBroken:
            log.error("request.unreadable", kind=request["kind"], error="SealBroken")
            return False

    async def _register(self, connection: asyncpg.Connection, request: asyncpg.Record, account: asyncpg.Record) -> None:
        """What a sign-up said beyond what was written at once."""
        payload = _payload.decode(self._sealer.open(request["payload"], payload_context(request["id"])))
        if request["account"] != account["id"]:
            sealer = self._data_keys.of(account["id"], account["data_key"])
            sealed = [
                sealer.seal(text.encode(), context(column, account["id"]))
                for column, text in (("name", payload.name), ("phone", payload.phone))
            ]
            changed = (payload.password_hash, *sealed, request["language"])
            await connection.execute(queries.account_replace, account["id"], *changed)
            await connection.execute(queries.sessions_replace, account["id"])
        if payload.address is not None:
            await self._addresses.replace_all(connection, account["id"], account["data_key"], payload.address)

    async def _write(self, connection: asyncpg.Connection, request: asyncpg.Record, account: asyncpg.Record) -> bool:
        """The letter that fits; False for none."""
        if request["kind"] == "password_reset":
            token = new_token()
            await connection.execute(queries.reset_issue, token_hash(token), account["id"], RESET_TTL_S)
            said: Said = {"token": token, "minutes": RESET_TTL_S // 60}
            return await self._put(connection, request, account, "password_reset", said, RESET_TTL_S)
        if not account["is_verified"]:
            code = await self._verifications.issue(connection, request["email_hashes"][0])
            said = {"code": code, "minutes": CODE_TTL_S // 60}
            return await self._put(connection, request, account, "verification", said, CODE_TTL_S)
        if request["kind"] == "sign_up":
            return await self._put(connection, request, account, "account_exists", {}, CODE_TTL_S)
        return False

    async def _put(
        self,
        connection: asyncpg.Connection,
        request: asyncpg.Record,
        account: asyncpg.Record,
        kind: str,
        said: Said,
        expires_after_s: int,
    ) -> bool:
        return await self._outbox.put(
            connection,
            kind=kind,
            to=ToAccount(account["id"], request["language"]),
            params=said,
            once_key=f"{kind}:{request['id']}",
            expires_after_s=expires_after_s,
        )
