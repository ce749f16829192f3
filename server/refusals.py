"""What a command says of an error: one line for the person at the terminal, or nothing where it is a fault of ours.

Imports errors and little else, so that a command that starts processes does not wait for the code they run.
"""

from __future__ import annotations

import asyncpg
from redis.exceptions import RedisError

from onsale.auth.errors import AuthError
from onsale.catalog.errors import CatalogError
from onsale.checkout.errors import CheckoutError
from onsale.migrations import MigrationChanged
from onsale.queue.errors import LineError
from onsale.server.embedded import StoreUnusable
from onsale.server.errors import Refused

# Errors whose text is meant for whoever gave the command.
DECISIONS = (AuthError, CatalogError, CheckoutError, LineError, MigrationChanged, Refused, StoreUnusable)


def said_in_one_line(error: Exception) -> str | None:
    """The line, or None."""
    if isinstance(error, DECISIONS):
        return str(error) or (type(error).__doc__ or type(error).__name__).partition("\n")[0]
    if isinstance(error, asyncpg.UndefinedTableError):
        return "the schema is not there yet; run: onsale migrate"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError | RedisError | asyncpg.PostgresError | asyncpg.InterfaceError):
        return f"a store cannot be reached: {error}"
    return None
