"""Tokens that let somebody choose a new password: random, sent in a letter, kept as a digest. Half an hour, once."""

from __future__ import annotations

import os
from hashlib import blake2b

from onsale.auth.identifiers import to_text

RESET_TTL_S = 1800
# 160 bits: nobody guesses one, so tries need no count.
_TOKEN_BYTES = 20


def new_token() -> str:
    """32 characters, safe in a URL."""
    return to_text(os.urandom(_TOKEN_BYTES))


def token_hash(token: str) -> bytes:
    """What is kept of it."""
    return blake2b(token.encode(), digest_size=32, person=b"onsale reset").digest()
