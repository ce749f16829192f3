"""The OpenAPI 3.1 document, made from the route table and the types of its bodies: complete, for there is no other.

Every refusal a call may answer is listed under its status with the stable words of `code`. What any call may answer (an
outage, our own fault) is added here, so that the table says only what is particular to a call.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from onsale.auth import errors as auth
from onsale.server.problems import HTTP_PROBLEMS, INTERNAL, PROBLEMS, STORE_UNAVAILABLE, Problem, codes
from onsale.server.route import Route

REF = "#/components/schemas/{name}"
PARAMETER = re.compile(r"\{(\w+)\}")
REASONS = {
    101: "A WebSocket now.",
    200: "Done.", 201: "Made.", 202: "Taken; it ends by itself.", 204: "Done; nothing to say.", 304: "Not modified.",
    400: "The request cannot be read.", 401: "Who asks is not known.", 402: "The payment was declined.",
    403: "This may not be done.", 404: "There is no such thing, or it is not yours.", 405: "Not this method.",
    409: "The state of things does not allow it.", 412: "Somebody was faster.", 413: "The body is too large.",
    415: "Not JSON.", 422: "Some values are wrong.", 428: "Say what you saw.", 429: "Too many tries.",
    500: "Our own fault.", 503: "Not now: ask again after Retry-After.",
}  # fmt: skip

WHO: Mapping[str, str] = {
    "anyone": "Nobody has to be signed in.",
    "buyer": "A signed-in account.",
    "joiner": "A signed-in account; anyone, where the sale takes guests.",
    "holder": "Whoever holds the ticket: by its token, or signed in as its buyer.",
    "seller": "Vendors, for what is theirs; managers and masters.",
    "operator": "Managers and masters.",
    "master": "Masters.",
    "pass": "Whoever holds a pass.",
}
SECURITY: Mapping[str, list[dict[str, list[str]]]] = {
    "anyone": [],
    "buyer": [{"bearer": []}, {"cookie": []}],
    "joiner": [{"bearer": []}, {"cookie": []}, {"ticket_token": []}, {}],
    "holder": [{"bearer": []}, {"cookie": []}, {"ticket_token": []}],
    "seller": [{"bearer": []}, {"cookie": []}],
    "operator": [{"bearer": []}, {"cookie": []}],
    "master": [{"bearer": []}, {"cookie": []}],
    "pass": [{"admission_pass": []}],
}
WHO_PROBLEMS: Mapping[str, tuple[type[BaseException], ...]] = {
    "anyone": (),
    "buyer": (auth.Unauthenticated, auth.EmailUnverified),
    "joiner": (auth.Unauthenticated, auth.EmailUnverified, auth.NotFound),
    "holder": (auth.Unauthenticated, auth.EmailUnverified, auth.NotFound),
    "seller": (auth.Unauthenticated, auth.EmailUnverified, auth.Forbidden),
    "operator": (auth.Unauthenticated, auth.EmailUnverified, auth.Forbidden),
    "master": (auth.Unauthenticated, auth.EmailUnverified, auth.Forbidden),
    "pass": (),
}
BODY_PROBLEMS = (auth.MalformedJSON, auth.PayloadTooLarge, auth.UnsupportedMediaType, auth.InvalidRequest)

SECURITY_SCHEMES: Mapping[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An access token from POST /v1/sessions."},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "__Host-onsale-access"},
    "ticket_token": {"type": "http", "scheme": "bearer", "description": "A ticket's own token, for that ticket only."},
    "stream_key": {"type": "apiKey", "in": "query", "name": "stream_key"},
    "admission_pass": {"type": "apiKey", "in": "header", "name": "Admission-Pass"},
}
HEADERS: Mapping[str, Mapping[str, Any]] = {
    "Idempotency-Key": {
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"},
        "description": "Repeating a call with the same key and body answers the same and does nothing twice.",
    },
    "Admission-Pass": {
        "required": True,
        "schema": {"type": "string"},
        "description": "The pass of an admitted ticket.",
    },
    "If-Match": {
        "required": False,
        "schema": {"type": "string"},
        "description": "The ETag of the settings you saw; `*` overrides. Required except for pausing.",
    },
    "If-None-Match": {"required": False, "schema": {"type": "string"}, "description": "An ETag seen before."},
    "Last-Event-ID": {
        "required": False,
        "schema": {"type": "string"},
        "description": "The last event a reconnecting client saw.",
    },
}
HEADER_PROBLEMS: Mapping[str, tuple[type[BaseException], ...]] = {
    "Idempotency-Key": (auth.IdempotencyKeyRequired, auth.IdempotencyKeyReused, auth.RequestInProgress),
    "Admission-Pass": (auth.PassRequired, auth.PassInvalid),
}
PROBLEM_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "RFC 9457. `code` never changes; `title` and `detail` follow Accept-Language.",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "examples": ["/problems/sold_out"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": sorted(codes())},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": {"type": "string", "examples": ["#/items/0/quantity"]},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
        "total": {
            "type": "object",
            "properties": {"amount": {"type": "integer"}, "currency": {"type": "string"}},
            "description": "With `price_changed`: the right price.",
        },
        "reason": {"type": "string", "description": "With `payment_declined`."},
        "retryable": {"type": "boolean", "description": "With `payment_declined`."},
    },
}


def document(routes: Sequence[Route], *, version: str, public_url: str) -> dict[str, Any]:
    """The whole document."""
    schemas, components = _schemas(routes)
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for route in routes:
        paths[route.path][route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "onsale",
            "version": version,
            "summary": "A fair line, exact stock, checkout and record for flash sales.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": public_url}],
        "paths": dict(paths),
        "components": {
            "schemas": {**components, "Problem": dict(PROBLEM_SCHEMA)},
            "securitySchemes": dict(SECURITY_SCHEMES),
        },
    }


def problems_of(route: Route) -> frozenset[Problem]:
    """Every refusal that a call may answer."""
    kinds: list[type[BaseException]] = [*route.problems, *WHO_PROBLEMS[route.who]]
    if route.body is not None:
        kinds += BODY_PROBLEMS
    if route.query or route.media == "application/json":
        # An unknown query name is refused wherever JSON is answered.
        kinds.append(auth.InvalidRequest)
    if route.who in ("buyer", "joiner", "seller", "operator", "master") and route.method != "GET":
        kinds.append(auth.CrossSite)
    if "{" in route.path:
        kinds.append(auth.NotFound)
    for header in route.headers:
        kinds += HEADER_PROBLEMS.get(header, ())
    always = (INTERNAL, STORE_UNAVAILABLE, HTTP_PROBLEMS[400])
    return frozenset({*always, *(PROBLEMS[kind] for kind in kinds)})


def _schemas(routes: Iterable[Route]) -> tuple[Mapping[Any, Any], dict[str, Any]]:
    types = [kind for route in routes for kind in (route.body, route.reply) if kind is not None]
    unique = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(unique, ref_template=REF)
    return dict(zip(unique, schemas, strict=True)), components


def _operation(route: Route, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": WHO[route.who],
        "tags": [route.tag],
        "parameters": _parameters(route),
        "responses": _responses(route, schemas),
        "security": _security(route),
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.is_body_optional,
            "content": {"application/json": {"schema": schemas[route.body]}},
        }
    return operation


def _security(route: Route) -> list[dict[str, list[str]]]:
    is_personal_stream = route.media == "text/event-stream" and route.who != "anyone"
    return SECURITY[route.who] + ([{"stream_key": []}] if is_personal_stream else [])


def _parameters(route: Route) -> list[dict[str, Any]]:
    path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "maxLength": 200}}
        for name in PARAMETER.findall(route.path)
    ]
    query = [
        {"name": one.name, "in": "query", "required": False, "schema": dict(one.schema), "description": one.about}
        for one in route.query
    ]
    headers = [{"name": name, "in": "header", **HEADERS[name]} for name in route.headers]
    return [*path, *query, *headers, _language()]


@cache
def _language() -> dict[str, Any]:
    return {
        "name": "Accept-Language",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "examples": ["ko", "en"]},
        "description": "The language of titles and details.",
    }


def _responses(route: Route, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    responses = {str(route.status): _success(route, route.status, REASONS[route.status], schemas)}
    for status, meaning in route.also.items():
        responses[str(status)] = _success(route, status, meaning, schemas)
    by_status: dict[int, set[str]] = defaultdict(set)
    for problem in problems_of(route):
        by_status[problem.status].add(problem.code)
    for status, words in sorted(by_status.items()):
        responses[str(status)] = _refusal(status, sorted(words))
    return responses if route.media != "text/html" else _as_pages(responses)


def _as_pages(responses: dict[str, Any]) -> dict[str, Any]:
    """A page is refused as a page, or sends its visitor to sign in, with the status of whatever it asked for."""
    page = {"text/html": {"schema": {"type": "string"}}}
    for status, answer in responses.items():
        if status >= "400":
            answer["content"] |= page
    refused = {"description": "Refused, and why.", "content": page}
    onward = {"description": "Go on there.", "headers": {"Location": _header("Where to go on.")}}
    return {**responses, "303": onward, "default": refused}


def _success(route: Route, status: int, meaning: str, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    headers = {"X-Request-Id": _header("The id under which this request is found in logs.")}
    if status == 201:
        headers["Location"] = _header("Where what was made is found.")
    answer: dict[str, Any] = {"description": meaning, "headers": headers}
    if status not in (101, 204, 304):
        schema = schemas.get(route.reply, {"type": "string"}) if route.reply is not None else {"type": "string"}
        answer["content"] = {route.media: {"schema": schema}}
    return answer


def _refusal(status: int, words: Sequence[str]) -> dict[str, Any]:
    headers = {"X-Request-Id": _header("The id under which this request is found in logs.")}
    if status in (429, 503):
        headers["Retry-After"] = _header("Seconds to wait.")
    if status == 401:
        headers["WWW-Authenticate"] = _header("Bearer")
    schema = {"allOf": [{"$ref": REF.format(name="Problem")}, {"properties": {"code": {"enum": list(words)}}}]}
    return {
        "description": f"{REASONS[status]} {', '.join(f'`{word}`' for word in words)}",
        "headers": headers,
        "content": {"application/problem+json": {"schema": schema}},
    }


def _header(about: str) -> dict[str, Any]:
    return {"description": about, "schema": {"type": "string"}}
