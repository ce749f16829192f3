"""Pages that explain the service itself: its documents and its problems. Words and markup are in `web/`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import msgspec
from aiohttp import web

from onsale.auth.errors import NotFound
from onsale.auth.requests import language, reply, require_no_query
from onsale.server.health import Health, Readiness
from onsale.server.metrics import Snapshots
from onsale.server.pages.rendering import page_language, render
from onsale.server.problems import HTTP_PROBLEMS, INTERNAL, PROBLEMS, Problem
from onsale.server.route import Route
from onsale.web import messages

DOCUMENT: web.AppKey[Mapping[str, Any]] = web.AppKey("openapi", dict)
SNAPSHOTS = web.AppKey("snapshots", Snapshots)
READINESS = web.AppKey("readiness", Readiness)
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BY_CODE: Mapping[str, Problem] = {p.code: p for p in (INTERNAL, *HTTP_PROBLEMS.values(), *PROBLEMS.values())}


def version() -> str:
    """The installed version."""
    return metadata.version("onsale")


async def explain_problem(request: web.Request) -> web.Response:
    """What a problem's `type` means: a page for people, JSON for programs."""
    require_no_query(request)
    problem = BY_CODE.get(request.match_info["code"])
    if problem is None:
        raise NotFound
    is_page = "text/html" in request.headers.get("Accept", "")
    texts = messages(page_language(request) if is_page else language(request))
    facts = {
        "code": problem.code,
        "status": problem.status,
        "title": texts[f"problem.{problem.code}.title"],
        "detail": texts[f"problem.{problem.code}.detail"],
    }
    if is_page:
        return render(request, "problem.html", explained=facts)
    return reply(200, facts)


async def show_document(request: web.Request) -> web.Response:
    """The OpenAPI document."""
    require_no_query(request)
    return reply(200, request.app[DOCUMENT], {"Cache-Control": "public, max-age=60"})


async def browse_document(request: web.Request) -> web.Response:
    """The same for people: every call on one page, without a script or anything from elsewhere."""
    return render(request, "docs.html", document=request.app[DOCUMENT], dump=_dump)


async def show_metrics(request: web.Request) -> web.Response:
    """Prometheus text of every process of this machine."""
    return web.Response(body=await request.app[SNAPSHOTS].exposition(), headers={"Content-Type": METRICS_TYPE})


async def show_life(request: web.Request) -> web.Response:
    """The loop turns."""
    require_no_query(request)
    return reply(200, Health("ok", ()))


async def show_readiness(request: web.Request) -> web.Response:
    """Whether to send requests here."""
    require_no_query(request)
    health = await request.app[READINESS].health()
    is_serving = health.status != "failing"
    return reply(200 if is_serving else 503, health, None if is_serving else {"Retry-After": "1"})


def _dump(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


class ProblemFacts(msgspec.Struct, frozen=True):
    """What a problem's code stands for."""

    code: str
    status: int
    title: str
    detail: str


ROUTES = (
    Route(
        "GET", "/problems/{code}", explain_problem, "explain_problem", "What a problem means.", reply=ProblemFacts,
    ),
    Route("GET", "/openapi.json", show_document, "show_document", "This document.", reply=dict[str, Any]),
    Route("GET", "/docs", browse_document, "browse_document", "This document, for people.", media="text/html"),
    Route("GET", "/livez", show_life, "show_life", "Whether this process lives.", reply=Health),
    Route(
        "GET", "/readyz", show_readiness, "show_readiness", "Whether this process may be sent requests.", reply=Health,
        also={503: "Not now."},
    ),
    Route("GET", "/metrics", show_metrics, "show_metrics", "Figures of this machine.", media="text/plain"),
)  # fmt: skip
