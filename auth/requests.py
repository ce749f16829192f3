"""Reading requests and writing replies: the one door through which a client's bytes come in.

Whatever a client sends either becomes the typed message that the handler asked for, or raises one of `auth.errors`
with a pointer to what is wrong. Nothing of a client's text is echoed beyond 200 characters.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal, NoReturn, TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from onsale.auth.errors import (
    Flaw,
    IdempotencyKeyRequired,
    InvalidRequest,
    MalformedJSON,
    PayloadTooLarge,
    UnsupportedMediaType,
)

T = TypeVar("T")
Language = Literal["ko", "en"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

BODY_BYTES_MAX = 64 * 1024
PAGE_LIMIT_DEFAULT, PAGE_LIMIT_MAX = 20, 100
_TEXT_MAX = 200
_KEY_LENGTH_MAX = 128
# A browser sends about 40 characters; longer ones are cut so that the cache below stays small.
_LANGUAGE_LENGTH_MAX = 200
_FORWARDED_HOPS_MAX = 16
# Several times as many as the largest of our forms has.
_FIELDS_MAX = 100

# Whose X-Forwarded-For is believed; filled by `server/app.py`.
TRUSTED_PROXIES: web.AppKey[tuple[Network, ...]] = web.AppKey("trusted_proxies", tuple)

_encoder = msgspec.json.Encoder()
_PATH_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_AT = re.compile(r"^(?P<said>.*?)(?: - at `\$?(?P<path>.*)`)?$", re.DOTALL)
_NAMED_FIELD = re.compile(r"^Object (?P<what>contains unknown|missing required) field `(?P<name>.*)`$", re.DOTALL)


async def body(request: web.Request, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as the decoder's type. Raises UnsupportedMediaType, PayloadTooLarge, MalformedJSON, InvalidRequest."""
    _require_media(request)
    return parse(await _read(request), decoder)


async def body_or(request: web.Request, decoder: msgspec.json.Decoder[T], default: T) -> T:
    """The same where the body is optional: `default` when none was sent, whatever Content-Type says."""
    if not request.body_exists or request.content_length == 0:
        return default
    raw = await _read(request)
    if not raw:
        # Chunked, and no chunk came.
        return default
    _require_media(request)
    return parse(raw, decoder)


async def form_fields(request: web.Request) -> dict[str, str]:
    """The fields of a form as our pages send it; of a name given twice the last. Raises UnsupportedMediaType,
    PayloadTooLarge, InvalidRequest."""
    if not request.body_exists or request.content_length == 0:
        return {}
    if request.content_type != "application/x-www-form-urlencoded" or not _is_plain(request):
        raise UnsupportedMediaType
    raw = await _read(request)
    try:
        fields = dict(parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=_FIELDS_MAX))
    except ValueError:
        raise InvalidRequest(Flaw("#", "bad_value", "Not a form.")) from None
    if any("\0" in text for field in fields.items() for text in field):
        _refuse_nul("#")
    return fields


def parse(raw: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Bytes to message. Raises MalformedJSON or InvalidRequest."""
    try:
        message = decoder.decode(raw)
    except msgspec.ValidationError as error:
        _require_json(raw)
        raise InvalidRequest(_flaw(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJSON from error
    _require_unique_names(raw)
    # Postgres text cannot hold U+0000. Only an escape can write it in JSON, so this search settles nearly every body.
    if b"\\u0000" in raw:
        _require_no_nul(msgspec.to_builtins(message), "#")
    return message


def query(request: web.Request, **allowed: Callable[[str], Any]) -> dict[str, Any]:
    """The query's values by name, each through its parser (ValueError, OverflowError = bad), absent ones left out.

    InvalidRequest names every unknown, doubled and bad one at once.
    """
    found: dict[str, Any] = {}
    flaws: list[Flaw] = []
    for name, text in request.query.items():
        if name not in allowed:
            flaws.append(_query_flaw(name, "unknown_field", "There is no such query parameter."))
        elif name in found:
            flaws.append(_query_flaw(name, "duplicate", "Given more than once."))
        else:
            found[name] = None
            try:
                found[name] = _parse_query_value(text, allowed[name])
            except (ValueError, OverflowError):
                flaws.append(_query_flaw(name, "bad_value", "Not a value that this parameter takes."))
    if flaws:
        raise InvalidRequest(*flaws)
    return found


def require_no_query(request: web.Request) -> None:
    """Refuse whatever the query says. Reading it costs as much as a cached token; hardly any request has one."""
    if "?" in request.raw_path:
        query(request)


def whole(text: str, least: int, most: int) -> int:
    """A whole number in plain digits, within its bounds. ValueError for anything else."""
    if not text.isascii() or not text.isdigit() or len(text) > len(str(most)):
        raise ValueError("plain digits")
    number = int(text)
    if not least <= number <= most:
        raise ValueError(f"{least} to {most}")
    return number


def page_limit(text: str) -> int:
    """The `limit` of a list. ValueError for anything but 1 to 100."""
    return whole(text, 1, PAGE_LIMIT_MAX)


def idempotency_key(request: web.Request) -> str:
    """The Idempotency-Key header, 1 to 128 visible ASCII characters, as sent. IdempotencyKeyRequired otherwise."""
    keys = request.headers.getall("Idempotency-Key", ())
    if len(keys) != 1:
        raise IdempotencyKeyRequired
    key = keys[0]
    if not 1 <= len(key) <= _KEY_LENGTH_MAX or not all("!" <= char <= "~" for char in key):
        raise IdempotencyKeyRequired
    return key


def language(request: web.Request) -> Language:
    """What Accept-Language asks for, of the two that we have; English when it names neither."""
    return preferred_language(request.headers.get("Accept-Language", "")[:_LANGUAGE_LENGTH_MAX])


@lru_cache(maxsize=1024)
def preferred_language(header: str) -> Language:
    """`ko` or `en`, by the weights of an Accept-Language header (RFC 9110 §12.5.4)."""
    weights: dict[str, float] = {}
    for choice in header.split(","):
        tag, _, weight = choice.partition(";")
        primary = tag.strip().lower().partition("-")[0]
        weights[primary] = max(weights.get(primary, 0.0), _weight(weight))
    other = weights.get("*", 0.0)
    return "ko" if weights.get("ko", 0.0) > weights.get("en", other) else "en"


def is_seen(request: web.Request, etag: str) -> bool:
    """Whether If-None-Match names what would be answered (RFC 9110 §13.1.2), weakly compared."""
    seen = request.headers.get("If-None-Match")
    if seen is None:
        return False
    return seen.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in seen.split(","))


def reply(status: int, value: object, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(
        status=status, body=_encoder.encode(value), headers={"Content-Type": "application/json", **(headers or {})}
    )


def client_address(request: web.Request) -> str:
    """Where the request comes from: the nearest address on its way that is no trusted proxy.

    Without trusted proxies X-Forwarded-For is ignored. A hop that is no address ends the search: what lies behind it
    is hearsay.
    """
    peer = request.remote or ""
    trusted = request.app.get(TRUSTED_PROXIES, ())
    if not trusted or not is_in(peer, trusted):
        return peer
    hops = ",".join(request.headers.getall("X-Forwarded-For", ())).split(",")
    nearest = peer
    for hop in reversed(hops[-_FORWARDED_HOPS_MAX:]):
        address = _address(hop.strip())
        if address is None:
            break
        nearest = str(address)
        if not is_in(nearest, trusted):
            break
    return nearest


@lru_cache(maxsize=16_384)
def is_in(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address lies in one of the networks; False for what is no address."""
    parsed = _address(address)
    return parsed is not None and any(parsed in network for network in networks)


def rfc3339(ms: int) -> str:
    """Unix milliseconds as RFC 3339 UTC with milliseconds."""
    seconds, rest = divmod(ms, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


def body_digest(value: object) -> str:
    """32 hex digits of a parsed body: equal for bodies that mean the same, whatever their spacing and order."""
    return blake2b(msgspec.msgpack.encode(value, order="deterministic"), digest_size=16).hexdigest()


def _require_media(request: web.Request) -> None:
    if request.content_type not in _media(request) or not _is_plain(request):
        raise UnsupportedMediaType


def _is_plain(request: web.Request) -> bool:
    """UTF-8 as it is: a compressed body could be a thousand times its length, and nobody needs to send one."""
    is_utf8 = (request.charset or "utf-8").lower() in ("utf-8", "utf8")
    return is_utf8 and request.headers.get("Content-Encoding", "identity").lower() == "identity"


def _media(request: web.Request) -> tuple[str, ...]:
    # A patch is a merge patch (RFC 7396), whether its sender says so or plainly says JSON.
    return ("application/json", "application/merge-patch+json") if request.method == "PATCH" else ("application/json",)


async def _read(request: web.Request) -> bytes:
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise PayloadTooLarge
    chunks: list[bytes] = []
    size = 0
    while chunk := await request.content.readany():
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise PayloadTooLarge
        chunks.append(chunk)
    return b"".join(chunks)


def _require_json(raw: bytes) -> None:
    # A typed decoder stops at the first wrong value; what is not JSON further on is the graver fault.
    try:
        msgspec.json.decode(raw)
    except msgspec.ValidationError:
        return  # JSON, with a number that no float holds
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJSON from error


def _require_unique_names(raw: bytes) -> None:
    # A name given twice means one thing to us and perhaps another to a proxy that looked before us. Two microseconds.
    _named_decoder.decode(raw.decode())


def _only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in names if names.count(name) > 1)
        # Where in the body it stands the parser does not say.
        raise InvalidRequest(Flaw("#", "duplicate", f"Given more than once: {name}"[:_TEXT_MAX]))
    return found


# Numbers stay text: their values are nobody's business here.
_named_decoder = json.JSONDecoder(object_pairs_hook=_only_once, parse_int=str, parse_float=str)


def _flaw(message: str) -> Flaw:
    """A msgspec message ("Expected `int`, got `str` - at `$.items[0]`") as pointer, code and sentence."""
    at = _AT.match(message)
    said = at["said"] if at else message
    pointer = _pointer((at and at["path"]) or "")
    named = _NAMED_FIELD.match(said)
    if named:
        is_unknown = named["what"] == "contains unknown"
        return Flaw(
            f"{pointer}/{_escape(named['name'])}"[:_TEXT_MAX],
            "unknown_field" if is_unknown else "missing_field",
            "There is no such field." if is_unknown else "This field is required.",
        )
    code = "wrong_type" if ", got `" in said else "bad_value"
    return Flaw(pointer[:_TEXT_MAX], code, said.replace("`", "")[:_TEXT_MAX])


def _pointer(path: str) -> str:
    """`.items[0].quantity` as `#/items/0/quantity` (RFC 6901)."""
    return "#" + "".join(f"/{_escape(name or index)}" for name, index in _PATH_STEP.findall(path))


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _require_no_nul(value: Any, pointer: str) -> None:
    if isinstance(value, str) and "\0" in value:
        _refuse_nul(pointer)
    if isinstance(value, dict):
        for name, part in value.items():
            _require_no_nul(name, pointer)
            _require_no_nul(part, f"{pointer}/{_escape(str(name))}")
    if isinstance(value, list):
        for index, part in enumerate(value):
            _require_no_nul(part, f"{pointer}/{index}")


def _refuse_nul(pointer: str) -> NoReturn:
    raise InvalidRequest(Flaw(pointer[:_TEXT_MAX], "bad_value", "The character U+0000 is not allowed."))


def _parse_query_value(text: str, parser: Callable[[str], Any]) -> Any:
    if "\0" in text:
        raise ValueError("U+0000")
    return parser(text)


def _query_flaw(name: str, code: str, detail: str) -> Flaw:
    return Flaw(f"?{name}"[:_TEXT_MAX], code, detail)


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:
        return 0.0


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # An IPv4 client on a dual-stack socket is the same client.
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
