"""One websocket as its server sees it: handshake, frames in, a bounded outbox, ways to die.

Frames are framed here by hand (an unmasked text frame is a length and the text), so that dozens
can leave in one write; wsproto does the handshake and reads what clients send.
"""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from collections.abc import Callable

import trio
import wsproto
import wsproto.events as ws
from wsproto.connection import ConnectionState

from livermore.simulator.faults import Faults
from livermore.simulator.frame import Frame
from livermore.simulator.http import Stream, socket_of
from livermore.simulator.stats import Stats

_READ = 65_536
_LONGEST = 1 << 20
"""Bytes of a client's message."""
_WRITE = 262_144
"""At most so many bytes in one write: a slow client is noticed between writes."""
_PINGS = 16
"""Pings of ours that can still be answered."""


def text_frame(text: bytes) -> bytes:
    """A whole websocket text frame from a server."""
    size = len(text)
    if size < 126:
        return b"\x81%c%b" % (size, text)
    if size < 65_536:
        return b"\x81\x7e" + struct.pack("!H", size) + text
    return b"\x81\x7f" + struct.pack("!Q", size) + text


class Socket:
    """An accepted websocket. ``send`` never waits: what does not fit into the outbox is lost."""

    def __init__(
        self,
        number: int,
        address: str,
        stream: Stream,
        faults: Faults,
        stats: Stats,
        outbox_bytes: int,
        skew: Callable[[], int],
    ) -> None:
        self.number = number
        self.address = address
        self.subscriptions: dict[str, dict[str, str]] = {}
        """Channel -> id as asked -> symbol as spoken; "" where it is none."""
        self.subscribed = trio.Event()
        self.scope = trio.CancelScope()
        self.frozen_until: int | None = None
        """Half-open: dead but not closed, until this simulated time (ns)."""
        self.pinged = trio.Event()
        self.answered = trio.Event()
        """A pong has come for a ping of ours; whoever looks makes new events."""
        self._pings: deque[bytes] = deque(maxlen=_PINGS)
        self._stream = stream
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self._faults = faults
        self._stats = stats
        self._skew = skew
        self._sequence = 0
        self._outbox: deque[bytes] = deque()
        self._waiting = 0
        self._limit = outbox_bytes
        self._wake = trio.Event()
        self._thawed = trio.Event()
        self._thawed.set()
        self._held: bytes | None = None
        self._last_words = b""
        self._await_answer = False
        self._writing = False

    async def accept(
        self, refuse_with: int | None, refusal: Callable[[str], int | None]
    ) -> str | None:
        """Read the upgrade and answer it; what was asked for, or None when it was refused.

        ``refuse_with`` is an HTTP status instead of a socket; ``refusal`` judges what is asked for.
        """
        while True:
            data = await self._stream.receive_some(_READ)
            self._protocol.receive_data(bytes(data) or None)
            for event in self._protocol.events():
                if isinstance(event, ws.Request):
                    status = refusal(event.target) if refuse_with is None else refuse_with
                    if status is not None:
                        answer = self._protocol.send(ws.RejectConnection(status_code=status))
                        await self._stream.send_all(answer)
                        return None
                    await self._stream.send_all(self._protocol.send(ws.AcceptConnection()))
                    return event.target
                return None

    async def run(self, hear: Callable[[str | bytes], None], notice: Callable[[], None]) -> None:
        """Write the outbox and hand every message to ``hear`` until the socket ends.

        ``notice`` is told of messages as well, before, and of pings and pongs.
        """
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read(hear, notice)
                    nursery.cancel_scope.cancel()
        finally:
            # Only a writer that was between two frames can be followed by a close frame.
            if self._last_words and not self._writing:
                with trio.move_on_after(1) as leaving:
                    leaving.shield = True
                    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await self._stream.send_all(self._last_words)
                        while self._await_answer and await self._stream.receive_some(_READ):
                            self._await_answer = False  # whatever it says, it has heard us
            await trio.aclose_forcefully(self._stream)

    def send(self, frame: Frame) -> None:
        """Send a frame, as far as faults and the outbox let it pass."""
        if self._faults and self._faults.silences(frame):
            return
        text = frame.encode(self._sequence, self._skew())
        self._sequence += 1
        if self._faults or self._held is not None:
            self._bend(frame, text)
        else:
            self._put(text)

    def say(self, text: bytes) -> None:
        """Send text that has no sequence number."""
        self._put(text)

    def ping(self, payload: bytes) -> None:
        """Ping; a pong with the same payload sets :attr:`answered`."""
        if self.scope.cancel_called or self._protocol.state is not ConnectionState.OPEN:
            return  # one of us has said goodbye
        self._pings.append(payload)
        self.pinged.set()
        self._outbox.append(self._protocol.send(ws.Ping(payload=payload)))
        self._wake.set()

    def drop(self, code: int = 0) -> None:
        """End the socket now: with a close frame of this code, or with a reset."""
        if code:
            self._say_goodbye(code)
        else:
            self._reset()
        self.scope.cancel()

    def freeze(self, until: int) -> None:
        """Stop reading and writing without closing."""
        self.frozen_until = until
        if self._thawed.is_set():
            self._thawed = trio.Event()

    def thaw(self) -> None:
        self.frozen_until = None
        self._thawed.set()

    def _bend(self, frame: Frame, text: bytes) -> None:
        faults = self._faults
        if frame.channel == "subscriptions":
            self._put(text)
            return
        if faults.hits("lose", frame):
            self._stats.dropped_frames += 1
            return
        if faults.hits("garbage", frame):
            text = b"<html><body>502 Bad Gateway</body></html>"
        elif faults.hits("truncate", frame):
            text = text[: len(text) * 2 // 3]
        if self._held is None and faults.hits("reorder", frame):
            self._held = text
            return
        self._put(text)
        if self._held is not None:
            self._put(self._held)
            self._held = None
        if faults.hits("duplicate", frame):
            self._put(text)

    def _put(self, text: bytes) -> None:
        if self._waiting + len(text) > self._limit and self._outbox:
            self._stats.dropped_frames += 1
            return
        self._outbox.append(text_frame(text))
        self._waiting += len(text)
        self._stats.frames += 1
        self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            await self._thawed.wait()
            pieces: list[bytes] = []
            size = 0
            while self._outbox and size < _WRITE:
                pieces.append(self._outbox.popleft())
                size += len(pieces[-1])
            if not self._outbox:
                self._wake = trio.Event()
            try:
                self._writing = True
                await self._stream.send_all(b"".join(pieces))
                self._writing = False
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.scope.cancel()
                return
            self._waiting = max(0, self._waiting - size)
            if not self._outbox:
                self._waiting = 0

    async def _read(self, hear: Callable[[str | bytes], None], notice: Callable[[], None]) -> None:
        pieces: list[str | bytes] = []
        size = 0
        while True:
            try:
                data = await self._stream.receive_some(_READ)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            await self._thawed.wait()
            try:
                self._protocol.receive_data(bytes(data) or None)
                events = list(self._protocol.events())
            except wsproto.utilities.RemoteProtocolError:
                self._say_goodbye(1002)
                return
            for event in events:
                if isinstance(event, ws.TextMessage | ws.BytesMessage):
                    piece = event.data if isinstance(event.data, str) else bytes(event.data)
                    pieces.append(piece)
                    size += len(piece)
                    if size > _LONGEST:
                        self._say_goodbye(1009)
                        return
                    if event.message_finished:
                        whole = pieces[0] if len(pieces) == 1 else _joined(pieces)
                        pieces, size = [], 0
                        notice()
                        hear(whole)
                elif isinstance(event, ws.Pong):
                    notice()
                    if bytes(event.payload) in self._pings:
                        self.answered.set()
                elif isinstance(event, ws.Ping):
                    notice()
                    if self.scope.cancel_called:
                        return
                    self._outbox.append(self._protocol.send(event.response()))
                    self._wake.set()
                elif isinstance(event, ws.CloseConnection):
                    if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                        self._last_words = self._protocol.send(event.response())
                    return

    def _say_goodbye(self, code: int) -> None:
        with contextlib.suppress(wsproto.utilities.LocalProtocolError):  # it said so first
            self._last_words = self._protocol.send(ws.CloseConnection(code=code))
            self._await_answer = True

    def _reset(self) -> None:
        """Make closing a reset, as a crashing server does it."""
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):  # it is closed, and not yet off the list
            socket = socket_of(self._stream)
            socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger)


def _joined(pieces: list[str | bytes]) -> str | bytes:
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(piece for piece in pieces if isinstance(piece, str))
    return b"".join(piece if isinstance(piece, bytes) else piece.encode() for piece in pieces)
