"""A WebSocket as the runner sees it: send text, get frames, or :class:`ConnectionLost`."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio_websocket

from livermore.errors import ConnectionLost

CONNECT_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0
BUFFER = 65536
"""Bytes per read: with the library's 4 KiB a burst costs many more wake-ups."""
QUEUE = 4096
"""Frames read ahead of the runner; it never awaits a sink, so they do not wait long."""


class Socket:
    """An open connection."""

    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self._connection = connection

    async def get(self) -> str | bytes:
        """The next frame."""
        try:
            return await self._connection.get_message()
        except trio_websocket.ConnectionClosed as closed:
            reason = closed.reason
            said = (
                f"{reason.code} {reason.reason or reason.name}"
                if reason
                else "without a close frame"
            )
            raise ConnectionLost(f"the exchange closed the connection: {said}") from closed

    async def send(self, frame: str) -> None:
        """Send one text frame."""
        try:
            await self._connection.send_message(frame)
        except trio_websocket.ConnectionClosed as closed:
            raise ConnectionLost("the connection closed while we were sending") from closed


@asynccontextmanager
async def open_socket(url: str, *, maximum_message: int) -> AsyncIterator[Socket]:
    """Connect; raises :class:`ConnectionLost` naming the host when that fails."""
    context = ssl.create_default_context() if url.startswith("wss") else None
    # Leaving an exit stack by hand keeps a failure to connect apart from what happens inside.
    opening = trio_websocket.open_websocket_url(
        url,
        ssl_context=context,
        message_queue_size=QUEUE,
        max_message_size=maximum_message,
        receive_buffer_size=BUFFER,
        connect_timeout=CONNECT_TIMEOUT,
        disconnect_timeout=CLOSE_TIMEOUT,
    )
    try:
        connection = await opening.__aenter__()
    except (
        trio_websocket.HandshakeError,
        trio_websocket.ConnectionTimeout,
        OSError,
        trio.BrokenResourceError,
        ValueError,
    ) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ConnectionLost(f"cannot connect to {url}: {text}") from error
    try:
        yield Socket(connection)
    except BaseException as error:
        try:
            if not await opening.__aexit__(type(error), error, error.__traceback__):
                raise
        except trio_websocket.DisconnectionTimeout:
            raise error from None
    else:
        with contextlib.suppress(trio_websocket.DisconnectionTimeout):
            await opening.__aexit__(None, None, None)
