"""Passes: ours alone can be forged by nobody, and a proxy can check them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from onsale.auth.errors import PassInvalid
from onsale.auth.keys import Keyring
from onsale.auth.passes import Pass, Passes

ISSUER = "https://shop.example"
KEYRING = Keyring([b"n" * 32, b"o" * 32])
PASSES = Passes(KEYRING, ISSUER)
CLAIMS = Pass(
    sale="autumn-drop",
    buyer="mina",
    turn="3-48211-0",
    lane="general",
    epoch=3,
    iat_ms=1_790_000_000_123,
    exp_ms=1_790_000_600_123,
)


def mint(passes: Passes, claims: Pass = CLAIMS) -> str:
    return passes.mint(
        sale=claims.sale,
        buyer=claims.buyer,
        turn=claims.turn,
        lane=claims.lane,
        epoch=claims.epoch,
        iat_ms=claims.iat_ms,
        exp_ms=claims.exp_ms,
    )


def b64(value: bytes | dict[str, Any]) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


GOOD = mint(PASSES)
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")
HEADER_CLAIMS = jwt.get_unverified_header(GOOD)
PAYLOAD_CLAIMS = jwt.decode(GOOD, options={"verify_signature": False})
SIGNER = Ed25519PrivateKey.from_private_bytes(KEYRING.derive("pass")[0].secret)
PUBLIC = SIGNER.public_key()
PUBLIC_PEM = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
THIEF = Ed25519PrivateKey.from_private_bytes(b"t" * 32)


def signed(header: dict[str, Any], payload: dict[str, Any], key: Ed25519PrivateKey = SIGNER) -> str:
    """A token with any header at all under a real signature."""
    text = f"{b64(header)}.{b64(payload)}"
    return f"{text}.{b64(key.sign(text.encode()))}"


def hmac_signed(header: dict[str, Any], secret: bytes) -> str:
    text = f"{b64(header)}.{PAYLOAD}"
    return f"{text}.{b64(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def test_every_copy_of_a_pass_is_the_same() -> None:
    """Two processes mint the same bytes for the same turn."""
    assert GOOD == mint(Passes(Keyring([b"n" * 32]), ISSUER))


def test_a_pass_says_what_redis_said() -> None:
    """Every claim reads back to the millisecond."""
    assert CLAIMS == PASSES.verify(GOOD)
    assert CLAIMS == PASSES.verify(GOOD, sale="autumn-drop")


def test_a_proxy_can_check_a_pass_with_the_jwks() -> None:
    """A library that knows only the published keys verifies a pass: signature, sale, issuer, whole seconds."""
    keys = jwt.PyJWKSet.from_dict(PASSES.jwks())
    header = jwt.get_unverified_header(GOOD)
    claims = jwt.decode(
        GOOD,
        keys[header["kid"]],
        ["EdDSA"],
        audience="autumn-drop",
        issuer=ISSUER,
        options={"verify_exp": False, "verify_iat": False},
    )

    assert ("EdDSA", "onsale-pass+jwt") == (header["alg"], header["typ"])
    assert ("mina", "3-48211-0") == (claims["sub"], claims["jti"])
    assert (1_790_000_000, 1_790_000_601) == (claims["iat"], claims["exp"])


def test_passes_outlive_a_rotation() -> None:
    """A pass of the older secret is good, and its key is still published."""
    before = Passes(Keyring([b"o" * 32]), ISSUER)

    assert CLAIMS == PASSES.verify(mint(before))
    assert before.jwks()["keys"][0] == PASSES.jwks()["keys"][1]
    with pytest.raises(PassInvalid):
        before.verify(GOOD)


def test_another_sales_pass_is_refused() -> None:
    """The audience is the sale."""
    with pytest.raises(PassInvalid):
        PASSES.verify(GOOD, sale="spring-drop")


def test_a_cached_pass_is_still_for_its_sale_alone() -> None:
    """Having seen a token does not make it good for another sale."""
    PASSES.verify(GOOD, sale="autumn-drop")

    with pytest.raises(PassInvalid):
        PASSES.verify(GOOD, sale="spring-drop")


ATTACKS = {
    "nothing": "",
    "one part": "x",
    "no signature": f"{HEADER}.{PAYLOAD}.",
    "two parts": f"{HEADER}.{PAYLOAD}",
    "four parts": f"{GOOD}.x",
    "alg none": f"{b64({**HEADER_CLAIMS, 'alg': 'none'})}.{PAYLOAD}.",
    "alg None with the signature": f"{b64({**HEADER_CLAIMS, 'alg': 'None'})}.{PAYLOAD}.{SIGNATURE}",
    "HMAC with the public key in PEM": hmac_signed({**HEADER_CLAIMS, "alg": "HS256"}, PUBLIC_PEM),
    "HMAC with the raw public key": hmac_signed({**HEADER_CLAIMS, "alg": "HS256"}, PUBLIC.public_bytes_raw()),
    "another's signature": signed(HEADER_CLAIMS, PAYLOAD_CLAIMS, THIEF),
    "kid is a path": signed({**HEADER_CLAIMS, "kid": "../../../../dev/null"}, PAYLOAD_CLAIMS),
    "kid is SQL": signed({**HEADER_CLAIMS, "kid": "x' UNION SELECT 'k'; --"}, PAYLOAD_CLAIMS),
    "kid is a list": signed({**HEADER_CLAIMS, "kid": [HEADER_CLAIMS["kid"]]}, PAYLOAD_CLAIMS),
    "no kid": signed({"alg": "EdDSA", "typ": "onsale-pass+jwt"}, PAYLOAD_CLAIMS),
    "jku": signed({**HEADER_CLAIMS, "jku": "https://thief.example/jwks.json"}, PAYLOAD_CLAIMS, THIEF),
    "jwk": signed({**HEADER_CLAIMS, "jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AA"}}, PAYLOAD_CLAIMS, THIEF),
    "x5u": signed({**HEADER_CLAIMS, "x5u": "https://thief.example/cert"}, PAYLOAD_CLAIMS, THIEF),
    "crit": signed({**HEADER_CLAIMS, "crit": ["exp"]}, PAYLOAD_CLAIMS),
    "b64 false": signed({**HEADER_CLAIMS, "b64": False, "crit": ["b64"]}, PAYLOAD_CLAIMS),
    "another typ": signed({**HEADER_CLAIMS, "typ": "JWT"}, PAYLOAD_CLAIMS),
    "another issuer": signed(HEADER_CLAIMS, {**PAYLOAD_CLAIMS, "iss": "https://thief.example"}),
    "no audience": signed(HEADER_CLAIMS, {k: v for k, v in PAYLOAD_CLAIMS.items() if k != "aud"}),
    "no turn": signed(HEADER_CLAIMS, {k: v for k, v in PAYLOAD_CLAIMS.items() if k != "jti"}),
    "payload is a list": f"{HEADER}.{b64(b'[]')}.{SIGNATURE}",
    "another buyer": f"{HEADER}.{b64({**PAYLOAD_CLAIMS, 'sub': 'thief'})}.{SIGNATURE}",
    "a longer life": f"{HEADER}.{b64({**PAYLOAD_CLAIMS, 'exp_ms': 9_999_999_999_999})}.{SIGNATURE}",
    "spaces": f" {GOOD}",
    "NUL": GOOD + "\0",
    "beyond ASCII": GOOD[:-1] + "é",
    "100 kB": GOOD + "A" * 100_000,
}


@pytest.mark.parametrize("token", ATTACKS.values(), ids=ATTACKS.keys())
def test_attacks_on_tokens_are_refused(token: str) -> None:
    """The known attacks on JWTs, each alone."""
    with pytest.raises(PassInvalid):
        PASSES.verify(token)


def test_a_flipped_bit_is_refused() -> None:
    """No character of a pass can be changed; the last one of a signature holds four bits that mean nothing."""
    for at in range(len(GOOD) - 1):
        if GOOD[at] != ".":
            changed = GOOD[:at] + ("A" if GOOD[at] != "A" else "B") + GOOD[at + 1 :]
            with pytest.raises(PassInvalid):
                PASSES.verify(changed)
