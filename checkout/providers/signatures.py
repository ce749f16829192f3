"""Whether a webhook is its provider's: HMAC-SHA256 over the raw bytes, in a window of five minutes, in constant time.

Two schemes. Standard Webhooks (https://www.standardwebhooks.com): `webhook-id`, `webhook-timestamp` and
`webhook-signature` (`v1,<base64>`, several with spaces between) over `id.timestamp.body`. Stripe's: `Stripe-Signature`
(`t=…,v1=<hex>`, several) over `timestamp.body`. Every secret is tried against every signature: while a secret is being
changed there are two of each.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import TypeVar

import msgspec

from onsale.checkout.errors import EventUnreadable, SignatureInvalid

T = TypeVar("T")

WINDOW_S = 300
# A sender changes its secret with two of them for a while; more only cost us time.
SIGNATURES_MAX = 8


def sign_standard(event_id: str, at_s: int, raw: bytes, secret: bytes) -> str:
    """One signature as `webhook-signature` carries it."""
    return "v1," + b64encode(_mac(secret, f"{event_id}.{at_s}.".encode() + raw)).decode()


def sign_stripe(at_s: int, raw: bytes, secret: bytes) -> str:
    """One signature as `Stripe-Signature` carries it."""
    return "v1=" + _mac(secret, f"{at_s}.".encode() + raw).hex()


def verify_standard(headers: Mapping[str, str], raw: bytes, secrets: Sequence[bytes], now_s: float) -> str:
    """The event's id. Raises SignatureInvalid."""
    event_id = headers.get("webhook-id", "")
    if not event_id or len(event_id) > 200 or not event_id.isascii():
        raise SignatureInvalid
    at_s = _moment(headers.get("webhook-timestamp", ""), now_s)
    given = headers.get("webhook-signature", "").split(" ")
    _require_one(given, (sign_standard(event_id, at_s, raw, secret) for secret in secrets))
    return event_id


def verify_stripe(headers: Mapping[str, str], raw: bytes, secrets: Sequence[bytes], now_s: float) -> None:
    """Raises SignatureInvalid."""
    parts = [part.strip() for part in headers.get("Stripe-Signature", "").split(",")]
    at_s = _moment(next((part[2:] for part in parts if part.startswith("t=")), ""), now_s)
    given = [part for part in parts if part.startswith("v1=")]
    _require_one(given, (sign_stripe(at_s, raw, secret) for secret in secrets))


def require_recent(at_s: float, now_s: float) -> None:
    """Raises SignatureInvalid for what was sent too long ago, or will be."""
    if not abs(now_s - at_s) <= WINDOW_S:
        raise SignatureInvalid


def read_json(raw: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Raises EventUnreadable."""
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventUnreadable from error


def _mac(secret: bytes, signed: bytes) -> bytes:
    return hmac.new(secret, signed, sha256).digest()


def _moment(text: str, now_s: float) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise SignatureInvalid
    require_recent(int(text), now_s)
    return int(text)


def _require_one(given: Sequence[str], expected: Iterable[str]) -> None:
    # Every pair is compared: which of them is right does not show in the time.
    tried = [one.encode(errors="surrogateescape") for one in given[:SIGNATURES_MAX]]
    matches = [hmac.compare_digest(one, good.encode()) for good in expected for one in tried]
    if True not in matches:
        raise SignatureInvalid
