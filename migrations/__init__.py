"""The schema, forward only. Each file is applied once, in one transaction of its own, by one migrator at a time.

A file that was applied is never edited: its digest is remembered, and a different text under the same name is refused.
Files the code does not know (applied by a newer release) are left alone, so an older process can still start.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import asyncpg

from onsale.migrations.sql import load_queries

FILE_NAME = re.compile(r"\d{4}_\w+\.sql")
queries = load_queries("onsale.migrations", "migrations.sql")


class MigrationChanged(Exception):
    """A migration was edited after it had been applied: write a new file instead."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of the schema."""

    file: str
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> Sequence[Migration]:
    """Every file of the schema in the order of its number."""
    folder = resources.files("onsale.migrations")
    files = sorted((entry for entry in folder.iterdir() if FILE_NAME.fullmatch(entry.name)), key=lambda e: e.name)
    return [Migration(entry.name, entry.read_text(encoding="utf-8")) for entry in files]


async def migrate(database: asyncpg.Connection | asyncpg.Pool) -> Sequence[str]:
    """Bring the schema up to date; answers the files applied now. Safe to repeat, and from many processes at once."""
    if isinstance(database, asyncpg.Pool):
        async with database.acquire() as connection:
            return await migrate(connection)
    return [migration.file for migration in migrations() if await _apply(database, migration)]


async def _apply(connection: asyncpg.Connection, migration: Migration) -> bool:
    async with connection.transaction():
        await connection.execute(queries.lock)
        await connection.execute(queries.table_create)
        known = await connection.fetchval(queries.digest_of, migration.file)
        if known is not None and known != migration.digest:
            raise MigrationChanged(f"{migration.file} was edited after it had been applied")
        if known is not None:
            return False
        await connection.execute(migration.text)
        await connection.execute(queries.applied_insert, migration.file, migration.digest)
        return True
