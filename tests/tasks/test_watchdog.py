"""What the service manager hears of a feed, on virtual time: real writer, real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.adapters.redis import Call, Redis
from livermore.adapters.systemd import Notifier
from livermore.errors import StoreError
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Candle, Evidence, Kind, Series
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Pending
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.lease import Lease
from livermore.runtime.status import HANGS
from livermore.runtime.watchdog import notify
from livermore.runtime.writer import Writer
from tests.notified import Listener, listening_manager

PATIENCE = 60.0
NAME = "coinbase"
BTC = Series(NAME, "BTC-USD", Timeframe.M5)


@attrs.define
class FakeRedis:
    """Refuses everything, or never answers again."""

    hangs: bool = False

    async def run(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        if self.hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        raise StoreError("Redis is away")

    async def run_each(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        return await self.run(calls, lane)


@attrs.define
class World:
    """A feed whose writer runs; nothing else of it does."""

    feed: Feed
    redis: FakeRedis
    pending: Pending
    manager: Listener

    @property
    def writer(self) -> Writer:
        assert self.feed.report.writer is not None
        return self.feed.report.writer

    def close(self) -> None:
        """A candle closes: the writer has something to write."""
        candle = Candle(
            BTC, 0, 1.0, 1.0, 1.0, 1.0, 1.0, Kind.TRADED, Evidence.STREAM, Timeframe.M5.ms
        )
        self.pending.closes.setdefault(BTC, {})[candle.open_time] = candle
        self.writer.wake()

    async def beats(self, seconds: float) -> int:
        """Signs of life in the next ``seconds``."""
        before = self.manager.hear().count("WATCHDOG=1")
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            await trio.sleep(1)
            self.manager.hear()  # the kernel keeps ten
        return self.manager.told.count("WATCHDOG=1") - before


def feed_of(redis: FakeRedis) -> Feed:
    plan = Plan(
        dialect=COINBASE, websocket_url="ws://x", rest_url="http://x", symbols=None, top=1,
        holder="us", description={},
    )  # fmt: skip
    return Feed(plan, cast(Redis, redis), lambda: 0.5)


@pytest.fixture
def world() -> Iterator[World]:
    redis, pending = FakeRedis(), Pending()
    feed = feed_of(redis)
    lease = Lease(cast(Redis, redis), NAME, "us", {}, epoch=1, valid_until=float("inf"))
    feed.report.epoch = 1
    feed.report.writer = Writer(
        cast(Redis, redis), lease, pending,
        clock=lambda: 0,
        stored=lambda written: None,
        edge=lambda series: None,
        missing=lambda slots: None,
        suspects=lambda slots: None,
        back=lambda: None,
        chance=lambda: 0.5,
    )  # fmt: skip
    with listening_manager() as manager:
        yield World(feed, redis, pending, manager)


async def run(world: World, what: Callable[[], Any], *, feeds: Any = None) -> None:
    """``what`` while the writer runs and the manager is told."""
    told = {NAME: world.feed} if feeds is None else feeds
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notify, Notifier(world.manager.address), told, [NAME], PATIENCE)
            nursery.start_soon(world.writer.run)
            await what()
            nursery.cancel_scope.cancel()


async def test_a_writer_without_work_is_alive(world: World, autojump_clock: MockClock):
    async def idle() -> None:
        assert await world.beats(600) >= 590

    await run(world, idle)


async def test_a_redis_that_is_away_for_hours_starves_no_watchdog(
    world: World, autojump_clock: MockClock
):
    async def away() -> None:
        world.close()
        await trio.sleep(10)
        assert world.writer.turns.away_since is not None
        assert await world.beats(3 * 3600) >= 3 * 3600 - 10

    await run(world, away)


async def test_a_writer_that_hangs_is_not_said_to_live(world: World, autojump_clock: MockClock):
    async def hang() -> None:
        assert await world.beats(10) >= 9
        world.redis.hangs = True
        world.close()
        assert HANGS - 2 <= await world.beats(HANGS + PATIENCE) <= HANGS + 2
        assert await world.beats(3600) == 0

    await run(world, hang)


async def test_a_feed_that_has_ended_does_not_hang(world: World, autojump_clock: MockClock):
    """Between two tries of a feed no writer runs: that is no reason to start everything anew."""

    async def between() -> None:
        world.redis.hangs = True
        world.close()
        await trio.sleep(1)
        world.feed.report.lost = "the feed broke"
        assert await world.beats(600) >= 590

    await run(world, between)


async def test_ready_is_said_once_and_not_before_every_lease_is_held(
    world: World, autojump_clock: MockClock
):
    feeds: dict[str, Feed] = {}

    async def start() -> None:
        await world.beats(30)
        feeds[NAME] = world.feed
        world.feed.report.epoch = 0
        await world.beats(30)
        assert "READY=1" not in world.manager.hear()
        world.feed.report.epoch = 7
        await world.beats(30)
        assert world.manager.hear().count("READY=1") == 1

    await run(world, start, feeds=feeds)


async def test_who_stands_by_is_ready(world: World, autojump_clock: MockClock):
    async def stand_by() -> None:
        world.feed.report.epoch = 0
        world.feed.report.standby = "held by process 7"
        await trio.sleep(5)
        assert world.manager.hear().count("READY=1") == 1
        assert "held by process 7" in world.manager.statuses()[-1]

    await run(world, stand_by)


async def test_a_status_is_told_when_it_changes_and_the_end_last(
    world: World, autojump_clock: MockClock
):
    async def change() -> None:
        await trio.sleep(20)
        assert len(world.manager.statuses()) == 1
        world.feed.report.note = "cannot reach https://api"
        await trio.sleep(20)
        first, second = world.manager.statuses()
        assert "starting" in first
        assert "cannot reach https://api" in second

    await run(world, change)
    assert world.manager.hear()[-1] == "STOPPING=1"


async def test_a_manager_that_goes_away_and_comes_back_is_told_again(
    world: World, autojump_clock: MockClock
):
    async def gone() -> None:
        await trio.sleep(5)
        world.manager.leave()
        world.feed.report.note = "cannot reach https://api"
        await trio.sleep(5)
        world.manager.come_back()
        await trio.sleep(5)
        assert "cannot reach" in world.manager.statuses()[-1]
        assert await world.beats(10) >= 9

    await run(world, gone)


# -- several exchanges ------------------------------------------------------------------------


async def run_beside(world: World, other: Feed, what: Callable[[], Any]) -> None:
    """As :func:`run`, with another exchange's feed beside it."""
    told = {NAME: world.feed, "other": other}
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            exchanges = [NAME, "other"]
            nursery.start_soon(notify, Notifier(world.manager.address), told, exchanges, PATIENCE)
            nursery.start_soon(world.writer.run)
            await what()
            nursery.cancel_scope.cancel()


async def test_an_exchange_that_ended_for_good_is_told_and_restarts_nothing(
    world: World, autojump_clock: MockClock
):
    other = feed_of(world.redis)
    other.report.writer = Writer(
        cast(Redis, world.redis), Lease(cast(Redis, world.redis), "other", "us", {}), Pending(),
        clock=lambda: 0,
        stored=lambda written: None,
        edge=lambda series: None,
        missing=lambda slots: None,
        suspects=lambda slots: None,
        back=lambda: None,
        chance=lambda: 0.5,
    )  # fmt: skip
    other.report.writer.turns.beat = trio.current_time() + 0.01  # the last turn: it runs no more
    other.report.ended = "binance: 451: not here"

    async def go_on() -> None:
        assert await world.beats(1) >= 1
        assert world.manager.hear().count("READY=1") == 1, "the other one is all there will be"
        told = world.manager.statuses()[-1]
        assert "coinbase: starting" in told
        assert "other: ended" in told
        assert "nothing is followed: binance: 451: not here" in told
        assert await world.beats(HANGS + 3 * PATIENCE) >= HANGS + 3 * PATIENCE - 10
        world.redis.hangs = True  # the one that is left is watched as ever
        world.close()
        await trio.sleep(HANGS + PATIENCE)
        assert await world.beats(3600) == 0

    await run_beside(world, other, go_on)


async def test_a_long_story_of_one_exchange_does_not_hide_the_next(
    world: World, autojump_clock: MockClock
):
    other = feed_of(world.redis)
    other.report.epoch = 1
    other.report.note = "cannot reach the other"
    world.feed.report.note = "word " * 200

    async def look() -> None:
        await trio.sleep(5)
        [told] = world.manager.statuses()
        assert "cannot reach the other" in told

    await run_beside(world, other, look)
