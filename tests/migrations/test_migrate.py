"""Migrations: once each, forward only, by one migrator at a time."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from onsale import migrations
from onsale.migrations import Migration, MigrationChanged, migrate


async def test_applies_every_file_once(empty_database_url: str) -> None:
    """A fresh database gets every file in order; a second run finds nothing to do."""
    connection = await asyncpg.connect(empty_database_url)

    first = await migrate(connection)
    second = await migrate(connection)

    assert sorted(first) == list(first) == [migration.file for migration in migrations.migrations()]
    assert list(second) == []
    await connection.close()


async def test_many_migrators_apply_each_file_once(empty_database_url: str) -> None:
    """Processes that start together do not apply a file twice: each file is done by exactly one of them."""
    async with asyncpg.create_pool(empty_database_url, min_size=4, statement_cache_size=0) as pool:
        answers = await asyncio.gather(*(migrate(pool) for _ in range(4)))

    applied = [file for answer in answers for file in answer]
    assert sorted(applied) == [migration.file for migration in migrations.migrations()]


async def test_an_edited_file_is_refused(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was applied with another text is an error, and nothing of it is applied."""
    connection = await asyncpg.connect(empty_database_url)
    monkeypatch.setattr(migrations, "migrations", lambda: [Migration("0001_a.sql", "CREATE TABLE a ();")])
    await migrate(connection)
    monkeypatch.setattr(migrations, "migrations", lambda: [Migration("0001_a.sql", "CREATE TABLE b ();")])

    with pytest.raises(MigrationChanged):
        await migrate(connection)

    assert await connection.fetchval("SELECT to_regclass('b')") is None
    await connection.close()


async def test_a_file_that_fails_leaves_nothing(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction a file: what came before an error in the same file is undone, earlier files stay."""
    connection = await asyncpg.connect(empty_database_url)
    files = [
        Migration("0001_good.sql", "CREATE TABLE good ();"),
        Migration("0002_bad.sql", "CREATE TABLE half (); SELECT 1/0;"),
    ]
    monkeypatch.setattr(migrations, "migrations", lambda: files)

    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(connection)

    assert await connection.fetchval("SELECT to_regclass('good')") == "good"
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    await connection.close()
