"""What a running system tells about itself in its data directory: who holds it, its processes, its addresses.

Two files beside the lock: `state.json` is what `onsale status` shows, `environment.json` (with secrets, readable by its
owner alone) lets the other commands speak to the same stores. Both are replaced whole, never half written.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from onsale.server.errors import AlreadyRunning

STATE_FILE = "state.json"
ENVIRONMENT_FILE = "environment.json"
LOCK_FILE = "lock"
SECRETS_FILE = "secret_keys"
HOOKS_FILE = "webhook_secret"
# `status` holds the lock for microseconds to see whether it can: an `up` that meets it tries again.
LOCK_PATIENCE_S = 0.5

ChildState = Literal["starting", "running", "restarting", "stopping", "stopped"]
SystemState = Literal["starting", "ready", "stopping"]


class ProcessFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the system. `restarts` counts how often it died and was started again."""

    name: str
    pid: int | None
    state: ChildState
    restarts: int


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """One `onsale up`, as of its last change."""

    state: SystemState
    pid: int
    data_dir: str
    addresses: dict[str, str]
    stores: dict[str, str]
    processes: tuple[ProcessFigures, ...]


@contextmanager
def held(data_dir: Path) -> Iterator[None]:
    """Own the data directory; the kernel lets go when this process ends, however it ends. Raises AlreadyRunning."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data_dir / LOCK_FILE).open("a+b") as file:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while not _lock(file.fileno()):
            if time.monotonic() > deadline:
                raise AlreadyRunning(f"onsale runs on {data_dir} already; see: onsale status")
            time.sleep(0.02)
        yield


def read_running(data_dir: Path) -> Running | None:
    """The system that runs on this data directory now, or None."""
    if not _is_held(data_dir):
        return None
    try:
        return msgspec.json.decode((data_dir / STATE_FILE).read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None


def read_environment(data_dir: Path) -> dict[str, str]:
    """The variables the running system's processes were started with. Empty when nothing runs there."""
    if not _is_held(data_dir):
        return {}
    try:
        return msgspec.json.decode((data_dir / ENVIRONMENT_FILE).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError):
        return {}


def write_running(data_dir: Path, running: Running) -> None:
    """Replace what is told."""
    replace_file(data_dir / STATE_FILE, msgspec.json.format(msgspec.json.encode(running)))


def write_environment(data_dir: Path, environment: dict[str, str]) -> None:
    """Replace what the other commands are told."""
    replace_file(data_dir / ENVIRONMENT_FILE, msgspec.json.encode(environment))


def forget(data_dir: Path) -> None:
    """Nothing runs here any more."""
    (data_dir / STATE_FILE).unlink(missing_ok=True)
    (data_dir / ENVIRONMENT_FILE).unlink(missing_ok=True)


def secret_keys(data_dir: Path) -> str:
    """The keys of this data directory, made once: tickets and sign-ins outlive a restart."""
    return _made_once(data_dir / SECRETS_FILE, new_secret_key)


def new_secret_key() -> str:
    """A key that nobody has."""
    return secrets.token_urlsafe(48)


def put_first(data_dir: Path, key: str) -> None:
    """Another key signs and seals from the next start on; those there are still verify and open."""
    replace_file(data_dir / SECRETS_FILE, f"{key},{secret_keys(data_dir)}".encode())


def webhook_secret(data_dir: Path) -> str:
    """What the sandbox of this data directory signs its webhooks with."""
    return _made_once(data_dir / HOOKS_FILE, lambda: f"whsec_{b64encode(secrets.token_bytes(32)).decode()}")


def _made_once(path: Path, make: Callable[[], str]) -> str:
    if not path.exists():
        replace_file(path, make().encode())
    return path.read_text(encoding="ascii").strip()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read; readers see the old one or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(content)
    beside.replace(path)


def _is_held(data_dir: Path) -> bool:
    try:
        with (data_dir / LOCK_FILE).open("rb") as file:
            return not _lock(file.fileno(), fcntl.LOCK_SH)
    except OSError:
        return False


def _lock(file: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
