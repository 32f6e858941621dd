"""From one socket to the next on virtual time: the new one is up before the old one goes."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.dialect import Dialect, Subscription
from livermore.errors import ConnectionLost, LivermoreError, Stalled
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Series
from livermore.market.events import Closing, Confirmed, Event, Frame, Sample
from livermore.market.flagged import FlagTracker
from livermore.market.timeframe import Timeframe
from livermore.runtime import connection as module
from livermore.runtime.connection import OVERLAP, PREPARED, SILENT, Connection, Health, State

MS = Timeframe.M5.ms
T0 = 1_700_000_100_000 // MS * MS
HOUR = 3_600_000
BTC = Series("binance", "BTC-USDT", Timeframe.M5)


def read(frame: bytes | str) -> Frame:
    """``{"t": seconds since T0, "ack": token, "closing": true, "k": [slot, close, volume, x]}``."""
    said = json.loads(frame)
    events: list[Event] = []
    if "ack" in said:
        events.append(Confirmed(said["ack"]))
    if "closing" in said:
        events.append(Closing())
    if "k" in said:
        slot, close, volume, closed = said["k"]
        events.append(Sample("BTC", T0 + slot * MS, close, close, close, close, volume,
                             closed=closed))  # fmt: skip
    return Frame(T0 + round(said["t"] * 1000), None, events)


def subscribe(natives: Sequence[str]) -> Sequence[Subscription]:
    return [Subscription("kline", f'{{"id":{n}}}', frozenset([native]), str(n))
            for n, native in enumerate(natives, 1)]  # fmt: skip


DIALECT: Dialect = attrs.evolve(
    COINBASE, name="binance", maximum_age=24 * HOUR, silent=True, read=read, subscribe=subscribe,
    messages_per_second=100.0,
)  # fmt: skip


class FakeSocket:
    """One that answers what it is asked, unless ``deaf``, and says what it is given."""

    def __init__(self, deaf: bool, pongs: bool) -> None:
        self.say, self.said = trio.open_memory_channel[str](10_000)
        self.deaf, self.pongs = deaf, pongs
        self.opened = trio.current_time()
        self.closed: float | None = None
        self.pings = 0
        self.texts: list[float] = []
        """When it was pinged in a frame."""

    async def get(self) -> str:
        try:
            return await self.said.receive()
        except trio.EndOfChannel:
            raise ConnectionLost("the exchange closed the connection: 1006") from None

    def get_nowait(self) -> str | None:
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            return self.said.receive_nowait()
        return None

    async def send(self, frame: str) -> None:
        await trio.lowlevel.checkpoint()
        if frame == "ping":
            self.texts.append(trio.current_time())
            if self.pongs:
                self.tell()
        elif not self.deaf:
            self.tell(ack=str(json.loads(frame)["id"]))

    async def ping(self) -> None:
        self.pings += 1
        if not self.pongs:
            await trio.sleep_forever()
        await trio.sleep(0.05)

    def tell(self, **what: object) -> None:
        self.say.send_nowait(json.dumps({"t": trio.current_time(), **what}))


@attrs.define
class Scene:
    """A connection under test and every socket it opened."""

    connection: Connection
    tracker: FlagTracker
    sockets: list[FakeSocket]
    deaf: set[int]
    """Which sockets, counted from 0, confirm nothing."""
    mute: set[int]
    """Which answer no ping."""
    told: list[str]
    ended: LivermoreError | None = None

    async def live(self) -> None:
        try:
            await self.connection.live()
        except (ConnectionLost, Stalled) as error:
            self.ended = error

    def state(self) -> State:
        return self.connection.health.state

    def open_sockets(self) -> int:
        return sum(1 for one in self.sockets if one.closed is None)


@pytest.fixture
async def scene(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> Scene:
    sockets: list[FakeSocket] = []
    deaf: set[int] = set()
    mute: set[int] = set()

    @contextlib.asynccontextmanager
    async def open_socket(url: str, *, maximum_message: int) -> AsyncIterator[FakeSocket]:
        socket = FakeSocket(len(sockets) in deaf, len(sockets) not in mute)
        sockets.append(socket)
        try:
            yield socket
        finally:
            socket.closed = trio.current_time()

    monkeypatch.setattr(module, "open_socket", open_socket)
    tracker = FlagTracker([("BTC", BTC)], settle=10_000, sample_lag=None)
    tracker.clock.hear(T0, trio.current_time())
    told: list[str] = []
    connection = Connection(
        DIALECT, "ws://nowhere", ("BTC",), tracker, Health("binance/1", 1),
        lambda: None, lambda state: None, lambda error: None,
        handing_over=lambda what, why: told.append(what),
    )  # fmt: skip
    return Scene(connection, tracker, sockets, deaf, mute, told)


async def says(
    scene: Scene, until: float, what: Callable[[], dict[str, object]] | None = None
) -> None:
    """Every open socket says something once per second."""
    while trio.current_time() < until:
        await trio.sleep(1)
        for socket in scene.sockets:
            if socket.closed is None:
                socket.tell(**(what() if what else {}))


async def test_before_its_greatest_age_a_connection_goes_on_with_a_new_socket(
    scene: Scene, autojump_clock: MockClock
):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.live)
        nursery.start_soon(says, scene, 24 * 3600)
        await trio.sleep(22.4 * 3600)
        assert len(scene.sockets) == 1
        await trio.sleep(1.2 * 3600)
        assert scene.open_sockets() == 1
        first, second = scene.sockets
        assert first.closed is not None
        assert 22.5 * 3600 <= second.opened <= 23.5 * 3600
        assert first.closed - second.opened >= OVERLAP
        assert scene.state() is State.LIVE
        assert scene.connection.health.handovers == 1
        nursery.cancel_scope.cancel()
    assert scene.ended is None


async def test_what_arrives_on_either_socket_closes_each_candle_once(
    scene: Scene, autojump_clock: MockClock
):
    """The old one says what the new one does not say yet; the new one what the old one misses."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.live)
        await trio.sleep(1)
        scene.sockets[0].tell(closing=True)
        while len(scene.sockets) < 2:  # noqa: ASYNC110
            await trio.sleep(0.01)
        await trio.sleep(0.5)
        for socket in scene.sockets:
            socket.tell(k=[-1, 100.0, 2.0, True])
        scene.sockets[1].tell(k=[0, 101.0, 3.0, False])
        await trio.sleep(0.5)
        closes = scene.tracker.pending.closes[BTC]
        assert [(c.open_time, c.close) for c in closes.values()] == [(T0 - MS, 100.0)]
        assert scene.tracker.counts.closes == 1
        await trio.sleep(OVERLAP)
        assert scene.open_sockets() == 1
        await trio.sleep(300)
        scene.sockets[1].tell(k=[0, 102.0, 4.0, True])
        await trio.sleep(0.1)
        assert scene.ended is None
        assert closes[T0].close == 102.0, (scene.tracker.counts, scene.tracker.pending)
        nursery.cancel_scope.cancel()
    assert not scene.tracker.pending.missing
    assert scene.told == ["opening the next socket", "the next socket goes on"]


async def test_an_announced_end_opens_the_next_socket_at_once(
    scene: Scene, autojump_clock: MockClock
):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.live)
        await trio.sleep(5)
        scene.sockets[0].tell(closing=True)
        await trio.sleep(1)
        assert len(scene.sockets) == 2
        assert scene.sockets[1].opened < 6
        nursery.cancel_scope.cancel()


async def test_a_next_socket_that_is_not_confirmed_leaves_the_old_one_in_place(
    scene: Scene, autojump_clock: MockClock
):
    scene.deaf.add(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.live)
        await trio.sleep(5)
        scene.sockets[0].tell(closing=True)
        nursery.start_soon(says, scene, 200)
        await trio.sleep(PREPARED + 5)
        assert scene.sockets[0].closed is None
        assert scene.sockets[1].closed is not None
        assert scene.state() is State.LIVE
        nursery.cancel_scope.cancel()
    assert scene.told[-1] == "the next socket failed; the old one stays"


async def test_an_old_socket_that_ends_too_early_ends_the_connection(
    scene: Scene, autojump_clock: MockClock
):
    scene.deaf.add(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.live)
        await trio.sleep(5)
        scene.sockets[0].tell(closing=True)
        await trio.sleep(1)
        await scene.sockets[0].say.aclose()
        await trio.sleep(1)
        assert isinstance(scene.ended, ConnectionLost)
        assert scene.open_sockets() == 0
        nursery.cancel_scope.cancel()


async def test_where_nothing_trades_a_pong_keeps_the_connection(
    scene: Scene, autojump_clock: MockClock
):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.live)
        await trio.sleep(3600)
        assert scene.ended is None
        assert len(scene.sockets) == 1
        assert scene.sockets[0].pings > 100
        nursery.cancel_scope.cancel()


async def test_without_a_pong_silence_is_a_dead_line(scene: Scene, autojump_clock: MockClock):
    scene.mute.add(0)
    with trio.fail_after(3600):
        await scene.live()
    assert isinstance(scene.ended, Stalled)
    assert SILENT <= trio.current_time() <= SILENT + 2


async def test_where_a_frame_is_the_ping_it_is_sent_whatever_comes_until_the_socket_ends(
    scene: Scene, autojump_clock: MockClock
):
    scene.connection.dialect = attrs.evolve(DIALECT, ping="ping")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.live)
        await trio.sleep(1800)
        nursery.start_soon(says, scene, 3600)
        await trio.sleep(1800)
        assert scene.ended is None
        [socket] = scene.sockets
        assert socket.pings == 0
        apart = [b - a for a, b in itertools.pairwise(socket.texts)]
        assert max(apart) < 15 and len(apart) > 200
        socket.tell(closing=True)
        await trio.sleep(60)
        assert socket.texts[-1] < 3600 + OVERLAP
        assert len(scene.sockets[1].texts) > 3
        nursery.cancel_scope.cancel()


async def test_a_ping_in_a_frame_that_nobody_answers_is_a_dead_line(
    scene: Scene, autojump_clock: MockClock
):
    scene.connection.dialect = attrs.evolve(DIALECT, ping="ping")
    scene.mute.add(0)
    with trio.fail_after(3600):
        await scene.live()
    assert isinstance(scene.ended, Stalled)


async def test_an_announced_end_counts_where_connections_may_live_for_good(
    scene: Scene, autojump_clock: MockClock
):
    scene.connection.dialect = attrs.evolve(DIALECT, maximum_age=None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.live)
        await trio.sleep(5)
        scene.sockets[0].tell(closing=True)
        await trio.sleep(5)
        assert len(scene.sockets) == 2
        assert scene.sockets[0].closed is not None
        nursery.cancel_scope.cancel()


async def test_all_of_several_frames_must_be_confirmed(scene: Scene, autojump_clock: MockClock):
    scene.connection.natives = ("BTC", "ETH", "SOL")
    scene.deaf.add(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.live)
        await trio.sleep(1)
        for token in ("1", "2"):
            scene.sockets[0].tell(ack=token)
        await trio.sleep(1)
        assert scene.state() is State.SUBSCRIBING
        scene.sockets[0].tell(ack="3")
        await trio.sleep(1)
        assert scene.state() is State.LIVE
        nursery.cancel_scope.cancel()


async def test_where_nothing_is_confirmed_and_nothing_trades_the_connection_is_given_up(
    scene: Scene, autojump_clock: MockClock
):
    scene.deaf.add(0)
    scene.sockets.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.live)
        await trio.sleep(5)
        scene.sockets[0].tell()  # a sign of life that confirms nothing; pongs go on
        await trio.sleep(40)
        assert "were not confirmed" in str(scene.ended)
        nursery.cancel_scope.cancel()


async def test_a_pong_that_the_old_socket_owed_is_not_waited_for_on_the_next(
    scene: Scene, autojump_clock: MockClock
):
    scene.mute.add(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.live)
        await trio.sleep(13)
        assert scene.sockets[0].pings == 1
        scene.sockets[0].tell(closing=True)
        await trio.sleep(300)
        assert scene.ended is None
        assert len(scene.sockets) == 2
        assert scene.sockets[1].pings > 10
        nursery.cancel_scope.cancel()
