"""One connection's life: connect, subscribe, receive until something ends it.

``live`` returns never and raises what ended it; it does not retry. Where the exchange ends every
connection after a while, or says that it is about to, the next socket is up and confirmed before
the old one goes: for a moment both are read, so that nothing falls between them.

Deadlines count from the moment a wait begins, so our own slow work never looks like the exchange's
silence. The receive loop hands every frame to the tracker synchronously and never awaits the
writer.
"""

from __future__ import annotations

import contextlib
import enum
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import attrs
import trio

from livermore.adapters.websocket import Socket, open_socket
from livermore.dialect import Dialect, Subscription
from livermore.errors import ConnectionLost, MalformedMessage, Stalled
from livermore.market.events import Acknowledged, Closing, Confirmed, Event, Frame
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
LEFT = 5.0
"""Seconds after which a product that was left is asked for again on the same socket: what still
comes of the old subscription must not be taken for a confirmation of the new one."""
BURST = 64
"""Frames that are here already and are taken without letting other tasks run."""
PING = 12.0
"""Seconds of silence after which a quiet exchange is asked for a sign of life, and seconds between
two pings of its own kind where it wants those."""
RENEW, JITTER = 23 / 24, 1 / 24
"""Of a connection's maximum age: when the next one is opened, and by how much that varies."""
PREPARED = 60.0
"""Seconds in which the next socket must be up and confirmed; after as many it is tried again."""
OVERLAP = 2.0
"""Seconds for which both are read: what was on its way to the old one still arrives."""


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
    handovers: int = 0
    """Planned changes from one socket to the next."""
    error: str = ""
    again_at: float = 0.0
    """Monotonic time of the next try, while it waits."""
    rejected: Mapping[str, str] = attrs.Factory(dict)
    """Native ids the exchange does not serve, and why."""
    mute: frozenset[str] = frozenset()
    """Symbols whose trades REST shows and the connection does not deliver."""
    mute_since: float = 0.0
    """Monotonic time since when the first of them is silent."""
    unheard_since: float | None = None
    """Monotonic time since when nothing arrives, while REST does not say whether it is quiet."""
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


@attrs.define(eq=False)
class _Line:
    """One socket, and what it was asked for and has not confirmed yet."""

    socket: Socket
    born: int | None
    """Exchange time (ms) at which it was opened."""
    born_at: float
    over: trio.Event = attrs.Factory(trio.Event)
    waiting: dict[str, set[str]] = attrs.Factory(dict)
    """Channel -> native ids."""
    tokens: dict[str, Subscription] = attrs.Factory(dict)
    confirmed: dict[str, int] = attrs.Factory(dict)
    """Channels that were confirmed of each native id."""
    channels: int = 0
    natives: set[str] = attrs.Factory(set)
    """What it was asked for, confirmed or not."""
    left: dict[str, float] = attrs.Factory(dict)
    """Native id that was left -> monotonic time before which it is not asked for again."""
    listened: float = 0.0
    """Seconds in which something could be heard."""
    confirm_by: float = ACKNOWLEDGED
    """So many of them it may take until all is confirmed."""
    renew_after: float = math.inf
    """Age (ms) at which the next socket is opened."""
    look_at: float = 0.0
    pinging: bool = False
    """Whether a pong is waited for; one that does not come is no matter of the next line."""

    def asked(self, subscription: Subscription) -> None:
        """It was sent."""
        if subscription.natives:
            self.waiting.setdefault(subscription.channel, set()).update(subscription.natives)
        if subscription.token:
            self.tokens[subscription.token] = subscription

    def leave(self, natives: Collection[str], until: float) -> None:
        """Wait for no confirmation of these; they are not asked for before ``until``."""
        self.natives.difference_update(natives)
        self.left.update(dict.fromkeys(natives, until))
        for channel, waiting in list(self.waiting.items()):
            waiting.difference_update(natives)
            if not waiting:
                del self.waiting[channel]

    def strike(self, event: Event) -> list[str] | None:
        """Native ids all of whose channels are confirmed by now; None: it confirms nothing."""
        channels: Mapping[str, frozenset[str]]
        if isinstance(event, Acknowledged):
            channels = event.channels
        elif isinstance(event, Confirmed) and event.token in self.tokens:
            subscription = self.tokens.pop(event.token)
            channels = {subscription.channel: subscription.natives}
        else:
            return None
        whole: list[str] = []
        for channel, natives in channels.items():
            wanted = self.waiting.get(channel)
            if wanted is None:
                continue
            for native in natives & wanted:
                wanted.discard(native)
                self.confirmed[native] += 1
                if self.confirmed[native] == self.channels:
                    whole.append(native)
            if not wanted:
                del self.waiting[channel]
        return whole

    def age(self, now: float, tracker: Tracker) -> float:
        """In ms, as the exchange counts it where its clock is known."""
        ours = (now - self.born_at) * 1000
        time = tracker.clock.read(now)
        return ours if self.born is None or time is None else max(ours, time - self.born)


@attrs.define
class Connection:
    """Carries one shard: ``natives`` are the exchange's product ids, see :meth:`follow`."""

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
    chance: Callable[[], float] = lambda: 0.5
    """From 0 to 1: connections that were opened together are not renewed together."""
    handing_over: Callable[[str, str], object] = lambda what, why: None
    """Hears what becomes of a planned change of sockets, and why."""
    _excluded: dict[str, float] = attrs.Factory(dict)
    """Native ids an error of the exchange named, and until when they are not asked for."""
    _ask_again_at: float = math.inf
    _unconfirmed: frozenset[str] = frozenset()
    """What was not confirmed on the last connection that ended for that."""
    _scope: trio.CancelScope | None = None
    _replaced: str = ""
    _wait: trio.CancelScope = attrs.Factory(trio.CancelScope)
    """Of the wait for the next frame."""
    _successor: _Line | None = None
    """The socket that goes on, once it is ready."""
    _preparing: bool = False
    _ponged_at: float = 0.0
    _altered: trio.Event = attrs.Factory(trio.Event)
    """Set, and replaced, when there is something else to ask for."""

    @pace.default
    def _own_pace(self) -> Pace:
        return Pace(self.dialect.messages_per_second)

    def replace(self, why: str) -> None:
        """End this socket's life: :meth:`live` raises :class:`ConnectionLost` with ``why``."""
        if self._scope is not None:
            self._replaced = why
            self._scope.cancel()

    def follow(self, new: Sequence[str], gone: Collection[str]) -> None:
        """Carry ``new`` as well and ``gone`` no more: an open socket is told just that."""
        self.natives = [*(native for native in self.natives if native not in gone), *new]
        self.health.symbols = len(self.natives)
        self._excluded = {n: until for n, until in self._excluded.items() if n not in gone}
        self._unconfirmed = self._unconfirmed.difference(gone)
        if self.health.rejected.keys() & set(gone):
            left = {n: why for n, why in self.health.rejected.items() if n not in gone}
            self.health.rejected = left
            self._ask_again_at = self._ask_again_at if left else math.inf
        self._tell_keepers()

    def _tell_keepers(self) -> None:
        self._altered.set()
        self._altered = trio.Event()

    async def live(self) -> None:
        """Raises :class:`ConnectionLost` or :class:`Stalled` when the connection's life is over."""
        self.health.state = State.CONNECTING
        self._successor, self._preparing, self._ponged_at = None, False, 0.0
        try:
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as sockets:
                    line: _Line = await sockets.start(self._hold)
                    self.tracker.connected(trio.current_time())
                    self._become(State.SUBSCRIBING)
                    await self._subscribe(line)
                    sockets.start_soon(self._keep_asked, line)
                    while True:
                        successor = await self._receive(line, sockets)
                        self._successor = None
                        line.over.set()
                        line = successor
                        self._go_on()
            raise ConnectionLost(self._replaced)
        except BaseExceptionGroup as group:
            raise _sole(group)  # noqa: B904 - it has its own cause
        finally:
            self._scope = None
            self.tracker.lost()
            self._become(State.WAITING)

    async def _hold(self, *, task_status: trio.TaskStatus[_Line]) -> None:
        """Keep a socket open until its line is over."""
        async with open_socket(self.url, maximum_message=self.dialect.maximum_message) as socket:
            now = trio.current_time()
            line = _Line(socket, self.tracker.clock.read(now), now)
            task_status.started(line)
            self._schedule(line)
            await self._keep(line)

    async def _keep(self, line: _Line) -> None:
        """Until the line is over, ping where the exchange wants to hear it in a frame."""
        while not line.over.is_set():
            with trio.move_on_after(PING if self.dialect.ping is not None else math.inf):
                await line.over.wait()
                return
            with trio.move_on_after(PING), contextlib.suppress(ConnectionLost):
                await self.pace.turn()
                await line.socket.send(self.dialect.ping or "")

    def _become(self, state: State) -> None:
        self.health.state = state
        self.health.since = trio.current_time()
        self.changed(state)

    async def _subscribe(self, line: _Line) -> None:
        """Send every subscription, in order and paced."""
        now = trio.current_time()
        wanted = [native for native in self.natives if self._excluded.get(native, now) <= now]
        if not wanted:
            self._excluded.clear()
            wanted = list(self.natives)
        if self.health.rejected.keys() <= set(wanted):
            self._ask_again_at = now + ASK_AGAIN if self.health.rejected else math.inf
        line.natives.update(self.natives)
        line.confirmed = dict.fromkeys(self.natives, 0)
        for subscription in self.dialect.subscribe(wanted):
            await self.pace.turn()
            await line.socket.send(subscription.frame)
            line.asked(subscription)
        line.channels = len(line.waiting)

    async def _keep_asked(self, line: _Line) -> None:
        """Ask a socket for what is followed anew, and leave what is not, until it is over."""
        with contextlib.suppress(ConnectionLost):  # whoever waits for a frame is told as well
            while not line.over.is_set():
                altered, now = self._altered, trio.current_time()
                gone = line.natives.difference(self.natives)
                new = [native for native in self.natives if native not in line.natives]
                due = [native for native in new if line.left.get(native, now) <= now]
                if gone:
                    line.leave(gone, now + LEFT)
                    for frame in self.dialect.unsubscribe(sorted(gone)):
                        await self.pace.turn()
                        await line.socket.send(frame)
                    line.leave(gone, trio.current_time() + LEFT)
                elif due:
                    line.confirm_by = math.inf  # they are asked for one channel after the other
                    await self._ask(line, due)
                    line.confirm_by = line.listened + ACKNOWLEDGED
                elif now >= self._ask_again_at:
                    # It may have been a passing trouble.
                    self._ask_again_at = now + ASK_AGAIN
                    await self._ask(line, [n for n in self.natives if n in self.health.rejected])
                else:
                    waits = [line.left[native] for native in new]
                    with trio.move_on_at(min([*waits, self._ask_again_at])):
                        await altered.wait()

    async def _ask(self, line: _Line, natives: Sequence[str]) -> None:
        """Subscribe to these as well."""
        line.natives.update(natives)
        line.confirmed.update(dict.fromkeys(natives, 0))
        for subscription in self.dialect.subscribe(natives):
            if subscription.natives:
                await self.pace.turn()
                await line.socket.send(subscription.frame)
                line.asked(subscription)

    async def _receive(self, line: _Line, sockets: trio.Nursery) -> _Line:
        """Take frame after frame; returns the next socket's line once that goes on."""
        tracker, socket = self.tracker, line.socket
        silent_after = SILENT if self.health.state is State.LIVE else FIRST_FRAME
        burst = 0
        while True:
            begun = waited_from = trio.current_time()
            text = socket.get_nowait() if burst < BURST else None
            burst = 0 if text is None else burst + 1
            # Two reasons to wake: silence for too long, or a slot that is due in the silence.
            limit = 0.0 if burst else min(silent_after, max(0.02, tracker.due_in(waited_from)))
            while text is None:
                if self._successor is not None:
                    return self._successor
                if self.dialect.silent:
                    limit = min(limit, PING)
                with trio.move_on_after(limit) as self._wait:
                    text = await socket.get()
                if text is None:
                    now = trio.current_time()
                    if now - begun > limit + OVERSLEPT:
                        waited_from = now  # it was us who did not run: what came may wait unread
                    else:
                        line.listened += now - begun
                    waited_from = max(waited_from, self._ponged_at)
                    if now - waited_from >= silent_after - 0.001:
                        raise Stalled(f"{self.health.name}: no frame for {silent_after:.0f} s")
                    pings = self.dialect.silent and self.dialect.ping is None
                    if pings and now - waited_from >= PING and not line.pinging:
                        line.pinging = True
                        sockets.start_soon(self._ping, line)
                    unconfirmed = line.waiting and line.listened > line.confirm_by
                    if self.dialect.silent and unconfirmed:
                        self._report_unconfirmed(line)  # no frame may ever come
                    tracker.tick(now)
                    self._wake_if_urgent()
                    self._renew_if_due(line, now, sockets)
                    limit = min(silent_after - (now - waited_from), max(0.02, tracker.due_in(now)))
                    begun, limit = now, max(limit, 0.0)
            silent_after = SILENT
            now = waited_from if burst else trio.current_time()
            line.listened += now - begun
            frame = self._read(text, now)
            if frame is None:
                continue
            tracker.take(frame, now)
            if tracker.rejected:
                self._reject_named(line)
            if line.waiting:
                self._acknowledge(frame, line, now)
                if not line.waiting and self.health.state is not State.LIVE:
                    self._become(State.LIVE)
                elif line.waiting and line.listened > line.confirm_by:
                    self._report_unconfirmed(line)
            elif self.health.state is not State.LIVE:
                self._become(State.LIVE)
            self._wake_if_urgent()
            closing = bool(frame.events) and type(frame.events[0]) is Closing
            if closing or now >= line.look_at:
                self._renew_if_due(line, now, sockets, closing)

    def _read(self, text: str | bytes, now: float) -> Frame | None:
        self.health.frames += 1
        self.health.heard_at = now
        if self.heard is not None:
            self.heard(now, text)
        try:
            return self.dialect.read(text)
        except MalformedMessage as error:
            self.health.malformed += 1
            self.malformed(error)
            return None

    async def _ping(self, line: _Line) -> None:
        """A pong is a sign of life where nothing trades."""
        try:
            with trio.move_on_after(SILENT):
                await line.socket.ping()
                self._ponged_at = trio.current_time()
        except ConnectionLost:
            pass  # whoever waits for a frame is told as well
        finally:
            line.pinging = False

    # -- from one socket to the next ------------------------------------------------------

    def _schedule(self, line: _Line) -> None:
        if self.dialect.maximum_age is not None:
            part = RENEW + JITTER * (self.chance() - 0.5)
            line.renew_after = self.dialect.maximum_age * part

    def _renew_if_due(
        self, line: _Line, now: float, sockets: trio.Nursery, closing: bool = False
    ) -> None:
        """Open the next socket when this one is about to end."""
        if not closing and now < line.look_at:
            return
        line.look_at = now + 1.0
        if self._preparing or self._successor is not None:
            return
        if closing:
            why = "the exchange announced the end of the connection"
        elif self.health.state is State.LIVE and line.age(now, self.tracker) >= line.renew_after:
            why = f"the connection is {line.age(now, self.tracker) / 3_600_000:.1f} h old"
        else:
            return
        self._preparing = True
        sockets.start_soon(self._prepare, line, why, sockets)

    async def _prepare(self, line: _Line, why: str, sockets: trio.Nursery) -> None:
        """Make the next socket ready, while the old one goes on."""
        fresh: _Line | None = None
        self.handing_over("opening the next socket", why)
        try:
            with trio.fail_after(PREPARED):
                fresh = await sockets.start(self._hold)
                assert fresh is not None
                await self._subscribe(fresh)
                sockets.start_soon(self._keep_asked, fresh)
                while fresh.waiting:
                    self._take_beside(fresh, await fresh.socket.get())
            with trio.move_on_after(OVERLAP):
                while True:
                    self._take_beside(fresh, await fresh.socket.get())
        except (ConnectionLost, trio.TooSlowError) as error:
            if fresh is not None:
                fresh.over.set()
            line.look_at = trio.current_time() + PREPARED
            told = str(error) or f"not ready within {PREPARED:.0f} s"
            self.handing_over("the next socket failed; the old one stays", told)
        else:
            self._successor = fresh
            self._wait.cancel()
        finally:
            self._preparing = False

    def _take_beside(self, fresh: _Line, text: str | bytes) -> None:
        """A frame of the next socket while the old one still counts its own."""
        now = trio.current_time()
        frame = self._read(text, now)
        if frame is None:
            return
        self.tracker.take(attrs.evolve(frame, sequence=None), now)
        for event in frame.events:
            fresh.strike(event)
        self._wake_if_urgent()

    def _go_on(self) -> None:
        self.tracker.handed_over()
        self.health.handovers += 1
        self.handing_over("the next socket goes on", "")

    def _wake_if_urgent(self) -> None:
        if self.tracker.pending.urgent:
            self.wake()

    def _acknowledge(self, frame: Frame, line: _Line, now: float) -> None:
        """Strike what ``frame`` confirms; products with every channel go to the tracker."""
        for event in frame.events:
            whole = line.strike(event)
            if whole is None:
                continue
            self.tracker.acknowledged(whole, now)
            served = self.health.rejected.keys() & set(whole)
            if served:
                self._now_rejected(
                    {n: why for n, why in self.health.rejected.items() if n not in served}
                )

    def _reject_named(self, line: _Line) -> None:
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
        for channel, natives in list(line.waiting.items()):
            natives.difference_update(named)
            if not natives:
                del line.waiting[channel]
        self._now_rejected({**self.health.rejected, **named}, messages)

    def _now_rejected(self, rejected: Mapping[str, str], messages: Sequence[str] = ()) -> None:
        for native in rejected.keys() - self.health.rejected.keys():
            self.tracker.ignore(native)
        self._ask_again_at = trio.current_time() + ASK_AGAIN if rejected else math.inf
        self.health.rejected = rejected
        self._tell_keepers()
        self.rejected(messages)

    def _report_unconfirmed(self, line: _Line) -> None:
        """Some subscriptions were never confirmed: too many of them end the connection.

        A few products, the same ones again, or those that joined a connection that is live, are not
        served until their confirmation comes.
        """
        line.confirm_by = math.inf
        missing = frozenset().union(*line.waiting.values())
        subscribing = self.health.state is not State.LIVE
        again = missing == self._unconfirmed and len(missing) < len(self.natives)
        if subscribing and len(missing) * 2 >= len(self.natives) and not again:
            self._unconfirmed = missing
            raise ConnectionLost(
                f"{self.health.name}: {len(missing)} of {len(self.natives)} subscriptions "
                "were not confirmed"
            )
        why = f"its subscription was not confirmed within {ACKNOWLEDGED:.0f} s"
        self._now_rejected({**self.health.rejected, **dict.fromkeys(missing, why)})
        if subscribing:
            self._become(State.LIVE)


def _sole(group: BaseException) -> BaseException:
    """What a group holds, if it is one thing."""
    while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
        group = group.exceptions[0]
    return group
