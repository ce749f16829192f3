"""The lean floor of a whole journey: the same steps as onsale's, each by the least code that does it, nothing beside.

Written without a line of onsale. Join, reserve, pin and sell go to Redis in one batch a loop tick; a poll is answered
from memory; a pass is one Ed25519 signature made and one checked; a confirmation stands in Postgres twice, before the
provider is asked and before it is answered, each time in one statement for all that gathered meanwhile. It has one
process, one sale, one item; no epochs, no events, no signs of life, no recovery: it shows what those cost.

The scripts stand here and not in files of their own, so that the whole floor can be read on one page.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import asyncpg
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis

from bench.floor_servers import JSON, Setup, charge

ADMIT_INTERVAL_S = 0.05
HOLD_MS = PASS_MS = 600_000
AMOUNT = 1_990_000

JOIN = """
local answers = {}
for i, buyer in ipairs(cmsgpack.unpack(ARGV[1])) do
  local place = redis.call("HGET", KEYS[2], buyer)
  if not place then
    place = redis.call("INCR", KEYS[1])
    redis.call("HSET", KEYS[2], buyer, place)
    redis.call("ZADD", KEYS[3], place, place)
  end
  answers[i] = tonumber(place)
end
return answers
"""

ADMIT = """
local popped = redis.call("ZPOPMIN", KEYS[1], 5000)
for i = 1, #popped, 2 do redis.call("ZADD", KEYS[2], popped[i], popped[i]) end
return tonumber(popped[#popped] or 0)
"""

RESERVE = """
local now = redis.call("TIME")
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local stock, holds, orders, buyers, turns, keys = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local answers = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local order, buyer, turn, key, digest, exp_ms = unpack(item)
  local known = redis.call("HGET", keys, buyer .. "|" .. key)
  if known then
    answers[i] = string.sub(known, 1, #digest) == digest and {0, string.sub(known, #digest + 1)} or {15}
  elseif exp_ms <= now_ms then answers[i] = {10}
  elseif redis.call("HEXISTS", turns, turn) == 1 then answers[i] = {12}
  elseif redis.call("HEXISTS", buyers, buyer) == 1 then answers[i] = {13}
  elseif tonumber(redis.call("HGET", stock, "free")) < 1 then answers[i] = {4}
  else
    redis.call("HINCRBY", stock, "free", -1)
    redis.call("HSET", orders, order, "reserved|" .. buyer)
    redis.call("HSET", buyers, buyer, order)
    redis.call("HSET", turns, turn, order)
    redis.call("HSET", keys, buyer .. "|" .. key, digest .. order)
    redis.call("ZADD", holds, now_ms + 600000, order)
    answers[i] = {0, order}
  end
end
return answers
"""

PIN = """
local answers = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local order, buyer, key = unpack(item)
  if redis.call("HGET", KEYS[1], order) ~= "reserved|" .. buyer then answers[i] = 18
  else
    redis.call("ZREM", KEYS[2], order)
    redis.call("HSET", KEYS[1], order, "claimed|" .. buyer .. "|" .. key)
    answers[i] = 0
  end
end
return answers
"""

SELL = """
local answers = {}
for i, order in ipairs(cmsgpack.unpack(ARGV[1])) do
  redis.call("HSET", KEYS[1], order, "sold")
  answers[i] = 0
end
return answers
"""

SCHEMA = """
CREATE TABLE IF NOT EXISTS units (product text PRIMARY KEY, stock bigint, claimed bigint, sold bigint,
    CHECK (claimed >= 0 AND sold >= 0 AND claimed + sold <= stock));
CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, buyer text, state text, amount bigint, at timestamptz);
CREATE TABLE IF NOT EXISTS order_items (order_id text, product text, quantity int, unit_amount bigint,
    PRIMARY KEY (order_id, product));
CREATE TABLE IF NOT EXISTS payments (id text PRIMARY KEY, order_id text, key text, state text, UNIQUE (order_id, key));
CREATE TABLE IF NOT EXISTS ledger (id bigserial PRIMARY KEY, order_id text, kind text, amount bigint, at timestamptz);
"""

CLAIM = """
WITH batch AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS b(id, buyer, attempt, key)),
  o AS (INSERT INTO orders SELECT id, buyer, 'confirming', 1990000, now() FROM batch),
  i AS (INSERT INTO order_items SELECT id, 'floor', 1, 1990000 FROM batch),
  p AS (INSERT INTO payments SELECT attempt, id, key, 'pending' FROM batch)
UPDATE units SET claimed = claimed + (SELECT count(*) FROM batch) WHERE product = 'floor'
"""

SOLD = """
WITH batch AS (SELECT * FROM unnest($1::text[], $2::text[]) AS b(id, attempt)),
  o AS (UPDATE orders SET state = 'confirmed' FROM batch WHERE orders.id = batch.id),
  p AS (UPDATE payments SET state = 'captured' FROM batch WHERE payments.id = batch.attempt),
  l AS (INSERT INTO ledger (order_id, kind, amount, at) SELECT id, 'sale', 1990000, now() FROM batch)
UPDATE units SET claimed = claimed - n, sold = sold + n FROM (SELECT count(*) AS n FROM batch) AS counted
WHERE product = 'floor'
"""


class Item(msgspec.Struct):
    product: str
    quantity: int


class ReserveBody(msgspec.Struct):
    items: list[Item]


class Payment(msgspec.Struct):
    provider: str
    method: str
    token: str


class ConfirmBody(msgspec.Struct):
    payment: Payment


class Claims(msgspec.Struct):
    sub: str
    jti: str
    exp: int


RESERVE_BODY = msgspec.json.Decoder(ReserveBody)
CONFIRM_BODY = msgspec.json.Decoder(ConfirmBody)
CLAIMS = msgspec.json.Decoder(Claims)


class Batch:
    """What one loop tick asks goes in one call; while it is under way the next gathers."""

    def __init__(self, send: Callable[[list[Any]], Awaitable[Sequence[Any]]]) -> None:
        self._send = send
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None

    def ask(self, item: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        return future

    async def _drain(self) -> None:
        await asyncio.sleep(0)
        while self._waiting:
            batch, self._waiting = self._waiting[:500], self._waiting[500:]
            for (_, future), answer in zip(batch, await self._send([item for item, _ in batch]), strict=True):
                future.set_result(answer)
        self._task = None


def token_of(secret: str, text: str) -> str:
    """A bearer token: what it says and a MAC over it."""
    return f"{text}.{hmac.digest(secret.encode(), text.encode(), 'sha256')[:16].hex()}"


class Lean:
    """One sale in one process."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._known: dict[str, str] = {}
        self._passes: dict[str, str] = {}
        self._key = Ed25519PrivateKey.generate()
        self._public = self._key.public_key()
        self._serving = 0
        self._numbers = itertools.count(1)

    async def running(self, app: web.Application) -> Any:
        """Connections, and the task that lets everyone in."""
        line = Redis.from_url(self._setup.line_redis, max_connections=64)
        shop = Redis.from_url(self._setup.shop_redis, max_connections=64)
        await line.flushall()
        await shop.flushall()
        await shop.hset("{s}stock", "free", self._setup.stock)
        pool = await asyncpg.create_pool(self._setup.postgres, min_size=2, max_size=4)
        await pool.execute(SCHEMA)
        await pool.execute("TRUNCATE units, orders, order_items, payments, ledger")
        await pool.execute("INSERT INTO units VALUES ('floor', $1, 0, 0)", self._setup.stock)
        self._session = aiohttp.ClientSession(
            self._setup.provider, headers=JSON, connector=aiohttp.TCPConnector(limit=512)
        )
        orders = ["{s}orders"]
        self._join = Batch(_script(line, JOIN, ["{s}tail", "{s}buyers", "{s}waiting"]))
        self._reserve = Batch(
            _script(shop, RESERVE, ["{s}stock", "{s}holds", *orders, "{s}buyers", "{s}turns", "{s}keys"])
        )
        self._pin = Batch(_script(shop, PIN, [*orders, "{s}holds"]))
        self._sell = Batch(_script(shop, SELL, orders))
        self._claim, self._sold = Batch(_commit(pool, CLAIM)), Batch(_commit(pool, SOLD))
        admitting = asyncio.create_task(self._admit(line.register_script(ADMIT)))
        yield
        admitting.cancel()
        await self._session.close()
        await pool.close()
        await line.aclose()
        await shop.aclose()

    async def _admit(self, script: Any) -> None:
        while True:
            self._serving = max(self._serving, await script(["{s}waiting", "{s}leases"]))
            await asyncio.sleep(ADMIT_INTERVAL_S)

    def _holder(self, request: web.Request) -> str:
        token = request.headers["Authorization"][7:]
        text = self._known.get(token)
        if text is None:
            text = token.rpartition(".")[0]
            if not hmac.compare_digest(token_of(self._setup.secret, text), token):
                raise web.HTTPUnauthorized
            self._known[token] = text
        return text

    async def join(self, request: web.Request) -> web.Response:
        buyer = self._holder(request)
        place = await self._join.ask(buyer)
        return _json(201, self._ticket(place, buyer, token_of(self._setup.secret, f"{place}~{buyer}")))

    async def poll(self, request: web.Request) -> web.Response:
        place, _, buyer = self._holder(request).partition("~")
        return _json(200, self._ticket(int(place), buyer, None))

    def _ticket(self, place: int, buyer: str, token: str | None) -> bytes:
        is_in = place <= self._serving
        more = f'"pass":{{"token":"{self._pass(place, buyer)}"}}' if is_in else '"pass":null'
        more += f',"ticket_token":"{token}"' if token else ""
        return (
            f'{{"ticket":"{place}","sale":"floor","lane":"general","state":"{"admitted" if is_in else "waiting"}",'
            f'"place":{place},"ahead":{max(0, place - self._serving - 1)},"wait_ms":null,"poll_after_ms":4000,'
            f'"reason":null,{more}}}'
        ).encode()

    def _pass(self, place: int, buyer: str) -> str:
        made = self._passes.get(buyer)
        if made is None:
            exp_ms = time.time_ns() // 1_000_000 + PASS_MS
            claims = f'{{"sub":"{buyer}","jti":"{place}","exp":{exp_ms}}}'.encode()
            made = _b64(claims) + "." + _b64(self._key.sign(claims))
            self._passes[buyer] = made
        return made

    def _checked(self, token: str) -> Claims:
        claims, _, signature = token.partition(".")
        raw = _unb64(claims)
        self._public.verify(_unb64(signature), raw)
        return CLAIMS.decode(raw)

    async def reserve(self, request: web.Request) -> web.Response:
        buyer, key = self._holder(request), request.headers["Idempotency-Key"]
        claims = self._checked(request.headers["Admission-Pass"])
        raw = await request.read()
        body = RESERVE_BODY.decode(raw)
        if claims.sub != buyer or body.items[0].product != "floor":
            raise web.HTTPForbidden
        digest = hashlib.blake2b(raw, digest_size=8).hexdigest()
        order = f"{time.time_ns() // 1_000_000:012x}{os.urandom(7).hex()}"
        answer = await self._reserve.ask((order, buyer, claims.jti, key, digest, claims.exp))
        if answer[0]:
            return _json(409, b'{"code":%d}' % answer[0])
        return _json(201, _order(answer[1].decode(), "reserved"))

    async def confirm(self, request: web.Request) -> web.Response:
        buyer, key = self._holder(request), request.headers["Idempotency-Key"]
        order = request.match_info["order"]
        CONFIRM_BODY.decode(await request.read())
        attempt = f"{order}-{next(self._numbers)}"
        if await self._pin.ask((order, buyer, key)):
            return _json(409, b"{}")
        await self._claim.ask((order, buyer, attempt, key))
        await charge(self._session, attempt)
        await self._sell.ask(order)
        await self._sold.ask((order, attempt))
        return _json(200, _order(order, "confirmed"))


def _script(redis: Redis, text: str, keys: list[str]) -> Callable[[list[Any]], Awaitable[Sequence[Any]]]:
    script = redis.register_script(text)

    async def send(items: list[Any]) -> Sequence[Any]:
        answers: Sequence[Any] = await script(keys, [msgspec.msgpack.encode(items)])
        return answers

    return send


def _commit(pool: asyncpg.Pool, sql: str) -> Callable[[list[Any]], Awaitable[Sequence[Any]]]:
    async def send(items: list[Any]) -> Sequence[Any]:
        await pool.execute(sql, *(list(column) for column in zip(*items, strict=True)))
        return items

    return send


def _order(order: str, state: str) -> bytes:
    return (
        f'{{"order":"{order}","sale":"floor","state":"{state}","items":[{{"product":"floor","title":"Only one kind",'
        f'"quantity":1,"unit_price":{{"amount":{AMOUNT},"currency":"KRW"}}}}],"total":{{"amount":{AMOUNT},'
        f'"currency":"KRW"}},"recorded":{"true" if state == "confirmed" else "false"}}}'
    ).encode()


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, headers=JSON)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def lean(setup: Setup) -> web.Application:
    """The floor's application: four routes."""
    floor = Lean(setup)
    app = web.Application()
    app.cleanup_ctx.append(floor.running)
    app.router.add_post("/v1/sales/{sale}/tickets", floor.join)
    app.router.add_get("/v1/tickets/{ticket}", floor.poll)
    app.router.add_post("/v1/sales/{sale}/orders", floor.reserve)
    app.router.add_post("/v1/orders/{order}/confirmation", floor.confirm)
    return app
