"""What every request is given, whichever way it is served: problems, ids, headers, HEAD, OPTIONS."""

import asyncio
import json
from ipaddress import ip_network
from types import SimpleNamespace

import pytest
from aiohttp.test_utils import make_mocked_request

from onsale.server.edge import Summary
from onsale.server.metrics import REFUSAL_LINES_MAX, Traffic
from onsale.server.middleware import request_id

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _problem(response):
    assert "application/problem+json" == response.content_type
    body = json.loads(await response.read())
    assert body["request_id"] == response.headers["X-Request-Id"]
    assert body["status"] == response.status
    return body


async def test_unknown_paths_are_problems(shared_client):
    """404 with a code, in the language asked for."""
    async with shared_client.get("/v1/nonsense", headers={"Accept-Language": "ko"}) as response:
        body = await _problem(response)

    assert (404, "not_found", "찾을 수 없습니다") == (response.status, body["code"], body["title"])


async def test_wrong_methods_say_what_is_allowed(shared_client):
    """405 with Allow."""
    async with shared_client.put("/v1/sales") as response:
        body = await _problem(response)

    assert "method_not_allowed" == body["code"]
    assert "GET, HEAD, OPTIONS, POST" == response.headers["Allow"]


@pytest.mark.parametrize("path", ["/v1/sales/none", "/v1/sales/none/line"])
async def test_both_edges_answer_problems_alike(shared_client, path):
    """The ordinary way and the hot one give the same manners."""
    async with shared_client.get(path) as response:
        await _problem(response)

    assert 404 == response.status
    assert "nosniff" == response.headers["X-Content-Type-Options"]
    assert "*" == response.headers["Access-Control-Allow-Origin"]
    assert "onsale" == response.headers["Server"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {"Content-Type": "application/json"}, 400, "malformed_json"),
        (b"\xff\xfe", {"Content-Type": "application/json"}, 400, "malformed_json"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": "application/json"}, 422, "invalid_request"),
        (b'{"a":1}', {"Content-Type": "application/json"}, 422, "invalid_request"),
        (b" " * 70_000, {"Content-Type": "application/json"}, 413, "payload_too_large"),
    ],
)
async def test_bad_bodies(shared_client, body, headers, status, code):
    """Each gets its own word, and none reaches a store."""
    async with shared_client.post("/v1/sessions", data=body, headers=headers) as response:
        problem = await _problem(response)

    assert (status, code) == (response.status, problem["code"])


async def test_unknown_query_names_are_refused(shared_client):
    """A misspelt name is said, not ignored."""
    async with shared_client.get("/v1/sales?limt=3") as response:
        problem = await _problem(response)

    assert 422 == response.status
    assert "?limt" == problem["errors"][0]["pointer"]


@pytest.mark.parametrize("path", ["/v1/sales/%00", "/v1/sales/a%00b", "/v1/sales/" + "x" * 300, "/v1/orders/%00"])
async def test_what_cannot_be_a_name_is_not_found(shared_client, path):
    """U+0000 and endless names never reach a store."""
    async with shared_client.get(path) as response:
        await _problem(response)

    assert response.status in (401, 404)


async def test_signing_in_is_asked_for(shared_client):
    """401 says how."""
    async with shared_client.get("/v1/me") as response:
        problem = await _problem(response)

    assert (401, "unauthenticated", "Bearer") == (
        response.status,
        problem["code"],
        response.headers["WWW-Authenticate"],
    )


@pytest.mark.parametrize("path", ["/v1/sales", "/openapi.json", "/docs", "/livez", "/readyz", "/metrics"])
async def test_head_works_wherever_get_does(shared_client, path):
    """The same status and length, no body."""
    async with shared_client.get(path) as got, shared_client.head(path) as asked:
        assert (200, b"") == (asked.status, await asked.read())
        assert got.headers["Content-Type"] == asked.headers["Content-Type"]


async def test_other_sites_may_ask_what_they_may_read(shared_client):
    """A preflight of a public GET is answered; anything else is no public matter."""
    async with shared_client.options("/v1/sales") as public, shared_client.options("/v1/me") as private:
        assert (204, "*") == (public.status, public.headers["Access-Control-Allow-Origin"])
        assert 405 == private.status
        assert "Access-Control-Allow-Origin" not in private.headers


async def test_pages_are_strict(shared_client):
    """No script, style or frame of others; nothing inline."""
    async with shared_client.get("/docs") as response:
        text = await response.text()

    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "DENY" == response.headers["X-Frame-Options"]
    assert "http" not in "".join(part for part in text.split('"') if part.startswith(("src=", "http:")))


async def test_problem_types_explain_themselves(shared_client):
    """`type` is an address that tells what it means, to people and to programs."""
    async with shared_client.get("/problems/sold_out") as facts:
        assert {"code": "sold_out", "status": 409} == {
            key: value for key, value in (await facts.json()).items() if key in ("code", "status")
        }
    async with shared_client.get("/problems/sold_out", headers={"Accept": "text/html"}) as page:
        assert "text/html" == page.content_type
    async with shared_client.get("/problems/nonsense") as unknown:
        assert 404 == unknown.status


async def test_request_ids_of_strangers_are_not_taken():
    """Only a trusted proxy names requests."""
    request = make_mocked_request("GET", "/livez", headers={"X-Request-Id": "stranger-0001"})
    trusted = (ip_network("10.0.0.0/8"),)

    assert "stranger-0001" not in (request_id(request, ()), request_id(request, trusted))


@pytest.mark.parametrize("path", ["/livez", "/v1/sales/none/line"])
async def test_request_ids_of_a_trusted_proxy_are_kept(shared_client, path):
    """One id through every log; a senseless one is replaced."""
    async with shared_client.get(path, headers={"X-Request-Id": "proxy-000001"}) as sane:
        assert "proxy-000001" == sane.headers["X-Request-Id"]
    async with shared_client.get(path, headers={"X-Request-Id": "a b"}) as senseless:
        assert "a b" != senseless.headers["X-Request-Id"]


async def test_our_own_faults_tell_nothing(shared_client, monkeypatch):
    """A bug is a 500 with a request id, without a trace or the message."""

    async def broken(*_):
        raise ValueError("hunter2")

    monkeypatch.setattr("onsale.server.health.Readiness.health", broken)
    async with shared_client.get("/readyz") as response:
        body = await _problem(response)

    assert (500, "internal_error") == (response.status, body["code"])
    assert "hunter2" not in json.dumps(body)


async def test_ready_when_its_stores_answer(shared_client):
    """Stores and clocks are looked at by name."""
    async with shared_client.get("/readyz") as response:
        health = await response.json()

    assert (200, "ok") == (response.status, health["status"])
    assert {"line redis", "shop redis", "postgres", "clocks"} <= {check["name"] for check in health["checks"]}


async def _counted(client, labels):
    """The value of the one series of requests with these labels."""
    async with client.get("/metrics") as response:
        text = await response.text()
    lines = [line for line in text.splitlines() if line.startswith("onsale_http_requests_total") and labels in line]
    assert len(lines) <= 1, lines
    return float(lines[0].split()[-1]) if lines else 0.0


async def test_metrics_count_requests_by_route(shared_client):
    """One series a route, never one a path."""
    labels = 'route="/v1/sales/{sale}",status="404"'
    before = await _counted(shared_client, labels)
    async with shared_client.get("/v1/sales/none-1"), shared_client.get("/v1/sales/none-2"):
        pass

    assert before + 2 == await _counted(shared_client, labels)
    assert 0 == await _counted(shared_client, "none-1")


# --- the hot routes' own edge

HOT = "/v1/sales/none/line"


async def _raw(runner, sent, answers=1):
    """What a client reads that writes these bytes; as many answers as wanted, or until the server closes."""
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    writer.write(sent)
    got = []
    async with asyncio.timeout(30):
        for _ in range(answers):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
            )
            got.append((head, b"" if sent.startswith(b"HEAD") else await reader.readexactly(length)))
        writer.write_eof()
        rest = await reader.read()
    writer.close()
    return got, rest


@pytest.mark.parametrize(
    "sent",
    [
        f"GET {HOT} HTTP/1.0\r\n\r\n",
        f"GET {HOT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
    ids=["HTTP/1.0", "close"],
)
async def test_clients_that_want_the_connection_closed(shared_server, sent):
    """They go the ordinary way, and the connection ends with the answer."""
    [(head, body)], rest = await _raw(shared_server, sent.encode())

    assert b" 404 " in head.split(b"\r\n")[0]
    assert "sale_unknown" == json.loads(body)["code"]
    assert b"" == rest


async def test_pipelined_hot_requests_are_answered_in_order(shared_server):
    """Three in one packet, three whole answers."""
    sent = f"GET {HOT} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 3
    got, _ = await _raw(shared_server, sent, answers=3)

    assert ["sale_unknown"] * 3 == [json.loads(body)["code"] for _, body in got]
    assert 3 == len({head.split(b"X-Request-Id: ")[1].split(b"\r\n")[0] for head, _ in got})


async def test_hot_answers_have_the_headers_of_every_answer(shared_client):
    """The same route by its edge (GET) and by the application (HEAD, a query)."""
    async with shared_client.get(HOT) as hot, shared_client.head(HOT) as cold:
        assert (404, 404) == (hot.status, cold.status)
        assert set(hot.headers) == set(cold.headers)


@pytest.mark.parametrize("path", ["/v1/sales/no%20ne/line", "/v1/sales//line", f"{HOT}?x=1", "/v2/sales/a/line"])
async def test_what_is_not_plainly_hot_goes_the_ordinary_way(shared_client, path):
    """Nothing slips between the two."""
    async with shared_client.get(path) as response:
        await _problem(response)

    assert response.status in (404, 422)


async def test_hot_requests_are_logged_as_one_line(shared_server, monkeypatch):
    """A sum a second and route: how many, which statuses, the slowest."""
    traffic = Traffic()
    stats = traffic.of("GET", "/v1/tickets/{ticket}")
    for status, took_s in ((200, 0.001), (200, 0.004), (404, 0.002)):
        stats.note(status, took_s, "")
    lines = []
    monkeypatch.setattr("onsale.server.edge.log", SimpleNamespace(info=lambda event, **fields: lines.append(fields)))
    summary = Summary(traffic, [stats])

    assert (3, 0) == (await summary.tick(), await summary.tick())
    [line] = lines
    assert (3, {200: 2, 404: 1}, 4.0) == (line["count"], line["statuses"], line["slowest_ms"])


async def test_a_flood_of_refusals_is_summed_up(shared_server, monkeypatch):
    """A few are told of one by one, the rest in one line a second."""
    traffic = Traffic()
    stats = traffic.of("POST", "/v1/sessions")
    lines = []
    monkeypatch.setattr(
        "onsale.server.edge.log", SimpleNamespace(info=lambda event, **fields: lines.append((event, fields["count"])))
    )
    summary = Summary(traffic, [])
    told = [stats.is_told_of_refusal() for _ in range(2_000)]

    assert (REFUSAL_LINES_MAX, 2_000) == (sum(told), len(told))
    assert (2_000 - REFUSAL_LINES_MAX, 0) == (await summary.tick(), await summary.tick())
    assert [("requests.refused", 2_000 - REFUSAL_LINES_MAX)] == lines
    assert stats.is_told_of_refusal()
