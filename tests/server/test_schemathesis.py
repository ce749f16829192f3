"""Strangers who know nothing but the document: schemathesis asks every call for whatever it says, and for what it does
not say. Nothing may break, and every answer must be one that the document has.

    ONSALE_FUZZ_MINUTES=10 make test ARGS="-s tests/server/test_schemathesis.py --numprocesses 0"

asks for so long, customer and manager half of it each, by another seed each time, each call built on others' answers.
"""

import asyncio
import os
import sys

import pytest

from onsale.server.routes import ROUTES

pytestmark = pytest.mark.asyncio(loop_scope="module")

MINUTES = float(os.environ.get("ONSALE_FUZZ_MINUTES", "0"))
# A long run is all of calls that are built on the answers of others. Otherwise the bounds of every call are tried,
# however busy the machine is: by a budget of time a slow one would try a few calls and call it a day.
LONG = ("--phases", "stateful", "--max-time", str(int(MINUTES * 30)), "--max-examples", "5")
SHORT = ("--phases", "coverage", "--seed", "1")
MANAGERS = ("seller", "operator", "master")
# Streams never end; and whoever signs out of everything, or is gone, learns nothing more.
LEFT_OUT = (
    *("--exclude-path-regex", "events$", "--exclude-operation-id", "sign_out"),
    *("--exclude-operation-id", "sign_out_everywhere", "--exclude-operation-id", "sign_out_session"),
    *("--exclude-operation-id", "delete_me"),
)
# A sale that ends before it opens suits every type and is refused all the same; and a ticket that was left is still
# read by its holder.
LEFT_UNCHECKED = "positive_data_acceptance,use_after_free"


@pytest.mark.timeout(300 + 60 * MINUTES)
@pytest.mark.parametrize("who", ["customer", "manager"])
async def test_every_answer_is_one_that_the_document_has(system, tmp_path, who):
    """Statuses, bodies, headers and media of thousands of calls."""
    token = system.second_manager if who == "manager" else await system.buyer()
    await system.joined(await system.sale(), await system.buyer())
    url = "http://{}:{}/openapi.json".format(*system.address)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", url, "--url", url.removesuffix("/openapi.json")),
        *("--header", f"Authorization: Bearer {token}", *LEFT_OUT, "--exclude-checks", LEFT_UNCHECKED),
        *("--request-timeout", "20", "--max-redirects", "0", *(LONG if MINUTES else (*SHORT, *calls_of(who)))),
        *("--suppress-health-check", "all", "--no-shrink", "--no-color", "--warnings", "off"),
    ]
    running = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    told, _ = await running.communicate()
    sys.stdout.write(told.decode()[-3_000:])

    assert 0 == running.returncode, told.decode()[-20_000:]


def calls_of(who):
    """The calls of the API that are for a customer or for a manager; of the others each learns that they may not."""
    routes = (route for route in ROUTES if route.path.startswith("/v1/"))
    names = (route.name for route in routes if (route.who in MANAGERS) is (who == "manager"))
    return [part for name in names for part in ("--include-operation-id", name)]
