"""What is said to a service manager: datagrams to the socket that it named.

The protocol is ``sd_notify(3)``: lines of ``NAME=value`` in one datagram. Nobody waits for an
answer, and a manager that is gone or busy is no reason to fail.
"""

from __future__ import annotations

import socket
import time

import attrs

LONGEST = 400
"""Characters of a status; the manager shows it in one line."""


@attrs.frozen
class Notifier:
    """``address`` is the manager's: a path, or ``@name`` of an abstract socket; None: nobody."""

    address: str | None

    def tell(self, *lines: str) -> bool:
        """Send lines such as ``READY=1``; whether the manager has them. Never waits."""
        if self.address is None or self.address[:1] not in ("/", "@"):
            return False
        # A null byte is how the kernel spells an abstract name.
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(errors="replace"), address)
        except OSError:  # nobody listens, or there is no descriptor left
            return False
        return True

    def reloading(self) -> bool:
        """From here to the next ``READY=1`` the configuration is read anew."""
        return self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def status(text: str) -> str:
    """``text`` as the status: one line, not too long."""
    line = " ".join(text.split())
    return f"STATUS={line if len(line) <= LONGEST else line[: LONGEST - 1] + '…'}"
