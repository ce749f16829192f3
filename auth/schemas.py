"""What clients send about signing in, and what they read."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from onsale.auth.roles import Role

Language = Literal["ko", "en"]

# RFC 5321 allows 254 characters; a password may be a sentence, and a device a name a person gave it.
Email = Annotated[str, Meta(min_length=3, max_length=254)]
Password = Annotated[str, Meta(min_length=1, max_length=1024)]
Device = Annotated[str, Meta(max_length=100)]
# In Python `$` also matches before a line's end; the look-aheads say that there is none.
Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^\S(.*\S)?$(?!\n)")]
Phone = Annotated[str, Meta(min_length=5, max_length=25, pattern=r"^[+(]?[0-9][0-9 ().-]*$(?!\n)")]
Code = Annotated[str, Meta(pattern=r"^[0-9]{6}$(?!\n)")]
ResetToken = Annotated[str, Meta(min_length=1, max_length=100)]
# What a person typed, such as a name or a line of an address.
Line = Annotated[str, Meta(min_length=1, max_length=200)]
Country = Annotated[str, Meta(pattern=r"^[A-Z]{2}$(?!\n)")]


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
    language: Language
    created_at: str


class Address(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where something goes; kept sealed."""

    recipient: Line
    line1: Line
    line2: Line | None = None
    city: Line | None = None
    region: Line | None = None
    postal_code: Line | None = None
    country: Country | None = None
    phone: Line | None = None


class SignUp(Struct, frozen=True, forbid_unknown_fields=True):
    """A password has ten characters or more, and is none that everybody tries first."""

    email: Email
    password: Password
    name: Name
    phone: Phone
    address: Address | None = None


class EmailOnly(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a letter is asked for."""

    email: Email


class Accepted(Struct, frozen=True):
    """What is done is told in a letter, if the address has somebody to read it."""

    accepted: bool = True


class Verify(Struct, frozen=True, forbid_unknown_fields=True):
    """The six digits of the newest letter."""

    email: Email
    code: Code


class PasswordChange(Struct, frozen=True, forbid_unknown_fields=True):
    """The present password and the next."""

    current: Password
    new: Password


class PasswordReset(Struct, frozen=True, forbid_unknown_fields=True):
    """The token of the letter and the next password."""

    token: ResetToken
    new: Password


class MePatch(Struct, frozen=True, forbid_unknown_fields=True):
    """A merge patch; what is left out stays."""

    name: Name | UnsetType = UNSET
    phone: Phone | UnsetType = UNSET
    language: Language | UnsetType = UNSET


class AddressNew(Address, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An address for the book. `default`: it takes the place of the default there was."""

    default: bool = False


class AddressPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """A merge patch; what is left out stays, null takes away."""

    recipient: Line | UnsetType = UNSET
    line1: Line | UnsetType = UNSET
    line2: Line | UnsetType | None = UNSET
    city: Line | UnsetType | None = UNSET
    region: Line | UnsetType | None = UNSET
    postal_code: Line | UnsetType | None = UNSET
    country: Country | UnsetType | None = UNSET
    phone: Line | UnsetType | None = UNSET
    default: bool | UnsetType = UNSET


class AddressReply(Struct, frozen=True):
    """One address of the book, by its id `address`."""

    address: str
    default: bool
    recipient: str
    line1: str
    line2: str | None
    city: str | None
    region: str | None
    postal_code: str | None
    country: str | None
    phone: str | None
    created_at: str


class AddressList(Struct, frozen=True):
    items: list[AddressReply]
    next_cursor: str | None


class AccountList(Struct, frozen=True):
    items: list[Me]
    next_cursor: str | None


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
