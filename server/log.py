"""Logs are events: a past-tense name and facts as fields, one line each, on standard error.

Only fields on the list below are written; anything else is dropped and its name noted, so that a token, a password or a
card datum cannot reach a log because somebody passed one along.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog

from onsale.server.config import LogStyle

# What structlog itself adds.
FRAME_FIELDS = frozenset({"event", "level", "timestamp", "exc_info", "exception", "logger", "stack"})
FIELDS = FRAME_FIELDS | {
    # Who and where in the house.
    "process", "pid", "loop", "room", "name", "version", "instance", "holder", "driver",
    # A request.
    "request_id", "method", "path", "route", "status", "code", "duration_ms", "bytes", "peer", "user_agent",
    "count", "statuses", "slowest_ms",
    # Things of the domain, by id.
    "account", "role", "session", "sale", "ticket", "place", "lane", "turn", "order", "order_id", "product",
    "attempt", "payment", "refund", "provider", "epoch", "line_epoch", "shop_epoch", "stream", "event_id", "upto",
    "prev", "seq", "state", "reason", "why", "retryable", "rev", "kind", "moves",
    # Figures.
    "rate", "active", "active_max", "free", "held", "claimed", "sold", "waiting", "absent", "tail", "places",
    "ceiling", "amount", "currency", "quantity", "rows", "events", "accepted", "refused", "poisoned", "lapsed",
    "expired", "admitted", "parked", "lag_ms", "age_ms", "took_ms", "pause_ms", "wait_ms", "failures", "restarts",
    "streams", "connections",
    # What became of something.
    "outcome", "piece", "is_rebuilt",
    # A failure.
    "failure", "error", "detail", "flaws", "dropped", "signal", "exit_code", "setting", "store", "address", "port",
}  # fmt: skip
DETAIL_CHARACTERS_MAX = 2_000

Event = MutableMapping[str, Any]


def configure_log(style: LogStyle, *, process: str) -> None:
    """Set structlog and the standard library's logging up for this process. Called once, before anything is logged."""
    structlog.reset_defaults()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            allow_listed,
            *_renderers(style),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=_factory(style),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward()], force=True)


def allow_listed(_logger: object, _method: str, event: Event) -> Event:
    """Drop fields that are not on the list; their names are kept in `dropped`, so that the gap is seen."""
    unknown = [name for name in event if name not in FIELDS]
    for name in unknown:
        del event[name]
    if unknown:
        event["dropped"] = sorted(unknown)
    detail = event.get("detail")
    if isinstance(detail, str) and len(detail) > DETAIL_CHARACTERS_MAX:
        event["detail"] = detail[:DETAIL_CHARACTERS_MAX]
    return event


def _renderers(style: LogStyle) -> list[Any]:
    if style == "console":
        return [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    # msgspec and a bytes logger: 3.4 against 7.0 microseconds a line.
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]


def _factory(style: LogStyle) -> Any:
    if style == "console":
        return structlog.PrintLoggerFactory(sys.stderr)
    return structlog.BytesLoggerFactory(sys.stderr.buffer)


def _json(event: Event, **_options: Any) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)


class _Forward(logging.Handler):
    """What libraries say through the standard library, as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        log.log(record.levelno, "library.spoke", name=record.name, detail=record.getMessage(), exc_info=record.exc_info)
