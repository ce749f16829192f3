"""How figures, money and moments are written on pages. Pure; the same in every language where words are not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

# Currencies whose smallest unit is the unit itself.
WHOLE_CURRENCIES = frozenset({"KRW", "JPY", "VND", "CLP", "ISK"})
MINUTE_MS = 60_000

Translator = Callable[..., str]


class _Facts(dict[str, Any]):
    """Facts of a reason. A word that asks for one that was not sent gets a dash, not an error in front of a buyer."""

    def __missing__(self, name: str) -> str:
        return "–"


def translator(texts: Mapping[str, str]) -> Translator:
    """`t(key, name=value)`: a text of one language. A key that is not there is an error."""
    return lambda key, **values: texts[key].format(**values) if values else texts[key]


def money(value: Mapping[str, Any]) -> str:
    """A message's money, as people write it."""
    return money_text(value["amount"], value["currency"])


def money_text(amount: int, currency: str) -> str:
    """Minor units as people write them: won and yen have none below one."""
    if currency in WHOLE_CURRENCIES:
        return f"{amount:,} {currency}"
    return f"{amount // 100:,}.{amount % 100:02d} {currency}"


def number(value: float) -> str:
    """With thousands apart, and no more decimals than it has."""
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def moment(text: str) -> str:
    """A day and a time of it. In UTC: the reader's own clock is known only to `times.js`."""
    return _read_time(text).strftime("%Y-%m-%d %H:%M UTC")


def clock(text: str) -> str:
    """A time of this day."""
    return _read_time(text).strftime("%H:%M:%S UTC")


def wait_range(wait: Mapping[str, int] | None, t: Translator) -> str:
    """Half of all waits end by the first figure, nine tenths by the second."""
    if wait is None:
        return t("waiting.unknown")
    low, high = _span(wait["p50"]), _span(wait["p90"])
    if low[0] == high[0]:
        shown = number(low[1]) if low == high else f"{number(low[1])}–{number(high[1])}"
        return t(low[0], n=shown)
    return f"{t(low[0], n=number(low[1]))} – {t(high[0], n=number(high[1]))}"


def decline_text(payment: Mapping[str, Any], texts: Mapping[str, str]) -> str | None:
    """Why a try to pay came to nothing; None where it did not. What the record refuses has words of its own, and a word
    of a provider that nobody knows is told as another reason."""
    reason = payment["reason"]
    if not reason:
        return None
    known = "unclaimed." if payment["state"] == "refused" else "decline."
    return texts.get(known + reason) or texts["decline.other"]


def reason_text(reason: Mapping[str, Any] | None, texts: Mapping[str, str]) -> str | None:
    """A reason in words with its facts; None where there is none, or none that these words know."""
    if reason is None or (words := texts.get(f"reason.{reason['code']}")) is None:
        return None
    facts = {name: number(value) for name, value in reason["params"].items() if isinstance(value, int | float)}
    return words.format_map(_Facts(facts))


def _span(ms: int) -> tuple[str, float]:
    """Seconds under a minute, minutes under two hours, then half hours, each rounded up: no wait is told shorter than
    it is expected."""
    if ms < MINUTE_MS:
        return "unit.seconds", max(1, -(-ms // 1000))
    if ms < 120 * MINUTE_MS:
        return "unit.minutes", -(-ms // MINUTE_MS)
    return "unit.hours", -(-ms // (30 * MINUTE_MS)) / 2


def _read_time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
