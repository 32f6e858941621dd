"""A server on loopback that receives what channels send, and answers as it is told."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

Act = Callable[["Connection"], None]


@attrs.frozen
class Received:
    """One request; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def parts(self) -> dict[str, bytes]:
        """The parts of a multipart body, by the whole of their Content-Disposition."""
        boundary = self.headers["content-type"].partition("boundary=")[2].encode()
        found = {}
        for part in self.body.split(b"--" + boundary)[1:-1]:
            head, _, data = part.strip(b"\r\n").partition(b"\r\n\r\n")
            disposition = re.search(rb"(?i)content-disposition: form-data; (.*)", head)
            assert disposition is not None
            found[disposition[1].strip().decode()] = data
        return found


@attrs.define(eq=False)
class Connection:
    """A connection whose request was read."""

    socket: socket.socket
    ended: threading.Event
    """The receiver closes."""
    spoke: threading.Event
    """Something was said."""

    def say(self, data: bytes) -> bool:
        """Whether somebody still listens."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        self.spoke.set()
        return True


def answer(status: int, body: bytes | object = b"", **headers: object) -> Act:
    """An ordinary reply; anything but bytes as JSON; ``retry_after=1`` is ``retry-after: 1``."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(data)}", "connection: close"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    whole = "\r\n".join([*head, "", ""]).encode() + data
    return lambda connection: void(connection.say(whole))


def void(_: object) -> None:
    """Nothing."""


def raw(data: bytes) -> Act:
    """Exactly these bytes, then the end."""
    return lambda connection: void(connection.say(data))


def silent(connection: Connection) -> None:
    """No answer, and the connection stays."""
    connection.ended.wait()


def drip(head: bytes) -> Act:
    """``head`` at once, and then a space now and then, for ever."""

    def act(connection: Connection) -> None:
        connection.say(head)
        while connection.say(b" ") and not connection.ended.wait(0.01):
            pass

    return act


def flood(head: bytes) -> Act:
    """``head``, and then letters without end, as fast as they go."""

    def act(connection: Connection) -> None:
        connection.say(head)
        while connection.say(b"x" * 65_536) and not connection.ended.is_set():
            pass

    return act


class Receiver:
    """Listens on a free port of 127.0.0.1. What it received is in ``requests``.

    Each request is answered by the next of ``script``; when that is empty, by 200.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Received] = []
        self.script: list[Act] = []
        self.connections = 0
        self.spoke = threading.Event()
        """Some of an answer was sent."""
        self._tls = tls
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path: str = "/") -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}{path}"

    def wait(self, count: int, seconds: float = 30.0) -> None:
        """Until so many requests were read."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, seconds)

    def close(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    # -- threads --------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        near.settimeout(30)
        with contextlib.suppress(OSError), contextlib.ExitStack() as open_ones:
            open_ones.enter_context(near)
            if self._tls is not None:
                near = open_ones.enter_context(self._tls.wrap_socket(near, server_side=True))
            received = _read(near)
            if received is None:
                return
            with self._changed:
                act = self.script.pop(0) if self.script else answer(200)
                self.requests.append(received)
                self._changed.notify_all()
            act(Connection(near, self._ended, self.spoke))
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_WR)


def _read(near: socket.socket) -> Received | None:
    data = b""
    while b"\r\n\r\n" not in data:
        part = near.recv(65_536)
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.split(":", 1) for line in lines)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    until = time.monotonic() + 30
    while len(body) < int(headers.get("content-length", "0")) and time.monotonic() < until:
        part = near.recv(65_536)
        if not part:
            return None
        body += part
    return Received(method, target, headers, body)


@contextlib.contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(tls)
    try:
        yield receiver
    finally:
        receiver.close()
