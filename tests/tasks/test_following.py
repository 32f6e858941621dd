"""What is followed is looked at again about every hour, and never while nobody collects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.errors import RestError
from livermore.exchanges.coinbase import COINBASE
from livermore.market.product import Change, Followed, Product
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.following import Following
from livermore.runtime.journal import Journal
from livermore.runtime.status import Report

BTC = Product("BTC-USD", "BTC-USD", "BTC", "USD", price=1.0, quote_volume=2.0)
ETH = Product("ETH-USD", "ETH-USD", "ETH", "USD", price=1.0, quote_volume=1.0)


@attrs.define
class FakeFeed:
    """Follows what it is told, and says when it was asked for a listing."""

    listed: Sequence[Product] = (BTC,)
    paused: bool = False
    fails: bool = False
    asked: list[float] = attrs.Factory(list)
    told: list[tuple[str, ...]] = attrs.Factory(list)
    followed: tuple[Followed, ...] = ()
    report: Report = attrs.Factory(lambda: Report("coinbase", "Coinbase"))
    journal: Journal = attrs.Factory(lambda: Journal("coinbase"))

    async def relist(self) -> Sequence[Product]:
        self.asked.append(trio.current_time() / 3600)
        if self.fails:
            raise RestError("coinbase: 503")
        self.listed = (BTC, ETH)
        return self.listed

    async def follow(self, wanted: Sequence[Followed]) -> Change:
        self.followed = tuple(wanted)
        self.told.append(tuple(one.symbol for one in wanted))
        return Change()


@pytest.fixture
def following() -> Following:
    plan = Plan(
        dialect=COINBASE, websocket_url="ws://x", rest_url="http://x", symbols=None, top=5,
        holder="us", description={},
    )  # fmt: skip
    return Following(plan, chance=lambda: 1.0)


async def hours(following: Following, feed: FakeFeed, count: float) -> None:
    async def live() -> None:
        following.feed = cast(Feed, feed)
        await trio.sleep_forever()

    with trio.move_on_after(count * 3600):
        await following.run(live)


async def test_the_listing_is_asked_for_every_hour_with_jitter(
    following: Following, autojump_clock: MockClock
):
    feed = FakeFeed()
    await hours(following, feed, 3.5)
    assert [round(moment, 1) for moment in feed.asked] == [1.1, 2.2, 3.3]
    assert feed.told[0] == ("BTC-USD",), "what the feed itself asked for is not asked for again"
    assert feed.told[1:] == [("BTC-USD", "ETH-USD")] * 3


async def test_a_paused_feed_asks_for_nothing(following: Following, autojump_clock: MockClock):
    feed = FakeFeed(paused=True)
    await hours(following, feed, 3.5)
    assert feed.asked == []


async def test_an_exchange_that_does_not_answer_ends_nothing(
    following: Following, autojump_clock: MockClock
):
    feed = FakeFeed(fails=True)
    await hours(following, feed, 3.5)
    assert len(feed.asked) == 3
    assert feed.followed == (Followed(BTC),)


async def test_what_ends_the_feed_ends_the_looking(following: Following, autojump_clock: MockClock):
    async def live() -> None:
        raise ValueError("for good")

    with trio.fail_after(10), pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="for good")):
        await following.run(live)
