"""What a provider's connection makes of every way in which an answer can come, or not come."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from onsale.checkout.providers.connections import ANSWER_BYTES_MAX, Connection, Connections, NotAnswered, NotSent

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# Ends the connection in a script.
CLOSE = b""


class Script:
    """A server that answers the n-th request of all with the n-th of its texts, whatever is asked."""

    def __init__(self, answers: Sequence[Sequence[bytes]]) -> None:
        self._answers = list(answers)
        self.asked: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.asked.append(head)
                for part in self._answers.pop(0) if self._answers else (CLOSE,):
                    if part == CLOSE:
                        return
                    writer.write(part)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def asking(
    *answers: Sequence[bytes], read_timeout_s: float = 5.0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Connections, Script]]:
    script = Script(answers)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    url = f"{'https' if tls else 'http'}://localhost:{port}/base/"
    connections = Connections(url, {"X-Own": "1"}, connect_timeout_s=1.0, read_timeout_s=read_timeout_s)
    try:
        yield connections, script
    finally:
        await connections.close()
        server.close()


async def get(connections: Connections) -> tuple[int, bytes]:
    return await connections.ask("GET", "/x", {}, None)


async def post(connections: Connections) -> tuple[int, bytes]:
    return await connections.ask("POST", "/x", {"Key": "k"}, b"{}")


async def test_what_is_sent() -> None:
    """The address's path in front, headers of every call and of this one, and the body's length."""
    async with asking([OK]) as (connections, script):
        await post(connections)

    line, *headers = script.asked[0].decode().rstrip().split("\r\n")
    assert "POST /base/x HTTP/1.1" == line
    assert {"X-Own: 1", "Key: k", "Content-Length: 2", "Accept-Encoding: identity"} <= set(headers)


async def test_one_connection_serves_again() -> None:
    """Kept, while the other side keeps it; one that says it closes is not used again."""
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with asking([OK], [closing], [OK]) as (connections, script):
        answers = [await post(connections) for _ in range(3)]

    assert [(200, b"ok")] * 3 == answers
    assert 2 == script.connections


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n", b"1\r\nk\r\n0\r\n\r\n"], (200, b"ok")),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", OK], (200, b"ok")),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], (204, b"")),
        ([b"HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n"], (302, b"")),
        ([b"HTTP/1.1 200 OK\r\n\r\nok", CLOSE], (200, b"ok")),
    ],
)
async def test_whole_answers(parts: Sequence[bytes], expected: tuple[int, bytes]) -> None:
    """Chunked, after a word in between, without a body, elsewhere (not followed), or ended by the connection."""
    async with asking(parts) as (connections, _):
        assert expected == await post(connections)


@pytest.mark.parametrize(
    "parts",
    [
        [CLOSE],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", CLOSE],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n", CLOSE],
        [b"HTTP/1.1 200 OK\r\n", CLOSE],
        [b"SSH-2.0-OpenSSH\r\n"],
        [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * ANSWER_BYTES_MAX), b"x" * (ANSWER_BYTES_MAX + 1)],
        [b"HTTP/1.1 200 OK\r\nX: ", b"x" * (ANSWER_BYTES_MAX + 1), b"\r\nContent-Length: 2\r\n\r\nok"],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * (ANSWER_BYTES_MAX // 25 + 1), OK],
    ],
)
@pytest.mark.parametrize("ask", [get, post])
async def test_half_answers_are_none(
    parts: Sequence[bytes], ask: Callable[[Connections], Awaitable[tuple[int, bytes]]]
) -> None:
    """What breaks off, is no HTTP or has no end is no answer, and its connection serves nobody else."""
    async with asking(parts, [OK]) as (connections, script):
        with pytest.raises(NotAnswered):
            await ask(connections)
        assert (200, b"ok") == await ask(connections)

    assert 2 == script.connections


async def test_a_late_answer_belongs_to_nobody() -> None:
    """After the time-out the connection is closed: the next call cannot be given the answer to this one."""
    async with asking([], [OK], read_timeout_s=0.05) as (connections, script):
        with pytest.raises(NotAnswered) as late:
            await post(connections)
        await post(connections)

    assert late.value.is_late
    assert 2 == script.connections


async def test_a_call_that_is_given_up_leaves_no_connection() -> None:
    """Its answer would come to whoever asks next."""
    async with asking([], [OK]) as (connections, script):
        call = asyncio.create_task(post(connections))
        while not script.asked:
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])

        assert (200, b"ok") == await post(connections)
    assert 2 == script.connections


async def test_only_questions_are_put_again() -> None:
    """The other side closed a kept connection as we asked: a question is repeated, a charge may have been read."""
    async with asking([OK], [CLOSE], [OK], [CLOSE]) as (connections, script):
        await get(connections)
        assert (200, b"ok") == await get(connections)
        with pytest.raises(NotAnswered) as stale:
            await post(connections)

    assert stale.value.is_stale
    assert 4 == len(script.asked)


@pytest.mark.parametrize("how", [asyncio.StreamWriter.close, asyncio.StreamWriter.write_eof])
async def test_nothing_is_written_where_nobody_reads(how: Callable[[asyncio.StreamWriter], None]) -> None:
    """Closed before the request: it is known at once, and known not to have been sent."""

    async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        how(writer)

    server = await asyncio.start_server(leave, "127.0.0.1", 0)
    async with server:
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection, "127.0.0.1", server.sockets[0].getsockname()[1]
        )
        async with asyncio.timeout(5):
            while connection.is_open:
                await asyncio.sleep(0)
        with pytest.raises(NotSent):
            await connection.ask(b"POST / HTTP/1.1\r\n\r\n", 5.0)


async def test_what_nobody_asked_for_ends_the_connection() -> None:
    """An answer too many is never taken for the answer to the next question."""
    async with asking([OK + OK], [OK]) as (connections, script):
        await post(connections)
        assert (200, b"ok") == await post(connections)

    assert 2 == script.connections


@pytest.mark.parametrize(("path", "value"), [("/x y", "k"), ("/x\r\nY: z", "k"), ("/ü", "k"), ("/x", "k\r\nY: z")])
async def test_no_call_writes_two(path: str, value: str) -> None:
    """What would be more than one line of a request is refused before it is sent."""
    async with asking([OK]) as (connections, script):
        with pytest.raises(ValueError, match="not the"):
            await connections.ask("POST", path, {"Key": value}, b"")

    assert [] == script.asked


@pytest.mark.parametrize("is_trusted", [True, False])
async def test_tls_asks_who_answers(is_trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that nobody we trust has signed is sent nothing."""
    certificate = tmp_path / "certificate.pem"
    context = _self_signed(certificate)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with asking([OK], tls=context) as (connections, script):
        if is_trusted:
            assert (200, b"ok") == await post(connections)
        else:
            with pytest.raises(NotSent):
                await post(connections)

    assert is_trusted == bool(script.asked)


def _self_signed(file: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
