"""A mail server for trying: it takes every letter, sends none on, and shows them to this machine alone.

`onsale up` starts it where no SMTP_URL is set. A letter is answered for when it lies in the data directory, as it came;
the newest are kept. Pages are served to loopback only, and only under a loopback name, so that no page of the web can
have a browser fetch them under a name of its own.
"""

from __future__ import annotations

import asyncio
import email
import ipaddress
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import default as DEFAULT_POLICY
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

from onsale.auth.errors import NotFound
from onsale.auth.identifiers import is_id, new_id
from onsale.auth.requests import language, query, rfc3339
from onsale.server.middleware import Handler
from onsale.server.pages.assets import ASSETS, add_assets
from onsale.server.running import replace_file
from onsale.web import messages, static_folder, templates

KEPT_MAX = 500
LETTER_BYTES_MAX = 1 << 20
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
NAME = "onsale catcher"


class Caught(msgspec.Struct, frozen=True):
    """One letter. `to` is whom the envelope names, `from_` and `subject` are what the letter says."""

    id: str
    received_at: str
    from_: str = msgspec.field(name="from")
    to: list[str]
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Letterbox:
    """The folder of letters: files named by id, which sorts by time."""

    folder: Path

    def add(self, envelope: Envelope) -> None:
        """Keep a letter; the oldest beyond the limit goes."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = envelope.original_content or b""
        head = b"".join(b"X-Envelope-To: %s\r\n" % address.encode() for address in envelope.rcpt_tos)
        replace_file(self.folder / f"{new_id()}.eml", head + content)
        for path in self._paths()[KEPT_MAX:]:
            path.unlink(missing_ok=True)

    def letters(self, to: str = "") -> list[Caught]:
        """The newest first; only those to one address, where one is named."""
        found = (self.letter(path.stem) for path in self._paths())
        wanted = to.casefold()
        return [one for one in found if one and (not to or wanted in (each.casefold() for each in one.to))]

    def letter(self, letter: str) -> Caught | None:
        """One letter; None when there is none by this id."""
        try:
            raw = (self.folder / f"{letter}.eml").read_bytes()
        except FileNotFoundError:
            return None
        message = email.message_from_bytes(raw, EmailMessage, policy=DEFAULT_POLICY)
        body = message.get_body(("plain", "html"))
        return Caught(
            id=letter,
            received_at=rfc3339(_made_ms(letter)),
            from_=str(message["From"] or ""),
            to=[str(each) for each in message.get_all("X-Envelope-To", [])],
            subject=str(message["Subject"] or ""),
            text=str(body.get_content()).replace("\r\n", "\n") if body is not None else "",
        )

    def _paths(self) -> Sequence[Path]:
        return sorted((path for path in self.folder.glob("*.eml") if is_id(path.stem)), reverse=True)


class _Taker:
    """What aiosmtpd asks about each letter."""

    def __init__(self, letterbox: Letterbox) -> None:
        self._letterbox = letterbox

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        await asyncio.to_thread(self._letterbox.add, envelope)
        return "250 kept"


LETTERBOX = web.AppKey("letterbox", Letterbox)


@asynccontextmanager
async def catching(letterbox: Letterbox, smtp_url: str, page_url: str) -> AsyncIterator[tuple[str, str]]:
    """Both servers, for as long as the block lasts; their addresses (port 0 takes any free one)."""
    smtp, page = urlsplit(smtp_url), urlsplit(page_url)
    taker = _Taker(letterbox)
    loop = asyncio.get_running_loop()

    def talk() -> SMTP:
        return SMTP(
            taker, hostname="localhost", ident=NAME, enable_SMTPUTF8=True, data_size_limit=LETTER_BYTES_MAX, loop=loop
        )

    server = await loop.create_server(talk, smtp.hostname, smtp.port or 0)
    runner = web.AppRunner(create_pages(letterbox), access_log=None)
    try:
        await runner.setup()
        await web.TCPSite(runner, page.hostname, page.port).start()
        mail_port = server.sockets[0].getsockname()[1]
        yield f"smtp://{smtp.hostname}:{mail_port}", f"http://{page.hostname}:{runner.addresses[0][1]}"
    finally:
        server.close()
        await runner.cleanup()


def create_pages(letterbox: Letterbox) -> web.Application:
    """The letters as a page, and as JSON: `/letters?to=…` and `/letters/{letter}`."""
    app = web.Application(middlewares=[_only_loopback])
    app[LETTERBOX] = letterbox
    add_assets(app, static_folder())
    app.add_routes([
        web.get("/", _show),
        web.get("/letters", _list),
        web.get("/letters/{letter}", _one),
    ])  # fmt: skip
    return app


@web.middleware
async def _only_loopback(request: web.Request, handler: Handler) -> web.StreamResponse:
    name = urlsplit(f"//{request.host}").hostname or ""
    if name not in LOOPBACK_NAMES or not ipaddress.ip_address(request.remote or "0.0.0.0").is_loopback:  # noqa: S104
        raise web.HTTPForbidden(text="for this machine alone\n")
    try:
        response = await handler(request)
    except NotFound:
        raise web.HTTPNotFound from None
    response.headers.update({
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        # The page has styles and an icon and nothing else; a letter is text in it.
        "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'",
    })  # fmt: skip
    return response


async def _show(request: web.Request) -> web.Response:
    lang = language(request)
    letters = await asyncio.to_thread(request.app[LETTERBOX].letters, request.query.get("to", ""))
    text = (
        templates()
        .get_template("catcher.html")
        .render(lang=lang, t=messages(lang).__getitem__, asset=request.app[ASSETS].path, letters=letters)
    )
    return web.Response(text=text, content_type="text/html")


async def _list(request: web.Request) -> web.Response:
    asked = query(request, to=str)
    letters = await asyncio.to_thread(request.app[LETTERBOX].letters, asked.get("to", ""))
    return web.Response(body=msgspec.json.encode({"items": letters}), content_type="application/json")


async def _one(request: web.Request) -> web.Response:
    letter = request.match_info["letter"]
    found = await asyncio.to_thread(request.app[LETTERBOX].letter, letter) if is_id(letter) else None
    if found is None:
        raise NotFound
    return web.Response(body=msgspec.json.encode(found), content_type="application/json")


def _made_ms(letter: str) -> int:
    """Every id begins with its time (`auth/identifiers.py`): 48 bits in ten digits of five, the last with two more."""
    return int(letter[:10], 32) >> 2
