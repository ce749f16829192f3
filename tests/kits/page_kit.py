"""A browser without scripts: keeps cookies by name, sends forms as pages of ours do, follows nothing."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from contract_kit import System
from multidict import CIMultiDict

FORM = "application/x-www-form-urlencoded"


class Browser:
    """Somebody in front of the system; `site` is where the page that asks was loaded from."""

    def __init__(self, system: System, cookies: Mapping[str, str], site: str = "same-origin") -> None:
        self._system = system
        self._site = site
        self.cookies = dict(cookies)

    async def __call__(self, method: str, path: str, /, **fields: str) -> tuple[int, str, CIMultiDict[str]]:
        """Status, text and headers."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {"Sec_Fetch_Site": self._site} | ({"Cookie": cookies} if cookies else {})
        sent = urlencode(fields).encode() if method == "POST" else None
        answer = await self._system.call(method, path, sent=sent, media=FORM if sent else None, **headers)
        return answer.status, answer.body.decode(), answer.headers
