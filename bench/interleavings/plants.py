"""Bugs on purpose, each in a copy of its own: what the simulation must find. None of this is in the product, nor can be
switched on there.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from bench.interleavings.loop import SeededLoop
from bench.interleavings.network import Weather
from bench.interleavings.postgres_model import Transaction
from bench.interleavings.world import Plan, World
from onsale.checkout.record.flusher import Lane, StreamTick
from onsale.checkout.record.reading import id_key
from onsale.checkout.record.recorder import Batch, Recorded


class Plant:
    """No bug: the product as it is."""

    def plan(self, plan: Plan, rng: random.Random) -> Plan:
        """What a run must have for the bug to matter."""
        return plan

    def world(self, loop: SeededLoop, rng: random.Random, plan: Plan) -> World:
        return World(loop, rng, plan)

    def prepare(self, world: World) -> None:
        """Put the bug in."""


def _rewritten(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, f"the planted bug does not fit the script any more: {old}"
        text = text.replace(old, new)
    return text


class DropThePin(Plant):
    """A pinned hold stays on the reaper's list, and the reaper trusts its list: an order lapses while it is paid."""

    def prepare(self, world: World) -> None:
        world.shop.model.rewrite = _drop_the_pin


def _drop_the_pin(text: str) -> str:
    if text.startswith("--[[ Claim the units"):
        return _rewritten(text, ('  redis.call("ZREM", holds, id)\n', ""))
    if text.startswith("--[[ Free the units of unpinned"):
        from_counter = 'order[STATE] == "confirming" and "claimed" or "held"'
        return _rewritten(
            text, (' or order[STATE] ~= "reserved"', ""), ('order, "held", "free"', f'order, {from_counter}, "free"')
        )
    return text


class AcknowledgeBeforeCommit(Plant):
    """A batch is announced while it is being written: a buyer is told, and the transaction may yet fail."""

    def world(self, loop: SeededLoop, rng: random.Random, plan: Plan) -> World:
        world = type("World", (World,), {"lane": _HastyLane})
        return world(loop, rng, plan)  # type: ignore[no-any-return]


class _HastyLane(Lane):
    async def _flush(self, batch: Batch) -> StreamTick:
        await self._announce(batch, ())
        recorded: Recorded = await self._recorder.record(batch)
        self._positions[batch.sale] = self._positions[batch.sale].__class__(batch.epoch, batch.upto)
        return StreamTick(batch.sale, batch.stream, batch.epoch, batch.upto, recorded, id_key(batch.upto)[0])


class TrimByLength(Plant):
    """The stream is cut to its newest entries, whether they are recorded or not."""

    def prepare(self, world: World) -> None:
        world.shop.model.rewrite = _trim_by_length


def _trim_by_length(text: str) -> str:
    if text.startswith("--[[ Say how far a stream is recorded"):
        return _rewritten(text, ('"MINID", "~", keep_from_ms .. "-0")', '"MAXLEN", "~", 2)'))
    return text


class CheckBeforeLock(Plant):
    """The record reads an item's counters and checks them before it has the item's lock: what they allow, and what they
    are, is not so any more when they are written. It shows where units leave while others are claimed."""

    def plan(self, plan: Plan, rng: random.Random) -> Plan:
        weather = Weather(slow=0.2, slow_s=0.3)
        return replace(plan, over=0, moves=6, stock=5, limit=4, buyers=8, faults=(), weather=weather, workers=2)

    def world(self, loop: SeededLoop, rng: random.Random, plan: Plan) -> World:
        transaction = type("Transaction", (Transaction,), {"unlocked": frozenset({"sale_items"})})
        world = type("World", (World,), {"transaction": transaction})
        return world(loop, rng, plan)  # type: ignore[no-any-return]


class CompareBeforeLock(Plant):
    """What a statement looked for is not looked at again once its row is locked: two flushers move one watermark."""

    def world(self, loop: SeededLoop, rng: random.Random, plan: Plan) -> World:
        transaction = type("Transaction", (Transaction,), {"looks_again": False})
        world = type("World", (World,), {"transaction": transaction})
        return world(loop, rng, plan)  # type: ignore[no-any-return]


class TrustAnyServer(Plant):
    """Scripts do not compare the server's run id: keys that lost their newest entries are taken for whole."""

    def prepare(self, world: World) -> None:
        world.shop.model.rewrite = _trust_any_server


def _trust_any_server(text: str) -> str:
    if "local function is_registered(meta)" not in text:
        return text
    return _rewritten(
        text, ('return type(known) == "string" and known == server_run_id()', 'return type(known) == "string"')
    )


class LastComeFirst(Plant):
    """The line lets in from its end."""

    def plan(self, plan: Plan, rng: random.Random) -> Plan:
        return replace(plan, line=True, rate_centi=150, active_max=6, buyers=8)

    def prepare(self, world: World) -> None:
        world.line.model.rewrite = _last_come_first


def _last_come_first(text: str) -> str:
    if not text.startswith("--[[ Let in the first of the living"):
        return text
    return _rewritten(text, ("offset + wanted - #chosen + 15)", 'offset + wanted - #chosen + 15, "REV")'))


PLANTS: Mapping[str, type[Plant]] = {
    "drop-the-pin": DropThePin,
    "acknowledge-before-commit": AcknowledgeBeforeCommit,
    "trim-by-length": TrimByLength,
    "check-before-lock": CheckBeforeLock,
    "compare-before-lock": CompareBeforeLock,
    "trust-any-server": TrustAnyServer,
    "last-come-first": LastComeFirst,
}
