"""From the outbox of an exchange to its channels, each at its own pace.

The outbox is read in order and dealt out to one :class:`Sender` per channel: a channel that is dead
delays neither the others nor whoever writes. Only the holder of the lease delivers; its successor
goes on where it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import trio

from livermore.adapters import outbox
from livermore.adapters.channel import Channel
from livermore.adapters.outbox import Posting, Row
from livermore.adapters.redis import Redis
from livermore.errors import Fenced, StoreError, StoreUnusable
from livermore.runtime.backoff import Backoff
from livermore.runtime.journal import Journal
from livermore.runtime.lease import Lease
from livermore.runtime.sender import LANE, Draw, Figures, Sender
from livermore.runtime.supervise import supervise

POLL = 1.0
"""Seconds between two looks at the outbox when nobody says that something came."""
DRAIN = 2.0
"""Seconds for what waits, at the end."""
DRAIN_AWAY = 0.5
"""The same while Redis is away, where all but what was told directly has to wait anyway."""


class Delivery:
    """Delivers what lies in the outbox of one exchange, while :meth:`running`."""

    def __init__(
        self,
        redis: Redis,
        exchange: str,
        lease: Lease,
        channels: Sequence[Channel],
        *,
        clock: Callable[[], int | None],
        chance: Callable[[], float],
        journal: Journal,
        draw: Draw | None = None,
    ) -> None:
        self._redis = redis
        self._exchange = exchange
        self._lease = lease
        self._chance = chance
        self._journal = journal
        self._senders = [
            Sender(
                channel, redis, exchange, lease,
                clock=clock, chance=chance, journal=journal, draw=draw,
            )
            for channel in channels
        ]  # fmt: skip
        self._names = [sender.name for sender in self._senders]
        self._last: str | None = None
        """Stream id up to which the outbox was read; None before it was."""
        self._woken = trio.Event()
        self._ending = False
        self._foreign_said = False
        self._away = False
        """Whether Redis did not answer when it was asked last."""

    @property
    def figures(self) -> Mapping[str, Figures]:
        """By channel, what was done."""
        return {sender.name: sender.figures for sender in self._senders}

    def wake(self) -> None:
        """Something was added to the outbox."""
        self._woken.set()

    def direct(self, posting: Posting) -> None:
        """Send an entry that Redis does not take; where it takes it later, it is told once."""
        for sender in self._senders:
            sender.tell(posting)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver during the block, and for :data:`DRAIN` seconds at most behind it.

        Also where the block is cancelled: what its end adds to the outbox is delivered. Raises
        :class:`Fenced` and :class:`StoreUnusable` into the block.
        """
        scope = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work, scope)
            try:
                yield
            finally:
                self._ending = True
                self._woken.set()
                scope.deadline = trio.current_time() + (DRAIN_AWAY if self._away else DRAIN)

    async def _work(self, scope: trio.CancelScope) -> None:
        ends = (Fenced, StoreUnusable)
        with scope:
            async with trio.open_nursery() as nursery:
                for sender in self._senders:
                    for what, run in (("channel", sender.run), ("charts of", sender.run_charts)):
                        nursery.start_soon(
                            lambda what, run: supervise(
                                what, run, self._journal, chance=self._chance, ends=ends
                            ),
                            f"{what} {sender.name}",
                            run,
                        )

                async def follow() -> None:
                    await self._follow()
                    for sender in self._senders:
                        sender.end()
                    if self._lease.valid():
                        for sender in self._senders:
                            await sender.finished.wait()
                    nursery.cancel_scope.cancel()
                    await trio.sleep_forever()

                # Whatever is wrong with an outbox or a channel must not end the feed.
                await supervise("delivery", follow, self._journal, chance=self._chance, ends=ends)

    async def _follow(self) -> None:
        """Deal out what is in the outbox and what comes, until the end."""
        backoff = Backoff(first=0.25, most=5.0)
        while True:
            ending, wait = self._ending, POLL
            try:
                more = await self._read()
                self._away = False
                if more:
                    continue
                backoff.reset()
            except (Fenced, StoreUnusable):
                raise
            except StoreError as error:
                self._away = True
                wait = backoff.next(self._chance())
                self._journal.debug("the outbox is not read", why=str(error))
            if ending:
                return
            with trio.move_on_after(wait):
                await self._woken.wait()
            self._woken = trio.Event()

    async def _read(self) -> bool:
        """Read one page; whether there is more."""
        if self._last is None:
            await self._begin("")
        assert self._last is not None
        calls = [
            outbox.after(self._exchange, self._last),
            outbox.before(self._exchange, None, 1),
            outbox.served(self._exchange),
        ]
        page, newest, served = await self._redis.run(calls, LANE)
        end = next(iter(outbox.ids(newest)), outbox.BEGINNING)
        if outbox.order(end) < outbox.order(self._last) or served != ",".join(self._names).encode():
            self._journal.warning("the outbox was lost", next="what comes is delivered")
            await self._begin(self._last)
            return True
        for stream_id, row in zip(outbox.ids(page), outbox.rows(page), strict=True):
            self._last = stream_id
            for sender in self._senders:
                if isinstance(row, Row):
                    sender.take(row)
                else:
                    sender.skip(stream_id)
            if not isinstance(row, Row) and not self._foreign_said:
                self._foreign_said = True
                self._journal.warning("the outbox holds what is no entry of ours", why=str(row))
        return len(page) >= outbox.PAGE

    async def _begin(self, start: str) -> None:
        """Learn how far the channels are; one that was never there starts behind ``start``."""
        call = outbox.begin(self._exchange, self._lease.epoch, self._names, start)
        [reply] = await self._redis.run([call], LANE)
        begun = outbox.begun(self._names, reply)
        for sender in self._senders:
            sender.begin(begun[sender.name])
        cursors = [progress.cursor for progress in begun.values()]
        self._last = min(cursors, key=outbox.order, default=outbox.BEGINNING)
