"""The machine's limits, in the same run: floor servers, their throw-away stores, and what CPU a process has used.

Absolute figures move with the machine, so every claim is a ratio to a floor that was measured beside it. CPU is user
and system time of a server's processes with all their children, per request: the steadiest figure there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.floor_servers import Setup
from onsale.server import embedded
from onsale.server.embedded import Launch

READY_WITHIN_S = 30.0
# What PERFORMANCE's table says of such a machine (CPU microseconds a request): a floor that needs much more is none.
KNOWN_CPU_US = {"bare": 8.0, "f0": 22.9, "routed": 32.9}


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process and its children, ended ones too, have used."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        children = process.children()
        own = _threads_s(pid) or times.user + times.system
    except psutil.NoSuchProcess:
        return 0.0
    return float(own + times.children_user + times.children_system + sum(cpu_s(child.pid) for child in children))


def _threads_s(pid: int) -> float:
    """The same of the process alone, to the nanosecond; 0 where the kernel does not tell.

    Its usual figure moves in steps of 10 ms: a tenth of what a thousand joins cost.
    """
    try:
        tasks = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    except OSError:
        return 0.0
    return sum(int(task.split()[0]) for task in tasks) / 1e9


@dataclass(frozen=True)
class Server:
    """One system under measurement: where it listens, and its processes by name. `web` answers the requests."""

    name: str
    port: int
    pids: Mapping[str, int]

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by process."""
        return {name: cpu_s(pid) for name, pid in self.pids.items()}


@dataclass
class Meter:
    """What each process of a server used between entering and leaving the block."""

    server: Server
    used_s: dict[str, float] = field(default_factory=dict)
    took_s: float = 0.0

    def __enter__(self) -> Meter:
        self._before = self.server.cpu()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.took_s = time.perf_counter() - self._started
        after = self.server.cpu()
        self.used_s = {name: after[name] - self._before[name] for name in after}

    def us(self, requests: int) -> dict[str, float]:
        """CPU microseconds a request: every process, and `sum` without the provider (it is nobody's floor)."""
        each = {name: round(used * 1e6 / max(1, requests), 2) for name, used in self.used_s.items()}
        counted = sum(used for name, used in self.used_s.items() if name != "provider")
        return each | {"sum": round(counted * 1e6 / max(1, requests), 2)}


@contextlib.asynccontextmanager
async def store(launch: Launch) -> AsyncIterator[int]:
    """Run one store for the block; answers its pid."""
    process = subprocess.Popen(
        launch.command,
        cwd=launch.directory,
        env=embedded.PLAIN_ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=launch.prepare(),
    )
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not launch.is_ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{launch.name} did not start: {process.returncode}")
            await asyncio.sleep(0.02)
        yield process.pid
    finally:
        process.send_signal(launch.stop_signal)
        await asyncio.to_thread(process.wait, 20)


@contextlib.asynccontextmanager
async def floor_stores(directory: Path) -> AsyncIterator[tuple[Setup, dict[str, int]]]:
    """Stores of their own for the floors, as durable as onsale's: line everysec, shop always, Postgres with fsync."""
    line = embedded.redis_launch("line", directory / "line", fsync="everysec", port=embedded.free_port())
    shop = embedded.redis_launch("shop", directory / "shop", fsync="always", port=embedded.free_port())
    postgres = embedded.postgres_launch(directory / "postgres", port=embedded.free_port())
    launches = {"line-redis": line, "shop-redis": shop, "postgres": postgres}
    async with AsyncExitStack() as closing:
        pids = {name: await closing.enter_async_context(store(launch)) for name, launch in launches.items()}
        yield Setup(line_redis=line.url, shop_redis=shop.url, postgres=postgres.url), pids


@contextlib.asynccontextmanager
async def floor(
    name: str, setup: Setup | None = None, stores: Mapping[str, int] | None = None
) -> AsyncIterator[Server]:
    """Run one floor server for the block; `stores` are counted with it."""
    port = embedded.free_port()
    told = msgspec.json.encode(setup or Setup()).decode()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.floor_servers", name, "--port", str(port), "--setup", told],
        stdout=subprocess.DEVNULL,
    )
    try:
        await _until_listening(port, process)
        yield Server(name, port, {"web": process.pid, **(stores or {})})
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


async def _until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until it answers: the socket listens before the application is up."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answered = await reader.read(12)
                writer.close()
                if answered.startswith(b"HTTP/1.1"):
                    return
        await asyncio.sleep(0.02)
    raise RuntimeError(f"a floor server did not start: {process.returncode}")


def ed25519_us(rounds: int = 3, times: int = 2000) -> float:
    """CPU microseconds of one Ed25519 verification, median: what checking a pass costs whoever checks it."""
    key = Ed25519PrivateKey.generate()
    message = b"m" * 200
    signature, public = key.sign(message), key.public_key()
    took = []
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(times):
            public.verify(signature, message)
        took.append((time.process_time() - started) * 1e6 / times)
    return round(sorted(took)[rounds // 2], 1)


def median(values: Sequence[float]) -> float:
    """The middle one; of an even number the lower of the two."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]
