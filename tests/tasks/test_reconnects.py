"""One outage, one chain of tries: an hour of it on virtual time, and every socket counted."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.errors import ConnectionLost
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Series
from livermore.market.gap import Lane
from livermore.market.history import Row
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Tracker
from livermore.runtime import connection as module
from livermore.runtime.connection import Connection, Health, Pace, State
from livermore.runtime.journal import Journal
from livermore.runtime.liveness import Liveness, Shard
from livermore.runtime.rest import Rest
from livermore.runtime.supervise import supervise

NATIVES = ("BTC-USD", "ETH-USD")
M5 = Timeframe.M5
START = 1_767_225_600_000
TRIES = [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, *(63.0 + 60 * n for n in range(1, 60))]
"""Seconds after the first at which one chain tries: waits of 1 s doubling to 60 s, nothing more."""


@attrs.define
class World:
    """An exchange that takes a connection or refuses it, and what was opened to it."""

    refuses: Callable[[float], bool] = lambda _: True
    """Whether it refuses at this moment."""
    takes: float = 0.0
    """Seconds until it decides."""
    dialled: list[float] = attrs.Factory(list)
    open: int = 0
    """Sockets that are open or being opened now."""
    most: int = 0

    @contextlib.asynccontextmanager
    async def socket(self, url: str, *, maximum_message: int) -> AsyncIterator[Mute]:
        self.dialled.append(trio.current_time())
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await trio.sleep(self.takes)
            if self.refuses(trio.current_time()):
                raise ConnectionLost("the exchange answered 503")
            yield Mute()
        finally:
            self.open -= 1

    async def candles(
        self, native: str, timeframe: Timeframe, first: int, last: int, lane: Lane
    ) -> tuple[Sequence[Row], int]:
        """REST goes on showing trades that nobody delivers."""
        await trio.lowlevel.checkpoint()
        now = self.now()
        volume = trio.current_time() + 1
        return [Row(M5.floor(now), 100.0, 100.0, 100.0, 100.0, volume)], now

    def now(self) -> int:
        return START + round(trio.current_time() * 1000)


class Mute:
    """A socket on which nothing is ever said."""

    async def get(self) -> str:
        await trio.sleep_forever()

    def get_nowait(self) -> str | None:
        return None

    async def send(self, frame: str) -> None:
        await trio.lowlevel.checkpoint()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(module, "open_socket", world.socket)
    return world


async def live(world: World, states: list[State] | None = None) -> None:
    """The connection as a feed keeps it, with everything that watches over it; until cancelled."""
    series = [(native, Series("coinbase", native, M5)) for native in NATIVES]
    tracker = Tracker(series, settle=COINBASE.settle, sample_lag=COINBASE.sample_lag)
    health = Health("coinbase/1", len(NATIVES))
    connection = Connection(
        COINBASE, "ws://nowhere", NATIVES, tracker, health, lambda: None,
        (states if states is not None else []).append, lambda error: None,
        Pace(8.0),  # moments that floats hold exactly
    )  # fmt: skip
    liveness = Liveness(
        [Shard(tracker, health, connection)], cast(Rest, world), M5, clock=world.now,
        say=lambda event, fields: None, halted=lambda halted: None,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(liveness.run)
        await supervise("connection", connection.live, Journal("coinbase"), chance=lambda: 0.5)


async def test_one_failed_connect_begins_one_chain_of_tries(
    world: World, autojump_clock: MockClock
):
    with trio.move_on_after(3600):
        await live(world)
    assert world.dialled == pytest.approx(TRIES[: len(world.dialled)])
    assert len(world.dialled) == sum(moment < 3600 for moment in TRIES)
    assert world.most == 1


async def test_no_watchdog_opens_a_second_socket_during_a_wait_or_a_slow_connect(
    world: World, autojump_clock: MockClock
):
    """Waits of a minute and connects of 40 s are longer than any deadline on silence."""
    world.takes = 40.0
    world.refuses = lambda now: now < 1800
    with trio.move_on_after(3600):
        await live(world)
    assert world.most == 1
    apart = [b - a for a, b in itertools.pairwise(world.dialled)]
    assert min(apart) >= 41.0, "a try before the one before it had ended and was waited for"
    assert max(apart) <= 40.0 + 30.0 + 60.0, "it tries again"


async def test_a_socket_that_falls_mute_is_closed_before_the_next_is_opened(
    world: World, autojump_clock: MockClock
):
    world.refuses = lambda _: False
    states: list[State] = []
    with trio.move_on_after(200):
        await live(world, states)
    assert len(world.dialled) > 3
    assert world.most == 1
    assert states.count(State.SUBSCRIBING) == len(world.dialled)


@pytest.mark.parametrize("moment", [0.5, 20.0, 100.0, 110.0])
@pytest.mark.parametrize("takes", [0.0, 15.0])
async def test_what_is_ended_during_a_wait_or_a_connect_stays_ended(
    world: World, autojump_clock: MockClock, moment: float, takes: float
):
    """A pause, a list of symbols without it, a shutdown: none is undone by a reconnect."""
    world.takes = takes
    with trio.move_on_after(moment) as scope:
        await live(world)
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(moment), "it took effect at once"
    assert world.open == 0
    dialled = len(world.dialled)
    await trio.sleep(3600)
    assert len(world.dialled) == dialled
