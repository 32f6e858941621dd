"""What a correction changes is told: every reading from the corrected candle on, once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
import redis

from livermore.adapters import store
from livermore.adapters.redis import Call
from livermore.errors import StoreError
from livermore.market.candle import Candle
from livermore.market.timeframe import Timeframe
from livermore.runtime.readings import Readings
from livermore.signals.reading import Reading
from tests.integration.test_readings import Desk, assert_equal, candle, nothing

M5 = Timeframe.M5


class Ears:
    """Readings that were published for one series, in order."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub
        self._heard: list[Reading] = []

    def heard(self, count: int | None) -> list[Reading]:
        """All since the last call, of which there are ``count``, if that is known."""
        deadline = time.monotonic() + 10
        while len(self._heard) < (count or 1) and time.monotonic() < deadline:
            self._listen(0.5)
        while self._listen(0.05):
            pass
        heard, self._heard = self._heard, []
        assert count is None or len(heard) == count, [reading.open_time for reading in heard]
        return heard

    def _listen(self, timeout: float) -> bool:
        message = self._pubsub.get_message(timeout=timeout)
        if message is not None:
            self._heard.append(msgspec.json.decode(message["data"], type=Reading))
        return message is not None


@contextlib.contextmanager
def listening(desk: Desk, url: str) -> Iterator[Ears]:
    channel = store.keys(desk.series()).indicator_channel
    with redis.Redis.from_url(url) as client, client.pubsub() as pubsub:
        pubsub.subscribe(channel)
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        yield Ears(pubsub)


async def check(heard: Sequence[Reading], desk: Desk, slots: Sequence[int]) -> None:
    """They are of these slots, in order, and each is the recursion over what is stored."""
    stored = await desk.stored()
    opened = [c.open_time for c in stored]
    assert [reading.open_time for reading in heard] == [time_of(desk, slot) for slot in slots]
    for reading in heard:
        assert_equal(reading, stored[: opened.index(reading.open_time) + 1])


def time_of(desk: Desk, slot: int) -> int:
    return candle(desk, slot).open_time


async def a_series(desk: Desk, count: int) -> None:
    for slot in range(count):
        await desk.close(candle(desk, slot) if slot % 11 != 5 else nothing(desk, slot))


async def test_every_reading_from_the_corrected_candle_on_is_told_in_order(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    await a_series(desk, 90)
    with listening(desk, valkey_url) as ears:
        await desk.close(candle(desk, 80, shift=2.0, rest=True))
        heard = ears.heard(10)
        await check(heard, desk, range(80, 90))
        assert [reading.revision for reading in heard] == [1, *[0] * 9]
        assert heard[-1].open_time == (await desk.reading()).open_time
        await desk.close(candle(desk, 90))
        await check(ears.heard(1), desk, [90])
    desk.shut()


async def test_a_slot_that_was_missing_gives_the_readings_behind_it_their_numbers(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    for slot in (*range(100), *range(101, 106)):
        await desk.close(candle(desk, slot))
    assert (await desk.reading()).withheld
    with listening(desk, valkey_url) as ears:
        await desk.close(candle(desk, 100, rest=True))
        heard = ears.heard(6)
        await check(heard, desk, range(100, 106))
        assert all(reading.withheld is None for reading in heard)
    desk.shut()


@pytest.mark.parametrize("slot", [70, 89])
async def test_a_correction_that_changes_no_number_tells_its_own_candle_alone(valkey_url, slot):
    desk = Desk(valkey_url)
    await desk.start()
    await a_series(desk, 90)
    was = next(c for c in await desk.stored() if c.open_time == time_of(desk, slot))
    with listening(desk, valkey_url) as ears:
        opened = was.open + (0.01 if was.open < was.close else -0.01)  # MACD-V knows no open
        await desk.close(
            Candle(
                was.series, was.open_time, opened, was.high, was.low, was.close, was.volume,
                was.kind, was.evidence, was.as_of + 1,
            )
        )  # fmt: skip
        [told] = ears.heard(1)
        assert (told.open_time, told.revision) == (was.open_time, 1)
    desk.shut()


@pytest.mark.parametrize("told", [False, True], ids=["before", "after"])
async def test_a_crash_around_the_telling_loses_none_and_repeats_none(valkey_url, told):
    desk = Desk(valkey_url)
    await desk.start()
    await a_series(desk, 90)
    with listening(desk, valkey_url) as ears:
        await desk.close(candle(desk, 80, shift=2.0, rest=True), reading=told)
        if told:
            ears.heard(10)
        desk.lanes.close()
        again = Desk(valkey_url, exchange=desk.exchange)
        await again.start()
        await again.readings.turn()
        await check(ears.heard(0 if told else 10), again, () if told else range(80, 90))
        await again.close(candle(again, 90))
        await check(ears.heard(1), again, [90])
    again.shut()


@pytest.mark.parametrize("told", [3, 10], ids=["in the middle", "before it was noted"])
async def test_a_crash_between_telling_and_noting_it_repeats_none(valkey_url, told):
    desk = Desk(valkey_url)
    await desk.start()
    await a_series(desk, 90)
    await desk.close(candle(desk, 80, shift=2.0, rest=True), reading=False)
    real, key = desk.lanes.run_each, store.keys(desk.series()).indicator

    async def dies(calls: Sequence[Call], lane: str = "write") -> list[Any]:
        if lane == "readings":
            ours = [call for call in calls if key in call]
            assert len(ours) == 10
            await real(ours[:told], lane)
            raise StoreError("killed")
        return await real(calls, lane)

    desk.lanes.run_each = dies  # type: ignore[method-assign]
    with listening(desk, valkey_url) as ears:
        with pytest.raises(StoreError, match="killed"):
            await desk.readings.turn()
        first = ears.heard(told)
        desk.lanes.close()
        again = Desk(valkey_url, exchange=desk.exchange)
        await again.start()
        await again.readings.turn()
        await check([*first, *ears.heard(10 - told)], again, range(80, 90))
        # What differs from the last word is said.
        await again.close(candle(again, 80, shift=3.0, rest=True))
        await check(ears.heard(10), again, range(80, 90))
    again.shut()


async def test_what_closes_while_a_correction_is_told_does_not_have_it_told_again(
    valkey_url, monkeypatch
):
    desk = Desk(valkey_url)
    await desk.start()
    await a_series(desk, 90)
    settle = Readings._settle_corrections

    async def after_a_close(readings: Readings) -> None:
        if readings._corrected:
            monkeypatch.undo()
            await desk.close(candle(desk, 90), reading=False)
        await settle(readings)

    monkeypatch.setattr(Readings, "_settle_corrections", after_a_close)
    await desk.close(candle(desk, 80, shift=2.0, rest=True))
    await desk.readings.turn()
    companion = store.keys(desk.series()).companion
    assert await desk.lanes.one("HGET", companion, "corrected_from") is None
    # Another correction meanwhile is one that was not told.
    version = int(await desk.lanes.one("HGET", companion, "version"))
    await desk.close(candle(desk, 85, shift=2.0, rest=True), reading=False)
    await desk.lanes.run([store.recomputed(desk.series(), desk.lease.epoch, version)])
    assert await desk.lanes.one("HGET", companion, "corrected_from") is not None
    # And a version from before the store was emptied says nothing of this one.
    await desk.lanes.run([store.recomputed(desk.series(), desk.lease.epoch, version + 100)])
    assert await desk.lanes.one("HGET", companion, "corrected_from") is not None
    desk.shut()


async def test_what_was_stored_while_readings_were_away_is_told_candle_by_candle(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    await a_series(desk, 70)
    with listening(desk, valkey_url) as ears:
        await desk.close(*(candle(desk, slot) for slot in range(70, 100)))  # more than are stepped
        await check(ears.heard(30), desk, range(70, 100))
        await desk.close(*(candle(desk, slot) for slot in range(100, 104)), reading=False)
        desk.lanes.close()
        again = Desk(valkey_url, exchange=desk.exchange)
        await again.start()
        await again.readings.turn()
        await check(ears.heard(4), again, range(100, 104))
    again.shut()


async def test_history_is_told_by_its_newest_reading_alone(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    with listening(desk, valkey_url) as ears:
        await desk.history([candle(desk, slot, rest=True) for slot in range(100, 200)])
        await desk.readings.turn()
        await check(ears.heard(1), desk, [199])
        await desk.close(candle(desk, 200))
        await check(ears.heard(1), desk, [200])
        # Deeper history gives the series another anchor: all its readings change, those that were
        # announced are told anew, those of the history never were.
        await desk.history([candle(desk, slot, rest=True) for slot in range(100)])
        await desk.readings.turn()
        await check(ears.heard(2), desk, [199, 200])
    desk.shut()


async def test_a_redis_that_goes_away_in_the_middle_hears_all_of_them_in_the_end(own_valkey):
    desk = Desk(own_valkey.url)
    await desk.start()
    await a_series(desk, 90)
    await desk.close(candle(desk, 80, shift=2.0, rest=True), reading=False)
    real, broken = desk.lanes.run_each, False

    async def breaks(calls: Sequence[Call], lane: str = "write") -> list[Any]:
        nonlocal broken
        if lane == "readings" and len(calls) > 9 and not broken:
            broken = True
            return [*await real(calls[:4], lane), *[StoreError("gone")] * (len(calls) - 4)]
        return await real(calls, lane)

    desk.lanes.run_each = breaks  # type: ignore[method-assign]
    with listening(desk, own_valkey.url) as ears:
        with pytest.raises(StoreError):
            await desk.readings.turn()
        await desk.readings.turn()
        told = sorted(ears.heard(10), key=lambda reading: reading.open_time)
        await check(told, desk, range(80, 90))
    desk.shut()
