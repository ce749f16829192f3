"""One system of real processes on loopback, made so that any part can be hurt: stores, processes, lines between them.

The processes are those of the Procfile. They are kept alive by the trial, not by `onsale up`, so that each can be given
an environment of its own: a line to a store that can be cut, a clock, a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.faults import cluster
from bench.faults.kept import Kept, Store
from bench.faults.link import Link
from bench.faults.pooler import Pooler
from bench.faults.power import POSTGRES_FLAGS, PostgresPower, Shim
from bench.scenarios import SALE
from onsale.server import embedded

PYTHON = (sys.executable, "-P", "-m", "onsale.server")
STORES = ("line", "shop", "postgres")
READY_WITHIN_S = 60.0


@dataclass(frozen=True)
class Parts:
    """What a world is made of. `links`: "none", "store" (one relay before each store) or "pair" (one between each
    process and each store). `shims`: stores and processes have disks and clocks that can be meddled with."""

    web: int = 2
    admitters: int = 1
    flushers: int = 1
    workers: int = 1
    links: str = "none"
    shims: bool = False
    # Whether the processes reach Postgres through PgBouncer in transaction mode.
    pooler: bool = False
    # Whether line and shop are on one Redis Cluster.
    cluster: bool = False
    dying_flusher: tuple[str, ...] = ()


@dataclass
class World:
    """Everything that runs, by name."""

    folder: Path
    parts: Parts
    port: int
    stores: dict[str, Store] = field(default_factory=dict)
    processes: dict[str, Kept] = field(default_factory=dict)
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    shims: dict[str, Shim] = field(default_factory=dict)
    base_environ: dict[str, str] = field(default_factory=dict)
    postgres_power: PostgresPower | None = None
    pooler: Pooler | None = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def sandbox(self) -> str:
        return self.base_environ["ONSALE_SANDBOX_URL"]

    @property
    def death_book(self) -> Path:
        """One line for each death of the dying flusher."""
        return self.folder / "deaths"

    def of_kind(self, kind: str) -> list[Kept]:
        return [process for name, process in self.processes.items() if name.partition(".")[0] == kind]

    @property
    def nodes(self) -> list[Store]:
        """The servers of the cluster."""
        return [store for name, store in self.stores.items() if name.startswith("node.")]

    def url(self, store: str) -> str:
        if store not in self.stores:
            return ",".join(node.url for node in self.nodes)
        return self.stores[store].url

    async def command(self, *words: str, check: bool = True) -> str:
        """Run one onsale command against the stores themselves; answers its standard output."""
        process = await asyncio.create_subprocess_exec(
            *PYTHON, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._direct(), cwd=self.folder
        )
        out, err = await process.communicate()
        if check and process.returncode:
            raise RuntimeError(f"onsale {' '.join(words)}: {err.decode()[-2000:]}{out.decode()[-2000:]}")
        return out.decode()

    async def create_sale(self, sale: str, *, units: int, rate: float, cap: int, hold_ttl_s: int = 60) -> str:
        """Answers the product's id."""
        file = self.folder / f"{sale}.toml"
        file.write_text(
            SALE.format(sale=sale, units=units, rate=rate, cap=cap, limit=1, hold_ttl_s=hold_ttl_s, absent_after_s=150)
        )
        await self.command("sale", "create", str(file))
        return f"{sale}-1"

    async def tokens(self, count: int, first: int = 1) -> list[str]:
        """Access tokens of accounts made for load, valid for hours."""
        asked = ("tokens", "--count", str(count), "--from", str(first), "--ttl", "6h")
        return (await self.command(*asked)).split()

    async def audit(self, sale: str) -> list[dict[str, Any]]:
        """What `onsale audit SALE --json` found, one entry for each invariant."""
        said = await self.command("audit", sale, "--json", check=False)
        found: list[dict[str, Any]] = json.loads(said)
        return found

    def _direct(self) -> dict[str, str]:
        return self.base_environ | {
            "LINE_REDIS_URL": self.url("line"),
            "SHOP_REDIS_URL": self.url("shop"),
            "DATABASE_URL": self.url("postgres"),
        }

    def environ_of(self, process: str) -> dict[str, str]:
        """A process's environment: its own lines to the stores, its own clock."""
        chosen = self._direct()
        if self.pooler is not None:
            chosen |= {"DATABASE_URL": _at_port(chosen["DATABASE_URL"], self.pooler.port), "ONSALE_PGBOUNCER": "1"}
        for store, variable in (("line", "LINE_REDIS_URL"), ("shop", "SHOP_REDIS_URL"), ("postgres", "DATABASE_URL")):
            if link := self._link(process, store):
                chosen[variable] = _at_port(chosen[variable], link.port)
        if process != "sandbox" and (link := self._link(process, "sandbox")):
            chosen["ONSALE_SANDBOX_URL"] = f"http://127.0.0.1:{link.port}"
        return chosen | self.shim_environ(process)

    def _link(self, process: str, store: str) -> Link | None:
        return self.links.get((process.partition(".")[0], store)) or self.links.get(("all", store))

    def shim_environ(self, name: str) -> dict[str, str]:
        """What puts a store or process on a disk and a clock of its own."""
        if not self.parts.shims:
            return {}
        self.shims[name] = Shim(self.folder / f"shim-{name}")
        return self.shims[name].environ

    async def ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Until the stores answer and `/readyz` says yes."""
        await asyncio.gather(*(store.ready(within_s) for store in self.stores.values()))
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(2):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    line = await reader.readline()
                    writer.close()
                if b" 200 " in line:
                    return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"not ready after {within_s} s; logs in {self.folder}")


def _at_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    host = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname
    return parts._replace(netloc=f"{host}:{port}").geturl()


@contextlib.asynccontextmanager
async def world(parts: Parts) -> AsyncIterator[World]:
    """Start everything in an empty folder; end it all, whatever happens in between."""
    folder = Path(tempfile.mkdtemp(prefix="onsale-faults-"))
    one = World(folder, parts, embedded.free_port())
    try:
        await _start(one)
        yield one
    finally:
        await _stop(one)
        if os.environ.get("FAULTS_KEEP"):
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


async def _start(one: World) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ONSALE_", "REDIS", "DATABASE"))}
    one.base_environ = kept | {
        "ONSALE_PORT": str(one.port),
        "ONSALE_SECRET_KEYS": secrets.token_urlsafe(48),
        "ONSALE_SANDBOX_URL": f"http://127.0.0.1:{embedded.free_port()}",
        "ONSALE_DATA_DIR": str(one.folder / "data"),
        "ONSALE_DRAIN_S": "10",
    }
    (one.folder / "data").mkdir()
    await _start_stores(one)
    await _open_links(one)
    await one.command("migrate")
    if one.parts.pooler:
        one.pooler = Pooler(one.folder, one.stores["postgres"].launch.port)
        await one.pooler.up()
    for name in _names(one.parts):
        one.processes[name] = _process(one, name)
    await asyncio.gather(*(process.up() for process in one.processes.values()))
    await one.ready()


async def _start_stores(one: World) -> None:
    if one.parts.cluster:
        await _start_cluster(one)
        return
    for store in STORES:
        flags = POSTGRES_FLAGS if store == "postgres" and one.parts.shims else ()
        launch, log = launch_of(store, one.folder / store), one.folder / f"{store}.log"
        one.stores[store] = Store(launch, log, one.shim_environ(store), *flags)
    if one.parts.shims:
        one.postgres_power = PostgresPower(one.stores["postgres"], one.folder / "postgres-base")
    await asyncio.gather(*(store.up() for store in one.stores.values()))
    await asyncio.gather(*(store.ready() for store in one.stores.values()))


async def _start_cluster(one: World) -> None:
    for name in ("postgres", *(f"node.{number + 1}" for number in range(2 * cluster.MASTERS))):
        if name == "postgres":
            launch, flags = launch_of("postgres", one.folder / name), ()
        else:
            port = cluster.node_port()
            launch = embedded.redis_launch(name, one.folder / name, fsync="always", port=port)
            flags = cluster.FLAGS
        one.stores[name] = Store(launch, one.folder / f"{name}.log", {}, *flags)
    await asyncio.gather(*(store.up() for store in one.stores.values()))
    await asyncio.gather(*(store.ready() for store in one.stores.values()))
    await cluster.form([node.launch for node in one.nodes])


def launch_of(store: str, directory: Path) -> embedded.Launch:
    """A store as `onsale up` would start it."""
    port = embedded.free_port()
    if store == "postgres":
        return embedded.postgres_launch(directory, port=port)
    return embedded.redis_launch(store, directory, fsync="always" if store == "shop" else "everysec", port=port)


async def _open_links(one: World) -> None:
    if one.parts.links == "none":
        return
    kinds = ("all",) if one.parts.links == "store" else ("web", "admitter", "flusher", "worker")
    targets = {store: one.stores[store].launch.port for store in STORES}
    if one.parts.links == "pair":
        targets["sandbox"] = urlsplit(one.sandbox).port or 0
    for kind in kinds:
        for store, port in targets.items():
            link = one.links[kind, store] = Link(f"{kind}-{store}", port)
            await link.open()


def _names(parts: Parts) -> Iterable[str]:
    yield "sandbox"
    counts = {
        "flusher": parts.flushers, "worker": parts.workers, "admitter": parts.admitters, "web": parts.web,
    }  # fmt: skip
    for kind, count in counts.items():
        yield from (f"{kind}.{n + 1}" for n in range(count))


def _process(one: World, name: str) -> Kept:
    kind = name.partition(".")[0]
    command: tuple[str, ...] = (*PYTHON, kind)
    if kind == "flusher" and one.parts.dying_flusher:
        program = ("-m", "bench.faults.dying_flusher", str(one.death_book))
        command = (sys.executable, *program, *one.parts.dying_flusher)
    # The trial's own folder has to be found by the dying flusher alone; the others are started as `onsale up` does.
    where = Path(__file__).resolve().parents[2] if one.parts.dying_flusher and kind == "flusher" else one.folder
    return Kept(name, command, log=one.folder / f"{name}.log", environ=one.environ_of(name), directory=where)


async def _stop(one: World) -> None:
    for store in one.stores.values():
        store.signal(signal.SIGCONT)
    for link in one.links.values():
        link.restore()
    await asyncio.gather(*(process.stop() for process in one.processes.values()))
    await asyncio.gather(*(store.stop() for store in one.stores.values()))
    if one.pooler is not None:
        await one.pooler.stop()
    for link in one.links.values():
        await link.close()
