"""A service manager as far as it listens: a real datagram socket, and what was said to it."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs


@attrs.define
class Listener:
    """``address`` is what ``NOTIFY_SOCKET`` names; ``told`` are the lines, in order."""

    address: str
    _socket: socket.socket
    told: list[str] = attrs.Factory(list)

    def hear(self) -> list[str]:
        """Everything that has arrived; does not wait."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.told += self._socket.recv(65536).decode().split("\n")
        return self.told

    def hears(self, text: str, within: float = 20, after: int = 0) -> str:
        """Wait for a line that contains ``text``, from the ``after``-th one on."""
        deadline = time.monotonic() + within
        while True:
            for line in self.hear()[after:]:
                if text in line:
                    return line
            assert time.monotonic() < deadline, f"no {text!r} in {self.told[after:]}"
            time.sleep(0.03)

    def beats(self, count: int, within: float = 30) -> None:
        """Wait for so many more signs of life."""
        begun = len(self.hear())
        deadline = time.monotonic() + within
        while self.hear()[begun:].count("WATCHDOG=1") < count:
            assert time.monotonic() < deadline, self.told[begun:]
            time.sleep(0.03)

    def leave(self) -> None:
        """Nobody listens any more; a path stays behind, as after a crash."""
        self._socket.close()

    def come_back(self) -> None:
        """Listen again at the same address, which is a path."""
        Path(self.address).unlink()
        self._socket = bound(self.address)

    def close(self) -> None:
        self._socket.close()

    def statuses(self) -> list[str]:
        return [line for line in self.hear() if line.startswith("STATUS=")]


def bound(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind("\0" + address[1:] if address[0] == "@" else address)
    listener.setblocking(False)
    return listener


@contextlib.contextmanager
def listening_manager(*, abstract: bool = False) -> Iterator[Listener]:
    # Not in $TMPDIR: the path of a unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="lm-", dir="/tmp") as directory:
        path = str(Path(directory, "notify"))
        address = f"@{path}" if abstract else path  # the directory's name is nobody else's
        listener = Listener(address, bound(address))
        try:
            yield listener
        finally:
            listener.close()
