"""What pages say of a line: its document, and what it means for one person."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aiohttp import web

from onsale.catalog.sales import Sale
from onsale.queue.handlers import FEED
from onsale.server.pages.access import plain

Document = dict[str, Any]


def chance(ahead: int | None, line: Mapping[str, Any] | None, limit: int) -> str | None:
    """Whether anything will be left at the turn of someone with this many people ahead, as a word, and never a rosier
    one than the figures are: everyone who is in now counts as ahead too, though some of them hold their units already.
    `web/static/chance.js` says the same in the browser."""
    if ahead is None or line is None or line["stock"] is None:
        return None
    free, held, before = line["stock"]["free"], line["stock"]["held"], ahead + line["active"]
    if before * limit < free:
        return "sure"
    if before < free:
        return "likely"
    return "close" if ahead < free + held else "slim"


def line_document(request: web.Request, sale: Sale) -> Document | None:
    """The line as everyone sees it; None where this process has heard nothing of it."""
    frame = request.app[FEED].line_of(sale.no).frame
    return None if frame is None else plain(frame.document)


def left_ms(until: str) -> int:
    """How long (ms) until a moment of the API; 0 when it has passed."""
    return max(0, round(datetime.fromisoformat(until).timestamp() * 1000) - now_ms())


def now_ms() -> int:
    """This machine's clock."""
    return time.time_ns() // 1_000_000
