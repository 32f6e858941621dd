"""A network between us and a Redis: slow, silent, or torn in the middle of something."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator

import attrs

RESET = struct.pack("ii", 1, 0)


@attrs.define
class Cut:
    """Tears the first connection whose request contains ``marker``, once.

    ``request``: so many bytes of what follows the marker's beginning still arrive; the answer never
    comes. Otherwise the whole request arrives, and ``reply`` bytes of its answer.
    """

    marker: bytes
    request: int | None = None
    reply: int = 0
    made: threading.Event = attrs.field(factory=threading.Event, init=False)


@attrs.define(eq=False)
class _Wire:
    """One connection through the proxy; two threads carry it."""

    near: socket.socket
    far: socket.socket
    left: int | None = None
    """Bytes of the answer that still pass, once a cut was begun."""
    cut: Cut | None = None
    ended: threading.Event = attrs.field(factory=threading.Event, init=False)
    """The target has said its last."""

    def tear(self) -> None:
        with contextlib.suppress(OSError):
            self.near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                end.close()


class Proxy:
    """Listens on loopback and carries every connection to ``target``: a unix path or a port.

    ``delay`` is the seconds an answer is under way; ``silent`` keeps connections and what is sent
    on them, and lets nothing through. Both may change at any time, and so may ``target``, for new
    connections.
    """

    def __init__(self, target: str | int) -> None:
        self.target = target
        self.delay = 0.0
        self.silent = False
        self.accepted = 0
        self._cuts: list[Cut] = []
        self._wires: list[_Wire] = []
        self._lock = threading.Lock()
        self._ended = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self, marker: str | bytes, *, request: int | None = None, reply: int = 0) -> Cut:
        """Arm a :class:`Cut`."""
        text = marker.encode() if isinstance(marker, str) else marker
        cut = Cut(text, request, reply)
        with self._lock:
            self._cuts.append(cut)
        return cut

    def drop(self) -> None:
        """Tear every connection there is."""
        with self._lock:
            wires, self._wires = self._wires, []
        for wire in wires:
            wire.tear()

    def close(self) -> None:
        self._ended = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    # -- threads --------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._ended:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                far = self._reach()
            except OSError:
                near.close()
                continue
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = _Wire(near, far)
            with self._lock:
                self._wires.append(wire)
            answers: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            for carry in (self._there, self._hear, self._back):
                threading.Thread(target=carry, args=(wire, answers), daemon=True).start()

    def _reach(self) -> socket.socket:
        if isinstance(self.target, int):
            return socket.create_connection(("127.0.0.1", self.target), 5)
        far = socket.socket(socket.AF_UNIX)
        far.connect(self.target)
        return far

    def _there(self, wire: _Wire, _: object) -> None:
        """Requests. A marker never straddles two reads here: requests are small or sent at once."""
        with contextlib.suppress(OSError):
            while chunk := wire.near.recv(1 << 22):
                self._wait()
                with self._lock:
                    cut = next((cut for cut in self._cuts if cut.marker in chunk), None)
                    if cut is not None:
                        self._cuts.remove(cut)
                        wire.cut = cut
                if cut is not None and cut.request is not None:
                    end = chunk.index(cut.marker) + cut.request
                    wire.far.sendall(chunk[:end])
                    wire.far.shutdown(socket.SHUT_WR)
                    wire.ended.wait(10)  # what is complete of it is run, then the target ends
                    break
                if cut is not None:
                    wire.left = cut.reply
                wire.far.sendall(chunk)
        self._end(wire)

    def _hear(self, wire: _Wire, answers: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while chunk := wire.far.recv(1 << 22):
                answers.put((time.monotonic(), chunk))
        wire.ended.set()
        answers.put((time.monotonic(), b""))

    def _back(self, wire: _Wire, answers: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        """Answers, each as late as asked for."""
        with contextlib.suppress(OSError):
            while True:
                heard, chunk = answers.get()
                while (left := heard + self.delay - time.monotonic()) > 0 and not self._ended:
                    time.sleep(min(left, 0.05))
                self._wait()
                if wire.cut is not None and wire.cut.request is not None and chunk:
                    continue  # an answer that never comes: torn when the target has ended
                if wire.left is not None:
                    chunk = chunk[: wire.left]
                    wire.left -= len(chunk)
                if not chunk:
                    break
                wire.near.sendall(chunk)
                if wire.left == 0:
                    break
        self._end(wire)

    def _wait(self) -> None:
        while self.silent and not self._ended:
            time.sleep(0.01)

    def _end(self, wire: _Wire) -> None:
        wire.tear()
        with self._lock:
            if wire in self._wires:
                self._wires.remove(wire)
        if wire.cut is not None:
            wire.cut.made.set()


@contextlib.contextmanager
def proxied(target: str | int) -> Iterator[Proxy]:
    """A proxy before ``target``, gone with the block."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
