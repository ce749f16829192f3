"""Problems: every error class of every room has a status and a word, and every word has texts in both languages."""

import inspect
import json
from importlib import resources

import asyncpg
import pytest
import redis.exceptions
from aiohttp import web

from onsale.auth import errors as auth
from onsale.catalog import errors as catalog
from onsale.checkout import errors as checkout
from onsale.queue import errors as queue
from onsale.server import problems
from onsale.web import LANGUAGES, messages

# Bases that group the errors of a room; nothing raises them.
BASES = {auth.AuthError, auth.RequestError, catalog.CatalogError, checkout.CheckoutError, queue.LineError}


def _errors():
    for room in (auth, catalog, checkout, queue):
        for _, kind in inspect.getmembers(room, inspect.isclass):
            if issubclass(kind, Exception) and kind.__module__ == room.__name__ and kind not in BASES:
                yield kind


@pytest.mark.parametrize("kind", list(_errors()), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_error_of_every_room_is_mapped(kind):
    """A decision of the caller never becomes a 500."""
    assert kind in problems.PROBLEMS


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_code_has_texts(lang):
    """Title and detail in each language, and no text for a code that is gone."""
    texts = {key for key in messages(lang) if key.startswith("problem.")}

    assert {f"problem.{code}.{part}" for code in problems.codes() for part in ("title", "detail")} == texts


def test_catalogues_have_the_same_keys_sorted():
    """What one language says the other says too; sorted, so that two people's additions merge."""
    ko, en = (
        list(json.loads((resources.files("onsale.web") / "messages" / f"{lang}.json").read_text("utf-8")))
        for lang in LANGUAGES
    )
    assert sorted(ko) == ko
    assert en == ko


@pytest.mark.parametrize("problem", list(dict.fromkeys(problems.PROBLEMS.values())), ids=lambda problem: problem.code)
def test_429_and_503_say_when_to_come_back(problem):
    """Each carries Retry-After, no other status does."""
    assert (problem.status in (429, 503)) == (problem.retry_after_s is not None)


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.BusyLoadingError("LOADING"),
        redis.exceptions.ResponseError("MISCONF Errors writing to the AOF file"),
        redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'"),
        asyncpg.CannotConnectNowError("starting up"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.DiskFullError("no space left"),
        asyncpg.TooManyConnectionsError("sorry, too many clients already"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.DeadlockDetectedError("deadlock"),
        ConnectionRefusedError(),
        OSError("Multiple exceptions: refused, refused"),
        TimeoutError(),
        TimeoutError(),
    ],
    ids=repr,
)
def test_a_store_that_is_away_is_a_503(error):
    """An outage is honest: ask again, with Retry-After."""
    response = problems.problem_response(error, language="en", request_id="r")

    assert (503, "2") == (response.status, response.headers["Retry-After"])


@pytest.mark.parametrize(
    "error", [ValueError("hunter2"), redis.exceptions.ResponseError("ERR hunter2"), FileNotFoundError(2, "hunter2")]
)
def test_our_own_fault_is_a_500_that_tells_nothing(error):
    """Never a stack trace, never the message of an exception."""
    response = problems.problem_response(error, language="en", request_id="r")

    assert 500 == response.status
    assert b"hunter2" not in response.body


def test_body_of_a_problem():
    """RFC 9457 members, in the language asked for; the code never changes."""
    response = problems.problem_response(
        auth.InvalidRequest(auth.Flaw("#/items/0/quantity", "bad_value", "Too small.")), language="ko", request_id="r-1"
    )
    body = json.loads(response.body)

    assert "application/problem+json" == response.content_type
    assert [{"pointer": "#/items/0/quantity", "code": "bad_value", "detail": "Too small."}] == body.pop("errors")
    assert {
        "type": "/problems/invalid_request",
        "title": messages("ko")["problem.invalid_request.title"],
        "status": 422,
        "detail": messages("ko")["problem.invalid_request.detail"],
        "code": "invalid_request",
        "request_id": "r-1",
    } == body


def test_statuses_bring_their_headers():
    """401 says how to sign in, 405 what is allowed, 429 when."""
    unauthenticated = problems.problem_response(auth.Unauthenticated(), language="en", request_id="r")
    method = problems.problem_response(web.HTTPMethodNotAllowed("PUT", {"POST", "GET"}), language="en", request_id="r")
    throttled = problems.problem_response(auth.TooManyRequests(17), language="en", request_id="r")

    assert "Bearer" == unauthenticated.headers["WWW-Authenticate"]
    assert "GET, POST" == method.headers["Allow"]
    assert "17" == throttled.headers["Retry-After"]


def test_problems_with_data():
    """The right price, and why a payment failed, are for programs too."""
    price = problems.problem_response(checkout.PriceChanged(1990, "KRW"), language="en", request_id="r")
    declined = problems.problem_response(checkout.PaymentDeclined("funds", True), language="en", request_id="r")

    assert {"amount": 1990, "currency": "KRW"} == json.loads(price.body)["total"]
    assert ("funds", True) == tuple(json.loads(declined.body)[key] for key in ("reason", "retryable"))
