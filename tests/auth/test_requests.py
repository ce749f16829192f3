"""The door through which a client's bytes come in."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from onsale.auth.errors import Flaw, IdempotencyKeyRequired, InvalidRequest, MalformedJSON
from onsale.auth.requests import (
    BODY_BYTES_MAX,
    TRUSTED_PROXIES,
    body,
    body_digest,
    body_or,
    client_address,
    idempotency_key,
    language,
    parse,
    query,
    reply,
    rfc3339,
)
from onsale.server.problems import problem_response


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    product: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    items: Annotated[list[Item], msgspec.Meta(min_length=1, max_length=50)]
    notes: dict[str, str] = {}


ORDER = msgspec.json.Decoder(Order)
GOOD = b'{"items": [{"product": "jacket", "quantity": 1}]}'


def item(fields: str) -> bytes:
    return b'{"items": [{%s}]}' % fields.encode()


FLAWS: dict[str, tuple[bytes, str, str]] = {
    "not an object": (b"[]", "#", "wrong_type"),
    "null": (b"null", "#", "wrong_type"),
    "a missing field": (b"{}", "#/items", "missing_field"),
    "a missing field inside": (item('"product": "a"'), "#/items/0/quantity", "missing_field"),
    "an unknown field": (GOOD[:-1] + b', "price": 1}', "#/price", "unknown_field"),
    "an unknown field inside": (
        item('"product": "a", "quantity": 1, "a/b~c": 1'),
        "#/items/0/a~1b~0c",
        "unknown_field",
    ),
    "a wrong type": (item('"product": "a", "quantity": "1"'), "#/items/0/quantity", "wrong_type"),
    "a fraction": (item('"product": "a", "quantity": 1.5'), "#/items/0/quantity", "wrong_type"),
    "a boolean": (item('"product": "a", "quantity": true'), "#/items/0/quantity", "wrong_type"),
    "zero": (item('"product": "a", "quantity": 0'), "#/items/0/quantity", "bad_value"),
    "a negative number": (item('"product": "a", "quantity": -1'), "#/items/0/quantity", "bad_value"),
    "a huge number": (item(f'"product": "a", "quantity": {10**30}'), "#/items/0/quantity", "bad_value"),
    "an enormous number": (item(f'"product": "a", "quantity": {"9" * 10_000}'), "#/items/0/quantity", "bad_value"),
    "infinity": (item('"product": "a", "quantity": 1e999'), "#/items/0/quantity", "bad_value"),
    "a long name": (item(f'"product": "{"a" * 50_000}", "quantity": 1'), "#/items/0/product", "bad_value"),
    "an empty list": (b'{"items": []}', "#/items", "bad_value"),
    "NUL": (item('"product": "a\\u0000b", "quantity": 1'), "#/items/0/product", "bad_value"),
    "NUL in a name": (GOOD[:-1] + b', "notes": {"a\\u0000": "b"}}', "#/notes", "bad_value"),
    "a wrong type under a name of theirs": (GOOD[:-1] + b', "notes": {"x": 1}}', "#/notes/...", "wrong_type"),
}


@pytest.mark.parametrize(("raw", "pointer", "code"), FLAWS.values(), ids=FLAWS.keys())
def test_a_flaw_is_pointed_at(raw: bytes, pointer: str, code: str) -> None:
    """Each bad value is named by a JSON pointer and a stable word."""
    with pytest.raises(InvalidRequest) as refused:
        parse(raw, ORDER)

    (flaw,) = refused.value.errors
    assert (pointer, code) == (flaw.pointer, flaw.code)


def test_a_flaw_never_echoes_much() -> None:
    """A 60 kB name of an unknown field comes back cut."""
    with pytest.raises(InvalidRequest) as refused:
        parse(b'{"%s": 1}' % (b"x" * 60_000), ORDER)

    (flaw,) = refused.value.errors
    assert 200 >= max(len(flaw.pointer), len(flaw.detail))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b"nonsense",
        GOOD + b"x",
        b'{"price": 1, "items": [',  # broken further on than the first bad value
        item('"product": "a", "quantity": NaN'),
        item('"product": "\xff", "quantity": 1').replace("ÿ".encode(), b"\xff"),
        item('"product": "\\ud800", "quantity": 1'),
        item('"product": "a\0b", "quantity": 1'),
        b'{"items": ' + b"[" * 50_000,
        b'{"items": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b"\xef\xbb\xbf" + GOOD,
    ],
)
def test_what_is_not_json_is_malformed(raw: bytes) -> None:
    """Broken, truncated, wrongly encoded or absurdly nested text is no JSON, whatever else is wrong with it."""
    with pytest.raises(MalformedJSON):
        parse(raw, ORDER)


def test_an_escaped_backslash_is_no_nul() -> None:
    """The text \\u0000 spelt out is a text like any other."""
    order = parse(item('"product": "a\\\\u0000", "quantity": 1'), ORDER)

    assert "a\\u0000" == order.items[0].product


async def _echo(request: web.Request) -> web.Response:
    try:
        return reply(200, await body(request, ORDER))
    except Exception as error:
        return problem_response(error, language="en", request_id="r")


async def _echo_optional(request: web.Request) -> web.Response:
    try:
        return reply(200, await body_or(request, ORDER, Order(items=[])))
    except Exception as error:
        return problem_response(error, language="en", request_id="r")


@pytest.fixture
async def client(aiohttp_client: Any) -> Any:
    app = web.Application()
    app.add_routes([web.post("/", _echo), web.post("/optional", _echo_optional)])
    return await aiohttp_client(app)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON; Charset=UTF-8", 200),
        ("application/json; charset=utf-16", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
        ("nonsense", 415),
    ],
)
async def test_only_json_is_read(client: Any, content_type: str, status: int) -> None:
    """Another media type is refused, whatever the bytes are."""
    answer = await client.post("/", data=GOOD, headers={"Content-Type": content_type})

    assert status == answer.status


async def test_a_body_over_64_kib_is_refused(client: Any) -> None:
    """By its announced length, and where none is announced by counting."""

    async def chunks() -> Any:
        for _ in range(65):
            yield b" " * 1024

    headers = {"Content-Type": "application/json"}
    announced = await client.post("/", data=b" " * (BODY_BYTES_MAX + 1), headers=headers)
    counted = await client.post("/", data=chunks(), headers=headers)
    fitting = await client.post("/", data=GOOD.ljust(BODY_BYTES_MAX), headers=headers)

    assert [413, 413, 200] == [announced.status, counted.status, fitting.status]


async def test_a_body_may_be_left_out_where_it_is_optional(client: Any) -> None:
    """No body is the default one; a body that is there is read as strictly as any."""
    without = await client.post("/optional")
    broken = await client.post("/optional", data=b"{", headers={"Content-Type": "application/json"})

    assert {"items": [], "notes": {}} == await without.json()
    assert 400 == broken.status


def request_with(path: str = "/", app: web.Application | None = None, **headers: str) -> web.Request:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return make_mocked_request("GET", path, headers=named, app=app)


def test_a_query_is_read_by_its_parsers() -> None:
    """Values come typed; absent ones are left out."""
    assert {"limit": 5} == query(request_with("/?limit=5"), limit=int, cursor=str)


def test_every_flaw_of_a_query_is_named_at_once() -> None:
    """Unknown, doubled, bad and NUL."""
    with pytest.raises(InvalidRequest) as refused:
        query(request_with("/?limit=x&shiny=1&cursor=a&cursor=b&state=%00"), limit=int, cursor=str, state=str)

    assert {
        ("?limit", "bad_value"),
        ("?shiny", "unknown_field"),
        ("?cursor", "duplicate"),
        ("?state", "bad_value"),
    } == {(flaw.pointer, flaw.code) for flaw in refused.value.errors}


@pytest.mark.parametrize("key", ["a", "a" * 128, "9f1c-…".replace("…", "~"), "!\"#$%&'()*+,-./"])
def test_an_idempotency_key_is_taken_as_sent(key: str) -> None:
    """1 to 128 visible ASCII characters."""
    assert key == idempotency_key(request_with(Idempotency_Key=key))


@pytest.mark.parametrize("key", [None, "", "a" * 129, "a b", "a\tb", "ключ", "a\x7f"])
def test_any_other_idempotency_key_is_none(key: str | None) -> None:
    """Absent, empty, too long, or with a character that is not visible ASCII."""
    with pytest.raises(IdempotencyKeyRequired):
        idempotency_key(request_with(**({} if key is None else {"Idempotency_Key": key})))


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("", "en"),
        ("ko", "ko"),
        ("ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7", "ko"),
        ("en-US,en;q=0.9,ko;q=0.8", "en"),
        ("fr, ko;q=0.5", "ko"),
        ("fr", "en"),
        ("*", "en"),
        ("ko;q=0", "en"),
        ("ko;q=nonsense", "en"),
        ("en;q=0.1, ko;q=0.2", "ko"),
        (",;=,,q", "en"),
        ("ko;q=NaN", "en"),
    ],
)
def test_the_language_is_the_one_preferred(asked: str, got: str) -> None:
    """Accept-Language with its weights; English where it names neither of ours."""
    assert got == language(request_with(Accept_Language=asked))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # not our proxy: hearsay
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # what the client wrote itself stands further left
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "nonsense, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", ",".join(["198.51.100.1"] * 10_000), "198.51.100.1"),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str, forwarded: str, address: str) -> None:
    """The nearest address on the way that is no proxy of ours."""
    app = web.Application()
    app[TRUSTED_PROXIES] = (ipaddress.ip_network("10.0.0.0/8"),)
    request = request_with(app=app, X_Forwarded_For=forwarded).clone(remote=peer)

    assert address == client_address(request)


def test_without_trusted_proxies_forwarded_headers_are_ignored() -> None:
    """The default: who speaks to us is who asks."""
    request = request_with(app=web.Application(), X_Forwarded_For="198.51.100.1").clone(remote="203.0.113.9")

    assert "203.0.113.9" == client_address(request)


def test_times_have_milliseconds() -> None:
    """RFC 3339 in UTC."""
    assert ["2026-09-21T14:13:20.007Z", "1970-01-01T00:00:00.000Z"] == [rfc3339(1_790_000_000_007), rfc3339(0)]


def test_bodies_that_mean_the_same_have_one_digest() -> None:
    """Spacing, order of names and defaults spelt out make no difference; a value does."""
    compact = parse(b'{"items":[{"quantity":1,"product":"jacket"}],"notes":{"a":"1","b":"2"}}', ORDER)
    spaced = parse(b'{"notes": {"b": "2", "a": "1"}, "items": [{"product": "jacket", "quantity": 1}]}', ORDER)
    another = parse(GOOD, ORDER)

    assert body_digest(compact) == body_digest(spaced)
    assert body_digest(compact) != body_digest(another)
    assert 32 == len(body_digest(another))


def test_a_flaw_is_written_as_json() -> None:
    """What a client reads of a flaw has exactly these members."""
    assert {"pointer": "#/a", "code": "bad_value", "detail": "d"} == msgspec.to_builtins(Flaw("#/a", "bad_value", "d"))
