"""What our processes see of the model of Redis: as much of redis-py's client as they use, over the network."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from bench.interleavings.network import Lost, Network
from bench.interleavings.redis_model import ModelError, RedisModel


class RedisServer:
    """One server on the network: up or down, with the scripts that were sent to it."""

    def __init__(self, network: Network, model: RedisModel) -> None:
        self.network = network
        self.model = model
        self.is_up = True
        self._texts: dict[str, str] = {}
        # What is looked at after each change, by whoever judges.
        self.watchers: list[Callable[[], None]] = []
        # Blocked reads: what wakes each.
        self._readers: list[tuple[asyncio.Future[Any], Callable[[], Any]]] = []

    def stop(self) -> None:
        """Its process is gone, and with it every connection."""
        self.is_up = False
        self._texts.clear()
        self.model.listeners.clear()
        readers, self._readers = self._readers, []
        for answer, _ in readers:
            if not answer.done():
                answer.set_exception(RedisConnectionError("connection closed by server"))

    def start(self, run_id: str, data: dict[bytes, Any] | None = None) -> None:
        """A new process, with all data or an older state of it."""
        self.model.restart(run_id, data)
        self.is_up = True

    def serve(self, work: Callable[[], Any]) -> Any:
        """Do something on the server, now."""
        if not self.is_up:
            raise RedisConnectionError("connection refused")
        try:
            found = work()
        except ModelError as error:
            raise ResponseError(str(error)) from error
        if self.model.has_news:
            self.model.has_news = False
            self._wake_readers()
        for watcher in self.watchers:
            watcher()
        return found

    def read(self, after: Mapping[str, str], count: int, block_s: float) -> Any:
        """XREAD: at once where there is something, else when there is, or after `block_s`."""

        def look() -> Any:
            found = {
                key: self.model.command("XRANGE", key, f"({upto}", "+", "COUNT", count) for key, upto in after.items()
            }
            return [[key.encode(), _entries(raw)] for key, raw in found.items() if raw]

        found = self.serve(look)
        if found or not block_s:
            return found
        answer = self.network._loop.create_future()
        self._readers.append((answer, look))
        self.network._later(block_s, _finish, answer, [])
        return answer

    def _wake_readers(self) -> None:
        waiting, self._readers = self._readers, []
        for answer, look in waiting:
            if answer.done():
                continue
            found = look()
            if found:
                answer.set_result(found)
            else:
                self._readers.append((answer, look))

    def evalsha(self, sha: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        text = self._texts.get(sha)
        if text is None:
            raise NoScriptError("No matching script")
        return self.serve(lambda: self.model.eval(text, keys, args))

    def eval(self, text: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        if self.is_up:
            self._texts[hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()] = text
        return self.serve(lambda: self.model.eval(text, keys, args))


class RedisClient:
    """One process's client. Answers what redis-py answers, undecoded."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    async def evalsha(self, sha: str, numkeys: int, *rest: Any) -> Any:
        return await self._call(lambda: self._server.evalsha(sha, rest[:numkeys], rest[numkeys:]))

    async def eval(self, text: str, numkeys: int, *rest: Any) -> Any:
        return await self._call(lambda: self._server.eval(text, rest[:numkeys], rest[numkeys:]))

    async def hget(self, key: str, field: str) -> Any:
        return await self._command("HGET", key, field)

    async def get(self, key: str) -> Any:
        return await self._command("GET", key)

    async def hset(self, key: str, field: str, value: Any) -> Any:
        return await self._command("HSET", key, field, value)

    async def hgetall(self, key: str) -> dict[bytes, bytes]:
        return _pairs(await self._command("HGETALL", key))

    async def exists(self, key: str) -> Any:
        return await self._command("EXISTS", key)

    async def xrange(self, key: str, *, min: str = "-", max: str = "+", count: int) -> Any:
        return _entries(await self._command("XRANGE", key, min, max, "COUNT", count))

    async def xtrim(self, key: str, *, minid: str) -> Any:
        return await self._command("XTRIM", key, "MINID", "~", minid)

    async def xinfo_stream(self, key: str) -> dict[str, Any]:
        found = await self._command("XINFO", "STREAM", key)
        return {name.decode(): value for name, value in zip(found[::2], found[1::2], strict=True)}

    async def xread(self, after: Mapping[str, str], *, count: int, block: int | None) -> Any:
        return await self._call(lambda: self._server.read(after, count, (block or 0) / 1000))

    async def time(self) -> tuple[int, int]:
        seconds, microseconds = await self._command("TIME")
        return int(seconds), int(microseconds)

    def pipeline(self, *, transaction: bool) -> Pipeline:
        assert not transaction
        return Pipeline(self._server, self)

    def pubsub(self) -> Subscription:
        return Subscription(self._server, self)

    async def _command(self, *command: Any) -> Any:
        return await self._call(lambda: self._server.serve(lambda: self._server.model.command(*command)))

    async def _call(self, serve: Callable[[], Any]) -> Any:
        try:
            return await self._server.network.call(serve)
        except Lost:
            raise RedisTimeoutError("timed out") from None


class Pipeline:
    """Commands that travel together; each is a step of its own."""

    def __init__(self, server: RedisServer, client: RedisClient) -> None:
        self._server = server
        self._client = client
        self._commands: list[tuple[Any, ...]] = []

    async def __aenter__(self) -> Pipeline:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._commands.clear()

    def hget(self, key: str, field: str) -> None:
        self._commands.append(("HGET", key, field))

    def expire(self, key: str, seconds: int) -> None:
        self._commands.append(("EXPIRE", key, seconds))

    async def execute(self) -> list[Any]:
        commands, model = list(self._commands), self._server.model
        found: list[Any] = await self._client._call(
            lambda: self._server.serve(lambda: [model.command(*command) for command in commands])
        )
        return found


class Subscription:
    """Messages in the order in which they were published; what was published while nobody listened is lost."""

    def __init__(self, server: RedisServer, client: RedisClient) -> None:
        self._server = server
        self._client = client
        self._prefix = self._suffix = b""
        self._heard: deque[dict[str, Any]] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._arrives_at = 0.0

    async def psubscribe(self, pattern: str) -> None:
        self._prefix, self._suffix = pattern.encode().split(b"*", 1)[0], pattern.encode().rsplit(b"*", 1)[1]
        await self._client._call(lambda: self._server.serve(self._listen))

    async def get_message(self, *, timeout: float) -> dict[str, Any] | None:
        if self._on_message not in self._server.model.listeners:
            raise RedisConnectionError("connection closed by server")
        if not self._heard and timeout > 0:
            self._waiting = asyncio.get_running_loop().create_future()
            wake = asyncio.get_running_loop().call_later(timeout, _wake, self._waiting)
            try:
                await self._waiting
            finally:
                wake.cancel()
                self._waiting = None
        return self._heard.popleft() if self._heard else None

    async def aclose(self) -> None:
        if self._on_message in self._server.model.listeners:
            self._server.model.listeners.remove(self._on_message)

    def _listen(self) -> None:
        if self._on_message not in self._server.model.listeners:
            self._server.model.listeners.append(self._on_message)

    def _on_message(self, channel: bytes, message: bytes) -> None:
        if not (channel.startswith(self._prefix) and channel.endswith(self._suffix)):
            return
        network = self._server.network
        if network._rng.random() < network.weather.lost_answers:
            return
        # One connection: nothing overtakes.
        loop = network._loop
        self._arrives_at = max(self._arrives_at, loop.time() + network.delay_s()) + 1e-9
        found = {"type": "pmessage", "channel": channel, "data": message}
        network._later(self._arrives_at - loop.time(), self._arrive, found)

    def _arrive(self, message: dict[str, Any]) -> None:
        self._heard.append(message)
        if self._waiting is not None:
            _wake(self._waiting)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _finish(answer: asyncio.Future[Any], found: Any) -> None:
    if not answer.done():
        answer.set_result(found)


def _pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _entries(raw: Sequence[Any]) -> list[tuple[bytes, dict[bytes, bytes]]]:
    return [(entry, _pairs(fields)) for entry, fields in raw]
