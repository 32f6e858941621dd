"""TLS to real servers whose certificate is known, and is not."""

from __future__ import annotations

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
from livermore.adapters.websocket import open_socket
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
