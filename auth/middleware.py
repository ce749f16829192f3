"""Who asks: by bearer header, by cookie, or by stream key where a stream may be opened. Handlers call these functions.

A ticket's token speaks for its one ticket and nothing else, so it is believed only where a handler says so. A write by
cookie must come from our own pages: a browser says where a request comes from, and another site cannot make it lie.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

from onsale.auth.access import AccessTokens
from onsale.auth.accounts import Accounts
from onsale.auth.addressbook import AddressBook
from onsale.auth.credentials import Credentials
from onsale.auth.deletion import Deletion
from onsale.auth.errors import CrossSite, EmailUnverified, Forbidden, NotFound, RefreshInvalid, Unauthenticated
from onsale.auth.identity import Identity as Identity
from onsale.auth.passes import Passes
from onsale.auth.passwords import PasswordHasher
from onsale.auth.requests import client_address
from onsale.auth.roles import Role
from onsale.auth.sessions import Grant, Sessions
from onsale.auth.signups import SignUps
from onsale.auth.streamkeys import StreamKeys
from onsale.auth.throttle import TryThrottle
from onsale.auth.tickets import Tickets, is_ticket_token
from onsale.auth.verifications import Verifications

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Cookies:
    """How browsers keep their tokens. `public_url` is our own origin; `is_insecure` is for plain http off loopback."""

    public_url: str
    is_insecure: bool = False

    @property
    def access(self) -> str:
        return "onsale-access" if self.is_insecure else "__Host-onsale-access"

    @property
    def refresh(self) -> str:
        return "onsale-refresh" if self.is_insecure else "__Host-onsale-refresh"

    def write(self, response: web.StreamResponse, grant: Grant) -> None:
        """Hand both tokens to the browser, for as long as each is good."""
        self._set(response, self.access, grant.access_token, grant.expires_in_s)
        self._set(response, self.refresh, grant.refresh_token, grant.refresh_expires_in_s)

    def clear(self, response: web.StreamResponse) -> None:
        """Take both back."""
        self._set(response, self.access, "", 0)
        self._set(response, self.refresh, "", 0)

    def _set(self, response: web.StreamResponse, name: str, value: str, max_age_s: int) -> None:
        response.set_cookie(
            name, value, max_age=max_age_s, path="/", secure=not self.is_insecure, httponly=True, samesite="Lax"
        )


ACCESS = web.AppKey("access", AccessTokens)
ACCOUNTS = web.AppKey("accounts", Accounts)
ADDRESS_BOOK = web.AppKey("address_book", AddressBook)
CODE_TRIES = web.AppKey("code_tries", TryThrottle)
COOKIES = web.AppKey("cookies", Cookies)
CREDENTIALS = web.AppKey("credentials", Credentials)
DELETION = web.AppKey("deletion", Deletion)
LETTER_ASKS = web.AppKey("letter_asks", TryThrottle)
PASSES = web.AppKey("passes", Passes)
PASSWORDS = web.AppKey("passwords", PasswordHasher)
SESSIONS = web.AppKey("sessions", Sessions)
SIGN_INS = web.AppKey("sign_ins", TryThrottle)
SIGN_UPS = web.AppKey("sign_ups", SignUps)
STREAM_KEYS = web.AppKey("stream_keys", StreamKeys)
TICKETS = web.AppKey("tickets", Tickets)
VERIFICATIONS = web.AppKey("verifications", Verifications)


async def identity(
    request: web.Request, *, is_stream: bool = False, by_ticket: bool = False, unverified: bool = False
) -> Identity:
    """Who asks.

    `is_stream`: a stream key is taken too; `by_ticket`: a ticket's token is (its `ticket` is then set); `unverified`:
    an account whose e-mail address is not verified yet may ask. Raises Unauthenticated, EmailUnverified, CrossSite, and
    for a stream key StreamEnded.
    """
    found = await _presented(request, is_stream, by_ticket)
    if found is None:
        raise Unauthenticated
    if not found.is_verified and not unverified:
        raise EmailUnverified
    return found


async def identity_or_none(request: web.Request) -> Identity | None:
    """Who asks, where nobody has to: None when nothing was presented, or only a cookie that is no longer good.

    A bearer token that is not good raises Unauthenticated all the same: its sender believes to be signed in.
    """
    try:
        return await _presented(request, is_stream=False, by_ticket=False)
    except Unauthenticated:
        if "Authorization" in request.headers:
            raise
        return None


async def identity_renewed(request: web.Request) -> tuple[Identity | None, Grant | None]:
    """Who looks at a page: the access cookie, and where that has run out the refresh cookie.

    An access cookie from before the address was verified would go on saying so for minutes: it is renewed as well.
    A grant must be written to the response (`Cookies.write`): the refresh token in the browser is used up.
    """
    found = await identity_or_none(request)
    token = cookie(request, request.app[COOKIES].refresh)
    if token is None or (found is not None and found.is_verified):
        return found, None
    now_ms = _now_ms()
    try:
        grant = await request.app[SESSIONS].refresh(token, address=client_address(request), now_ms=now_ms)
    except RefreshInvalid:
        return found, None
    return request.app[ACCESS].verify(grant.access_token, now_ms, via="cookie"), grant


async def require(request: web.Request, *roles: Role) -> Identity:
    """Who asks, if it has one of the roles (any, where none is named). Raises Forbidden as well."""
    found = await identity(request)
    if roles and found.role not in roles:
        raise Forbidden
    return found


async def holder(request: web.Request, ticket_id: str, *, is_stream: bool = False) -> Identity:
    """The buyer who holds this ticket, shown by its token or by the buyer's own. NotFound when it is another's."""
    found = await identity(request, is_stream=is_stream, by_ticket=True)
    tickets = request.app[TICKETS]
    # The id itself says whose it is: it was made for one buyer.
    if found.ticket not in ("", ticket_id) or not tickets.belongs(ticket_id, found.account):
        raise NotFound
    return found


def require_same_origin(request: web.Request) -> None:
    """Raises CrossSite unless the browser says that the request comes from our own pages."""
    site = request.headers.get("Sec-Fetch-Site")
    # Where the browser says both, this one decides: a page without a referrer sends `Origin: null` to its own site.
    if site == "same-origin":
        return
    if site is not None or request.headers.get("Origin") not in _own_origins(request):
        raise CrossSite


def cookie(request: web.Request, name: str) -> str | None:
    """One cookie's value. Read by hand: the library's parser reads all of them and costs more than the whole poll."""
    for part in request.headers.get("Cookie", "").split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value or None
    return None


async def _presented(request: web.Request, is_stream: bool, by_ticket: bool) -> Identity | None:
    authorization = request.headers.get("Authorization")
    if authorization is not None:
        return _by_bearer(request, authorization, by_ticket)
    if is_stream and "stream_key" in request.query:
        return await request.app[STREAM_KEYS].open(request.query["stream_key"], request.path, _now_ms())
    return _by_cookie(request)


def _by_bearer(request: web.Request, authorization: str, by_ticket: bool) -> Identity:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated
    if not is_ticket_token(token):
        return request.app[ACCESS].verify(token, _now_ms())
    if not by_ticket:
        raise Unauthenticated
    facts, buyer = request.app[TICKETS].read_token(token)
    # Whoever was let into the line was let in verified, or as a guest where the sale takes guests.
    return Identity(buyer, Role.CUSTOMER, session="", is_verified=True, via="ticket", ticket=facts.ticket)


def _by_cookie(request: web.Request) -> Identity | None:
    token = cookie(request, request.app[COOKIES].access)
    if token is None:
        return None
    found = request.app[ACCESS].verify(token, _now_ms(), via="cookie")
    if request.method not in SAFE_METHODS:
        require_same_origin(request)
    return found


def _own_origins(request: web.Request) -> tuple[str, ...]:
    public = urlsplit(request.app[COOKIES].public_url)
    origin = f"{public.scheme}://{public.netloc}"
    # In development one machine has many names. Never under https: a page on plain http is not ours then.
    return (origin,) if public.scheme == "https" else (origin, f"http://{request.host}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
