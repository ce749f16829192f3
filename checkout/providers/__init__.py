"""Providers of payments behind one breaker each: what they answer, and whether they are worth asking.

An adapter (`ProviderClient`) says honestly how a call ended: an answer, `NotReached` (nothing was sent), or `NoReply`
(sent and unanswered: it may have charged). `Guarded` turns that into the port that checkout uses, where an unanswered
call is UNKNOWN and never an error, and counts failures in a circuit breaker.

An unanswered *charge* is not counted: a card that hangs says nothing about the provider. The question asked after it
(`find`) is: a provider that does not answer questions is away. What this process was too busy to send or to hear is not
counted either.

Nothing is asked twice in here: who drives an attempt repeats the whole call under the attempt's key, within its lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import CLOSED, OpenedState

from onsale.catalog.sales import SaleBook
from onsale.checkout.ports import Attempt, Charge, ChargeState, LinePause, Method, ProviderEvent
from onsale.checkout.providers.wire import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, NoReply, NotReached

Answer = TypeVar("Answer")

# The name under which checkout holds a line still; nobody else uses it, and it lifts nobody else's.
PAUSE_HOLDER = "provider"
# Five in a row: a restart of the provider costs a reconnection or two, not five.
FAILURES_MAX = 5
# How long the breaker refuses before it lets a question through again; also what clients are told to wait.
OPEN_S = 2
# One call of ours, however many requests of the provider's it takes: shorter than any lease counts on.
CALL_S = CONNECT_TIMEOUT_S + READ_TIMEOUT_S
UNKNOWN = Charge(ChargeState.UNKNOWN)
PROBE = Attempt("probe", order="probe", amount=0, currency="KRW")


class ProviderClient(Protocol):
    """An adapter of one provider. Each call raises NotReached or NoReply."""

    @property
    def name(self) -> str: ...

    @property
    def methods(self) -> frozenset[Method]: ...

    async def charge(self, asked: Attempt) -> Charge: ...

    async def find(self, asked: Attempt) -> Charge: ...

    async def void(self, asked: Attempt) -> Charge: ...

    async def refund(self, asked: Attempt, *, key: str, amount: int, currency: str) -> bool: ...

    def read_event(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> ProviderEvent | None: ...

    async def close(self) -> None: ...


class Guarded:
    """`PaymentProvider` over an adapter: never raises for the network, and knows when the provider is away."""

    def __init__(
        self,
        client: ProviderClient,
        *,
        failures_max: int = FAILURES_MAX,
        open_s: float = OPEN_S,
        call_s: float = CALL_S,
    ) -> None:
        self.name = client.name
        self.methods = client.methods
        self._client = client
        self._call_s = call_s
        # In memory: each process judges by its own calls.
        self._breakers = AsyncCircuitBreakerFactory(default_threshold=failures_max, default_ttl=open_s)
        self._is_away = False
        # Whether the breaker has counted a failure that no answer has cleared since.
        self._is_doubted = False

    @property
    def is_away(self) -> bool:
        """Whether the breaker is open. A probe closes it: buyers are not used to try a provider out."""
        return self._is_away

    async def charge(self, asked: Attempt) -> Charge:
        return await self._ask(lambda: self._client.charge(asked), UNKNOWN, is_silence_counted=False)

    async def find(self, asked: Attempt) -> Charge:
        return await self._ask(lambda: self._client.find(asked), UNKNOWN)

    async def void(self, asked: Attempt) -> Charge:
        return await self._ask(lambda: self._client.void(asked), UNKNOWN)

    async def refund(self, asked: Attempt, *, key: str, amount: int, currency: str) -> bool:
        return await self._ask(lambda: self._client.refund(asked, key=key, amount=amount, currency=currency), False)

    def read_event(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> ProviderEvent | None:
        return self._client.read_event(headers, raw, now_s)

    async def probe(self) -> bool:
        """Ask a harmless question; whether it was answered."""
        return await self._ask(self._question, False)

    async def _question(self) -> bool:
        await self._client.find(PROBE)
        return True

    async def _ask(
        self, call: Callable[[], Awaitable[Answer]], otherwise: Answer, *, is_silence_counted: bool = True
    ) -> Answer:
        try:
            async with asyncio.timeout(self._call_s):
                answer = await call()
        except NotReached as failure:
            if not failure.is_ours:
                await self._note(is_answered=False)
            return otherwise
        except NoReply as failure:
            if is_silence_counted and not failure.is_ours:
                await self._note(is_answered=False)
            return otherwise
        except TimeoutError:
            # Several requests, each in its time, and together too slow.
            return otherwise
        await self._note(is_answered=True)
        return answer

    async def _note(self, *, is_answered: bool) -> None:
        if is_answered and not self._is_doubted:
            # An answer tells a breaker in good standing nothing.
            return
        self._is_doubted = True
        breaker = await self._breakers.get_breaker(self.name)
        # While the breaker is open what it is told does not count; afterwards one answer closes it.
        try:
            async with breaker:
                if not is_answered:
                    raise NoReply
        except (NoReply, OpenedState):
            pass
        self._is_away = breaker.context.state != CLOSED
        self._is_doubted = self._is_away or not is_answered


@dataclass(frozen=True, slots=True)
class WatchTick:
    """Lines stopped and let go on in this tick."""

    paused: tuple[str, ...] = ()
    resumed: tuple[str, ...] = ()


class ProviderWatch:
    """Stops every line while a provider is away, in the name "provider", and lets them go on when it answers.

    Each web process and each worker ticks it once a second, so a pause left behind by a dead process is lifted by
    another. A process that alone cannot reach the provider refuses its own confirmations and cannot hold the lines.
    """

    def __init__(self, providers: Sequence[Guarded], line: LinePause, book: SaleBook) -> None:
        self._providers = providers
        self._line = line
        self._book = book

    async def tick(self) -> WatchTick:
        """Probe where something is amiss; at rest it costs nothing."""
        held = [sale.id for sale in self._book.all() if PAUSE_HOLDER in sale.paused_by]
        is_amiss = any(provider.is_away for provider in self._providers)
        if not held and not is_amiss:
            return WatchTick()
        for provider in self._providers:
            await provider.probe()
        if any(provider.is_away for provider in self._providers):
            return WatchTick(paused=await self._pause_running(held))
        for sale in held:
            await self._line.resume(sale, PAUSE_HOLDER)
        return WatchTick(resumed=tuple(held))

    async def _pause_running(self, held: Sequence[str]) -> tuple[str, ...]:
        running = tuple(sale.id for sale in self._book.all() if not sale.closed and sale.id not in held)
        for sale in running:
            await self._line.pause(sale, PAUSE_HOLDER)
        return running
