"""The line's Redis port: one method a verb, many requests one script. A place is given once, a buyer has one living ticket.

Requests await futures; only the batcher awaits Redis. Nothing here is repeated by itself: every item is idempotent under
its buyer or its place, so a caller whose answer was lost asks again knowingly.
"""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

from onsale.lua.keys import LineKeys
from onsale.lua.line import LineFigures
from onsale.queue.numbering import Numbering
from onsale.queue.ports import ShopPort
from onsale.queue.states import TicketView


class Line:
    """What the rest of the house asks of the line. Every method but `document` raises LineRecovering while the keys are
    not registered with the server they are on, and redis.exceptions.ConnectionError or TimeoutError while Redis is away.
    """

    def __init__(self, redis: Redis, numbering: Numbering, shop: ShopPort) -> None: ...

    async def join(self, keys: LineKeys, buyer: str) -> tuple[TicketView, bool]:
        """The buyer's living ticket, and whether it was made now. Joining is a sign of life: an absent ticket returns
        to the line (`was_absent`). Raises SaleDraining, SaleSoldOut, SaleEnded, LineRecovering."""
        raise NotImplementedError

    async def look(self, keys: LineKeys, place: int) -> TicketView | None:
        """The ticket of a place as it stands; no sign of life. None: this Redis never heard of it (`restore` it)."""
        raise NotImplementedError

    async def sign(self, keys: LineKeys, places: Sequence[int]) -> list[TicketView | int]:
        """Signs of life for many. Answers those that are not simply waiting: a view (an absent one has returned to the
        line and says `was_absent`), or the bare place of a ticket unknown here. Whether the whole line is closed or
        scheduled is the document's to say. Call it once a second even with no places: so an outage of every web
        process is told from the silence of buyers, and parks nobody."""
        raise NotImplementedError

    async def take(self, keys: LineKeys, place: int) -> TicketView:
        """Told is taken: the first call fixes `told_ms` and `pass_exp_ms`, every later one answers the same. A view that
        is not ADMITTED: the turn has gone to the next, or has ended. Raises TicketUnknown."""
        raise NotImplementedError

    async def leave(self, keys: LineKeys, place: int) -> TicketView:
        """End a living ticket as `left`; one that has ended stays as it ended. The turn of an admitted one is closed at
        the shop first. Raises TicketUnknown, StoreUnavailable."""
        raise NotImplementedError

    async def restore(self, keys: LineKeys, place: int, buyer: str, joined_ms: int, lane: str) -> TicketView:
        """Put a ticket that Redis forgot, proved by its id, back at its place. Raises TicketUnknown when it had its
        turn, left, or its buyer has a better place."""
        raise NotImplementedError

    async def pause(self, sale: str, holder: str) -> None:
        """Hold the line still in the holder's name. Idempotent."""
        raise NotImplementedError

    async def resume(self, sale: str, holder: str) -> None:
        """Lift the holder's own pause, nobody else's. Idempotent."""
        raise NotImplementedError

    async def document(self, keys: LineKeys) -> bytes | None:
        """The newest line document as published, or None before the first."""
        raise NotImplementedError

    async def figures(self, keys: LineKeys) -> LineFigures | None:
        """What the next document is made of, to the one admitter whose turn it is to make it; None for the others."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let what is in flight finish."""
        raise NotImplementedError
