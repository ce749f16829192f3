"""Does a flood of logins reach the checkout? A calm sale alone, then the same beside 2,000 logins a second.

Orders are reserved and confirmed by the clock (open loop); a latency counts from when the request was due, and the
provider's median, measured just before, is taken off a confirmation's. The flood comes from a process of its own: by
thirds the right password, a wrong one and an address nobody has, from loopback, which no budget per address bounds.
Whoever would wait too long for a hash is to be told to come back (429), nobody to wait over two seconds.

    python -m bench.login_flood [--web 1] [--logins 2000] [--orders 50] [--seconds 10]

Prints one JSON object; `missed` names the targets that were not reached. Exit 1 when something answered a 5xx, or an
order was not confirmed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop

from bench import journeys
from bench.floors import Meter
from bench.generator import SEPARATOR
from bench.journeys import Connection, ask_all, connect, generate, request, text_of
from bench.measure import Bench, Buying, Plan, charges, opened
from bench.report import Busy

SALE = "calm"
PASSWORD = "salt-lamp-42-river"
# So many that the wrong guesses that are looked at stay within each one's budget of tries.
ACCOUNTS = 200
SIGNED_UP_WITHIN_S = 60
LOGIN_CONNECTIONS = 512
ORDER_CONNECTIONS = 64
CHECKOUT_P99_MS = 10
LOGIN_WAIT_MS = 2_000
TICK_S = 0.001
# How long before the checkout is looked at the flood's process is started, and how long it goes on: it has to import
# and connect before it is at its full rate.
FLOOD_LEAD_S = 2.0


# An order's id -> the request that confirms it.
Confirm = Callable[[str], bytes]


@dataclass
class Calm:
    """Latencies of one stretch of the calm sale, in milliseconds by step, and what was answered otherwise."""

    took_ms: dict[str, list[float]] = field(default_factory=lambda: {"reserve": [], "confirm": []})
    unexpected: Counter[str] = field(default_factory=Counter)


class _Buyer:
    """One order: reserved when it is due, confirmed as soon as that is answered, on one connection."""

    def __init__(self, connection: Connection, log: Calm, idle: list[Connection], confirm: Confirm) -> None:
        self._connection, self._log, self._idle, self._confirm = connection, log, idle, confirm
        connection.answered = self._answered

    def start(self, reserve: bytes, due_s: float) -> None:
        self._step, self._due_s = "reserve", due_s
        self._connection.transport.write(reserve)

    def _answered(self, reply: bytes) -> None:
        now_s = time.perf_counter()
        self._log.took_ms[self._step].append((now_s - self._due_s) * 1000)
        is_good = reply[9:10] == b"2" and (self._step == "reserve" or b'"confirmed"' in reply)
        if not is_good:
            self._log.unexpected[f"{self._step} {journeys.status(reply)} {text_of(reply, b'code')}"] += 1
        if is_good and self._step == "reserve":
            self._step, self._due_s = "confirm", now_s
            self._connection.transport.write(self._confirm(text_of(reply, b"order")))
        else:
            self._idle.append(self._connection)


class CalmSale:
    """Buyers who were let in, taken one after another by each stretch."""

    def __init__(self, product: str, tokens: Sequence[str], passes: Sequence[str], port: int) -> None:
        self._product, self._port = product, port
        self._buyers = iter(enumerate(zip(tokens, passes, strict=True)))

    async def stretch(self, per_second: int, seconds: float) -> Calm:
        """So many orders a second, for so long."""
        log, idle = Calm(), await connect(self._port, ORDER_CONNECTIONS)
        everyone = list(idle)
        began_s = time.perf_counter()
        for n in range(int(per_second * seconds)):
            due_s = began_s + n / per_second
            while (wait_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(min(wait_s, TICK_S))
            if idle:
                self._order(idle.pop(), log, idle, due_s)
            else:
                log.unexpected["no connection free"] += 1
        deadline_s = time.perf_counter() + 5
        while len(idle) < len(everyone) and time.perf_counter() < deadline_s:
            await asyncio.sleep(0.01)
        log.unexpected["never answered"] += len(everyone) - len(idle)
        for connection in everyone:
            connection.transport.close()
        return log

    def _order(self, connection: Connection, log: Calm, idle: list[Connection], due_s: float) -> None:
        number, (token, admission) = next(self._buyers)
        key = f"{SALE}-{number}"
        buyer = _Buyer(connection, log, idle, lambda order: journeys.confirm(order, token, f"{key}-pay"))
        buyer.start(journeys.reserve(SALE, self._product, token, admission, key), due_s)


async def sign_up(bench: Bench) -> list[str]:
    """Accounts with a password, as people get them; answers their addresses once each can sign in."""
    emails = [f"flooded-{n}@flood.example" for n in range(ACCOUNTS)]
    asked = [
        request("POST", "/v1/accounts", "", json.dumps({
            "email": email, "password": PASSWORD, "name": "Flooded", "phone": "+821012345678",
        }))
        for email in emails
    ]  # fmt: skip
    _require(await ask_all(bench.ours.port, asked, connections=2), "202")
    deadline = time.monotonic() + SIGNED_UP_WITHIN_S
    # They come into being in turn, so whoever is last is there when all are.
    while journeys.status((await ask_all(bench.ours.port, [login(emails[-1], PASSWORD)]))[0]) != "201":
        if time.monotonic() > deadline:
            raise RuntimeError("the last account never came into being")
        await asyncio.sleep(2)
    return emails


def login(email: str, password: str) -> bytes:
    return request("POST", "/v1/sessions", "", json.dumps({"email": email, "password": password}))


def flood(emails: Sequence[str], count: int) -> list[bytes]:
    """That many logins, by thirds right, wrong and unknown, in no order."""
    made = []
    for n in range(count):
        email = emails[n % len(emails)]
        made.append(
            [login(email, PASSWORD), login(email, f"wrong-guess-{n}"), login(f"nobody-{n}@flood.example", PASSWORD)][
                n % 3
            ]
        )
    random.Random(4).shuffle(made)
    return made


def _require(replies: Sequence[bytes], status: str) -> None:
    bad = [reply for reply in replies if journeys.status(reply) != status]
    if bad:
        raise RuntimeError(f"{len(bad)} of {len(replies)} were answered otherwise: {bad[0][-300:].decode()}")


@contextlib.asynccontextmanager
async def flooding(
    port: int, requests: Sequence[bytes], per_second: int, seconds: float
) -> AsyncIterator[dict[str, Any]]:
    """The flood, at its full rate when the block begins; what became of it is added to the yielded dict afterwards."""
    told: dict[str, Any] = {}
    with tempfile.NamedTemporaryFile() as file:
        file.write(SEPARATOR.join(requests))
        file.flush()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.generator", "--port", str(port), "--requests", file.name,
            "--seconds", str(seconds), "--connections", str(LOGIN_CONNECTIONS), "--per-second", str(per_second),
            stdout=subprocess.PIPE,
        )  # fmt: skip
        await asyncio.sleep(FLOOD_LEAD_S)
        yield told
        out, _ = await process.communicate()
    told |= json.loads(out)


async def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Everything in turn, on a fresh system."""
    buyers = int(asked.orders * asked.seconds) * 2
    async with opened(Plan(), lambda text: print(text, file=sys.stderr), web=asked.web) as bench:
        emails = await sign_up(bench)
        buying = await Buying.opened(bench, SALE, await bench.grow_tokens(buyers))
        await buying.join()
        calm = CalmSale(f"{SALE}-1", bench.tokens[:buyers], await buying.passes(), bench.ours.port)
        sandbox = int((await bench.on.status())["addresses"]["sandbox"].rpartition(":")[2])
        provider: Any = await generate(
            sandbox, charges(asked.orders, 4 * asked.orders), seconds=60, connections=64,
            per_second=asked.orders, once=True,
        )  # fmt: skip
        provider_ms = provider["latency_ms"]["p50"]
        busy = Busy()
        with Meter(bench.ours) as alone_cpu:
            alone = await calm.stretch(asked.orders, asked.seconds)
        lasts_s = asked.seconds + FLOOD_LEAD_S
        requests = flood(emails, int(asked.logins * lasts_s))
        async with flooding(bench.ours.port, requests, asked.logins, lasts_s) as logins:
            with Meter(bench.ours) as beside_cpu:
                beside = await calm.stretch(asked.orders, asked.seconds)
        others = busy.others()
        stretches = {"alone": (alone, alone_cpu), "beside": (beside, beside_cpu)}
    return {
        "web": asked.web,
        "others_took": others,
        "provider_p50_ms": provider_ms,
        "checkout_ms": {name: _own_ms(log, provider_ms) for name, (log, _) in stretches.items()},
        "unexpected": dict(alone.unexpected + beside.unexpected),
        "cpu_percent": {
            name: {process: round(100 * used / meter.took_s, 1) for process, used in meter.used_s.items()}
            for name, (_, meter) in stretches.items()
        },
        "logins": logins,
    }


def _own_ms(log: Calm, provider_ms: float) -> dict[str, dict[str, float]]:
    own = log.took_ms | {"confirm": [took - provider_ms for took in log.took_ms["confirm"]]}
    return {step: journeys.quantiles(took) for step, took in own.items()}


def missed(found: dict[str, Any]) -> list[str]:
    """The targets that were not reached."""
    faults = [
        f"{step}: p99 {quantiles['p99']} ms, {CHECKOUT_P99_MS} is the target"
        for step, quantiles in found["checkout_ms"]["beside"].items()
        if quantiles["p99"] >= CHECKOUT_P99_MS
    ]
    if (longest_ms := found["logins"]["latency_ms"]["max"]) > LOGIN_WAIT_MS:
        faults.append(f"a login waited {longest_ms} ms, {LOGIN_WAIT_MS} is the target")
    return faults


def main() -> None:
    """Command line; see the file's head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--web", type=int, default=1)
    parser.add_argument("--logins", type=int, default=2_000, help="logins a second")
    parser.add_argument("--orders", type=int, default=50, help="orders a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    found = uvloop.run(run(asked))
    print(json.dumps({"scenario": "login-flood"} | found | {"missed": missed(found)}, indent=2))
    is_broken = found["unexpected"] or any(status[0] == "5" for status in found["logins"]["statuses"])
    sys.exit(1 if is_broken else 0)


if __name__ == "__main__":
    main()
