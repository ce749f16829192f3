"""T10: how many purchases a second are accepted and recorded; whether a crowd buys exactly what there is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.journeys import Course, run_journeys
from bench.measure import CAP, EVERYONE_AT_ONCE, HOLD_TTL_S, Bench, Buying, Target, known

# Enough at once that the record's batches are full.
CONNECTIONS = 512
CROWD = 1_000
CROWD_UNITS = (1_000, 500)


async def purchases(bench: Bench) -> None:
    """Everybody has a pass; reserve and confirm as fast as they are answered, each confirmation after its record."""
    crowded = replace(bench, plan=replace(bench.plan, connections=CONNECTIONS))
    buying = await Buying.opened(crowded, "purchases", await bench.grow_tokens(bench.plan.buyers))
    await buying.join()
    reserved, confirmed = await buying.reserve(), await buying.confirm()
    a_second = 1 / (1 / reserved["per_second"] + 1 / confirmed["per_second"])
    bench.found.figures["purchases"] = {"reserve": reserved, "confirm": confirmed, "per_second": round(a_second)}
    bench.add(
        Target(
            id="T10",
            what="purchases a second: reserved, paid, recorded, answered",
            floor="–",
            ours=f"{a_second:,.0f}/s",
            ratio=None,
            goal="≥ 2,000/s",
            is_met=a_second >= 2_000,
            is_broken=a_second < 100,
            note=f"reserve {reserved['per_second']:,.0f}/s, confirm {confirmed['per_second']:,.0f}/s; all processes "
            f"{reserved['sum'] + confirmed['sum']:.0f} µs a purchase, the provider and the generator beside them",
        )
    )
    for units in CROWD_UNITS:
        await _crowd(bench, units)


async def _crowd(bench: Bench, units: int) -> None:
    """1,000 buyers come in the same moment, each on a connection of their own, for so many units."""
    tokens = await bench.grow_tokens(CROWD)
    sale = f"crowd-{units}"
    product = await bench.on.create_sale(sale, units=units, rate=EVERYONE_AT_ONCE, cap=CAP, hold_ttl_s=HOLD_TTL_S)
    await known(bench, sale)
    log = await run_journeys(bench.ours.port, Course(sale, product, tokens, units=units), CROWD)
    wrong: list[Any] = [finding for finding in await bench.on.audit(sale) if not finding["ok"]]
    is_exact = log.finished == units and not wrong
    bench.add(
        Target(
            id="T10",
            what=f"{CROWD:,} buyers at once for {units:,} units: bought",
            floor="–",
            ours=f"{log.finished:,}",
            ratio=None,
            goal=f"exactly {units:,}, and the audit agrees",
            is_met=is_exact,
            is_broken=not is_exact,
            note=f"in {log.seconds:.1f} s; others: {dict(log.unexpected) or 'none'}; audit: {len(wrong)} wrong",
        )
    )
