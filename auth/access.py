"""Access tokens: short-lived JWTs (HS256) that say who asks without asking a store.

As with passes, the header of every token we make is one of a few known texts, one a key; a token with any other header
is refused unread. The audience and the type are no other token's. A token seen before costs one dictionary look-up, a
comparison with the clock and one with the revoked sessions.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Container
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import jwt
import msgspec

from onsale.auth.compact import Compact, NotCompact, split, to_base64url
from onsale.auth.errors import Unauthenticated
from onsale.auth.identity import Identity
from onsale.auth.keys import Keyring
from onsale.auth.roles import Role

# 10 minutes: what a process that never hears of a revocation could be fooled for; refreshing costs one round trip.
ACCESS_TTL_S = 600
JWT_TYPE = "onsale-access+jwt"
_ALGORITHM = "HS256"
_AUDIENCE = "onsale"
# A token and what it says take about 1.5 kB: 50 MB at most, and a second is enough to fill a cold one again.
_CACHE_MAX = 32_768


class _Claims(msgspec.Struct, frozen=True):
    """What a token of ours says; `iat` is for others to read."""

    iss: str
    aud: str
    sub: str
    sid: str
    role: Role
    verified: bool
    iat: int
    exp: int


_decode = msgspec.json.Decoder(_Claims).decode


@dataclass(frozen=True, slots=True)
class _Verified:
    by_bearer: Identity
    by_cookie: Identity
    exp_ms: int


class AccessTokens:
    """Mints and verifies. `revoked` is what this process knows of sessions that were ended (`Revocations`)."""

    def __init__(self, keyring: Keyring, issuer: str, revoked: Container[str]) -> None:
        keys = keyring.derive("access")
        self._issuer = issuer
        self._current = keys[0]
        self._key_of_header = {_header_text(key.kid): key.secret for key in keys}
        self._revoked = revoked
        self._read_cached = lru_cache(maxsize=_CACHE_MAX)(self._read)

    def mint(
        self, *, account: str, role: Role, session: str, is_verified: bool, now_ms: int, ttl_s: int = ACCESS_TTL_S
    ) -> str:
        """A token for one session, good for `ttl_s` from now."""
        now_s = now_ms // 1000
        payload = {
            "iss": self._issuer,
            "aud": _AUDIENCE,
            "sub": account,
            "sid": session,
            "role": role.value,
            "verified": is_verified,
            "iat": now_s,
            "exp": now_s + ttl_s,
        }
        return jwt.encode(payload, self._current.secret, _ALGORITHM, headers=_header(self._current.kid))

    def verify(self, token: str, now_ms: int, via: Literal["bearer", "cookie"] = "bearer") -> Identity:
        """Who a token speaks for. Unauthenticated when it is not ours, has expired, or its session was ended."""
        seen = self._read_cached(token)
        if seen.exp_ms <= now_ms or seen.by_bearer.session in self._revoked:
            raise Unauthenticated
        return seen.by_cookie if via == "cookie" else seen.by_bearer

    def _read(self, token: str) -> _Verified:
        try:
            claims = _decode(self._signed_by_us(split(token)).payload())
        except (NotCompact, msgspec.MsgspecError) as error:
            raise Unauthenticated from error
        if (claims.iss, claims.aud) != (self._issuer, _AUDIENCE):
            raise Unauthenticated
        # Expiry is judged at every use, not once for the cache; clocks of our processes may differ a little.
        identity = Identity(
            account=claims.sub, role=claims.role, session=claims.sid, is_verified=claims.verified, via="bearer"
        )
        return _Verified(identity, replace(identity, via="cookie"), claims.exp * 1000)

    def _signed_by_us(self, token: Compact) -> Compact:
        secret = self._key_of_header.get(token.header)
        if secret is None:
            raise Unauthenticated
        # Compared as text: a signature has one spelling.
        signature = to_base64url(hmac.digest(secret, token.signed, "sha256"))
        if not hmac.compare_digest(signature, token.signature.encode()):
            raise Unauthenticated
        return token


def _header(kid: str) -> dict[str, str]:
    return {"typ": JWT_TYPE, "kid": kid}


def _header_text(kid: str) -> str:
    header = {"alg": _ALGORITHM, **_header(kid)}
    return to_base64url(json.dumps(header, separators=(",", ":"), sort_keys=True).encode()).decode()
