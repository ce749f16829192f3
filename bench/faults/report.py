"""docs/faults.md, made from the kept results."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "faults.jsonl"
PAGE = ROOT / "docs" / "faults.md"
HEAD = "HEAD"


def write() -> None:
    pass
