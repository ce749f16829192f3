"""Signing in and out over HTTP: decode, one call, encode."""

from __future__ import annotations

import time
from datetime import datetime

import msgspec
from aiohttp import web

from onsale.auth.accounts import Profile
from onsale.auth.errors import InvalidCredentials, RefreshInvalid
from onsale.auth.identifiers import is_id
from onsale.auth.middleware import (
    ACCOUNTS,
    COOKIES,
    PASSES,
    PASSWORDS,
    SESSIONS,
    SIGN_INS,
    STREAM_KEYS,
    cookie,
    identity,
    require_same_origin,
)
from onsale.auth.requests import PAGE_LIMIT_DEFAULT, body, body_or, client_address, page_limit, query, reply, rfc3339
from onsale.auth.schemas import (
    KeySet,
    Me,
    PublicKey,
    Refresh,
    SessionGrant,
    SessionList,
    SessionReply,
    SignIn,
    StreamKeyReply,
)
from onsale.auth.sessions import Grant, SessionView
from onsale.auth.streamkeys import STREAM_KEY_TTL_S

NO_STORE = {"Cache-Control": "no-store"}
SIGN_IN = msgspec.json.Decoder(SignIn)
REFRESH = msgspec.json.Decoder(Refresh)


async def sign_in(request: web.Request) -> web.Response:
    """A new session, for the right password."""
    query(request)
    asked = await body(request, SIGN_IN)
    if asked.cookies and _is_from_browser(request):
        require_same_origin(request)
    grant = await open_session(request, asked.email, asked.password, asked.device)
    return _granted(request, 201, grant, into_cookies=asked.cookies)


async def open_session(request: web.Request, email: str, password: str, device: str) -> Grant:
    """A session for the right password, within the budgets of the account and the address. InvalidCredentials,
    TooManyRequests."""
    address, at_ms = client_address(request), now_ms()
    accounts, throttle = request.app[ACCOUNTS], request.app[SIGN_INS]
    # First the queue for a hash, which costs nothing to refuse; then the budgets, one of which is written down.
    with request.app[PASSWORDS].place() as place:
        async with throttle.trying(accounts.email_hash(email), address, at_ms, wrong=InvalidCredentials):
            account = await accounts.check(email, password, place)
    return await request.app[SESSIONS].sign_in(account, device=device, address=address, now_ms=now_ms())


async def refresh(request: web.Request) -> web.Response:
    """The next pair of tokens, for the refresh token in the body or in the cookie; the answer goes the same way."""
    query(request)
    asked = await body_or(request, REFRESH, Refresh())
    token = asked.refresh_token or cookie(request, request.app[COOKIES].refresh)
    if not token:
        raise RefreshInvalid
    into_cookies = not asked.refresh_token
    if into_cookies:
        require_same_origin(request)
    grant = await request.app[SESSIONS].refresh(token, address=client_address(request), now_ms=now_ms())
    return _granted(request, 200, grant, into_cookies=into_cookies)


async def list_sessions(request: web.Request) -> web.Response:
    """Where this account is signed in, newest first."""
    found = await identity(request, unverified=True)
    asked = query(request, limit=page_limit, cursor=id_cursor)
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    views = await request.app[SESSIONS].page(found.account, before=asked.get("cursor"), limit=limit + 1)
    page = [_session_reply(view, found.session) for view in views[:limit]]
    return reply(200, SessionList(page, page[-1].session if len(views) > limit else None), NO_STORE)


async def sign_out(request: web.Request) -> web.Response:
    """End the session that asks."""
    query(request)
    found = await identity(request, unverified=True)
    await request.app[SESSIONS].sign_out(found.account, found.session)
    return signed_out(request)


async def sign_out_session(request: web.Request) -> web.Response:
    """End one session of this account; again is as good as once."""
    query(request)
    found = await identity(request, unverified=True)
    await request.app[SESSIONS].sign_out(found.account, request.match_info["session"])
    return signed_out(request) if request.match_info["session"] == found.session else web.Response(status=204)


async def sign_out_everywhere(request: web.Request) -> web.Response:
    """End every session of this account, this one too."""
    query(request)
    found = await identity(request, unverified=True)
    await request.app[SESSIONS].sign_out_everywhere(found.account)
    return signed_out(request)


async def create_stream_key(request: web.Request) -> web.Response:
    """A key for one event stream, for clients that can send no header; a ticket's token gets one for its ticket."""
    query(request)
    found = await identity(request, by_ticket=True)
    key = request.app[STREAM_KEYS].issue(found, now_ms())
    # The key is no resource to be fetched; the location is where keys are made.
    return reply(201, StreamKeyReply(key, STREAM_KEY_TTL_S), {**NO_STORE, "Location": "/v1/stream-keys"})


async def show_me(request: web.Request) -> web.Response:
    """The account that asks."""
    query(request)
    found = await identity(request, unverified=True)
    return reply(200, me(await request.app[ACCOUNTS].profile(found.account)), NO_STORE)


async def show_keys(request: web.Request) -> web.Response:
    """The public keys of passes."""
    query(request)
    keys = [PublicKey(**key) for key in request.app[PASSES].jwks()["keys"]]
    return reply(200, KeySet(keys), {"Cache-Control": "public, max-age=300"})


def _granted(request: web.Request, status: int, grant: Grant, *, into_cookies: bool) -> web.Response:
    answer = SessionGrant(session=grant.session, token_type="Bearer", expires_in=grant.expires_in_s)  # noqa: S106
    if not into_cookies:
        answer = msgspec.structs.replace(answer, access_token=grant.access_token, refresh_token=grant.refresh_token)
    headers = {**NO_STORE, "Location": f"/v1/sessions/{grant.session}"} if status == 201 else NO_STORE
    response = reply(status, answer, headers)
    if into_cookies:
        request.app[COOKIES].write(response, grant)
    return response


def me(profile: Profile) -> Me:
    """A profile as its owner reads it."""
    return Me(
        account=profile.account,
        role=profile.role,
        verified=profile.is_verified,
        email=profile.email,
        name=profile.name,
        phone=profile.phone,
        language=profile.language,
        created_at=instant(profile.created_at),
    )


def signed_out(request: web.Request) -> web.Response:
    """204; a browser's cookies are taken back."""
    response = web.Response(status=204)
    if cookie(request, request.app[COOKIES].access):
        request.app[COOKIES].clear(response)
    return response


def _session_reply(view: SessionView, current: str) -> SessionReply:
    return SessionReply(
        session=view.session,
        device=view.device,
        address=view.address,
        current=view.session == current,
        created_at=instant(view.created_at),
        last_used_at=instant(view.used_at),
        expires_at=instant(view.expires_at),
    )


def _is_from_browser(request: web.Request) -> bool:
    return "Origin" in request.headers or "Sec-Fetch-Site" in request.headers


def id_cursor(text: str) -> str:
    """A cursor that is one of our ids. ValueError otherwise."""
    if not is_id(text):
        raise ValueError("not a cursor of ours")
    return text


def instant(at: datetime) -> str:
    """RFC 3339."""
    return rfc3339(int(at.timestamp() * 1000))


def now_ms() -> int:
    """This machine's clock."""
    return time.time_ns() // 1_000_000
