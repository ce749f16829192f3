"""A title cut into pieces of three letters (pure): two texts are alike as far as they share pieces.

Syllables of Hangul are taken apart into their letters first, and accents off Latin ones, so that one wrong vowel costs
three pieces of a word, not the word: 재켓 still finds 재킷.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Two spaces before a word, one behind it: how it begins counts for more than how it ends.
BEFORE, BEHIND, SIZE = "  ", " ", 3
# Longer texts are searched for by their beginning.
LETTERS_MAX: Final = 200
_WORD = re.compile(r"[^\W_]+")


def grams(text: str) -> tuple[str, ...]:
    """The distinct pieces of a text, in order; none where it has no letter or digit."""
    found: dict[str, None] = {}
    for word in _WORD.findall(_letters(text)):
        padded = f"{BEFORE}{word}{BEHIND}"
        found.update(dict.fromkeys(padded[at : at + SIZE] for at in range(len(padded) - SIZE + 1)))
    return tuple(found)


def _letters(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text[:LETTERS_MAX].casefold())
    return "".join(letter for letter in apart if unicodedata.category(letter) != "Mn")
