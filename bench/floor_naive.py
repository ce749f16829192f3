"""The naive floor of a whole journey: the same steps one await at a time, as a first version is usually written.

Each request verifies its token with PyJWT, asks Redis a single command at a time, and commits each row by itself. It
keeps the order that protects buyers (claim recorded, then paid, then sold) but races where scripts would not: it shows
what batching and memory are worth, and sells nothing for real.
"""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis

from bench.floor_lean import AMOUNT, HOLD_MS, PASS_MS, SCHEMA
from bench.floor_servers import JSON, Setup, charge


def naive_token(secret: str, buyer: str) -> str:
    """An access token as PyJWT makes it."""
    return jwt.encode({"sub": buyer, "exp": int(time.time()) + 21_600}, secret.ljust(32, "-"), "HS256")


class Naive:
    """One sale in one process."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._secret = setup.secret.ljust(32, "-")
        self._key = Ed25519PrivateKey.generate()
        self._public = self._key.public_key()

    async def running(self, app: web.Application) -> Any:
        """Connections."""
        self._line = Redis.from_url(self._setup.line_redis, decode_responses=True, max_connections=4096)
        self._shop = Redis.from_url(self._setup.shop_redis, decode_responses=True, max_connections=4096)
        await self._line.flushall()
        await self._shop.flushall()
        await self._shop.set("free", self._setup.stock)
        self._pool = await asyncpg.create_pool(self._setup.postgres, min_size=4, max_size=16)
        await self._pool.execute(SCHEMA)
        await self._pool.execute("TRUNCATE units, orders, order_items, payments, ledger")
        await self._pool.execute("INSERT INTO units VALUES ('floor', $1, 0, 0)", self._setup.stock)
        self._session = aiohttp.ClientSession(
            self._setup.provider, headers=JSON, connector=aiohttp.TCPConnector(limit=512)
        )
        yield
        await self._session.close()
        await self._pool.close()
        await self._line.aclose()
        await self._shop.aclose()

    def _claims(self, request: web.Request) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(request.headers["Authorization"][7:], self._secret, ["HS256"])
        return claims

    async def join(self, request: web.Request) -> web.Response:
        buyer = self._claims(request)["sub"]
        place = int(await self._line.hget("buyers", buyer) or 0)
        if not place:
            place = await self._line.incr("tail")
            await self._line.hset("buyers", buyer, str(place))
            await self._line.zadd("waiting", {buyer: place})
        token = jwt.encode({"sub": buyer, "place": place}, self._secret, "HS256")
        return _json(201, {"ticket": str(place), "state": "waiting", "place": place, "ticket_token": token})

    async def poll(self, request: web.Request) -> web.Response:
        claims = self._claims(request)
        ahead = await self._line.zrank("waiting", claims["sub"])
        asked = await self._line.hincrby("polls", claims["sub"], 1)
        # Let in at the third poll: it has no admitter, and the journey asks five times.
        if asked < 3:
            return _json(200, {"state": "waiting", "place": claims["place"], "ahead": ahead, "pass": None})
        if asked == 3:
            await self._line.zrem("waiting", claims["sub"])
            await self._line.zadd("leases", {claims["sub"]: claims["place"]})
        token = jwt.encode(
            {"sub": claims["sub"], "jti": str(claims["place"]), "exp": int(time.time()) + PASS_MS // 1000},
            self._key,
            "EdDSA",
        )
        return _json(200, {"ticket": str(claims["place"]), "state": "admitted", "pass": {"token": token}})

    async def reserve(self, request: web.Request) -> web.Response:
        buyer, key = self._claims(request)["sub"], request.headers["Idempotency-Key"]
        claims = jwt.decode(request.headers["Admission-Pass"], self._public, ["EdDSA"])
        await request.json()
        if claims["sub"] != buyer or await self._shop.hexists("turns", claims["jti"]):
            return _json(403, {})
        order = await self._shop.hget("keys", f"{buyer}|{key}")
        if order is None:
            if await self._shop.decr("free") < 0:
                return _json(409, {})
            order = uuid4().hex
            await self._shop.hset("orders", order, buyer)
            await self._shop.hset("turns", claims["jti"], order)
            await self._shop.hset("keys", f"{buyer}|{key}", order)
            await self._shop.zadd("holds", {order: time.time() * 1000 + HOLD_MS})
        return _json(201, {"order": order, "state": "reserved"})

    async def confirm(self, request: web.Request) -> web.Response:
        buyer, key = self._claims(request)["sub"], request.headers["Idempotency-Key"]
        order, attempt = request.match_info["order"], uuid4().hex
        await request.json()
        if await self._shop.hget("orders", order) != buyer:
            return _json(404, {})
        await self._shop.zrem("holds", order)
        await self._pool.execute("INSERT INTO orders VALUES ($1, $2, 'confirming', $3, now())", order, buyer, AMOUNT)
        await self._pool.execute("INSERT INTO payments VALUES ($1, $2, $3, 'pending')", attempt, order, key)
        await charge(self._session, attempt)
        await self._shop.hset("orders", order, "sold")
        await self._pool.execute("UPDATE orders SET state = 'confirmed' WHERE id = $1", order)
        await self._pool.execute("UPDATE payments SET state = 'captured' WHERE id = $1", attempt)
        await self._pool.execute(
            "INSERT INTO ledger (order_id, kind, amount, at) VALUES ($1, 'sale', $2, now())", order, AMOUNT
        )
        return _json(200, {"order": order, "state": "confirmed"})


def _json(status: int, answer: dict[str, Any]) -> web.Response:
    # Without spaces: the client finds fields by their bytes.
    return web.Response(status=status, text=json.dumps(answer, separators=(",", ":")), headers=JSON)


def naive(setup: Setup) -> web.Application:
    """The floor's application: four routes."""
    floor = Naive(setup)
    app = web.Application()
    app.cleanup_ctx.append(floor.running)
    app.router.add_post("/v1/sales/{sale}/tickets", floor.join)
    app.router.add_get("/v1/tickets/{ticket}", floor.poll)
    app.router.add_post("/v1/sales/{sale}/orders", floor.reserve)
    app.router.add_post("/v1/orders/{order}/confirmation", floor.confirm)
    return app
