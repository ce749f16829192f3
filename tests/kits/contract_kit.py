"""The whole system inside one test process, asked as strangers ask it: bytes on a socket, and what came back."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from mail_kit import MailServer
from multidict import CIMultiDict

from onsale.auth.accounts import ensure_load_accounts
from onsale.auth.middleware import ACCESS
from onsale.auth.roles import Role
from onsale.server.app import ROOMS
from onsale.server.route import Route

PATIENCE_S = 20
PASSWORD = "blue 전차 seven"
numbers = itertools.count(1)

Body = Any


class Answer:
    """One response, to the letter."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = CIMultiDict(tuple(line.split(": ", 1)) for line in lines if line)
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The problem's word; None where it is no problem."""
        return self.json["code"] if "problem+json" in self.headers.get("Content-Type", "") else None

    def problem(self) -> tuple[int, str]:
        """Status and word of what must be a problem with everything that every problem has."""
        told = self.json
        assert "application/problem+json" == self.headers["Content-Type"]
        assert {"type", "title", "status", "detail", "code", "request_id"} <= set(told)
        assert (self.status, f"/problems/{told['code']}") == (told["status"], told["type"])
        assert self.headers["X-Request-Id"] == told["request_id"]
        assert ("Bearer" if self.status == 401 else None) == self.headers.get("WWW-Authenticate")
        assert (self.status in (429, 503)) == ("Retry-After" in self.headers)
        assert (self.status == 405) == ("Allow" in self.headers)
        assert "Traceback" not in self.body.decode()
        return self.status, told["code"]


class Names(dict[str, str]):
    """Something for every variable part of a path: what is there, and a name of nothing for all else."""

    def __missing__(self, part: str) -> str:
        return "none"


class System:
    """A web process with every loop of the others beside it, on real stores."""

    def __init__(
        self, app: web.Application, address: tuple[str, int], managers: list[str], master: str, mail: MailServer
    ) -> None:
        self.app = app
        # Where its letters arrive.
        self.mail = mail
        self.address = address
        self.manager, self.second_manager = managers
        self.master = master
        self._buyers = 0

    async def buyers(self, count: int) -> list[str]:
        """Access tokens of accounts that nobody has used yet."""
        first, self._buyers = self._buyers + 1, self._buyers + count
        return await tokens(self.app, Role.CUSTOMER, count, first)

    async def buyer(self) -> str:
        return (await self.buyers(1))[0]

    async def person(self, email: str, **more: Any) -> str:
        """Somebody who signed up and verified the address by a letter; an access token. PASSWORD is the password."""
        body = {"email": email, "password": PASSWORD, "name": "김미나", "phone": "010-9876-5432", **more}
        assert 202 == (await self.call("POST", "/v1/accounts", body)).status
        async with asyncio.timeout(PATIENCE_S):
            while not self.mail.to(email):
                await asyncio.sleep(0.02)
        verified = await self.call("POST", "/v1/accounts/verification", {"email": email, "code": self.mail.code(email)})
        assert 204 == verified.status, verified.body
        return await self.signed_in(email)

    async def signed_in(self, email: str) -> str:
        """An access token of a new session."""
        grant = await self.call("POST", "/v1/sessions", {"email": email, "password": PASSWORD, "device": "미나의 전화"})
        assert 201 == grant.status, grant.body
        return str(grant.json["access_token"])

    def allowed(self, route: Route, buyer: str) -> str:
        """The access token of somebody who may make that call: `buyer`, wherever a buyer may."""
        return {"operator": self.manager, "seller": self.manager, "master": self.master}.get(route.who, buyer)

    async def raw(self, sent: bytes) -> Answer:
        """Write these bytes and read one answer."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            async with asyncio.timeout(PATIENCE_S):
                writer.write(sent)
                head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
                answer = Answer(head, b"")
                length = int(answer.headers.get("Content-Length", 0))
                has_body = not sent.startswith(b"HEAD") and answer.status not in (204, 304)
                answer.body = await reader.readexactly(length) if has_body else b""
                return answer
        finally:
            writer.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Body = None,
        token: str | None = None,
        *,
        sent: bytes | None = None,
        media: str | None = "application/json",
        **headers: str,
    ) -> Answer:
        """One request. `body` as JSON, or `sent` as it is; headers by name, `_` for `-`."""
        payload = sent if body is None else json.dumps(body).encode()
        lines = {"Host": "127.0.0.1"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            lines["Authorization"] = f"Bearer {token}"
        if payload is not None:
            lines |= {"Content-Length": str(len(payload))} | ({"Content-Type": media} if media is not None else {})
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return await self.raw(head.encode("utf-8", "surrogateescape") + b"\r\n" + (payload or b""))

    async def until(self, path: str, token: str | None, is_so: Callable[[Any], bool]) -> Any:
        """Ask until the answer is as wanted."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await self.call("GET", path, token=token)
                if answer.status == 200 and is_so(answer.json):
                    return answer.json
                await asyncio.sleep(0.05)

    async def sale(self, *, stock: int = 1000, admission: Mapping[str, Any] | None = None, **fields: Any) -> str:
        """A new sale of the product `<sale>-hat`; its id. Open, and letting everyone in, unless told otherwise."""
        sale = f"sale-{next(numbers)}"
        made = await self.call("POST", "/v1/sales", sale_body(sale, stock, admission or {}, fields), self.manager)
        assert 201 == made.status, made.body
        return sale

    async def joined(self, sale: str, token: str | None) -> Any:
        """A new ticket."""
        answer = await self.call("POST", f"/v1/sales/{sale}/tickets", token=token)
        assert 201 == answer.status, answer.body
        return answer.json

    async def admitted(self, sale: str, token: str) -> Any:
        """A ticket that was let in."""
        ticket = (await self.joined(sale, token))["ticket"]
        return await self.until(f"/v1/tickets/{ticket}", token, lambda told: told["state"] == "admitted")

    async def pass_of(self, sale: str, token: str) -> str:
        return str((await self.admitted(sale, token))["pass"]["token"])

    async def reserve(
        self, sale: str, token: str, admission: str, key: str = "", body: Body = None, quantity: int = 1
    ) -> Answer:
        wanted = body or {"items": [{"product": f"{sale}-hat", "quantity": quantity}]}
        headers = {"Idempotency_Key": key or new_key(), "Admission_Pass": admission}
        return await self.call("POST", f"/v1/sales/{sale}/orders", wanted, token, **headers)

    async def order(self, sale: str, token: str) -> str:
        """A reservation of a buyer who was let in for it."""
        answer = await self.reserve(sale, token, await self.pass_of(sale, token))
        assert 201 == answer.status, answer.body
        return str(answer.json["order"])

    async def pay(self, order: str, token: str, instrument: str = "ok", key: str = "") -> Answer:
        body = {"payment": {"provider": "sandbox", "method": "card", "token": instrument}}
        path = f"/v1/orders/{order}/confirmation"
        return await self.call("POST", path, body, token, Idempotency_Key=key or new_key())


def sale_body(sale: str, stock: int, admission: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a sale."""
    times = {"opens_at": "now", "closes_at": "2030-01-01T00:00:00Z"}
    price = {"amount": 1000, "currency": "KRW"}
    return {
        "sale": {"id": sale, "title": "Hats", **times, "limit_per_buyer": 2, **fields},
        "admission": {"rate_per_second": 1000.0, "active_max": 500, **admission},
        "items": [{"product": f"{sale}-hat", "title": "Hat", "stock": stock, "price": price}],
    }


def new_key() -> str:
    return f"key-{next(numbers)}"


async def tokens(app: web.Application, role: Role, count: int, first: int) -> list[str]:
    """Access tokens of load accounts."""
    now_ms = time.time_ns() // 1_000_000
    pool, access = app[ROOMS].stores.pool, app[ACCESS]
    return list(await ensure_load_accounts(pool, access, count=count, first=first, ttl_s=600, role=role, now_ms=now_ms))
