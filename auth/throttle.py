"""How often somebody may try to sign in, or have a letter sent: per account, whoever asks, and per address.

Budgets live in this process, so that a flood of tries costs no store anything; the price is that N web processes
together allow N times as many. A budget refills steadily, and a try that succeeded is given back: nobody is locked out
by signing in often. A known and an unknown address are counted alike, so a refusal tells nothing.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

from onsale.auth.errors import TooManyRequests
from onsale.auth.requests import Network, is_in

# About 150 bytes each: 10 MB a throttle at most. The one unused longest is forgotten first; to push an account's budget
# out, an attacker needs this many tries on others, which the budget of their address does not allow.
_REMEMBERED_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Budget:
    """`tries` at once, then one each `refill_ms`."""

    tries: int
    refill_ms: int


# Ten wrong guesses at a password, then two a minute: 2,880 a day and process.
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
        return max(0, self._next_ms(name, now_ms) - now_ms - self._budget.tries * self._budget.refill_ms)

    def take(self, name: str | bytes, now_ms: int) -> None:
        """Use one try up."""
        self._whole_at_ms[name] = self._next_ms(name, now_ms)
        self._whole_at_ms.move_to_end(name)
        if len(self._whole_at_ms) > self._remembered_max:
            self._whole_at_ms.popitem(last=False)

    def give_back(self, name: str | bytes) -> None:
        """The try was a good one."""
        if name in self._whole_at_ms:
            self._whole_at_ms[name] -= self._budget.refill_ms

    def _next_ms(self, name: str | bytes, now_ms: int) -> int:
        return max(now_ms, self._whole_at_ms.get(name, 0)) + self._budget.refill_ms


class TryThrottle:
    """Both budgets. Addresses in `unlimited_from` are spared the one per address, never the one per account."""

    def __init__(
        self,
        unlimited_from: tuple[Network, ...],
        per_account: Budget = ACCOUNT_BUDGET,
        per_address: Budget = ADDRESS_BUDGET,
    ) -> None:
        self._unlimited_from = unlimited_from
        self._accounts = Throttle(per_account)
        self._addresses = Throttle(per_address)

    def take(self, account: bytes, address: str, now_ms: int) -> None:
        """One try. TooManyRequests when either budget is used up; then neither is charged."""
        network = self._network(address)
        wait_ms = self._accounts.wait_ms(account, now_ms)
        if network is not None:
            wait_ms = max(wait_ms, self._addresses.wait_ms(network, now_ms))
        if wait_ms:
            raise TooManyRequests(retry_after_s=-(-wait_ms // 1000))
        self._accounts.take(account, now_ms)
        if network is not None:
            self._addresses.take(network, now_ms)

    def give_back(self, account: bytes, address: str) -> None:
        """The try succeeded."""
        self._accounts.give_back(account)
        network = self._network(address)
        if network is not None:
            self._addresses.give_back(network)

    def _network(self, address: str) -> str | None:
        """What shares a budget: an IPv4 address, or the /64 that one IPv6 customer is given. None: spared."""
        if is_in(address, self._unlimited_from):
            return None
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return address
        return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
