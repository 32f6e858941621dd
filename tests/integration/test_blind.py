"""What a feed knows of the newest stored candles, which is what blindness is judged by."""

from __future__ import annotations

import attrs

from livermore.adapters.redis import Redis
from livermore.dialect import tracker_of
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Candle, Series
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Pending
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.lease import Lease
from livermore.runtime.readings import Readings
from livermore.runtime.writer import Writer

T0 = 1_767_225_600_000
M5 = Timeframe.M5.ms


async def test_the_newest_candle_of_every_series_is_known_from_the_store_and_from_what_is_written(
    valkey_url,
):
    redis = Redis(valkey_url)
    feed = Feed(
        Plan(
            dialect=COINBASE, websocket_url="", rest_url="", symbols=None, top=1,
            holder="me", description={},
        ),
        redis,
        lambda: 0.5,
    )  # fmt: skip
    lease = Lease(redis, "coinbase", "me", {})
    await lease.take()
    readings = Readings(redis, lease, lambda: 0.5)
    pending = Pending()
    writer = Writer(
        redis, lease, pending,
        clock=lambda: T0,
        stored=lambda written: feed._stored(written, readings),
        edge=lambda series: None,
        missing=lambda slots: None,
        suspects=lambda slots: None,
        back=lambda: None,
        chance=lambda: 0.5,
    )  # fmt: skip
    five, hour, never = (
        Series("coinbase", "BTC-USD", Timeframe.M5),
        Series("coinbase", "BTC-USD", Timeframe.H1),
        Series("coinbase", "BTC-USD", Timeframe.D1),
    )
    other = Series("coinbase", "ETH-USD", Timeframe.M5)

    async def close(*candles: Candle) -> None:
        for candle in candles:
            pending.closes.setdefault(candle.series, {})[candle.open_time] = candle
        await writer.finish()

    candle = Candle(five, T0, 1.0, 1.0, 1.0, 1.0, 1.0)
    in_an_hour = attrs.evolve(candle, series=hour)
    await close(candle, in_an_hour, attrs.evolve(candle, series=other))
    assert feed.newest == {}, "before it is known what is followed"

    feed._series = [five, hour, never]
    feed.roster.tracker_of["BTC-USD"] = tracker_of(COINBASE, [("BTC-USD", five)], pending)
    feed._learn(await feed._newest(feed._series))
    assert feed.newest == {five: T0 + M5, hour: T0 + Timeframe.H1.ms, never: 0}

    await close(attrs.evolve(candle, open_time=T0 + M5), attrs.evolve(candle, series=other))
    assert feed.newest[five] == T0 + 2 * M5
    assert other not in feed.newest
    await close(attrs.evolve(candle, close=1.0, volume=3.0, as_of=T0 + 9 * M5))
    assert feed.newest[five] == T0 + 2 * M5, "a correction is no new candle"
    redis.close()
