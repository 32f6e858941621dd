"""A WebSocket as the runner sees it: send text, get frames, or :class:`ConnectionLost`."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast
from urllib.parse import urlsplit

import attrs
import h11
import trio
import trio_websocket
import wsproto.utilities

from livermore.adapters.frames import Splitter
from livermore.adapters.urls import shown
from livermore.errors import ConnectionLost, LivermoreError

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

CONNECT_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0
BUFFER = 65536
"""Bytes per read: with the library's 4 KiB a burst costs many more wake-ups."""
RECORD = 16384
"""Bytes of a TLS record, at most."""
QUEUE = 64
"""Reads ahead of the runner; it never awaits a sink, so they do not wait long."""


class Socket:
    """An open connection."""

    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self._connection = connection
        self._ahead: deque[str | bytes] = deque()

    async def get(self) -> str | bytes:
        """The next frame."""
        if self._ahead:
            await trio.lowlevel.checkpoint()
            return self._ahead.popleft()
        try:
            return self._first(await self._connection.get_message())
        except trio_websocket.ConnectionClosed as closed:
            reason = closed.reason
            said = (
                f"{reason.code} {reason.reason or reason.name}"
                if reason
                else "without a close frame"
            )
            raise ConnectionLost(f"the exchange closed the connection: {said}") from closed

    def get_nowait(self) -> str | bytes | None:
        """The next frame if it is here already, without a turn of the event loop."""
        if self._ahead:
            return self._ahead.popleft()
        try:
            return self._first(self._connection._recv_channel.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            return None

    def _first(self, received: str | bytes | list[str | bytes]) -> str | bytes:
        if not isinstance(received, list):
            return received
        self._ahead.extend(received)
        return self._ahead.popleft()

    async def send(self, frame: str) -> None:
        """Send one text frame."""
        try:
            await self._connection.send_message(frame)
        except trio_websocket.ConnectionClosed as closed:
            raise ConnectionLost("the connection closed while we were sending") from closed

    async def ping(self) -> None:
        """Ask for a sign of life and wait for it."""
        try:
            await self._connection.ping()
        except trio_websocket.ConnectionClosed as closed:
            raise ConnectionLost("the connection closed while we waited for a pong") from closed


@attrs.define(eq=False)
class _Shortened(trio.abc.Stream):
    """What the library reads from: everything but short messages.

    Those go into its channel here, in lists, as many at a time as there are: one by one through its
    events they cost twenty times as much. The order stays, because the library puts what it has
    read into the same channel before it asks for more.

    The end of the stream also ends the wait for an upgrade: the library goes on waiting for one.
    """

    _inner: Stream
    _waiting: trio.CancelScope
    _splitter: Splitter
    _parts: Iterator[list[str | bytes] | bytes] = attrs.Factory(lambda: iter(()))
    _channel: trio.MemorySendChannel[list[str | bytes]] | None = None
    _upgraded: trio.Event = attrs.Factory(trio.Event)

    def upgraded(self, connection: trio_websocket.WebSocketConnection) -> None:
        """There is somebody to hand messages to."""
        self._channel = cast("trio.MemorySendChannel[list[str | bytes]]", connection._send_channel)
        self._upgraded.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            for part in self._parts:
                if isinstance(part, bytes):
                    return part
                await self._upgraded.wait()
                assert self._channel is not None
                # After our end closed nobody wants them, but a close frame may follow.
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._channel.send(part)
            data = await self._inner.receive_some(max_bytes)
            if not data:
                self._waiting.cancel()
                return self._splitter.end()
            self._parts = self._splitter.split(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Records(ssl.SSLObject):
    """Reads as many records as are here, not one: a server may send every frame in its own."""

    def read(self, size: int = 1024, buffer: Any = None) -> bytes:
        part = super().read(size, buffer)
        if buffer is not None:
            return part
        parts = []
        while part:
            parts.append(part)
            size -= len(part)
            try:
                part = super().read(min(size, RECORD)) if size else b""
            except ssl.SSLError:
                break  # no whole record is here; whatever else it is, the next read says it again
        return b"".join(parts)


@asynccontextmanager
async def open_socket(url: str, *, maximum_message: int) -> AsyncIterator[Socket]:
    """Connect; raises :class:`ConnectionLost` naming the host when that fails.

    The stream is ours to close: the library leaves it open when the other side ends first, and a
    daemon that reconnects for months would run out of descriptors.
    """
    stream, host, resource = await _dial(url)
    failure: Exception | None = None
    left = False
    try:
        async with trio.open_nursery() as nursery:
            try:
                connection: trio_websocket.WebSocketConnection | None = None
                with trio.fail_after(CONNECT_TIMEOUT), trio.CancelScope() as upgrade:
                    shortened = _Shortened(stream, upgrade, Splitter(maximum_message))
                    connection = await trio_websocket.wrap_client_stream(
                        nursery,
                        cast(Stream, shortened),
                        host,
                        resource,
                        message_queue_size=QUEUE,
                        max_message_size=maximum_message,
                        receive_buffer_size=BUFFER,
                    )
                    shortened.upgraded(connection)
                if connection is None:
                    raise ConnectionLost(f"cannot connect to {shown(url)}: the server hung up")
                yield Socket(connection)
                left = True
                with trio.move_on_after(CLOSE_TIMEOUT):
                    await connection.aclose()
            except (trio_websocket.HandshakeError, trio.TooSlowError, OSError) as error:
                failure = ConnectionLost(f"cannot connect to {shown(url)}: {_said(error)}")
            except (LivermoreError, ExceptionGroup) as error:
                failure = error  # raised below: a nursery would wrap it
            nursery.cancel_scope.cancel()
    except* (trio_websocket.HandshakeError, h11.ProtocolError) as refused:
        # The library reads in a task of our nursery: what a server answers instead of an upgrade
        # is raised there, not where we wait for it.
        why, status = _refusal(refused)
        failure = ConnectionLost(f"cannot connect to {shown(url)}: {why}", status)
    except* wsproto.utilities.LocalProtocolError:
        # A ping behind our close frame: the library wants to answer it all the same.
        if not left and failure is None:
            failure = ConnectionLost("the connection closed while we were sending")
    finally:
        await trio.aclose_forcefully(stream)
    if failure is not None:
        raise failure


async def _dial(url: str) -> tuple[Stream, str, str]:
    """An open stream, with TLS for ``wss``, and what the upgrade request names."""
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    stream: Stream
    try:
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError("use ws:// or wss:// and a host")
        with trio.fail_after(CONNECT_TIMEOUT):
            port = parts.port or (443 if secure else 80)
            tcp = await trio.open_tcp_stream(parts.hostname, port)
            stream = await _secured(tcp, parts.hostname) if secure else tcp
    except (OSError, trio.TooSlowError, ValueError) as error:
        raise ConnectionLost(f"cannot connect to {shown(url)}: {_said(error)}") from error
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return stream, parts.netloc.rpartition("@")[2], resource


async def _secured(tcp: trio.SocketStream, hostname: str) -> trio.SSLStream[trio.SocketStream]:
    """TLS over ``tcp``; raises ``ssl.SSLError``.

    The handshake is done here: where the library does it, a certificate that is not accepted
    looks like a server that never answers.
    """
    context = ssl.create_default_context()
    context.sslobject_class = _Records
    stream = trio.SSLStream(tcp, context, server_hostname=hostname, https_compatible=True)
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as broken:
        await trio.aclose_forcefully(tcp)
        raise ssl.SSLError(str(broken.__cause__ or broken)) from broken
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise
    return stream


def _said(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {CONNECT_TIMEOUT:.0f} s"
    return " ".join(str(error).split()) or type(error).__name__


def _refusal(group: BaseExceptionGroup[Exception]) -> tuple[str, int | None]:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, trio_websocket.ConnectionRejected):
        return f"the upgrade was refused with HTTP {error.status_code}", error.status_code
    return f"no WebSocket answers there ({_said(error)})", None
