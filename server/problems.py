"""Every error that may leave a handler, as a status and a stable word: the one table, and its body (RFC 9457).

Rooms raise decisions (`SoldOut`, `PassExpired`); nothing below this file knows a status. What is not in the table is
our own fault: 500 `internal_error`, logged with its stack, answered without one.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec
import redis.exceptions
from aiohttp import web

from onsale.auth import errors as auth
from onsale.auth.requests import Language, rfc3339
from onsale.catalog import errors as catalog
from onsale.checkout import errors as checkout
from onsale.lua.batching import Overloaded
from onsale.queue import errors as queue
from onsale.web import messages

PROBLEM_TYPE = "application/problem+json"
# Longest that a caller is told to wait: a client that sleeps for an hour has left.
RETRY_AFTER_MAX_S = 3600


@dataclass(frozen=True, slots=True)
class Problem:
    """How one error is answered. `retry_after_s` is set for every 429 and 503."""

    status: int
    code: str
    retry_after_s: int | None = None


INTERNAL = Problem(500, "internal_error")
STORE_UNAVAILABLE = Problem(503, "store_unavailable", 2)
NOT_FOUND = Problem(404, "not_found")

PROBLEMS: Mapping[type[BaseException], Problem] = {
    # Who asks.
    auth.Unauthenticated: Problem(401, "unauthenticated"),
    auth.InvalidCredentials: Problem(401, "invalid_credentials"),
    auth.RefreshInvalid: Problem(401, "refresh_invalid"),
    auth.AlreadySignedIn: Problem(409, "already_signed_in"),
    auth.CurrentPasswordWrong: Problem(403, "current_password_wrong"),
    auth.CodeInvalid: Problem(422, "code_invalid"),
    auth.ResetInvalid: Problem(422, "reset_invalid"),
    auth.AddressUnknown: Problem(404, "address_unknown"),
    auth.AddressBookFull: Problem(409, "address_book_full"),
    auth.EmailUnverified: Problem(403, "email_unverified"),
    auth.Forbidden: Problem(403, "forbidden"),
    auth.CrossSite: Problem(403, "cross_site"),
    auth.SessionUnknown: Problem(404, "session_unknown"),
    auth.PassRequired: Problem(403, "pass_required"),
    auth.PassInvalid: Problem(403, "pass_invalid"),
    auth.TooManyRequests: Problem(429, "too_many_requests", 1),
    # How it is asked.
    auth.MalformedJSON: Problem(400, "malformed_json"),
    auth.IdempotencyKeyRequired: Problem(400, "idempotency_key_required"),
    # A body whose framing breaks off or makes no sense.
    web.RequestPayloadError: Problem(400, "bad_request"),
    auth.PayloadTooLarge: Problem(413, "payload_too_large"),
    auth.UnsupportedMediaType: Problem(415, "unsupported_media_type"),
    auth.InvalidRequest: Problem(422, "invalid_request"),
    auth.IdempotencyKeyReused: Problem(422, "idempotency_key_reused"),
    auth.RequestInProgress: Problem(409, "request_in_progress"),
    auth.NotFound: NOT_FOUND,
    # The catalogue.
    catalog.SaleUnknown: Problem(404, "sale_unknown"),
    catalog.ProductUnknown: Problem(404, "product_unknown"),
    catalog.VendorUnknown: Problem(404, "vendor_unknown"),
    catalog.VendorMissing: Problem(409, "vendor_missing"),
    catalog.VendorExists: Problem(409, "vendor_exists"),
    catalog.ProductExists: Problem(409, "product_exists"),
    catalog.ProductInSale: Problem(409, "product_in_sale"),
    catalog.ProductUnavailable: Problem(409, "product_unavailable"),
    catalog.NotEnoughStock: Problem(409, "not_enough_stock"),
    catalog.DiscountUnknown: Problem(404, "discount_unknown"),
    catalog.WishExists: Problem(409, "wish_exists"),
    catalog.AlarmTooLate: Problem(409, "alarm_too_late"),
    catalog.CartFull: Problem(409, "cart_full"),
    catalog.SalesOverlap: Problem(409, "sales_overlap"),
    catalog.ItemExists: Problem(409, "item_exists"),
    catalog.ProposalDecided: Problem(409, "proposal_decided"),
    catalog.ApprovalTooLate: Problem(409, "approval_too_late"),
    catalog.SaleExists: Problem(409, "sale_exists"),
    catalog.SaleRunning: Problem(409, "sale_running"),
    catalog.SaleEnded: Problem(409, "sale_ended"),
    catalog.SaleFileInvalid: Problem(422, "sale_file_invalid"),
    # The line.
    queue.TicketUnknown: Problem(404, "ticket_unknown"),
    queue.SaleDraining: Problem(409, "sale_draining"),
    queue.SaleSoldOut: Problem(409, "sale_sold_out"),
    queue.SaleEnded: Problem(409, "sale_ended"),
    queue.SaleNotScheduled: Problem(409, "sale_state_conflict"),
    queue.LineRecovering: Problem(503, "recovering", 1),
    queue.GuestsRefused: Problem(401, "guests_refused"),
    queue.PolicyMissingMatch: Problem(428, "if_match_required"),
    queue.PolicyStale: Problem(412, "policy_stale"),
    queue.StreamsExhausted: Problem(503, "streams_exhausted", 5),
    # Checkout.
    checkout.PassExpired: Problem(403, "pass_expired"),
    checkout.PassRevoked: Problem(403, "pass_revoked"),
    checkout.PassSpent: Problem(403, "pass_spent"),
    checkout.SoldOut: Problem(409, "sold_out"),
    checkout.PurchaseLimitReached: Problem(409, "purchase_limit_reached"),
    checkout.ReservationOpen: Problem(409, "reservation_open"),
    checkout.TooManyDrops: Problem(429, "too_many_drops", 60),
    checkout.SaleNotClosed: Problem(409, "sale_not_closed"),
    checkout.FiguresChanged: Problem(409, "figures_changed"),
    checkout.SaleCancelled: Problem(409, "sale_cancelled"),
    checkout.PriceChanged: Problem(409, "price_changed"),
    checkout.OrderUnknown: Problem(404, "order_unknown"),
    checkout.OrderExpired: Problem(409, "order_expired"),
    checkout.OrderChanged: Problem(409, "order_changed"),
    checkout.OrderStateConflict: Problem(409, "order_state_conflict"),
    checkout.EntryUnknown: Problem(404, "entry_unknown"),
    checkout.EntryRedeemed: Problem(409, "entry_redeemed"),
    checkout.EntryVoid: Problem(409, "entry_void"),
    checkout.EntryNotYet: Problem(409, "entry_not_yet"),
    checkout.EntryExpired: Problem(409, "entry_expired"),
    checkout.SaleNotOpen: Problem(409, "sale_not_open"),
    checkout.AmountMismatch: Problem(409, "amount_mismatch"),
    checkout.PaymentDeclined: Problem(402, "payment_declined"),
    checkout.ShopRecovering: Problem(503, "recovering", 1),
    checkout.RecordBehind: Problem(503, "record_behind", 2),
    checkout.ProviderAway: Problem(503, "provider_away", 2),
    checkout.NoticesExhausted: Problem(503, "streams_exhausted", 5),
    checkout.ProductUnknown: Problem(404, "product_unknown"),
    checkout.CartEmpty: Problem(409, "cart_empty"),
    checkout.ProductUnavailable: Problem(409, "product_unavailable"),
    checkout.ProviderUnknown: Problem(404, "provider_unknown"),
    checkout.SignatureInvalid: Problem(403, "signature_invalid"),
    checkout.EventUnreadable: Problem(422, "event_unreadable"),
    # Stores. Clients of ours raise these in an outage; the caller can do nothing but ask again.
    Overloaded: Problem(503, "overloaded", 1),
    auth.StoreUnavailable: STORE_UNAVAILABLE,
    redis.exceptions.ConnectionError: STORE_UNAVAILABLE,
    redis.exceptions.TimeoutError: STORE_UNAVAILABLE,
    redis.exceptions.ReadOnlyError: STORE_UNAVAILABLE,
    redis.exceptions.OutOfMemoryError: STORE_UNAVAILABLE,
    redis.exceptions.ClusterError: STORE_UNAVAILABLE,
    asyncpg.PostgresConnectionError: STORE_UNAVAILABLE,
    asyncpg.InterfaceError: STORE_UNAVAILABLE,
    asyncpg.InsufficientResourcesError: STORE_UNAVAILABLE,
    asyncpg.OperatorInterventionError: STORE_UNAVAILABLE,
    asyncpg.ReadOnlySQLTransactionError: STORE_UNAVAILABLE,
    asyncpg.LockNotAvailableError: STORE_UNAVAILABLE,
    asyncpg.TransactionRollbackError: STORE_UNAVAILABLE,
    ConnectionError: STORE_UNAVAILABLE,
    TimeoutError: STORE_UNAVAILABLE,
    socket.gaierror: STORE_UNAVAILABLE,
}

# What aiohttp itself refuses, by status.
HTTP_PROBLEMS: Mapping[int, Problem] = {
    problem.status: problem
    for problem in (
        Problem(400, "bad_request"),
        NOT_FOUND,
        Problem(405, "method_not_allowed"),
        Problem(408, "request_timeout"),
        Problem(413, "payload_too_large"),
        Problem(417, "expectation_failed"),
        Problem(431, "headers_too_large"),
    )
}

# Replies by which Redis refuses to work for a while; any other error reply is a bug of ours.
REDIS_AWAY = ("MISCONF", "NOREPLICAS", "LOADING", "BUSY", "MASTERDOWN", "OOM", "READONLY", "CLUSTERDOWN", "TRYAGAIN")
OS_AWAY = frozenset({None, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EMFILE, errno.ENFILE})


def codes() -> frozenset[str]:
    """Every word that a client may meet in `code`."""
    return frozenset(p.code for p in (INTERNAL, *PROBLEMS.values(), *HTTP_PROBLEMS.values()))


def problem_of(error: BaseException) -> Problem:
    """How an error is answered: by its nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in PROBLEMS:
            return PROBLEMS[kind]
    if isinstance(error, web.HTTPException):
        return HTTP_PROBLEMS.get(error.status, HTTP_PROBLEMS[400] if error.status < 500 else INTERNAL)
    if isinstance(error, redis.exceptions.ResponseError) and str(error).startswith(REDIS_AWAY):
        return STORE_UNAVAILABLE
    # asyncpg says "no address answered" with a bare OSError.
    if isinstance(error, OSError) and error.errno in OS_AWAY:
        return STORE_UNAVAILABLE
    return INTERNAL


def problem_response(error: BaseException, *, language: Language, request_id: str) -> web.Response:
    """The problem document of an error, with every header that its status demands."""
    problem = problem_of(error)
    headers = {"Content-Type": PROBLEM_TYPE, "Content-Language": language, "Cache-Control": "no-store"}
    headers |= refusal_headers(error, problem)
    if isinstance(error, checkout.CheckoutError) and error.is_replay:
        headers["Idempotency-Replayed"] = "true"
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    body = problem_body(problem, language=language, request_id=request_id) | _extras(error)
    return web.Response(status=problem.status, body=msgspec.json.encode(body), headers=headers)


def refusal_headers(error: BaseException, problem: Problem) -> dict[str, str]:
    """What its status demands, on a document and on a page."""
    headers = {}
    retry_after_s = _retry_after_s(error, problem)
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def problem_body(problem: Problem, *, language: Language, request_id: str) -> dict[str, Any]:
    """The members that every problem has."""
    texts = messages(language)
    return {
        "type": f"/problems/{problem.code}",
        "title": texts[f"problem.{problem.code}.title"],
        "status": problem.status,
        "detail": texts[f"problem.{problem.code}.detail"],
        "code": problem.code,
        "request_id": request_id,
    }


def _retry_after_s(error: BaseException, problem: Problem) -> int | None:
    if isinstance(error, auth.TooManyRequests | checkout.TooManyDrops):
        return max(1, min(error.retry_after_s, RETRY_AFTER_MAX_S))
    return problem.retry_after_s


def _extras(error: BaseException) -> dict[str, Any]:
    """Members that one kind of problem adds."""
    if isinstance(error, auth.InvalidRequest):
        return {"errors": error.errors}
    if isinstance(error, catalog.SaleFileInvalid):
        return {"errors": [auth.Flaw("#", "bad_value", flaw) for flaw in error.flaws]}
    if isinstance(error, checkout.PriceChanged):
        return {"total": {"amount": error.amount, "currency": error.currency}}
    if isinstance(error, checkout.EntryRedeemed):
        return {"redeemed_at": rfc3339(error.redeemed_at_ms)}
    if isinstance(error, checkout.EntryNotYet | checkout.EntryExpired):
        return {"visit_on": error.visit_on.isoformat()}
    if isinstance(error, checkout.PaymentDeclined):
        return {"reason": error.reason, "retryable": error.retryable}
    return {}
