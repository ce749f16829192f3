"""What every request is given, whichever way it is served: problems, ids, headers, HEAD, OPTIONS."""

import json

import pytest

from onsale.server.config import load_settings
from onsale.server.routes import ROUTES

GETS = sorted({route.path for route in ROUTES if route.method == "GET"})


async def _problem(response):
    assert "application/problem+json" == response.content_type
    body = json.loads(await response.read())
    assert body["request_id"] == response.headers["X-Request-Id"]
    assert body["status"] == response.status
    return body


async def test_unknown_paths_are_problems(client):
    """404 with a code, in the language asked for."""
    async with client.get("/v1/nonsense", headers={"Accept-Language": "ko"}) as response:
        body = await _problem(response)

    assert (404, "not_found", "찾을 수 없습니다") == (response.status, body["code"], body["title"])


async def test_wrong_methods_say_what_is_allowed(client):
    """405 with Allow."""
    async with client.put("/v1/sales") as response:
        body = await _problem(response)

    assert "method_not_allowed" == body["code"]
    assert "GET, HEAD, OPTIONS, POST" == response.headers["Allow"]


@pytest.mark.parametrize("path", ["/v1/sales/none", "/v1/products/none/stock"])
async def test_both_edges_answer_problems_alike(client, path):
    """The ordinary way and the hot one give the same manners."""
    async with client.get(path) as response:
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
async def test_bad_bodies(client, body, headers, status, code):
    """Each gets its own word, and none reaches a store."""
    async with client.post("/v1/sessions", data=body, headers=headers) as response:
        problem = await _problem(response)

    assert (status, code) == (response.status, problem["code"])


async def test_unknown_query_names_are_refused(client):
    """A misspelt name is said, not ignored."""
    async with client.get("/v1/sales?limt=3") as response:
        problem = await _problem(response)

    assert 422 == response.status
    assert "?limt" == problem["errors"][0]["pointer"]


@pytest.mark.parametrize("path", ["/v1/sales/%00", "/v1/sales/a%00b", "/v1/sales/" + "x" * 300, "/v1/orders/%00"])
async def test_what_cannot_be_a_name_is_not_found(client, path):
    """U+0000 and endless names never reach a store."""
    async with client.get(path) as response:
        await _problem(response)

    assert response.status in (401, 404)


async def test_signing_in_is_asked_for(client):
    """401 says how."""
    async with client.get("/v1/me") as response:
        problem = await _problem(response)

    assert (401, "unauthenticated", "Bearer") == (
        response.status,
        problem["code"],
        response.headers["WWW-Authenticate"],
    )


@pytest.mark.parametrize("path", ["/v1/sales", "/openapi.json", "/docs", "/livez", "/readyz", "/metrics"])
async def test_head_works_wherever_get_does(client, path):
    """The same status and length, no body."""
    async with client.get(path) as got, client.head(path) as asked:
        assert (200, b"") == (asked.status, await asked.read())
        assert got.headers["Content-Type"] == asked.headers["Content-Type"]


async def test_other_sites_may_ask_what_they_may_read(client):
    """A preflight of a public GET is answered; anything else is no public matter."""
    async with client.options("/v1/sales") as public, client.options("/v1/me") as private:
        assert (204, "*") == (public.status, public.headers["Access-Control-Allow-Origin"])
        assert 405 == private.status
        assert "Access-Control-Allow-Origin" not in private.headers


async def test_pages_are_strict(client):
    """No script, style or frame of others; nothing inline."""
    async with client.get("/docs") as response:
        text = await response.text()

    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "DENY" == response.headers["X-Frame-Options"]
    assert "http" not in "".join(part for part in text.split('"') if part.startswith(("src=", "http:")))


async def test_problem_types_explain_themselves(client):
    """`type` is an address that tells what it means, to people and to programs."""
    async with client.get("/problems/sold_out") as facts:
        assert {"code": "sold_out", "status": 409} == {
            key: value for key, value in (await facts.json()).items() if key in ("code", "status")
        }
    async with client.get("/problems/sold_out", headers={"Accept": "text/html"}) as page:
        assert "text/html" == page.content_type
    async with client.get("/problems/nonsense") as unknown:
        assert 404 == unknown.status


async def test_request_ids_of_strangers_are_not_taken(client):
    """Only a trusted proxy names requests."""
    async with client.get("/livez", headers={"X-Request-Id": "stranger-0001"}) as response:
        assert "stranger-0001" != response.headers["X-Request-Id"]


class TestBehindAProxy:
    """With 127.0.0.1 trusted."""

    @pytest.fixture
    def settings(self, environ):
        return load_settings(environ | {"ONSALE_TRUSTED_PROXIES": "127.0.0.1"})

    @pytest.mark.parametrize("path", ["/livez", "/v1/products/none/stock"])
    async def test_its_request_ids_are_kept(self, client, path):
        """One id through every log; a senseless one is replaced."""
        async with client.get(path, headers={"X-Request-Id": "proxy-000001"}) as sane:
            assert "proxy-000001" == sane.headers["X-Request-Id"]
        async with client.get(path, headers={"X-Request-Id": "a b"}) as senseless:
            assert "a b" != senseless.headers["X-Request-Id"]


async def test_our_own_faults_tell_nothing(client, app, monkeypatch):
    """A bug is a 500 with a request id, without a trace or the message."""

    async def broken(*_):
        raise ValueError("hunter2")

    monkeypatch.setattr("onsale.server.health.Readiness.health", broken)
    async with client.get("/readyz") as response:
        body = await _problem(response)

    assert (500, "internal_error") == (response.status, body["code"])
    assert "hunter2" not in json.dumps(body)


async def test_ready_when_its_stores_answer(client):
    """Stores and clocks are looked at by name."""
    async with client.get("/readyz") as response:
        health = await response.json()

    assert (200, "ok") == (response.status, health["status"])
    assert {"line redis", "shop redis", "postgres", "clocks"} <= {check["name"] for check in health["checks"]}


async def test_metrics_count_requests_by_route(client):
    """One series a route, never one a path."""
    async with client.get("/v1/sales/none-1"), client.get("/v1/sales/none-2"):
        pass
    async with client.get("/metrics") as response:
        text = await response.text()

    lines = [line for line in text.splitlines() if line.startswith("onsale_http_requests_total")]
    shown = [line for line in lines if 'route="/v1/sales/{sale}"' in line]
    assert 1 == len(shown)
    assert 'status="404"' in shown[0]
    assert shown[0].endswith(" 2.0")
    assert "none-1" not in text
