"""Access tokens: forged by nobody, good for ten minutes, ended at once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest

from onsale.auth.access import ACCESS_TTL_S, AccessTokens
from onsale.auth.errors import PassInvalid, Unauthenticated
from onsale.auth.identity import Identity
from onsale.auth.keys import Keyring
from onsale.auth.passes import Passes
from onsale.auth.roles import Role
from onsale.auth.tickets import Tickets

ISSUER = "https://shop.example"
NOW_MS = 1_790_000_000_000
KEYRING = Keyring([b"n" * 32, b"o" * 32])
KEY = KEYRING.derive("access")[0]
MINA = Identity(account="mina", role=Role.CUSTOMER, session="s1", is_verified=True, via="bearer")


def tokens(keyring: Keyring = KEYRING) -> AccessTokens:
    return AccessTokens(keyring, ISSUER, revoked=())


def mint(access: AccessTokens, now_ms: int = NOW_MS) -> str:
    return access.mint(account="mina", role=Role.CUSTOMER, session="s1", is_verified=True, now_ms=now_ms)


def b64(value: bytes | dict[str, Any]) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


GOOD = mint(tokens())
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")
HEADER_CLAIMS = jwt.get_unverified_header(GOOD)
CLAIMS = jwt.decode(GOOD, options={"verify_signature": False})


def signed(header: dict[str, Any], payload: dict[str, Any], secret: bytes = KEY.secret) -> str:
    """A token with any header and claims under a real signature."""
    text = f"{b64(header)}.{b64(payload)}"
    return f"{text}.{b64(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in CLAIMS.items() if key != name}


def test_a_token_says_who_asks() -> None:
    """Account, role, session and whether the address is verified."""
    assert MINA == tokens().verify(GOOD, NOW_MS)
    assert "cookie" == tokens().verify(GOOD, NOW_MS, via="cookie").via


def test_a_token_expires_though_it_is_cached() -> None:
    """Having been verified does not lengthen its life."""
    access = tokens()
    end_ms = NOW_MS + ACCESS_TTL_S * 1000
    access.verify(GOOD, end_ms - 1)

    with pytest.raises(Unauthenticated):
        access.verify(GOOD, end_ms)


def test_an_ended_session_is_refused_though_it_is_cached() -> None:
    """Known in this process, refused by this process."""
    ended: set[str] = set()
    access = AccessTokens(KEYRING, ISSUER, ended)
    access.verify(GOOD, NOW_MS)
    ended.add("s1")

    with pytest.raises(Unauthenticated):
        access.verify(GOOD, NOW_MS)


def test_tokens_outlive_a_rotation() -> None:
    """A token of the older secret is good; one of the newer is not for those who lack it."""
    before = tokens(Keyring([b"o" * 32]))

    assert MINA == tokens().verify(mint(before), NOW_MS)
    with pytest.raises(Unauthenticated):
        before.verify(GOOD, NOW_MS)


def a_pass() -> str:
    passes = Passes(KEYRING, ISSUER)
    return passes.mint(
        sale="onsale", buyer="mina", turn="1-1-0", lane="general", epoch=1, iat_ms=NOW_MS, exp_ms=NOW_MS + 600_000
    )


def a_ticket_token() -> str:
    tickets = Tickets(KEYRING)
    return tickets.token(tickets.issue(1, 0, 1, NOW_MS, "mina"), "mina")


ATTACKS = {
    "nothing": "",
    "one part": "x",
    "no signature": f"{HEADER}.{PAYLOAD}.",
    "four parts": f"{GOOD}.x",
    "alg none": f"{b64({**HEADER_CLAIMS, 'alg': 'none'})}.{PAYLOAD}.",
    "alg nOnE with the signature": f"{b64({**HEADER_CLAIMS, 'alg': 'nOnE'})}.{PAYLOAD}.{SIGNATURE}",
    "alg none under our header": f"{HEADER}.{PAYLOAD}.",
    "an empty secret": signed(HEADER_CLAIMS, CLAIMS, b""),
    "HMAC with the published key of passes": signed(
        HEADER_CLAIMS, CLAIMS, Passes(KEYRING, ISSUER).jwks()["keys"][0]["x"].encode()
    ),
    "RS256": f"{b64({**HEADER_CLAIMS, 'alg': 'RS256'})}.{PAYLOAD}.{SIGNATURE}",
    "HS512": f"{b64({**HEADER_CLAIMS, 'alg': 'HS512'})}.{PAYLOAD}.{SIGNATURE}",
    "another secret": signed(HEADER_CLAIMS, CLAIMS, b"t" * 32),
    "the key of another purpose": signed(HEADER_CLAIMS, CLAIMS, KEYRING.derive("seal")[0].secret),
    "kid is a path": signed({**HEADER_CLAIMS, "kid": "../../../../dev/null"}, CLAIMS, b""),
    "kid is another kind's": signed({**HEADER_CLAIMS, "kid": KEYRING.derive("pass")[0].kid}, CLAIMS),
    "jku": signed({**HEADER_CLAIMS, "jku": "https://thief.example/jwks.json"}, CLAIMS, b"t" * 32),
    "jwk": signed({**HEADER_CLAIMS, "jwk": {"kty": "oct", "k": "AA"}}, CLAIMS, b"t" * 32),
    "crit": signed({**HEADER_CLAIMS, "crit": ["sub"]}, CLAIMS),
    "no typ": signed({key: HEADER_CLAIMS[key] for key in ("alg", "kid")}, CLAIMS),
    "another typ": signed({**HEADER_CLAIMS, "typ": "onsale-pass+jwt"}, CLAIMS),
    "another audience": signed(HEADER_CLAIMS, {**CLAIMS, "aud": "autumn-drop"}),
    "no audience": signed(HEADER_CLAIMS, without("aud")),
    "another issuer": signed(HEADER_CLAIMS, {**CLAIMS, "iss": "https://thief.example"}),
    "no expiry": signed(HEADER_CLAIMS, without("exp")),
    "no session": signed(HEADER_CLAIMS, without("sid")),
    "an unknown role": signed(HEADER_CLAIMS, {**CLAIMS, "role": "owner"}),
    "a better role": f"{HEADER}.{b64({**CLAIMS, 'role': 'master'})}.{SIGNATURE}",
    "a longer life": f"{HEADER}.{b64({**CLAIMS, 'exp': 99_999_999_999})}.{SIGNATURE}",
    "a pass": a_pass(),
    "a ticket's token": a_ticket_token(),
    "spaces": f" {GOOD}",
    "NUL": GOOD + "\0",
    "beyond ASCII": GOOD[:-1] + "é",
    "100 kB": GOOD + "A" * 100_000,
}


@pytest.mark.parametrize("token", ATTACKS.values(), ids=ATTACKS.keys())
def test_attacks_on_tokens_are_refused(token: str) -> None:
    """The known attacks on JWTs, and our own tokens of other kinds, each alone."""
    with pytest.raises(Unauthenticated):
        tokens().verify(token, NOW_MS)


def test_a_token_is_no_pass() -> None:
    """Nor does an access token let anybody buy."""
    with pytest.raises(PassInvalid):
        Passes(KEYRING, ISSUER).verify(GOOD)
