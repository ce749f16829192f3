"""A real mail server inside the test: what was handed in over SMTP, and a way to have it refuse."""

from __future__ import annotations

import asyncio
import email
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.policy import default as DEFAULT_POLICY
from typing import Any

from aiosmtpd.smtp import SMTP

CODE = re.compile(r"^ +(\d{6})$", re.MULTILINE)
TOKEN = re.compile(r"[?]token=([\w.-]+)")


class MailServer:
    """Takes letters at `url`. `answers` are given to the next recipients instead of taking them."""

    def __init__(self) -> None:
        self.url = ""
        self.letters: list[EmailMessage] = []
        self.answers: list[str] = []
        self.on_data: Any = None

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if self.answers:
            return self.answers.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 fine"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.on_data is not None:
            await self.on_data()
        self.letters.append(email.message_from_bytes(envelope.content, EmailMessage, policy=DEFAULT_POLICY))
        return "250 taken"

    def to(self, address: str) -> list[EmailMessage]:
        """Letters to one address, oldest first."""
        return [each for each in self.letters if address.casefold() == str(each["To"]).casefold()]

    def code(self, address: str) -> str:
        """The code in the newest letter to an address."""
        return _found(CODE, self.to(address)[-1])

    def token(self, address: str) -> str:
        """The token in the newest letter to an address."""
        return _found(TOKEN, self.to(address)[-1])


@asynccontextmanager
async def mail_server() -> AsyncIterator[MailServer]:
    """A server on a port of its own."""
    taker = MailServer()
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {"hostname": "localhost", "enable_SMTPUTF8": True, "loop": loop}
    server = await loop.create_server(lambda: SMTP(taker, **options), "127.0.0.1", 0)
    taker.url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield taker
    finally:
        server.close()


def text_of(letter: EmailMessage) -> str:
    """What it says below its head."""
    body = letter.get_body(("plain",))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def _found(pattern: re.Pattern[str], letter: EmailMessage) -> str:
    match = pattern.search(text_of(letter))
    assert match, f"nothing like it in: {letter['Subject']}"
    return match[1]
