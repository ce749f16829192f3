"""Passes: that a buyer was admitted, as an EdDSA JWT that any proxy can check with the JWKS.

Its claims all come from Redis and Ed25519 signatures are deterministic, so every copy of a pass is the same bytes. The
header of every pass we ever made is one of a few known texts, one a key: a token whose header is not literally one of
them is refused before anything in it is read, which ends `none`, foreign algorithms, `jku` and `kid` tricks at once.

Whether a pass has expired is judged on the clock that made it: by the reserving script, or by the caller of `verify`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from onsale.auth.compact import NotCompact, from_base64url, split, to_base64url
from onsale.auth.errors import PassInvalid
from onsale.auth.keys import Keyring

JWT_TYPE = "onsale-pass+jwt"
_ALGORITHM = "EdDSA"
# A pass and what it says take about 1.2 kB: 20 MB at most.
_CACHE_MAX = 16_384


class _Claims(msgspec.Struct, frozen=True):
    """What a pass says; `iat` and `exp`, whole seconds, are for others to read."""

    iss: str
    aud: str
    sub: str
    jti: str
    lane: str
    epoch: int
    iat: int
    exp: int
    iat_ms: int
    exp_ms: int


_decode = msgspec.json.Decoder(_Claims).decode


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass says. Times are Redis milliseconds; `turn` is the token's `jti`."""

    sale: str
    buyer: str
    turn: str
    lane: str
    epoch: int
    iat_ms: int
    exp_ms: int


class Passes:
    """Mints and verifies. A pass seen before costs one dictionary look-up, either way."""

    def __init__(self, keyring: Keyring, issuer: str) -> None:
        self._issuer = issuer
        keys = [(key.kid, Ed25519PrivateKey.from_private_bytes(key.secret)) for key in keyring.derive("pass")]
        self._kid, self._signer = keys[0]
        self._jwks = {"keys": [_jwk(kid, key.public_key()) for kid, key in keys]}
        self._key_of_header = {_header_text(kid): key.public_key() for kid, key in keys}
        self._mint_cached = lru_cache(maxsize=_CACHE_MAX)(self._sign)
        # What was signed here or verified before. A token is found by all of its bytes, so none can be mistaken.
        self._known: OrderedDict[str, Pass] = OrderedDict()

    def mint(self, *, sale: str, buyer: str, turn: str, lane: str, epoch: int, iat_ms: int, exp_ms: int) -> str:
        """The pass of a turn: the same claims always give the same token."""
        claims = Pass(sale, buyer, turn, lane, epoch, iat_ms, exp_ms)
        token = self._mint_cached(claims)
        self._remember(token, claims)
        return token

    def verify(self, token: str, *, sale: str | None = None) -> Pass:
        """What a pass says, if we made it, and for this sale where one is named. PassInvalid otherwise.

        Says nothing of expiry: compare `exp_ms` on the clock that matters.
        """
        claims = self._known.get(token)
        if claims is None:
            claims = self._read(token)
            self._remember(token, claims)
        if sale is not None and claims.sale != sale:
            raise PassInvalid
        return claims

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys (RFC 8037), current first."""
        return self._jwks

    def _remember(self, token: str, claims: Pass) -> None:
        """Those who were told here mostly come back here: their pass costs no second signature."""
        self._known[token] = claims
        self._known.move_to_end(token)
        if len(self._known) > _CACHE_MAX:
            self._known.popitem(last=False)

    def _sign(self, claims: Pass) -> str:
        payload: dict[str, Any] = {
            "iss": self._issuer,
            "aud": claims.sale,
            "sub": claims.buyer,
            "jti": claims.turn,
            # Whole seconds, as many libraries demand; rounded up, so that no proxy refuses before the shop does.
            "iat": claims.iat_ms // 1000,
            "exp": -(-claims.exp_ms // 1000),
            "iat_ms": claims.iat_ms,
            "exp_ms": claims.exp_ms,
            "lane": claims.lane,
            "epoch": claims.epoch,
        }
        return jwt.encode(payload, self._signer, _ALGORITHM, headers=_header(self._kid))

    def _read(self, token: str) -> Pass:
        try:
            compact = split(token)
            self._key_of_header[compact.header].verify(from_base64url(compact.signature.encode()), compact.signed)
            claims = _decode(compact.payload())
        except (NotCompact, KeyError, InvalidSignature, msgspec.MsgspecError) as error:
            raise PassInvalid from error
        if claims.iss != self._issuer:
            raise PassInvalid
        return Pass(
            sale=claims.aud,
            buyer=claims.sub,
            turn=claims.jti,
            lane=claims.lane,
            epoch=claims.epoch,
            iat_ms=claims.iat_ms,
            exp_ms=claims.exp_ms,
        )


def _header(kid: str) -> dict[str, str]:
    return {"typ": JWT_TYPE, "kid": kid}


def _header_text(kid: str) -> str:
    header = {"alg": _ALGORITHM, **_header(kid)}
    return to_base64url(json.dumps(header, separators=(",", ":"), sort_keys=True).encode()).decode()


def _jwk(kid: str, key: Ed25519PublicKey) -> dict[str, str]:
    x = to_base64url(key.public_bytes_raw()).decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": _ALGORITHM}
