"""A crowd of buyers as strangers would write them: HTTP only, no code of the server's.

Every buyer joins, waits (polling or on its event stream), reserves and pays, and tries again whatever did not answer:
a connection refused or cut, a 503 or 429 with Retry-After. Each call is logged as ok, refused (a documented answer) or
unknown (no answer: it may or may not have happened). `judge.py` compares that log with the stores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

TRY_AGAIN = {429, 503}
# What is kept of an answer's body.
KEPT = ("order", "state", "code", "recorded", "ticket", "place")
# Copies of a request leave within this; a late one follows within that.
SPREAD_S, LATE_S = 0.2, 5.0
FINAL_TICKETS = {"completed", "expired", "left", "closed"}
FINAL_ORDERS = {"confirmed", "expired", "released", "payment_failed"}


@dataclass(frozen=True)
class Habits:
    """How a crowd behaves; shares are of 1."""

    stream_share: float = 0.5
    decline_share: float = 0.1
    double_share: float = 0.2
    # Arrivals are spread evenly over this long.
    arrive_s: float = 1.0
    quantity: int = 1
    # How long a buyer keeps trying before it counts as stuck.
    patience_s: float = 300.0
    # Those who double send up to so many copies, in any order; with `late_share` one more comes seconds afterwards.
    copies_max: int = 2
    late_share: float = 0.0
    # What people pay with, and how many of them; None = by `decline_share`.
    payments: tuple[tuple[str, float], ...] = ()


@dataclass
class Log:
    """What the crowd saw. `calls` is written to a file, one JSON line each."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    errors_5xx: list[dict[str, Any]] = field(default_factory=list)
    admitted_at: list[str] = field(default_factory=list)
    confirmed: dict[str, str] = field(default_factory=dict)

    def add(self, buyer: int, call: str, started: float, status: int | None, body: Any, headers: Any) -> None:
        """One call and its answer; status None = no answer."""
        took_ms = round((time.monotonic() - started) * 1000, 2)
        body = body if isinstance(body, dict) else {}
        entry = {"at": time.time(), "buyer": buyer, "call": call, "ms": took_ms, "status": status}
        entry |= {name: body[name] for name in KEPT if name in body}
        self.calls.append(entry)
        self.statuses[f"{call} {status or 'no answer'} {body.get('code', '')}".strip()] += 1
        if status is not None and status >= 500 and not (status == 503 and "Retry-After" in headers):
            self.errors_5xx.append(entry)

    def summary(self) -> dict[str, Any]:
        """Counts, and latencies (ms) of the calls that were answered."""
        return {
            "outcomes": dict(self.outcomes),
            "statuses": dict(sorted(self.statuses.items())),
            "confirmed": len(self.confirmed),
            "bad_5xx": self.errors_5xx[:20],
            "bad_5xx_count": len(self.errors_5xx),
            "latency_ms": {call: self._quantiles(call) for call in ("join", "poll", "reserve", "confirm")},
        }

    def _quantiles(self, call: str) -> dict[str, float]:
        took = sorted(c["ms"] for c in self.calls if c["call"] == call and c["status"] is not None)
        return {f"p{q}": took[min(len(took) - 1, len(took) * q // 100)] for q in (50, 95, 99)} if took else {}


class Buyer:
    """One buyer's way through a sale."""

    def __init__(
        self, n: int, session: aiohttp.ClientSession, base: str, sale: str, token: str, habits: Habits, log: Log
    ):
        self._n, self._session, self._base, self._sale, self._log = n, session, base, sale, log
        self._auth = {"Authorization": f"Bearer {token}"}
        self._habits = habits
        chance = random.Random(f"{sale}/{n}")
        self._streams = chance.random() < habits.stream_share
        self._declines = chance.random() < habits.decline_share
        self._doubles = chance.random() < habits.double_share
        self._chance = chance
        self._gives_up_at = 0.0
        self._late: set[asyncio.Task[None]] = set()

    async def run(self, product: str) -> str:
        """Answers how it ended: confirmed, sold_out, closed, expired, ... or stuck."""
        self._gives_up_at = time.monotonic() + self._habits.arrive_s + self._habits.patience_s
        await asyncio.sleep(self._chance.random() * self._habits.arrive_s)
        try:
            outcome = await self._buy(product)
        except TimeoutError:
            outcome = "stuck"
        self._log.outcomes[outcome] += 1
        await asyncio.gather(*self._late)
        return outcome

    async def _buy(self, product: str) -> str:
        status, ticket = await self._call("join", "POST", f"/v1/sales/{self._sale}/tickets")
        if status not in (200, 201):
            return str(ticket.get("code", status))
        while True:
            ticket = await self._wait(ticket)
            if ticket["state"] != "admitted":
                return str(ticket["state"])
            self._log.admitted_at.append(ticket["admitted_at"])
            outcome = await self._check_out(product, ticket["pass"]["token"])
            # A reservation may lapse, or be lost with its Redis before it was recorded: the pass is still good.
            if outcome not in ("order_expired", "order_unknown"):
                return outcome
            self._check_patience()

    async def _wait(self, ticket: dict[str, Any]) -> dict[str, Any]:
        while ticket["state"] not in FINAL_TICKETS and ticket["state"] != "admitted":
            if self._streams:
                ticket = await self._listen(ticket) or ticket
            else:
                await asyncio.sleep(ticket["poll_after_ms"] / 1000)
                status, answer = await self._call("poll", "GET", f"/v1/tickets/{ticket['ticket']}")
                ticket = answer if status == 200 else {**ticket, "poll_after_ms": 1000}
            self._check_patience()
        return ticket

    async def _listen(self, ticket: dict[str, Any]) -> dict[str, Any] | None:
        """Hold the event stream until it says something final; None when it broke (the caller connects again)."""
        started = time.monotonic()
        url = f"{self._base}/v1/tickets/{ticket['ticket']}/events"
        newest: dict[str, Any] | None = None
        try:
            timeout = aiohttp.ClientTimeout(total=None, sock_read=30)
            async with self._session.get(url, headers=self._auth, timeout=timeout) as answer:
                if answer.status != 200:
                    self._log.add(self._n, "stream", started, answer.status, None, answer.headers)
                    await asyncio.sleep(1)
                    if answer.status == 204:
                        _, newest = await self._call("poll", "GET", f"/v1/tickets/{ticket['ticket']}")
                    return newest
                kind = ""
                async for raw in answer.content:
                    line = raw.decode().rstrip("\n")
                    if line.startswith("event:"):
                        kind = line[6:].strip()
                    elif line.startswith("data:") and kind == "ticket":
                        newest = json.loads(line[5:])
                        if newest["state"] in FINAL_TICKETS or newest["state"] == "admitted":
                            self._log.add(self._n, "stream", started, 200, newest, answer.headers)
                            return newest
                    self._check_patience()
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            if isinstance(error, asyncio.TimeoutError) and time.monotonic() > self._gives_up_at:
                raise
            self._log.add(self._n, "stream", started, None, None, {})
        await asyncio.sleep(0.2 + self._chance.random())
        return newest

    async def _check_out(self, product: str, admission: str) -> str:
        body = {"items": [{"product": product, "quantity": self._habits.quantity}]}
        headers = {"Admission-Pass": admission, "Idempotency-Key": uuid.uuid4().hex}
        status, order = await self._call("reserve", "POST", f"/v1/sales/{self._sale}/orders", body, headers)
        if status != 201:
            return str(order.get("code", status))
        for token in self._payments():
            outcome = await self._pay(order["order"], token)
            if outcome != "payment_declined":
                break
        return outcome

    def _payments(self) -> list[str]:
        """What is tried first, and what after a decline."""
        if self._habits.payments:
            tokens, shares = zip(*self._habits.payments, strict=True)
            return [self._chance.choices(tokens, shares)[0], "ok"]
        return ["decline_funds", "ok"] if self._declines else ["ok"]

    async def _pay(self, order: str, token: str) -> str:
        body = {"payment": {"provider": "sandbox", "method": "card", "token": token}}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        path = f"/v1/orders/{order}/confirmation"
        while True:
            status, answer = await self._call("confirm", "POST", path, body, headers)
            if status == 200 and answer.get("recorded") is True:
                self._log.confirmed[order] = answer["state"]
                return "confirmed"
            if status not in (200, 202):
                return str(answer.get("code", status))
            self._check_patience()
            await asyncio.sleep(1)

    async def _call(
        self, call: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Ask until answered; a buyer who doubles sends two copies at once and believes either."""
        while True:
            most = self._habits.copies_max if self._doubles and method == "POST" else 1
            copies = most if most <= 2 else self._chance.randint(1, most)
            answers = await asyncio.gather(
                *(self._once(call, method, path, body, headers or {}, spread=most > 2) for _ in range(copies))
            )
            if method == "POST" and self._chance.random() < self._habits.late_share:
                self._later(self._once(f"late {call}", method, path, body, headers or {}, spread=True))
            settled = [a for a in answers if a is not None and not self._is_unsettled(a)]
            if settled:
                return min(settled, key=lambda a: a[0])
            self._check_patience()
            await asyncio.sleep(0.2 + self._chance.random() * 0.8)

    @staticmethod
    def _is_unsettled(answer: tuple[int, dict[str, Any]]) -> bool:
        return answer[0] in TRY_AGAIN or answer[0] >= 500 or answer[1].get("code") == "request_in_progress"

    def _later(self, work: Coroutine[Any, Any, Any]) -> None:
        async def wait() -> None:
            await asyncio.sleep(self._chance.random() * LATE_S)
            await work

        task = asyncio.create_task(wait())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _once(
        self, call: str, method: str, path: str, body: Any, headers: dict[str, str], *, spread: bool = False
    ) -> tuple[int, dict[str, Any]] | None:
        if spread:
            # Copies that leave at different moments arrive in any order.
            await asyncio.sleep(self._chance.random() * SPREAD_S)
        started = time.monotonic()
        try:
            async with self._session.request(
                method,
                self._base + path,
                json=body,
                headers={**self._auth, **headers},
                timeout=aiohttp.ClientTimeout(30),
            ) as answer:
                text = await answer.read()
                decoded = json.loads(text) if text else {}
                self._log.add(self._n, call, started, answer.status, decoded, answer.headers)
                return answer.status, decoded
        except (TimeoutError, aiohttp.ClientError, ConnectionError):
            self._log.add(self._n, call, started, None, None, {})
            return None

    def _check_patience(self) -> None:
        if time.monotonic() > self._gives_up_at:
            raise TimeoutError


async def run_crowd(base: str, sale: str, product: str, tokens: list[str], habits: Habits) -> Log:
    """Send everyone and wait for all of them."""
    log = Log()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        buyers = [Buyer(n, session, base, sale, token, habits, log) for n, token in enumerate(tokens)]
        await asyncio.gather(*(buyer.run(product) for buyer in buyers))
    return log


def main() -> None:
    """`python -m bench.crowd BASE_URL SALE TOKENS_FILE --product P`: prints a summary, exit 1 on a bad 5xx."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base_url")
    parser.add_argument("sale")
    parser.add_argument("tokens_file", type=Path)
    parser.add_argument("--product", required=True)
    parser.add_argument("--stream-share", type=float, default=0.5)
    parser.add_argument("--decline-share", type=float, default=0.1)
    parser.add_argument("--double-share", type=float, default=0.2)
    parser.add_argument("--arrive-s", type=float, default=1.0)
    parser.add_argument("--patience-s", type=float, default=300.0)
    parser.add_argument("--log", type=Path)
    asked = parser.parse_args()
    habits = Habits(
        stream_share=asked.stream_share,
        decline_share=asked.decline_share,
        double_share=asked.double_share,
        arrive_s=asked.arrive_s,
        patience_s=asked.patience_s,
    )
    tokens = asked.tokens_file.read_text().split()
    log = asyncio.run(run_crowd(asked.base_url, asked.sale, asked.product, tokens, habits))
    if asked.log:
        asked.log.write_text("".join(json.dumps(call) + "\n" for call in log.calls))
    print(json.dumps(log.summary(), indent=2))
    sys.exit(1 if log.errors_5xx else 0)


if __name__ == "__main__":
    main()
