"""The sandbox: a provider of payments, an HTTP server of its own, so that strangers can judge what was charged.

Promises: an attempt has one result for ever, whoever repeats it and whenever this process dies; what was answered is on
disk first (one fsync for all the requests of a moment); a voided attempt never charges. The payment token says what
happens: `ok`; `decline_*` (may be tried again); `fail_*`, `cancelled_by_buyer` (final); `slow_<ms>` (charges after
that); `timeout` (never answers, never charges); `lost_reply` (charges, then drops the connection). With a `Chaos`,
charges that should go well meet with mishaps too.

Where it knows whom to tell (`Hooks`), it tells of each result that its caller did not hear; in a chaos of every one.

    POST /charges  {"attempt", "order", "amount", "currency", "method", "token"}  200 Result | 409 other body | 422
    GET  /charges?order=                                          every capture, or one order's
    GET  /attempts/{attempt}                                      200 Result | 404
    POST /voids    {"attempt"}                                    200 Result: captured before, or declined for good
    POST /refunds  {"attempt", "key", "amount", "currency"}       200, idempotent by key | 404 | 422
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import structs

from onsale.checkout.providers.chaos import Chaos, Mishap
from onsale.checkout.providers.hooks import Hooks, hook
from onsale.lua.batching import Batcher

JOURNAL = "charges.jsonl"
OK, TIMEOUT, LOST_REPLY, CANCELLED = "ok", "timeout", "lost_reply", "cancelled_by_buyer"
# What a charge that was called done and then was not is declined as.
ABORTED = "decline_aborted"
SLOW = re.compile(r"slow_(\d{1,6})")
# How often a connection that is never to be answered is looked at: aiohttp does not wake a handler whose client left.
SILENCE_STEP_S = 0.2
SILENCE_MAX_S = 120.0
# The reason of an attempt that was voided: it may be tried again, as another attempt.
VOIDED = TIMEOUT


class ChargeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One attempt to take money."""

    attempt: str
    order: str
    amount: int
    currency: str
    method: str
    token: str


class VoidRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    attempt: str


class RefundRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    attempt: str
    key: str
    amount: int
    currency: str


class Result(msgspec.Struct, frozen=True, tag="result"):
    """What became of an attempt; `state` is captured or declined."""

    attempt: str
    order: str
    amount: int
    currency: str
    state: str
    reason: str = ""
    retryable: bool = False
    at_ms: int = 0


class Refund(msgspec.Struct, frozen=True, tag="refund"):
    """Money given back."""

    attempt: str
    key: str
    amount: int
    currency: str
    at_ms: int


class Judged(msgspec.Struct, frozen=True):
    """One capture as `GET /charges` shows it."""

    order: str
    amount: int
    currency: str
    key: str
    charged_at: str
    refunded_at: str | None
    refunded_amount: int


class Unacceptable(Exception):
    """The request asks for what cannot be; the message says what."""


Entry = Result | Refund
ENTRY = msgspec.json.Decoder(Entry)
CHARGE = msgspec.json.Decoder(ChargeRequest)
VOID = msgspec.json.Decoder(VoidRequest)
REFUND = msgspec.json.Decoder(RefundRequest)


class Journal:
    """Results and refunds, one JSON line each. What was answered is on disk; a torn last line was never answered."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+")
        self._batcher: Batcher[Entry, None] = Batcher(self._write)

    async def append(self, entry: Entry) -> None:
        """Returns when the entry is on disk."""
        await self._batcher.submit(entry)

    def read(self) -> Iterator[Entry]:
        """Everything written so far; cuts a torn end off."""
        self._file.seek(0)
        whole = self._file.read()
        end = whole.rfind(b"\n") + 1
        self._file.truncate(end)
        for line in whole[:end].splitlines():
            yield ENTRY.decode(line)

    async def close(self) -> None:
        await self._batcher.close()
        self._file.close()

    async def _write(self, entries: Sequence[Entry]) -> Sequence[None]:
        lines = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
        await asyncio.to_thread(self._write_through, lines)
        return [None] * len(entries)

    def _write_through(self, lines: bytes) -> None:
        self._file.write(lines)
        self._file.flush()
        os.fsync(self._file.fileno())


class Sandbox:
    """The books of the provider: results by attempt, refunds by key."""

    def __init__(self, journal: Journal, hooks: Hooks | None = None, chaos: Chaos | None = None) -> None:
        self._journal = journal
        self._hooks = hooks
        self._chaos = chaos
        self._results: dict[str, Result] = {}
        self._refunds: dict[str, Refund] = {}
        self._by_order: dict[str, list[Result]] = {}
        self._running: dict[str, asyncio.Task[Result]] = {}
        self._refunding: dict[str, asyncio.Task[None]] = {}
        for entry in journal.read():
            self._remember(entry)

    def find(self, attempt: str) -> Result | None:
        return self._results.get(attempt)

    async def charge(self, request: ChargeRequest) -> tuple[Result, bool]:
        """The attempt's one result, and whether this call made it. A call while it is being made waits for it."""
        known = self._results.get(request.attempt)
        if known is not None:
            return _same(known, request), False
        if request.attempt in self._running:
            return _same(await asyncio.shield(self._running[request.attempt]), request), False
        return await self._settle(request.attempt, self._charge(request)), True

    def mishap(self, request: ChargeRequest) -> Mishap:
        """What befalls a charge that should go well."""
        return Mishap.NONE if self._chaos is None or request.token != OK else self._chaos.mishap(request.attempt)

    async def tell(self, result: Result, mishap: Mishap, *, is_heard: bool) -> None:
        """Tell of a result: before it is answered, as often as it happens to be told."""
        if self._hooks is None or (is_heard and self._chaos is None):
            return
        told = hook(f"charge.{result.state}", result.attempt)
        if mishap is Mishap.EARLY:
            await self._hooks.send(told)
            return
        for _ in range(3 if mishap is Mishap.DOUBLE else 1):
            self._hooks.tell(told)

    async def void(self, attempt: str) -> Result | None:
        """Make sure that the attempt never charges from now on; None = it is being charged at this moment."""
        if attempt in self._running:
            return None
        known = self._results.get(attempt)
        if known is not None:
            return known
        voided = Result(attempt, "", 0, "", "declined", VOIDED, True, _now_ms())
        return await self._settle(attempt, self._keep(voided))

    async def refund(self, request: RefundRequest) -> Refund | None:
        """Give money back once per key; None = there is no such capture."""
        if request.key in self._refunds:
            if request.key in self._refunding:
                await asyncio.shield(self._refunding[request.key])
            return self._refunds[request.key]
        result = self._results.get(request.attempt)
        if result is None or result.state != "captured":
            return None
        if request.currency != result.currency or not 0 < request.amount <= result.amount - self._given(result):
            raise Unacceptable("the amount is more than is left of the capture")
        refund = Refund(request.attempt, request.key, request.amount, request.currency, _now_ms())
        # Counted before it is on disk: a second key must not give the same money back while the first is written.
        self._remember(refund)
        task = asyncio.ensure_future(self._journal.append(refund))
        self._refunding[request.key] = task
        task.add_done_callback(lambda _: self._refunding.pop(request.key, None))
        await asyncio.shield(task)
        return refund

    def captures(self, order: str | None) -> list[Judged]:
        orders = self._by_order if order is None else {order: self._by_order.get(order, [])}
        return [self._judged(result) for results in orders.values() for result in results]

    async def close(self) -> None:
        """Slow charges that have not been made yet never will be, unless somebody repeats them."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _settle(self, attempt: str, making: Coroutine[Any, Any, Result]) -> Result:
        # A task of its own: a client that hangs up does not stop a charge that has begun.
        task = asyncio.ensure_future(making)
        self._running[attempt] = task
        task.add_done_callback(lambda _: self._running.pop(attempt, None))
        return await asyncio.shield(task)

    async def _charge(self, request: ChargeRequest) -> Result:
        slow = SLOW.fullmatch(request.token)
        if slow is not None:
            await asyncio.sleep(int(slow[1]) / 1000)
        mishap = self.mishap(request)
        if mishap is Mishap.LATE and self._chaos is not None:
            await asyncio.sleep(self._chaos.late_ms(request.attempt) / 1000)
        if mishap is Mishap.ABORTED:
            if self._hooks is not None:
                await self._hooks.send(hook("charge.captured", request.attempt))
            return await self._keep(_result(structs.replace(request, token=ABORTED)))
        return await self._keep(_result(request))

    async def _keep(self, result: Result) -> Result:
        await self._journal.append(result)
        self._remember(result)
        return result

    def _remember(self, entry: Entry) -> None:
        if isinstance(entry, Refund):
            self._refunds[entry.key] = entry
            return
        self._results[entry.attempt] = entry
        if entry.state == "captured":
            self._by_order.setdefault(entry.order, []).append(entry)

    def _given(self, result: Result) -> int:
        return sum(refund.amount for refund in self._refunds.values() if refund.attempt == result.attempt)

    def _judged(self, result: Result) -> Judged:
        refunds = [refund for refund in self._refunds.values() if refund.attempt == result.attempt]
        return Judged(
            order=result.order,
            amount=result.amount,
            currency=result.currency,
            key=result.attempt,
            charged_at=_rfc3339(result.at_ms),
            refunded_at=_rfc3339(max(refund.at_ms for refund in refunds)) if refunds else None,
            refunded_amount=sum(refund.amount for refund in refunds),
        )


def _same(known: Result, request: ChargeRequest) -> Result:
    if known.order and (known.order, known.amount, known.currency) != (request.order, request.amount, request.currency):
        raise Unacceptable("this attempt was made with another order or amount")
    return known


def _result(request: ChargeRequest) -> Result:
    """What the token asks for."""
    state, reason, is_retryable = "captured", "", False
    if request.token.startswith("decline_"):
        state, reason, is_retryable = "declined", request.token.removeprefix("decline_"), True
    elif request.token.startswith("fail_"):
        state, reason = "declined", request.token.removeprefix("fail_")
    elif request.token == CANCELLED:
        state, reason = "declined", request.token
    elif request.token not in (OK, LOST_REPLY) and not SLOW.fullmatch(request.token):
        state, reason = "declined", "token_unknown"
    return Result(
        request.attempt, request.order, request.amount, request.currency, state, reason, is_retryable, _now_ms()
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _rfc3339(at_ms: int) -> str:
    seconds, ms = divmod(at_ms, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ms:03d}Z"


BOOKS = web.AppKey("sandbox", Sandbox)
CLOSING = web.AppKey("closing", asyncio.Event)


async def charge(request: web.Request) -> web.StreamResponse:
    asked = CHARGE.decode(await request.read())
    books = request.app[BOOKS]
    if asked.token == TIMEOUT and books.find(asked.attempt) is None:
        return await _silence(request)
    mishap = books.mishap(asked)
    result, is_first = await books.charge(asked)
    if not is_first:
        return _json(result)
    is_lost = asked.token == LOST_REPLY or mishap is Mishap.SILENCE
    is_gone = request.transport is None or request.transport.is_closing()
    await books.tell(result, mishap, is_heard=not is_lost and not is_gone)
    if mishap is Mishap.SILENCE:
        return await _silence(request)
    if is_lost and request.transport is not None:
        request.transport.abort()
    return _json(result)


async def _silence(request: web.Request) -> web.StreamResponse:
    """Say nothing for as long as the caller listens."""
    waited_s = 0.0
    is_closing = request.app[CLOSING].is_set
    while waited_s < SILENCE_MAX_S and request.transport is not None and not request.transport.is_closing():
        if is_closing():
            break
        await asyncio.sleep(SILENCE_STEP_S)
        waited_s += SILENCE_STEP_S
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=504)


async def charges(request: web.Request) -> web.Response:
    return _json({"items": request.app[BOOKS].captures(request.query.get("order")), "next_cursor": None})


async def attempt(request: web.Request) -> web.Response:
    result = request.app[BOOKS].find(request.match_info["attempt"])
    return _problem(404, "there is no such attempt") if result is None else _json(result)


async def void(request: web.Request) -> web.Response:
    result = await request.app[BOOKS].void(VOID.decode(await request.read()).attempt)
    return _problem(409, "the attempt is being charged") if result is None else _json(result)


async def refund(request: web.Request) -> web.Response:
    done = await request.app[BOOKS].refund(REFUND.decode(await request.read()))
    return _problem(404, "there is no such capture") if done is None else _json(done)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _problem(status: int, detail: str) -> web.Response:
    problem = {"status": status, "detail": detail}
    return web.Response(status=status, body=msgspec.json.encode(problem), content_type="application/problem+json")


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _problem(422, str(error))
    except Unacceptable as error:
        return _problem(409 if request.path == "/charges" else 422, str(error))


def create_sandbox(data_path: Path, hooks: Hooks | None = None, chaos: Chaos | None = None) -> web.Application:
    """The sandbox's application; `data_path` is the folder of its journal, made when missing."""
    data_path.mkdir(parents=True, exist_ok=True)
    journal = Journal(data_path / JOURNAL)
    app = web.Application(middlewares=[_refusals])
    app[BOOKS] = Sandbox(journal, hooks, chaos)
    app[CLOSING] = asyncio.Event()
    app.router.add_post("/charges", charge)
    app.router.add_get("/charges", charges)
    app.router.add_get("/attempts/{attempt}", attempt)
    app.router.add_post("/voids", void)
    app.router.add_post("/refunds", refund)

    async def start(_: web.Application) -> None:
        if hooks is not None:
            hooks.start()

    async def stop(_: web.Application) -> None:
        app[CLOSING].set()

    async def close(_: web.Application) -> None:
        await app[BOOKS].close()
        if hooks is not None:
            await hooks.close()
        await journal.close()

    app.on_startup.append(start)

    app.on_shutdown.append(stop)
    app.on_cleanup.append(close)
    return app
