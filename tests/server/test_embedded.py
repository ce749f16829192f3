"""Embedded stores: made once, found again, started after any death."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from redis import Redis

from onsale.server import embedded
from onsale.server.embedded import Launch, StoreUnusable

STARTS_WITHIN_S = 20.0


class Runner:
    """Starts launches as children of the test and stops what is left at its end."""

    def __init__(self) -> None:
        self._processes: list[tuple[subprocess.Popen[bytes], Launch]] = []

    def start(self, launch: Launch) -> subprocess.Popen[bytes]:
        """Start and wait until it is ready."""
        process = subprocess.Popen(
            launch.command,
            cwd=launch.directory,
            env=embedded.PLAIN_ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=launch.prepare(),
        )
        self._processes.append((process, launch))
        until(lambda: launch.is_ready(process.pid) or process.poll() is not None)
        assert process.poll() is None, f"{launch.name} ended with {process.returncode}"
        return process

    def close(self) -> None:
        for process, launch in self._processes:
            if process.poll() is None:
                process.send_signal(launch.stop_signal)
                process.wait(10)


def until(condition: Callable[[], bool]) -> None:
    """Look until something of another process holds; the test fails when it does not."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def runner() -> Iterator[Runner]:
    one = Runner()
    yield one
    one.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A data directory whose path has a space, and is longer than a socket's path may be."""
    return tmp_path / "a folder with a space" / ("deep" * 25) / "store"


def launch_postgres(directory: Path) -> Launch:
    return embedded.postgres_launch(directory, port=embedded.free_port())


async def test_postgres_keeps_its_data_over_a_restart(runner: Runner, directory: Path) -> None:
    """What was committed before an orderly stop is there after the next start, on another port."""
    first = launch_postgres(directory)
    process = runner.start(first)
    connection = await asyncpg.connect(first.url)
    await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
    await connection.close()
    process.send_signal(first.stop_signal)
    assert process.wait(10) == 0

    second = launch_postgres(directory)
    runner.start(second)

    connection = await asyncpg.connect(second.url)
    assert await connection.fetchval("SELECT n FROM kept") == 7
    await connection.close()


async def test_postgres_starts_after_kill_9(runner: Runner, directory: Path) -> None:
    """A killed postmaster leaves its lock file and, for a moment, children: neither stops the next start."""
    first = launch_postgres(directory)
    process = runner.start(first)
    connection = await asyncpg.connect(first.url)
    await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
    process.kill()
    process.wait()

    second = launch_postgres(directory)
    runner.start(second)

    again = await asyncpg.connect(second.url)
    assert await again.fetchval("SELECT n FROM kept") == 7
    await again.close()
    connection.terminate()


async def test_postgres_is_not_fooled_by_a_number_that_was_used_again(runner: Runner, directory: Path) -> None:
    """A lock file that names a living stranger (the number was given out again) does not look like a server."""
    first = launch_postgres(directory)
    process = runner.start(first)
    process.kill()
    process.wait()
    lock = directory / "postmaster.pid"
    _, *rest = lock.read_text().splitlines()
    lock.write_text("\n".join([str(os.getpid()), *rest]))

    runner.start(launch_postgres(directory))


async def test_postgres_promises_durability(runner: Runner, directory: Path) -> None:
    """The settings the record rests on are on, and only this machine may connect."""
    launch = launch_postgres(directory)
    runner.start(launch)
    connection = await asyncpg.connect(launch.url)

    shown = {
        name: await connection.fetchval(f"SHOW {name}") for name in ("fsync", "full_page_writes", "synchronous_commit")
    }

    assert shown == {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
    assert await connection.fetchval("SHOW listen_addresses") == "127.0.0.1"
    await connection.close()


async def test_an_interrupted_first_start_is_cleared(runner: Runner, directory: Path) -> None:
    """Half a cluster, as a kill during its making leaves it, is made anew."""
    directory.mkdir(parents=True)
    (directory / "base").mkdir()
    (directory / "half").write_text("")

    runner.start(launch_postgres(directory))


def test_redis_keeps_its_data_after_kill_9(runner: Runner, directory: Path) -> None:
    """What a Redis with `always` acknowledged is there after its death and the next start."""
    first = embedded.redis_launch("shop", directory, fsync="always", port=embedded.free_port())
    process = runner.start(first)
    with Redis.from_url(first.url) as client:
        client.set("unit", "sold")
    process.kill()
    process.wait()

    second = embedded.redis_launch("shop", directory, fsync="always", port=embedded.free_port())
    runner.start(second)

    with Redis.from_url(second.url) as client:
        assert client.get("unit") == b"sold"
        settings = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "save")
        assert settings == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}


def test_a_leftover_server_is_stopped_first(runner: Runner, directory: Path) -> None:
    """Two servers never write one append-only file: the one left by a killed supervisor ends before the next starts."""
    leftover = runner.start(embedded.redis_launch("line", directory, fsync="everysec", port=embedded.free_port()))

    embedded.redis_launch("line", directory, fsync="everysec", port=embedded.free_port())

    assert leftover.wait(5) == 0


def test_a_store_dies_with_its_supervisor(tmp_path: Path) -> None:
    """A supervisor that is killed with -9 takes its stores with it, whoever they run as."""
    script = (
        "import subprocess, sys\n"
        "from pathlib import Path\n"
        "from onsale.server import embedded\n"
        "redis, postgres, port = Path(sys.argv[1], 'r'), Path(sys.argv[1], 'p'), embedded.free_port\n"
        "launches = [embedded.redis_launch('line', redis, fsync='always', port=port()),\n"
        "            embedded.postgres_launch(postgres, port=port())]\n"
        "for one in launches:\n"
        "    child = subprocess.Popen(one.command, cwd=one.directory, env=embedded.PLAIN_ENVIRONMENT,\n"
        "                             stdout=2, preexec_fn=one.prepare())\n"
        "    while not one.is_ready(child.pid): pass\n"
        "    print(child.pid, flush=True)\n"
        "input()\n"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-P", "-c", script, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert supervisor.stdout is not None
    pids = [int(supervisor.stdout.readline()) for _ in range(2)]

    supervisor.kill()
    supervisor.wait()

    until(lambda: not any(is_alive(pid) for pid in pids))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to stop being root")
async def test_root_without_user_namespaces(
    runner: Runner, directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where no user namespace can be made, data and programs move to a shared place and belong to `nobody`."""
    shared = Path("/var/lib/onsale-tests")
    monkeypatch.setattr(embedded, "SHARED_HOME", shared)
    monkeypatch.setattr(embedded, "appear_as_nobody", refuse)
    try:
        first = launch_postgres(directory)
        process = runner.start(first)
        connection = await asyncpg.connect(first.url)
        await connection.execute("CREATE TABLE kept (n int)")
        await connection.close()
        process.send_signal(first.stop_signal)
        process.wait(10)

        monkeypatch.undo()
        monkeypatch.setattr(embedded, "SHARED_HOME", shared)
        second = launch_postgres(directory)
        again = runner.start(second)

        owner = Path(f"/proc/{again.pid}").stat().st_uid
        assert owner == pwd.getpwnam("nobody").pw_uid
        assert directory.is_symlink()
        connection = await asyncpg.connect(second.url)
        assert await connection.fetchval("SELECT to_regclass('kept')") == "kept"
        await connection.close()
        again.send_signal(signal.SIGINT)
        again.wait(10)
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def refuse() -> Callable[[], None]:
    def prepare() -> None:
        raise OSError("no user namespaces here")

    return prepare


def test_ports_are_free_and_out_of_the_way() -> None:
    """A free port is below those the kernel gives to outgoing connections, and not one somebody listens on."""
    with socket.socket() as taken:
        port = embedded.free_port()
        taken.bind(("127.0.0.1", port))

        others = {embedded.free_port() for _ in range(50)}

    assert port not in others
    assert all(other < 32_768 for other in others)


def test_an_old_redis_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system Redis before 6.2 is passed over for the one in the wheel."""
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    chosen = embedded.redis_binary.__wrapped__()

    assert chosen != str(old)
    assert embedded.redis_version(chosen) >= (6, 2)


def test_no_redis_at_all_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names what is missing."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(embedded, "_wheel_files", lambda package, path: [])

    with pytest.raises(StoreUnusable, match=r"6\.2 or newer"):
        embedded.redis_binary.__wrapped__()
