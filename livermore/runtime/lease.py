"""Who writes an exchange: one process, under an epoch that fences out its predecessors.

The lease is a key with a time to live. Its holder renews it; when renewing fails for as long as the
lease lasts *by our monotonic clock*, we stop writing at once, whatever Redis thinks. ``hold`` ends
when cancelled (giving the lease back) or with :class:`LeaseLost` when somebody else has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import trio

from livermore.adapters import store
from livermore.adapters.redis import Redis, script
from livermore.errors import LeaseLost, StoreError, StoreUnusable, TakenError

LASTS = 30.0
"""Seconds."""
RENEW = 8.0


@attrs.define
class Lease:
    """The lease of one exchange. ``holder`` is one process, ``description`` is for people."""

    redis: Redis
    exchange: str
    holder: str
    description: dict[str, object]
    epoch: int = 0
    valid_until: float = 0.0
    """Monotonic seconds."""

    def valid(self) -> bool:
        """Whether we may write now."""
        return trio.current_time() < self.valid_until

    async def take(self) -> int:
        """Acquire it; returns the new epoch. Raises :class:`TakenError` naming the holder.

        And :class:`StoreUnusable` when its key is somebody else's.
        """
        asked = trio.current_time()
        reply = await self._call("take")
        if int(reply[0]) != 1:
            raise TakenError(taken(self.exchange, reply))
        self.epoch = int(reply[1])
        self.valid_until = asked + LASTS
        return self.epoch

    async def hold(self, retaken: Callable[[], object]) -> None:
        """Renew until cancelled; ``retaken`` hears that it was taken anew, under a higher epoch."""
        wait = RENEW
        while True:
            await trio.sleep(wait)
            wait = 1.0
            asked = trio.current_time()
            try:
                reply = await self._call("renew")
                if int(reply[0]) == 1:
                    self.valid_until = asked + LASTS
                elif not reply[2] or reply[2] == self.holder.encode():
                    # It lapsed while Redis was away and nobody else took it, or we took it and
                    # the answer was lost.
                    await self.take()
                    retaken()
                else:
                    raise LeaseLost(taken(self.exchange, reply))
            except TakenError as error:
                raise LeaseLost(str(error)) from error
            except StoreUnusable:
                raise
            except StoreError:
                continue  # the writer tells; until valid_until we may still write
            wait = RENEW

    async def release(self) -> None:
        """Give it back; a Redis that is away keeps it until it lapses."""
        if self.epoch:
            self.valid_until = 0.0
            try:
                await self._call("release")
            except StoreError:
                return

    async def _call(self, what: str) -> Any:
        description = json.dumps(self.description)
        call = script(
            "lease", (store.lease_key(self.exchange),),
            what, self.holder, int(LASTS * 1000), description, self.epoch,
        )  # fmt: skip
        try:
            return (await self.redis.run([call], "lease"))[0]
        except StoreError as error:
            if not store.is_foreign(error):
                raise
            text = store.foreign_text(store.lease_key(self.exchange))
            raise StoreUnusable(f"Redis {self.redis.shown}: {text}") from error


def taken(exchange: str, reply: Any) -> str:
    """A line that says who holds the lease, from the script's reply."""
    try:
        who = json.loads(reply[3] or b"{}")
    except ValueError:
        who = {}
    if not isinstance(who, dict):
        who = {}
    since = f", since {who['since']}" if "since" in who else ""
    name = f"process {who.get('pid', '?')} on {who.get('host', '?')}"
    left = max(0, int(reply[4])) / 1000
    return (
        f"{exchange} is held by {name}{since} (its lease runs {left:.0f} s more): "
        "stop that daemon, or wait until its lease lapses"
    )
