"""One state machine, whoever shows it: poll, event stream and the page without scripts say the same of a ticket, in the
process that knew it from the beginning and in one that never heard of it."""

import asyncio
import json
import re

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from onsale.auth.middleware import COOKIES
from onsale.lua.keys import LineKeys
from onsale.queue.handlers import SHOP
from onsale.server.app import ROOMS, SETTINGS, create_app, make_runner
from onsale.server.pages.waiting import TICKET_COOKIE
from onsale.web import messages

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = messages("en")
STILL = {"rate_per_second": 0}
ENDED = ("completed", "expired", "left", "closed")
# Announced, and asked again once where the announcement was missed.
PATIENCE_S = 20
GATHERING_MS = 600_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def webs(system):
    """Addresses of two web processes on the same stores: the system's, and one that was started after it."""
    runner = make_runner(create_app(system.app[SETTINGS]))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield ["http://{}:{}".format(*address[:2]) for address in (system.address, runner.addresses[0])]
    await runner.cleanup()


async def scheduled(system, buyer):
    sale = await system.sale(opens_at="2029-01-01T00:00:00Z")
    return sale, (await system.joined(sale, buyer))["ticket"]


async def waiting(system, buyer):
    sale = await system.sale(admission=STILL)
    return sale, (await system.joined(sale, buyer))["ticket"]


async def paused(system, buyer):
    sale = await system.sale()
    await system.call("PATCH", f"/v1/sales/{sale}/admission", {"paused": True}, system.manager)
    return sale, (await system.joined(sale, buyer))["ticket"]


async def recovering(system, buyer):
    """The line's Redis lost it; the window in which places are gathered is made longer than a busy machine needs."""
    sale, ticket = await waiting(system, buyer)
    redis = system.app[ROOMS].stores.line
    lost, found = LineKeys(sale, 1), LineKeys(sale, 2)
    await redis.delete(*[key async for key in redis.scan_iter(match=lost.meta.removesuffix("meta") + "*")])
    async with asyncio.timeout(PATIENCE_S):
        while not await redis.hexists(found.meta, "gather_until_ms"):
            await asyncio.sleep(0.02)
    await redis.hincrby(found.meta, "gather_until_ms", GATHERING_MS)
    return sale, ticket


async def admitted(system, buyer):
    sale = await system.sale()
    return sale, (await system.admitted(sale, buyer))["ticket"]


async def completed(system, buyer):
    sale = await system.sale()
    told = await system.admitted(sale, buyer)
    order = await system.reserve(sale, buyer, told["pass"]["token"])
    await system.pay(order.json["order"], buyer)
    return sale, told["ticket"]


async def expired(system, buyer):
    """The shop ends the turn, as it does when the pass has run out with nothing reserved."""
    sale = await system.sale()
    told = await system.admitted(sale, buyer)
    await system.app[SHOP].close_turns(sale, [f"1-{told['place']}-1"], "expired")
    return sale, told["ticket"]


async def left(system, buyer):
    sale, ticket = await waiting(system, buyer)
    await system.call("DELETE", f"/v1/tickets/{ticket}", token=buyer)
    return sale, ticket


async def closed(system, buyer):
    sale, ticket = await waiting(system, buyer)
    await system.call("POST", f"/v1/sales/{sale}/closing", token=system.manager)
    return sale, ticket


@pytest.mark.parametrize(
    ("arrange", "state", "reason"),
    [
        (scheduled, "scheduled", None),
        (waiting, "waiting", None),
        (paused, "waiting", "paused_by_operator"),
        (recovering, "waiting", "recovering"),
        (admitted, "admitted", None),
        (completed, "completed", None),
        (expired, "expired", None),
        (left, "left", None),
        (closed, "closed", None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_everybody_shows_the_same(system, webs, arrange, state, reason):
    """State and reason of a ticket, in every way there is of asking, at every process."""
    buyer = await system.buyer()
    sale, ticket = await arrange(system, buyer)
    is_over = state in ENDED
    # Nothing more is told of a ticket that has ended; its reason is the line's, which is another test's.
    wanted = [(state, None if is_over else reason), 204 if is_over else (state, reason), page_of(state, reason)] * 2

    async def seen():
        return [
            shown
            for base in webs
            for shown in (
                await polled(base, ticket, buyer, is_over),
                await streamed(base, ticket, buyer),
                await read(base, sale, ticket, {system.app[COOKIES].access: buyer}),
            )
        ]

    shown = await seen()
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while shown != wanted and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)
        shown = await seen()

    assert wanted == shown


def page_of(state, reason):
    """What the page is wanted to say: its state, and in words why nothing moves or that it is over."""
    if state in ENDED:
        return state, WORDS[f"ticket_ended.{state}"]
    return state, WORDS[f"reason.{reason}"] if reason else ""


async def polled(base, ticket, token, is_over):
    async with asked(f"{base}/v1/tickets/{ticket}", Authorization=f"Bearer {token}") as response:
        told = await response.json()
    return told["state"], None if is_over else code_of(told)


async def streamed(base, ticket, token):
    """The first event of a stream opened now; 204 where there is nothing more to tell."""
    async with asked(f"{base}/v1/tickets/{ticket}/events", Authorization=f"Bearer {token}") as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                told = json.loads(line.removeprefix(b"data: "))
                return told["state"], code_of(told)
        return response.status


async def read(base, sale, ticket, cookies):
    """The page as it is without scripts."""
    sent = "; ".join(f"{name}={value}" for name, value in (cookies | {TICKET_COOKIE: ticket}).items())
    async with asked(f"{base}/sales/{sale}?lang=en", Cookie=sent) as response:
        page = await response.text()
    if found := re.search(r'data-state="(\w+)"', page):
        words = re.search(r'<p id="reason" class="notice"( hidden)?>(.*?)</p>', page)
        return found[1], words[2]
    if 'id="reserve"' in page:
        return "admitted", ""
    said = re.search(r'role="status"><strong>(.*?)</strong>', page)
    return next(state for state in ENDED if WORDS[f"ticket_ended.{state}"] == said[1]), said[1]


def asked(url, **headers):
    return aiohttp.request("GET", url, headers=headers, timeout=aiohttp.ClientTimeout(total=PATIENCE_S))


def code_of(told):
    return told["reason"] and told["reason"]["code"]
