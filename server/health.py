"""Whether this process may serve, and whether its stores keep what they say.

At start a store that would lose what it acknowledged is refused: every promise rests on it. While running, `/livez`
says that the loop turns and `/readyz` that the stores answer and their clocks agree. A line document that is old, or a
loop that fails, does not make a process unready: pages and streams stay up and say so; it is reported.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg
import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from onsale.auth.keys import Keyring
from onsale.migrations.sql import load_queries
from onsale.server.config import SettingsInvalid
from onsale.server.stores import Stores

log = structlog.get_logger()
SQL = load_queries("onsale.server", "health.sql")

# A pass crosses from the line's clock to the shop's; seats are kept 30 s longer, so this leaves room to act.
SKEW_MAX_MS = 5_000
DOCUMENT_AGE_MAX_MS = 10_000
ASK_TIMEOUT_S = 1.0
# An answer stays good this long: a balancer that asks each second does not become a load.
REMEMBER_S = 0.5
START_PATIENCE_S = 30.0
START_PAUSE_S = 0.1

POSTGRES_WANTED = {"fsync": "on", "full_page_writes": "on"}
# `on` and stronger; `local` and `off` acknowledge what a crash may take back.
SYNCHRONOUS = frozenset({"on", "remote_write", "remote_apply"})

StoreError = (RedisError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class StoresUnfit(Exception):
    """A store would lose what it acknowledged, or does not answer: each line names one."""

    def __init__(self, *flaws: str) -> None:
        super().__init__("stores cannot be used:\n" + "\n".join(f"  {flaw}" for flaw in flaws))
        self.flaws = flaws


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str = ""


class Health(msgspec.Struct, frozen=True):
    """`status`: ok, degraded (serving, something is reported), or failing."""

    status: str
    checks: tuple[Check, ...]


async def require_fit_stores(stores: Stores) -> None:
    """Wait for the stores to answer, then check how they keep data. Raises StoresUnfit naming every flaw."""
    flaws = [
        *await _when_it_answers("line redis", lambda: redis_flaws(stores.line, "line redis", fsync=None)),
        *await _when_it_answers("shop redis", lambda: redis_flaws(stores.shop, "shop redis", fsync="always")),
        *await _when_it_answers("postgres", lambda: postgres_flaws(stores.pool)),
    ]
    if flaws:
        raise StoresUnfit(*flaws)


class KeySigns:
    """Remembers which secret key signs tickets, and refuses to start without one that running sales still need."""

    def __init__(self, pool: asyncpg.Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._kids = [key.kid for key in keyring.derive("ticket id")]

    async def require(self) -> None:
        """Raises SettingsInvalid: tickets that the missing key signed would lose their places."""
        missed = await self._pool.fetch(SQL.secret_keys_missed, self._kids)
        if missed:
            raise SettingsInvalid(
                *(f"ONSALE_SECRET_KEYS: key {row['kid']} is gone, tickets of {row['sale']} need it" for row in missed)
            )
        await self.tick()

    async def tick(self) -> None:
        """The first key still signs."""
        await self._pool.execute(SQL.secret_key_note, self._kids[0])


async def redis_flaws(redis: Redis, name: str, *, fsync: str | None) -> list[str]:
    """What is wrong with a Redis: it must refuse writes rather than forget keys, and keep an append-only file."""
    found: dict[str, str] = {}
    for setting in ("maxmemory-policy", "appendonly", "appendfsync"):
        found |= {_text(key): _text(value) for key, value in (await redis.config_get(setting)).items()}
    wanted = {"maxmemory-policy": "noeviction", "appendonly": "yes"} | ({"appendfsync": fsync} if fsync else {})
    return [
        f"{name}: {setting} is {found.get(setting, 'unknown')}, must be {value}"
        for setting, value in wanted.items()
        if found.get(setting) != value
    ]


async def postgres_flaws(pool: asyncpg.Pool) -> list[str]:
    """What is wrong with a Postgres: a commit that was acknowledged must survive a crash."""
    found = {row["name"]: row["setting"] for row in await pool.fetch(SQL.durability_settings)}
    flaws = [
        f"postgres: {setting} is {found.get(setting, 'unknown')}, must be {value}"
        for setting, value in POSTGRES_WANTED.items()
        if found.get(setting) != value
    ]
    if found.get("synchronous_commit") not in SYNCHRONOUS:
        flaws.append(f"postgres: synchronous_commit is {found.get('synchronous_commit')}, must be on")
    return flaws


async def _when_it_answers(name: str, ask: Callable[[], Awaitable[list[str]]]) -> list[str]:
    deadline_s = time.monotonic() + START_PATIENCE_S
    while True:
        try:
            return await ask()
        except StoreError as error:
            if time.monotonic() > deadline_s:
                return [f"{name}: does not answer ({type(error).__name__})"]
        log.info("store.awaited", store=name)
        await asyncio.sleep(START_PAUSE_S)


@dataclass(frozen=True, slots=True)
class StoreClock:
    """One store as it answered: its time against ours, or why it did not answer."""

    name: str
    offset_ms: int | None
    detail: str = ""


class Readiness:
    """Asks the stores, at most twice a second. `document_ages_ms` are the ages of running lines' documents, by
    sale; None where there is none yet. `failing_loops` names those whose every tick fails."""

    def __init__(
        self,
        stores: Stores,
        document_ages_ms: Callable[[], dict[str, int | None]],
        failing_loops: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._stores = stores
        self._document_ages_ms = document_ages_ms
        self._failing_loops = failing_loops
        self._asked_s = -REMEMBER_S
        self._clocks: Sequence[StoreClock] = ()
        self._asking = asyncio.Lock()

    async def health(self) -> Health:
        """The state of this process."""
        clocks = await self.clocks()
        checks = [Check(clock.name, clock.offset_ms is not None, clock.detail) for clock in clocks]
        checks.append(_skew(clocks))
        is_serving = all(check.ok for check in checks)
        reported = [_document(sale, age_ms) for sale, age_ms in self._document_ages_ms().items()]
        reported += [Check(f"loop {name}", False, "every tick fails") for name in self._failing_loops()]
        is_whole = is_serving and all(check.ok for check in reported)
        status = "ok" if is_whole else "degraded" if is_serving else "failing"
        return Health(status, (*checks, *reported))

    async def clocks(self) -> Sequence[StoreClock]:
        """Every store's time against ours; one round of questions, shared by whoever asks meanwhile."""
        async with self._asking:
            now_s = time.monotonic()
            if now_s - self._asked_s >= REMEMBER_S:
                self._clocks = await asyncio.gather(
                    _clock("line redis", lambda: _redis_ms(self._stores.line)),
                    _clock("shop redis", lambda: _redis_ms(self._stores.shop)),
                    _clock("postgres", lambda: _postgres_ms(self._stores.pool)),
                )
                self._asked_s = now_s
            return self._clocks


def _document(sale: str, age_ms: int | None) -> Check:
    if age_ms is None:
        return Check(f"document {sale}", False, "none yet")
    return Check(f"document {sale}", age_ms <= DOCUMENT_AGE_MAX_MS, f"{age_ms} ms old")


def _skew(clocks: Sequence[StoreClock]) -> Check:
    known = [clock.offset_ms for clock in clocks if clock.offset_ms is not None]
    skew_ms = max(known, default=0) - min(known, default=0)
    return Check("clocks", skew_ms < SKEW_MAX_MS, f"{skew_ms} ms apart")


async def _clock(name: str, ask_ms: Callable[[], Awaitable[int]]) -> StoreClock:
    before_ms = time.time_ns() // 1_000_000
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            store_ms = await ask_ms()
    except StoreError as error:
        return StoreClock(name, None, f"does not answer ({type(error).__name__})")
    after_ms = time.time_ns() // 1_000_000
    return StoreClock(name, store_ms - (before_ms + after_ms) // 2)


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


async def _redis_ms(redis: Redis) -> int:
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def _postgres_ms(pool: asyncpg.Pool) -> int:
    now_ms: int = await pool.fetchval(SQL.now_ms)
    return now_ms
