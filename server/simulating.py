"""`onsale simulate`: whole sales in virtual time, and whether the waits that people were shown came true."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import msgspec

from onsale.queue.calibration import Calibration, Share
from onsale.queue.laws import LawSet
from onsale.queue.simulation import Outcome, Second, Simulation
from onsale.server.plots import HEIGHT, WIDTH, points, thinned
from onsale.web import templates


def simulate(laws: LawSet, first: int, last: int) -> list[Outcome]:
    """The sales of these seeds, in their order; on every core."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(partial(_outcome, laws), range(first, last + 1), chunksize=4))


def _outcome(laws: LawSet, seed: int) -> Outcome:
    return Simulation(laws, seed).run()


def table_of(found: Calibration) -> list[tuple[str, ...]]:
    """Rows for a person: everything, then by length of the wait, then by kind of sale."""
    rows = [_row("all", found.overall)]
    rows += [_row(f"{share.from_s:,.0f} to {share.to_s:,.0f} s", share) for share in found.by_decile]
    return rows + [_row(kind, share) for kind, share in found.by_kind.items()]


def odds_table_of(found: Calibration) -> list[tuple[str, ...]]:
    """Rows for a person: what people were told of their odds, and how often it came true."""
    return [
        (odds, f"{share.told:,}", f"{share.had_offer:.1%}", f"{share.promised:.0%}" if share.promised else "")
        for odds, share in found.by_odds.items()
    ]


def _row(name: str, share: Share) -> tuple[str, ...]:
    return name, f"{share.waits:,}", f"{share.by_p50:.1%}", f"{share.by_p90:.1%}"


def figures_of(found: Calibration) -> dict[str, Any]:
    """The same for programs."""
    figures: dict[str, Any] = msgspec.to_builtins(found)
    return figures | {"is_calibrated": found.is_good}


def report_of(found: Calibration, outcome: Outcome, title: str) -> str:
    """One HTML file with everything in it: the calibration of all, and one sale second by second."""
    seconds = thinned(outcome.seconds)
    return (
        templates()
        .get_template("simulation.html")
        .render(
            title=title,
            found=found,
            rows=table_of(found),
            odds_rows=odds_table_of(found),
            sale=outcome,
            width=WIDTH,
            height=HEIGHT,
            plots=[
                (
                    "People who have joined, and turns",
                    [_line(seconds, "joined"), _line(seconds, "admitted", "joined")],
                ),
                ("People who wait", [_line(seconds, "waiting")]),
                ("Let in a second (mean of a tenth of a minute), and the rate that was set", _rates(outcome.seconds)),
                ("Seats in use", [_line(seconds, "active")]),
            ],
        )
    )


def _line(seconds: Sequence[Second], field: str, scale: str = "") -> str:
    """Points of one line, as high as the highest of `scale`."""
    top = max([getattr(second, scale or field) for second in seconds] or [1])
    return points([getattr(second, field) for second in seconds], top)


def _rates(seconds: Sequence[Second]) -> list[str]:
    window = 6
    admitted = [second.admitted for second in seconds]
    measured = [(b - a) / window for a, b in zip(admitted, admitted[window:], strict=False)]
    target = [second.target for second in seconds[window:]]
    top = max([*measured, *target, 1e-9])
    return [points(thinned(measured), top), points(thinned(target), top)]
