"""Lines of the plots in reports, as the points of SVG polylines. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

# Points of a line: finer than a screen shows, small enough to keep in one file.
POINTS_MAX = 300
WIDTH, HEIGHT = 640, 160


def thinned(values: Sequence[T]) -> Sequence[T]:
    """At most about twice POINTS_MAX of them, evenly."""
    return values[:: max(1, len(values) // POINTS_MAX)]


def points(values: Sequence[float], top: float) -> str:
    """One line over the whole width, `top` at the upper edge."""
    last, top = max(1, len(values) - 1), top or 1
    return " ".join(f"{WIDTH * n / last:.1f},{HEIGHT - HEIGHT * value / top:.1f}" for n, value in enumerate(values))
