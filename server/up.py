"""`onsale up`: the whole system on one machine, kept alive.

Stores first (those without an address of their own), then the schema, then the processes. A child that dies is started
again, stores too. Ctrl-C or SIGTERM stops all in order, web first and stores last, in bounded time. However the
supervisor dies, its children follow it (the kernel tells them), and the next `up` finds the data.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from onsale.migrations import migrate
from onsale.server import embedded, running
from onsale.server.children import Child, Say, Start
from onsale.server.config import load_settings
from onsale.server.demo import SignIn, ensure_demo
from onsale.server.embedded import Launch
from onsale.server.errors import PortTaken
from onsale.server.health import require_fit_stores
from onsale.server.running import Running, SystemState
from onsale.server.stores import open_stores

STORE_READY_WITHIN_S = 60.0
STORE_PATIENCE_S = 10.0
# On top of the time a process may take to finish what it has begun, which it keeps to by itself.
CHILD_PATIENCE_EXTRA_S = 2.0
# A web process of a supervisor that was killed may take a moment to leave its port.
PORT_PATIENCE_S = 3.0
READY_SLOW_AFTER_S = 15.0
READY_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for on the command line; None = by the environment."""

    data_dir: Path
    host: str | None = None
    port: int | None = None
    web_count: int = 1
    with_demo: bool = True


@dataclass(frozen=True, slots=True)
class Store:
    """A store that we bring: `variable` is the setting that names its address."""

    name: str
    variable: str
    url: str
    make: Callable[[], Launch]


async def up(plan: Plan, environ: Mapping[str, str], say: Say) -> None:
    """Run the system until SIGINT or SIGTERM.

    Raises AlreadyRunning, PortTaken, SettingsInvalid, StoreUnusable, StoresUnfit, ChildFailed; what was started is
    stopped first.
    """
    with running.held(plan.data_dir):
        supervisor = Supervisor(plan, environ, say)
        _on_signals(supervisor)
        try:
            await supervisor.run()
        finally:
            await supervisor.close()


class Supervisor:
    """The children in the order of their starting; they are stopped the other way round."""

    def __init__(self, plan: Plan, environ: Mapping[str, str], say: Say) -> None:
        self._say = say
        self._data_dir = plan.data_dir.absolute()
        self._with_demo = plan.with_demo
        self._stores = _stores_to_bring(self._data_dir, environ)
        self._environ = _environment(plan, environ, self._data_dir, self._stores)
        self._settings = load_settings(self._environ)
        self._groups = [
            [self._store(store) for store in self._stores],
            [self._process(name) for name in (*_to_try_with(environ), "sandbox", "flusher")],
            [self._process(name) for name in ("worker", "admitter")],
            [self._process(f"web.{number}") for number in range(1, plan.web_count + 1)],
        ]
        self._sign_ins: Sequence[SignIn] = ()
        self._state: SystemState = "starting"
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()

    async def run(self) -> None:
        """Bring everything up, say so, and wait to be asked to stop."""
        began = asyncio.get_running_loop().time()
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            return
        await starting
        self._set("ready")
        self._say(self._greeting(asyncio.get_running_loop().time() - began))
        await stopping

    async def close(self) -> None:
        """Stop the processes, then the stores: each group at once, none longer than its patience."""
        self._set("stopping")
        for group in reversed(self._groups):
            is_stores = group is self._groups[0]
            patience_s = STORE_PATIENCE_S if is_stores else self._settings.drain_s + CHILD_PATIENCE_EXTRA_S
            stopping = asyncio.gather(*(child.stop(patience_s) for child in group))
            hurrying = asyncio.create_task(self._hurry(group))
            await stopping
            hurrying.cancel()
        running.forget(self._data_dir)

    def ask_to_stop(self) -> None:
        """The first time in good order, the second time at once."""
        if self._stop.is_set():
            self._kill.set()
        else:
            self._say("stopping")
        self._stop.set()

    async def _start(self) -> None:
        await _wait_for_port(self._settings.host, self._settings.port)
        (self._data_dir / "logs").mkdir(mode=0o700, exist_ok=True)
        running.write_environment(self._data_dir, self._environ)
        stores, *processes = self._groups
        for store in stores:
            store.start()
        await asyncio.gather(*(store.ready(STORE_READY_WITHIN_S) for store in stores))
        await self._release()
        for child in (child for group in processes for child in group):
            child.start()
        await self._until_ready()

    async def _release(self) -> None:
        """What is done once before the processes: are the stores fit, the schema, the demo sale with its accounts."""
        async with open_stores(self._settings, pool_max=2) as stores:
            await require_fit_stores(stores)
        options = {"statement_cache_size": 0} if self._settings.pgbouncer else {}
        async with asyncpg.create_pool(self._settings.database_url, min_size=1, max_size=2, **options) as pool:
            await migrate(pool)
            if self._with_demo:
                self._sign_ins = await ensure_demo(pool, self._settings.secret_keys, self._data_dir)

    async def _until_ready(self) -> None:
        """Ask `/readyz` until it says yes. A slow system goes on trying, and says what is missing."""
        clock = asyncio.get_running_loop().time
        remind_at = clock() + READY_SLOW_AFTER_S
        while not (answer := await _ask_ready(self._settings.host, self._settings.port)).is_ready:
            if clock() > remind_at:
                remind_at += READY_SLOW_AFTER_S
                self._say(f"not ready yet: {answer.body or 'web does not answer'} (logs: {self._data_dir / 'logs'})")
            await asyncio.sleep(READY_POLL_S)

    async def _hurry(self, group: Sequence[Child]) -> None:
        await self._kill.wait()
        for child in group:
            child.kill()

    # --- children

    def _process(self, name: str) -> Child:
        start = Start(
            # -P: the folder we are started from is not searched for modules.
            command=(sys.executable, "-P", "-m", "onsale.server", name.partition(".")[0]),
            directory=Path.cwd(),
            environment=self._environ,
            before_exec=embedded.die_with_parent(signal.SIGTERM),
        )
        return self._child(name, lambda: start)

    def _store(self, store: Store) -> Child:
        def start() -> Start:
            launch = store.make()
            return Start(
                command=launch.command,
                directory=launch.directory,
                environment=embedded.PLAIN_ENVIRONMENT,
                before_exec=launch.prepare(),
                stop_signal=launch.stop_signal,
                is_ready=launch.is_ready,
            )

        return self._child(store.name, start)

    def _child(self, name: str, make: Callable[[], Start]) -> Child:
        return Child(name, make, log=self._data_dir / "logs" / f"{name}.log", say=self._say, changed=self._tell)

    # --- what is told

    def _set(self, state: SystemState) -> None:
        self._state = state
        self._tell()

    def _tell(self) -> None:
        running.write_running(
            self._data_dir,
            Running(
                state=self._state,
                pid=os.getpid(),
                data_dir=str(self._data_dir),
                addresses=self._addresses(),
                stores={
                    "line_redis": self._settings.line_redis_url,
                    "shop_redis": self._settings.shop_redis_url,
                    "postgres": self._settings.database_url,
                },
                processes=tuple(child.figures for group in self._groups for child in group),
            ),
        )

    def _addresses(self) -> dict[str, str]:
        url = self._settings.public_url
        addresses = {"shop": f"{url}/", "console": f"{url}/console", "api": f"{url}/docs", "metrics": f"{url}/metrics"}
        if self._with_demo:
            addresses["sale"] = f"{url}/sales/demo"
        if self._settings.sandbox is not None:
            addresses["sandbox"] = self._settings.sandbox.url
        if self._settings.catcher_url:
            addresses["mail"] = f"{self._settings.catcher_url}/"
        return addresses

    def _greeting(self, took_s: float) -> str:
        lines = [f"onsale is ready ({took_s:.1f} s)", ""]
        lines += [f"  {name:<9} {address}" for name, address in self._addresses().items()]
        lines += [f"  {one.who:<9} {one.email}  password {one.password}" for one in self._sign_ins]
        lines += [f"  {'logs':<9} {self._data_dir / 'logs'}", "", "Ctrl-C stops everything; the data stays."]
        return "\n".join(lines)


def _stores_to_bring(data_dir: Path, environ: Mapping[str, str]) -> list[Store]:
    """Stores nobody gave us an address of. Line and shop have servers of their own: a flood of joins cannot slow
    checkout, and only the shop pays for an fsync a batch."""
    line, shop, postgres = (embedded.free_port() for _ in range(3))

    def line_launch() -> Launch:
        return embedded.redis_launch("line", data_dir / "line-redis", fsync="everysec", port=line)

    def shop_launch() -> Launch:
        return embedded.redis_launch("shop", data_dir / "shop-redis", fsync="always", port=shop)

    def postgres_launch() -> Launch:
        return embedded.postgres_launch(data_dir / "postgres", port=postgres)

    stores = []
    if not environ.get("REDIS_URL") and not environ.get("LINE_REDIS_URL"):
        stores.append(Store("line-redis", "LINE_REDIS_URL", embedded.redis_url(line), line_launch))
    if not environ.get("REDIS_URL") and not environ.get("SHOP_REDIS_URL"):
        stores.append(Store("shop-redis", "SHOP_REDIS_URL", embedded.redis_url(shop), shop_launch))
    if not environ.get("DATABASE_URL"):
        stores.append(Store("postgres", "DATABASE_URL", embedded.postgres_url(postgres), postgres_launch))
    return stores


def _to_try_with(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Letters go to a catcher of our own where nobody gave us a mail server."""
    return () if environ.get("SMTP_URL") else ("catcher",)


def _environment(plan: Plan, environ: Mapping[str, str], data_dir: Path, stores: Sequence[Store]) -> dict[str, str]:
    """What each process is started with: the command line first, then what we were given, then our own choice."""
    chosen = {store.variable: store.url for store in stores}
    chosen["ONSALE_SANDBOX_URL"] = f"http://127.0.0.1:{embedded.free_port()}"
    chosen["ONSALE_SANDBOX_WEBHOOK_SECRETS"] = running.webhook_secret(data_dir)
    if not environ.get("SMTP_URL"):
        chosen["SMTP_URL"] = f"smtp://127.0.0.1:{embedded.free_port()}"
        chosen["ONSALE_CATCHER_URL"] = f"http://127.0.0.1:{embedded.free_port()}"
    if not environ.get("ONSALE_SECRET_KEYS"):
        chosen["ONSALE_SECRET_KEYS"] = running.secret_keys(data_dir)
    asked = {"ONSALE_DATA_DIR": str(data_dir)}
    if plan.host is not None:
        asked["ONSALE_HOST"] = plan.host
    if plan.port is not None:
        asked["ONSALE_PORT"] = str(plan.port or embedded.free_port())
    given = {name: value for name, value in environ.items() if value}
    return {**chosen, **given, **asked}


def _on_signals(supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(kind, supervisor.ask_to_stop)


async def _wait_for_port(host: str, port: int) -> None:
    deadline = asyncio.get_running_loop().time() + PORT_PATIENCE_S
    while (error := _listening_error(host, port)) is not None:
        if error.errno != errno.EADDRINUSE:
            raise PortTaken(f"web cannot listen on {host}:{port}: {error.strerror}")
        if asyncio.get_running_loop().time() > deadline:
            raise PortTaken(f"{host}:{port} is taken by another program; choose another with --port")
        await asyncio.sleep(READY_POLL_S)


def _listening_error(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as candidate:
        # Connections of an earlier run that are still being closed do not count.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((host, port))
        except OSError as error:
            return error
    return None


@dataclass(frozen=True, slots=True)
class ReadyAnswer:
    """What `/readyz` said."""

    is_ready: bool
    body: str


async def _ask_ready(host: str, port: int) -> ReadyAnswer:
    """One plain HTTP request; no answer counts as no."""
    address = "127.0.0.1" if host in ("", "0.0.0.0") else host  # noqa: S104 - compared with, never listened on
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(f"GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read()).decode(errors="replace").partition("\r\n\r\n")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ReadyAnswer(False, "")
    return ReadyAnswer(head.split(" ", 2)[1:2] == ["200"], body.strip())
