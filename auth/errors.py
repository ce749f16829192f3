"""What can be wrong with who asks and how. Each class is one decision of the caller.

`server/problems.py` has the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass


class AuthError(Exception):
    """Who you are could not be established, or may not do this."""


class Unauthenticated(AuthError):
    """Sign in first, or send a valid token."""


class InvalidCredentials(AuthError):
    """The address or the password is wrong."""


class EmailUnverified(AuthError):
    """Verify your e-mail address first."""


class Forbidden(AuthError):
    """Your role may not do this."""


class CrossSite(AuthError):
    """A write by cookie needs a same-origin Origin or Sec-Fetch-Site."""


class AlreadySignedIn(AuthError):
    """The account is signed in on another device, and may be on one only."""


class CurrentPasswordWrong(AuthError):
    """The present password is not this one."""


class RefreshInvalid(AuthError):
    """The refresh token is unknown, used or expired: sign in again."""


class SessionUnknown(AuthError):
    """There is no such session."""


class PassRequired(AuthError):
    """Buying from this sale needs the pass of an admitted ticket."""


class PassInvalid(AuthError):
    """The pass is not one of ours, or is another sale's or another buyer's."""


@dataclass
class TooManyRequests(AuthError):
    """Too many tries: wait a while."""

    retry_after_s: int = 1


class RequestError(Exception):
    """The request itself cannot be read."""


class UnsupportedMediaType(RequestError):
    """Send JSON, and say so in Content-Type."""


class MalformedJSON(RequestError):
    """The body is not JSON."""


class PayloadTooLarge(RequestError):
    """The body is larger than 64 KiB."""


@dataclass(frozen=True)
class Flaw:
    """One thing wrong with a body or query: where (a JSON pointer, or `?name`), which word, and a sentence."""

    pointer: str
    code: str
    detail: str


class InvalidRequest(RequestError):
    """Some values are missing, unknown or out of bounds."""

    def __init__(self, *errors: Flaw) -> None:
        super().__init__(errors)
        self.errors = errors


class CodeInvalid(InvalidRequest):
    """The code is wrong, used, or too old: ask for another."""

    def __init__(self) -> None:
        super().__init__(Flaw("#/code", "code_invalid", "Wrong, used, or too old."))


class ResetInvalid(InvalidRequest):
    """The link is wrong, used, or too old: ask for another."""

    def __init__(self) -> None:
        super().__init__(Flaw("#/token", "reset_invalid", "Wrong, used, or too old."))


class IdempotencyKeyRequired(RequestError):
    """Send an Idempotency-Key header: 1 to 128 visible ASCII characters."""


class IdempotencyKeyReused(RequestError):
    """This Idempotency-Key was used with another body."""


class AddressUnknown(AuthError):
    """There is no such address, or it is not yours."""


class AddressBookFull(AuthError):
    """The address book holds as many as it can."""


class RequestInProgress(RequestError):
    """The same request is still running: ask again shortly."""


class NotFound(Exception):
    """There is no such thing, or it is not yours."""


class StoreUnavailable(Exception):
    """A store is away: ask again shortly."""
