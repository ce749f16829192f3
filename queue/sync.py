"""Brings what Postgres says of a sale (schedule, policy, message, who holds it still) into the sale's line.

Postgres is read after the line's `sync_no`, and the line written under it: of two writers the one who read Postgres
earlier finds the number moved and reads again, so an old setting never comes after a new one, whoever is slow.
"""

from __future__ import annotations

import msgspec

from onsale.catalog.sales import Policy, Sale, SaleBook
from onsale.lua.keys import LineKeys
from onsale.lua.line import Inspection, LineScripts, Settings
from onsale.lua.replies import Reply
from onsale.queue.errors import LineRecovering

# Each failed try means that somebody else wrote newer settings meanwhile.
TRIES = 5
# The line's own hold while its places are gathered after a loss; Postgres does not know of it.
GATHERING = "recovering"
# A change for a while that said nothing of pausing.
AS_IT_IS = -1


def settings_of(sale: Sale) -> Settings:
    """What a line needs of its sale."""
    mode, rate_centi, active_max, pass_ttl_ms, turn_ttl_ms, absent_after_ms = _terms(sale.policy)
    return Settings(
        opens_at_ms=sale.opens_at_ms,
        closes_at_ms=sale.closes_at_ms,
        draining=int(sale.draining),
        message=msgspec.json.encode(sale.message).decode() if sale.message else "",
        policy_version=sale.policy_version,
        mode=mode,
        rate_centi=rate_centi,
        active_max=active_max,
        pass_ttl_ms=pass_ttl_ms,
        turn_ttl_ms=turn_ttl_ms,
        absent_after_ms=absent_after_ms,
        holders=sale.paused_by,
        revert_at_ms=sale.revert_at_ms,
        back=() if sale.revert_to is None else (*_terms(sale.revert_to), _paused_then(sale)),
    )


def _terms(policy: Policy) -> tuple[str, int, int, int, int, int]:
    return (
        policy.mode,
        policy.rate_centi,
        policy.active_max,
        policy.pass_ttl_s * 1000,
        policy.turn_ttl_s * 1000,
        policy.absent_after_s * 1000,
    )


def _paused_then(sale: Sale) -> int:
    return AS_IT_IS if sale.revert_paused is None else int(sale.revert_paused)


def is_in_force(sale: Sale, inspection: Inspection) -> bool:
    """Whether the line has been told what the book says."""
    wanted = settings_of(sale)
    told = (wanted.opens_at_ms, wanted.closes_at_ms, wanted.draining, wanted.message, wanted.policy_version)
    return inspection.synced == told and inspection.holders - {GATHERING} == set(sale.paused_by)


class LineSync:
    """`push` is safe at any time from any process."""

    def __init__(self, scripts: LineScripts, book: SaleBook) -> None:
        self._scripts = scripts
        self._book = book

    async def push(self, sale_id: str) -> bool:
        """Bring one line up to date; whether anything had to be written. Raises LineRecovering, LineRefused."""
        for _ in range(TRIES):
            keys = LineKeys(sale_id, self._book.get(sale_id).line_epoch)
            inspection = await self._scripts.inspect(keys)
            if inspection.reply is not Reply.OK:
                raise LineRecovering
            await self._read_anew()
            sale = self._book.get(sale_id)
            if is_in_force(sale, inspection):
                return False
            if await self._scripts.settings(keys, settings_of(sale), seen=inspection.sync_no):
                return True
        return False

    async def _read_anew(self) -> None:
        """Read what was committed before now. The first refresh may share a query that began earlier; the second
        begins after that one has ended."""
        await self._book.refresh()
        await self._book.refresh()
