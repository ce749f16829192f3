"""The OpenAPI document: every route is in it, it is valid, and answers are as it says."""

import json

import pytest
from aiohttp import web
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from onsale.server.openapi import document, problems_of
from onsale.server.problems import codes
from onsale.server.route import Route, add_routes
from onsale.server.routes import ROUTES

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Served by the framework itself, or answered for other methods of a documented path.
UNDOCUMENTED_METHODS = {"HEAD", "OPTIONS"}
STATIC = ("/static/{file}", "/static/{version}/{file}")


@pytest.fixture(scope="module")
def openapi():
    return document(ROUTES, version="0", public_url="http://127.0.0.1:8080")


async def test_it_is_valid(openapi):
    """By the published schema of OpenAPI 3.1."""
    assert [] == [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(json.loads(json.dumps(openapi)))]


async def test_every_reference_leads_somewhere(openapi):
    """No schema is named that is not there."""
    text = json.dumps(openapi)
    named = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}

    assert named <= set(openapi["components"]["schemas"])


async def test_every_route_of_the_application_is_in_it(openapi, shared_server):
    """What is served and not documented fails here."""
    served = {
        (route.method, route.resource.canonical)
        for route in shared_server.app.router.routes()
        if route.method not in UNDOCUMENTED_METHODS and route.resource.canonical not in STATIC
    }
    documented = {(method.upper(), path) for path, operations in openapi["paths"].items() for method in operations}

    assert served == documented


async def test_operations_have_names_of_their_own():
    """A generated client has one method for each."""
    names = [route.name for route in ROUTES]

    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_every_call_says_how_it_may_be_refused(route: Route, openapi):
    """Each status lists its words, and each word is explained."""
    answers = openapi["paths"][route.path][route.method.lower()]["responses"]
    listed = {
        word
        for status, answer in answers.items()
        if status.isdigit() and "application/problem+json" in answer.get("content", {})
        for word in answer["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"]
    }

    assert {problem.code for problem in problems_of(route)} == listed
    assert listed <= codes()
    assert {"internal_error", "store_unavailable"} <= listed


async def test_it_is_served_and_can_be_browsed(shared_client):
    """As JSON, and as a page without anything from elsewhere."""
    async with shared_client.get("/openapi.json") as machine, shared_client.get("/docs") as person:
        served, page = await machine.json(), await person.text()

    assert "3.1.0" == served["openapi"]
    assert all(path in page for path in ("/v1/sales/{sale}/tickets", "/v1/orders/{order}/confirmation"))
    assert "<script" not in page


async def test_head_of_event_streams(shared_client):
    """The headers of a stream without the stream; a personal one still asks who is there."""
    async with shared_client.head("/v1/sales/none/line/events") as unknown:
        assert 404 == unknown.status
    async with shared_client.head("/v1/tickets/none/events") as personal:
        assert 401 == personal.status


async def test_no_path_is_taken_for_another():
    """A fixed path beside one with a name allows its own methods only."""
    app = web.Application()
    add_routes(app, ROUTES)

    found = {
        route.path: {other.method for other in app.router.routes() if other.resource._match(route.path) is not None}
        for route in ROUTES
        if "{" not in route.path and route.path.startswith("/v1/")
    }

    own = {path: {r.method for r in ROUTES if r.path == path} for path in found}
    assert {path: methods - {"HEAD", "OPTIONS"} for path, methods in found.items()} == own
