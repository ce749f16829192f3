"""Alarms as they go out over HTTP."""

from __future__ import annotations

import msgspec

from onsale.auth.requests import rfc3339
from onsale.catalog.alarms import TOLD_AHEAD_MS, Alarm, AlarmState


class AlarmReply(msgspec.Struct, frozen=True, kw_only=True):
    """A letter before a sale starts: `sends_at` is when it is written, `sent_at` when it was (null: not yet)."""

    sale: str
    title: str
    state: AlarmState
    starts_at: str
    sends_at: str
    sent_at: str | None
    created_at: str


class AlarmList(msgspec.Struct, frozen=True):
    """A page of alarms, newest first."""

    items: list[AlarmReply]
    next_cursor: str | None


def alarm_reply(alarm: Alarm) -> AlarmReply:
    """An alarm as its owner sees it."""
    return AlarmReply(
        sale=alarm.sale,
        title=alarm.title,
        state=alarm.state,
        starts_at=rfc3339(alarm.starts_at_ms),
        sends_at=rfc3339(alarm.starts_at_ms - TOLD_AHEAD_MS),
        sent_at=None if alarm.told_at_ms is None else rfc3339(alarm.told_at_ms),
        created_at=rfc3339(alarm.made_at_ms),
    )
