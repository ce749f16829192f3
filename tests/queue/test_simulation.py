"""Simulated sales: the same seed tells the same story, the rules of the line hold in it, and shown waits come true."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from onsale.queue.calibration import calibrate
from onsale.queue.laws import LawSet, law_of
from onsale.queue.simulation import Outcome, Ranks, Shown, Simulation
from onsale.server.cli import main


def outcome(*waits: tuple[float, float, float | None]) -> Outcome:
    shown = [Shown(0.0, 1, p50_s, p90_s, waited_s) for p50_s, p90_s, waited_s in waits]
    return Outcome(1, "made up", 10, 10, 5, 0, 0, shown, [], [])


def test_the_same_seed_is_the_same_sale() -> None:
    """Figures can be asked for again; another seed or another set of laws is another sale."""
    first, again = (Simulation(LawSet.UNSEEN, 7).run() for _ in range(2))

    assert first == again
    assert first != Simulation(LawSet.UNSEEN, 8).run()
    assert first != Simulation(LawSet.TUNING, 7).run()


@pytest.mark.parametrize("seed", range(1, 9))
def test_a_sale_keeps_the_rules_of_the_line(seed: int) -> None:
    """Nobody overtaken, never more seats than the cap, never more sold than there was, never more let in than rate and
    burst allow."""
    sale = Simulation(LawSet.UNSEEN, seed).run()
    too_fast = [
        second
        for before, second in pairwise(sale.seconds)
        if second.admitted - before.admitted > max(before.target, second.target) * 1.1 + 2
    ]

    assert (0, 0, []) == (sale.overtaken, sale.over_cap, too_fast)
    assert sale.sold <= min(sale.admitted, law_of(LawSet.UNSEEN, seed).units)
    assert sale.seconds[-1].joined <= sale.people


def test_ranks_are_counted() -> None:
    """People in front of a place are those who live and stand lower."""
    ranks = Ranks(10)
    for place in (2, 3, 7, 10):
        ranks.add(place, 1)
    ranks.add(3, -1)

    assert [0, 0, 1, 1, 2, 3] == [ranks.before(place) for place in (1, 2, 3, 7, 8, 11)]


def test_calibration_counts_what_ended() -> None:
    """At or before counts as by then; a wait that no turn ended is counted apart."""
    found = calibrate([outcome((10, 20, 10), (10, 20, 20), (10, 20, 30), (10, 20, None))])

    assert (3, 1, 0.3333, 0.6667) == (
        found.overall.waits,
        found.unended,
        found.overall.by_p50,
        found.overall.by_p90,
    )
    assert not found.is_good


def test_shown_waits_come_true() -> None:
    """Forty sales under laws that the estimate was not tuned on; forty spread more than hundreds."""
    found = calibrate([Simulation(LawSet.UNSEEN, seed).run() for seed in range(301, 341)])

    assert found.overall.waits > 20_000
    assert 0.42 <= found.overall.by_p50 <= 0.58
    assert 0.84 <= found.overall.by_p90 <= 0.97


def test_command_writes_a_report(tmp_path: Path) -> None:
    """Figures for programs, plots for people; a bad range is refused with its reason."""
    runner = CliRunner()
    file = tmp_path / "report.html"
    done = runner.invoke(main, ["simulate", "--seeds", "1-4", "--json", "--report", str(file)])
    refused = runner.invoke(main, ["simulate", "--seeds", "9-1"])

    assert done.exit_code in (0, 1), done.output
    assert '"by_decile"' in done.output
    text = file.read_text(encoding="utf-8")
    assert 5 == text.count("<svg")
    assert "nan" not in text
    assert (2, True) == (refused.exit_code, "the lower first" in refused.output)
