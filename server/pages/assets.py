"""Styles and scripts: read once, kept in memory, sent compressed.

Pages name them under the hash of them all (`/static/<version>/waiting.js`), so browsers keep them for a year, ask
nothing while they do, and a release is seen at once; scripts import each other by relative names and so stay within
their version. Under any other version, as during a rolling release, and without one they are served as they are now,
and are to be asked for again each time: nothing wrong is ever kept.
"""

from __future__ import annotations

import gzip
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from aiohttp import web

from onsale.auth.errors import NotFound
from onsale.auth.requests import is_seen

YEAR_S = 365 * 24 * 3600
KEPT = {"Cache-Control": f"public, max-age={YEAR_S}, immutable"}
ASKED_AGAIN = {"Cache-Control": "no-cache"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, as it is and compressed."""

    plain: bytes
    zipped: bytes
    media: str
    digest: str


class Assets:
    """Every file of a folder. `version` is the hash of them all."""

    def __init__(self, folder: Path) -> None:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        self._assets: Mapping[str, Asset] = {path.name: _read(path) for path in files}
        self.version = _digest("".join(f"{name} {asset.digest}\n" for name, asset in self._assets.items()).encode())

    def path(self, name: str) -> str:
        """Where a page finds a file. A name that is not there is an error."""
        return f"/static/{self.version}/{name}" if name in self._assets else _missing(name)

    async def serve(self, request: web.Request) -> web.Response:
        """One file. Raises NotFound."""
        asset = self._assets.get(request.match_info["file"])
        if asset is None:
            raise NotFound
        is_zipped = "gzip" in request.headers.get("Accept-Encoding", "")
        etag = f'"{asset.digest}{"-gzip" if is_zipped else ""}"'
        is_current = request.match_info.get("version") == self.version
        headers = {"ETag": etag, "Vary": "Accept-Encoding"} | (KEPT if is_current else ASKED_AGAIN)
        if is_seen(request, etag):
            return web.Response(status=304, headers=headers)
        headers |= {"Content-Type": asset.media} | ({"Content-Encoding": "gzip"} if is_zipped else {})
        return web.Response(body=asset.zipped if is_zipped else asset.plain, headers=headers)


ASSETS = web.AppKey("assets", Assets)


def add_assets(app: web.Application, folder: Path) -> None:
    """Serve a folder under /static."""
    app[ASSETS] = assets = Assets(folder)
    for path in ("/static/{file}", "/static/{version}/{file}"):
        app.router.add_get(path, assets.serve, allow_head=True)


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    media = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    is_text = media.startswith("text/") or media.endswith(("javascript", "json", "xml"))
    # No time in it: the same bytes in every process, so that any of them answers for any ETag.
    zipped = gzip.compress(content, compresslevel=9, mtime=0)
    return Asset(content, zipped, f"{media}; charset=utf-8" if is_text else media, _digest(content))


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()


def _missing(name: str) -> str:
    raise KeyError(f"web/static has no {name}")
