"""Hears the commands of every exchange, and runs them on the fleet: one at a time per exchange.

Of several instances on one Redis the one that runs the exchange takes a command at once, the others
leave it that time; who takes it is settled by a claim, which also tells a command that comes twice.
What takes long (a history, a backfill) is followed after the command's turn is over, so that a
``stop`` never waits behind it.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import trio

from livermore.adapters.redis import Client, Redis
from livermore.control.command import (
    Command,
    claim,
    commands_channel,
    correlation_of,
    parse,
    response,
    responses_channel,
)
from livermore.errors import CommandRefused, LivermoreError, StoreError
from livermore.market.lifecycle import RUNS, check_command
from livermore.runtime.backoff import Backoff
from livermore.runtime.fleet import Fleet
from livermore.runtime.journal import Journal
from livermore.runtime.supervise import first_of

LANE = "control"
LEAVES = 0.4
"""Seconds that an instance without the exchange leaves to the one that has it."""
MOST = 100
"""Commands that wait; one more is refused."""

Progress = Callable[..., Awaitable[None]]
"""Tells the sender how far it is: a text, and data by name."""


@attrs.frozen
class Done:
    """What came of a command, or, with ``follow``, what comes of it later."""

    text: str
    data: Mapping[str, Any] = attrs.Factory(dict)
    follow: Callable[[Progress], Awaitable[Done]] | None = None


Act = Callable[[Command, Progress], Awaitable[Done]]
"""Runs a command. Raises :class:`LivermoreError` where it fails."""


@attrs.define(eq=False)
class Desk:
    """``instance`` is who we are, ``acts`` what each command does."""

    redis: Redis
    instance: str
    exchanges: tuple[str, ...]
    fleet: Fleet
    acts: Mapping[str, Act]
    secret: str | None = attrs.field(default=None, repr=False)
    journal: Journal = attrs.Factory(lambda: Journal("control"))
    chance: Callable[[], float] = lambda: 0.5
    counts: Counter[str] = attrs.Factory(Counter)
    """Commands that were run, failed and refused."""
    listening: trio.Event = attrs.Factory(trio.Event)
    """Commands have been heard since."""
    _queues: dict[str, list[tuple[int, int, float, Command]]] = attrs.Factory(dict)
    _serial: int = 0
    _nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Hear and run commands until cancelled."""
        async with trio.open_nursery() as self._nursery:
            backoff = Backoff(first=0.5, most=10.0)
            said = False
            while True:
                begun = trio.current_time()
                try:
                    await self._listen()
                except StoreError as error:
                    if not said:
                        self.journal.warning("no commands are heard", why=str(error))
                    said = True
                if trio.current_time() - begun > 10:
                    backoff.reset()
                    said = False
                await trio.sleep(backoff.next(self.chance()))

    async def _listen(self) -> None:
        """Until Redis goes away; raises :class:`StoreError`."""
        stopped = threading.Event()
        # Full is an operator in a hurry; a command that finds no room is told so.
        give, take = trio.open_memory_channel[tuple[str, bytes]](MOST)
        client = Client(self.redis.url)
        channels = {commands_channel(name): name for name in self.exchanges}

        def work() -> None:
            try:
                heard = client.messages(
                    list(channels), stopped, lambda: trio.from_thread.run_sync(self.listening.set)
                )
                for channel, text in heard:
                    trio.from_thread.run_sync(self._give, give, channels[channel], text)
            except (trio.RunFinishedError, trio.Cancelled):
                return
            finally:
                client.close()

        async def hear() -> None:
            async for exchange, text in take:
                await self._hear(exchange, text)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hear)
                # A blocking read: its thread ends a quarter of a second after it is told to.
                await trio.to_thread.run_sync(work, abandon_on_cancel=True)
                nursery.cancel_scope.cancel()
        except* StoreError as group:
            error = first_of(group)
            raise error if isinstance(error, StoreError) else StoreError(str(error)) from None
        finally:
            stopped.set()

    def _give(
        self, give: trio.MemorySendChannel[tuple[str, bytes]], exchange: str, text: bytes
    ) -> None:
        try:
            give.send_nowait((exchange, text))
        except trio.WouldBlock:
            self._refuse(exchange, "", f"{MOST} commands wait already")

    def _refuse(self, exchange: str, kind: str, why: str) -> None:
        self.counts["refused"] += 1
        self.journal.warning("command refused", of=exchange, command=kind or "?", why=why)

    async def _hear(self, exchange: str, text: bytes) -> None:
        """Take a command where it is ours to take."""
        assert self._nursery is not None
        correlation = correlation_of(text)
        try:
            now, _ = await self._claim(correlation or "unknown", "")
            command = parse(text, exchange, now, self.secret)
        except CommandRefused as error:
            self._refuse(exchange, "", str(error))
            if correlation:
                await self._say(correlation, "error", f"refused: {error}")
            return
        except StoreError as error:
            self._refuse(exchange, "", str(error))
            return
        deadline = trio.current_time() + (command.expires_at - now) / 1000
        self._nursery.start_soon(self._take, command, deadline)

    async def _take(self, command: Command, deadline: float) -> None:
        """Queue a command that nobody else takes."""
        assert self._nursery is not None
        if self.fleet.cell(command.exchange).state not in RUNS or self._waits(command.exchange):
            await trio.sleep(LEAVES)
        try:
            _, other = await self._claim(command.correlation, self.instance)
        except StoreError as error:
            self._refuse(command.exchange, command.type, str(error))
            return
        if other:
            if other == self.instance:
                self._refuse(command.exchange, command.type, "it came before")
            return
        if command.type == "status":
            await self._run(command)
            return
        queue = self._queues.get(command.exchange)
        ahead = len(queue) if queue is not None else 0
        if ahead >= MOST:
            self._refuse(command.exchange, command.type, f"{MOST} commands wait already")
            await self._say(command.correlation, "error", f"{MOST} commands wait already")
            return
        await self._say(
            command.correlation, "ack", f"heard, {ahead} before it" if ahead else "heard"
        )
        self._serial += 1
        item = (command.priority, self._serial, deadline, command)
        if (queue := self._queues.get(command.exchange)) is not None:
            heapq.heappush(queue, item)
        else:
            self._queues[command.exchange] = [item]
            self._nursery.start_soon(self._work, command.exchange)

    def _waits(self, exchange: str) -> bool:
        """Whether our feed only stands by for the exchange that another daemon holds."""
        feed = self.fleet.cell(exchange).feed
        return feed is not None and bool(feed.report.standby)

    async def _work(self, exchange: str) -> None:
        """Run what waits for one exchange, the most urgent first."""
        queue = self._queues[exchange]
        while queue:
            _, _, deadline, command = heapq.heappop(queue)
            if trio.current_time() >= deadline:
                self._refuse(exchange, command.type, "expired while it waited")
                await self._say(command.correlation, "error", "refused: expired while it waited")
                continue
            await self._run(command)
        del self._queues[exchange]

    async def _run(self, command: Command) -> None:
        assert self._nursery is not None
        by = {"user": command.user} if command.user else {}
        self.journal.info("command", of=command.exchange, command=command.type, **by)

        async def work() -> Done:
            check_command(command.type, command.exchange, self.fleet.cell(command.exchange).state)
            return await self.acts[command.type](command, self._progress(command))

        done = await self._outcome(command, work)
        if done is not None and done.follow is not None:
            self._nursery.start_soon(self._follow, command, done.follow)

    async def _follow(
        self, command: Command, follow: Callable[[Progress], Awaitable[Done]]
    ) -> None:
        await self._outcome(command, lambda: follow(self._progress(command)))

    async def _outcome(self, command: Command, work: Callable[[], Awaitable[Done]]) -> Done | None:
        """Do ``work`` and say what came of it; None where it failed."""
        try:
            try:
                done = await work()
            except BaseExceptionGroup as group:
                known, others = group.split(LivermoreError)
                if known is None or others is not None:
                    raise
                raise first_of(known) or known from None
        except LivermoreError as error:
            self.counts["failed"] += 1
            self.journal.warning(
                "command failed", of=command.exchange, command=command.type, why=str(error)
            )
            await self._say(command.correlation, "error", str(error))
            return None
        if done.follow is None:
            self.counts["run"] += 1
            await self._say(command.correlation, "success", done.text, **done.data)
        else:
            await self._say(command.correlation, "progress", done.text, **done.data)
        return done

    def _progress(self, command: Command) -> Progress:
        async def progress(text: str, **data: object) -> None:
            await self._say(command.correlation, "progress", text, **data)

        return progress

    async def _claim(self, correlation: str, instance: str) -> tuple[int, str]:
        """The time of Redis in ms, and who took the command before us."""
        [(now, other)] = await self.redis.run([claim(correlation, instance)], LANE)
        return int(now), other.decode()

    async def _say(self, correlation: str, status: str, text: str, **data: object) -> None:
        """Answer; who asked learns from silence where Redis does not take it."""
        answer = response(correlation, status, self.instance, text, **data)
        try:
            await self.redis.run([("PUBLISH", responses_channel(correlation), answer)], LANE)
        except StoreError as error:
            self.journal.warning("an answer was not taken", why=str(error))
