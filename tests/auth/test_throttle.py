"""Budgets of tries."""

from __future__ import annotations

import ipaddress

import pytest

from onsale.auth.errors import TooManyRequests
from onsale.auth.throttle import ACCOUNT_BUDGET, ADDRESS_BUDGET, Budget, Throttle, TryThrottle

NOW_MS = 1_790_000_000_000
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


def tries(throttle: TryThrottle, count: int, account: bytes | None = None, address: str = "203.0.113.9") -> int:
    """How many of `count` tries are let through; each on an account of its own unless one is named."""
    through = 0
    for number in range(count):
        try:
            throttle.take(account or b"%d" % number, address, NOW_MS)
            through += 1
        except TooManyRequests:
            continue
    return through


def test_a_budget_is_used_up_and_refills() -> None:
    """So many at once, then one each interval; waiting longer saves up no more than the whole."""
    throttle = Throttle(Budget(tries=3, refill_ms=1000))
    for _ in range(3):
        assert 0 == throttle.wait_ms("a", NOW_MS)
        throttle.take("a", NOW_MS)

    assert [1000, 1, 0] == [throttle.wait_ms("a", NOW_MS + after_ms) for after_ms in (0, 999, 1000)]
    assert 0 == throttle.wait_ms("b", NOW_MS)
    for _ in range(3):
        throttle.take("a", NOW_MS + 3_600_000)
    assert 1000 == throttle.wait_ms("a", NOW_MS + 3_600_000)


def test_memory_is_bounded() -> None:
    """The one unused longest is forgotten."""
    throttle = Throttle(Budget(tries=1, refill_ms=1000), remembered_max=2)
    for name in ("a", "b", "c"):
        throttle.take(name, NOW_MS)

    assert [0, 1000, 1000] == [throttle.wait_ms(name, NOW_MS) for name in ("a", "b", "c")]


def test_an_account_has_a_budget_wherever_the_tries_come_from() -> None:
    """Even from addresses that are spared."""
    throttle = TryThrottle(LOOPBACK)
    through = sum(
        tries(throttle, 5, b"mina", address) for address in ("127.0.0.1", "::1", "203.0.113.9", "198.51.100.1")
    )

    assert ACCOUNT_BUDGET.tries == through


def test_an_address_has_a_budget_whatever_the_account() -> None:
    """Spraying many accounts with one password from one place."""
    assert ADDRESS_BUDGET.tries == tries(TryThrottle(LOOPBACK), 100)
    assert 100 == tries(TryThrottle(LOOPBACK), 100, address="127.0.0.1")
    assert 100 == tries(TryThrottle(LOOPBACK), 100, address="::1")


def test_a_customers_ipv6_network_is_one_address() -> None:
    """2^64 addresses are no budgets."""
    throttle = TryThrottle(LOOPBACK)
    through = sum(tries(throttle, 1, b"%d" % number, f"2001:db8::{number:x}") for number in range(100))

    assert ADDRESS_BUDGET.tries == through
    assert 1 == tries(throttle, 1, address="2001:db8:1::1")


def test_a_refusal_says_when_to_come_back_and_costs_nothing() -> None:
    """Asking while refused does not push the end away."""
    throttle = TryThrottle(LOOPBACK)
    tries(throttle, 100, b"mina")
    with pytest.raises(TooManyRequests) as refused:
        throttle.take(b"mina", "203.0.113.9", NOW_MS)

    assert ACCOUNT_BUDGET.refill_ms // 1000 == refused.value.retry_after_s
    throttle.take(b"mina", "203.0.113.9", NOW_MS + refused.value.retry_after_s * 1000)


def test_a_good_sign_in_is_given_back() -> None:
    """Nobody is locked out by signing in often."""
    throttle = TryThrottle(())
    for _ in range(100):
        throttle.take(b"mina", "203.0.113.9", NOW_MS)
        throttle.give_back(b"mina", "203.0.113.9")
