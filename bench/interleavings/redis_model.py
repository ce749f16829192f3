"""A small Redis in memory: the commands that our scripts and processes use, and the scripts themselves, the very files,
run by Lua 5.1 as Redis runs them.

A script is one step: nothing happens between two of its commands. Time is given from outside. What a restart loses is
whatever was written after a snapshot.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

# Redis runs Lua 5.1, and iterates over tables as that does.
lua51: Any = import_module("lupa.lua51")

Id = tuple[int, int]
Blob = bytes
_LUA = r"""
local dispatch, msgpack, json = ...
local function raise(reply)
  if type(reply) == "table" and reply.err then error(reply.err, 0) end
  return reply
end
redis = {
  call = function(...) return raise(dispatch(...)) end,
  pcall = function(...) return dispatch(...) end,
  error_reply = function(text) return {err = text} end,
  status_reply = function(text) return {ok = text} end,
}
cmsgpack, cjson = msgpack, json
return function(text, name)
  local script = assert(loadstring(text, name))
  return function(keys, args)
    KEYS, ARGV = keys, args
    return script()
  end
end
"""


class ModelError(Exception):
    """What Redis answers as an error."""


class Status(bytes):
    """A simple string, such as OK."""


class Stream:
    """Entries in the order of their ids, and the last id ever given."""

    def __init__(self) -> None:
        self.entries: dict[Id, list[Blob]] = {}
        self.last: Id = (0, 0)


class SortedSet(dict[Blob, float]):
    """Members with scores, sorted by (score, member) when they are read."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ranked: list[tuple[float, Blob]] | None = None

    def put(self, member: Blob, score: float) -> None:
        self[member] = score
        self._ranked = None

    def drop(self, member: Blob) -> bool:
        self._ranked = None
        return self.pop(member, None) is not None

    @property
    def ranked(self) -> list[tuple[float, Blob]]:
        if self._ranked is None:
            self._ranked = sorted((score, member) for member, score in self.items())
        return self._ranked


class Members(dict[Blob, None]):
    """A set that keeps the order in which it was filled, so that a run can be repeated."""


KINDS: dict[type, bytes] = {dict: b"hash", SortedSet: b"zset", Members: b"set", Stream: b"stream", bytearray: b"string"}


class RedisModel:
    """One server. `clock_ms` is its own clock."""

    def __init__(self, clock_ms: Callable[[], int], run_id: str) -> None:
        self.clock_ms = clock_ms
        self.run_id = run_id
        self.data: dict[Blob, Any] = {}
        self.listeners: list[Callable[[Blob, Blob], None]] = []
        # Something was added to a stream since this was last looked at.
        self.has_news = False
        # Planted bugs: another text for a script, by its name.
        self.rewrite: Callable[[str], str] = lambda text: text

    def snapshot(self) -> dict[Blob, Any]:
        """What would be on the disk if everything up to now were."""
        return copy.deepcopy(self.data)

    def restart(self, run_id: str, data: dict[Blob, Any] | None = None) -> None:
        """Another process of the server, with everything or with what an earlier snapshot has."""
        self.run_id = run_id
        if data is not None:
            self.data = data
        self.listeners.clear()

    def eval(self, text: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        """Run a script whole; answers as the wire would say it."""
        return _engine().run(self, self.rewrite(text), [_blob(key) for key in keys], [_blob(arg) for arg in args])

    def command(self, name: str, *args: Any) -> Any:
        """One command, as a client sends it. Raises ModelError."""
        return COMMANDS[name.upper()](self, *[_blob(arg) for arg in args])

    def value(self, key: Blob, kind: type) -> Any:
        """What a key holds, or None. Raises ModelError when it holds another kind of thing."""
        found = self.data.get(key)
        if found is not None and type(found) is not kind:
            raise ModelError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return found

    def made(self, key: Blob, kind: type) -> Any:
        """What a key holds, made when it is not there."""
        found = self.value(key, kind)
        if found is None:
            found = self.data[key] = kind()
        return found

    def drop_if_empty(self, key: Blob, value: Any) -> None:
        """Redis keeps no empty collections, but for streams."""
        if not value:
            self.data.pop(key, None)


class _Engine:
    """Lua 5.1 with what Redis puts into it."""

    def __init__(self) -> None:
        self._lua = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=False)
        self._server: RedisModel | None = None
        self._is_table = lua51.lua_type
        text = Path(__file__).with_name("msgpack.lua").read_bytes()
        msgpack = self._lua.execute(text)
        json = self._lua.table_from({b"encode": self._to_json})
        load = self._lua.eval(b"function(text, ...) return assert(loadstring(text))(...) end")
        self._compile = load(_LUA.encode(), self._dispatch, msgpack, json)
        self._scripts: dict[str, Any] = {}

    def run(self, server: RedisModel, text: str, keys: list[bytes], args: list[bytes]) -> Any:
        script = self._scripts.get(text)
        if script is None:
            script = self._scripts[text] = self._compile(text.encode(), b"@script")
        self._server = server
        try:
            return self._from_lua(script(self._lua.table_from(keys), self._lua.table_from(args)))
        except lua51.LuaError as error:
            raise ModelError(str(error)) from error

    def _dispatch(self, name: bytes, *args: Any) -> Any:
        assert self._server is not None
        try:
            found = COMMANDS[name.decode().upper()](self._server, *[_blob(arg) for arg in args])
        except ModelError as error:
            return self._lua.table_from({b"err": str(error).encode()})
        return self._to_lua(found)

    def _to_lua(self, value: Any) -> Any:
        if value is None:
            return False
        if isinstance(value, Status):
            return self._lua.table_from({b"ok": bytes(value)})
        if isinstance(value, list):
            return self._lua.table_from([self._to_lua(item) for item in value])
        return value

    def _from_lua(self, value: Any) -> Any:
        if self._is_table(value) == "table":
            if value[b"err"] is not None:
                raise ModelError(bytes(value[b"err"]).decode())
            if value[b"ok"] is not None:
                return value[b"ok"]
            return self._list_from_lua(value)
        if value is True:
            return 1
        if value is False or value is None:
            return None
        return int(value) if isinstance(value, float) else value

    def _list_from_lua(self, table: Any) -> list[Any]:
        found: list[Any] = []
        while (item := table[len(found) + 1]) is not None:
            found.append(self._from_lua(item))
        return found

    def _to_json(self, value: Any) -> bytes:
        """Text, numbers and lists; scripts encode nothing else."""
        return msgspec.json.encode(self._plain(value))

    def _plain(self, value: Any) -> Any:
        if self._is_table(value) == "table":
            keys = list(value.keys())
            if keys and all(isinstance(key, int) for key in keys):
                return [self._plain(value[key]) for key in sorted(keys)]
            return {key.decode(): self._plain(value[key]) for key in sorted(keys)}
        return value.decode() if isinstance(value, bytes) else value


@cache
def _engine() -> _Engine:
    return _Engine()


def _blob(value: Any) -> bytes:
    """An argument as the wire carries it; Redis writes Lua's numbers with 17 digits."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, float):
        return b"%d" % value if value == int(value) else b"%.17g" % value
    return b"%d" % value


def _number(raw: bytes) -> float:
    text = raw.decode()
    return {"-inf": float("-inf"), "+inf": float("inf"), "inf": float("inf")}.get(text) or float(text)


def _score(value: float) -> bytes:
    return _blob(value)


def stream_id(raw: bytes, seq: int = 0) -> Id:
    """A stream id; without its second part, that is `seq`."""
    ms, _, rest = raw.partition(b"-")
    return int(ms), int(rest) if rest else seq


def id_text(stream: Id) -> bytes:
    return b"%d-%d" % stream


LAST: Id = (2**63, 2**63)


def _type(server: RedisModel, key: Blob) -> Any:
    found = server.data.get(key)
    return Status(b"none" if found is None else KINDS[type(found)])


def _time(server: RedisModel) -> Any:
    seconds, ms = divmod(server.clock_ms(), 1000)
    return [b"%d" % seconds, b"%d" % (ms * 1000)]


def _info(server: RedisModel, *sections: Blob) -> Any:
    return b"# Server\r\nredis_version:7.2.4\r\nrun_id:" + server.run_id.encode() + b"\r\n"


def _exists(server: RedisModel, *keys: Blob) -> Any:
    return sum(key in server.data for key in keys)


def _del(server: RedisModel, *keys: Blob) -> Any:
    return sum(server.data.pop(key, None) is not None for key in keys)


def _rename(server: RedisModel, old: Blob, new: Blob) -> Any:
    if old not in server.data:
        raise ModelError("ERR no such key")
    server.data[new] = server.data.pop(old)
    return Status(b"OK")


def _expire(server: RedisModel, key: Blob, seconds: Blob) -> Any:
    # No run is as long as the times that we set.
    return int(key in server.data)


def _publish(server: RedisModel, channel: Blob, message: Blob) -> Any:
    for listener in list(server.listeners):
        listener(channel, message)
    return len(server.listeners)


def _get(server: RedisModel, key: Blob) -> Any:
    found = server.value(key, bytearray)
    return None if found is None else bytes(found)


def _set(server: RedisModel, key: Blob, value: Blob, *options: Blob) -> Any:
    server.data[key] = bytearray(value)
    return Status(b"OK")


def _setbit(server: RedisModel, key: Blob, at: Blob, bit: Blob) -> Any:
    found, (byte, place) = server.made(key, bytearray), divmod(int(at), 8)
    found.extend(bytes(max(0, byte + 1 - len(found))))
    mask = 128 >> place
    before = int(bool(found[byte] & mask))
    found[byte] = found[byte] | mask if bit == b"1" else found[byte] & ~mask
    return before


def _getbit(server: RedisModel, key: Blob, at: Blob) -> Any:
    found, (byte, place) = server.value(key, bytearray), divmod(int(at), 8)
    return 0 if found is None or byte >= len(found) else int(bool(found[byte] & 128 >> place))


def _setrange(server: RedisModel, key: Blob, at: Blob, value: Blob) -> Any:
    found, first = server.made(key, bytearray), int(at)
    found.extend(bytes(max(0, first + len(value) - len(found))))
    found[first : first + len(value)] = value
    return len(found)


def _getrange(server: RedisModel, key: Blob, first: Blob, last: Blob) -> Any:
    found = bytes(server.value(key, bytearray) or b"")
    return found[int(first) : len(found) if int(last) == -1 else int(last) + 1]


def _bitfield(server: RedisModel, key: Blob, *steps: Blob) -> Any:
    """Single bits are read and set; nothing else is asked."""
    answers: list[int] = []
    rest = list(steps)
    while rest:
        verb, _, at = rest.pop(0), rest.pop(0), rest.pop(0)
        answers.append(_getbit(server, key, at) if verb == b"GET" else _setbit(server, key, at, rest.pop(0)))
    return answers


def _bitcount(server: RedisModel, key: Blob) -> Any:
    return int.from_bytes(server.value(key, bytearray) or b"", "big").bit_count()


def _hset(server: RedisModel, key: Blob, *pairs: Blob) -> Any:
    found = server.made(key, dict)
    before = len(found)
    found.update(zip(pairs[::2], pairs[1::2], strict=True))
    return len(found) - before


def _hsetnx(server: RedisModel, key: Blob, field: Blob, value: Blob) -> Any:
    found = server.made(key, dict)
    return 0 if field in found else _hset(server, key, field, value)


def _hget(server: RedisModel, key: Blob, field: Blob) -> Any:
    return (server.value(key, dict) or {}).get(field)


def _hmget(server: RedisModel, key: Blob, *fields: Blob) -> Any:
    found = server.value(key, dict) or {}
    return [found.get(field) for field in fields]


def _hdel(server: RedisModel, key: Blob, *fields: Blob) -> Any:
    found = server.value(key, dict)
    if found is None:
        return 0
    gone = sum(found.pop(field, None) is not None for field in fields)
    server.drop_if_empty(key, found)
    return gone


def _hgetall(server: RedisModel, key: Blob) -> Any:
    return [part for pair in (server.value(key, dict) or {}).items() for part in pair]


def _hlen(server: RedisModel, key: Blob) -> Any:
    return len(server.value(key, dict) or {})


def _hincrby(server: RedisModel, key: Blob, field: Blob, by: Blob) -> Any:
    found = server.made(key, dict)
    try:
        value = int(found.get(field, b"0")) + int(by)
    except ValueError:
        raise ModelError("ERR hash value is not an integer") from None
    found[field] = b"%d" % value
    return value


def _hscan(server: RedisModel, key: Blob, cursor: Blob, *options: Blob) -> Any:
    # Whole at once, which Redis may do as well.
    return [b"0", _hgetall(server, key)]


def _sadd(server: RedisModel, key: Blob, *members: Blob) -> Any:
    found = server.made(key, Members)
    before = len(found)
    found.update(dict.fromkeys(members))
    return len(found) - before


def _srem(server: RedisModel, key: Blob, *members: Blob) -> Any:
    found = server.value(key, Members)
    if found is None:
        return 0
    before = len(found)
    for member in members:
        found.pop(member, None)
    gone = before - len(found)
    server.drop_if_empty(key, found)
    return gone


def _scard(server: RedisModel, key: Blob) -> Any:
    return len(server.value(key, Members) or ())


def _sismember(server: RedisModel, key: Blob, member: Blob) -> Any:
    return int(member in (server.value(key, Members) or ()))


def _smembers(server: RedisModel, key: Blob) -> Any:
    return list(server.value(key, Members) or ())


def _zadd(server: RedisModel, key: Blob, *pairs: Blob) -> Any:
    found = server.made(key, SortedSet)
    before = len(found)
    for score, member in zip(pairs[::2], pairs[1::2], strict=True):
        found.put(member, _number(score))
    return len(found) - before


def _zrem(server: RedisModel, key: Blob, *members: Blob) -> Any:
    found = server.value(key, SortedSet)
    if found is None:
        return 0
    gone = sum(found.drop(member) for member in members)
    server.drop_if_empty(key, found)
    return gone


def _zcard(server: RedisModel, key: Blob) -> Any:
    return len(server.value(key, SortedSet) or ())


def _zscore(server: RedisModel, key: Blob, member: Blob) -> Any:
    found = (server.value(key, SortedSet) or {}).get(member)
    return None if found is None else _score(found)


def _zmscore(server: RedisModel, key: Blob, *members: Blob) -> Any:
    return [_zscore(server, key, member) for member in members]


def _bound(raw: Blob) -> tuple[float, bool]:
    is_open = raw.startswith(b"(")
    return _number(raw[is_open:]), is_open


def _in_range(server: RedisModel, key: Blob, low: Blob, high: Blob) -> list[tuple[float, Blob]]:
    (least, open_low), (most, open_high) = _bound(low), _bound(high)
    ranked = getattr(server.value(key, SortedSet), "ranked", [])
    return [
        (score, member)
        for score, member in ranked
        if (score > least if open_low else score >= least) and (score < most if open_high else score <= most)
    ]


def _with_scores(found: list[tuple[float, Blob]], options: Sequence[Blob]) -> list[Blob]:
    if b"WITHSCORES" in options:
        return [part for score, member in found for part in (member, _score(score))]
    return [member for _, member in found]


def _limited(found: list[tuple[float, Blob]], options: Sequence[Blob]) -> list[tuple[float, Blob]]:
    if b"LIMIT" not in options:
        return found
    at = options.index(b"LIMIT")
    first, count = int(options[at + 1]), int(options[at + 2])
    return found[first:] if count < 0 else found[first : first + count]


def _zcount(server: RedisModel, key: Blob, low: Blob, high: Blob) -> Any:
    return len(_in_range(server, key, low, high))


def _zrangebyscore(server: RedisModel, key: Blob, low: Blob, high: Blob, *options: Blob) -> Any:
    return _with_scores(_limited(_in_range(server, key, low, high), options), options)


def _zrange(server: RedisModel, key: Blob, first: Blob, last: Blob, *options: Blob) -> Any:
    if b"BYSCORE" in options:
        return _zrangebyscore(server, key, first, last, *options)
    found = getattr(server.value(key, SortedSet), "ranked", [])
    if b"REV" in options:
        found = found[::-1]
    end = int(last)
    return _with_scores(found[int(first) : len(found) if end == -1 else end + 1], options)


def _xadd(server: RedisModel, key: Blob, at: Blob, *fields: Blob) -> Any:
    stream = server.made(key, Stream)
    following = max((server.clock_ms(), 0), (stream.last[0], stream.last[1] + 1))
    entry = following if at == b"*" else stream_id(at)
    if entry <= stream.last:
        raise ModelError("ERR The ID specified in XADD is equal or smaller than the target stream top item")
    stream.last = entry
    stream.entries[entry] = list(fields)
    server.has_news = True
    return id_text(entry)


def _xdel(server: RedisModel, key: Blob, *entries: Blob) -> Any:
    stream = server.value(key, Stream)
    return 0 if stream is None else sum(stream.entries.pop(stream_id(entry), None) is not None for entry in entries)


def _after(low: Blob) -> tuple[Id, bool]:
    if low == b"-":
        return (0, 0), False
    is_open = low.startswith(b"(")
    return stream_id(low[is_open:]), is_open


def _xrange(server: RedisModel, key: Blob, low: Blob, high: Blob, *options: Blob) -> Any:
    stream = server.value(key, Stream)
    if stream is None:
        return []
    (least, is_open), most = _after(low), LAST if high == b"+" else stream_id(high, LAST[1])
    found = [
        [id_text(entry), list(fields)]
        for entry, fields in stream.entries.items()
        if (entry > least if is_open else entry >= least) and entry <= most
    ]
    return found[: int(options[1])] if options else found


def _xtrim(server: RedisModel, key: Blob, how: Blob, *rest: Blob) -> Any:
    stream, bound = server.value(key, Stream), rest[-1]
    if stream is None:
        return 0
    if how == b"MINID":
        least = stream_id(bound)
        gone = [entry for entry in stream.entries if entry < least]
    else:
        gone = list(stream.entries)[: max(0, len(stream.entries) - int(bound))]
    for entry in gone:
        del stream.entries[entry]
    return len(gone)


def _xlen(server: RedisModel, key: Blob) -> Any:
    stream = server.value(key, Stream)
    return 0 if stream is None else len(stream.entries)


def _xinfo(server: RedisModel, what: Blob, key: Blob) -> Any:
    stream = server.value(key, Stream)
    if stream is None:
        raise ModelError("ERR no such key")
    return [b"length", len(stream.entries), b"last-generated-id", id_text(stream.last)]


COMMANDS: dict[str, Callable[..., Any]] = {
    "TYPE": _type, "TIME": _time, "INFO": _info, "EXISTS": _exists, "DEL": _del, "UNLINK": _del, "RENAME": _rename,
    "EXPIRE": _expire, "PUBLISH": _publish, "GET": _get, "SET": _set, "SETBIT": _setbit, "GETBIT": _getbit,
    "SETRANGE": _setrange, "GETRANGE": _getrange, "BITFIELD": _bitfield, "BITCOUNT": _bitcount,
    "HSET": _hset, "HSETNX": _hsetnx,
    "HGET": _hget, "HMGET": _hmget, "HDEL": _hdel, "HGETALL": _hgetall, "HLEN": _hlen, "HINCRBY": _hincrby,
    "HSCAN": _hscan, "SADD": _sadd, "SREM": _srem, "SCARD": _scard, "SISMEMBER": _sismember, "SMEMBERS": _smembers,
    "ZADD": _zadd, "ZREM": _zrem, "ZCARD": _zcard, "ZSCORE": _zscore, "ZMSCORE": _zmscore, "ZCOUNT": _zcount,
    "ZRANGEBYSCORE": _zrangebyscore, "ZRANGE": _zrange, "XADD": _xadd, "XDEL": _xdel, "XRANGE": _xrange,
    "XTRIM": _xtrim, "XLEN": _xlen, "XINFO": _xinfo,
}  # fmt: skip
