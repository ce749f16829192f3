"""How long a search among many products takes, asked as a browser asks.

    python -m bench.search http://127.0.0.1:8080 DATABASE_URL [--products 100000] [--requests 1000]

Writes products with made-up Korean and English titles into the database of a running system, waits until its worker has
indexed them, and asks one request after the other: whole words, two words, words with a typo, with and without a price
range and a state. Prints the figures as JSON; exit 1 where p95 is 20 ms or more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from urllib.parse import urlencode

import aiohttp
import asyncpg

P95_MAX_MS = 20.0
KOREAN = (
    "가을 겨울 여름 봄 파란 하얀 검은 노란 초록 작은 커다란 새로운 가벼운 따뜻한 시원한 편안한 튼튼한 부드러운",
    "재킷 코트 모자 장갑 양말 신발 가방 우산 셔츠 바지 치마 목도리 지갑 시계 안경 반지 목걸이 귀걸이 운동화 구두",
)
ENGLISH = (
    "autumn winter summer spring blue white black yellow green small large new light warm cool soft strong plain",
    "jacket coat hat gloves socks shoes bag umbrella shirt trousers skirt scarf wallet watch glasses ring boots",
)


def titles(count: int, chance: random.Random) -> list[str]:
    """Two words of one language and a made-up name, so that no two are quite alike."""
    made = []
    for _ in range(count):
        first, second = (words.split() for words in chance.choice((KOREAN, ENGLISH)))
        name = "".join(chance.choice("aeioubdgklmnprst") for _ in range(chance.randint(4, 8)))
        made.append(f"{chance.choice(first)} {chance.choice(second)} {name}")
    return made


def mistyped(word: str, chance: random.Random) -> str:
    """One letter left out."""
    at = chance.randrange(len(word))
    return word[:at] + word[at + 1 :] if len(word) > 2 else word


async def fill(database: asyncpg.Connection, count: int, chance: random.Random) -> list[str]:
    """Products to look for, indexed."""
    made = titles(count, chance)
    # Each run looks among its own beside those of the runs before.
    run = f"{time.time_ns():x}"
    rows = [(f"bench-{run}-{n}", title, chance.randint(1, 1_000) * 100, "KRW") for n, title in enumerate(made)]
    await database.copy_records_to_table("products", records=rows, columns=["id", "title", "amount", "currency"])
    while await database.fetchval("SELECT count(*) FROM products WHERE grams IS NULL AND deleted_at IS NULL"):
        await asyncio.sleep(0.5)
    await database.execute("VACUUM ANALYZE product_grams")
    await database.execute("VACUUM ANALYZE products")
    return made


def question(made: list[str], chance: random.Random) -> dict[str, str]:
    """What somebody might look for."""
    words = chance.choice(made).split()
    texts = (words[1], " ".join(words[:2]), mistyped(words[1], chance), mistyped(words[2], chance))
    asked = {"q": chance.choice(texts)}
    if chance.random() < 0.3:
        asked |= {"price_min": "10000", "price_max": "50000"}
    if chance.random() < 0.2:
        asked["state"] = "out_of_stock"
    return asked


async def run(asked: argparse.Namespace) -> int:
    """Exit status."""
    chance = random.Random(1)
    database = await asyncpg.connect(asked.database)
    made = await fill(database, asked.products, chance)
    await database.close()
    took_ms, empty = [], 0
    async with aiohttp.ClientSession(asked.url) as session:
        for _ in range(asked.requests + 50):
            path = f"/v1/products?{urlencode(question(made, chance))}"
            began_s = time.perf_counter()
            async with session.get(path) as response:
                empty += not (await response.json())["items"]
                assert response.status == 200, path
            took_ms.append((time.perf_counter() - began_s) * 1000)
    # The first fifty warm up connections and plans.
    ranked = sorted(took_ms[50:])
    p50, p95, p99 = (round(ranked[int(len(ranked) * share)], 2) for share in (0.5, 0.95, 0.99))
    figures = {"products": asked.products, "requests": asked.requests, "found_nothing": empty}
    print(json.dumps({**figures, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}))
    return 0 if p95 < P95_MAX_MS else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("database")
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=1_000)
    sys.exit(asyncio.run(run(parser.parse_args())))
