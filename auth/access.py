"""Access tokens: short-lived JWTs (HS256) that say who asks without asking a store.

As with passes, the header of every token we make is one of a few known texts, one a key; a token with any other header
is refused unread. The audience and the type are no other token's. A token seen before costs one dictionary look-up, a
comparison with the clock and one with the revoked sessions.
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import jwt
from jwt.utils import base64url_encode

from onsale.auth.errors import Unauthenticated
from onsale.auth.identity import Identity
from onsale.auth.keys import Keyring
from onsale.auth.roles import Role

# 10 minutes: what a process that never hears of a revocation could be fooled for; refreshing costs one round trip.
ACCESS_TTL_S = 600
JWT_TYPE = "onsale-access+jwt"
_ALGORITHM = "HS256"
_AUDIENCE = "onsale"
_TOKEN_LENGTH_MAX = 2_048
# A token and what it says take about 1.5 kB: 50 MB at most, and a second is enough to fill a cold one again.
_CACHE_MAX = 32_768
_CLAIMS = ["iss", "aud", "sub", "sid", "role", "iat", "exp"]


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
        secret = self._key_of_header.get(token.partition(".")[0])
        if secret is None or len(token) > _TOKEN_LENGTH_MAX:
            raise Unauthenticated
        try:
            claims = jwt.decode(
                token,
                secret,
                [_ALGORITHM],
                issuer=self._issuer,
                audience=_AUDIENCE,
                # Expiry is judged at every use, not once for the cache; clocks of our processes may differ a little.
                options={"require": _CLAIMS, "verify_exp": False, "verify_iat": False},
            )
            identity = Identity(
                account=claims["sub"],
                role=Role(claims["role"]),
                session=claims["sid"],
                is_verified=claims["verified"],
                via="bearer",
            )
        except (jwt.InvalidTokenError, KeyError, ValueError) as error:
            raise Unauthenticated from error
        return _Verified(identity, replace(identity, via="cookie"), claims["exp"] * 1000)


def _header(kid: str) -> dict[str, str]:
    return {"typ": JWT_TYPE, "kid": kid}


def _header_text(kid: str) -> str:
    header = {"alg": _ALGORITHM, **_header(kid)}
    return base64url_encode(json.dumps(header, separators=(",", ":"), sort_keys=True).encode()).decode()
