"""Signs of life of this process, gathered: each ticket at most once a quarter of the grace, one batch a second.

So waiting costs Redis a bit in a batch now and then, and polls cost it nothing. What a batch answers, the tickets that
are no longer simply waiting, becomes known here even where the announcement was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial

from onsale.auth.errors import StoreUnavailable
from onsale.auth.tickets import TicketFacts
from onsale.lua.batching import Batcher
from onsale.queue.errors import LineRecovering
from onsale.queue.feed import Feed, KnownLine
from onsale.queue.line import Line
from onsale.queue.states import TicketView

# A sign costs Redis about 0.4 us: 2,000 of them hold it for less than a millisecond.
SIGNS_A_CALL = 2_000

# Of one place: its view, or None when it is simply waiting, or False when this Redis never heard of it.
Answer = TicketView | bool | None


@dataclass(frozen=True, slots=True)
class PresenceTick:
    """What one round sent and heard: signs, tickets that were not simply waiting, tickets that Redis forgot, and lines
    that could not answer."""

    signed: int = 0
    changed: int = 0
    unknown: int = 0
    failed: int = 0


class Presence:
    """Gathers by `sign` (no Redis), asks at once by `ask` (a share of a batch). `tick` is called each second."""

    def __init__(self, line: Line, feed: Feed) -> None:
        self._line = line
        self._feed = feed
        self._askers: dict[int, tuple[KnownLine, Batcher[int, Answer]]] = {}

    def sign(self, line: KnownLine, place: int) -> None:
        """This ticket lives."""
        if line.signed.add(place):
            line.unsent.append(place)

    async def ask(self, line: KnownLine, facts: TicketFacts, buyer: str, lane: str) -> TicketView | None:
        """How a ticket stands; a sign of life, which brings an absent one back. None: simply waiting.

        A ticket that Redis forgot is put back at its place; the caller has made sure that it is the buyer's.
        Raises LineRecovering, TicketUnknown, and what redis raises while it is away.
        """
        line.asking(facts.place)
        try:
            answer = await self._asker(line).submit(facts.place)
            if answer is False:
                answer = await self._line.restore(line.keys, facts.place, buyer, facts.joined_ms, lane)
            view = answer if isinstance(answer, TicketView) else None
            line.learn(facts.place, view)
        except LineRecovering:
            await self._feed.look_for_epoch()
            raise
        finally:
            line.unasked(facts.place)
        return view

    async def tick(self) -> PresenceTick:
        """Send what was gathered, line by line, and take in the answers. A line that cannot answer keeps its signs for
        the next round, and delays no other."""
        ticks = [await self._send_or_keep(line) for line in self._feed.lines() if line.keys.epoch > 0]
        return PresenceTick(*(sum(counts) for counts in zip(*map(astuple, ticks), strict=True)))

    async def _send_or_keep(self, line: KnownLine) -> PresenceTick:
        try:
            return await self._send(line)
        except (LineRecovering, StoreUnavailable):
            return PresenceTick(failed=1)

    async def _send(self, line: KnownLine) -> PresenceTick:
        self._turn_quarter(line)
        gathered, line.unsent = line.unsent, []
        changed = unknown = sent = 0
        try:
            # Also with nothing to say: the line tells an outage of all web processes from the silence of buyers.
            while sent < len(gathered) or sent == 0:
                places = gathered[sent : sent + SIGNS_A_CALL]
                for answer in await self._line.sign(line.keys, places):
                    changed, unknown = changed + 1, unknown + (not isinstance(answer, TicketView))
                    self._digest(line, answer)
                sent += max(1, len(places))
        except Exception:
            line.unsent = gathered[sent:] + line.unsent
            raise
        return PresenceTick(len(gathered), changed, unknown)

    def _digest(self, line: KnownLine, answer: TicketView | int) -> None:
        if isinstance(answer, TicketView):
            line.learn(answer.place, answer)
            line.forget((answer.place,))
        else:
            line.forget((answer,))

    def _turn_quarter(self, line: KnownLine) -> None:
        """A new quarter of the grace: every ticket may give a sign again."""
        quarter = self._feed.now_ms() * 4 // (line.sale.policy.absent_after_s * 1000)
        if quarter != line.sign_quarter:
            line.sign_quarter = quarter
            line.signed.clear()
            # What could not be sent yet is sent once, however many quarters pass until then.
            for place in line.unsent:
                line.signed.add(place)

    def _asker(self, line: KnownLine) -> Batcher[int, Answer]:
        known = self._askers.get(line.sale.no)
        if known is None or known[0] is not line:
            known = self._askers[line.sale.no] = (line, Batcher(partial(self._ask, line)))
        return known[1]

    async def _ask(self, line: KnownLine, places: Sequence[int]) -> list[Answer]:
        found: dict[int, Answer] = {}
        for answer in await self._line.sign(line.keys, list(dict.fromkeys(places))):
            if isinstance(answer, TicketView):
                found[answer.place] = answer
            else:
                found[answer] = False
        return [found.get(place) for place in places]
