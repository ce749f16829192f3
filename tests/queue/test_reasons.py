"""Why a position or a wait changed: each change is told with a reason, and each reason has words."""

from __future__ import annotations

import re
from pathlib import Path

from line_kit import SALE, Stand

from onsale.queue.frame import Frame
from onsale.web import messages

HOUSE = Path(__file__).parents[2]
EMITTED = re.compile(
    r'note_change\(meta, "(\w+)"|and "(\w+_\w+)" or "(\w+_\w+)"|\{"\w{3,}", "(\w+)"\}|return "(\w+)", |code="(\w+)"'
)


async def reason(stand: Stand) -> tuple[str, dict[str, object]]:
    """What the newest document gives as the reason; empty where there is none."""
    await stand.later(1.1)
    await stand.tick()
    shown = Frame(await stand.line.document(stand.keys) or b"").document.reason
    return (shown.code, dict(shown.params)) if shown else ("", {})


async def test_operators_changes_are_told(stand: Stand) -> None:
    """The rate, and where only the cap was changed, the cap; told for a minute."""
    await stand.make(rate_centi=2_000, active_max=100)

    assert await reason(stand) == ("", {})
    await stand.set(rate_centi=1_000)
    assert await reason(stand) == ("rate_lowered", {"from": 20.0, "to": 10.0})
    await stand.set(active_max=200)
    assert await reason(stand) == ("cap_raised", {"from": 100, "to": 200})
    await stand.set(rate_centi=3_000, active_max=50)
    assert await reason(stand) == ("rate_raised", {"from": 10.0, "to": 30.0})
    await stand.later(60)
    assert await reason(stand) == ("", {})


async def test_going_on_is_told_when_nobody_holds_the_line_any_more(stand: Stand) -> None:
    """The last of two holders to let go, whoever it is."""
    await stand.make()
    await stand.line.pause(SALE, "provider")
    await stand.control.pause(SALE, actor="ada")
    assert (await reason(stand))[0] == "paused_by_operator"

    await stand.control.resume(SALE, actor="ada")
    assert (await reason(stand))[0] == "provider_away"

    await stand.line.resume(SALE, "provider")
    assert (await reason(stand))[0] == "resumed"


async def test_reopening_is_told(stand: Stand) -> None:
    """A unit came back and the line was opened again."""
    await stand.make(rate_centi=0)
    await stand.crowd(2)
    stand.shop.free = 0
    await stand.tick()
    stand.shop.free = 1

    await stand.control.open(SALE, actor="ada")

    assert (await reason(stand))[0] == "reopened"


async def test_a_crowd_that_goes_or_comes_back_is_told(stand: Stand) -> None:
    """Positions jump without anybody's doing: how many went, how many returned; a handful is not worth a word."""
    await stand.make(rate_centi=0, absent_after_s=40)
    places = await stand.crowd(600)
    for _ in range(12):
        await stand.sign(*places[100:])
        await stand.later(5)
        await stand.tick()
    assert await reason(stand) == ("others_away", {"people": 100})

    await stand.sign(*places[:9])
    assert (await reason(stand))[0] == "others_away"
    await stand.sign(*places[:100])
    assert await reason(stand) == ("others_returned", {"people": 91})


def test_every_reason_has_words() -> None:
    """What the line can say, in both languages, and no words for what it never says."""
    telling = [path for path in (HOUSE / "lua").rglob("*.lua") if "change" in path.read_text("utf-8")]
    sources = [*telling, *(HOUSE / "queue").glob("*.py")]
    said = {code for path in sources for found in EMITTED.findall(path.read_text("utf-8")) for code in found if code}

    for language in ("ko", "en"):
        assert said == {key.removeprefix("reason.") for key in messages(language) if key.startswith("reason.")}
