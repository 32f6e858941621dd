"""Where websockets come in: limits, refusals, and who must leave for saying nothing."""

from __future__ import annotations

from functools import partial

import attrs
import trio

from livermore.simulator.exchange import Stage
from livermore.simulator.feed import Feed
from livermore.simulator.http import Stream, address_of
from livermore.simulator.pace import Pace
from livermore.simulator.socket import Socket
from livermore.simulator.trades import NS

_UPGRADE_WITHIN = 10.0
_REFUSED = 1008
"""Close code: the client does not keep to the rules."""
_TOO_OLD = 1000


@attrs.frozen
class Ping:
    """A ping as faults see it."""

    time: int
    channel: str = "heartbeats"
    symbol: str | None = None

    def encode(self, sequence: int, skew: int) -> bytes:
        """Its payload."""
        return str((self.time + skew) // NS).encode()


class Gate:
    """One client at a time, from its handshake to its end."""

    def __init__(self, stage: Stage, feed: Feed) -> None:
        self._stage = stage
        self._feed = feed
        self._pace = Pace(stage.limits.connections, stage.limits.connection_window)

    async def welcome(self, stream: Stream) -> None:
        """One client."""
        stage, stats = self._stage, self._stage.stats
        socket = Socket(
            stats.connections_total,
            address_of(stream),
            stream,
            stage.faults,
            stats,
            stage.limits.outbox_bytes,
            lambda: stage.clock.skew,
        )
        refusal = stage.faults.one("refuse")
        if refusal is not None and not refusal.options["status"]:
            stats.refused += 1
            return
        status = refusal.options["status"] if refusal else None
        if status is None and not self._pace.take(socket.address, stage.monotonic()):
            status = 429
            stats.over_rate += 1
        target = None
        with trio.move_on_after(_UPGRADE_WITHIN):
            target = await socket.accept(status, self._feed.voice.refusal)
        if target is None:
            stats.refused += 1
        else:
            await self._serve(socket, target)

    async def _serve(self, socket: Socket, target: str) -> None:
        stats, voice = self._stage.stats, self._feed.voice
        stats.connections_total += 1
        stats.connections += 1
        self._stage.sockets[socket] = None
        voice.join(socket, target)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._expect_subscription, socket)
                nursery.start_soon(self._ping, socket)
                nursery.start_soon(self._expect_pongs, socket)
                nursery.start_soon(self._outlive, socket)
                await socket.run(partial(voice.hear, socket), partial(voice.notice, socket))
                nursery.cancel_scope.cancel()
        finally:
            stats.connections -= 1
            self._feed.leave(socket)

    async def _expect_subscription(self, socket: Socket) -> None:
        with trio.move_on_after(self._stage.limits.subscribe_within):
            await socket.subscribed.wait()
        if not socket.subscribed.is_set():
            socket.drop(_REFUSED)

    async def _ping(self, socket: Socket) -> None:
        stage = self._stage
        while True:
            await trio.sleep(stage.limits.ping_every)
            ping = Ping(stage.clock.now())
            if not (stage.faults and stage.faults.silences(ping)):
                socket.ping(ping.encode(0, stage.clock.skew))

    async def _expect_pongs(self, socket: Socket) -> None:
        """Drop who does not answer a ping; who is half-open cannot be heard, nor blamed."""
        while True:
            await socket.pinged.wait()
            with trio.move_on_after(self._stage.limits.pong_within):
                await socket.answered.wait()
            if not socket.answered.is_set() and socket.frozen_until is None:
                socket.drop(_REFUSED)
                return
            socket.pinged, socket.answered = trio.Event(), trio.Event()

    async def _outlive(self, socket: Socket) -> None:
        await trio.sleep(self._stage.limits.maximum_age / self._stage.clock.speed)
        socket.drop(_TOO_OLD)
