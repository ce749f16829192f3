"""A payment provider that keeps books: an attempt moves money once, however often and however late it is asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.interleavings.network import Lost, Network
from onsale.checkout.ports import Attempt, Charge, ChargeState, Method, ProviderEvent

UNKNOWN = Charge(ChargeState.UNKNOWN)


@dataclass
class Entry:
    """What the books have of one attempt."""

    order: str
    charge: Charge
    refunds: dict[str, int] = field(default_factory=dict)


class ProviderModel:
    """The books. `on_charge` hears of an attempt before money moves for it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.entries: dict[str, Entry] = {}
        self.on_charge: Callable[[Attempt], None] = lambda asked: None

    def charge(self, asked: Attempt) -> Charge:
        known = self.entries.get(asked.attempt)
        if known is not None:
            return known.charge
        charge = self._decide(asked)
        if charge.state is ChargeState.CAPTURED:
            self.on_charge(asked)
        self.entries[asked.attempt] = Entry(asked.order, charge)
        return charge

    def find(self, asked: Attempt) -> Charge:
        known = self.entries.get(asked.attempt)
        return UNKNOWN if known is None else known.charge

    def void(self, asked: Attempt) -> Charge:
        known = self.entries.get(asked.attempt)
        if known is None:
            charge = Charge(ChargeState.DECLINED, "voided")
            known = self.entries[asked.attempt] = Entry(asked.order, charge)
        return known.charge

    def refund(self, asked: Attempt, key: str, amount: int) -> bool:
        entry = self.entries[asked.attempt]
        assert entry.charge.state is ChargeState.CAPTURED
        entry.refunds.setdefault(key, amount)
        return True

    def _decide(self, asked: Attempt) -> Charge:
        if asked.token == "declined":
            return Charge(ChargeState.DECLINED, "insufficient_funds", retryable=True)
        if asked.token == "stolen":
            return Charge(ChargeState.DECLINED, "stolen_card")
        amount = asked.amount + 100 if asked.token == "more" else asked.amount
        return Charge(ChargeState.CAPTURED, amount=amount, currency=asked.currency, reference=f"ref-{asked.attempt}")


class ProviderClient:
    """A `PaymentProvider` of one process: what is not answered is unknown."""

    name = "sandbox"
    methods = frozenset({Method.CARD})
    is_away = False

    def __init__(self, network: Network, model: ProviderModel) -> None:
        self._network = network
        self._model = model

    async def charge(self, asked: Attempt) -> Charge:
        return await self._ask(lambda: self._model.charge(asked))

    async def find(self, asked: Attempt) -> Charge:
        return await self._ask(lambda: self._model.find(asked))

    async def void(self, asked: Attempt) -> Charge:
        return await self._ask(lambda: self._model.void(asked))

    async def refund(self, asked: Attempt, *, key: str, amount: int, currency: str) -> bool:
        try:
            done: bool = await self._network.call(lambda: self._model.refund(asked, key, amount))
        except Lost:
            return False
        return done

    def read_event(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> ProviderEvent | None:
        return None

    async def _ask(self, serve: Callable[[], Charge]) -> Charge:
        try:
            charge: Charge = await self._network.call(serve)
        except Lost:
            return UNKNOWN
        return charge
