"""One socket's life on virtual time, with a socket that does what the test says."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.errors import ConnectionLost, LivermoreError, MalformedMessage, Stalled
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Series
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Tracker
from livermore.runtime import connection as module
from livermore.runtime.connection import Connection, Health, Pace, State

NATIVES = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD")
CHANNELS = ("candles", "market_trades", "ticker")
BEAT = json.dumps(
    {
        "channel": "heartbeats",
        "client_id": "",
        "timestamp": "2026-01-02T03:04:05.678Z",
        "sequence_num": 0,
        "events": [{"current_time": "2026-01-02 03:04:05.67 +0000 UTC", "heartbeat_counter": 1}],
    }
)


def acknowledged(natives: Sequence[str], channels: Sequence[str] = CHANNELS) -> str:
    return json.dumps(
        {
            "channel": "subscriptions",
            "client_id": "",
            "timestamp": "2026-01-02T03:04:05.678Z",
            "sequence_num": 0,
            "events": [{"subscriptions": {channel: list(natives) for channel in channels}}],
        }
    )


class FakeSocket:
    """Frames come out of ``said``; what is sent is kept with its moment."""

    def __init__(self) -> None:
        self.say, self.said = trio.open_memory_channel[str](100)
        self.sent: list[tuple[float, dict[str, object]]] = []

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
        self.sent.append((trio.current_time(), json.loads(frame)))


@attrs.define
class Line:
    """A connection under test."""

    socket: FakeSocket
    connection: Connection
    tracker: Tracker
    states: list[State] = attrs.Factory(list)
    damaged: list[str] = attrs.Factory(list)
    ended: LivermoreError | None = None
    ended_at: float = 0.0

    @property
    def health(self) -> Health:
        return self.connection.health

    def state(self) -> State:
        return self.health.state

    async def live(self) -> None:
        try:
            await self.connection.live()
        except ConnectionLost as error:
            self.ended, self.ended_at = error, trio.current_time()


@pytest.fixture
async def line(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> Line:
    socket = FakeSocket()

    @contextlib.asynccontextmanager
    async def open_socket(url: str, *, maximum_message: int) -> AsyncIterator[FakeSocket]:
        assert maximum_message == COINBASE.maximum_message
        yield socket

    monkeypatch.setattr(module, "open_socket", open_socket)
    series = [(native, Series("coinbase", native, Timeframe.M5)) for native in NATIVES]
    tracker = Tracker(series, settle=COINBASE.settle, sample_lag=COINBASE.sample_lag)
    states: list[State] = []
    damaged: list[str] = []

    def malformed(error: MalformedMessage) -> None:
        damaged.append(error.reason)

    connection = Connection(
        COINBASE, "ws://nowhere", NATIVES, tracker, Health("coinbase/1", len(NATIVES)),
        lambda: None, states.append, malformed,
    )  # fmt: skip
    return Line(socket, connection, tracker, states, damaged)


async def beats(line: Line, seconds: float, every: float = 1.0) -> None:
    for _ in range(int(seconds / every)):
        await line.socket.say.send(BEAT)
        await trio.sleep(every)


async def test_heartbeats_are_asked_for_first_and_everything_within_5_seconds(
    line: Line, autojump_clock: MockClock
):
    with trio.fail_after(1000):
        await line.live()
    channels = [frame["channel"] for _, frame in line.socket.sent]
    assert channels[0] == "heartbeats"
    assert set(channels[1:]) == set(CHANNELS)
    moments = [moment for moment, _ in line.socket.sent]
    assert moments[0] == 0
    assert moments[-1] < COINBASE.subscribe_within / 1000
    apart = [b - a for a, b in itertools.pairwise(moments)]
    assert min(apart) >= 1 / COINBASE.messages_per_second - 1e-9


async def test_no_first_frame_within_10_seconds_is_a_stall(line: Line, autojump_clock: MockClock):
    with trio.fail_after(1000):
        await line.live()
    assert isinstance(line.ended, Stalled)
    assert "no frame for 10 s" in str(line.ended)
    assert 10 <= line.ended_at < 11
    assert line.states == [State.SUBSCRIBING, State.WAITING]


async def test_silence_for_30_seconds_is_a_stall_and_less_is_not(
    line: Line, autojump_clock: MockClock
):
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            for pause in (9.0, 29.0, 29.9):
                await trio.sleep(pause)
                assert line.ended is None
                await line.socket.say.send(acknowledged(NATIVES))
            heard = trio.current_time()
    assert isinstance(line.ended, Stalled)
    assert "coinbase/1: no frame for 30 s" in str(line.ended)
    assert line.ended_at == pytest.approx(heard + 30, abs=0.1)


async def test_our_own_slow_work_is_not_their_silence(
    line: Line, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    take, slow = line.tracker.take, True

    def slowly(frame: object, now: float) -> None:
        nonlocal slow
        take(frame, now)  # type: ignore[arg-type]
        if slow:
            slow = False
            autojump_clock.jump(100)  # a hundred seconds of thinking

    monkeypatch.setattr(line.tracker, "take", slowly)
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await trio.sleep(1)
            for frame in (BEAT, BEAT, acknowledged(NATIVES)):  # unread while it thinks
                await line.socket.say.send(frame)
            await trio.sleep(20)
            assert line.ended is None
            assert line.state() is State.LIVE
            await line.socket.say.send(BEAT)
            await trio.sleep(5)
            assert line.ended is None
            nursery.cancel_scope.cancel()


async def test_a_process_that_did_not_run_for_a_while_is_not_their_silence(
    line: Line, autojump_clock: MockClock
):
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await trio.sleep(1)
            await line.socket.say.send(BEAT)
            await trio.sleep(1)
            autojump_clock.jump(100)  # stopped, or another task thought for so long
            await trio.sleep(1)
            assert line.ended is None
            await trio.sleep(19)
            await line.socket.say.send(acknowledged(NATIVES))
            await trio.sleep(1)
            assert line.ended is None
            assert line.state() is State.LIVE
            await trio.sleep(40)
            assert isinstance(line.ended, Stalled)


async def test_it_is_live_when_every_subscription_is_acknowledged(
    line: Line, autojump_clock: MockClock
):
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await trio.sleep(1)
            await line.socket.say.send(acknowledged(NATIVES, CHANNELS[:2]))
            await trio.sleep(0.1)
            assert line.state() is State.SUBSCRIBING
            await line.socket.say.send(acknowledged(NATIVES[:3]))
            await trio.sleep(0.1)
            assert line.state() is State.SUBSCRIBING
            await line.socket.say.send(acknowledged(NATIVES))
            await trio.sleep(0.1)
            assert line.state() is State.LIVE
            assert line.health.rejected == {}
            line.socket.say.close()
    assert line.states == [State.SUBSCRIBING, State.LIVE, State.WAITING]
    assert "1006" in str(line.ended)


async def test_half_of_the_subscriptions_unconfirmed_ends_it(line: Line, autojump_clock: MockClock):
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await trio.sleep(1)
            await line.socket.say.send(acknowledged(NATIVES[:2]))
            await beats(line, 25)
    assert str(line.ended) == "coinbase/1: 2 of 4 subscriptions were not confirmed"
    assert 20 <= line.ended_at < 23
    assert line.health.rejected == {}


async def test_the_same_half_unconfirmed_again_is_not_served_and_the_other_half_is(
    line: Line, autojump_clock: MockClock
):
    with trio.fail_after(1000):
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.live)
                await trio.sleep(1)
                await line.socket.say.send(acknowledged(NATIVES[:2]))
                await beats(line, 25)
                again = line.state()
                nursery.cancel_scope.cancel()
    assert again is State.LIVE
    assert line.health.rejected.keys() == {"SOL-USD", "XRP-USD"}


async def test_all_of_the_subscriptions_unconfirmed_ends_it_every_time(
    line: Line, autojump_clock: MockClock
):
    with trio.fail_after(1000):
        for _ in range(3):
            line.ended = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.live)
                await beats(line, 25)
                assert "4 of 4 subscriptions" in str(line.ended)
                nursery.cancel_scope.cancel()
                line.socket.said.receive_nowait()


async def test_one_unconfirmed_subscription_drops_that_symbol_until_it_is_confirmed(
    line: Line, autojump_clock: MockClock
):
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await trio.sleep(1)
            await line.socket.say.send(acknowledged(NATIVES[:3]))
            await beats(line, 25)
            assert line.ended is None
            assert line.state() is State.LIVE
            assert line.health.rejected == {
                "XRP-USD": "its subscription was not confirmed within 20 s"
            }
            assert [one.native for one in line.tracker.silences(trio.current_time())] == [
                *NATIVES[:3]
            ]
            await line.socket.say.send(acknowledged(NATIVES))
            await trio.sleep(0.1)
            assert line.health.rejected == {}
            assert len(line.tracker.silences(trio.current_time())) == 4
            assert line.states.count(State.LIVE) == 1
            nursery.cancel_scope.cancel()


async def test_a_symbol_an_error_names_is_dropped_and_left_out_of_the_next_subscription(
    line: Line, autojump_clock: MockClock
):
    told: list[Sequence[str]] = []
    line.connection.rejected = told.append
    error = {"type": "error", "message": "XRP-USD is delisted"}
    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await trio.sleep(1)
            await line.socket.say.send(json.dumps(error))
            await line.socket.say.send(acknowledged(NATIVES[:3]))
            await trio.sleep(0.1)
            assert line.state() is State.LIVE
            assert line.health.rejected == {"XRP-USD": "XRP-USD is delisted"}
            assert told == [["XRP-USD is delisted"]]
            nursery.cancel_scope.cancel()
        for later, asked in ((0, NATIVES[:3]), (600, NATIVES)):
            await trio.sleep(later)
            line.socket.sent.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.live)
                await trio.sleep(1)
                sent = [frame["product_ids"] for _, frame in line.socket.sent[1:]]
                assert sent == [list(asked)] * 3
                nursery.cancel_scope.cancel()


async def test_what_is_not_served_is_asked_for_again_on_the_same_socket(
    line: Line, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await trio.sleep(1)
            await line.socket.say.send(acknowledged(NATIVES[:3]))
            await beats(line, 600)
            line.socket.sent.clear()
            await beats(line, 30)
            sent = [(frame["channel"], frame["product_ids"]) for _, frame in line.socket.sent]
            assert sorted(sent) == [(channel, ["XRP-USD"]) for channel in CHANNELS]
            assert "XRP-USD" in line.health.rejected
            await line.socket.say.send(acknowledged(NATIVES))
            await trio.sleep(0.1)
            assert line.health.rejected == {}
            await beats(line, 700)
            assert len(line.socket.sent) == 3
            assert line.states == [State.SUBSCRIBING, State.LIVE]
            nursery.cancel_scope.cancel()


async def test_an_error_that_names_nobody_drops_nobody(line: Line, autojump_clock: MockClock):
    told: list[Sequence[str]] = []
    line.connection.rejected = told.append
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await trio.sleep(1)
            await line.socket.say.send(json.dumps({"type": "error", "message": "XRP-US, BTC?"}))
            await trio.sleep(0.1)
            assert line.health.rejected == {}
            assert told == [["XRP-US, BTC?"]]
            nursery.cancel_scope.cancel()


async def test_one_that_is_replaced_ends_with_the_reason(line: Line, autojump_clock: MockClock):
    line.connection.replace("too early: there is none")
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await trio.sleep(1)
            line.connection.replace("REST shows trades that did not arrive")
    assert str(line.ended) == "REST shows trades that did not arrive"
    assert line.states[-1] is State.WAITING


async def test_malformed_frames_are_counted_and_skipped(line: Line, autojump_clock: MockClock):
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await trio.sleep(1)
            for text in ("<html>502</html>", "{", '{"channel": 7}', BEAT):
                await line.socket.say.send(text)
            await trio.sleep(1)
            assert line.ended is None
            assert line.health.malformed == len(line.damaged) >= 2
            assert line.health.frames == 4
            assert line.tracker.counts.frames + line.health.malformed == 4
            nursery.cancel_scope.cancel()


async def test_the_tracker_hears_of_both_ends_of_the_connection(
    line: Line, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    told: list[str] = []
    monkeypatch.setattr(line.tracker, "connected", lambda now: told.append("connected"))
    monkeypatch.setattr(line.tracker, "lost", lambda: told.append("lost"))
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await trio.sleep(1)
            assert told == ["connected"]
            nursery.cancel_scope.cancel()
    assert told == ["connected", "lost"]


async def test_connections_of_one_address_share_one_pace(autojump_clock: MockClock) -> None:
    pace = Pace(6.0)
    moments: list[float] = []

    async def connection() -> None:
        for _ in range(4):
            await pace.turn()
            moments.append(trio.current_time())

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(connection)
    begun = moments[0]
    assert all(sum(1 for other in moments if 0 <= other - moment < 1) <= 7 for moment in moments), (
        "Coinbase allows 8 in a second"
    )
    assert moments[-1] - begun < 2, "and no time is lost"
