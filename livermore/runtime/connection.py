"""One socket's life: connect, subscribe, receive until something ends it.

``live`` returns never and raises what ended it; it does not retry. Its deadlines count from the
moment a wait begins, so our own slow work never looks like the exchange's silence. The receive loop
hands every frame to the tracker synchronously and never awaits the writer.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from livermore.adapters.websocket import Socket, open_socket
from livermore.dialect import Dialect, Subscription
from livermore.errors import ConnectionLost, MalformedMessage, Stalled
from livermore.market.events import Acknowledged, Frame
from livermore.market.tracker import Tracker

FIRST_FRAME = 10.0
"""Seconds after subscribing in which something must be heard."""
SILENT = 30.0
"""Seconds without any frame after which a socket is stalled."""
ACKNOWLEDGED = 20.0
"""Seconds of listening in which every subscription must be confirmed."""
OVERSLEPT = 1.0
"""Seconds by which a wait may last longer than asked for before it says more of us than of them."""


ASK_AGAIN = 600.0
"""Seconds after which a symbol the exchange does not serve is asked for again."""
BURST = 64
"""Frames that are here already and are taken without letting other tasks run."""


class State(enum.Enum):
    """What a connection is doing."""

    CONNECTING = "connecting"
    SUBSCRIBING = "subscribing"
    LIVE = "live"
    WAITING = "waiting"


@attrs.define
class Health:
    """What status shows of one connection."""

    name: str
    symbols: int
    state: State = State.CONNECTING
    since: float = 0.0
    frames: int = 0
    heard_at: float = 0.0
    """Monotonic time of the newest frame; 0 before the first."""
    malformed: int = 0
    reconnects: int = 0
    error: str = ""
    again_at: float = 0.0
    """Monotonic time of the next try, while it waits."""
    rejected: Mapping[str, str] = attrs.Factory(dict)
    """Native ids the exchange does not serve, and why."""
    mute: frozenset[str] = frozenset()
    """Symbols whose trades REST shows and the connection does not deliver."""
    mute_since: float = 0.0
    """Monotonic time since when the first of them is silent."""
    starved: frozenset[str] = frozenset()
    """Symbols whose trades arrive without their candle channel."""


@attrs.define
class Pace:
    """Turns to send a frame, evenly spaced; shared where all connections count together."""

    per_second: float
    _next: float = 0.0

    async def turn(self) -> None:
        """Wait until a frame may be sent."""
        at = max(trio.current_time(), self._next)
        self._next = at + 1 / self.per_second
        await trio.sleep_until(at)


@attrs.define
class Connection:
    """Carries one shard: ``natives`` are the exchange's product ids."""

    dialect: Dialect
    url: str
    natives: Sequence[str]
    tracker: Tracker
    health: Health
    wake: Callable[[], None]
    changed: Callable[[State], None]
    malformed: Callable[[MalformedMessage], None]
    pace: Pace = attrs.field()
    rejected: Callable[[Sequence[str]], object] = lambda messages: None
    """Hears what the exchange refused, and that ``health.rejected`` changed."""
    heard: Callable[[float, str | bytes], None] | None = None
    """Is given every frame before it is read: the flight recorder."""
    _excluded: dict[str, float] = attrs.Factory(dict)
    """Native ids an error of the exchange named, and until when they are not asked for."""
    _ask_again_at: float = math.inf
    _unconfirmed: frozenset[str] = frozenset()
    """What was not confirmed on the last connection that ended for that."""
    _scope: trio.CancelScope | None = None
    _replaced: str = ""

    @pace.default
    def _own_pace(self) -> Pace:
        return Pace(self.dialect.messages_per_second)

    def replace(self, why: str) -> None:
        """End this socket's life: :meth:`live` raises :class:`ConnectionLost` with ``why``."""
        if self._scope is not None:
            self._replaced = why
            self._scope.cancel()

    async def live(self) -> None:
        """Raises :class:`ConnectionLost` or :class:`Stalled` when the socket's life is over."""
        self.health.state = State.CONNECTING
        try:
            with trio.CancelScope() as self._scope:
                async with open_socket(
                    self.url, maximum_message=self.dialect.maximum_message
                ) as socket:
                    self.tracker.connected(trio.current_time())
                    self._become(State.SUBSCRIBING)
                    waiting = await self._subscribe(socket)
                    await self._receive(socket, waiting)
            raise ConnectionLost(self._replaced)
        finally:
            self._scope = None
            self.tracker.lost()
            self._become(State.WAITING)

    def _become(self, state: State) -> None:
        self.health.state = state
        self.health.since = trio.current_time()
        self.changed(state)

    async def _subscribe(self, socket: Socket) -> dict[str, set[str]]:
        """Send every subscription, in order and paced; returns what must be acknowledged."""
        now = trio.current_time()
        wanted = [native for native in self.natives if self._excluded.get(native, now) <= now]
        if not wanted:
            self._excluded.clear()
            wanted = list(self.natives)
        subscriptions: Sequence[Subscription] = self.dialect.subscribe(wanted)
        waiting: dict[str, set[str]] = {}
        for subscription in subscriptions:
            await self.pace.turn()
            await socket.send(subscription.frame)
            if subscription.natives:
                waiting.setdefault(subscription.channel, set()).update(subscription.natives)
        return waiting

    async def _receive(self, socket: Socket, waiting: dict[str, set[str]]) -> None:
        tracker, read, heard = self.tracker, self.dialect.read, self.heard
        confirmed: dict[str, int] = dict.fromkeys(self.natives, 0)
        channels = len(waiting)
        listened = 0.0
        silent_after = FIRST_FRAME
        burst = 0
        while True:
            begun = waited_from = trio.current_time()
            text = socket.get_nowait() if burst < BURST else None
            burst = 0 if text is None else burst + 1
            # Two reasons to wake: silence for too long, or a slot that is due in the silence.
            limit = min(silent_after, max(0.02, tracker.due_in(waited_from)))
            while text is None:
                with trio.move_on_after(limit):
                    text = await socket.get()
                if text is None:
                    now = trio.current_time()
                    if now - begun > limit + OVERSLEPT:
                        waited_from = now  # it was us who did not run: what came may wait unread
                    if now - waited_from >= silent_after - 0.001:
                        raise Stalled(f"{self.health.name}: no frame for {silent_after:.0f} s")
                    tracker.tick(now)
                    self._wake_if_urgent()
                    limit = min(silent_after - (now - waited_from), max(0.02, tracker.due_in(now)))
                    begun, limit = now, max(limit, 0.0)
            silent_after = SILENT
            now = trio.current_time()
            listened += now - waited_from
            self.health.frames += 1
            self.health.heard_at = now
            if heard is not None:
                heard(now, text)
            try:
                frame: Frame = read(text)
            except MalformedMessage as error:
                self.health.malformed += 1
                self.malformed(error)
                continue
            tracker.take(frame, now)
            if tracker.rejected:
                self._reject_named(waiting)
            if waiting:
                self._acknowledge(frame, waiting, confirmed, channels, now)
                if not waiting and self.health.state is not State.LIVE:
                    self._become(State.LIVE)
                elif listened > ACKNOWLEDGED and self.health.state is not State.LIVE:
                    self._report_unconfirmed(waiting)
            elif self.health.state is not State.LIVE:
                self._become(State.LIVE)
            self._wake_if_urgent()
            if now >= self._ask_again_at:
                await self._ask_again(socket, waiting, confirmed)

    def _wake_if_urgent(self) -> None:
        if self.tracker.pending.urgent:
            self.wake()

    def _acknowledge(
        self,
        frame: Frame,
        waiting: dict[str, set[str]],
        confirmed: dict[str, int],
        channels: int,
        now: float,
    ) -> None:
        """Strike what ``frame`` confirms from ``waiting``.

        Products with every channel go to the tracker.
        """
        for event in frame.events:
            if not isinstance(event, Acknowledged):
                continue
            whole: list[str] = []
            for channel, natives in event.channels.items():
                wanted = waiting.get(channel)
                if wanted is None:
                    continue
                for native in natives & wanted:
                    wanted.discard(native)
                    confirmed[native] += 1
                    if confirmed[native] == channels:
                        whole.append(native)
                if not wanted:
                    del waiting[channel]
            self.tracker.acknowledged(whole, now)
            served = self.health.rejected.keys() & set(whole)
            if served:
                self._now_rejected(
                    {n: why for n, why in self.health.rejected.items() if n not in served}
                )

    async def _ask_again(
        self, socket: Socket, waiting: dict[str, set[str]], confirmed: dict[str, int]
    ) -> None:
        """Subscribe once more to what was not served: it may have been a passing trouble."""
        self._ask_again_at = trio.current_time() + ASK_AGAIN
        natives = [native for native in self.natives if native in self.health.rejected]
        confirmed.update(dict.fromkeys(natives, 0))
        for subscription in self.dialect.subscribe(natives):
            if subscription.natives:
                await self.pace.turn()
                await socket.send(subscription.frame)
                waiting.setdefault(subscription.channel, set()).update(subscription.natives)

    def _reject_named(self, waiting: dict[str, set[str]]) -> None:
        """Products an error of the exchange names are not served: the others go on."""
        named: dict[str, str] = {}
        messages, self.tracker.rejected = self.tracker.rejected, []
        for message in messages:
            words = set(re.split(r"[^\w-]+", message))
            named.update((native, message) for native in self.natives if native in words)
        if not named:
            self.rejected(messages)
            return
        until = trio.current_time() + ASK_AGAIN
        self._excluded.update(dict.fromkeys(named, until))
        for channel, natives in list(waiting.items()):
            natives.difference_update(named)
            if not natives:
                del waiting[channel]
        self._now_rejected({**self.health.rejected, **named}, messages)

    def _now_rejected(self, rejected: Mapping[str, str], messages: Sequence[str] = ()) -> None:
        for native in rejected.keys() - self.health.rejected.keys():
            self.tracker.ignore(native)
        self._ask_again_at = trio.current_time() + ASK_AGAIN if rejected else math.inf
        self.health.rejected = rejected
        self.rejected(messages)

    def _report_unconfirmed(self, waiting: dict[str, set[str]]) -> None:
        """Some subscriptions were never confirmed: too many of them end the connection.

        A few products, or the same ones again, are not served until their confirmation comes.
        """
        missing = frozenset().union(*waiting.values())
        again = missing == self._unconfirmed and len(missing) < len(self.natives)
        if len(missing) * 2 >= len(self.natives) and not again:
            self._unconfirmed = missing
            raise ConnectionLost(
                f"{self.health.name}: {len(missing)} of {len(self.natives)} subscriptions "
                "were not confirmed"
            )
        why = f"its subscription was not confirmed within {ACKNOWLEDGED:.0f} s"
        self._now_rejected({**self.health.rejected, **dict.fromkeys(missing, why)})
        self._become(State.LIVE)
