"""Every change of a feed's state, told on the lifecycle channel and kept in a capped stream.

It is not the feed that tells: an idle or failed exchange has none. What Redis does not take waits,
bounded.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import attrs
import msgspec
import trio

from livermore.adapters import store
from livermore.adapters.redis import Call, Redis
from livermore.errors import StoreError
from livermore.market.lifecycle import ANNOUNCED
from livermore.runtime.fleet import Change

KEPT = 1000
"""Entries of the stream, about."""
WAITING = 200
AGAIN = 2.0
"""Seconds between two tries."""


def network_log(exchange: str) -> str:
    """The stream of what happened to an exchange on every instance."""
    return f"logs:network:{exchange}"


@attrs.define
class Announcer:
    """``instance`` is who we are."""

    redis: Redis
    instance: str
    clock: Callable[[], float] = time.time
    """Seconds since the epoch; for people."""
    _waiting: deque[tuple[str, bytes]] = attrs.Factory(lambda: deque(maxlen=WAITING))
    _wake: trio.Event = attrs.Factory(trio.Event)

    def tell(self, change: Change) -> None:
        """Publish ``change`` as soon as Redis takes it."""
        message = {
            "event": ANNOUNCED[change.after],
            "exchange": change.exchange,
            "from": change.before.value,
            "to": change.after.value,
            "instance": self.instance,
            "time": round(self.clock() * 1000),
        }
        if change.why:
            message["why"] = change.why
        self._waiting.append((change.exchange, msgspec.json.encode(message)))
        self._wake.set()

    async def run(self) -> None:
        """Publish what is told, until cancelled; what is told last goes out all the same."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                if not await self._flush():
                    self._wake.set()
                    await trio.sleep(AGAIN)
        finally:
            with trio.move_on_after(1, shield=True):
                await self._flush()

    async def _flush(self) -> bool:
        """Whether Redis took all."""
        while self._waiting:
            exchange, text = self._waiting[0]
            try:
                await self.redis.run(calls(exchange, text), "control")
            except StoreError:
                return False
            self._waiting.popleft()
        return True


def calls(exchange: str, text: bytes) -> list[Call]:
    """Keep and publish a message."""
    return [
        ("XADD", network_log(exchange), "MAXLEN", "~", KEPT, "*", "event", text),
        ("PUBLISH", store.lifecycle_channel(exchange), text),
    ]
