"""Readings over a real store: the recursion from the anchor, whatever happened in between."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import attrs
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from livermore.adapters import store
from livermore.adapters.redis import Redis
from livermore.errors import Fenced, StoreError
from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Forming, Missing, Pending, Suspect
from livermore.runtime.lease import Lease
from livermore.runtime.readings import Readings
from livermore.runtime.writer import Writer
from livermore.signals.reading import Reading, decode_reading

M5 = Timeframe.M5
DAY = Timeframe.D1.ms
T0 = 1_760_000_100_000 // DAY * DAY
NAMES = itertools.count()


class Desk:
    """A writer and its readings over one store, as a feed joins them."""

    def __init__(self, url: str, symbols: Sequence[str] = ("BTC-USD",), exchange: str = "") -> None:
        self.exchange = exchange or f"coinbase_{'abcdefghij'[next(NAMES) % 10]}{next(NAMES)}"
        self.symbols = symbols
        self.lanes = Redis(url)
        self.missing: list[Missing] = []
        self.suspects: list[Suspect] = []
        self.now = T0 + 100 * DAY
        self.back = 0
        self.chance = 0.5

    async def start(self) -> None:
        """A process: what it knows is what the store holds."""
        self.lease = Lease(self.lanes, self.exchange, "me", {})
        await self.lease.take()
        self.pending = Pending()
        self.readings = Readings(self.lanes, self.lease, lambda: 0.5)
        self.writer = Writer(
            self.lanes,
            self.lease,
            self.pending,
            clock=lambda: self.now,
            stored=self.readings.submit,
            edge=self.readings.edge,
            missing=self.missing.extend,
            suspects=self.suspects.extend,
            back=self._is_back,
            chance=lambda: self.chance,
        )
        series = [one for symbol in self.symbols for one in store.all_series(self.exchange, symbol)]
        await self.readings.start(series)
        await self.writer.seed(series, self.now)

    def _is_back(self) -> None:
        self.back += 1

    def series(self, timeframe: Timeframe = M5, symbol: str = "") -> Series:
        return Series(self.exchange, symbol or self.symbols[0], timeframe)

    def put(self, candles: Iterable[Candle]) -> None:
        for candle in candles:
            self.pending.closes.setdefault(candle.series, {})[candle.open_time] = candle

    async def close(self, *candles: Candle, reading: bool = True) -> None:
        """One turn of the writer and, unless it crashes between the two, of the readings."""
        self.put(candles)
        await self.writer.finish()
        assert self.writer.turns.away_why == ""
        if reading:
            await self.readings.turn()

    async def history(self, candles: Sequence[Candle]) -> store.Written | None:
        """History up to now: what closes later is news."""
        later, self.now = self.now, candles[-1].close_time + 60_000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.writer.run)
            result = await self.writer.history(candles[0].series, candles)
            nursery.cancel_scope.cancel()
        await self.writer.finish()  # as at a shutdown: its parents follow the page
        self.now = later
        return result

    async def stored(self, series: Series | None = None) -> list[Candle]:
        one = series or self.series()
        members = await self.lanes.one(*store.range_call(one, "-inf", "+inf"))
        candles, damaged = store.decode_candles(one, members)
        assert damaged == 0
        return candles

    async def reading(self, series: Series | None = None) -> Reading:
        text = await self.lanes.one("GET", store.keys(series or self.series()).indicator)
        assert text is not None, "there is no reading"
        return decode_reading(text)[0]

    def shut(self) -> None:
        self.lanes.close()


def price(slot: int) -> float:
    return 100.0 + 5 * math.sin(slot / 9) + 2 * math.sin(slot / 3.1) + (slot * 7919 % 13) / 40


def candle(
    desk: Desk, slot: int, *, shift: float = 0.0, volume: float = 1.0, rest: bool = False
) -> Candle:
    time = T0 + slot * M5.ms
    opened, close = price(slot - 1), price(slot) + shift
    high, low = max(opened, close) + 0.3, min(opened, close) - 0.4
    evidence = Evidence.REST if rest else Evidence.STREAM
    return Candle(
        desk.series(), time, opened, high, low, close, volume, Kind.TRADED, evidence, time + M5.ms
    )


def nothing(desk: Desk, slot: int, evidence: Evidence = Evidence.STREAM) -> Candle:
    time = T0 + slot * M5.ms
    return empty(desk.series(), time, 77.0, evidence, time + M5.ms)


# -- the reference: the recursion of the specification, one candle after the other ---------------


@attrs.define
class Recursion:
    count: int = 0
    observed: int = 0
    ema12: float = math.nan
    ema26: float = math.nan
    atr: float = math.nan
    macdv: float = math.nan
    signal: float = math.nan


def recursion(candles: Sequence[Candle]) -> Recursion:
    r = Recursion()
    closes: list[float] = []
    ranges: list[float] = []
    values: list[float] = []
    for c in candles:
        if c.kind is Kind.TRADED:
            reach = c.high - c.low
            if closes:
                reach = max(reach, abs(c.high - closes[-1]), abs(c.low - closes[-1]))
            ranges.append(reach)
            if len(ranges) == 26:
                r.atr = sum(ranges) / 26
            elif len(ranges) > 26:
                r.atr += (reach - r.atr) / 26
        closes.append(c.close)
        for name, n in (("ema12", 12), ("ema26", 26)):
            if len(closes) == n:
                setattr(r, name, sum(closes) / n)
            elif len(closes) > n:
                before = getattr(r, name)
                setattr(r, name, before + (c.close - before) * 2 / (n + 1))
        r.macdv = 100 * (r.ema12 - r.ema26) / r.atr
        if not math.isnan(r.macdv):
            values.append(r.macdv)
            if len(values) == 9:
                r.signal = sum(values) / 9
            elif len(values) > 9:
                r.signal += (r.macdv - r.signal) * 2 / 10
    r.count, r.observed = len(closes), len(ranges)
    return r


def assert_equal(reading: Reading, candles: Sequence[Candle]) -> None:
    """The reading is the recursion over ``candles``, or withheld where one is missing."""
    expected = recursion(candles)
    assert (reading.open_time, reading.revision) == (candles[-1].open_time, candles[-1].revision)
    assert (reading.count, reading.observed) == (expected.count, expected.observed)
    assert reading.empty == expected.count - expected.observed
    assert reading.close == candles[-1].close
    for found, wanted in (
        (reading.ema12, expected.ema12),
        (reading.ema26, expected.ema26),
        (reading.atr26, expected.atr),
    ):  # fmt: skip
        assert (math.nan if found is None else found) == pytest.approx(
            wanted, rel=1e-9, nan_ok=True
        )
    step = candles[0].series.timeframe.ms
    missing = [a.close_time for a, b in itertools.pairwise(candles) if b.open_time > a.close_time]
    last_missing = max(
        (b.open_time - step for a, b in itertools.pairwise(candles) if b.open_time > a.close_time),
        default=-1,
    )
    if expected.count < 60 or expected.observed < 26 or math.isnan(expected.signal):
        assert reading.withheld is not None
    elif missing and candles[-1].open_time - last_missing <= 150 * step:
        assert reading.withheld is not None
        assert "missing" in reading.withheld
    else:
        assert reading.withheld is None
        assert reading.macdv == pytest.approx(expected.macdv, abs=1e-9)
        assert reading.signal == pytest.approx(expected.signal, abs=1e-9)
        assert reading.histogram == pytest.approx(expected.macdv - expected.signal, abs=1e-9)
    if reading.withheld is not None:
        assert (reading.macdv, reading.signal, reading.histogram, reading.stage) == (None,) * 4


# -- the common way ------------------------------------------------------------------------------


async def test_every_close_has_its_reading_and_it_is_the_recursion(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    for slot in range(75):
        await desk.close(candle(desk, slot) if slot % 7 else nothing(desk, slot))
        assert_equal(await desk.reading(), await desk.stored())
    for timeframe in (Timeframe.M15, Timeframe.H1):
        series = desk.series(timeframe)
        assert_equal(await desk.reading(series), await desk.stored(series))
    assert desk.readings.work.replayed <= 5  # the first of each series; then it steps
    desk.shut()


async def test_an_empty_is_read_at_the_close_that_is_stored_not_at_the_one_its_sender_knew(
    valkey_url,
):
    desk = Desk(valkey_url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(70)))
    await desk.close(nothing(desk, 70))
    assert_equal(await desk.reading(), await desk.stored())
    desk.shut()


async def test_no_reading_is_made_of_a_forming_candle(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(70)))
    before = await desk.reading()
    series = desk.series()
    desk.pending.forming[series] = Forming(series, T0 + 70 * M5.ms, 1.0, 2.0, 1.0, 2.0, 1.0, 1)
    await desk.close()
    assert await desk.reading() == before
    assert len(await desk.stored()) == 70
    desk.shut()


async def test_a_reading_waits_for_its_candle_to_be_stored(own_valkey):
    desk = Desk(own_valkey.url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(70)))
    own_valkey.stop()
    desk.put([candle(desk, 70)])
    await desk.writer.finish()
    await desk.readings.turn()
    own_valkey.start()
    assert (await desk.reading()).open_time == T0 + 69 * M5.ms
    desk.writer.turns.away_why = ""
    await desk.close()
    assert_equal(await desk.reading(), await desk.stored())
    desk.shut()


async def test_a_change_of_volume_alone_makes_no_reading(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(70)))
    published, replayed = desk.readings.work.published, desk.readings.work.replayed
    await desk.close(candle(desk, 69, volume=9.0, rest=True))
    assert (await desk.stored())[-1].revision == 1
    assert (desk.readings.work.published, desk.readings.work.replayed) == (published, replayed)
    await desk.close(candle(desk, 70))
    assert desk.readings.work.replayed == replayed
    assert_equal(await desk.reading(), await desk.stored())
    desk.shut()


async def test_a_slot_missing_within_the_last_150_withholds_until_it_is_repaired(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(100) if slot != 80))
    reading = await desk.reading()
    assert "missing" in (reading.withheld or "")
    assert_equal(reading, await desk.stored())
    await desk.history([candle(desk, 80, rest=True)])
    await desk.readings.turn()
    assert_equal(await desk.reading(), await desk.stored())
    assert (await desk.reading()).withheld is None
    desk.shut()


@pytest.mark.parametrize(("distance", "withheld"), [(150, True), (151, False)])
async def test_an_older_hole_is_let_pass(valkey_url, distance, withheld):
    desk = Desk(valkey_url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(101 + distance) if slot != 100))
    assert ((await desk.reading()).withheld is not None) == withheld
    assert_equal(await desk.reading(), await desk.stored())
    desk.shut()


# -- lost replies, other stores ------------------------------------------------------------------


async def test_a_close_whose_reply_was_lost_still_has_its_reading(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(70)))
    # Stored, and nobody told the readings: the reply was lost with the connection.
    lost = candle(desk, 70)
    await desk.lanes.run([store.write(lost.series, desk.lease.epoch, [lost])])
    await desk.close(lost)
    assert_equal(await desk.reading(), await desk.stored())
    desk.shut()


@pytest.mark.parametrize("shift", [0.0, 1.5])
async def test_a_lost_reply_and_a_change_of_volume_are_not_taken_for_each_other(valkey_url, shift):
    desk = Desk(valkey_url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(70)))
    lost = candle(desk, 69, shift=shift, volume=5.0, rest=True)
    await desk.lanes.run([store.write(lost.series, desk.lease.epoch, [lost])])
    await desk.close(lost)
    await desk.close(candle(desk, 70))
    assert_equal(await desk.reading(), await desk.stored())
    desk.shut()


async def test_a_store_that_was_emptied_is_not_continued_from_memory(own_valkey):
    desk = Desk(own_valkey.url)
    await desk.start()
    for slot in range(80):
        await desk.close(candle(desk, slot))
    own_valkey.clean()
    await desk.lease.take()
    await desk.close(candle(desk, 80))
    reading = await desk.reading()
    assert_equal(reading, await desk.stored())
    assert "60 candles" in (reading.withheld or "")
    await desk.history([candle(desk, slot, rest=True) for slot in range(80)])
    await desk.readings.turn()
    assert_equal(await desk.reading(), await desk.stored())
    assert (await desk.reading()).withheld is None
    desk.shut()


async def test_an_emptied_store_that_is_refilled_from_the_past_has_its_reading_again(own_valkey):
    desk = Desk(own_valkey.url)
    await desk.start()
    for slot in range(80):
        await desk.close(candle(desk, slot))
    own_valkey.clean()
    await desk.lease.take()
    await desk.history([candle(desk, slot, rest=True) for slot in range(80)])
    await desk.readings.turn()
    assert_equal(await desk.reading(), await desk.stored())
    desk.shut()


async def test_one_key_of_somebody_else_keeps_no_other_reading_back(valkey_url):
    desk = Desk(valkey_url, ("A-USD", "B-USD", "C-USD"))
    await desk.start()
    blocked = desk.series(symbol="B-USD")
    await desk.lanes.one("LPUSH", store.keys(blocked).indicator, "mine")
    for symbol in desk.symbols:
        desk.put(
            attrs.evolve(candle(desk, slot), series=desk.series(symbol=symbol))
            for slot in range(70)
        )
    await desk.close()
    assert set(desk.readings.foreign) == {blocked}
    for symbol in ("A-USD", "C-USD"):
        series = desk.series(symbol=symbol)
        assert_equal(await desk.reading(series), await desk.stored(series))
    await desk.lanes.one("DEL", store.keys(blocked).indicator)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.readings.run)  # of itself: nobody tells that the key is gone
        with trio.fail_after(10):
            while desk.readings.foreign:  # noqa: ASYNC110 - what others do, seen from outside
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    assert_equal(await desk.reading(blocked), await desk.stored(blocked))
    desk.shut()


async def test_a_newer_holder_stops_the_readings_of_an_older_one(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(70)))
    await desk.close(candle(desk, 70), reading=False)
    newer = Desk(valkey_url, exchange=desk.exchange)
    await newer.start()
    await newer.readings.turn()
    with pytest.raises(Fenced):
        await desk.readings.turn()
    desk.shut()
    newer.shut()


async def test_readings_wait_while_the_lease_is_not_ours(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(70)), reading=False)
    desk.lease.valid_until = 0.0
    with pytest.raises(StoreError, match="lapsed"):
        await desk.readings.turn()
    assert await desk.lanes.one("EXISTS", store.keys(desk.series()).indicator) == 0
    await desk.lease.take()
    await desk.readings.turn()
    assert_equal(await desk.reading(), await desk.stored())
    desk.shut()


# -- restarts, corrections and crashes at any point, beyond the 1000 that are kept ---------------


async def test_a_full_series_is_followed_step_by_step_after_a_restart(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    ever: dict[int, Candle] = {}
    for start in range(0, 1000, 200):
        await desk.close(*(candle(desk, slot) for slot in range(start, start + 200)))
    for slot in range(1000, 1012):
        ever.update({c.open_time: c for c in await desk.stored()})
        await desk.close(candle(desk, slot))
    await desk.start()
    for slot in range(1012, 1018):
        ever.update({c.open_time: c for c in await desk.stored()})
        await desk.close(candle(desk, slot))
    ever.update({c.open_time: c for c in await desk.stored()})
    assert len(await desk.stored()) == store.KEEP
    assert desk.readings.work.replayed == 0
    assert_equal(await desk.reading(), [ever[t] for t in sorted(ever)])
    desk.shut()


async def test_a_candle_corrected_at_the_very_edge_counts_after_it_was_trimmed(valkey_url):
    """Sparse, so that what lies 1000 slots back still shows."""
    desk = Desk(valkey_url)
    await desk.start()
    ever: dict[int, Candle] = {}

    def one(slot: int) -> Candle:
        return candle(desk, slot) if slot % 25 == 0 else nothing(desk, slot)

    for start in range(0, 1000, 200):
        await desk.close(*(one(slot) for slot in range(start, start + 200)))
    for again in range(2):
        oldest = (await desk.stored())[0]
        slot = (oldest.open_time - T0) // M5.ms
        changed = attrs.evolve(candle(desk, slot, rest=True), high=150.0 + again, low=50.0 - again)
        ever.update({c.open_time: c for c in await desk.stored()})
        desk.put([changed])
        await desk.close(one(1000 + 2 * again))
        ever.update({c.open_time: c for c in await desk.stored()})
        await desk.close(one(1001 + 2 * again))
        ever.update({c.open_time: c for c in await desk.stored()})
    await desk.start()
    desk.readings.distrust([desk.series()])
    await desk.readings.turn()
    assert_equal(await desk.reading(), [ever[t] for t in sorted(ever)])
    desk.shut()


@pytest.mark.parametrize("restarted", [False, True])
async def test_candles_that_vanished_behind_the_edge_begin_a_new_anchor(valkey_url, restarted):
    """A full series lost its sorted set; REST gave the newest back. What lay between is lost."""
    desk = Desk(valkey_url)
    await desk.start()
    for start in range(0, 1010, 101):
        await desk.close(*(candle(desk, slot) for slot in range(start, start + 101)))
    await desk.close(candle(desk, 1010))
    await desk.lanes.one("DEL", store.keys(desk.series()).candles)
    await desk.history([candle(desk, slot) for slot in range(711, 1011)])
    await desk.readings.turn()
    found = await desk.stored()
    assert len(found) == 300
    assert_equal(await desk.reading(), found)
    if restarted:
        await desk.start()
    for start in range(1011, 1711, 20):
        await desk.close(*(candle(desk, slot) for slot in range(start, start + 20)))
    assert (await desk.reading()).count == 1000
    found = await desk.stored()
    for slot in range(1711, 1715):
        await desk.close(candle(desk, slot))
        found.append((await desk.stored())[-1])
    assert_equal(await desk.reading(), found)
    # And from the edge that was kept meanwhile.
    desk.readings.distrust([desk.series()])
    await desk.readings.turn()
    assert_equal(await desk.reading(), found)
    desk.shut()


@pytest.mark.parametrize("how", ["gone", "older", "damaged"])
async def test_a_reading_that_redis_lost_is_there_again_after_a_look(valkey_url, how):
    desk = Desk(valkey_url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(70)))
    key = store.keys(desk.series()).indicator
    old = await desk.lanes.one("GET", key)
    await desk.close(candle(desk, 70), candle(desk, 71))
    replayed = desk.readings.work.replayed
    await desk.readings.look()
    await desk.readings.turn()
    assert desk.readings.work.replayed == replayed, "nothing was lost"
    if how == "gone":
        await desk.lanes.one("DEL", key)
    else:
        await desk.lanes.one("SET", key, old if how == "older" else "?")
    await desk.readings.look()
    await desk.readings.turn()
    assert_equal(await desk.reading(), await desk.stored())
    desk.shut()


async def test_a_replay_that_was_refused_is_made_up_for(valkey_url, monkeypatch):
    """By an answer that is about the call, not about its key."""
    desk = Desk(valkey_url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(70)))
    await desk.lanes.one("DEL", store.keys(desk.series()).indicator)
    desk.readings.distrust([desk.series()])
    monkeypatch.setattr(store, "whole", lambda series: ("GETRANGE", "x"))
    with pytest.raises(StoreError, match="arguments"):
        await desk.readings.turn()
    monkeypatch.undo()
    await desk.readings.turn()
    assert_equal(await desk.reading(), await desk.stored())
    desk.shut()


async def test_a_crash_between_a_correction_and_its_reading_is_made_up_for(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(70)))
    before = await desk.reading()
    await desk.close(candle(desk, 60, shift=2.0, rest=True), reading=False)
    await desk.start()
    await desk.readings.turn()
    assert_equal(await desk.reading(), await desk.stored())
    assert (await desk.reading()).macdv != before.macdv
    desk.shut()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4), st.booleans()),
        st.tuples(st.just("leave out"), st.integers(1, 3), st.booleans()),
        st.tuples(st.just("correct"), st.integers(1, 1000), st.booleans()),
        st.tuples(st.just("insert"), st.integers(1, 3), st.booleans()),
        st.tuples(st.just("restart"), st.integers(1, 2), st.booleans()),
        st.tuples(st.just("crash"), st.integers(1, 3), st.booleans()),
        st.tuples(st.just("lose"), st.integers(1, 2), st.booleans()),
        st.tuples(st.just("lag"), st.integers(1, 2), st.booleans()),
    ),
    min_size=3,
    max_size=12,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(  # a correction of the oldest candle together with the edge computed before it
    before=996,
    sparse=False,
    steps=[
        *([("append", 1, False)] * 4),
        ("crash", 1, False),
        ("append", 1, False),
        ("correct", 1000, False),
    ],
)
@given(steps=STEPS, before=st.sampled_from([0, 55, 996, 999]), sparse=st.booleans())
def test_a_reading_is_the_recursion_from_the_anchor_whatever_happened(
    valkey_url, steps, before, sparse
):
    async def story() -> None:
        desk = Desk(valkey_url)
        await desk.start()
        ever: dict[int, Candle] = {}
        holes: list[int] = []
        slot = 0

        async def look() -> None:
            ever.update({c.open_time: c for c in await desk.stored()})

        def traded(number: int) -> Candle:
            if sparse and number % 5:
                return nothing(desk, number)
            return candle(desk, number)

        for start in range(0, before, 333):
            await desk.close(*(traded(n) for n in range(start, min(before, start + 333))))
        slot = before
        await look()
        for kind, number, flag in steps:
            if kind == "append":
                for _ in range(number):
                    await desk.close(nothing(desk, slot) if flag else candle(desk, slot))
                    await look()
                    slot += 1
            elif kind == "leave out":
                holes += range(slot, slot + number)
                slot += number
                await desk.close(candle(desk, slot))
                slot += 1
            elif kind == "correct" and ever:
                stored = await desk.stored()
                old = stored[-min(number, len(stored))]
                changed = candle(desk, (old.open_time - T0) // M5.ms, shift=1.0 + number / 1000)
                changed = attrs.evolve(changed, evidence=Evidence.REST, as_of=old.as_of + number)
                desk.put([changed])
                await desk.close(*([candle(desk, slot)] if flag else []))
                slot += flag
            elif kind == "insert" and holes:
                some, holes = holes[:number], holes[number:]
                await desk.history([candle(desk, n, rest=True) for n in some])
                await desk.readings.turn()
            elif kind == "restart":
                await desk.start()
                if flag:
                    await desk.close(candle(desk, slot))
                    slot += 1
            elif kind == "crash":
                for _ in range(number):
                    await desk.close(traded(slot), reading=False)
                    await look()
                    slot += 1
                await desk.start()
            elif kind == "lose":
                lost = [candle(desk, slot + n) for n in range(number)]
                await desk.lanes.run([store.write(desk.series(), desk.lease.epoch, lost)])
                await desk.close(*lost)
                slot += number
            elif kind == "lag":
                for _ in range(number + 1):
                    await desk.close(candle(desk, slot), reading=False)
                    await look()
                    slot += 1
                await desk.readings.turn()
            await look()
        await desk.close(candle(desk, slot))
        await look()
        known = [ever[t] for t in sorted(ever)]
        assert_equal(await desk.reading(), known)
        assert len(await desk.stored()) >= min(len(known), store.KEEP)
        await desk.start()
        await desk.readings.turn()
        assert_equal(await desk.reading(), known)
        fifteen = desk.series(Timeframe.M15)
        bars = await desk.stored(fifteen)
        if len(bars) > 1 and not holes:
            assert_equal(await desk.reading(fifteen), bars)
        desk.shut()

    trio.run(story)
