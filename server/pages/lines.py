"""What pages say of a line: its document, and what it means for one person."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from aiohttp import web

from onsale.catalog.sales import Sale
from onsale.queue.handlers import FEED
from onsale.server.pages.access import plain

Document = dict[str, Any]


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
