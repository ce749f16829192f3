"""What a route is: one call with all that is said about it. The table is in `routes.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from onsale.server.middleware import Handler

Who = Literal["anyone", "buyer", "joiner", "holder", "seller", "operator", "master", "pass"]
Media = Literal["application/json", "text/event-stream", "text/html", "text/plain"]


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter and its JSON schema."""

    name: str
    schema: Mapping[str, Any]
    about: str


@dataclass(frozen=True, slots=True)
class Route:
    """One call. `problems` are the errors of its rooms; what every call may answer is added by the document."""

    method: str
    path: str
    handler: Handler
    name: str
    summary: str
    who: Who = "anyone"
    body: Any = None
    is_body_optional: bool = False
    reply: Any = None
    status: int = 200
    # Other successes: status -> what it means. They have the same body, unless 204 or 304.
    also: Mapping[int, str] = field(default_factory=dict)
    query: tuple[Query, ...] = ()
    headers: tuple[str, ...] = ()
    problems: tuple[type[BaseException], ...] = ()
    media: Media = "application/json"
    # Served at the edge: past the router and the middleware, logged as one summed line a second.
    is_hot: bool = False
    # How the router matches the path where its names must not match everything: a fixed path beside it is another call.
    pattern: str = ""

    @property
    def tag(self) -> str:
        """The group it is documented in: the first word of its path after the version."""
        parts = [part for part in self.path.split("/") if part and part != "v1"]
        return parts[0].strip("{}").removeprefix(".") if parts else "pages"

    @property
    def is_public(self) -> bool:
        """Whether pages of other sites may read it."""
        return self.method == "GET" and self.who == "anyone"


LIMIT = Query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}, "How many at most.")


def page(pattern: str) -> tuple[Query, Query]:
    """What every list takes; how its cursors look is its own."""
    cursor = {"type": "string", "pattern": f"^{pattern}$"}
    return LIMIT, Query("cursor", cursor, "Where the page before ended: its `next_cursor`.")


# Numbers; and ids of 16 bytes in base32, whose last letter has two bits to spare.
PAGE, PAGE_BY_ID = page("[1-9][0-9]{0,8}"), page("[0-9a-v]{25}[048cgkos]")


def add_routes(app: web.Application, routes: Iterable[Route]) -> None:
    """Give the application every route: HEAD wherever GET is, and OPTIONS where other sites may read."""
    for route in routes:
        path = route.pattern or route.path
        if route.method == "GET":
            # Streams know HEAD: who may not open one is told so, who may is given its headers.
            app.router.add_get(path, route.handler, allow_head=True)
        else:
            app.router.add_route(route.method, path, route.handler)
        if route.is_public:
            app.router.add_route("OPTIONS", path, preflight)


async def preflight(request: web.Request) -> web.Response:
    """What pages of other sites may do here: read."""
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": "GET, HEAD",
            "Access-Control-Allow-Headers": "Accept-Language, If-None-Match, Last-Event-ID",
            "Access-Control-Max-Age": "86400",
        },
    )
