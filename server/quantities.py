"""Rates and durations as people type them: `500/s`, `30/min`, `5m`, `1d`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import click

SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hour": 3600}
RATE_CENTI_MAX = 10_000_000
# About ten minutes of both cores.
SEEDS_MAX = 10_000
MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def rate_centi(text: str) -> int:
    """Hundredths of an admission per second. Raises ValueError with the reason."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/(\w+))?", text.strip())
    if not found or found[2] not in (None, *SECONDS):
        raise ValueError("write a rate as 500/s, 30/min or 1800/h")
    centi = Decimal(found[1]) * 100 / SECONDS[found[2] or "s"]
    if centi != int(centi):
        raise ValueError("a rate goes in steps of 0.01 a second (0.6 a minute)")
    if centi > RATE_CENTI_MAX:
        raise ValueError("a rate is at most 100000 a second")
    return int(centi)


def duration_ms(text: str) -> int:
    """Milliseconds. Raises ValueError with the reason."""
    found = re.fullmatch(r"(\d+)(\w+)", text.strip())
    if not found or found[2] not in MILLISECONDS:
        raise ValueError("write a duration as 90s, 5m, 6h or 1d")
    if int(found[1]) == 0:
        raise ValueError("a duration is longer than nothing")
    return int(found[1]) * MILLISECONDS[found[2]]


class Rate(click.ParamType[int]):
    """An admission rate on the command line."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return rate_centi(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


class Duration(click.ParamType[int]):
    """A length of time on the command line."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return duration_ms(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


class Seeds(click.ParamType[tuple[int, int]]):
    """A range of seeds on the command line: `1-200`, or one of them."""

    name = "A-B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", str(value).strip())
        if not found:
            self.fail("write seeds as 1-200.", param, ctx)
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < first + SEEDS_MAX:
            self.fail(f"write at most {SEEDS_MAX:,} seeds, the lower first.", param, ctx)
        return first, last
