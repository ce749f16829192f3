"""One day of the shop, played by people on real processes, and three days of the clock after it.

    python -m bench.day [--seed N] [--buyers 5000] [--units 300] [--people 40]

A vendor proposes a sale of two products (one of them entries for a visit), a manager approves it, letters go out, the
buyers rush the units at the opening second: some are declined first, a third pay late or never. Some cancel, those who
went empty get what came back, the clock moves on: prepared, shipped, delivered, some sent back, the rest completed, and
what is left goes back to its product. Ordinary products are sold beside it, in another currency.

Prints the account of every unit and every unit of money (`daybook.py`); exit 1 where a line does not balance, the audit
or the judge found something, or a letter is missing or doubled. `--brisk`: nobody lets a hold lapse (that takes real
time); for the small form that runs as a test.
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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

import aiohttp

from bench.crowd import Buyer, Habits, Log
from bench.daybook import BOUGHT, Account, Stock, money_accounts, order_faults, read_book, refund_due, units_account
from bench.judge import judge
from bench.scenarios import System, system

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
PASSWORD = "one 하루 in the shop"
SOON_S = 60.0
COME_AGAIN_TRIES = 60
# The sale opens this long after it was proposed, by the shop's clock, and is over within the second day.
OPENS_AFTER_MS, LASTS_MS = 3 * HOUR_MS, 30 * HOUR_MS
# How long after the clock was moved to just before the opening it opens: the crowd is on its way by then.
LEAD_MS, BRISK_LEAD_MS = 6_000, 3_000
VISIT_AFTER_DAYS = 5
JACKET, ENTRY, CARD = "day-jacket", "day-entry", "day-card"
SPARE, CARDS = 25, 20
PRICES = {JACKET: 199_900, ENTRY: 45_000, CARD: 1_250}
CURRENCY = {JACKET: "KRW", ENTRY: "KRW", CARD: "USD"}


class Manner(StrEnum):
    """How a buyer behaves once there is something to pay."""

    PROMPT = "prompt"
    LATE = "late"  # pays when the hold has lapsed, and then once more in time
    NEVER = "never"  # walks away; the hold lapses
    GIVES_UP = "gives_up"  # gives the reservation and the place back


@dataclass
class Day:
    """What is known of the day while it lasts."""

    asked: argparse.Namespace
    on: System
    session: aiohttp.ClientSession
    offset_ms: int = 0
    # Orders that buyers were told of, and by whose token they can be read.
    orders: dict[str, str] = field(default_factory=dict)
    # What the rules give back for each order that was cancelled or sent back.
    owed: dict[str, int] = field(default_factory=dict)
    people: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    sale: str = ""
    mail: str = ""
    sandbox: str = ""
    database: str = ""
    # Cancelled units that nobody has bought yet.
    to_sell_again: int = 0
    # The day that the entries are for.
    visit_on: date = date.max

    def say(self, what: str) -> None:
        """A line of the day's story."""
        self.steps.append(f"{self.now():%a %H:%M}  {what}")
        print(self.steps[-1], file=sys.stderr, flush=True)

    def expect(self, what: str, expected: object, actual: object) -> None:
        """Note where something is not as it has to be."""
        if expected != actual:
            self.broken.append(f"{what}: expected {expected}, was {actual}")
            self.say(self.broken[-1])

    def now(self) -> datetime:
        """The shop's clock."""
        return datetime.now(UTC) + timedelta(milliseconds=self.offset_ms)

    async def ask(
        self, method: str, path: str, token: str | None = None, body: Any = None, key: str = ""
    ) -> tuple[int, Any]:
        """One call."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if key:
            headers["Idempotency-Key"] = key
        async with self.session.request(method, self.on.base + path, json=body, headers=headers) as answer:
            text = await answer.read()
            return answer.status, json.loads(text) if text else {}

    async def must(self, status: int, method: str, path: str, token: str | None = None, **more: Any) -> Any:
        """One call that has to be answered so; raises where it is not."""
        found, body = await self.ask(method, path, token, **more)
        if found != status:
            raise RuntimeError(f"{method} {path}: {found} {body}")
        return body

    async def until(self, what: str, is_so: Callable[..., Awaitable[bool]], *given: Any) -> None:
        """Wait until something is so; notes where it never was."""
        deadline = time.monotonic() + SOON_S
        while not await is_so(*given):
            if time.monotonic() > deadline:
                self.broken.append(f"never happened: {what}")
                self.say(self.broken[-1])
                return
            await asyncio.sleep(0.2)

    async def letters(self, to: str = "") -> list[dict[str, Any]]:
        """What the mail server took."""
        async with self.session.get(f"{self.mail}letters", params={"to": to} if to else {}) as answer:
            letters: list[dict[str, Any]] = (await answer.json())["items"]
            return letters

    async def advance(self, by_ms: int) -> None:
        """Move the shop's clock."""
        told = json.loads(await self.on.command("clock", "advance", f"{by_ms}ms", "--json"))
        self.offset_ms = told["offset_ms"]

    async def charges(self) -> list[dict[str, Any]]:
        """The provider's whole book."""
        async with self.session.get(f"{self.sandbox}/charges") as answer:
            items: list[dict[str, Any]] = (await answer.json())["items"]
            return items

    async def free(self, product: str) -> int:
        """Units of an ordinary product that can be bought now."""
        return int((await self.must(200, "GET", f"/v1/products/{product}/stock"))["free"])


class Shopper(Buyer):
    """A buyer of the day: wants one product, takes the other where that is gone, and pays in a manner of its own."""

    def __init__(self, day: Day, n: int, token: str, log: Log, manner: Manner) -> None:
        super().__init__(n, day.session, day.on.base, day.sale, token, Habits(stream_share=0.3, arrive_s=1.5), log)
        self._day, self._token = day, token
        self.manner = manner
        self._ticket, self.place = "", 0
        self.outcome = ""
        self._is_late = manner is Manner.LATE

    async def run(self, product: str = "") -> str:
        """Through the rush; how it ended."""
        self.outcome = await super().run(product)
        return self.outcome

    async def come_again(self) -> str:
        """Look again after the sale reopened: the place is still there."""
        self._gives_up_at = time.monotonic() + SOON_S
        self.manner, self._is_late = Manner.PROMPT, False
        ticket: dict[str, Any] = {"state": "closed"}
        try:
            # A reopened line takes its tickets up again one after the other.
            for _ in range(COME_AGAIN_TRIES):
                _, ticket = await self._call("poll", "GET", f"/v1/tickets/{self._ticket}")
                if ticket["state"] != "closed" or not self._day.to_sell_again:
                    break
                await asyncio.sleep(0.4)
            ticket = await self._wait(ticket)
            if ticket["state"] != "admitted":
                return str(ticket["state"])
            outcome = await self._check_out("", ticket["pass"]["token"])
            self._day.to_sell_again -= outcome == "confirmed"
            return outcome
        except TimeoutError:
            return "stuck"

    async def _wait(self, ticket: dict[str, Any]) -> dict[str, Any]:
        self._ticket, self.place = ticket["ticket"], ticket["place"] or 0
        return await super()._wait(ticket)

    async def _check_out(self, product: str, admission: str) -> str:
        wanted = [JACKET, ENTRY] if self._n % 3 else [ENTRY, JACKET]
        for product in wanted:
            body = {"items": [{"product": product, "quantity": 1}]}
            headers = {"Admission-Pass": admission, "Idempotency-Key": uuid.uuid4().hex}
            status, order = await self._call("reserve", "POST", f"/v1/sales/{self._sale}/orders", body, headers)
            if status == 201:
                self._day.orders[order["order"]] = self._token
                return await self._decide(order)
            if order.get("code") != "sold_out":
                break
        await self._leave()
        return str(order.get("code", status))

    async def _decide(self, order: dict[str, Any]) -> str:
        if self.manner is Manner.NEVER:
            return "walked_away"
        if self.manner is Manner.GIVES_UP:
            await self._call("give up", "DELETE", f"/v1/orders/{order['order']}")
            await self._leave()
            return "gave_up"
        if self._is_late:
            self._is_late = False
            until = datetime.fromisoformat(order["expires_at"]).timestamp() + 0.5 - time.time()
            await asyncio.sleep(2.0 if self._day.asked.brisk else until)
        outcome = ""
        for token in self._payments():
            outcome = await self._pay(order["order"], token)
            if outcome != "payment_declined":
                break
        return outcome

    async def _leave(self) -> None:
        await self._call("leave", "DELETE", f"/v1/tickets/{self._ticket}")


async def run_day(asked: argparse.Namespace) -> dict[str, Any]:
    """The whole day; what is broken is in the answer."""
    started = time.monotonic()
    async with system(asked.web, {"ONSALE_TEST_CLOCK": "1"}) as on, _session() as session:
        day = Day(asked, on, session, sale=f"day-{asked.seed}")
        status = await on.status()
        day.mail, day.sandbox = status["addresses"]["mail"], status["addresses"]["sandbox"]
        day.database = status["stores"]["postgres"]
        vendor, manager = await _open_shop(day)
        stocks = await _propose(day, vendor, manager)
        await _announce(day, vendor, manager)
        log, shoppers = await _rush(day)
        await _judge_rush(day, log)
        await _sell_cards(day)
        bought = await _cancel_and_sell_again(day, manager, log, shoppers)
        await _days_pass(day, bought)
        accounts = await _settle(day, vendor, stocks)
        broken = [*day.broken, *(fault for account in accounts for fault in account.faults)]
        broken += [f"5xx: {call}" for call in log.errors_5xx[:5]]
        return {
            "seed": asked.seed,
            "took_s": round(time.monotonic() - started, 1),
            "manners": dict(Counter(shopper.manner for shopper in shoppers)),
            "summary": log.summary(),
            "story": day.steps,
            "accounts": accounts,
            "broken": broken,
        }


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def _open_shop(day: Day) -> tuple[str, str]:
    """Everybody who gets letters signs up; the vendor has a shop with three products. Tokens of vendor and manager."""
    emails = ["vendor@day.example", "manager@day.example", *(f"buyer-{n}@day.example" for n in range(day.asked.people))]
    for email in emails:
        body: dict[str, Any] = {"email": email, "password": PASSWORD, "name": "하루", "phone": "010-1234-5678"}
        await day.must(202, "POST", "/v1/accounts", body=body)
    await day.until("a code for everybody", _all_have, day, emails, "")
    for email in emails:
        # The code stands in a line of its own.
        lines = [line.strip() for line in (await day.letters(email))[0]["text"].splitlines()]
        code = next(line for line in lines if len(line) == 6 and line.isdigit())
        await day.must(204, "POST", "/v1/accounts/verification", body={"email": email, "code": code})
    await day.on.command("role", emails[0], "vendor")
    await day.on.command("role", emails[1], "manager")
    for email in emails:
        grant = await day.must(201, "POST", "/v1/sessions", body={"email": email, "password": PASSWORD})
        day.people[email] = grant["access_token"]
    vendor, manager = day.people.pop(emails[0]), day.people.pop(emails[1])
    await day.must(201, "POST", "/v1/vendors", vendor, body={"name": "Day & Night"})
    for product, units in _units(day.asked).items():
        price = {"amount": PRICES[product] * (1 if product == CARD else 2), "currency": CURRENCY[product]}
        title = {JACKET: "가을 재킷", ENTRY: "Garden entry", CARD: "Postcard"}[product]
        body = {"product": product, "title": title, "price": price, "stock": units + (SPARE if product != CARD else 0)}
        await day.must(201, "POST", "/v1/products", vendor, body=body)
    day.say(f"{len(emails)} people have signed up by letter; the vendor has three products")
    return vendor, manager


def _units(asked: argparse.Namespace) -> dict[str, int]:
    """How many of each product are to be sold."""
    entries = asked.units // 3
    return {JACKET: asked.units - entries, ENTRY: entries, CARD: CARDS}


async def _propose(day: Day, vendor: str, manager: str) -> dict[str, Stock]:
    """Too soon is refused; in time it is a proposal whose units have left their products; a manager approves it."""
    units = _units(day.asked)
    opens_at = day.now() + timedelta(milliseconds=OPENS_AFTER_MS)
    day.visit_on = (opens_at + timedelta(days=VISIT_AFTER_DAYS)).date()
    soon = _plan(f"{day.sale}-soon", day.now() + timedelta(minutes=30), day.now() + timedelta(hours=1), {JACKET: 5})
    status, refused = await day.ask("POST", "/v1/sales", vendor, soon)
    day.expect("a sale half an hour ahead", (422, "invalid_request"), (status, refused.get("code")))
    plan = _plan(
        day.sale,
        opens_at,
        opens_at + timedelta(milliseconds=LASTS_MS),
        {JACKET: units[JACKET], ENTRY: units[ENTRY]},
        day.visit_on,
    )
    await day.must(201, "POST", "/v1/sales", vendor, body=plan)
    proposal = await day.must(200, "GET", f"/v1/sales/{day.sale}/proposal", vendor)
    moved = {item["product"]: item["kept"] for item in proposal["items"]}
    stocks = {}
    for product in (JACKET, ENTRY):
        await day.until(f"{product} has left the shop", _is_free, day, product, SPARE)
        stocks[product] = Stock(units[product] + SPARE, moved[product], await day.free(product), 0)
    await day.must(409, "POST", "/v1/sales", vendor, body=plan | {"sale": plan["sale"] | {"id": f"{day.sale}-b"}})
    # Before the other, and never decided.
    late = _plan(f"{day.sale}-late", opens_at - timedelta(hours=1), opens_at - timedelta(minutes=10), {JACKET: 5})
    await day.must(201, "POST", "/v1/sales", vendor, body=late)
    for product in (JACKET, ENTRY):
        await day.must(200, "POST", f"/v1/sales/{day.sale}/items/{product}/approval", manager)
    day.say(f"the vendor proposed {day.asked.units} units, a manager approved them")
    return stocks


async def _is_free(day: Day, product: str, free: int) -> bool:
    return await day.free(product) == free


def _plan(
    sale: str, opens_at: datetime, closes_at: datetime, units: dict[str, int], visit_on: date | None = None
) -> dict[str, Any]:
    """A sale as a vendor writes it."""
    items = []
    for product, stock in units.items():
        price = {"amount": PRICES[product], "currency": CURRENCY[product]}
        item: dict[str, Any] = {"product": product, "title": product, "stock": stock, "price": price}
        items.append(item | ({"visit_on": visit_on.isoformat()} if visit_on and product == ENTRY else {}))
    return {
        "sale": {
            "id": sale, "title": "The day's sale", "opens_at": opens_at.isoformat(), "closes_at": closes_at.isoformat(),
            "limit_per_buyer": 1, "hold_ttl_s": 30,
        },
        "admission": {
            "rate_per_second": 200.0, "active_max": 1000, "pass_ttl_s": 40, "turn_ttl_s": 5, "absent_after_s": 20,
        },
        "items": items,
    }  # fmt: skip


async def _announce(day: Day, vendor: str, manager: str) -> None:
    """An hour before the opening: who asked to be told is told, what nobody decided is refused by the clock."""
    alarms = [await day.ask("PUT", f"/v1/sales/{day.sale}/alarm", token) for token in day.people.values()]
    is_offered = all(status < 300 for status, _ in alarms)
    await day.advance(OPENS_AFTER_MS - HOUR_MS + 60_000)
    late = f"/v1/sales/{day.sale}-late"

    async def is_refused() -> bool:
        status, told = await day.ask("GET", f"{late}/proposal", vendor)
        return status == 200 and told["approval"] == "refused" and told["items"][0]["kept"] == 0

    await day.until("what nobody decided is refused and given back", is_refused)
    status, _ = await day.ask("POST", f"{late}/items/{JACKET}/approval", manager)
    day.expect("approving too late", 409, status)
    # A product's free units are told with those of its sales.
    free = SPARE + _units(day.asked)[JACKET]
    await day.until("its units are the product's again", _is_free, day, JACKET, free)
    day.say("an undecided proposal was refused by the clock; its units are back")
    if is_offered and day.people:
        await day.until("alarms", _all_have, day, day.people, day.sale)
        day.say(f"{len(day.people)} people were told by letter that the sale begins in an hour")


async def _all_have(day: Day, emails: Iterable[str], words: str) -> bool:
    having = {to for letter in await day.letters() if words in letter["text"] for to in letter["to"]}
    return having >= set(emails)


async def _rush(day: Day) -> tuple[Log, list[Shopper]]:
    """Everybody comes at the opening second."""
    asked = day.asked
    strangers = await day.on.tokens(asked.buyers - len(day.people)) if asked.buyers > len(day.people) else []
    tokens = [*day.people.values(), *strangers]
    opens_at = datetime.fromisoformat((await day.must(200, "GET", f"/v1/sales/{day.sale}"))["opens_at"])
    # That is by the clock on the wall, to which it comes nearer as the shop's clock is moved.
    before_ms = day.offset_ms
    lead_ms = BRISK_LEAD_MS if asked.brisk else LEAD_MS
    await day.advance(int((opens_at - datetime.now(UTC)).total_seconds() * 1000) - lead_ms)
    opens_at -= timedelta(milliseconds=day.offset_ms - before_ms)
    log = Log()
    chance = random.Random(f"{asked.seed}")
    shoppers = [Shopper(day, n, token, log, _manner(asked, chance)) for n, token in enumerate(tokens)]
    # Those with an address come a little early, so that there are letters to read.
    early = asyncio.gather(*(shopper.run() for shopper in shoppers[: len(day.people)]))
    await asyncio.sleep(max(0.0, (opens_at - datetime.now(UTC)).total_seconds() - 0.5))
    await asyncio.gather(early, *(shopper.run() for shopper in shoppers[len(day.people) :]))
    outcomes = ", ".join(f"{n} {what}" for what, n in log.outcomes.most_common())
    day.say(f"{len(tokens)} buyers, {asked.units} units: {outcomes}")
    return log, shoppers


def _manner(asked: argparse.Namespace, chance: random.Random) -> Manner:
    """Two thirds pay promptly, a sixth late, a sixth never."""
    manner = chance.choices([Manner.PROMPT, Manner.LATE, Manner.NEVER, Manner.GIVES_UP], [4, 1, 0.75, 0.25])[0]
    return Manner.GIVES_UP if asked.brisk and manner is Manner.NEVER else manner


async def _judge_rush(day: Day, log: Log) -> None:
    """All units are sold to those who were told so, each charged once."""
    verdict = await judge(day.database, day.sandbox, day.sale, day.asked.units, log.confirmed)
    day.broken += [f"judge: {fault}" for fault in verdict.faults]
    day.expect("units sold in the rush", day.asked.units, verdict.units_sold)
    day.expect("buyers stuck", 0, log.outcomes["stuck"])
    day.say(f"the judge counts {verdict.units_sold} units sold to {len(log.confirmed)} buyers who know it")


async def _sell_cards(day: Day) -> None:
    """Ordinary products beside the sale: bought without a line; one in four is cancelled, one given up."""
    for n, token in enumerate(list(day.people.values())[:CARDS]):
        body = {"items": [{"product": CARD, "quantity": 1}]}
        order = (await day.must(201, "POST", "/v1/orders", token, body=body, key=uuid.uuid4().hex))["order"]
        day.orders[order] = token
        if n % 4 == 3:
            await day.must(204, "DELETE", f"/v1/orders/{order}", token)
            continue
        payment = {"payment": {"provider": "sandbox", "method": "card", "token": "ok"}}
        await day.must(200, "POST", f"/v1/orders/{order}/confirmation", token, body=payment, key=uuid.uuid4().hex)
        if n % 4 == 1:
            await _give_back(day, order, "cancellation")


async def _cancel_and_sell_again(day: Day, manager: str, log: Log, shoppers: list[Shopper]) -> list[str]:
    """Every tenth cancels; the line reopens, and those who went empty get the units. Every twentieth cancels when the
    sale is an hour old, and nobody is let in for those. Answers what is bought and was not given back."""
    bought = sorted(log.confirmed)
    chance = random.Random(f"{day.asked.seed}/cancel")
    first = chance.sample(bought, max(1, len(bought) // 10))
    day.to_sell_again = len(first)
    await asyncio.gather(*(_give_back(day, order, "cancellation") for order in first))
    # Those who were next, more than there are units; the others have gone, and keep their places for nothing.
    empty = sorted((one for one in shoppers if one.outcome == "closed"), key=lambda one: one.place)
    empty = empty[: max(60, 5 * len(first))]

    async def has_free() -> bool:
        return bool((await day.must(200, "GET", f"/v1/sales/{day.sale}/line"))["stock"]["free"] == len(first))

    await day.until("cancelled units are free in the line", has_free)
    await day.must(204, "POST", f"/v1/sales/{day.sale}/opening", manager)
    outcomes = Counter(await asyncio.gather(*(shopper.come_again() for shopper in empty)))
    day.expect("cancelled units bought by others", len(first), outcomes["confirmed"])
    told = ", ".join(f"{n} {what}" for what, n in outcomes.most_common())
    day.say(f"{len(first)} cancelled; the line reopened for {len(empty)} who came again: {told}")
    await day.advance(2 * HOUR_MS)
    left = sorted(log.confirmed.keys() - set(first))
    await day.until("orders are prepared", _is_all, day, left[:3], "preparing")
    second = chance.sample(left, max(1, len(left) // 20))
    await asyncio.gather(*(_give_back(day, order, "cancellation") for order in second))
    day.say(f"{len(second)} more cancelled while their orders were prepared")
    return [order for order in left if order not in second]


async def _give_back(day: Day, order: str, verb: str) -> None:
    """Cancel an order or send it back, twice at once; what the rules owe for it."""
    token = day.orders[order]
    key = uuid.uuid4().hex
    path = f"/v1/orders/{order}/{verb}"
    answers = await asyncio.gather(*(day.ask("POST", path, token, key=key) for _ in range(2)))
    day.expect(f"{verb} of {order}", [200, 200], [status for status, _ in answers])
    told = answers[0][1]
    (item,) = told["items"]
    amount = item["quantity"] * item["unit_price"]["amount"]
    day.owed[order] = refund_due(amount, (day.visit_on - day.now().date()).days if item["product"] == ENTRY else None)


async def _is_all(day: Day, orders: Iterable[str], state: str) -> bool:
    told = [await day.must(200, "GET", f"/v1/orders/{order}", day.orders[order]) for order in orders]
    return all(one["state"] == state for one in told)


async def _days_pass(day: Day, bought: list[str]) -> None:
    """Shipped after a day, delivered after two, completed after three; some are sent back."""
    goods = [order for order in bought if await _is_goods(day, order)]
    await day.advance(22 * HOUR_MS)
    await day.until("orders are shipped", _is_all, day, goods, "shipped")
    status, _ = await day.ask("POST", f"/v1/orders/{goods[0]}/cancellation", day.orders[goods[0]], key=uuid.uuid4().hex)
    day.expect("cancelling what is on its way", 409, status)
    await day.advance(DAY_MS)
    await day.until("orders are delivered", _is_all, day, goods, "delivered")
    chance = random.Random(f"{day.asked.seed}/return")
    sent_back = chance.sample(goods, max(1, len(goods) // 15))
    await asyncio.gather(*(_give_back(day, order, "return") for order in sent_back))
    day.say(f"{len(goods)} orders delivered, {len(sent_back)} of them are sent back; the sale is over")
    await day.advance(DAY_MS)
    kept = [order for order in goods if order not in sent_back]
    await day.until("what was sent back has come", _is_all, day, sent_back, "returned")
    await day.until("the others are completed", _is_all, day, kept, "completed")
    day.say(f"{len(kept)} orders completed, {len(sent_back)} returned")


async def _is_goods(day: Day, order: str) -> bool:
    told = await day.must(200, "GET", f"/v1/orders/{order}", day.orders[order])
    return all(item["product"] == JACKET for item in told["items"])


async def _settle(day: Day, vendor: str, stocks: dict[str, Stock]) -> list[Account]:
    """When all has come to rest: the audit, the letters, and the account from three sides."""
    await day.until("every refund is done", _is_refunded, day)
    await day.until("what is left is back with its product", _is_back, day, stocks)
    await day.until("the audit finds nothing", _is_audited, day)
    told = [await day.must(200, "GET", f"/v1/orders/{order}", token) for order, token in day.orders.items()]
    await _check_letters(day, told)
    book = await read_book(day.database, await day.charges())
    day.broken += order_faults(told, book)
    stocks[CARD] = Stock(CARDS, CARDS, 0, await day.free(CARD))
    names = {
        JACKET: "units, jackets in the sale",
        ENTRY: "units, entries in the sale",
        CARD: "units, cards in the shop",
    }
    return [
        *(
            units_account(names[product], product, "_shop" if product == CARD else day.sale, stock, told, book)
            for product, stock in stocks.items()
        ),
        *money_accounts(told, day.owed, book),
    ]


async def _is_refunded(day: Day) -> bool:
    told = [await day.must(200, "GET", f"/v1/orders/{order}", day.orders[order]) for order in day.owed]
    return all(payment["state"] == "refunded" for order in told for payment in order["payments"][-1:])


async def _is_back(day: Day, stocks: dict[str, Stock]) -> bool:
    """Whether the sale has nothing free any more; notes what the products have now."""
    for product, stock in stocks.items():
        stocks[product] = replace(stock, free_at_end=await day.free(product))
    sale = await day.must(200, "GET", f"/v1/sales/{day.sale}")
    in_sale: int = sum(item["stock"] for item in sale["items"])
    return in_sale + sum(stock.free_at_end - SPARE for stock in stocks.values()) == day.asked.units


async def _is_audited(day: Day) -> bool:
    findings: list[dict[str, Any]] = json.loads(await day.on.command("audit", "--json", check=False))
    return all(finding["ok"] for finding in findings)


async def _check_letters(day: Day, told: list[dict[str, Any]]) -> None:
    """Everybody with an address has one letter for each order bought, one for each refund, and no other of orders."""
    by_token = {token: email for email, token in day.people.items()}
    expected = Counter[tuple[str, str]]()
    for order in told:
        email = by_token.get(day.orders[order["order"]])
        if email and order["state"] in BOUGHT:
            expected[email, order["order"]] += 1 + (order["order"] in day.owed)

    async def have_come() -> bool:
        return await _letters_of(day, expected) == expected

    await day.until("a letter for each order and each refund, and none twice", have_come)
    day.say(f"{expected.total()} letters of {len(expected)} orders arrived, each once")


async def _letters_of(day: Day, expected: Iterable[tuple[str, str]]) -> Counter[tuple[str, str]]:
    letters = await day.letters()
    return Counter(
        (email, order)
        for email, order in expected
        for letter in letters
        if email in letter["to"] and order in letter["text"]
    )


def main() -> None:
    """The day, its story and its account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--buyers", type=int, default=5000)
    parser.add_argument("--units", type=int, default=300)
    parser.add_argument("--people", type=int, default=40, help="how many of the buyers sign up and get letters")
    parser.add_argument("--web", type=int, default=1)
    parser.add_argument("--brisk", action="store_true", help="nobody lets a hold lapse")
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    asked = parser.parse_args()
    found = asyncio.run(run_day(asked))
    if asked.json:
        print(json.dumps(found, default=asdict, indent=2))
    else:
        print("\n".join([*found["story"], "", *(account.text() + "\n" for account in found["accounts"])]))
        print("\n".join(found["broken"]) or "Everything balances.")
    sys.exit(1 if found["broken"] else 0)


if __name__ == "__main__":
    main()
