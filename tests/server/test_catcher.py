"""The mail server for trying: it keeps what it is handed, and shows it to this machine alone."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import pytest

from onsale.auth.letters import Letter, Letters
from onsale.auth.post import Post
from onsale.server import catcher
from onsale.server.catcher import Letterbox, catching


@pytest.fixture
def letterbox(tmp_path: Path) -> Letterbox:
    return Letterbox(tmp_path / "mail")


@pytest.fixture
async def addresses(letterbox: Letterbox) -> AsyncIterator[tuple[str, str]]:
    async with catching(letterbox, "smtp://127.0.0.1:0", "http://127.0.0.1:0") as found:
        yield found


def letter(to: str = "mina@example.com", code: str = "123456") -> EmailMessage:
    letters = Letters("onsale <no-reply@localhost>", "http://127.0.0.1:8080")
    return letters.write(Letter("l1", "verification", to, "ko", {"code": code, "minutes": 5}))


async def send(url: str, *messages: EmailMessage) -> None:
    async with Post(url).open() as counter:
        for message in messages:
            await counter.hand_in(message)


async def fetch(url: str, path: str, **headers: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url + path, headers=headers) as answer:
        is_json = answer.content_type == "application/json"
        return answer.status, await answer.json() if is_json else await answer.text()


async def test_a_letter_is_kept_and_shown(addresses: tuple[str, str]) -> None:
    """As a page, as a list, by address and one by one; Korean as it was written."""
    smtp_url, url = addresses
    await send(smtp_url, letter(), letter("jun@example.com", "654321"))
    _, every = await fetch(url, "/letters")
    _, hers = await fetch(url, "/letters?to=Mina@example.com")
    _, one = await fetch(url, f"/letters/{hers['items'][0]['id']}")
    _, page = await fetch(url, "/", **{"Accept-Language": "ko"})

    assert ["jun@example.com", "mina@example.com"] == [each["to"][0] for each in every["items"]]
    assert ["인증 번호: 123456"] == [each["subject"] for each in hers["items"]]
    assert hers["items"][0] == one and "123456" in one["text"]
    assert "654321" in page and "편지함" in page


async def test_letters_outlive_the_process(letterbox: Letterbox) -> None:
    """What was answered for is on the disk, readable by its owner alone."""
    for _ in range(2):
        async with catching(letterbox, "smtp://127.0.0.1:0", "http://127.0.0.1:0") as (smtp_url, _url):
            await send(smtp_url, letter())

    assert 2 == len(letterbox.letters())
    assert {0o600} == {path.stat().st_mode & 0o777 for path in letterbox.folder.iterdir()}
    assert 0o700 == letterbox.folder.stat().st_mode & 0o777


async def test_only_this_machine_sees_them(addresses: tuple[str, str]) -> None:
    """A page of another site that has its own name lead here is refused, and a letter is never a page's code."""
    smtp_url, url = addresses
    await send(smtp_url, letter(code="<script>x()</script>"))
    status, said = await fetch(url, "/letters", Host="rebound.example")
    _, page = await fetch(url, "/")

    assert 403 == status and "123" not in said
    assert "&lt;script&gt;" in page and "<script>" not in page


@pytest.mark.parametrize(
    "path",
    ["/letters/nothing", "/letters/..%2f..%2fdemo.json", "/letters/" + "0" * 26, "/static/nothing.css"],
)
async def test_what_is_no_letter(addresses: tuple[str, str], path: str) -> None:
    """404, and no other file is opened."""
    assert 404 == (await fetch(addresses[1], path))[0]


async def test_the_page_brings_its_styles(addresses: tuple[str, str]) -> None:
    """From its own address: nothing is inlined, and the policy would let nothing be."""
    async with aiohttp.ClientSession(addresses[1]) as session, session.get("/") as answer:
        page, policy = await answer.text(), answer.headers["Content-Security-Policy"]
        styles = re.findall(r'href="(/static/\S+\.css)"', page)
        kinds = [(await session.get(path)).content_type for path in styles]

    assert "<style" not in page and " style=" not in page and "unsafe" not in policy
    assert ["text/css"] * 2 == kinds


async def test_the_newest_are_kept(letterbox: Letterbox, addresses: tuple[str, str]) -> None:
    """Older ones make room."""
    with patch.object(catcher, "KEPT_MAX", 3):
        for number in range(5):
            await send(addresses[0], letter(code=f"{number:06d}"))

    assert ["000004", "000003", "000002"] == [each.subject[-6:] for each in letterbox.letters()]
