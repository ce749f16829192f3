"""`onsale report`: one sale as the record has it. Nothing is guessed: what was not recorded is counted as such.

Admissions, orders, payments and the operators' audit are exact. The line second by second and the judged waits are what
web processes wrote (`queue/history.py`); the wait of a place is the time from when the line's end passed it, or from
the opening where that was later, until its first turn.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import asyncpg
import msgspec

from onsale.catalog.sales import Sale
from onsale.migrations.sql import load_queries
from onsale.queue.control import AuditRow, audit_trail
from onsale.queue.frame import rfc3339
from onsale.server.config import Settings
from onsale.server.operating import sales
from onsale.server.plots import HEIGHT, POINTS_MAX, WIDTH, points
from onsale.web import formats, templates

SQL = load_queries("onsale.server", "reporting.sql")
PARTS = 10


class WaitPart(msgspec.Struct, frozen=True):
    """A tenth of those let in, by how long they had waited."""

    people: int
    from_s: float
    to_s: float


class ShownPart(msgspec.Struct, frozen=True):
    """Shown waits that ended, longer than half of `upto_s` up to all of it."""

    upto_s: int
    ended: int
    by_p50: float
    by_p90: float


class Fairness(msgspec.Struct, frozen=True):
    """`inversions`: let in while somebody with a lower place, never absent, was waiting. `returners` had been passed
    over, came back and went first. `over_cap`: admissions that left more seats in use than the cap then in force."""

    inversions: int
    returners: int
    passed_over: int
    over_cap: int


class Funnel(msgspec.Struct, frozen=True):
    """People from stage to stage. `joined`: places that were given, as far as documents were recorded."""

    joined: int
    admitted: int
    reserved: int
    bought: int


class Change(msgspec.Struct, frozen=True):
    """Something that an operator did, or a reason that the line began to give; an empty `what`: it ceased to."""

    at: str
    who: str
    what: str
    reason: str


class SaleReport(msgspec.Struct, frozen=True):
    """Everything but the plots. `unknown_waits`: let in, but when they had joined was not recorded."""

    sale: str
    title: str
    opens_at: str
    closes_at: str
    recorded_from: str | None
    recorded_to: str | None
    recorded_seconds: int
    turns: int
    funnel: Funnel
    waits: list[WaitPart]
    unknown_waits: int
    shown: list[ShownPart]
    fairness: Fairness
    orders: list[dict[str, Any]]
    payments: list[dict[str, Any]]
    changes: list[Change]


class Recorded(msgspec.Struct, frozen=True):
    """What was found of one sale."""

    sale: Sale
    seconds: Sequence[Mapping[str, Any]]
    admissions: Sequence[Mapping[str, Any]]
    shown: Sequence[Mapping[str, Any]]
    turns: Mapping[str, Any]
    orders: Sequence[Mapping[str, Any]]
    payments: Sequence[Mapping[str, Any]]
    audit: Sequence[AuditRow]


async def recorded(settings: Settings, sale: str) -> Recorded:
    """Read it, as of one moment. Raises SaleUnknown."""
    async with sales(settings) as (pool, book):
        found = book.get(sale)
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            return await _read(connection, found)


async def _read(connection: asyncpg.Connection, sale: Sale) -> Recorded:
    return Recorded(
        sale=sale,
        seconds=await connection.fetch(SQL.seconds, sale.id),
        admissions=await connection.fetch(SQL.admissions, sale.id),
        shown=await connection.fetch(SQL.shown_waits, sale.id),
        turns=await connection.fetchrow(SQL.turns, sale.id),
        orders=await connection.fetch(SQL.orders, sale.id),
        payments=await connection.fetch(SQL.payments, sale.id),
        audit=await audit_trail(connection, sale.id),
    )


def report_of(found: Recorded) -> SaleReport:
    """The figures."""
    seconds, sale = found.seconds, found.sale
    waits, unknown = waits_of(found)
    people = len({place for row in found.admissions for place in row["places"]})
    return SaleReport(
        sale=sale.id,
        title=sale.title,
        opens_at=rfc3339(sale.opens_at_ms),
        closes_at=rfc3339(sale.closes_at_ms),
        recorded_from=rfc3339(seconds[0]["at_ms"]) if seconds else None,
        recorded_to=rfc3339(seconds[-1]["at_ms"]) if seconds else None,
        recorded_seconds=len(seconds),
        turns=sum(len(row["places"]) for row in found.admissions),
        funnel=Funnel(max(_joined(seconds), people), people, found.turns["reserved"], found.turns["bought"]),
        waits=_parts(waits),
        unknown_waits=unknown,
        shown=[
            ShownPart(
                upto_s=row["upto_s"],
                ended=row["ended"],
                by_p50=round(row["by_p50"] / row["ended"], 4),
                by_p90=round(row["by_p90"] / row["ended"], 4),
            )
            for row in found.shown
        ],
        fairness=Fairness(
            inversions=sum(row["inversions"] for row in found.admissions),
            returners=sum(row["returners"] for row in found.admissions),
            passed_over=sum(row["passed_over"] for row in found.admissions),
            over_cap=sum(row["active"] > row["active_max"] for row in found.admissions),
        ),
        orders=[dict(row) for row in found.orders],
        payments=[dict(row) for row in found.payments],
        changes=_changes(found),
    )


def _joined(seconds: Sequence[Mapping[str, Any]]) -> int:
    """Places given. An epoch begins its numbers higher than the last one ended, and gives none of those between."""
    steps = sum(b["tail"] - a["tail"] for a, b in pairwise(seconds) if a["epoch"] == b["epoch"])
    return int(seconds[0]["tail"]) + steps if seconds else 0


def waits_of(found: Recorded) -> tuple[list[float], int]:
    """Seconds until the first turn of every place, shortest first, and of how many that is not known."""
    seconds, opens_ms = found.seconds, found.sale.opens_at_ms
    tails = [row["tail"] for row in seconds]
    turn_ms: dict[int, int] = {}
    for row in found.admissions:
        for place in row["places"]:
            turn_ms.setdefault(place, row["at_ms"])
    waits = []
    for place, at_ms in turn_ms.items():
        joined_ms = _joined_ms(place, seconds, tails)
        if joined_ms is None and seconds and place <= tails[0] and seconds[0]["at_ms"] <= opens_ms:
            joined_ms = opens_ms
        if joined_ms is not None:
            waits.append(max(0, at_ms - max(joined_ms, opens_ms)) / 1000)
    return sorted(waits), len(turn_ms) - len(waits)


def _joined_ms(place: int, seconds: Sequence[Mapping[str, Any]], tails: Sequence[int]) -> int | None:
    """When the line's end passed a place: between two documents, evenly. None: not seen."""
    after = bisect_left(tails, place)
    if after in (0, len(tails)) or seconds[after]["epoch"] != seconds[after - 1]["epoch"]:
        return None
    from_ms, to_ms = seconds[after - 1]["at_ms"], seconds[after]["at_ms"]
    share = (place - tails[after - 1]) / (tails[after] - tails[after - 1])
    joined_ms: int = round(from_ms + share * (to_ms - from_ms))
    return joined_ms


def _parts(waits: Sequence[float]) -> list[WaitPart]:
    parts = [waits[n * len(waits) // PARTS : (n + 1) * len(waits) // PARTS] for n in range(PARTS)]
    return [WaitPart(len(part), round(part[0], 1), round(part[-1], 1)) for part in parts if part]


def _changes(found: Recorded) -> list[Change]:
    changes = [
        Change(_moment(row.at), row.actor, f"{row.action}: {_difference(row.before, row.after)}", row.reason or "")
        for row in found.audit
    ]
    before = None
    for row in found.seconds:
        if row["reason"] != before:
            changes.append(Change(rfc3339(row["at_ms"]), "line", row["reason"] or "", ""))
            before = row["reason"]
    return sorted(changes, key=lambda change: change.at)


def _moment(at: datetime) -> str:
    return rfc3339(round(at.astimezone(UTC).timestamp() * 1000))


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What changed, in the words of the record."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {before.get(name)} → {after.get(name)}" for name in names) or "as it was"


# --- the page


def page_of(found: Recorded, report: SaleReport) -> str:
    """One HTML file with everything in it."""
    ended = sum(part.ended for part in report.shown)
    return (
        templates()
        .get_template("report.html")
        .render(
            found=report,
            width=WIDTH,
            height=HEIGHT,
            plots=_plots(found),
            ended=ended,
            by_p50=sum(row["by_p50"] for row in found.shown) / max(1, ended),
            by_p90=sum(row["by_p90"] for row in found.shown) / max(1, ended),
            shown=[
                (f"up to {part.upto_s:,} s", f"{part.ended:,}", f"{part.by_p50:.1%}", f"{part.by_p90:.1%}")
                for part in report.shown
            ],
            waits=[
                (f"{n} of {len(report.waits)}", f"{part.people:,}", f"{part.from_s:,.1f}", f"{part.to_s:,.1f}")
                for n, part in enumerate(report.waits, 1)
            ],
            funnel=funnel_rows(report.funnel),
            orders=[
                (row["state"], f"{row['orders']:,}", formats.money_text(row["amount"], row["currency"]))
                for row in report.orders
            ],
            payments=[(row["state"], row["reason"], f"{row['payments']:,}") for row in report.payments],
            changes=[(one.at, one.who, one.what or "no reason any more", one.reason) for one in report.changes],
        )
    )


def funnel_rows(funnel: Funnel) -> list[tuple[str, ...]]:
    """Stage, people, their share of the stage before."""
    stages = [(name, getattr(funnel, name)) for name in funnel.__struct_fields__]
    shares = ["", *(f"{b / a:.1%}" if a else "" for (_, a), (_, b) in pairwise(stages))]
    return [(name, f"{people:,}", share) for (name, people), share in zip(stages, shares, strict=True)]


def _plots(found: Recorded) -> list[tuple[str, list[str]]]:
    """Over the time from the first to the last that was recorded, in at most POINTS_MAX equal steps."""
    moments = [row["at_ms"] for row in (*found.seconds, *found.admissions)]
    if not moments:
        return []
    from_ms = min(moments)
    step_ms = max(1_000, -(-(max(moments) - from_ms + 1) // POINTS_MAX))
    steps = (max(moments) - from_ms) // step_ms + 1
    at_step: dict[int, Mapping[str, Any]] = {(row["at_ms"] - from_ms) // step_ms: row for row in found.seconds}
    admitted: Counter[int] = Counter()
    for row in found.admissions:
        admitted[(row["at_ms"] - from_ms) // step_ms] += len(row["places"])
    # A document holds until the next one; before the first, nothing is known and nothing is drawn above 0.
    states: list[Mapping[str, Any]] = []
    for step in range(steps):
        states.append(at_step.get(step) or (states[-1] if states else {}))
    first = found.seconds[0] if found.seconds else {}
    arrivals = [_arrived(a, b) for a, b in pairwise([first, *states])]

    def of(name: str) -> list[float]:
        return [state.get(name) or 0 for state in states]

    a_second = 1000 / step_ms
    return [
        _plot("Arrivals a second", [count * a_second for count in arrivals]),
        _plot(
            "Let in a second, and the rate that was set",
            [admitted[step] * a_second for step in range(steps)],
            of("rate_target"),
        ),
        _plot("People who wait, and people put aside as absent", of("waiting"), of("absent")),
        _plot("Seats in use, and the cap", of("active"), of("active_max")),
        _plot("Units free, and units sold", of("free"), of("sold")),
    ]


def _arrived(before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    return after["tail"] - before["tail"] if before and before["epoch"] == after["epoch"] else 0


def _plot(name: str, *lines: Sequence[float]) -> tuple[str, list[str]]:
    top = max(max(line, default=0) for line in lines)
    return f"{name} (highest: {top:,.0f})", [points(line, top) for line in lines]
