"""The line's Redis port: one method a verb, many requests one script. A place is given once, and a buyer has one living
ticket.

Requests await futures; only the batcher awaits Redis. Nothing here is repeated by itself: every item is idempotent
under its buyer or its place, so a caller whose answer was lost asks again knowingly.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from onsale.auth.errors import StoreUnavailable
from onsale.catalog.sales import SaleBook
from onsale.lua.batching import Batcher, Overloaded
from onsale.lua.keys import LineKeys
from onsale.lua.line import Answer, LineRefused, LineScripts, ViewRow
from onsale.lua.replies import Reply
from onsale.queue.errors import LineError, LineRecovering, SaleDraining, SaleEnded, SaleSoldOut, TicketUnknown
from onsale.queue.holders import POSTGRES_AWAY, Holders
from onsale.queue.numbering import Numbering
from onsale.queue.ports import ShopPort
from onsale.queue.states import LANES, TicketState, TicketView
from onsale.queue.sync import LineSync

Item = TypeVar("Item")
Value = TypeVar("Value")

# The pass is judged by the shop's clock: a seat is kept this much longer than its pass.
SKEW_MS = 30_000
# 1,000 places are two commands of Redis; more would come near what Lua can hand to one.
SIGNS_A_CALL = 1_000
# How often numbering may reach the ceiling within one call before the line is taken for recovering.
RAISES_MAX = 5

# How Redis refuses to write or to answer; the client strips the word in front of some of these.
CANNOT_WRITE = re.compile(r"used memory|OOM|MISCONF|NOREPLICAS|READONLY|read only|LOADING|BUSY|CLUSTERDOWN|MASTERDOWN")

STATES = {
    1: TicketState.WAITING,
    2: TicketState.ADMITTED,
    3: TicketState.COMPLETED,
    4: TicketState.EXPIRED,
    5: TicketState.LEFT,
    6: TicketState.SCHEDULED,
    7: TicketState.CLOSED,
}
ERRORS: dict[Reply, type[LineError]] = {
    Reply.RECOVERING: LineRecovering,
    Reply.CORRUPT: LineRecovering,
    Reply.CEILING: LineRecovering,
    Reply.DRAINING: SaleDraining,
    Reply.SOLD_OUT: SaleSoldOut,
    Reply.ENDED: SaleEnded,
    Reply.UNKNOWN: TicketUnknown,
    Reply.GONE: TicketUnknown,
}


class Line:
    """What the rest of the house asks of the line. Every method raises LineRecovering while the keys are not registered
    with the server they are on, and StoreUnavailable while Redis is away or has more to do than it can.
    """

    def __init__(self, redis: Redis, numbering: Numbering, holders: Holders, shop: ShopPort, book: SaleBook) -> None:
        self._redis = redis
        self._scripts = LineScripts(redis)
        self._sync = LineSync(self._scripts, book)
        self._numbering = numbering
        self._holders = holders
        self._shop = shop
        self._book = book
        self._batchers: dict[tuple[str, LineKeys], Batcher[Any, Answer]] = {}

    async def join(self, keys: LineKeys, buyer: str) -> tuple[TicketView, bool]:
        """The buyer's living ticket, and whether it was made now. Joining is a sign of life: an absent ticket returns
        to the line (`was_absent`). Raises SaleDraining, SaleSoldOut, SaleEnded, LineRecovering."""
        for _ in range(RAISES_MAX):
            reply, row = await self._submit("join", keys, (buyer, 0), self._scripts.join)
            if reply is not Reply.CEILING:
                break
            await self._raise_ceiling(keys, row[0], row[1].decode())
        view = _view(reply, row)
        is_fresh = row[12] == 1
        return view, is_fresh

    async def look(self, keys: LineKeys, place: int) -> TicketView | None:
        """The ticket of a place as it stands; no sign of life. None: this Redis never heard of it (`restore` it)."""
        reply, row = await self._submit("look", keys, place, self._scripts.look)
        return None if reply is Reply.UNKNOWN else _view(reply, row)

    async def pass_until(self, keys: LineKeys, turn: str) -> int | None:
        """When the pass of a told turn ends (ms): an outage of ours puts it off. 0: the turn is over. None: this Redis
        knows nothing of it, and what the pass says counts."""
        place = int(turn.split("-")[1])
        view = await self.look(keys, place)
        if view is None or view.turn != turn:
            return None
        return view.pass_exp_ms if view.state is TicketState.ADMITTED else 0

    async def look_for(self, keys: LineKeys, buyer: str) -> TicketView | None:
        """A buyer's living ticket as it stands, or the one that ended last; no sign of life. None: this Redis never
        heard of any."""
        place = await _guarded(cast("Awaitable[bytes | None]", self._redis.hget(keys.buyers, buyer)))
        return None if place is None else await self.look(keys, int(place))

    async def sign(self, keys: LineKeys, places: Sequence[int]) -> list[TicketView | int]:
        """Signs of life for many. Answers those that are not simply waiting: a view (an absent one has returned to the
        line and says `was_absent`), or the bare place of a ticket unknown here. Whether the whole line is closed or
        scheduled is the document's to say. Call it once a second even with no places: so an outage of every web
        process is told from the silence of buyers, and parks nobody."""
        found: list[TicketView | int] = []
        for start in range(0, max(1, len(places)), SIGNS_A_CALL):
            for reply, row in await _guarded(self._scripts.sign(keys, places[start : start + SIGNS_A_CALL])):
                found.append(int(row[0]) if reply is Reply.UNKNOWN else _view(reply, row))
        return found

    async def take(self, keys: LineKeys, place: int) -> TicketView:
        """Told is taken: the first call fixes `told_ms` and `pass_exp_ms`, every later one answers the same. A view
        that is not ADMITTED: the turn has gone to the next, or has ended. Raises TicketUnknown."""
        return _view(*await self._submit("take", keys, place, self._send_takes))

    async def leave(self, keys: LineKeys, place: int) -> TicketView:
        """End a living ticket as `left`; one that has ended stays as it ended. The turn of an admitted one is closed at
        the shop first, so that a seat is never free while its pass still buys. Raises TicketUnknown."""
        reply, row = await self._submit("leave", keys, (place, ""), self._scripts.leave)
        if reply is Reply.TURN_BUSY:
            turn = row[0].decode()
            await self._shop.close_turns(keys.sale, [turn], "left")
            reply, row = await self._submit("leave", keys, (place, turn), self._scripts.leave)
        return _view(reply, row)

    async def restore(self, keys: LineKeys, place: int, buyer: str, joined_ms: int, lane: str) -> TicketView:
        """Put a ticket that Redis forgot, proved by its id, back at its place. Raises TicketUnknown when it had its
        turn, left, or its buyer has a better place."""
        item = (place, buyer, joined_ms, LANES.index(lane))
        return _view(*await self._submit("restore", keys, item, self._scripts.restore))

    async def pause(self, sale: str, holder: str) -> None:
        """Hold the line still in the holder's name. Idempotent. While Postgres is away the hold is only as lasting as
        Redis. Operators hold by `Control`, which writes down who did."""
        await self._hold(sale, holder, self._holders.add, is_held=True)

    async def resume(self, sale: str, holder: str) -> None:
        """Lift the holder's own pause, nobody else's. Idempotent."""
        await self._hold(sale, holder, self._holders.remove, is_held=False)

    async def document(self, keys: LineKeys) -> bytes | None:
        """The newest line document as published, or None before the first; it may be of before an outage."""
        return await _guarded(cast("Awaitable[bytes | None]", self._redis.get(keys.frame)))

    async def close(self) -> None:
        """Let what is in flight finish."""
        for batcher in self._batchers.values():
            await batcher.close()

    async def _hold(
        self, sale: str, holder: str, write: Callable[[str, str], Awaitable[None]], *, is_held: bool
    ) -> None:
        try:
            await write(sale, holder)
        except POSTGRES_AWAY:
            keys = LineKeys(sale, self._book.get(sale).line_epoch)
            await _guarded(self._scripts.hold(keys, holder, is_held=is_held))
            return
        # Written down: where the line cannot be told now, the Keeper tells it.
        with suppress(LineRecovering, StoreUnavailable):
            await _guarded(self._sync.push(sale))

    async def _submit(
        self,
        verb: str,
        keys: LineKeys,
        item: Item,
        send: Callable[[LineKeys, Sequence[Item]], Awaitable[Sequence[Answer]]],
    ) -> Answer:
        batcher = self._batchers.get((verb, keys))
        if batcher is None:
            self._forget_older(keys)
            batcher = self._batchers[verb, keys] = Batcher(lambda items: send(keys, items))
        return await _guarded(batcher.submit(item))

    def _forget_older(self, keys: LineKeys) -> None:
        for verb, known in list(self._batchers):
            if known.sale == keys.sale and known.epoch < keys.epoch:
                del self._batchers[verb, known]

    async def _send_takes(self, keys: LineKeys, places: Sequence[int]) -> list[Answer]:
        return await self._scripts.take(keys, places, skew_ms=SKEW_MS)

    async def _raise_ceiling(self, keys: LineKeys, ceiling: int, run_id: str) -> None:
        try:
            raised = await self._numbering.raise_above(keys.sale, keys.epoch, run_id, ceiling)
        except POSTGRES_AWAY as error:
            raise StoreUnavailable from error
        await _guarded(self._scripts.ceiling(keys, raised))


def _view(reply: Reply, row: ViewRow) -> TicketView:
    if reply is not Reply.OK:
        _refuse(reply)
    return TicketView(
        place=row[0],
        state=STATES[row[1]],
        buyer=row[2].decode(),
        joined_ms=row[3],
        lane=LANES[row[4]],
        is_absent=row[5] == 1,
        was_absent=row[6] == 1,
        turn=row[7].decode(),
        admitted_ms=row[8],
        told_ms=row[9],
        pass_exp_ms=row[10],
        ended_ms=row[11],
    )


def _refuse(reply: Reply) -> NoReturn:
    raise ERRORS[reply]


async def _guarded(call: Awaitable[Value]) -> Value:
    try:
        return await call
    except LineRefused as refused:
        raise ERRORS[refused.reply] from refused
    except ResponseError as error:
        # An error of a script is a fault of ours and rises.
        if CANNOT_WRITE.search(str(error)) is None:
            raise
        raise StoreUnavailable from error
    except (RedisError, Overloaded) as error:
        raise StoreUnavailable from error
