"""A small Postgres in memory, at READ COMMITTED: versions of rows, a snapshot a statement, row locks that are waited
for, rows looked at again once they are locked, unique keys, checks, deadlocks, time-outs.

It knows no SQL: `statements.py` says what each of our named statements does, by its text, in the steps in which
Postgres does it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import asyncpg

from bench.interleavings.loop import SeededLoop
from bench.interleavings.network import NOBODY, Lost, Network

Row = dict[str, Any]
Key = tuple[Any, ...]
Handler = Callable[..., Awaitable[Any]]


class Record:
    """What asyncpg answers a row as: by name, by number, as values."""

    __slots__ = ("_row",)

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = dict(row)

    def __getitem__(self, name: str | int) -> Any:
        return list(self._row.values())[name] if isinstance(name, int) else self._row[name]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._row.values())

    def __len__(self) -> int:
        return len(self._row)

    def keys(self) -> Any:
        return self._row.keys()

    def __repr__(self) -> str:
        return f"Record({self._row})"


class Transaction:
    """One transaction of one session; `now_ms` is when it began."""

    # Planted bugs: act on what was read before the lock was had, in every table or in these.
    looks_again = True
    unlocked: frozenset[str] = frozenset()

    def __init__(self, server: PostgresModel) -> None:
        self._server = server
        self.now_ms = server.clock_ms()
        self.writes: dict[tuple[str, Key], Row | None] = {}
        self._snapshot = server.commits
        self._locked: list[tuple[str, Key]] = []
        self.waits_for: Transaction | None = None
        self.waiting: asyncio.Future[None] | None = None
        self.lock_timeout_s: float | None = None
        self.idle_timeout_s: float | None = None
        self.is_over = False

    def begin_statement(self) -> None:
        """A statement sees what is committed now."""
        self._snapshot = self._server.commits

    def seen(self, table: str, key: Key) -> Row | None:
        """A row as this statement's snapshot has it, or as this transaction has written it."""
        if (table, key) in self.writes:
            return self.writes[table, key]
        found = None
        for commit, row in self._server.tables[table].get(key, ()):
            if commit > self._snapshot:
                break
            found = row
        return found

    def newest(self, table: str, key: Key) -> Row | None:
        """A row as it is now; asked of rows that are locked."""
        if (table, key) in self.writes:
            return self.writes[table, key]
        versions = self._server.tables[table].get(key)
        return versions[-1][1] if versions else None

    def scan(self, table: str, where: Callable[[Row], bool] | None = None) -> list[Row]:
        """Rows that this statement sees."""
        own = [key for name, key in self.writes if name == table and key not in self._server.tables[table]]
        rows = (self.seen(table, key) for key in (*self._server.tables[table], *own))
        return [row for row in rows if row is not None and (where is None or where(row))]

    async def lock(self, table: str, key: Key, *, skip: bool = False) -> bool:
        """Wait for a row; with `skip` do not wait, and say whether it was had."""
        await self._server.breathe()
        owner = self._server.locks.get((table, key))
        while owner is not None and owner is not self:
            if skip:
                return False
            await self._wait(owner)
            owner = self._server.locks.get((table, key))
        if owner is None:
            self._server.locks[table, key] = self
            self._locked.append((table, key))
        return True

    async def _wait(self, owner: Transaction) -> None:
        other: Transaction | None = owner
        while other is not None:
            if other is self:
                raise asyncpg.DeadlockDetectedError("deadlock detected")
            other = other.waits_for
        self.waits_for, self.waiting = owner, self._server.loop.create_future()
        owner_ends = self._server.ends(owner)
        owner_ends.append(self.waiting)
        timer = None
        if self.lock_timeout_s is not None:
            error = asyncpg.LockNotAvailableError("canceling statement due to lock timeout")
            timer = self._server.loop.call_later(self.lock_timeout_s, _fail, self.waiting, error, context=NOBODY)
        try:
            await self.waiting
        finally:
            self.waits_for = self.waiting = None
            if timer is not None:
                timer.cancel()

    async def locked(self, table: str, key: Key, where: Callable[[Row], bool] | None = None) -> Row | None:
        """SELECT … FOR UPDATE of one row that the snapshot has: as it is once it is had, None if it fits no more."""
        before = self.seen(table, key)
        if before is None or (where is not None and not where(before)):
            return None
        await self.lock(table, key)
        if not self.looks_again or table in self.unlocked:
            return before
        row = self.newest(table, key)
        return row if row is not None and (where is None or where(row)) else None

    def put(self, table: str, key: Key, row: Row) -> None:
        """Write a row that is locked. Raises what its checks say."""
        for check in self._server.checks.get(table, ()):
            check(row)
        self.writes[table, key] = row

    async def update(
        self, table: str, keys: Sequence[Key], where: Callable[[Row], bool], change: Callable[[Row], Row]
    ) -> list[Row]:
        """UPDATE of those of these rows that fit; answers them as they are then."""
        changed: list[Row] = []
        for key in keys:
            row = await self.locked(table, key, where)
            if row is not None:
                new = {**row, **change(row)}
                await self._claim_unique(table, key, new)
                self.put(table, key, new)
                changed.append(new)
        return changed

    async def insert(
        self, table: str, key: Key, row: Row, conflict: Callable[[Row], Row | None] | None = None
    ) -> Row | None:
        """INSERT; where the key is there, `conflict` answers what changes (None: nothing). Answers the row, or None
        where nothing was written. Without `conflict`, raises UniqueViolationError."""
        await self.lock(table, key)
        old = self.newest(table, key)
        if old is not None:
            if conflict is None:
                raise asyncpg.UniqueViolationError(f"duplicate key of {table}")
            change = conflict(old)
            if change is None:
                return None
            row = {**old, **change}
        await self._claim_unique(table, key, row)
        self.put(table, key, row)
        return row

    async def _claim_unique(self, table: str, key: Key, row: Row) -> None:
        for name, unique_of in self._server.uniques.get(table, {}).items():
            unique = unique_of(row)
            if unique is None:
                continue
            # Whoever writes the same key waits until this is decided.
            await self.lock(name, unique)
            for other in self._server.tables[table]:
                if other != key and (found := self.newest(table, other)) is not None and unique_of(found) == unique:
                    raise asyncpg.UniqueViolationError(f"duplicate key of {name}")

    def end(self, *, commits: bool) -> None:
        """All that was written stands now, or none of it; its locks go."""
        if self.is_over:
            return
        self.is_over = True
        if commits and self.writes:
            self._server.apply(self.writes)
        for lock in self._locked:
            self._server.locks.pop(lock, None)
        if self.waiting is not None and not self.waiting.done():
            self.waiting.cancel()
        for waiting in self._server.ends(self):
            if not waiting.done():
                waiting.set_result(None)
        self._server.forget(self)


def _fail(waiting: asyncio.Future[None], error: Exception) -> None:
    if not waiting.done():
        waiting.set_exception(error)


class PostgresModel:
    """The server: committed rows, locks, sessions."""

    transaction = Transaction

    def __init__(
        self,
        loop: SeededLoop,
        rng: random.Random,
        clock_ms: Callable[[], int],
        tables: Sequence[str],
        handlers: Mapping[str, Handler],
    ) -> None:
        self.loop = loop
        self._rng = rng
        self.clock_ms = clock_ms
        self.tables: dict[str, dict[Key, list[tuple[int, Row | None]]]] = {name: {} for name in tables}
        self.handlers = handlers
        self.commits = 0
        self.locks: dict[tuple[str, Key], Transaction] = {}
        self.checks: dict[str, list[Callable[[Row], None]]] = {}
        self.uniques: dict[str, dict[str, Callable[[Row], Key | None]]] = {}
        self._ends: dict[Transaction, list[asyncio.Future[None]]] = {}
        self.is_up = True
        self.sessions: list[Session] = []
        self.watchers: list[Callable[[Mapping[tuple[str, Key], Row | None]], None]] = []

    def ends(self, transaction: Transaction) -> list[asyncio.Future[None]]:
        """Who waits for the end of a transaction."""
        return self._ends.setdefault(transaction, [])

    def forget(self, transaction: Transaction) -> None:
        self._ends.pop(transaction, None)

    def apply(self, writes: Mapping[tuple[str, Key], Row | None]) -> None:
        """Commit."""
        self.commits += 1
        for (table, key), row in writes.items():
            self.tables[table].setdefault(key, []).append((self.commits, row))
        for watcher in self.watchers:
            watcher(writes)

    def rows(self, table: str) -> list[Row]:
        """What stands in a table."""
        return [versions[-1][1] for versions in self.tables[table].values() if versions[-1][1] is not None]

    def row(self, table: str, *key: Any) -> Row | None:
        """One row as it stands."""
        versions = self.tables[table].get(key)
        return versions[-1][1] if versions else None

    async def breathe(self) -> None:
        """Between two steps others may run."""
        if self._rng.random() < 0.25:
            await asyncio.sleep(0)

    def stop(self) -> None:
        """SIGKILL: every session ends, what is committed stays."""
        self.is_up = False
        for session in list(self.sessions):
            session.end()

    def start(self) -> None:
        self.is_up = True


class Session:
    """One connection's other end."""

    def __init__(self, server: PostgresModel) -> None:
        self._server = server
        self.transaction: Transaction | None = None
        self.is_open = True
        self._task: asyncio.Task[Any] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._is_abandoned = False
        server.sessions.append(self)

    def begin(self) -> None:
        self._check()
        assert self.transaction is None
        self.transaction = self._server.transaction(self._server)
        self._rest()

    def finish(self, *, commits: bool) -> None:
        self._check()
        transaction, self.transaction = self.transaction, None
        self._wake()
        if transaction is not None:
            transaction.end(commits=commits)
        if self._is_abandoned:
            self.end()

    def execute(self, query: str, args: Sequence[Any]) -> asyncio.Future[Any]:
        """Run a statement; the future is its rows."""
        self._check()
        self._wake()
        self._task = self._server.loop.create_task(self._execute(query, args), context=NOBODY)
        return self._task

    async def _execute(self, query: str, args: Sequence[Any]) -> Any:
        transaction = self.transaction or self._server.transaction(self._server)
        transaction.begin_statement()
        is_alone = transaction is not self.transaction
        try:
            await self._server.breathe()
            found = await self._server.handlers[query](transaction, *args)
        except BaseException:
            # A failed statement leaves its transaction, with its locks, to be rolled back.
            if is_alone:
                transaction.end(commits=False)
            elif self._is_abandoned:
                self.end()
            else:
                self._rest()
            raise
        if is_alone:
            transaction.end(commits=True)
        elif self._is_abandoned:
            self.end()
        else:
            self._rest()
        return found

    def abandon(self) -> None:
        """The client is gone. What it asked for last is still done; an open transaction is rolled back then."""
        self._is_abandoned = True
        if self._task is None or self._task.done():
            self.end()

    def end(self) -> None:
        """The session is over, and its transaction with it."""
        self.is_open = False
        self._wake()
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            transaction.end(commits=False)
        if self._task is not None and not self._task.done():
            self._task.cancel()
        if self in self._server.sessions:
            self._server.sessions.remove(self)

    def _check(self) -> None:
        if not self.is_open:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed")

    def _rest(self) -> None:
        """Inside a transaction nobody may be idle for longer than it allows."""
        if self.transaction is not None and self.transaction.idle_timeout_s is not None:
            self._idle = self._server.loop.call_later(self.transaction.idle_timeout_s, self.end, context=NOBODY)

    def _wake(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


class Connection:
    """A process's end of a session, as asyncpg has it."""

    def __init__(self, network: Network, session: Session) -> None:
        self._network = network
        self._session = session
        # Known here before the other end knows.
        self._is_broken = False

    @property
    def is_open(self) -> bool:
        return self._session.is_open and not self._is_broken

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        return await self._run(query, args)

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[Record]:
        async with asyncio.timeout(timeout):
            found: list[Record] = await self._run(query, args)
        return found

    async def fetchrow(self, query: str, *args: Any) -> Record | None:
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *args: Any) -> Any:
        row = await self.fetchrow(query, *args)
        return None if row is None else row[0]

    def transaction(self) -> _InTransaction:
        return _InTransaction(self)

    async def begin(self) -> None:
        await self._call(self._session.begin)

    async def finish(self, *, commits: bool) -> None:
        if commits or self.is_open:
            await self._call(lambda: self._session.finish(commits=commits))

    async def _run(self, query: str, args: Sequence[Any]) -> list[Record]:
        rows = await self._call(lambda: self._session.execute(query, args))
        return [Record(row) for row in rows or ()]

    async def _call(self, serve: Callable[[], Any]) -> Any:
        if self._is_broken:
            raise asyncpg.InterfaceError("connection is closed")
        try:
            return await self._network.call(serve)
        except Lost:
            self._is_broken = True
            self._network._later(self._network.delay_s(), self._session.abandon)
            raise asyncpg.ConnectionDoesNotExistError("connection was lost") from None
        except asyncio.CancelledError:
            # Whoever gives up cancels the statement and drops the connection.
            self._is_broken = True
            self._network._later(self._network.delay_s(), self._session.end)
            raise


class _InTransaction:
    """`async with connection.transaction()`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __aenter__(self) -> None:
        await self._connection.begin()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A killed process ends nothing.
        if kind is not GeneratorExit:
            await self._connection.finish(commits=kind is None)


class _Acquired:
    """`async with pool.acquire()`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection: Connection | None = None

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.take()
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._pool.give_back(self._connection)


class Pool:
    """One process's connections. A connection that was lost is replaced."""

    def __init__(self, network: Network, server: PostgresModel) -> None:
        self._network = network
        self._server = server
        self._idle: list[Connection] = []
        self._all: list[Session] = []

    def acquire(self) -> _Acquired:
        return _Acquired(self)

    async def execute(self, query: str, *args: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.execute(query, *args)

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[Record]:
        async with self.acquire() as connection:
            return await connection.fetch(query, *args, timeout=timeout)

    async def fetchrow(self, query: str, *args: Any) -> Record | None:
        async with self.acquire() as connection:
            return await connection.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.fetchval(query, *args)

    def abandon(self) -> None:
        """The process is dead: its connections break."""
        for session in self._all:
            if session.is_open:
                self._network._later(self._network.delay_s(), session.abandon)

    def give_back(self, connection: Connection) -> None:
        if connection.is_open:
            self._idle.append(connection)

    async def take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        if not self._server.is_up:
            await asyncio.sleep(0.001)
            raise ConnectionRefusedError
        session = Session(self._server)
        self._all.append(session)
        return Connection(self._network, session)
