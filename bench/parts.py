"""What a run measures, in this order: each part by the name that `--only` knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bench import measure
from bench.measure import Bench
from bench.purchases import purchases
from bench.scaling import scaling

PARTS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "steps": measure.steps,
    "polls": measure.polls,
    "journeys": measure.whole_journeys,
    "confirmations": measure.confirm_latency,
    "purchases": purchases,
    "record": measure.record_speed,
    "stock": measure.stock_reads,
    "scaling": scaling,
    "crowd": measure.large_crowd,
}


async def measure_all(bench: Bench) -> None:
    """Every target in turn, as long as there is time."""
    await measure.machine_floors(bench)
    await measure.at_rest(bench)
    for name, part in PARTS.items():
        if not bench.is_late(name):
            await part(bench)
