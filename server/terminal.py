"""What the commands share: where the running system is found, how work is run, how figures are printed.

Exit codes: 0 done; 1 refused, failed, or not as it should be; 2 wrong usage or settings. The one place where an event
loop is started.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import uvloop

from onsale.server import running
from onsale.server.config import Settings, SettingsInvalid, environment, load_settings

STORE_VARIABLES = ("REDIS_URL", "LINE_REDIS_URL", "SHOP_REDIS_URL", "DATABASE_URL")
Command = TypeVar("Command", bound=Callable[..., Any])
T = TypeVar("T")


class Misconfigured(click.ClickException):
    """Settings are missing or bad."""

    exit_code = 2


def with_data_dir(command: Command) -> Command:
    """Adds `--data-dir`: where the running system is found."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where the system keeps its data.  [default: ONSALE_DATA_DIR or .onsale]",
    )(command)


def with_json(command: Command) -> Command:
    """Adds `--json`: the same figures for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def with_reason(command: Command) -> Command:
    """Adds `--reason`: kept in the sale's audit."""
    return click.option("--reason", help="Why; kept in the sale's audit.")(command)


def chosen_data_dir(asked: Path | None) -> Path:
    """The data directory: as asked, as the environment says, or `.onsale` here."""
    return asked or Path(environment().get("ONSALE_DATA_DIR") or ".onsale")


def found_settings(asked: Path | None) -> Settings:
    """Settings of the system a command is for."""
    try:
        return load_settings(found_environment(asked))
    except SettingsInvalid as error:
        if running.read_running(chosen_data_dir(asked)) is None:
            raise Misconfigured(f"{error}\n(and no `onsale up` runs on {chosen_data_dir(asked)})") from None
        raise Misconfigured(str(error)) from None


def found_environment(asked: Path | None) -> Mapping[str, str]:
    """The variables a command works with: the running system's.

    Where the environment names stores of its own and no data directory is asked for, the environment alone is meant:
    half of one system and half of another would be worse than either.
    """
    own = environment()
    if asked is None and any(own.get(name) for name in STORE_VARIABLES):
        return own
    return {**own, **running.read_environment(chosen_data_dir(asked))}


def collect_garbage_rarely() -> None:
    """For a process that serves: what was imported is never looked at again, and of what requests leave behind the few
    cycles wait for 10,000 objects instead of 700. Measured over confirmations: a tenth of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do the work on an event loop; what it refuses becomes one line and an exit code."""
    # Here, because `--help` need not wait for the code that does the work.
    from onsale.server.health import StoresUnfit
    from onsale.server.log import configure_log
    from onsale.server.refusals import said_in_one_line

    # Standard output is for figures; what the rooms have to say goes to standard error.
    configure_log("console", process="command")
    try:
        return uvloop.run(work)
    except (SettingsInvalid, StoresUnfit) as error:
        raise Misconfigured(str(error)) from None
    except Exception as error:
        line = said_in_one_line(error)
        if line is None:
            raise
        raise click.ClickException(line) from None


def read_text(file: Any) -> str:
    """What a file says, as UTF-8."""
    try:
        return str(file.read())
    except UnicodeDecodeError:
        raise click.ClickException(f"{file.name} is not UTF-8 text") from None


def echo_json(value: Any) -> None:
    """Figures for programs, one document."""
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def echo_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Figures for people, columns as wide as what is in them."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if value is None or value in ([], ()):
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
