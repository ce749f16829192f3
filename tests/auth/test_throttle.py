"""Budgets of tries: an account's counted by all processes together, an address's by each."""

from __future__ import annotations

import asyncio
import ipaddress
import subprocess
import sys

import asyncpg
import pytest

from onsale.auth.errors import InvalidCredentials, TooManyRequests
from onsale.auth.janitor import Janitor
from onsale.auth.throttle import ACCOUNT_BUDGET, ADDRESS_BUDGET, Throttle, TryThrottle
from onsale.auth.tries import Budget, Tries

NOW_MS = 1_790_000_000_000
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
MINA = b"mina"
# What another web process does with the same account: so many tries, and how many it was let through.
ELSEWHERE = """
import asyncio, sys, asyncpg
from onsale.auth.errors import TooManyRequests
from onsale.auth.throttle import ACCOUNT_BUDGET, TryThrottle
from onsale.auth.tries import Tries

async def main(url):
    async with asyncpg.create_pool(url, min_size=4, max_size=4, statement_cache_size=0) as pool:
        throttle = TryThrottle(Tries(pool, "sign_in", ACCOUNT_BUDGET), ())
        print("ready", flush=True)
        sys.stdin.readline()
        tries = (throttle.take(b"mina", f"198.51.100.{n}", 1_790_000_000_000) for n in range(40))
        print(sum(each is None for each in await asyncio.gather(*tries, return_exceptions=True)))

asyncio.run(main(sys.argv[1]))
"""


def throttle_of(database: asyncpg.Pool, name: str = "sign_in") -> TryThrottle:
    """That of one web process."""
    return TryThrottle(Tries(database, name, ACCOUNT_BUDGET), LOOPBACK)


@pytest.fixture
def throttle(database: asyncpg.Pool) -> TryThrottle:
    return throttle_of(database)


async def tries(throttle: TryThrottle, count: int, account: bytes | None = None, address: str = "203.0.113.9") -> int:
    """How many of `count` tries are let through; each on an account of its own unless one is named."""
    through = 0
    for number in range(count):
        try:
            await throttle.take(account or b"%d" % number, address, NOW_MS)
            through += 1
        except TooManyRequests:
            continue
    return through


async def pass_time(database: asyncpg.Pool, ms: int) -> None:
    """Postgres keeps the time of these budgets."""
    await database.execute("UPDATE tries SET whole_at = whole_at - $1 * interval '1 ms'", ms)


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


async def test_the_shared_budget_refills_too(database: asyncpg.Pool) -> None:
    """The same of what is counted in Postgres."""
    counted = Tries(database, "sign_in", Budget(tries=3, refill_ms=60_000))
    assert [True] * 3 + [False] * 2 == [(await counted.take(MINA)).is_taken for _ in range(5)]
    assert 170_000 < (await counted.take(MINA)).whole_in_ms <= 180_000

    await pass_time(database, 60_000)
    assert [True, False] == [(await counted.take(MINA)).is_taken for _ in range(2)]
    await pass_time(database, 3_600_000)
    assert [True] * 3 + [False] == [(await counted.take(MINA)).is_taken for _ in range(4)]


async def test_a_clock_that_went_back_locks_nobody_out(database: asyncpg.Pool) -> None:
    """What no budget takes to be whole again was noted by another time; what two clocks may differ by was not."""
    budget = Budget(tries=3, refill_ms=60_000)
    counted, remembered = Tries(database, "sign_in", budget), Throttle(budget)
    for _ in range(3):
        await counted.take(MINA)
        remembered.take(MINA, NOW_MS)

    await pass_time(database, -150_000)
    assert not (await counted.take(MINA)).is_taken
    assert 0 < remembered.wait_ms(MINA, NOW_MS - 150_000)
    await pass_time(database, -3_600_000)
    assert [True] * 3 + [False] == [(await counted.take(MINA)).is_taken for _ in range(4)]
    assert 0 == remembered.wait_ms(MINA, NOW_MS - 3_600_000)


def test_memory_is_bounded() -> None:
    """The one unused longest is forgotten."""
    throttle = Throttle(Budget(tries=1, refill_ms=1000), remembered_max=2)
    for name in ("a", "b", "c"):
        throttle.take(name, NOW_MS)

    assert [0, 1000, 1000] == [throttle.wait_ms(name, NOW_MS) for name in ("a", "b", "c")]


async def test_an_account_has_a_budget_wherever_the_tries_come_from(throttle: TryThrottle) -> None:
    """Even from addresses that are spared."""
    addresses = ("127.0.0.1", "::1", "203.0.113.9", "198.51.100.1")

    assert ACCOUNT_BUDGET.tries == sum([await tries(throttle, 5, MINA, address) for address in addresses])


async def test_two_processes_have_one_budget_together(database: asyncpg.Pool, database_url: str) -> None:
    """Each is asked 40 times for one account in one instant: ten are let through in both."""
    command = [sys.executable, "-c", ELSEWHERE, database_url]
    others = [
        await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    ]
    for other in others:
        assert other.stdout is not None
        assert b"ready\n" == await other.stdout.readline()
    said = await asyncio.gather(*(other.communicate(b"now\n") for other in others))

    assert ACCOUNT_BUDGET.tries == sum(int(out) for out, _ in said)
    assert 0 == await tries(throttle_of(database), 1, MINA)
    assert 1 == await tries(throttle_of(database, "letter"), 1, MINA)


async def test_a_flood_on_one_account_writes_no_row_each(throttle: TryThrottle, database: asyncpg.Pool) -> None:
    """Once it was refused, this process remembers for how long, and asks nobody."""
    await tries(throttle_of(database), 100, MINA, "127.0.0.1")
    assert 0 == await tries(throttle, 1, MINA, "127.0.0.1")
    await database.close()

    assert 0 == await tries(throttle, 1_000, MINA, "127.0.0.1")


async def test_a_budget_that_is_whole_again_is_forgotten(throttle: TryThrottle, database: asyncpg.Pool) -> None:
    """The rows are those of the last minutes."""
    await tries(throttle, 2, address="127.0.0.1")
    await pass_time(database, 60_000)
    await tries(throttle, 1, MINA, "127.0.0.1")

    assert 2 == (await Janitor(database).tick()).forgotten
    assert 1 == await database.fetchval("SELECT count(*) FROM tries")


async def test_an_address_has_a_budget_whatever_the_account(throttle: TryThrottle) -> None:
    """Spraying many accounts with one password from one place."""
    assert ADDRESS_BUDGET.tries == await tries(throttle, 100)
    assert 5 == await tries(throttle, 5, address="127.0.0.1")
    assert 5 == await tries(throttle, 5, address="::1")


async def test_a_customers_ipv6_network_is_one_address(throttle: TryThrottle) -> None:
    """2^64 addresses are no budgets."""
    through = [await tries(throttle, 1, b"%d" % number, f"2001:db8::{number:x}") for number in range(100)]

    assert ADDRESS_BUDGET.tries == sum(through)
    assert 1 == await tries(throttle, 1, address="2001:db8:1::1")


async def test_a_refusal_says_when_to_come_back_and_costs_nothing(
    throttle: TryThrottle, database: asyncpg.Pool
) -> None:
    """Asking while refused does not push the end away, and is no try of the address."""
    assert ACCOUNT_BUDGET.tries == await tries(throttle, 100, MINA)
    for each in (throttle, throttle_of(database)):
        with pytest.raises(TooManyRequests) as refused:
            await each.take(MINA, "203.0.113.9", NOW_MS)
        assert ACCOUNT_BUDGET.refill_ms // 1000 >= refused.value.retry_after_s > 20
    assert ADDRESS_BUDGET.tries - ACCOUNT_BUDGET.tries == await tries(throttle, 100)

    await pass_time(database, ACCOUNT_BUDGET.refill_ms)
    await throttle.take(MINA, "198.51.100.1", NOW_MS + ACCOUNT_BUDGET.refill_ms)


@pytest.mark.parametrize("end", [None, ValueError])
async def test_a_try_that_was_no_wrong_guess_is_given_back(throttle: TryThrottle, end: type[Exception] | None) -> None:
    """Nobody is locked out by signing in often, nor by our being too busy to look."""
    for _ in range(2 * ADDRESS_BUDGET.tries):
        try:
            async with throttle.trying(MINA, "203.0.113.9", NOW_MS, wrong=InvalidCredentials):
                if end is not None:
                    raise end
        except ValueError:
            continue


async def test_a_wrong_guess_counts(throttle: TryThrottle) -> None:
    """Ten of them, then nobody may try."""
    for _ in range(ACCOUNT_BUDGET.tries):
        with pytest.raises(InvalidCredentials):
            async with throttle.trying(MINA, "203.0.113.9", NOW_MS, wrong=InvalidCredentials):
                raise InvalidCredentials

    with pytest.raises(TooManyRequests):
        async with throttle.trying(MINA, "203.0.113.9", NOW_MS, wrong=InvalidCredentials):
            pytest.fail("it was let through")
