"""Whole sales on real processes, small: a crowd that shares no code with the server, judged by record and provider.

The same scenarios run in full size by hand: `python -m bench.scenarios --help`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

WITHIN_S = 200
ROOT = Path(__file__).resolve().parents[2]


def run(scenario: str, *options: str) -> dict[str, Any]:
    """One scenario to its end; what it found is its answer."""
    words = [sys.executable, "-m", "bench.scenarios", scenario, *options]
    # A session of its own: whatever is left of it after its time can be ended whole.
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            said, _ = process.communicate(timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    found: dict[str, Any] = json.loads(said)
    return found


def test_more_buyers_than_stock() -> None:
    """Half of them poll, half stream, some are declined first, some ask twice: every unit is sold once."""
    found = run("rush", "--buyers", "200", "--units", "60", "--rate", "100")

    assert [] == found["broken"]
    assert (60, 60) == (found["units_sold"], found["summary"]["confirmed"])


def test_every_process_is_killed_in_mid_sale() -> None:
    """kill -9 of web, admitter, flusher and worker in turn: nothing acknowledged is lost, nothing sold twice."""
    found = run("kills", "--buyers", "120", "--units", "60", "--rate", "3", "--every", "2.5")

    assert [] == found["broken"]
    assert 60 == found["units_sold"]
    assert {"web", "admitter", "flusher", "worker"} == set(found["killed"])


def test_a_provider_on_a_bad_day() -> None:
    """Silent, late, early, doubled and contradicted: what was taken buys something or goes back, and all of it ends."""
    found = run("chaos", "--payments", "160", "--buyers", "160", "--seed", "5")

    assert [] == found["broken"]
    assert found["payments"] >= 160
    assert {"confirmed": 160} == found["outcomes"]
