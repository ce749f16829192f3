"""What checkout keeps sealed under the secrets: where orders go, how unfinished payments are paid, codes
of entries."""

from __future__ import annotations

from onsale.auth.rotation import sealed_column
from onsale.migrations.sql import load_queries

queries = load_queries("onsale.checkout", "rotation.sql")

COLUMNS = tuple(
    sealed_column(queries, table, column)
    for table, column in (("orders", "address"), ("payments", "instrument"), ("entries", "code"))
)
