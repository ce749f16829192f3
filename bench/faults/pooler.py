"""PgBouncer in transaction mode before a trial's Postgres: each transaction may meet another of its servers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bench.faults.kept import Kept
from onsale.server import embedded

SETTINGS = """[databases]
* = host=127.0.0.1 port={postgres} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
server_login_retry = 1
ignore_startup_parameters = extra_float_digits
"""


class Pooler(Kept):
    """One PgBouncer on a port of its own."""

    def __init__(self, folder: Path, postgres: int) -> None:
        self.port = embedded.free_port()
        settings = folder / "pgbouncer.ini"
        settings.write_text(SETTINGS.format(postgres=postgres, user=embedded.DATABASE_USER, port=self.port))
        # It refuses to be root, and reads its settings while it still is.
        who = ("-u", "nobody") if os.geteuid() == 0 else ()
        command = (program() or "pgbouncer", *who, str(settings))
        super().__init__("pgbouncer", command, log=folder / "pgbouncer.log", environ=embedded.PLAIN_ENVIRONMENT)


def program() -> str | None:
    """Where it is, or None."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
