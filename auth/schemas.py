"""What clients send about signing in, and what they read."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from onsale.auth.roles import Role

# RFC 5321 allows 254 characters; a password may be a sentence, and a device a name a person gave it.
Email = Annotated[str, Meta(min_length=3, max_length=254)]
Password = Annotated[str, Meta(min_length=1, max_length=1024)]
Device = Annotated[str, Meta(max_length=100)]


class SignIn(Struct, frozen=True, forbid_unknown_fields=True):
    """`cookies`: keep the tokens in cookies and leave them out of the answer."""

    email: Email
    password: Password
    device: Device = ""
    cookies: bool = False


class Refresh(Struct, frozen=True, forbid_unknown_fields=True):
    """Without a token the refresh cookie is used."""

    refresh_token: Annotated[str, Meta(min_length=1, max_length=256)] | UnsetType = UNSET


class SessionGrant(Struct, frozen=True):
    """`expires_in` is the access token's life in seconds. Tokens that went into cookies are left out."""

    session: str
    token_type: str
    expires_in: int
    access_token: str | UnsetType = UNSET
    refresh_token: str | UnsetType = UNSET


class SessionReply(Struct, frozen=True):
    """One device that is signed in. `current`: the one that asks."""

    session: str
    device: str
    address: str
    current: bool
    created_at: str
    last_used_at: str
    expires_at: str


class SessionList(Struct, frozen=True):
    items: list[SessionReply]
    next_cursor: str | None


class StreamKeyReply(Struct, frozen=True):
    """`expires_in`: seconds within which the stream must be opened."""

    stream_key: str
    expires_in: int


class Me(Struct, frozen=True):
    """The account that asks; empty texts were never given."""

    account: str
    role: Role
    verified: bool
    email: str
    name: str
    phone: str
    created_at: str


class PublicKey(Struct, frozen=True):
    """An Ed25519 key (RFC 8037)."""

    kty: str
    crv: str
    x: str
    kid: str
    use: str
    alg: str


class KeySet(Struct, frozen=True):
    """The keys that passes are verified with, current first (RFC 7517)."""

    keys: list[PublicKey]
