"""The room of who-asks, put together on real stores, and a server with nothing but its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import argon2
import asyncpg
import pytest
from aiohttp import DummyCookieJar, web
from aiohttp.test_utils import TestClient
from mail_kit import MailServer, mail_server
from redis.asyncio import Redis

from onsale.auth import account_handlers, handlers
from onsale.auth.access import AccessTokens
from onsale.auth.accounts import Account, Accounts, normal_email
from onsale.auth.addressbook import AddressBook
from onsale.auth.credentials import Credentials
from onsale.auth.deletion import Deletion
from onsale.auth.identifiers import new_id
from onsale.auth.keys import Keyring
from onsale.auth.letters import Letters
from onsale.auth.mailer import Mailer, MailTick
from onsale.auth.middleware import (
    ACCESS,
    ACCOUNTS,
    ADDRESS_BOOK,
    CODE_TRIES,
    COOKIES,
    CREDENTIALS,
    DELETION,
    LETTER_ASKS,
    PASSES,
    PASSWORDS,
    SESSIONS,
    SIGN_INS,
    SIGN_UPS,
    STREAM_KEYS,
    TICKETS,
    VERIFICATIONS,
    Cookies,
    holder,
    identity,
    identity_or_none,
    identity_renewed,
    require,
)
from onsale.auth.outbox import Outbox
from onsale.auth.passes import Passes
from onsale.auth.passwords import PasswordHasher
from onsale.auth.post import Post
from onsale.auth.recipients import Recipients
from onsale.auth.registrar import Registrar, RegistrarTick
from onsale.auth.requests import reply
from onsale.auth.revocations import Revocations
from onsale.auth.roles import Role
from onsale.auth.sealing import BlindIndex, Sealer
from onsale.auth.sessions import Sessions
from onsale.auth.signups import SignUps
from onsale.auth.streamkeys import StreamEnded, StreamKeys
from onsale.auth.throttle import ACCOUNT_BUDGET, LETTER_ACCOUNT_BUDGET, LETTER_ADDRESS_BUDGET, TryThrottle
from onsale.auth.tickets import Tickets
from onsale.auth.tries import Tries
from onsale.auth.verifications import Verifications
from onsale.lua import Script
from onsale.server.problems import problem_response

ISSUER = "https://shop.example"
EMAIL = "Mina.Kim@Example.com"
PASSWORD = "버터 쿠키 seven boats"
# Cheap on purpose: what is under test is who may in, not how long a hash takes.
PASSWORD_HASH = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)

MakeAccount = Callable[..., Awaitable[Account]]
Deliver = Callable[[], Awaitable[tuple[RegistrarTick, MailTick]]]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def secrets() -> list[bytes]:
    return [b"n" * 32, b"o" * 32]


@pytest.fixture
def keyring(secrets: list[bytes]) -> Keyring:
    return Keyring(secrets)


@pytest.fixture
def old_keyring(secrets: list[bytes]) -> Keyring:
    """The keyring as it was before the last rotation."""
    return Keyring(secrets[1:])


@pytest.fixture
def stranger_keyring() -> Keyring:
    """A keyring of somebody else's."""
    return Keyring([b"s" * 32])


@pytest.fixture
async def passwords() -> AsyncIterator[PasswordHasher]:
    hasher = PasswordHasher()
    yield hasher
    await hasher.close()


@pytest.fixture
def revocations(database: asyncpg.Pool) -> Revocations:
    return Revocations(database)


@pytest.fixture
def access(keyring: Keyring, revocations: Revocations) -> AccessTokens:
    return AccessTokens(keyring, ISSUER, revocations)


@pytest.fixture
def sessions(database: asyncpg.Pool, keyring: Keyring, access: AccessTokens, revocations: Revocations) -> Sessions:
    return Sessions(database, keyring, access, revocations)


@pytest.fixture
def accounts(database: asyncpg.Pool, keyring: Keyring, passwords: PasswordHasher) -> Accounts:
    return Accounts(database, keyring, passwords)


@pytest.fixture
def stream_keys(keyring: Keyring, revocations: Revocations, line_redis: Redis) -> StreamKeys:
    return StreamKeys(keyring, revocations, Script(line_redis, "stream_key_open"), Script(line_redis, "stream_key_end"))


@pytest.fixture
async def mina(make_account: MakeAccount) -> Account:
    """A verified customer with EMAIL and PASSWORD."""
    return await make_account(EMAIL)


@pytest.fixture
def make_account(database: asyncpg.Pool, keyring: Keyring) -> MakeAccount:
    """Makes an account with PASSWORD, in a role, verified or not."""

    async def make(email: str, role: Role = Role.CUSTOMER, is_verified: bool = True) -> Account:
        account = new_id()
        await database.execute(
            "INSERT INTO accounts (id, role, email, email_hash, password_hash, verified_at)"
            " VALUES ($1, $2, $3, $4, $5, CASE WHEN $6 THEN now() END)",
            account,
            role.value,
            Sealer(keyring).seal(normal_email(email).encode(), f"accounts.email:{account}"),
            BlindIndex(keyring, "accounts.email").of(normal_email(email)),
            PASSWORD_HASH,
            is_verified,
        )
        return Account(account, role, is_verified)

    return make


@pytest.fixture
def cookies() -> Cookies:
    """How browsers keep tokens; a test of insecure cookies overrides it."""
    return Cookies(ISSUER)


@pytest.fixture
def app(
    database: asyncpg.Pool,
    passwords: PasswordHasher,
    revocations: Revocations,
    keyring: Keyring,
    access: AccessTokens,
    accounts: Accounts,
    sessions: Sessions,
    stream_keys: StreamKeys,
    cookies: Cookies,
) -> web.Application:
    """The room's routes, four doors that ask who is there, and problem details; budgets are those of strangers."""
    made = web.Application(middlewares=[_problems])
    outbox = Outbox(Sealer(keyring))
    made[ACCESS] = access
    made[ADDRESS_BOOK] = AddressBook(database, keyring)
    made[CODE_TRIES] = TryThrottle(Tries(database, "code", ACCOUNT_BUDGET), ())
    made[CREDENTIALS] = Credentials(database, keyring, passwords, revocations, outbox)
    made[DELETION] = Deletion(database, revocations, [])
    made[LETTER_ASKS] = TryThrottle(Tries(database, "letter", LETTER_ACCOUNT_BUDGET), (), LETTER_ADDRESS_BUDGET)
    made[SIGN_UPS] = SignUps(database, keyring, passwords)
    made[VERIFICATIONS] = Verifications(database, keyring)
    made[ACCOUNTS] = accounts
    made[COOKIES] = cookies
    made[PASSES] = Passes(keyring, ISSUER)
    made[SESSIONS] = sessions
    made[PASSWORDS] = passwords
    made[SIGN_INS] = TryThrottle(Tries(database, "sign_in", ACCOUNT_BUDGET), ())
    made[STREAM_KEYS] = stream_keys
    made[TICKETS] = Tickets(keyring)
    made.add_routes(
        [
            web.post("/v1/sessions", handlers.sign_in),
            web.post("/v1/sessions/refresh", handlers.refresh),
            web.get("/v1/sessions", handlers.list_sessions),
            web.delete("/v1/sessions/current", handlers.sign_out),
            web.delete("/v1/sessions/{session}", handlers.sign_out_session),
            web.delete("/v1/sessions", handlers.sign_out_everywhere),
            web.post("/v1/stream-keys", handlers.create_stream_key),
            web.get("/v1/me", handlers.show_me),
            web.get("/.well-known/jwks.json", handlers.show_keys),
            web.post("/v1/accounts", account_handlers.sign_up),
            web.post("/v1/accounts/verification-codes", account_handlers.send_code),
            web.post("/v1/accounts/verification", account_handlers.verify),
            web.get("/v1/accounts", account_handlers.list_accounts),
            web.post("/v1/password-resets", account_handlers.send_reset),
            web.post("/v1/password-resets/confirmation", account_handlers.reset_password),
            web.put("/v1/me/password", account_handlers.change_password),
            web.patch("/v1/me", account_handlers.change_me),
            web.delete("/v1/me", account_handlers.delete_me),
            web.get("/v1/me/addresses", account_handlers.list_addresses),
            web.post("/v1/me/addresses", account_handlers.add_address),
            web.get("/v1/me/addresses/{address}", account_handlers.show_address),
            web.patch("/v1/me/addresses/{address}", account_handlers.change_address),
            web.delete("/v1/me/addresses/{address}", account_handlers.remove_address),
            web.route("*", "/door", _door),
            web.get("/open-door", _open_door),
            web.get("/page", _page_door),
            web.get("/managers", _managers_door),
            web.get("/tickets/{ticket}", _ticket_door),
            web.get("/tickets/{ticket}/events", _stream_door),
        ]
    )
    return made


@pytest.fixture
async def client(aiohttp_client: Callable[..., Awaitable[TestClient]], app: web.Application) -> TestClient:
    """A client without a cookie jar: a test sends the cookies that it means to send."""
    return await aiohttp_client(app, cookie_jar=DummyCookieJar())


@web.middleware
async def _problems(request: web.Request, handler: Answer) -> web.StreamResponse:
    try:
        return await handler(request)
    except StreamEnded:
        return web.Response(status=204)
    except web.HTTPException:
        raise
    except Exception as error:
        return problem_response(error, language="en", request_id="r")


async def _door(request: web.Request) -> web.Response:
    found = await identity(request)
    return reply(200, {"account": found.account, "via": found.via})


async def _open_door(request: web.Request) -> web.Response:
    found = await identity_or_none(request)
    return reply(200, {"account": found.account if found else None})


async def _page_door(request: web.Request) -> web.Response:
    found, grant = await identity_renewed(request)
    response = reply(200, {"account": found.account if found else None})
    if grant is not None:
        request.app[COOKIES].write(response, grant)
    return response


async def _managers_door(request: web.Request) -> web.Response:
    return reply(200, {"account": (await require(request, Role.MANAGER, Role.MASTER)).account})


async def _ticket_door(request: web.Request) -> web.Response:
    found = await holder(request, request.match_info["ticket"])
    return reply(200, {"account": found.account, "via": found.via})


async def _stream_door(request: web.Request) -> web.Response:
    found = await holder(request, request.match_info["ticket"], is_stream=True)
    return reply(200, {"account": found.account, "via": found.via})


@pytest.fixture
async def mail() -> AsyncIterator[MailServer]:
    """A mail server."""
    async with mail_server() as server:
        yield server


@pytest.fixture
def deliver(database: asyncpg.Pool, keyring: Keyring, mail: MailServer) -> Deliver:
    """The worker's part: answer requests, send what is in the outbox."""
    sealer = Sealer(keyring)
    registrar = Registrar(database, keyring, Outbox(sealer))
    letters = Letters("no-reply@shop.example", ISSUER)
    mailer = Mailer(database, sealer, Post(mail.url), letters, Recipients(database, keyring).of)

    async def worker() -> tuple[RegistrarTick, MailTick]:
        return await registrar.tick(), await mailer.tick()

    return worker
