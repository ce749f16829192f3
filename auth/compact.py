"""Reading the signed tokens (RFC 7515, compact) that we made ourselves.

The header of each of ours is one of a few known texts, one a key: whoever reads one looks the header up, checks the
signature over every byte in front of it, and only then looks inside. A library that must understand any token takes
21 microseconds for that where this takes four, and a crowd that joins brings tokens nobody has seen before.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from dataclasses import dataclass

_TOKEN_LENGTH_MAX = 2_048


class NotCompact(ValueError):
    """Not three parts in base64url, or longer than any token of ours."""


@dataclass(frozen=True, slots=True)
class Compact:
    """A token in its parts, none of it believed yet: `signature` is over the bytes of `signed`."""

    header: str
    signed: bytes
    signature: str

    def payload(self) -> bytes:
        """What the token says. Call it once the signature is known to be good. Raises NotCompact."""
        return from_base64url(self.signed.partition(b".")[2])


def split(token: str) -> Compact:
    """Raises NotCompact."""
    if len(token) > _TOKEN_LENGTH_MAX or not token.isascii() or token.count(".") != 2:
        raise NotCompact
    signed, _, signature = token.rpartition(".")
    return Compact(signed.partition(".")[0], signed.encode(), signature)


def to_base64url(raw: bytes) -> bytes:
    """Unpadded."""
    return b2a_base64(raw, newline=False).translate(_TO_URL).rstrip(b"=")


def from_base64url(text: bytes) -> bytes:
    """Raises NotCompact."""
    try:
        return a2b_base64(text.translate(_FROM_URL) + b"=" * (-len(text) % 4), strict_mode=True)
    except ValueError as error:
        raise NotCompact from error


_TO_URL = bytes.maketrans(b"+/", b"-_")
# What only the other alphabet has becomes what neither has.
_FROM_URL = bytes.maketrans(b"-_+/", b"+/!!")
