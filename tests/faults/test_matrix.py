"""One row of the matrix, small: the whole of it runs by `make faults`."""

from __future__ import annotations

import pytest

from bench.faults.rows import ROWS, run_row
from bench.faults.scale import Scale
from onsale.checkout.record.recorder import CRASH_POINTS

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

SCALE = Scale(buyers=35, units=25, rate=5.0, patience_s=120, bystanders=20, polls_per_s=50)


async def test_a_flusher_dies_at_each_point_of_its_batch() -> None:
    """SIGKILL after reading, before and after the rows, before and after the commit, after the announcement, again and
    again: everything acknowledged stands, and everybody who waits keeps their place."""
    result = await run_row(ROWS["flusher-points"], SCALE, seed=1)

    assert [] == result.broken
    assert {f"kill flusher {point}" for point in CRASH_POINTS} <= set(result.strikes)
    assert result.requests > 200
