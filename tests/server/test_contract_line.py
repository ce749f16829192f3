"""The waiting room and its operation, as the contract has them: tickets, streams, documents, settings."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")

TICKET = {
    *("ticket", "sale", "lane", "state", "place", "ahead", "wait_ms", "odds", "poll_after_ms", "reason"),
    *("opens_at", "joined_at", "admitted_at", "ended_at", "pass"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def still(system):
    """A sale whose line does not move."""
    return await system.sale(admission={"rate_per_second": 0})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swift(system):
    """A sale that lets everyone in."""
    return await system.sale()


@asynccontextmanager
async def stream(system, path, token=None, **headers):
    """An open event stream: its answer, and a function for the next event as a dictionary of its lines."""
    own = {"Authorization": f"Bearer {token}"} if token else {}
    url = "http://{}:{}{}".format(*system.address, path)
    async with aiohttp.ClientSession() as session, session.get(url, headers=own | headers) as response:

        async def next_event():
            lines = {}
            async with asyncio.timeout(20):
                async for raw in response.content:
                    name, _, value = raw.decode().rstrip("\n").partition(":")
                    if name or value:
                        lines[name] = value.strip()
                    elif lines:
                        return lines
            return None

        yield response, next_event


async def test_a_ticket_is_made_once_and_read_by_its_holder_alone(system, still):
    """201 then 200; everyone else reads 404, whatever they ask."""
    buyer, stranger = await system.buyers(2)
    made = await system.call("POST", f"/v1/sales/{still}/tickets", token=buyer)
    path = f"/v1/tickets/{made.json['ticket']}"
    again = await system.call("POST", f"/v1/sales/{still}/tickets", {}, buyer)
    by_token = await system.call("GET", path, token=made.json["ticket_token"])

    assert (201, path, TICKET | {"ticket_token"}) == (made.status, made.headers["Location"], set(made.json))
    assert (200, made.json["ticket"]) == (again.status, again.json["ticket"])
    assert (200, TICKET) == (by_token.status, set(by_token.json))
    for method, suffix in (("GET", ""), ("HEAD", ""), ("GET", "/events"), ("HEAD", "/events"), ("DELETE", "")):
        answer = await system.call(method, path + suffix, token=stranger)
        assert 404 == answer.status, (method, suffix)
        assert 401 == (await system.call(method, path + suffix)).status


async def test_leaving_twice_is_leaving(system, still):
    """204 both times; then `left`, and a new ticket at the end."""
    buyer = await system.buyer()
    first = (await system.joined(still, buyer))["ticket"]
    answers = [await system.call("DELETE", f"/v1/tickets/{first}", token=buyer) for _ in range(2)]
    told = await system.call("GET", f"/v1/tickets/{first}", token=buyer)

    assert [(204, b""), (204, b"")] == [(answer.status, answer.body) for answer in answers]
    assert "left" == told.json["state"]
    assert first != (await system.joined(still, buyer))["ticket"]


async def test_the_line_document(system, still):
    """Public, cached for a second, not sent again unchanged."""
    path = f"/v1/sales/{still}/line"
    async with asyncio.timeout(20):
        while True:
            first = await system.call("GET", path)
            second = await system.call("GET", path, If_None_Match=f'"x", W/{first.headers["ETag"]}')
            # The document may have been made anew in between.
            if second.status == 304:
                break
    head = await system.call("HEAD", path)

    assert ("public, max-age=1", "*") == (first.headers["Cache-Control"], first.headers["Access-Control-Allow-Origin"])
    assert (first.headers["ETag"], b"") == (second.headers["ETag"], second.body)
    assert second.headers["X-Request-Id"]
    assert (200, set(first.headers)) == (head.status, set(head.headers))
    assert 200 == (await system.call("GET", path + "?lane=general")).status
    assert (422, "invalid_request") == (await system.call("GET", path + "?lane=vip")).problem()


async def test_a_stream_key_opens_one_stream_and_its_reconnects(system, still):
    """No other stream, no other call; 204 once the stream has ended."""
    buyer, other = await system.buyers(2)
    mine, others = await system.joined(still, buyer), await system.joined(still, other)
    made = await system.call("POST", "/v1/stream-keys", token=buyer)
    key, path = made.json["stream_key"], f"/v1/tickets/{mine['ticket']}/events"
    assert (201, 30) == (made.status, made.json["expires_in"])
    for _ in range(2):
        async with stream(system, f"{path}?stream_key={key}") as (response, next_event):
            assert (200, "no-store", "no") == (
                response.status,
                response.headers["Cache-Control"],
                response.headers["X-Accel-Buffering"],
            )
            assert int((await next_event())["retry"]) >= 1_000
            assert {"event", "id", "data"} == set(await next_event())
    for refused in (f"/v1/tickets/{others['ticket']}/events", f"/v1/sales/{still}/live/events"):
        assert 401 == (await system.call("GET", f"{refused}?stream_key={key}")).status
    async with stream(system, f"{path}?stream_key={key}") as (_, next_event):
        await system.call("DELETE", f"/v1/tickets/{mine['ticket']}", token=buyer)
        last = {}
        while event := await next_event():
            last = event
        assert ("closed", "left") == (last["event"], json.loads(last["data"])["state"])

    assert 204 == (await system.call("GET", f"{path}?stream_key={key}")).status
    assert 204 == (await system.call("GET", path, token=buyer)).status


@pytest.mark.parametrize("key", ["", "a.b.c", "osk.e30.0000", "%FF", "x" * 2000])
async def test_stream_keys_that_are_none(system, still, key):
    """Forged and nonsense: 401."""
    ticket = (await system.joined(still, await system.buyer()))["ticket"]
    answer = await system.call("GET", f"/v1/tickets/{ticket}/events?stream_key={key}")

    assert (401, "unauthenticated") == answer.problem()


@pytest.mark.parametrize(
    ("who", "status"), [("manager", 200), ("buyer", 403), ("nobody", 401)], ids=["manager", "buyer", "nobody"]
)
async def test_head_of_operators_figures_says_what_get_would(system, still, who, status):
    """Who may not open the stream may not learn of it either."""
    token = {"manager": system.manager, "buyer": await system.buyer(), "nobody": None}[who]

    assert status == (await system.call("HEAD", f"/v1/sales/{still}/live/events", token=token)).status
    assert (404 if status == 200 else status) == (
        await system.call("HEAD", "/v1/sales/none/live/events", token=token)
    ).status


async def test_passes_for_proxies(system, swift):
    """204 by header, cookie or query, for its sale alone; 401 for anything else."""
    admission = await system.pass_of(swift, await system.buyer())
    path = "/v1/passes/verify"
    good = [
        await system.call("GET", path, Admission_Pass=admission),
        await system.call("GET", path, Cookie=f"a=b; onsale-pass={admission}"),
        await system.call("GET", f"{path}?pass={admission}&sale={swift}"),
    ]
    bad = [
        await system.call("GET", path),
        await system.call("GET", path, Admission_Pass="x"),
        await system.call("GET", path, Admission_Pass=system.manager),
        await system.call("GET", f"{path}?sale=other", Admission_Pass=admission),
    ]

    assert [204] * 3 == [answer.status for answer in good]
    assert [(401, "unauthenticated")] * 4 == [answer.problem() for answer in bad]


async def test_settings_are_changed_by_whoever_saw_them(system, still):
    """428 without If-Match, 412 with an old one, `*` overrides; pausing needs none, resuming does."""
    path, manager = f"/v1/sales/{still}/admission", system.manager
    seen = (await system.call("GET", path, token=manager)).headers["ETag"]
    change = {"turn_ttl_s": 60}
    assert (428, "if_match_required") == (await system.call("PATCH", path, change, manager)).problem()
    for stale in ('"999"', f"W/{seen}", "junk"):
        assert (412, "policy_stale") == (await system.call("PATCH", path, change, manager, If_Match=stale)).problem()
    changed = await system.call("PATCH", path, change, manager, If_Match=f'"x", {seen}')
    assert (200, 60) == (changed.status, changed.json["turn_ttl_s"])
    assert (412, "policy_stale") == (await system.call("PATCH", path, change, manager, If_Match=seen)).problem()
    assert 200 == (await system.call("PATCH", path, change, manager, If_Match="*")).status

    paused = await system.call("PATCH", path, {"paused": True}, manager, If_Match=seen)
    assert (200, True) == (paused.status, paused.json["paused"])
    assert (428, "if_match_required") == (await system.call("PATCH", path, {"paused": False}, manager)).problem()
    assert 200 == (await system.call("PATCH", path, {"paused": False}, manager, If_Match=paused.headers["ETag"])).status


@pytest.mark.parametrize("rate", ["0", "0.01", "0.29", "57.05", "99999.99", "100000", "1e2", "20.0"])
async def test_rates_in_steps(system, still, rate):
    """As sent, so read back."""
    path, sent = f"/v1/sales/{still}/admission", f'{{"rate_per_second": {rate}, "paused": true}}'.encode()
    answer = await system.call("PATCH", path, token=system.manager, sent=sent, If_Match="*")

    assert (200, float(rate)) == (answer.status, answer.json["rate_per_second"])


@pytest.mark.parametrize(
    "change",
    [
        *(f'"rate_per_second": {rate}' for rate in ("-0.01", "100000.01", "0.005", "1e-9", "0.0100000000001", "null")),
        *('"active_max": -1', '"active_max": 1.5', '"active_max": null', '"pass_ttl_s": 29', '"mode": "draw"'),
        *('"paused": null', '"paused": "true"', '"revert_after_s": 0', '"changed_by": "me"', '"reason": 7'),
    ],
)
async def test_settings_out_of_bounds(system, still, change):
    """Nothing is rounded, and nothing is removed by null."""
    path, manager = f"/v1/sales/{still}/admission", system.manager
    before = await system.call("GET", path, token=manager)
    answer = await system.call("PATCH", path, token=manager, sent=f"{{{change}}}".encode(), If_Match="*")

    assert (422, "invalid_request") == answer.problem()
    assert before.headers["ETag"] == (await system.call("GET", path, token=manager)).headers["ETag"]


async def test_operators_alone_operate(system, still):
    """Buyers read 403, nobody 401, and a sale that is none 404."""
    buyer = await system.buyer()
    calls = [
        *(("GET", part, None) for part in ("admission", "audit", "tickets", "orders")),
        *(("POST", part, {}) for part in ("opening", "closing", "draining")),
        ("PATCH", "admission", {"paused": True}),
        ("PUT", "message", {"ko": "곧", "en": "Soon"}),
        ("DELETE", "message", None),
    ]
    for method, part, body in calls:
        path = f"/v1/sales/{still}/{part}"
        assert (403, "forbidden") == (await system.call(method, path, body, buyer)).problem()
        assert (401, "unauthenticated") == (await system.call(method, path, body)).problem()
        unknown = await system.call(method, f"/v1/sales/none/{part}", body, system.manager)
        assert (404, "sale_unknown") == unknown.problem(), path


async def test_a_changed_rate_is_explained_within_a_second(system):
    """Whoever waits by stream reads the new rate's reason, with its figures, within a second of the answer."""
    sale, buyer = await system.sale(admission={"rate_per_second": 0}), await system.buyer()
    ticket = (await system.joined(sale, buyer))["ticket"]
    path = f"/v1/sales/{sale}/admission"
    async with stream(system, f"/v1/tickets/{ticket}/events", buyer) as (_, next_event):
        for rate, code, before in ((0.01, "rate_raised", 0.0), (0, "rate_lowered", 0.01)):
            change = {"active_max": 0, "rate_per_second": rate}
            assert 200 == (await system.call("PATCH", path, change, system.manager, If_Match="*")).status
            async with asyncio.timeout(1):
                while (told := await told_by(next_event))["reason"] is None or told["reason"]["code"] != code:
                    continue
            assert {"from": before, "to": rate} == told["reason"]["params"]


async def told_by(next_event):
    """The ticket of the stream's next `ticket` event."""
    while (event := await next_event()).get("event") != "ticket":
        continue
    return json.loads(event["data"])


async def test_one_person_is_found_by_address(system, still):
    """The living ticket of an account, or its last; nobody for an address that has none; 422 for what is no address."""
    path = f"/v1/sales/{still}/tickets?email="
    nobody = await system.call("GET", f"{path}nobody%40demo.example", token=system.manager)

    assert (200, {"items": [], "next_cursor": None}) == (nobody.status, nobody.json)
    assert (422, "invalid_request") == (await system.call("GET", f"{path}nobody", token=system.manager)).problem()


async def test_a_sale_from_its_end(system):
    """Draining lets nobody join, closing ends; each twice, each in a wrong order."""
    sale, (inside, outside) = await system.sale(admission={"rate_per_second": 0}), await system.buyers(2)
    ticket = (await system.joined(sale, inside))["ticket"]
    for _ in range(2):
        assert 204 == (await system.call("POST", f"/v1/sales/{sale}/draining", token=system.manager)).status
    assert (409, "sale_draining") == (await system.call("POST", f"/v1/sales/{sale}/tickets", token=outside)).problem()
    assert 200 == (await system.call("POST", f"/v1/sales/{sale}/tickets", token=inside)).status
    for _ in range(2):
        assert 204 == (await system.call("POST", f"/v1/sales/{sale}/closing", token=system.manager)).status
    assert (409, "sale_ended") == (await system.call("POST", f"/v1/sales/{sale}/tickets", token=outside)).problem()
    assert (409, "sale_ended") == (
        await system.call("POST", f"/v1/sales/{sale}/draining", token=system.manager)
    ).problem()

    await system.until(f"/v1/tickets/{ticket}", inside, lambda told: told["state"] == "closed")
    await system.until(f"/v1/sales/{sale}/line", None, lambda line: line["state"] == "ended")
    assert 204 == (await system.call("GET", f"/v1/sales/{sale}/line/events")).status
    assert 204 == (await system.call("DELETE", f"/v1/tickets/{ticket}", token=inside)).status
