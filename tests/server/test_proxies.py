"""Passes at other people's doors: a real nginx asks `/v1/passes/verify` before it serves anything (auth_request)."""

import asyncio
import shutil
import subprocess
import time

import pytest
import pytest_asyncio

from onsale.server.embedded import free_port

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
CONFIG = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location = /_pass {{
      internal;
      proxy_pass http://{onsale}/v1/passes/verify?sale={sale};
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
    }}
    location / {{
      auth_request /_pass;
      auth_request_set $buyer $upstream_http_admission_buyer;
      add_header Let-In $buyer;
      root {folder}/site;
    }}
  }}
}}
"""

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which(NGINX) is None, reason="there is no nginx on this machine"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sale(system):
    """A sale that lets everyone in."""
    return await system.sale()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(system, sale, tmp_path_factory):
    """Where an nginx listens that serves one page to whoever has a pass for the sale."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    (folder / "site").mkdir()
    (folder / "site" / "index.html").write_text("inside")
    (folder / "site").chmod(0o755)
    onsale = "{}:{}".format(*system.address)
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=port, onsale=onsale, sale=sale))
    # Workers of a root's nginx are nobody's, who may not enter a folder of the tests.
    as_user = [] if (folder / "site").owner() != "root" else ["-g", "user root;"]
    process = subprocess.Popen([NGINX, "-c", str(folder / "nginx.conf"), "-p", str(folder), *as_user])
    try:
        async with asyncio.timeout(10):
            while not await _listens(port):
                assert process.poll() is None, (folder / "error.log").read_text()
                await asyncio.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


async def _listens(port):
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def asked(port, headers=""):
    """Status, headers and body of the page behind the door."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET / HTTP/1.0\r\nHost: shop\r\n{headers}\r\n".encode())
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), head, body


async def test_a_pass_opens_the_door_however_it_is_carried(system, sale, door):
    """By header or by cookie; nobody without one, with another sale's, or with one that was tampered with."""
    admission = await system.pass_of(sale, await system.buyer())
    other = await system.pass_of(await system.sale(), await system.buyer())

    for headers in (f"Admission-Pass: {admission}\r\n", f"Cookie: onsale-pass={admission}\r\n"):
        status, head, body = await asked(door, headers)
        assert (200, "inside", True) == (status, body, "Let-In: " in head)
    for headers in ("", f"Admission-Pass: {other}\r\n", f"Admission-Pass: {admission[:-2]}AA\r\n"):
        assert 401 == (await asked(door, headers))[0]


async def test_a_revoked_pass_closes_it_within_a_second(system, sale, door):
    """Its signature and time are still good."""
    buyer = await system.buyer()
    ticket = await system.admitted(sale, buyer)
    carried = f"Admission-Pass: {ticket['pass']['token']}\r\n"
    assert 200 == (await asked(door, carried))[0]

    path = f"/v1/tickets/{ticket['ticket']}/revocation"
    assert 204 == (await system.call("POST", path, {"reason": "resold"}, system.manager)).status
    since = time.monotonic()
    while (await asked(door, carried))[0] == 200:
        continue

    assert time.monotonic() - since < 1
