"""Letters as people read them: a template a kind and language, the subject in its first line, plain text below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit

import jinja2

from onsale.auth.requests import Language
from onsale.web import letter_templates


class AddressBroken(Exception):
    """No letter can be written to this."""


class LetterBroken(Exception):
    """There is no such kind of letter, or its template asks for what its params do not have."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One letter, ready to be written. `id` names it in its Message-ID, the same at every try."""

    id: str
    kind: str
    to: str = field(repr=False)
    language: Language
    params: Mapping[str, Any] = field(repr=False)


class Letters:
    """Writes messages from `sender`; links lead to `public_url`."""

    def __init__(self, sender: str, public_url: str) -> None:
        self._sender = sender
        self._public_url = public_url
        self._host = urlsplit(public_url).hostname or "localhost"

    def write(self, letter: Letter, now: datetime | None = None) -> EmailMessage:
        """The message. Raises LetterBroken, AddressBroken."""
        subject, text = self._render(letter)
        message = EmailMessage(policy=SMTP)
        message["From"] = self._sender
        message["To"] = _address(letter.to)
        message["Subject"] = subject
        message["Date"] = format_datetime(now or datetime.now(UTC))
        # A mailer that died between sending and saying so sends again: by this the reader's server knows it.
        message["Message-ID"] = f"<{letter.id}@{self._host}>"
        message["Content-Language"] = letter.language
        # Nobody's holiday note is wanted back (RFC 3834).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text)
        return message

    def _render(self, letter: Letter) -> tuple[str, str]:
        try:
            template = letter_templates().get_template(f"{letter.kind}.{letter.language}.txt")
            said = template.render(url=self._public_url, **letter.params)
        except jinja2.TemplateError as error:
            raise LetterBroken(letter.kind) from error
        subject, _, text = said.partition("\n")
        return " ".join(subject.split()), text.strip() + "\n"


def _address(text: str) -> Address:
    try:
        return Address(addr_spec=text)
    # The library's parser of addresses stumbles over some that are none.
    except (HeaderParseError, ValueError, IndexError):
        raise AddressBroken from None
