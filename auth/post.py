"""The way to the mail server: one connection for a handful of letters, and how each was taken.

What a server says back may repeat an address, so none of its words leave this file: only whether to try again.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import aiosmtplib

# For each step of the conversation. Servers that greet slowly to tire out spammers take up to 30 s, ours should not.
STEP_TIMEOUT_S = 10.0
_PERMANENT_MIN = 500
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class PostAway(Exception):
    """The mail server cannot be reached, or takes nothing at all now."""


class LetterPostponed(Exception):
    """The mail server does not take this letter now."""


class LetterRefused(Exception):
    """The mail server will never take this letter."""


class Post:
    """The mail server of a `smtp://` or `smtps://` URL.

    `smtps` is TLS from the first byte; with `smtp` TLS is begun where the server offers it, and demanded where the URL
    holds a password for a server on another machine.
    """

    def __init__(self, url: str, timeout_s: float = STEP_TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._is_tls = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._is_tls else 25)
        self._username = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Counter]:
        """A conversation, for as long as the block lasts. PostAway when there is none to be had."""
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            username=self._username,
            password=self._password,
            # The machine's own name may be anybody's business; looking it up may block.
            local_hostname="localhost",
            timeout=self._timeout_s,
            use_tls=self._is_tls,
            start_tls=self._start_tls(),
            tls_context=ssl.create_default_context(),
        )
        try:
            await client.connect()
        except (aiosmtplib.SMTPException, OSError, ValueError):
            raise PostAway from None
        try:
            yield Counter(client)
            # Only a conversation that went well is ended in good manners: a server that hangs would not answer.
            with suppress(aiosmtplib.SMTPException, OSError):
                await client.quit()
        finally:
            client.close()

    def _start_tls(self) -> bool | None:
        if self._is_tls:
            return False
        return True if self._password is not None and self._host not in _LOOPBACK else None


class Counter:
    """Where letters are handed in."""

    def __init__(self, client: aiosmtplib.SMTP) -> None:
        self._client = client

    async def hand_in(self, message: EmailMessage) -> None:
        """One letter, taken by the server. LetterRefused, LetterPostponed, PostAway (the conversation is over)."""
        try:
            await self._client.send_message(message)
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _kind(min(one.code for one in error.recipients)) from None
        except aiosmtplib.SMTPResponseException as error:
            raise _kind(error.code) from None
        except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPTimeoutError, OSError):
            raise PostAway from None
        except (aiosmtplib.SMTPException, UnicodeError, ValueError):
            # An address the server's dialect cannot say.
            raise LetterRefused from None


def _kind(code: int) -> LetterRefused | LetterPostponed:
    return LetterRefused() if code >= _PERMANENT_MIN else LetterPostponed()
