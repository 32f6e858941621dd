"""TLS to real servers whose certificate is known, and is not."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
import trio
import trio_websocket

from livermore.adapters.redis import Client
from livermore.adapters.websocket import _Records, open_socket
from livermore.errors import ConnectionLost, StoreError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of localhost, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: TLS is NOT tested; install it (Debian: openssl)")
    folder = tmp_path_factory.mktemp("tls")
    shown, key = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(shown)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return shown, key


async def greet(request: trio_websocket.WebSocketRequest) -> None:
    connection = await request.accept()
    await connection.send_message("hello")


async def test_a_secure_websocket_is_opened_only_to_a_certificate_we_know(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                trio_websocket.serve_websocket, greet, "127.0.0.1", 0, context
            )
            url = f"wss://localhost:{server.port}"
            with pytest.raises(ConnectionLost, match="certificate verify failed"):
                async with open_socket(url, maximum_message=1 << 20):
                    pass
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
            async with open_socket(url, maximum_message=1 << 20) as opened:
                assert await opened.get() == "hello"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("end", [b"", b"\x17\x03\x03\x00\x20" + b"damaged " * 4])
async def test_messages_of_many_records_arrive_up_to_the_end_or_the_damage(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    async def one_each(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        for number in range(2000):
            await connection.send_message(f"{number}")
        stream = connection._stream
        assert isinstance(stream, trio.SSLStream)
        await stream.transport_stream.send_all(end)
        if end:
            await trio.sleep_forever()

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                trio_websocket.serve_websocket, one_each, "127.0.0.1", 0, context
            )
            url = f"wss://localhost:{server.port}"
            async with open_socket(url, maximum_message=1 << 20) as opened:
                assert [await opened.get() for _ in range(2000)] == list(map(str, range(2000)))
                with pytest.raises(ConnectionLost, match="1006" if end else "1000"):
                    await opened.get()
            nursery.cancel_scope.cancel()


def test_a_read_gives_all_records_that_are_here_and_then_what_is_wrong(
    certificate: tuple[Path, Path],
) -> None:
    theirs, ours = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(*certificate)
    asking = ssl.create_default_context(cafile=certificate[0])
    asking.sslobject_class = _Records

    def shake() -> tuple[ssl.SSLObject, ssl.SSLObject]:
        server = serving.wrap_bio(ours, theirs, server_side=True)
        client = asking.wrap_bio(theirs, ours, server_hostname="localhost")
        done: set[ssl.SSLObject] = set()
        while len(done) < 2:
            for side in (client, server):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
                    done.add(side)
        return server, client

    server, client = shake()
    for text in (b"first ", b"x" * 30_000, b" last"):
        server.write(text)
    assert client.read(65536) == b"first " + b"x" * 30_000 + b" last"
    with pytest.raises(ssl.SSLWantReadError):
        client.read(65536)
    for number in range(10):
        server.write(b"%d" % number)
    assert [client.read(4), client.read(5), client.read(6)] == [b"0123", b"45678", b"9"]
    into = bytearray(4)
    server.write(b"into")
    count: object = client.read(4, into)
    assert count == 4
    assert into == b"into"
    server.write(b"good")
    theirs.write(b"\x17\x03\x03\x00\x20" + b"damaged " * 4)
    assert client.read(65536) == b"good"
    for _ in range(2):
        with pytest.raises(ssl.SSLError) as wrong:
            client.read(65536)
        assert not isinstance(wrong.value, ssl.SSLWantReadError)
    theirs.read(), ours.read()
    server, client = shake()
    server.write(b"good")
    with pytest.raises(ssl.SSLWantReadError):
        server.unwrap()
    assert [client.read(65536), client.read(65536)] == [b"good", b""]


def test_a_secure_redis_is_used_only_with_a_certificate_we_know(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    found = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if found is None:
        pytest.skip("no Debian Redis: rediss:// is NOT tested; install redis-tools")
    program = tmp_path / "redis-server"  # the tools are the same program under other names
    program.symlink_to(Path(found).resolve())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shown, key = map(str, certificate)
    options = f"--port 0 --tls-port {port} --bind 127.0.0.1 --tls-auth-clients no --save".split()
    files = ["--tls-cert-file", shown, "--tls-key-file", key, "--tls-ca-cert-file", shown]
    server = subprocess.Popen(
        [program, *options, "", *files], cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    try:
        known = Client(f"rediss://localhost:{port}?ssl_ca_certs={shown}")
        until = time.monotonic() + 10
        while True:
            try:
                assert known.one("PING")
                break
            except StoreError:
                assert time.monotonic() < until
                time.sleep(0.05)
        known.close()
        with pytest.raises(StoreError, match="certificate verify failed"):
            Client(f"rediss://localhost:{port}").one("PING")
    finally:
        server.terminate()
        server.wait(10)
