"""How often somebody may try to sign in, or have a letter sent: per account, whoever asks, and per address.

The budget of an account is one for all processes (`auth/tries.py`): what guesses at one password is bounded however
many processes there are. This process remembers what it was told, so that a flood of tries on one account asks Postgres
no oftener than the budget lets somebody through. The budget of an address is each process's own: it bounds what one
place may ask of this process, it is asked on every try and so must cost no store, and whoever keeps a connection meets
one process anyway.

A budget refills steadily, and a try that was no wrong guess is given back: nobody is locked out by signing in often. A
known and an unknown address are counted alike, so a refusal tells nothing.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from onsale.auth.errors import TooManyRequests
from onsale.auth.requests import Network, is_in
from onsale.auth.tries import Budget, Tries

# About 150 bytes each: 10 MB a throttle at most. The one unused longest is forgotten first; of an account Postgres
# remembers it, and to push an address out an attacker needs this many others.
_REMEMBERED_MAX = 65_536

# Ten wrong guesses at a password, then two a minute: 2,880 a day.
ACCOUNT_BUDGET = Budget(tries=10, refill_ms=30_000)
# A family, an office behind one address: 30 at once, then one every two seconds.
ADDRESS_BUDGET = Budget(tries=30, refill_ms=2_000)
# Letters asked for by naming an address: signing up, codes, resets. Nobody reads six a minute.
LETTER_ACCOUNT_BUDGET = Budget(tries=6, refill_ms=60_000)
LETTER_ADDRESS_BUDGET = Budget(tries=30, refill_ms=10_000)


class Throttle:
    """One budget for each name. Keeps, for each, the instant at which its budget is whole again (GCRA)."""

    def __init__(self, budget: Budget, remembered_max: int = _REMEMBERED_MAX) -> None:
        self._budget = budget
        self._remembered_max = remembered_max
        self._whole_at_ms: OrderedDict[str | bytes, int] = OrderedDict()

    def wait_ms(self, name: str | bytes, now_ms: int) -> int:
        """0 when a try may be taken, else how long until one may."""
        return max(0, self._next_ms(name, now_ms) - now_ms - self._budget.whole_ms)

    def take(self, name: str | bytes, now_ms: int) -> None:
        """Use one try up."""
        self.note(name, self._next_ms(name, now_ms))

    def note(self, name: str | bytes, whole_at_ms: int) -> None:
        """A budget is whole again then, somebody else says."""
        self._whole_at_ms[name] = whole_at_ms
        self._whole_at_ms.move_to_end(name)
        if len(self._whole_at_ms) > self._remembered_max:
            self._whole_at_ms.popitem(last=False)

    def give_back(self, name: str | bytes) -> None:
        """The try was a good one."""
        if name in self._whole_at_ms:
            self._whole_at_ms[name] -= self._budget.refill_ms

    def _next_ms(self, name: str | bytes, now_ms: int) -> int:
        whole_at_ms = self._whole_at_ms.get(name, 0)
        if whole_at_ms > now_ms + 2 * self._budget.whole_ms:
            # No budget takes as long: this was noted before the clock went back.
            whole_at_ms = 0
        return max(now_ms, whole_at_ms) + self._budget.refill_ms


class TryThrottle:
    """Both budgets. Addresses in `unlimited_from` are spared the one per address, never the one per account."""

    def __init__(self, tries: Tries, unlimited_from: tuple[Network, ...], per_address: Budget = ADDRESS_BUDGET) -> None:
        self._tries = tries
        self._unlimited_from = unlimited_from
        self._accounts = Throttle(tries.budget)
        self._addresses = Throttle(per_address)

    async def take(self, account: bytes, address: str, now_ms: int) -> None:
        """One try. TooManyRequests when either budget is used up; then neither is charged."""
        network = self._network(address)
        wait_ms = self._accounts.wait_ms(account, now_ms)
        if network is not None:
            wait_ms = max(wait_ms, self._addresses.wait_ms(network, now_ms))
        _require_none(wait_ms)
        if network is not None:
            # Before anything is waited for: a thousand at once are a thousand tries.
            self._addresses.take(network, now_ms)
        try:
            used = await self._tries.take(account)
            self._accounts.note(account, now_ms + used.whole_in_ms)
            if not used.is_taken:
                _require_none(max(1, self._accounts.wait_ms(account, now_ms)))
        except BaseException:
            if network is not None:
                self._addresses.give_back(network)
            raise

    async def give_back(self, account: bytes, address: str) -> None:
        """The try was a good one."""
        self._accounts.give_back(account)
        network = self._network(address)
        if network is not None:
            self._addresses.give_back(network)
        await self._tries.give_back(account)

    @asynccontextmanager
    async def trying(self, account: bytes, address: str, now_ms: int, *, wrong: type[Exception]) -> AsyncIterator[None]:
        """One try, which counts where it ends in `wrong`. Ended otherwise, nobody learned anything by it: it is given
        back. TooManyRequests as `take`."""
        await self.take(account, address, now_ms)
        try:
            yield
        except Exception as error:
            if not isinstance(error, wrong):
                await self.give_back(account, address)
            raise
        await self.give_back(account, address)

    def _network(self, address: str) -> str | None:
        """What shares a budget: an IPv4 address, or the /64 that one IPv6 customer is given. None: spared."""
        if is_in(address, self._unlimited_from):
            return None
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return address
        return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def _require_none(wait_ms: int) -> None:
    if wait_ms:
        raise TooManyRequests(retry_after_s=-(-wait_ms // 1000))
