"""Where the exchange closes its candles itself: nothing but its flag does, whatever the line does.

The exchange here trades at random and shows a slot so far whenever it changed; a line loses,
repeats and reorders what it says and breaks off. What leaves the tracker is the truth, or missing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livermore.market.candle import Candle, Evidence, Kind, Series
from livermore.market.events import Event, Frame, Sample, Ticker
from livermore.market.flagged import TWICE, UNHEARD, FlagTracker
from livermore.market.timeframe import Timeframe

MS = Timeframe.M5.ms
T0 = 1_700_000_100_000 // MS * MS
SETTLE = 10_000
BTC = Series("binance", "BTC-USDT", Timeframe.M5)
ETH = Series("binance", "ETH-USDT", Timeframe.M5)


def sample(
    open_time: int, close: float = 100.0, volume: float = 1.0, *, closed: bool = False,
    native: str = "BTCUSDT", high: float = 110.0, low: float = 90.0,
) -> Sample:  # fmt: skip
    if not volume:
        high = low = close
    return Sample(native, open_time, close, high, low, close, volume, closed=closed)


class Line:
    """A tracker that hears an exchange; its monotonic clock starts at 0 with ``start``."""

    def __init__(self, start: int = T0 - 60_000) -> None:
        self.start = start
        self.tracker = FlagTracker(
            [("BTCUSDT", BTC), ("ETHUSDT", ETH)], settle=SETTLE, sample_lag=None
        )
        self.tracker.clock.hear(start, 0.0)
        self.connect(start)

    def connect(self, time: int) -> None:
        self.tracker.connected(self.at(time))
        self.tracker.acknowledged(["BTCUSDT", "ETHUSDT"], self.at(time))

    def at(self, time: int) -> float:
        return (time - self.start) / 1000

    def say(self, time: int, *events: Event) -> None:
        self.tracker.take(Frame(time, None, list(events)), self.at(time))

    def wait(self, time: int) -> None:
        self.tracker.tick(self.at(time))

    @property
    def closes(self) -> dict[int, Candle]:
        return self.tracker.pending.closes.get(BTC, {})

    @property
    def missing(self) -> dict[int, str]:
        found = self.tracker.pending.missing.values()
        return {
            one.open_time: one.cause for one in found if one.series == BTC and one.open_time >= T0
        }


def test_the_flag_closes_a_candle_at_once():
    line = Line()
    line.say(T0 + 1_000, sample(T0))
    line.say(T0 + MS + 5, sample(T0, 101.0, 3.0, closed=True))
    assert line.closes[T0].close == 101.0
    assert line.closes[T0].evidence is Evidence.STREAM
    assert line.closes[T0].as_of == T0 + MS + 5


def test_nothing_but_the_flag_closes_a_candle():
    line = Line()
    line.say(T0 + 1_000, sample(T0))
    line.say(T0 + MS + 500, sample(T0 + MS))  # the next slot runs already
    line.say(T0 + MS + 2_000, sample(T0 + MS, native="ETHUSDT"))
    line.wait(T0 + MS + SETTLE - 1)
    assert T0 not in line.closes
    assert T0 not in line.missing


def test_without_its_flag_ten_seconds_after_its_end_a_slot_is_missing():
    line = Line()
    line.say(T0 + 1_000, sample(T0))
    line.say(T0 + MS + 2_000, sample(T0 + MS))
    line.wait(T0 + MS + SETTLE)
    assert line.missing[T0] == "the exchange did not close it"
    assert T0 not in line.closes


def test_while_nothing_is_heard_a_slot_waits_a_little_longer():
    line = Line()
    line.say(T0 + MS - 1_000, sample(T0))
    line.wait(T0 + MS + SETTLE)
    assert T0 not in line.missing
    line.wait(T0 + MS + SETTLE + UNHEARD)
    assert T0 in line.missing


def test_a_flag_that_comes_late_still_counts_and_the_slot_is_missing_no_more():
    line = Line()
    line.say(T0 + MS + 2_000, sample(T0 + MS))
    line.wait(T0 + MS + SETTLE)
    assert T0 in line.missing
    line.say(T0 + MS + SETTLE + 3_000, sample(T0, 101.0, closed=True))
    assert line.closes[T0].close == 101.0
    assert T0 not in line.missing


def test_a_flag_from_long_ago_changes_nothing():
    line = Line()
    for slot in range(5):
        line.say(T0 + (slot + 1) * MS + 5, sample(T0 + slot * MS, 101.0 + slot, closed=True))
    line.tracker.pending.closes.clear()
    line.say(T0 + 5 * MS + 900, sample(T0, 105.5, 9.0, closed=True))
    assert not line.closes
    line.say(T0 + 6 * MS + 5, sample(T0 + 5 * MS, 108.0, closed=True))
    assert line.closes[T0 + 5 * MS].close == 108.0


def test_a_flat_candle_without_volume_is_empty_in_the_exchanges_own_words():
    line = Line()
    line.say(T0 + MS + 5, sample(T0, 99.0, 0.0, closed=True))
    assert line.closes[T0].kind is Kind.EMPTY
    assert line.closes[T0].evidence is Evidence.STREAM


def test_frames_lost_in_the_middle_cost_nothing():
    line = Line()
    line.say(T0 + 1_000, sample(T0, volume=1.0))
    line.tracker.lost()
    line.connect(T0 + 200_000)
    line.say(T0 + MS + 5, sample(T0, 101.0, 9.0, closed=True))
    assert line.closes[T0].volume == 9.0
    assert not line.missing


def test_what_ends_without_a_connection_is_missing():
    line = Line()
    line.say(T0 + 1_000, sample(T0))
    line.tracker.lost()
    line.wait(T0 + MS + SETTLE)
    assert line.missing[T0] == "no connection"


def test_after_a_reconnect_it_is_said_that_nobody_was_there_at_its_end():
    line = Line()
    line.say(T0 + 1_000, sample(T0))
    line.tracker.lost()
    line.connect(T0 + MS + 5_000)
    line.say(T0 + MS + 6_000, sample(T0 + MS))
    line.wait(T0 + MS + SETTLE)
    assert line.missing[T0] == "the connection was lost when it ended"


def test_a_repeated_flag_closes_nothing_twice():
    line = Line()
    line.say(T0 + MS + 5, sample(T0, closed=True))
    line.tracker.pending.closes.clear()
    line.say(T0 + MS + 9, sample(T0, closed=True))
    assert not line.closes
    assert not line.tracker.pending.suspects


def test_two_flags_that_differ_correct_the_candle_and_are_looked_at():
    line = Line()
    line.say(T0 + MS + 5, sample(T0, 100.0, closed=True))
    line.tracker.pending.closes.clear()
    line.say(T0 + MS + 900, sample(T0, 101.0, closed=True))
    assert line.closes[T0].close == 101.0
    assert line.tracker.pending.suspects[BTC, T0].cause == TWICE


def test_a_frame_behind_the_flag_changes_nothing():
    line = Line()
    line.say(T0 + MS + 5, sample(T0, 100.0, 5.0, closed=True))
    line.say(T0 + MS + 6, sample(T0, 105.0, 6.0))
    assert line.closes[T0].close == 100.0


@pytest.mark.parametrize("early", [T0 + 10 * MS, T0 + MS])
def test_a_flag_from_the_future_is_damaged(early: int):
    line = Line()
    line.say(T0 + 1_000, sample(early, closed=True))
    assert not line.closes
    assert line.tracker.counts.malformed == 1


def test_a_slot_that_ended_before_we_came_is_ours_only_for_as_long_as_a_flag_may_take():
    line = Line(T0 + MS + 3_000)
    line.say(T0 + MS + 4_000, sample(T0 + MS))
    line.wait(T0 + MS + SETTLE)
    assert T0 in line.missing  # nobody else asks for it
    late = Line(T0 + MS + SETTLE + 1_000)
    late.say(T0 + MS + SETTLE + 2_000, sample(T0 + MS))
    late.wait(T0 + MS + SETTLE + 20_000)
    assert not late.missing


def test_what_is_held_is_the_newest_frame_heard_on_a_whole_connection():
    line = Line(T0 - 60_000)
    held = line.tracker.held
    line.say(T0 + 500, sample(T0, volume=0.0))
    assert held("ETHUSDT", T0) == 0.0  # connected since before it began
    line.say(T0 + 1_000, sample(T0, volume=4.0))
    assert held("BTCUSDT", T0) == 4.0
    line.tracker.lost()
    assert held("BTCUSDT", T0) is None
    line.connect(T0 + 50_000)
    assert held("BTCUSDT", T0) is None  # what traded meanwhile has not been shown
    assert held("ETHUSDT", T0) is None
    line.say(T0 + 60_000, sample(T0, volume=7.0))
    assert held("BTCUSDT", T0) == 7.0


def test_a_ticker_at_another_price_tells_of_a_trade_that_has_not_arrived():
    line = Line()
    line.say(T0 + 1_000, sample(T0, 100.0))

    def told(time: int) -> float | None:
        [one] = [s for s in line.tracker.silences(line.at(time)) if s.native == "BTCUSDT"]
        return one.told

    line.say(T0 + 5_000, Ticker("BTCUSDT", 100.0, T0 + 5_000))
    assert told(T0 + 30_000) is None
    line.say(T0 + 31_000, Ticker("BTCUSDT", 100.5, T0 + 31_000))
    assert told(T0 + 41_000) == pytest.approx(10.0)
    line.say(T0 + 42_000, sample(T0, 100.5, 2.0))
    assert told(T0 + 43_000) is None


def test_the_newest_trade_is_told_by_volume_that_grows():
    line = Line()
    line.say(T0 + 1_000, sample(T0, volume=2.0))
    line.say(T0 + 60_000, sample(T0, volume=2.0))
    assert line.tracker.newest_trade == T0 + 1_000
    line.say(T0 + MS + 2_000, sample(T0 + MS, volume=0.0))
    assert line.tracker.newest_trade == T0 + 1_000


# -- any line -------------------------------------------------------------------------------------


@attrs.frozen
class Said:
    time: int
    event: Sample


def exchange(
    chance: random.Random, slots: int
) -> tuple[list[Said], dict[int, tuple[float, float]]]:
    """What is said of one symbol, and the truth: close and volume of each slot."""
    said: list[Said] = []
    truth: dict[int, tuple[float, float]] = {}
    price = 100.0
    for open_time in range(T0, T0 + slots * MS, MS):
        volume = 0.0
        times = sorted(chance.randrange(MS) for _ in range(chance.choice([0, 0, 1, 5, 30])))
        for after in times:
            price = 100 + chance.randrange(-5, 6)
            volume += 1.0
            said.append(Said(open_time + after, sample(open_time, price, volume)))
        lag = chance.choice([5, 200, 1_756])
        said.append(Said(open_time + MS + lag, sample(open_time, price, volume, closed=True)))
        truth[open_time] = (price, volume)
    return sorted(said, key=lambda one: one.time), truth


def disturbed(chance: random.Random, said: Sequence[Said]) -> list[Said | str]:
    """Lost, repeated, in another order, and breaks."""
    found: list[Said | str] = []
    for one in said:
        if chance.random() < 0.15:
            continue
        found += [one] * (2 if chance.random() < 0.1 else 1)
        if chance.random() < 0.05:
            found += ["break"]
        if len(found) > 1 and chance.random() < 0.1:
            found[-1], found[-2] = found[-2], found[-1]
    return found


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_whatever_the_line_does_a_close_is_the_truth_and_the_rest_is_missing(seed: int):
    chance = random.Random(seed)
    said, truth = exchange(chance, 6)
    line = Line()
    now = line.start
    for one in disturbed(chance, said):
        if isinstance(one, str):
            line.tracker.lost()
            line.connect(now)
            continue
        while now + 1_000 < one.time:  # the tracker is woken when something is due
            now = min(one.time, now + 1_000 + int(line.tracker.due_in(line.at(now)) * 1000))
            line.wait(now)
        now = max(now, one.time)
        line.tracker.take(Frame(one.time, None, [one.event]), line.at(now))
    line.wait(T0 + 6 * MS + SETTLE + UNHEARD + 60_000)  # its clock may lag behind ours
    for open_time, (close, volume) in truth.items():
        candle = line.closes.get(open_time)
        assert (candle is not None) != (open_time in line.missing), open_time
        if candle is not None:
            assert (candle.close, candle.volume) == (close, volume)
            assert (candle.kind is Kind.EMPTY) == (volume == 0)


def test_the_undisturbed_line_misses_nothing():
    said, truth = exchange(random.Random(7), 8)
    line = Line()
    for one in said:
        line.say(one.time, one.event)
    assert line.closes.keys() == truth.keys()
    assert not line.missing
