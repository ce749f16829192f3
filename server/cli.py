"""The command line: what each command takes, prints and ends with. The work is in `operating.py` and in the rooms.

Beside a running `onsale up` a command finds it through the data directory; nothing else needs setting.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import click

from onsale.auth.roles import Role
from onsale.server import running
from onsale.server.config import Settings, environment
from onsale.server.quantities import Duration, Rate, Seeds
from onsale.server.terminal import (
    chosen_data_dir,
    collect_garbage_rarely,
    echo_json,
    echo_table,
    found_settings,
    read_text,
    run,
    with_data_dir,
    with_json,
    with_reason,
)

ROLES = click.Choice([role.value for role in Role])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="onsale", message="%(version)s")
def main() -> None:
    """A fair line, exact stock, checkout and record for flash sales."""


# --- the system


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Where web listens; 0 = any free one.  [default: 8080]")
@click.option("--host", help="The address web listens on.  [default: 127.0.0.1]")
@click.option("--web", "web_count", type=click.IntRange(1, 64), default=1, show_default=True, help="Web processes.")
@click.option("--no-demo", is_flag=True, help="Make no demo sale and no demo accounts.")
@with_data_dir
def up(port: int | None, host: str | None, web_count: int, no_demo: bool, data_dir: Path | None) -> None:
    """Run everything on this machine, until Ctrl-C.

    Brings a Redis and a Postgres where no address is set, applies the schema, starts all processes, and starts again
    what dies.
    """
    from onsale.server.up import Plan
    from onsale.server.up import up as run_up

    plan = Plan(chosen_data_dir(data_dir), host, port, web_count, with_demo=not no_demo)
    run(run_up(plan, environment(), click.echo))


@main.command()
@with_json
@with_data_dir
def status(as_json: bool, data_dir: Path | None) -> None:
    """What runs here: processes, addresses, stores. Ends with 1 when nothing does."""
    system = running.read_running(chosen_data_dir(data_dir))
    if system is None:
        raise click.ClickException(f"nothing runs on {chosen_data_dir(data_dir)}; start it with: onsale up")
    if as_json:
        echo_json(system)
    else:
        echo_status(system)


def echo_status(system: running.Running) -> None:
    click.echo(f"{system.state}, supervisor {system.pid}, data in {system.data_dir}\n")
    rows = [(one.name, one.pid, one.state, one.restarts) for one in system.processes]
    echo_table(("PROCESS", "PID", "STATE", "RESTARTS"), rows)
    click.echo()
    echo_table(("WHAT", "ADDRESS"), [*system.addresses.items(), *system.stores.items()])


def add_process(name: str, about: str) -> None:
    """A command for one process of the system, as in the Procfile."""

    @main.command(name, help=about)
    @with_data_dir
    def start(data_dir: Path | None) -> None:
        from onsale.server import processes

        body: Callable[[Settings], Coroutine[Any, Any, None]] = getattr(processes, f"run_{name}")
        collect_garbage_rarely()
        run(body(found_settings(data_dir)))


add_process("web", "Answer requests and streams. Any number may run, on one port.")
add_process("admitter", "Let people in at the set rate. Any number may run; together they are exact.")
add_process("flusher", "Write what happened into Postgres. Any number may run; each stream has one writer.")
add_process("worker", "Give back lapsed holds, finish open claims, rebuild what a store lost.")
add_process("catcher", "A mail server for trying: keeps every letter, shows it to this machine, sends none on.")
add_process("sandbox", "The sandbox payment provider: a server of its own, no real money.")


@main.command()
@with_json
@with_data_dir
def migrate(as_json: bool, data_dir: Path | None) -> None:
    """Apply what is new in the schema. Safe to repeat, and from many machines at once."""
    from onsale.server import operating

    files = run(operating.migrate_database(found_settings(data_dir)))
    if as_json:
        echo_json({"applied": files})
    else:
        click.echo("\n".join(f"applied {file}" for file in files) or "the schema is up to date")


# --- sales


@main.group()
def sale() -> None:
    """Make, look at, open and end sales."""


@sale.command("create")
@click.argument("file", type=click.File(encoding="utf-8"))
@with_json
@with_data_dir
def sale_create(file: Any, as_json: bool, data_dir: Path | None) -> None:
    """Make a sale from a TOML FILE (- reads standard input)."""
    from onsale.server import operating

    made = run(operating.create_sale(found_settings(data_dir), read_text(file)))
    if as_json:
        echo_json(made)
    else:
        click.echo(f"made {made['sale']}: {made['address']}")


@sale.command("list")
@with_json
@with_data_dir
def sale_list(as_json: bool, data_dir: Path | None) -> None:
    """Every sale with its state, rate and stock."""
    from onsale.server import operating

    sales = run(operating.list_sales(found_settings(data_dir)))
    if as_json:
        echo_json(sales)
    else:
        echo_table(("SALE", "STATE", "TITLE", "RATE", "SEATS", "STOCK", "SOLD"), [sale_row(one) for one in sales])


def sale_row(one: dict[str, Any]) -> Sequence[object]:
    admission, items = one["admission"], one["items"]
    rate = f"{admission['rate_per_second']:g}/s"
    counts = (sum(item["stock"] for item in items), sum(item["sold"] for item in items))
    return (one["sale"], one["state"], one["title"], rate, admission["active_max"], *counts)


@sale.command("show")
@click.argument("sale_id", metavar="SALE")
@with_json
@with_data_dir
def sale_show(sale_id: str, as_json: bool, data_dir: Path | None) -> None:
    """One SALE: schedule, admission, items."""
    from onsale.server import operating

    found = run(operating.show_sale(found_settings(data_dir), sale_id))
    if as_json:
        echo_json(found)
    else:
        echo_sale(found)


def echo_sale(found: dict[str, Any]) -> None:
    facts = {name: value for name, value in found.items() if name not in ("items", "admission")}
    echo_table(("WHAT", "IS"), [*facts.items(), *found["admission"].items()])
    click.echo()
    rows = [
        (item["product"], item["title"], money(item["price"]), item["stock"], item["claimed"], item["sold"])
        for item in found["items"]
    ]
    echo_table(("PRODUCT", "TITLE", "PRICE", "STOCK", "CLAIMED", "SOLD"), rows)


def money(price: dict[str, Any]) -> str:
    from onsale.web import formats

    return formats.money(price)


@sale.command("open")
@click.argument("sale_id", metavar="SALE")
@with_reason
@with_data_dir
def sale_open(sale_id: str, reason: str | None, data_dir: Path | None) -> None:
    """Open SALE now, whatever its schedule says."""
    from onsale.server import operating

    run(operating.open_sale(found_settings(data_dir), sale_id, reason=reason))
    click.echo(f"{sale_id} is open")


@sale.command("close")
@click.argument("sale_id", metavar="SALE")
@with_reason
@with_data_dir
def sale_close(sale_id: str, reason: str | None, data_dir: Path | None) -> None:
    """Close SALE now, whatever its schedule says. Orders that are being paid for are finished."""
    from onsale.server import operating

    run(operating.close_sale(found_settings(data_dir), sale_id, reason=reason))
    click.echo(f"{sale_id} is closed")


@sale.command("cancel")
@click.argument("sale_id", metavar="SALE")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_reason
@with_json
@with_data_dir
@click.pass_context
def sale_cancel(
    context: click.Context, sale_id: str, yes: bool, reason: str | None, as_json: bool, data_dir: Path | None
) -> None:
    """Close SALE and give back, in full, all that was bought in it and not shipped yet.

    Shows the sum and asks; a no changes nothing and ends with 1. A yes closes the sale for good; what was sold
    meanwhile is shown and asked for again. A worker then cancels order after order; run this again to see how far.
    """
    from onsale.server import operating

    def is_agreed(found: dict[str, Any]) -> bool:
        if yes:
            return True
        echo_cancellation(found, err=True)
        return click.confirm("Give all of this back?", err=True)

    found = run(operating.cancel_sale(found_settings(data_dir), sale_id, reason=reason, is_agreed=is_agreed))
    if as_json:
        echo_json(found)
    else:
        echo_cancellation(found)
    context.exit(1 if found["state"] == "none" else 0)


def echo_cancellation(found: dict[str, Any], *, err: bool = False) -> None:
    words = {"none": "is not cancelled", "running": "is being cancelled", "done": "is cancelled"}
    click.echo(f"{found['sale']} {words[found['state']]}", err=err)
    parts = {"open": "to be cancelled", "cancelled": "cancelled", "waiting": "not bought yet", "kept": "shipped, kept"}
    for part, name in parts.items():
        click.echo(f"  {name}: {found[part]['orders']} orders, {sums(found[part]['amounts'])}", err=err)
    click.echo(f"  given back so far: {sums(found['refunded'])}", err=err)


def sums(amounts: Sequence[dict[str, Any]]) -> str:
    return ", ".join(map(money, amounts)) or "nothing"


@sale.command("reset")
@click.argument("sale_id", metavar="SALE")
@click.confirmation_option(prompt="Everything bought in this sale is forgotten. Go on?")
@with_data_dir
def sale_reset(sale_id: str, data_dir: Path | None) -> None:
    """Make SALE as it was before anybody came: for demos and trials. Its orders are deleted."""
    from onsale.server import operating

    run(operating.reset(found_settings(data_dir), sale_id))
    click.echo(f"{sale_id} is as new")


# --- admission


@main.command()
@click.argument("sale_id", metavar="SALE")
@click.argument("centi", metavar="RATE", type=Rate())
@click.option("--active-max", type=click.IntRange(0, 10_000_000), help="How many may be inside at once.")
@click.option("--revert-after", "revert_after_ms", type=Duration(), help="Go back to what was before after this long.")
@with_reason
@with_json
@with_data_dir
def rate(
    sale_id: str,
    centi: int,
    active_max: int | None,
    revert_after_ms: int | None,
    reason: str | None,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Let people into SALE at RATE (500/s, 30/min; 0/s = nobody). In force everywhere within a second."""
    from onsale.server import operating

    work = operating.set_rate(
        found_settings(data_dir),
        sale_id,
        centi,
        active_max=active_max,
        revert_after_ms=revert_after_ms,
        reason=reason,
    )
    echo_admission(run(work), as_json)


@main.command()
@click.argument("sale_id", metavar="SALE")
@with_reason
@with_json
@with_data_dir
def pause(sale_id: str, reason: str | None, as_json: bool, data_dir: Path | None) -> None:
    """Let nobody into SALE until it is resumed; everybody keeps their place."""
    from onsale.server import operating

    echo_admission(run(operating.pause(found_settings(data_dir), sale_id, reason=reason)), as_json)


@main.command()
@click.argument("sale_id", metavar="SALE")
@with_reason
@with_json
@with_data_dir
def resume(sale_id: str, reason: str | None, as_json: bool, data_dir: Path | None) -> None:
    """Let people into SALE again. What the system itself holds (a provider that is away) stays held."""
    from onsale.server import operating

    echo_admission(run(operating.resume(found_settings(data_dir), sale_id, reason=reason)), as_json)


def echo_admission(now: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return echo_json(now)
    back = f" until {now['revert_at']}" if now["revert_at"] else ""
    held = f"; held by {', '.join(now['paused_by'])}" if now["paused_by"] else ""
    return click.echo(f"{now['sale']}: {now['rate_per_second']:g}/s, {now['active_max']} inside at most{back}{held}")


# --- accounts


@main.command()
@click.option("--count", type=click.IntRange(1, 1_000_000), required=True, help="How many.")
@click.option("--from", "first", type=click.IntRange(1, 9_999_999), default=1, show_default=True, help="First number.")
@click.option("--ttl", "ttl_ms", type=Duration(), default="6h", show_default=True, help="How long each is good.")
@click.option("--role", type=ROLES, default=Role.CUSTOMER.value, show_default=True)
@with_data_dir
def tokens(count: int, first: int, ttl_ms: int, role: str, data_dir: Path | None) -> None:
    """Access tokens of the accounts load-000001, ..., one a line. Accounts are made when missing."""
    from onsale.server import operating

    settings = found_settings(data_dir)
    made = run(operating.make_tokens(settings, count=count, first=first, ttl_ms=ttl_ms, role=Role(role)))
    # One write a token: an unbuffered standard output takes only part of a large one, and says nothing.
    for token in made:
        click.echo(token)


@main.command("role")
@click.argument("email")
@click.argument("role", type=ROLES)
@with_data_dir
def set_role(email: str, role: str, data_dir: Path | None) -> None:
    """Give the account of EMAIL a ROLE; its devices are signed out. Managers and masters operate sales."""
    from onsale.server import operating

    account = run(operating.set_role(found_settings(data_dir), email, Role(role)))
    click.echo(f"{account} is {role}")


@main.group()
def keys() -> None:
    """The secret keys that sign and seal."""


@keys.command("new")
@with_data_dir
def keys_new(data_dir: Path | None) -> None:
    """Make a key. Where the data directory has keys of its own it becomes the first of them, from the next start on;
    else put it into ONSALE_SECRET_KEYS yourself."""
    where = chosen_data_dir(data_dir)
    if environment().get("ONSALE_SECRET_KEYS") or not (where / running.SECRETS_FILE).exists():
        click.echo(running.new_secret_key())
        return
    running.put_first(where, running.new_secret_key())
    click.echo(f"a new key is the first in {where / running.SECRETS_FILE}; start again, then: onsale keys rotate")


@keys.command("rotate")
@with_json
@with_data_dir
@click.pass_context
def keys_rotate(context: click.Context, as_json: bool, data_dir: Path | None) -> None:
    """Seal all personal data anew under the first key of ONSALE_SECRET_KEYS, while the system runs.

    Afterwards nothing at rest needs the older keys; tickets may (they stay listed until the last sale of their time has
    ended). Ends with 1 where something opens with no listed key.
    """
    from onsale.server import operating

    done = run(operating.rotate_keys(found_settings(data_dir)))
    if as_json:
        echo_json(done)
    else:
        echo_table(("WHAT", "SEALED ANEW", "UNREADABLE"), [(one.what, one.renewed, one.unreadable) for one in done])
    if any(one.unreadable for one in done):
        context.exit(1)


# --- the record


@main.command()
@click.argument("sale_id", metavar="[SALE]", required=False)
@with_json
@with_data_dir
@click.pass_context
def audit(context: click.Context, sale_id: str | None, as_json: bool, data_dir: Path | None) -> None:
    """Check every promise on one SALE or on all: units, claims, charges, places, rates. Ends with 1 on a violation.

    Runs beside traffic; what may be seen in the middle of a change is looked at again before it is called wrong.
    """
    from onsale.checkout.record.audit import meaning
    from onsale.server.auditing import audit_system

    findings = run(audit_system(found_settings(data_dir), sale_id))
    if as_json:
        echo_json(findings)
    else:
        rows = [
            (f.sale, f.invariant, "holds" if f.ok else "BROKEN", f.detail or meaning(f.invariant)) for f in findings
        ]
        echo_table(("SALE", "INVARIANT", "VERDICT", "DETAIL"), rows)
    context.exit(0 if all(one.ok for one in findings) else 1)


@main.command()
@click.argument("sale_id", metavar="SALE")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots into this file.")
@with_json
@with_data_dir
def report(sale_id: str, out: Path | None, as_json: bool, data_dir: Path | None) -> None:
    """How SALE went, from the record: arrivals, waits, fairness, orders, and what was changed and why.

    Covers what was recorded, and says what was not. The page is one HTML file that needs nothing else.
    """
    from onsale.server import reporting

    recorded = run(reporting.recorded(found_settings(data_dir), sale_id))
    found = reporting.report_of(recorded)
    if out is not None:
        out.write_text(reporting.page_of(recorded, found), encoding="utf-8")
    if as_json:
        echo_json(found)
    else:
        echo_table(("STAGE", "PEOPLE", "OF THE STAGE BEFORE"), reporting.funnel_rows(found.funnel))
        click.echo()
        fairness = found.fairness
        click.echo(
            f"{fairness.inversions} overtaken, {fairness.returners} came back, {fairness.over_cap} above the cap;"
            f" {found.recorded_seconds:,} documents of the line, {len(found.changes)} changes"
        )


@main.command()
@click.option("--seeds", type=Seeds(), required=True, help="One sale for each seed from A to B.")
@click.option(
    "--laws",
    type=click.Choice(["tuning", "unseen"]),
    default="unseen",
    show_default=True,
    help="The laws the estimate was tuned on, or others.",
)
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write plots into this HTML file.")
@with_json
@click.pass_context
def simulate(context: click.Context, seeds: tuple[int, int], laws: str, report: Path | None, as_json: bool) -> None:
    """Run whole sales in virtual time, and judge the waits and odds people were shown. Ends with 1 when they were not
    true.

    Of all waits that a turn ended, 45 to 55 % should end at or before the p50 then shown, 85 to 95 % at or before the
    p90. Of people told that something is likely left at their turn, nine of ten should have an offer; told that it is
    possible, half. The same seeds give the same answer.
    """
    from onsale.queue.calibration import calibrate
    from onsale.queue.laws import LawSet
    from onsale.server import simulating

    outcomes = simulating.simulate(LawSet(laws), *seeds)
    found = calibrate(outcomes)
    if report is not None:
        title = f"{found.sales} simulated sales, seeds {seeds[0]} to {seeds[1]}, {laws} laws"
        report.write_text(simulating.report_of(found, outcomes[0], title), encoding="utf-8")
    if as_json:
        echo_json(simulating.figures_of(found))
    else:
        echo_table(("WAITS", "COUNT", "BY P50", "BY P90"), simulating.table_of(found))
        click.echo()
        echo_table(("ODDS", "TOLD", "HAD AN OFFER", "AT LEAST"), simulating.odds_table_of(found))
        click.echo()
        click.echo(
            f"{found.sales} sales, {found.people:,} people; {found.unended:,} shown waits had no turn;"
            f" {found.overtaken} overtaken, {found.over_cap} above the cap"
        )
    context.exit(0 if found.is_good else 1)


@main.command()
@click.argument("sale_id", metavar="SALE")
@with_json
@with_data_dir
def rebuild(sale_id: str, as_json: bool, data_dir: Path | None) -> None:
    """Make the stock, holds, limits and claims of SALE in Redis anew from the record.

    While it runs the sale answers that it is recovering. Happens by itself when Redis has lost something.
    """
    from onsale.server import operating

    epoch = run(operating.rebuild(found_settings(data_dir), sale_id))
    if as_json:
        echo_json({"sale": sale_id, "epoch": epoch})
    else:
        click.echo(f"{sale_id} is rebuilt, epoch {epoch}")


# --- the test clock


@main.group()
def clock() -> None:
    """Move time, where the system runs with ONSALE_TEST_CLOCK=1."""


@clock.command("advance")
@click.argument("by_ms", metavar="DURATION", type=Duration())
@with_json
@with_data_dir
def clock_advance(by_ms: int, as_json: bool, data_dir: Path | None) -> None:
    """Move schedules, deliveries and refunds on by DURATION (1d). Holds, passes and rates keep real time."""
    from onsale.server import operating

    offset_ms = run(operating.move_clock(found_settings(data_dir), by_ms))
    if as_json:
        echo_json({"offset_ms": offset_ms})
    else:
        click.echo(f"the clock is {offset_ms / 1000:g} s ahead")
