"""What every request is given, whoever serves it: an id, an answer that explains itself, safe headers, one log line.

`manners` is the one middleware of the application, wrapped around every route and around what matches none. Headers are
written by `Stamp` when an answer begins, so that event streams have them too, and so that the hot routes, which pass by
the middleware, share them.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from multidict import CIMultiDict

from onsale.auth.errors import NotFound
from onsale.auth.identifiers import new_id
from onsale.auth.requests import Network, client_address, is_in, language
from onsale.auth.streamkeys import StreamEnded
from onsale.server.metrics import Traffic
from onsale.server.problems import problem_of, problem_response

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = web.RequestKey("request_id", str)
# The problem's code, on answers that are one.
CODE = web.ResponseKey("code", str)
REQUEST_ID_SANE = re.compile(r"[A-Za-z0-9._~-]{8,64}", re.ASCII)
# No id of ours or of people is longer; what is longer, or holds U+0000, names nothing.
SEGMENT_CHARACTERS_MAX = 200

# Everything is served from our own address, nothing is inlined, nobody frames us.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; manifest-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# One year, the least that browsers' preload lists take.
TRANSPORT_POLICY = "max-age=31536000"
# What an answer says that does not say otherwise.
CACHE_OTHERWISE = "no-store"

_process = new_id()[:14]
_numbers = itertools.count(1)


def request_id(request: web.BaseRequest, trusted: tuple[Network, ...]) -> str:
    """The id under which this request is found in logs: a trusted proxy's, where it sent a sane one, or a new one."""
    if trusted:
        sent = request.headers.get("X-Request-Id", "")
        if REQUEST_ID_SANE.fullmatch(sent) and is_in(request.remote or "", trusted):
            return sent
    return f"{_process}{next(_numbers):06x}"


def manners(traffic: Traffic, trusted: tuple[Network, ...]) -> Middleware:
    """The middleware."""

    @web.middleware
    async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[REQUEST_ID] = request_id(request, trusted)
        started_s = time.perf_counter()
        try:
            require_names(request)
            response = await handler(request)
        except web.HTTPException as error:
            response = error if error.status < 400 else refuse(request, error)
        except Exception as error:
            response = refuse(request, error)
        _note(request, response, traffic, time.perf_counter() - started_s)
        return response

    return serve


def refuse(request: web.Request, error: BaseException) -> web.Response:
    """An error as its problem document. Raises it again where the answer has begun, or the client has gone."""
    if request.writer.output_size > 0 or request.transport is None:
        raise error
    if isinstance(error, StreamEnded):
        # No problem: the stream said its last word, and 204 stops an EventSource from asking again.
        return web.Response(status=204)
    problem = problem_of(error)
    if problem.status == 500:
        log.error("request.failed", request_id=request[REQUEST_ID], error=type(error).__name__, exc_info=error)
    response = problem_response(error, language=language(request), request_id=request[REQUEST_ID])
    response[CODE] = problem.code
    return response


def require_names(request: web.Request) -> None:
    """Refuse path segments that cannot name anything, before a store is asked about them."""
    for segment in request.match_info.values():
        if len(segment) > SEGMENT_CHARACTERS_MAX or "\0" in segment:
            raise NotFound


class Stamp:
    """Writes what every answer carries. `public` are the paths (templates) that anyone may read."""

    def __init__(self, public: frozenset[str], *, is_https: bool) -> None:
        self._public = public
        self._is_https = is_https

    def is_public(self, method: str, path: str) -> bool:
        """Whether pages of other sites may read the answer."""
        return method != "POST" and path in self._public

    def write(self, headers: CIMultiDict[str], request_id: str, *, is_public: bool) -> None:
        """On any answer, however it is sent."""
        headers["X-Request-Id"] = request_id
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Server"] = "onsale"
        if "Cache-Control" not in headers:
            headers["Cache-Control"] = CACHE_OTHERWISE
        if is_public:
            headers["Access-Control-Allow-Origin"] = "*"
        if self._is_https:
            headers["Strict-Transport-Security"] = TRANSPORT_POLICY

    async def on_prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """As an answer of the application begins."""
        headers, route = response.headers, route_of(request)
        if headers.get("Content-Type", "").startswith("text/html"):
            headers.update(PAGE_HEADERS)
        self.write(headers, request[REQUEST_ID], is_public=self.is_public(request.method, route))


def route_of(request: web.Request) -> str:
    """The route's path with names for its variable parts; never what the client wrote there."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "(none)"


def _note(request: web.Request, response: web.StreamResponse, traffic: Traffic, took_s: float) -> None:
    """Count the request and write its line, unless it is one of a flood: all that is known of it, and no query (it may
    hold a stream key)."""
    route = route_of(request)
    code: str = response.get(CODE, "")
    stats = traffic.of(request.method, route)
    stats.note(response.status, took_s, code)
    if response.status == 429 and not stats.is_told_of_refusal():
        return
    log.info(
        "request.served",
        request_id=request[REQUEST_ID],
        method=request.method,
        route=route,
        path=_printable(request.path) if route == "(none)" else None,
        status=response.status,
        code=code or None,
        duration_ms=round(took_s * 1000, 2),
        bytes=response.content_length,
        peer=client_address(request),
        user_agent=_printable(request.headers.get("User-Agent", "")),
        **_names(request),
    )


def _names(request: web.Request) -> dict[str, str]:
    """Which sale, order or ticket it was about."""
    named = request.match_info.items()
    return {key: _printable(value) for key, value in named if key in ("sale", "order", "ticket", "product")}


def _printable(text: str) -> str:
    """What a client wrote, for one line of a log: bytes that are no text would break it, escapes a terminal."""
    text = text[:SEGMENT_CHARACTERS_MAX]
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
