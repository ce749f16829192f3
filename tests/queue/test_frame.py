"""The line document: anyone who holds it knows how many people are in front of any place."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from bisect import bisect_left
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onsale.queue.estimate import Pace
from onsale.queue.frame import (
    Frame,
    FrameInvalid,
    Message,
    Reason,
    StockSummary,
    build,
    decode_places,
    encode_places,
    rfc3339,
    sampled_ranks,
)
from onsale.queue.odds import Odds, OddsAhead
from onsale.queue.states import LineState

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors" / "line.json"
AS_OF_MS = 1_790_000_000_123


def document(living: list[int], **changes: Any) -> bytes:
    """A document of a line in which exactly `living` wait."""
    fields: dict[str, Any] = {
        "sale": "autumn-drop",
        "state": LineState.OPEN,
        "as_of_ms": AS_OF_MS,
        "epoch": 1,
        "seq": 7,
        "opens_at_ms": AS_OF_MS - 60_000,
        "closes_at_ms": AS_OF_MS + 60_000,
        "serving": living[0] - 1 if living else 0,
        "tail": living[-1] if living else 0,
        "waiting": len(living),
        "absent": 0,
        "admitted": 40,
        "rate_target": 20.0,
        "rate_measured": 19.97,
        "active": 12,
        "active_max": 500,
        "places": [living[rank - 1] for rank in sampled_ranks(len(living))],
        "stock": StockSummary(free=880, held=301, sold=3819),
    }
    return build(**(fields | changes))


@st.composite
def lines(draw: st.DrawFn) -> list[int]:
    """Ascending places of the living: dense, sparse, or torn by a leap of the numbering after a loss."""
    size = draw(st.integers(0, 4_000))
    sparsity = draw(st.sampled_from([1, 2, 10, 1_000]))
    chance = random.Random(draw(st.integers(0, 2**32)))
    place, living = draw(st.integers(0, 2**36)), []
    for _ in range(size):
        place += chance.randint(1, sparsity) + (2**20 if chance.random() < 0.001 else 0)
        living.append(place)
    return living


@settings(deadline=None, max_examples=60)
@given(living=lines(), data=st.data())
def test_ahead_is_exact_under_256_and_within_one_percent_beyond(living: list[int], data: st.DataObject) -> None:
    """Whatever the gaps, and for a place that nobody living holds too."""
    frame = Frame(document(living))
    places = st.one_of(st.sampled_from(living), st.integers(1, living[-1] + 10)) if living else st.integers(1, 99)
    for place in data.draw(st.lists(places, min_size=20, max_size=60)):
        true = bisect_left(living, place)
        allowed = 0 if true < 256 else true / 100
        assert abs(frame.ahead(place) - true) <= allowed, (place, true, frame.ahead(place))


@pytest.mark.parametrize("waiting", [0, 1, 255, 256, 257, 261, 262, 5_000])
def test_every_place_of_a_line(waiting: int) -> None:
    """Around the end of the exact ranks nothing falls off by one."""
    living = [3 * rank for rank in range(1, waiting + 1)]
    frame = Frame(document(living))
    for true, place in enumerate(living):
        assert abs(frame.ahead(place) - true) <= (0 if true < 256 else true / 100)
    assert waiting == frame.ahead(3 * waiting + 1)


@given(st.lists(st.integers(1, 2**40), unique=True, max_size=300).map(sorted))
def test_places_survive_packing(places: list[int]) -> None:
    """Packed and unpacked, places are the same, however far apart."""
    assert places == decode_places(encode_places(places))


def test_a_million_fit_in_two_kilobytes() -> None:
    """A third of the numbers living, every optional field but the message present, names as long as they may be."""
    ranks = sampled_ranks(1_000_000)
    doc = document(
        [],
        sale="s" * 63,
        waiting=1_000_000,
        places=[40_000_000 + 3 * rank for rank in ranks],
        seq=9_999_999,
        serving=40_000_000,
        tail=43_000_000,
        reason=Reason(code="sold_out_holds_pending", at=rfc3339(AS_OF_MS)),
        odds=OddsAhead(likely=9_999_999, possible=9_999_999),
    )
    assert len(doc) <= 2048
    assert abs(Frame(doc).ahead(40_000_000 + 3 * 700_000) - 699_999) <= 7_000


@pytest.mark.parametrize("message", [None, Message(ko="가" * 200, en="a" * 200)])
def test_odds_are_left_out_where_no_room_is_left(message: Message | None) -> None:
    """The same million with every figure as long as it may be: two kilobytes hold still, a message not counted, and
    only the odds are missing."""
    fields: dict[str, Any] = {
        "sale": "s" * 63,
        "waiting": 1_000_000,
        "places": [40_000_000 + 3 * rank for rank in sampled_ranks(1_000_000)],
        "seq": 9_999_999,
        "serving": 40_000_000,
        "tail": 43_000_000,
        "absent": 400_000,
        "admitted": 39_000_000,
        "active": 9_999,
        "active_max": 10_000,
        "stock": StockSummary(free=88_000, held=30_100, sold=381_900),
        "reason": Reason(code="rate_lowered", at=rfc3339(AS_OF_MS), params={"from": 20_000.0, "to": 10_000.0}),
        "message": message,
    }
    doc = document([], **fields, odds=OddsAhead(likely=9_999_999, possible=9_999_999))
    assert document([], **fields) == doc
    assert len(doc) - (len(msgspec.json.encode(message)) if message else 0) <= 2048
    assert OddsAhead(1, 2) == Frame(document([5, 9], odds=OddsAhead(1, 2))).document.odds


def test_a_document_says_what_it_was_built_from() -> None:
    """Figures, times and words come back as they went in; order is epoch, then number."""
    message = Message(ko="잠시만요", en="One moment")
    frame = Frame(document([5, 9], epoch=3, seq=81_233, message=message, state=LineState.PAUSED))
    assert (3, 81_233) == frame.order
    assert AS_OF_MS == frame.as_of_ms
    assert message == frame.document.message
    assert {"target": 20.0, "measured": 19.97} == json.loads(frame.doc)["rate_per_second"]
    assert "2026-09-21T14:13:20.123Z" == json.loads(frame.doc)["as_of"]


def test_an_old_document_tells_no_wait() -> None:
    """Past 3 s the position is still shown, the wait and the odds are not."""
    frame = Frame(document(list(range(1, 101)), odds=OddsAhead(1, 50)), pace=Pace(rate_per_s=20.0))
    fresh = frame.wait_ms(100, AS_OF_MS + 3_000)
    assert fresh is not None and 4_000 < fresh.p50 < fresh.p90
    assert frame.wait_ms(100, AS_OF_MS + 3_001) is None
    assert [Odds.UNLIKELY, None] == [frame.odds(100, AS_OF_MS + late_ms) for late_ms in (3_000, 3_001)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda doc: doc[:-2],
        lambda doc: doc.replace(b'"waiting":300', b'"waiting":400'),
        lambda doc: doc.replace(b'"waiting":300', b'"waiting":"300"'),
        lambda doc: doc.replace(b'"places":"', b'"places":"!'),
        lambda doc: doc.replace(b'"as_of":"2026', b'"as_of":"x'),
    ],
)
def test_a_broken_document_is_refused(spoil: Any) -> None:
    """A document that does not hold together never becomes positions."""
    doc = document(list(range(1, 301)))
    assert doc != spoil(doc)
    with pytest.raises(FrameInvalid):
        Frame(spoil(doc))


def test_a_number_cut_off_is_refused() -> None:
    """The last byte promises another."""
    with pytest.raises(FrameInvalid):
        decode_places("gA==")


def vectors() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
    return cases


@pytest.mark.parametrize("case", vectors(), ids=lambda case: case["name"])
def test_vectors(case: dict[str, Any]) -> None:
    """The published examples, which any client may check itself against."""
    frame = Frame(json.dumps(case["document"]).encode())
    assert [ahead for _, ahead in case["ahead"]] == [frame.ahead(place) for place, _ in case["ahead"]]
    assert [odds for _, odds in case["odds"]] == [frame.odds(place, frame.as_of_ms) for place, _ in case["odds"]]


def test_the_browser_computes_the_same(tmp_path: Path) -> None:
    """`web/static/line.js`, run by node, agrees with every published example."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed; the browser's half is not run")
    # A copy named .mjs: node takes it for a module without a package file.
    shutil.copy(ROOT / "web" / "static" / "line.js", tmp_path / "line.mjs")
    (tmp_path / "check.mjs").write_text(
        'import { readFileSync } from "node:fs";\n'
        'import { ahead, odds } from "./line.mjs";\n'
        'const { cases } = JSON.parse(readFileSync(process.argv[2], "utf8"));\n'
        "const of = (how) => (c) => c.ahead.map(([place]) => [place, how(c.document, place)]);\n"
        "console.log(JSON.stringify([cases.map(of(ahead)), cases.map(of(odds))]));\n"
    )
    ran = subprocess.run([node, str(tmp_path / "check.mjs"), str(VECTORS)], capture_output=True, check=True, timeout=30)
    assert [[case[what] for case in vectors()] for what in ("ahead", "odds")] == json.loads(ran.stdout)
