"""People who buy: each asks, perhaps twice at once or again when nothing comes back, and remembers what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from bench.interleavings.network import Lost
from bench.interleavings.world import NEVER_MS, PRODUCTS, SALE, World
from onsale.checkout.errors import PaymentDeclined
from onsale.checkout.flow import Confirmation
from onsale.checkout.idempotency import Outcome
from onsale.checkout.inventory import Held
from onsale.checkout.ports import Method
from onsale.checkout.schemas import AmendRequest, ItemRequest, PaymentRequest, ReserveRequest
from onsale.queue.line import Line
from onsale.queue.states import TicketState, TicketView
from onsale.server.problems import problem_of

TRIES_MAX = 6
POLLS_MAX = 12


@dataclass
class Told:
    """What one buyer was told of one order."""

    buyer: str
    order: str
    is_confirmed: bool = False


class Crowd:
    """The buyers of one run. `on_confirmed` hears of each confirmation the moment a process gives it."""

    def __init__(self, world: World, on_confirmed: Callable[[str], None]) -> None:
        self._world = world
        self._rng = world.rng
        self._on_confirmed = on_confirmed
        self.told: dict[str, Told] = {}
        # Processes answered with what no rule foresees.
        self.surprises: list[str] = []
        self.places: dict[int, str] = {}
        self._numbers = 0

    async def run(self) -> None:
        """Everybody buys; ends when all have ended."""
        await asyncio.gather(*(self._buy_all(f"buyer{number}") for number in range(self._world.plan.buyers)))

    async def _buy_all(self, buyer: str) -> None:
        for turn in range(1 + (self._rng.random() < 0.5)):
            await asyncio.sleep(self._rng.random() * self._world.plan.lasts_s / 3)
            await self._buy(buyer, f"1-{buyer}-{turn}")

    async def _buy(self, buyer: str, turn: str) -> None:
        rng, world = self._rng, self._world
        products = rng.sample(PRODUCTS, 1 + (rng.random() < 0.4))
        wanted = ReserveRequest(tuple(ItemRequest(product, 1 + (rng.random() < 0.2)) for product in products))
        exp_ms = NEVER_MS
        if world.plan.line:
            seat = await self._wait(buyer)
            if seat is None:
                return
            turn, exp_ms = seat.turn, seat.pass_exp_ms
        token = world.passes.mint(sale=SALE, buyer=buyer, turn=turn, lane="general", epoch=1, iat_ms=0, exp_ms=exp_ms)
        key = self._key("reserve", buyer)
        held = await self._ask(buyer, "reserve", lambda web: web["flow"].reserve(SALE, buyer, token, wanted, key))
        if not isinstance(held, Held):
            return
        self.told.setdefault(held.order, Told(buyer, held.order))
        chance = rng.random()
        if chance < 0.1:
            return
        if chance < 0.25:
            await asyncio.sleep(rng.random() * world.plan.hold_ttl_s * 1.2)
        if chance > 0.93:
            await self._ask(buyer, "release", lambda web: web["reads"].release(buyer, held.order))
            return
        if chance > 0.83:
            other = AmendRequest((ItemRequest(rng.choice(PRODUCTS), 1),))
            await self._ask(buyer, "amend", lambda web: web["flow"].amend(buyer, held.order, token, other))
        await self._pay(buyer, held.order)

    async def _wait(self, buyer: str) -> TicketView | None:
        """Join, and poll until let in; None when patience ends, or the line has."""
        keys = self._world.line_keys
        joined = await self._ask(buyer, "join", lambda web: web["line"].join(keys, buyer))
        if not isinstance(joined, tuple):
            return None
        place = joined[0].place
        if self.places.setdefault(place, buyer) != buyer:
            self.surprises.append(f"I4: place {place} is {buyer}'s and {self.places[place]}'s")
        for _ in range(POLLS_MAX):
            await asyncio.sleep(0.2 + self._rng.random() * 0.4)
            view = await self._ask(buyer, "poll", lambda web: self._poll(web["line"], place))
            if isinstance(view, TicketView) and view.state is TicketState.ADMITTED:
                return view
            if isinstance(view, TicketView) and not view.state.is_living:
                return None
        await self._ask(buyer, "leave", lambda web: web["line"].leave(keys, place))
        return None

    async def _poll(self, line: Line, place: int) -> TicketView | None:
        """A sign of life, and how the ticket stands; being told is taking."""
        keys = self._world.line_keys
        await line.sign(keys, [place])
        view = await line.look(keys, place)
        if view is not None and view.state is TicketState.ADMITTED and view.told_ms == 0:
            view = await line.take(keys, place)
        return view

    async def _pay(self, buyer: str, order: str) -> None:
        for _ in range(1 + (self._rng.random() < 0.6)):
            card = self._rng.choice(("ok", "ok", "ok", "ok", "ok", "declined", "stolen", "more"))
            payment = PaymentRequest(provider="sandbox", method=Method.CARD, token=card)
            key = self._key(f"pay {card}", buyer)
            found = await self._ask(
                buyer,
                f"confirm {order[-5:]} {card}",
                lambda web, p=payment, k=key: self._confirm(web, buyer, order, p, k),
            )
            if not isinstance(found, PaymentDeclined):
                return

    async def _confirm(self, web: Any, buyer: str, order: str, payment: PaymentRequest, key: str) -> Confirmation:
        confirmation: Confirmation = await web["flow"].confirm(buyer, order, payment, key)
        ending = confirmation.ending
        if ending.outcome is Outcome.SOLD and ending.is_recorded:
            self.told.setdefault(order, Told(buyer, order)).is_confirmed = True
            self._on_confirmed(order)
        return confirmation

    async def _ask(self, buyer: str, what: str, call: Callable[[Any], Awaitable[Any]]) -> Any:
        """Ask until there is an answer, or patience ends; sometimes twice at once."""
        world, found = self._world, None
        for _ in range(TRIES_MAX):
            copies = [self._once(call) for _ in range(2 if self._rng.random() < 0.15 else 1)]
            answers = await asyncio.gather(*copies, return_exceptions=True)
            found = next((answer for answer in answers if not _is_to_be_asked_again(answer)), answers[0])
            if what != "poll" or _said(found) != "waits":
                world.note(buyer, f"{what}: {_said(found)}")
            if isinstance(found, Confirmation) and found.ending.outcome is Outcome.OPEN:
                await asyncio.sleep(self._rng.random())
                continue
            if not _is_to_be_asked_again(found):
                break
            await asyncio.sleep(0.05 + self._rng.random() * 0.5)
        if isinstance(found, BaseException) and not isinstance(found, Lost) and problem_of(found).status == 500:
            self.surprises.append(f"{what}: {found!r}")
        return found

    async def _once(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        """One request over one connection to one web process; Lost when the process or the wire dies."""
        world = self._world
        webs = [running for running in world.running.values() if running.kind == "web" and "flow" in running.parts]
        if not webs:
            raise Lost
        web = self._rng.choice(webs)
        if web.process.is_dead:
            raise Lost

        def serve() -> asyncio.Future[Any]:
            return world.spawn(web.process, call(web.parts))

        request = world.loop.create_task(world.network.call(serve))
        done, _ = await asyncio.wait({request}, timeout=6.0)
        if not done:
            request.cancel()
            raise Lost
        return request.result()

    def _key(self, what: str, buyer: str) -> str:
        self._numbers += 1
        return f"{what} {buyer} {self._numbers}"


def _is_to_be_asked_again(found: Any) -> bool:
    """Nothing came back, or what over HTTP is a 503: the same request again finds out."""
    return isinstance(found, Lost) or (isinstance(found, BaseException) and problem_of(found).status == 503)


def _said(found: Any) -> str:
    if isinstance(found, tuple):
        found = found[0]
    if isinstance(found, TicketView):
        return "waits" if found.state is TicketState.WAITING else f"{found.place} {found.state} {found.turn}"
    if isinstance(found, Held):
        return f"held {found.order[-5:]}{' again' if found.is_replay else ''}"
    if isinstance(found, Confirmation):
        ending = found.ending
        return f"{ending.outcome} {ending.reason}{'recorded' if ending.is_recorded else 'not recorded'}"
    return type(found).__name__ if isinstance(found, BaseException) else "done"
