"""Stream keys: what an EventSource, which can send no header, carries in its URL instead of an access token.

A key says who asks, under a MAC, and can open a stream for 30 seconds. The stream it opens first is its only one: it
opens that one again after each broken connection, through any process, until the stream ends. Only the opening is kept
in the line's Redis (under a digest, so that Redis holds no key); making one costs no store. When Redis forgets, the key
is refused and its client asks for another or polls.
"""

from __future__ import annotations

import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Container
from hashlib import blake2b

import msgspec

from onsale.auth.errors import Unauthenticated
from onsale.auth.identifiers import from_text, to_text
from onsale.auth.identity import Identity
from onsale.auth.keys import Key, Keyring
from onsale.auth.roles import Role
from onsale.lua import Script
from onsale.lua.keys import stream_key
from onsale.lua.replies import Reply

STREAM_KEY_TTL_S = 30
_KIND = "osk"  # onsale stream key
_KEY_LENGTH_MAX = 512
_MAC_BYTES = 20
# How long an opened key may stay away from its stream: longer than any sale's line is open in one sitting.
_OPENED_TTL_MS = 12 * 3600 * 1000
# Long enough for a client's late reconnect to hear that the stream has ended, and longer than the key is fresh.
_ENDED_TTL_MS = 10 * 60 * 1000


class StreamEnded(Exception):
    """The stream that this key opened has ended: answer 204, which stops an EventSource."""


class _Claims(msgspec.Struct, frozen=True, array_like=True):
    account: str
    role: Role
    session: str
    is_verified: bool
    ticket: str
    issued_ms: int
    nonce: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Claims)


class StreamKeys:
    """Makes and opens stream keys. The scripts are `stream_key_open` and `stream_key_end`, on the line's Redis."""

    def __init__(self, keyring: Keyring, revoked: Container[str], open_script: Script, end_script: Script) -> None:
        self._keys = keyring.derive("stream key")
        self._revoked = revoked
        self._open_script = open_script
        self._end_script = end_script

    def issue(self, identity: Identity, now_ms: int) -> str:
        """A key that speaks for this identity: at most 512 characters, safe in a query."""
        claims = _Claims(
            account=identity.account,
            role=identity.role,
            session=identity.session,
            is_verified=identity.is_verified,
            ticket=identity.ticket,
            issued_ms=now_ms,
            nonce=os.urandom(8),
        )
        payload = urlsafe_b64encode(_encoder.encode(claims)).decode().rstrip("=")
        return f"{_KIND}.{payload}.{to_text(_mac(self._keys[0], payload))}"

    async def open(self, key: str, path: str, now_ms: int) -> Identity:
        """Open the stream at `path`, or open it again: whom the key speaks for.

        Unauthenticated: not ours, too old to open a first stream, another stream's, or its session was ended.
        StreamEnded: `ended` was called for it.
        """
        claims = self._read(key)
        if claims.session in self._revoked:
            raise Unauthenticated
        is_fresh = now_ms - claims.issued_ms < STREAM_KEY_TTL_S * 1000
        reply = await self._open_script([_redis_key(key)], [path, int(is_fresh), _OPENED_TTL_MS])
        if reply == Reply.GONE:
            raise StreamEnded
        if reply != Reply.OK:
            raise Unauthenticated
        return Identity(
            account=claims.account,
            role=claims.role,
            session=claims.session,
            is_verified=claims.is_verified,
            via="stream_key",
            ticket=claims.ticket,
        )

    async def ended(self, key: str) -> None:
        """The key's stream has sent its last event: the key opens nothing any more."""
        self._read(key)
        await self._end_script([_redis_key(key)], [_ENDED_TTL_MS])

    def _read(self, key: str) -> _Claims:
        parts = key.split(".")
        if len(key) > _KEY_LENGTH_MAX or not key.isascii() or len(parts) != 3 or parts[0] != _KIND:
            raise Unauthenticated
        _, payload, mac = parts
        try:
            signature = from_text(mac, _MAC_BYTES)
        except ValueError as error:
            raise Unauthenticated from error
        if not any(hmac.compare_digest(signature, _mac(each, payload)) for each in self._keys):
            raise Unauthenticated
        return _decoder.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def _redis_key(key: str) -> str:
    return stream_key(blake2b(key.encode(), digest_size=16).hexdigest())


def _mac(key: Key, payload: str) -> bytes:
    return blake2b(payload.encode(), key=key.secret, digest_size=_MAC_BYTES).digest()
