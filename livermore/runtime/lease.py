"""Who writes an exchange: one process, under an epoch that fences out its predecessors.

The lease is a key with a time to live. Its holder renews it; when renewing fails for as long as the
lease lasts *by our monotonic clock*, we stop writing at once, whatever Redis thinks. ``hold`` ends
when cancelled (giving the lease back) or with :class:`LeaseLost` when somebody else has it. One
that stands by asks for it every few seconds, and is named in the key meanwhile.
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
ASK = 2.0
"""Seconds between two tries of one that stands by."""
REMEMBERED = 10.0
"""Seconds after its last try for which one that stands by is named."""


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
    _doubted: trio.Event = attrs.field(factory=trio.Event, init=False)

    def valid(self) -> bool:
        """Whether we may write now."""
        return trio.current_time() < self.valid_until

    async def take(self, *, at_least: int = 0) -> int:
        """Acquire it, or, where we hold it, a higher epoch; returns the epoch, above ``at_least``.

        Raises :class:`TakenError` naming the holder, and :class:`StoreUnusable` when its key is
        somebody else's.
        """
        return await self._take("take", at_least)

    async def stand_by(self, waits: Callable[[str], object]) -> int:
        """Acquire it as soon as nobody else holds it; returns the epoch.

        ``waits`` hears, at every try in vain, what it waits for: who holds it, or why Redis does
        not answer. Raises :class:`StoreUnusable`.
        """
        while True:
            try:
                return await self._take("wait")
            except TakenError as error:
                waits(error.holder)
            except StoreUnusable:
                raise
            except StoreError as error:
                waits(str(error))
            await trio.sleep(ASK)

    async def _take(self, how: str, at_least: int = 0) -> int:
        asked = trio.current_time()
        reply = await self._call(how, at_least)
        if int(reply[0]) != 1:
            raise taken(self.exchange, reply)
        self.epoch = int(reply[1])
        self.valid_until = asked + LASTS
        return self.epoch

    async def hold(self, retaken: Callable[[], object]) -> None:
        """Renew until cancelled; ``retaken`` hears that it was taken anew, under a higher epoch."""
        wait = RENEW
        while True:
            with trio.move_on_after(wait):
                await self._doubted.wait()
            self._doubted = trio.Event()
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
                    raise LeaseLost(str(taken(self.exchange, reply)))
            except TakenError as error:
                raise LeaseLost(str(error)) from error
            except StoreUnusable:
                raise
            except StoreError:
                continue  # the writer tells; until valid_until we may still write
            wait = RENEW

    def doubt(self) -> None:
        """Something says that we were succeeded: :meth:`hold` asks at once."""
        self._doubted.set()

    async def successor(self) -> TakenError | None:
        """Who holds it instead of us; None when nobody does or Redis does not say."""
        try:
            reply = await self._call("renew")
        except StoreError:
            return None
        ours = int(reply[0]) == 1 or reply[2] in (b"", self.holder.encode())
        return None if ours else taken(self.exchange, reply)

    async def release(self) -> None:
        """Give it back, or wait for it no more; a Redis that is away keeps it until it lapses."""
        self.valid_until = 0.0
        try:
            await self._call("release")
        except StoreError:
            return

    async def _call(self, what: str, at_least: int = 0) -> Any:
        description = json.dumps(self.description)
        # Never ours before it was taken: what it belongs to may be a successor's.
        epoch = max(self.epoch, at_least)
        call = script(
            "lease", (store.lease_key(self.exchange),),
            what, self.holder, int(LASTS * 1000), description, epoch, int(REMEMBERED * 1000),
        )  # fmt: skip
        try:
            return (await self.redis.run([call], "lease"))[0]
        except StoreError as error:
            if not store.is_foreign(error):
                raise
            text = store.foreign_text(store.lease_key(self.exchange))
            raise StoreUnusable(f"Redis {self.redis.shown}: {text}") from error


def taken(exchange: str, reply: Any) -> TakenError:
    """The error that says who holds the lease, from the script's reply."""
    holder = f"{exchange} is held by {store.process_text(reply[3])}"
    left = max(0, int(reply[4])) / 1000
    return TakenError(
        f"{holder} (its lease runs {left:.0f} s more): stop that daemon, or wait until its lease "
        f"lapses; livermore run {exchange} --standby waits and then takes over",
        holder,
    )
