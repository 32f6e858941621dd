"""Series that leave and series that move, on real servers: what is gone stays gone, and what moves
goes on where it was."""

from __future__ import annotations

import attrs
import pytest

from livermore.adapters import store
from livermore.errors import Fenced, StoreError
from livermore.market.candle import Candle, Series
from tests.integration.test_readings import Desk, assert_equal, candle
from tests.integration.test_writer import Ears

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["valkey_url", "cluster_url"])
async def desk(request: pytest.FixtureRequest):
    desk = Desk(request.getfixturevalue(request.param), ("BTC-USD", "ETH-USD"))
    await desk.start()
    yield desk
    desk.shut()


def of(desk: Desk, slot: int, symbol: str = "BTC-USD", owner: str = "") -> Candle:
    """A candle of the market that all of them have."""
    one = candle(desk, slot)
    return attrs.evolve(one, series=Series(desk.exchange, symbol, one.series.timeframe, owner))


async def exist(desk: Desk, symbol: str, owner: str = "") -> set[str]:
    """Keys of the series of a symbol that are there."""
    wanted = [
        key for one in store.all_series(desk.exchange, symbol, owner) for key in store.types(one)
    ]
    return {key for key in wanted if await desk.lanes.one("EXISTS", key)}


async def test_what_is_removed_is_gone_and_its_neighbour_is_not(desk: Desk):
    both = ("BTC-USD", "ETH-USD")
    await desk.close(*(of(desk, slot, symbol) for slot in range(71) for symbol in both))
    assert len(await exist(desk, "BTC-USD")) > 3
    beside = await exist(desk, "ETH-USD")
    series = store.all_series(desk.exchange, "BTC-USD")
    async with desk.writer.still(), desk.readings.still():
        desk.put([of(desk, 71), of(desk, 71, symbol="ETH-USD")])
        desk.pending.forget(series[0])
        desk.writer.forget(series)
        desk.readings.forget(series)
    calls = [call for one in series for call in store.remove(one, desk.lease.epoch)]
    await desk.lanes.run(calls)
    assert await exist(desk, "BTC-USD") == set()
    assert await desk.writer.history(series[0], [of(desk, 3)]) is None, "a page that is late"
    await desk.writer.finish()
    await desk.readings.turn()
    await desk.readings.look()
    assert await exist(desk, "BTC-USD") == set()
    assert await exist(desk, "ETH-USD") == beside
    assert len(await desk.stored(series[0])) == 0
    await desk.readings.start(series)  # and again: it stands where a new one does
    await desk.writer.seed(series, desk.now)
    await desk.close(*(of(desk, slot, symbol) for slot in range(71, 140) for symbol in both))
    await desk.close(*(of(desk, 140, symbol) for symbol in both))
    assert len(await desk.stored(series[0])) == 70
    quarters = await desk.stored(series[1])
    assert quarters[0].open_time == of(desk, 72).open_time, "two of the children before it went"
    for symbol in both:
        one = desk.series(symbol=symbol)
        assert_equal(await desk.reading(one), await desk.stored(one))


async def test_who_was_succeeded_removes_nothing(desk: Desk):
    await desk.close(of(desk, 0))
    there = await exist(desk, "BTC-USD")
    series = desk.series()
    with pytest.raises(Fenced):
        await desk.lanes.run(store.remove(series, desk.lease.epoch - 1))
    assert await exist(desk, "BTC-USD") == there


async def test_a_key_of_somebody_else_is_not_removed(desk: Desk):
    series = desk.series()
    await desk.lanes.one("SET", store.keys(series).candles, "theirs")
    with pytest.raises(StoreError):
        await desk.lanes.run(store.remove(series, desk.lease.epoch))
    assert await desk.lanes.one("GET", store.keys(series).candles) == b"theirs"
    await desk.lanes.one("DEL", store.keys(series).candles)


@pytest.mark.parametrize(("before", "after"), [("", "ann"), ("ann", "")])
async def test_what_moves_takes_all_along_and_is_told_nothing_twice(
    desk: Desk, before: str, after: str
):
    old, new = (store.all_series(desk.exchange, "BTC-USD", owner) for owner in (before, after))
    if before:  # a symbol is one user's or everybody's
        desk.readings.forget(new)
        await desk.readings.start(old)
        await desk.writer.seed(old, desk.now)
    url = desk.lanes.url.replace("+cluster", "")
    ears = Ears(url)
    desk.now = of(desk, 60).open_time
    await desk.history([of(desk, slot, owner=before) for slot in range(60) if slot != 30])
    await desk.readings.turn()
    await desk.close(*(of(desk, slot, owner=before) for slot in range(60, 80)))
    stored = [await desk.stored(one) for one in old]
    await desk.lanes.one("ZADD", store.keys(new[0]).candles, 5, "of an earlier life")
    desk.put([of(desk, 81, owner=before)])
    waits = of(desk, 80, owner=before)  # Redis was away a moment ago
    desk.writer._put(desk.writer._batch, waits)
    async with desk.writer.still(), desk.readings.still():
        replies = await desk.lanes.run([call for one in old for call in store.read_all(one)])
        calls = []
        for k, one in enumerate(new):
            life = store.life(one, lambda: 0.5)
            calls += store.adopt(one, desk.lease.epoch, replies[3 * k : 3 * k + 3], life)
        await desk.lanes.run(calls)
        for one, another in zip(old, new, strict=True):
            desk.writer.move(one, another)
        desk.pending.move(old[0], new[0])
        desk.readings.forget(old)
        await desk.readings.start(new)
    await desk.lanes.run([c for one in old for c in store.remove(one, desk.lease.epoch)])
    for slot in range(82, 90):
        await desk.close(of(desk, slot, owner=after))
    await desk.history([of(desk, 30, owner=after)])  # older than what was ever announced
    await desk.readings.turn()
    assert await exist(desk, "BTC-USD", before) == set()
    for one, known in zip(new, stored, strict=True):
        now = {candle.open_time for candle in await desk.stored(one)}
        assert now >= {candle.open_time for candle in known}
        assert 5 not in now
        for key in store.types(one):
            left = await desk.lanes.one("PTTL", key)
            assert (left == -2) or (left > 0) == bool(after), key
    assert_equal(await desk.reading(new[0]), await desk.stored(new[0]))
    told = [(kind, tf, slot) for kind, tf, slot, _ in ears.candles()]
    ears.close()
    assert len(told) == len(set(told))
    if "+cluster" in desk.lanes.url:
        return  # what another node publishes may be heard later
    assert [slot for kind, tf, slot in told if (kind, tf) == ("close", "5m")] == [*range(60, 90)]
    assert ("close", "1h", 72) in told, "its children are of both lives"
