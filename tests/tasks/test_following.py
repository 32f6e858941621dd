"""A changed list of symbols: the feed is ended and begun anew, and the lease is nobody else's."""

from __future__ import annotations

from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.exchanges.coinbase import COINBASE
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.following import Following
from livermore.runtime.status import Report


@attrs.define
class FakeFeed:
    """Runs until it is ended, and takes its time then."""

    symbols: tuple[str, ...]
    lasts: float = 0.0
    handing_on: bool = False
    gave_back: int = 0

    @property
    def report(self) -> Report:
        return Report("coinbase", "Coinbase", symbols=self.symbols)

    async def give_back(self) -> None:
        self.gave_back += 1

    async def run(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.lasts)
            if not self.handing_on:
                await self.give_back()


@attrs.define
class World:
    """What runs, one after the other."""

    following: Following
    feeds: list[FakeFeed] = attrs.Factory(list)
    lasts: float = 0.0

    async def live(self) -> None:
        symbols = self.following.plan.symbols or ()
        feed = FakeFeed(symbols, self.lasts)
        self.following.feed = cast(Feed, feed)
        self.feeds.append(feed)
        await feed.run()

    def change(self, *symbols: str) -> tuple[list[str], list[str]]:
        new, gone = self.following.change(symbols, 50, symbols)
        return list(new), list(gone)


@pytest.fixture
def world() -> World:
    plan = Plan(
        dialect=COINBASE, websocket_url="ws://x", rest_url="http://x", symbols=("BTC-USD",), top=50,
        holder="us", description={},
    )  # fmt: skip
    return World(Following(plan))


async def test_another_list_is_another_feed_and_the_lease_is_handed_on(
    world: World, autojump_clock: MockClock
):
    with trio.move_on_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.following.run, world.live)
            await trio.sleep(1)
            assert world.change("BTC-USD", "ETH-USD") == (["ETH-USD"], [])
            await trio.sleep(1)
            assert world.change("ETH-USD") == ([], ["BTC-USD"])
            await trio.sleep(1)
    assert [feed.symbols for feed in world.feeds] == [
        ("BTC-USD",),
        ("BTC-USD", "ETH-USD"),
        ("ETH-USD",),
    ]
    assert [feed.gave_back for feed in world.feeds] == [0, 0, 1], "at the end, and once"


async def test_the_same_symbols_in_another_order_end_nothing(
    world: World, autojump_clock: MockClock
):
    with trio.move_on_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.following.run, world.live)
            await trio.sleep(1)
            world.change("BTC-USD", "ETH-USD")
            await trio.sleep(1)
            assert world.change("ETH-USD", "BTC-USD") == ([], [])
            await trio.sleep(1)
    assert len(world.feeds) == 2


async def test_who_is_stopped_while_handing_on_gives_the_lease_back(
    world: World, autojump_clock: MockClock
):
    world.lasts = 2.0
    with trio.move_on_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.following.run, world.live)
            await trio.sleep(1)
            world.change("ETH-USD")
            await trio.sleep_forever()
    [feed] = world.feeds
    assert feed.gave_back == 1, "nobody took it over"


async def test_a_feed_that_fails_for_good_is_not_begun_again(
    world: World, autojump_clock: MockClock
):
    async def fail() -> None:
        raise ValueError("for good")

    with pytest.raises(ValueError, match="for good"):
        await world.following.run(fail)
