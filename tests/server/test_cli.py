"""The command line: what people type, what they read, and how a command ends."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import asyncpg
import click
import pytest
from click.testing import CliRunner, Result

from onsale.auth.accounts import Accounts, DemoAccount
from onsale.auth.keys import Keyring
from onsale.auth.passwords import PasswordHasher
from onsale.auth.roles import Role
from onsale.server import running
from onsale.server.cli import main
from onsale.server.demo import demo_sale_text
from onsale.server.quantities import duration_ms, rate_centi

SECRET = "s" * 40
Invoke = Callable[..., Result]


@pytest.fixture
def invoke(database_url: str, line_redis_url: str, shop_redis_url: str, tmp_path: Path) -> Invoke:
    """Run a command against the test's stores."""
    variables = {
        "DATABASE_URL": database_url,
        "LINE_REDIS_URL": line_redis_url,
        "SHOP_REDIS_URL": shop_redis_url,
        "ONSALE_SECRET_KEYS": SECRET,
        "ONSALE_DATA_DIR": str(tmp_path / "data"),
    }

    def run(*arguments: str, **extra: str) -> Result:
        stdin = extra.pop("stdin", None)
        return CliRunner().invoke(main, arguments, env={**variables, **extra}, input=stdin)

    return run


@pytest.fixture
def sale_file(tmp_path: Path) -> Path:
    path = tmp_path / "sale.toml"
    path.write_text(demo_sale_text(), encoding="utf-8")
    return path


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        deeper = isinstance(command, click.Group)
        found += commands(command, (*path, name)) if deeper else [(*path, name)]
    return found


@pytest.mark.parametrize("command", commands(main), ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    """`--help` of every command says what it does, without any setting."""
    result = CliRunner().invoke(main, [*command, "--help"], env={"DATABASE_URL": "", "REDIS_URL": ""})

    assert result.exit_code == 0
    assert re.search(r"Usage: .*\n\n  \S.*\w", result.output)


def test_missing_settings_are_named_all_at_once(tmp_path: Path) -> None:
    """One message names every variable, and the command ends with 2."""
    empty = dict.fromkeys(("DATABASE_URL", "REDIS_URL", "LINE_REDIS_URL", "SHOP_REDIS_URL", "ONSALE_SECRET_KEYS"), "")

    result = CliRunner().invoke(main, ["sale", "list"], env={**empty, "ONSALE_DATA_DIR": str(tmp_path)})

    assert result.exit_code == 2
    for name in ("DATABASE_URL", "LINE_REDIS_URL", "SHOP_REDIS_URL", "ONSALE_SECRET_KEYS"):
        assert name in result.output


def test_status_where_nothing_runs(tmp_path: Path) -> None:
    """A stopped system is no error of usage: one line, exit code 1."""
    result = CliRunner().invoke(main, ["status", "--data-dir", str(tmp_path)])

    assert result.exit_code == 1
    assert "nothing runs" in result.output


def test_a_sale_from_a_file(invoke: Invoke, sale_file: Path) -> None:
    """Made once, found by list and show, refused the second time."""
    made = invoke("sale", "create", str(sale_file), "--json")
    shown = invoke("sale", "show", "demo", "--json")
    listed = invoke("sale", "list", "--json")
    again = invoke("sale", "create", str(sale_file))

    assert made.exit_code == 0, made.output
    assert json.loads(made.output)["sale"] == "demo"
    assert json.loads(shown.output)["admission"]["rate_per_second"] == 1.0
    assert [one["sale"] for one in json.loads(listed.output)] == ["demo"]
    assert "demo-jacket" in invoke("sale", "show", "demo").output
    assert "Demo drop" in invoke("sale", "list").output
    assert again.exit_code == 1
    assert "already" in again.output


def test_a_bad_sale_file_names_line_and_field(invoke: Invoke, sale_file: Path) -> None:
    """Wrong files are refused whole."""
    sale_file.write_text(demo_sale_text().replace("stock = 500", "stock = -1"), encoding="utf-8")

    result = invoke("sale", "create", str(sale_file))

    line = 1 + demo_sale_text()[: demo_sale_text().index("stock = 500")].count("\n")
    assert result.exit_code == 1
    assert f"line {line}, items.0.stock" in result.output
    assert json.loads(invoke("sale", "list", "--json").output) == []


def test_an_unknown_sale(invoke: Invoke) -> None:
    """One line, exit code 1."""
    result = invoke("sale", "show", "nothing")

    assert result.exit_code == 1
    assert result.output == "Error: There is no such sale.\n"


def test_tokens_one_a_line(invoke: Invoke) -> None:
    """As many as asked, from the number asked, each its own account's."""
    result = invoke("tokens", "--count", "3", "--from", "41")

    assert result.exit_code == 0, result.output
    assert len(set(result.output.split())) == 3


def test_a_role_for_nobody(invoke: Invoke) -> None:
    """An address without an account is refused."""
    result = invoke("role", "nobody@example.com", "manager")

    assert (result.exit_code, result.output) == (1, "Error: No account has that e-mail address.\n")


def test_the_clock_moves_only_in_tests(invoke: Invoke) -> None:
    """Without ONSALE_TEST_CLOCK=1 the command refuses; with it the offset adds up."""
    refused = invoke("clock", "advance", "1d")
    first = invoke("clock", "advance", "1d", "--json", ONSALE_TEST_CLOCK="1")
    second = invoke("clock", "advance", "90s", "--json", ONSALE_TEST_CLOCK="1")

    assert refused.exit_code == 1
    assert json.loads(first.output) == {"offset_ms": 86_400_000}
    assert json.loads(second.output) == {"offset_ms": 86_490_000}


def test_migrate_says_what_it_did(invoke: Invoke, empty_database_url: str) -> None:
    """A fresh database gets every file, the next run none; a command before it says what to run."""
    before = invoke("sale", "list", DATABASE_URL=empty_database_url)
    first = invoke("migrate", "--json", DATABASE_URL=empty_database_url)
    second = invoke("migrate", "--json", DATABASE_URL=empty_database_url)

    assert (before.exit_code, "onsale migrate" in before.output) == (1, True)
    assert json.loads(first.output)["applied"][0].startswith("0001_")
    assert json.loads(second.output) == {"applied": []}


def test_a_store_that_is_away(invoke: Invoke) -> None:
    """A refused connection is one line, not a stack."""
    result = invoke("sale", "list", DATABASE_URL="postgresql://127.0.0.1:1/none")

    assert result.exit_code == 1
    assert result.output.startswith("Error: a store cannot be reached")


def test_rate_and_pause(invoke: Invoke, sale_file: Path) -> None:
    """Each command changes what it names and keeps the rest; a change for a while says when it ends."""
    invoke("sale", "create", str(sale_file))

    faster = json.loads(invoke("rate", "demo", "30/min", "--active-max", "7", "--revert-after", "5m", "--json").stdout)
    paused = json.loads(invoke("pause", "demo", "--reason", "smoke", "--json").stdout)
    resumed = json.loads(invoke("resume", "demo", "--json").stdout)

    assert (faster["rate_per_second"], faster["active_max"], faster["paused"]) == (0.5, 7, False)
    assert faster["revert_at"] is not None
    assert (paused["paused"], paused["rate_per_second"]) == (True, 0.5)
    assert resumed["paused"] is False
    assert invoke("rate", "demo", "0.001/s").exit_code == 2
    assert invoke("rate", "nothing", "1/s").exit_code == 1


def test_closed_and_opened(invoke: Invoke, sale_file: Path) -> None:
    """By hand, whatever the schedule says."""
    invoke("sale", "create", str(sale_file))

    assert invoke("sale", "close", "demo").exit_code == 0
    closed = json.loads(invoke("sale", "show", "demo", "--json").stdout)["state"]
    assert invoke("sale", "open", "demo").exit_code == 0
    opened = json.loads(invoke("sale", "show", "demo", "--json").stdout)["state"]

    assert (closed, opened) == ("ended", "open")


def test_cancelled_asks_first(invoke: Invoke, sale_file: Path) -> None:
    """It shows the sum and asks; a no, or nobody to ask, changes nothing; a yes cancels it, and once is enough."""
    invoke("sale", "create", str(sale_file))

    refused = invoke("sale", "cancel", "demo", "--json", stdin="n\n")
    unasked = invoke("sale", "cancel", "demo", stdin="")
    still = json.loads(invoke("sale", "show", "demo", "--json").stdout)["state"]
    agreed = invoke("sale", "cancel", "demo", "--yes", "--reason", "a storm")
    again = invoke("sale", "cancel", "demo", "--json")

    assert (1, "none", False) == (
        refused.exit_code, json.loads(refused.stdout)["state"], json.loads(refused.stdout)["is_closed"],
    )  # fmt: skip
    assert (1, "open") == (unasked.exit_code, still)
    assert "to be cancelled: 0 orders, nothing" in refused.stderr
    assert "demo is being cancelled" in agreed.stdout
    assert "running" == json.loads(again.stdout)["state"]
    assert 1 == invoke("sale", "open", "demo").exit_code
    assert 1 == invoke("sale", "cancel", "nothing", "--yes").exit_code


def test_rebuilt_and_audited(invoke: Invoke, sale_file: Path) -> None:
    """A rebuild loads a sale's stock under a new epoch; the audit has a verdict on every invariant."""
    invoke("sale", "create", str(sale_file))

    before = invoke("audit", "demo", "--json")
    rebuilt = invoke("rebuild", "demo", "--json")
    verdicts = {one["invariant"]: one["ok"] for one in json.loads(invoke("audit", "--json").stdout)}

    assert before.exit_code == 1
    assert json.loads(rebuilt.stdout) == {"sale": "demo", "epoch": 1}
    assert set(verdicts) == {f"I{number}" for number in range(1, 11)}
    assert verdicts["I1"]
    assert verdicts["I2"]
    assert invoke("rebuild", "nothing").exit_code == 1


def test_reset_asks_first(invoke: Invoke, sale_file: Path) -> None:
    """Forgetting orders needs a yes; then the epochs are new and what operators did to the schedule is undone."""
    invoke("sale", "create", str(sale_file))
    invoke("sale", "close", "demo")

    unasked = invoke("sale", "reset", "demo", stdin="n\n")
    still = json.loads(invoke("sale", "show", "demo", "--json").stdout)["state"]
    done = invoke("sale", "reset", "demo", "--yes")
    after = json.loads(invoke("sale", "show", "demo", "--json").stdout)["state"]

    assert (unasked.exit_code, still) == (1, "ended")
    assert (done.exit_code, after) == (0, "open")


@pytest.mark.parametrize(
    ("text", "centi"),
    [("500/s", 50_000), ("20", 2_000), ("0.01/s", 1), ("30/min", 50), ("0.6/min", 1), ("1800/h", 50), ("0/s", 0)],
)
def test_rates(text: str, centi: int) -> None:
    """Rates are read exactly, in hundredths a second."""
    assert rate_centi(text) == centi


@pytest.mark.parametrize("text", ["", "fast", "-1/s", "0.001/s", "1/min", "100001/s", "5/year", "nan", "1e3/s"])
def test_bad_rates(text: str) -> None:
    """What is no rate, or not in steps of 0.01 a second, is refused."""
    with pytest.raises(ValueError, match="rate"):
        rate_centi(text)


@pytest.mark.parametrize(("text", "ms"), [("90s", 90_000), ("5m", 300_000), ("6h", 21_600_000), ("250ms", 250)])
def test_durations(text: str, ms: int) -> None:
    """Durations carry their unit."""
    assert duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "5", "5 m", "-5m", "5y", "m"])
def test_bad_durations(text: str) -> None:
    """A number without a unit could be anything."""
    with pytest.raises(ValueError, match="duration"):
        duration_ms(text)


async def test_keys_are_rotated(invoke: Invoke, database: asyncpg.Pool, tmp_path: Path) -> None:
    """An account made under the old key is found with the new one alone; a second walk has nothing to do. Without the
    old key the command says what it cannot open, and ends with 1."""
    newest = "n" * 40
    hasher = PasswordHasher()
    old = Accounts(database, Keyring([SECRET.encode()]), hasher)
    await old.ensure_demo([DemoAccount("mina@example.com", "blue 전차 seven", Role.CUSTOMER, "Mina")])
    await hasher.close()
    lost = await asyncio.to_thread(invoke, "keys", "rotate", ONSALE_SECRET_KEYS=newest)
    done = await asyncio.to_thread(invoke, "keys", "rotate", "--json", ONSALE_SECRET_KEYS=f"{newest},{SECRET}")
    again = await asyncio.to_thread(invoke, "keys", "rotate", "--json", ONSALE_SECRET_KEYS=f"{newest},{SECRET}")

    assert (1, 0, 0) == (lost.exit_code, done.exit_code, again.exit_code)
    assert {"what": "accounts", "renewed": 1, "unreadable": 0} == json.loads(done.stdout)[0]
    assert {0} == {each["renewed"] for each in json.loads(again.stdout)}
    assert await Accounts(database, Keyring([newest.encode()]), hasher).named("mina@example.com")


def test_a_new_key_comes_first(invoke: Invoke, tmp_path: Path) -> None:
    """Where the data directory has keys of its own; where the environment has them it is only shown."""
    held = running.secret_keys(tmp_path)
    shown = invoke("keys", "new")
    put = invoke("keys", "new", "--data-dir", str(tmp_path), ONSALE_SECRET_KEYS="")
    first, second = running.secret_keys(tmp_path).split(",")

    assert 64 == len(shown.stdout.strip())
    assert (0, held) == (put.exit_code, second)
    assert first not in put.stdout and 64 == len(first) and first != second
