"""A line on a clock that tests move."""

from __future__ import annotations

import asyncpg
import pytest
from line_kit import Stand, with_skew
from redis.asyncio import Redis

import onsale.lua


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, line_redis: Redis, database: asyncpg.Pool) -> Stand:
    """Everything that serves one sale's line; `await stand.make()` writes and loads the sale."""
    monkeypatch.setattr(onsale.lua, "source", with_skew(onsale.lua.source))
    return Stand(line_redis, database)
