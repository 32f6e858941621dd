"""What the simulated Binances say and when, on a clock moved by hand: hours without waiting."""

from __future__ import annotations

import itertools
import json
import statistics
from typing import Any

import attrs
import pytest
import trio

from livermore.simulator.agenda import Agenda
from livermore.simulator.binance.voice import Voice
from livermore.simulator.clock import ExchangeClock
from livermore.simulator.exchange import Stage
from livermore.simulator.faults import Faults, read_fault
from livermore.simulator.feed import Feed
from livermore.simulator.market import Market
from livermore.simulator.roster import PLAYED
from livermore.simulator.stats import Stats
from livermore.simulator.trades import NS

START = 1_763_600_200_000
SECOND = 1_000 * NS
MINUTE = 60_000


@attrs.define(eq=False)
class Ear:
    """Hears frames where a socket would send them."""

    number: int
    subscriptions: dict[str, dict[str, str]] = attrs.field(factory=dict)
    subscribed: trio.Event = attrs.field(factory=trio.Event)
    heard: list[dict[str, Any]] = attrs.field(factory=list)

    def send(self, frame: Any) -> None:
        self.heard.append({**json.loads(frame.text), "due": frame.time // NS})

    def candles(self, *, closed: bool | None = None) -> list[dict[str, Any]]:
        found = [
            {**frame["k"], "E": frame["E"], "due": frame["due"]}
            for frame in self.heard
            if frame.get("e") == "kline"
        ]
        return [k for k in found if closed is None or k["x"] is closed]


class Bench:
    """A feed and a hand on its clock."""

    def __init__(self, exchange: str = "binance", symbols: int = 8, days: int = 3) -> None:
        self.seconds = 0.0
        played = PLAYED[exchange]
        self.played = played
        self.market = Market(played.listings(symbols, 7), 7, START, history_days=days)
        self.clock = ExchangeClock(START * NS, 1.0, lambda: self.seconds)
        faults = Faults(7)
        stage = Stage(
            self.market,
            self.clock,
            faults,
            Stats(),
            Agenda(self.clock),
            played.limits,
            7,
            lambda: self.seconds,
        )
        voice = played.voice(stage)
        assert isinstance(voice, Voice)
        self.voice = voice
        self.feed = Feed(stage, voice)
        self.faults = faults

    def ear(self, *streams: str) -> Ear:
        ear = Ear(len(self.feed.sockets))
        self.feed.sockets[ear] = None  # type: ignore[index]
        self.voice.subscribe(ear, list(streams))  # type: ignore[arg-type]
        return ear

    def inject(self, **said: Any) -> None:
        self.feed.inject(read_fault(said, self.market, self.played.channels, self.played.faults))

    def run(self, seconds: float) -> None:
        """Let simulated time pass, and everything due with it."""
        self.seconds += seconds
        assert not self.feed.produce(self.clock.now(), 10**9)


def numbers(k: dict[str, Any]) -> tuple[float, ...]:
    return tuple(float(k[name]) for name in "ohlcv")


def truth(bench: Bench, symbol: str, length: int, until: int) -> dict[int, tuple[float, ...]]:
    listing = bench.market.listing(symbol)
    rows = bench.market.truth(symbol, length, START - 2 * 86_400_000, until, bench.clock.now())
    return {
        c.open_time: (
            *(v / listing.tick for v in (c.row.open, c.row.high, c.row.low, c.row.close)),
            c.row.volume / listing.unit,
        )
        for c in rows
    }


# --- closing


@pytest.mark.parametrize("interval", ["1m", "3m", "5m", "15m", "1h", "4h", "1d"])
def test_each_candle_is_closed_once_with_what_is_true(interval):
    lengths = {"1m": 1, "3m": 3, "5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440}
    length = lengths[interval] * MINUTE
    bench = Bench()
    ear = bench.ear(f"ethusdt@kline_{interval}")
    bench.run(max(7200, 2 * length / 1000))
    closed = ear.candles(closed=True)
    assert len(closed) >= 2
    starts = [k["t"] for k in closed]
    assert starts == list(range(START // length * length, starts[-1] + 1, length))
    assert all(k["T"] == k["t"] + length - 1 for k in closed)
    if length >= 5 * MINUTE:
        true = truth(bench, "ETH-USDT", length, START + 3 * 86_400_000)
        assert [numbers(k) for k in closed] == [true[k["t"]] for k in closed]


def test_short_candles_fold_to_long_ones():
    bench = Bench()
    ears = {i: bench.ear(f"btcusdt@kline_{i}") for i in ("1m", "3m", "5m", "15m")}
    bench.run(3600)
    minutes = {k["t"]: k for k in ears["1m"].candles(closed=True)}
    for interval, count in (("3m", 3), ("5m", 5), ("15m", 15)):
        compared = 0
        for k in ears[interval].candles(closed=True):
            parts = [minutes.get(k["t"] + n * MINUTE) for n in range(count)]
            if None in parts:
                continue
            known = [part for part in parts if part is not None]
            traded = [part for part in known if part["n"]]
            compared += 1
            assert k["o"] == traded[0]["o"]
            assert k["c"] == traded[-1]["c"]
            assert float(k["h"]) == max(float(part["h"]) for part in traded)
            assert float(k["l"]) == min(float(part["l"]) for part in traded)
            assert float(k["v"]) == pytest.approx(sum(float(part["v"]) for part in traded))
            assert k["n"] == sum(part["n"] for part in traded)
            assert (k["f"], k["L"]) == (traded[0]["f"], traded[-1]["L"])
        assert compared >= 3


def test_trade_ids_go_on_from_candle_to_candle():
    bench = Bench()
    ear = bench.ear("btcusdt@kline_1m")
    bench.run(3600)
    closed = [k for k in ear.candles(closed=True) if k["n"]]
    assert all(k["L"] - k["f"] + 1 == k["n"] for k in closed)
    assert all(later["f"] == k["L"] + 1 for k, later in itertools.pairwise(closed))


def test_candles_close_up_to_two_seconds_late_and_half_of_them_within_a_fifth():
    bench = Bench()
    names = [one.native.lower() for one in bench.market.listings[:8]]
    ears = [bench.ear(f"{name}@kline_1m") for name in names]
    bench.run(2 * 3600)
    late = [k["E"] - k["T"] - 1 for ear in ears for k in ear.candles(closed=True)]
    assert len(late) > 900
    assert 5 <= min(late) < 10
    assert 1_500 < max(late) <= 2_000
    assert 150 < statistics.median(late) < 260


def test_nothing_of_the_next_candle_comes_before_the_flag_but_others_are_earlier():
    bench = Bench()
    ears = [bench.ear(f"{one}usdt@kline_1m") for one in ("btc", "eth", "sol")]
    bench.run(3600)
    first_of, flag_of = [], []
    for ear in ears:
        times = [k["t"] for k in ear.candles()]
        assert times == sorted(times)
        last = 0
        for k in ear.candles():
            assert k["t"] == last or last == 0
            last = k["t"] + MINUTE if k["x"] else k["t"]
        flag_of.append({k["t"] + MINUTE: k["E"] for k in ear.candles(closed=True)})
        firsts: dict[int, int] = {}
        for k in ear.candles():
            firsts.setdefault(k["t"], k["E"])
        first_of.append(firsts)
    early = sum(
        first < flag_of[mine].get(start, 0)
        for mine in range(3)
        for other in range(3)
        if other != mine
        for start, first in first_of[other].items()
    )
    assert early > 5


def test_binance_closes_candles_without_trades_flat_and_without_ids():
    bench = Bench()
    ear = bench.ear("avaxusdt@kline_1m", "ltcusdt@kline_1m")
    bench.run(3 * 3600)
    idle = [k for k in ear.candles(closed=True) if k["n"] == 0]
    assert len(idle) > 20
    for k in idle:
        assert (k["f"], k["L"]) == (-1, -1)
        assert k["o"] == k["h"] == k["l"] == k["c"]
        assert float(k["v"]) == float(k["q"]) == float(k["V"]) == 0.0
    by_time = {k["t"]: k for k in ear.candles(closed=True)}
    assert all(
        k["o"] == by_time[k["t"] - MINUTE]["c"] for k in idle if k["t"] - MINUTE in by_time
    ), "flat at the close before"


def test_binance_us_says_nothing_of_candles_without_trades():
    bench = Bench("binance_us")
    ear = bench.ear("solusd@kline_1m")
    bench.run(6 * 3600)
    told = ear.candles()
    assert told, "it trades now and then"
    assert all(k["n"] > 0 for k in told)
    closed = {k["t"] for k in ear.candles(closed=True)}
    assert closed == {k["t"] for k in told if k["t"] + MINUTE + 2_000 <= START + 6 * 3_600_000}
    assert len(closed) < 300, "most minutes are silent"


def test_binance_us_is_sometimes_later():
    bench = Bench("binance_us")
    ear = bench.ear("btcusd@kline_1m")
    bench.run(3 * 3600)
    late = [k["E"] - k["T"] - 1 for k in ear.candles(closed=True)]
    assert 0.15 < late.count(1_756) / len(late) < 0.45


# --- while they run


def test_a_candle_is_told_every_two_seconds_while_something_changes():
    bench = Bench()
    ear = bench.ear("btcusdt@kline_5m")
    quiet = bench.ear("avaxusdt@kline_5m")
    bench.run(1800)
    for one in (ear, quiet):
        for k, later in zip(one.candles(), one.candles()[1:], strict=False):
            if not k["x"] and not later["x"]:
                assert later["E"] - k["E"] >= 2_000
                assert later["t"] != k["t"] or later["n"] > k["n"]
        assert all(k["E"] <= k["T"] for k in one.candles(closed=False)), "then only the flag"
    assert len(ear.candles()) > 800
    assert 5 < len(quiet.candles()) < 200


def test_a_running_candle_is_what_has_traded_so_far():
    bench = Bench()
    ear = bench.ear("btcusdt@kline_15m")
    bench.run(1800)
    running = ear.candles(closed=False)
    assert len(running) > 500
    tape = bench.market.tape("BTC-USDT")
    slot = (START // 300_000) + 1
    trades = tape.trades(slot)
    for k in running:
        if k["E"] // 300_000 == slot:
            at = trades.before(k["due"] * NS)
            assert k["L"] == trades.first_id + at - 1
            assert (
                float(k["c"]) == int(trades.price[at - 1]) / bench.market.listing("BTC-USDT").tick
            )


def test_a_ticker_comes_each_second_at_most_and_tells_the_last_price():
    bench = Bench()
    ear = bench.ear("btcusdt@ticker", "dogeusdt@ticker")
    bench.run(600)
    by: dict[str, list[Any]] = {"BTCUSDT": [], "DOGEUSDT": []}
    for frame in ear.heard:
        by[frame["s"]].append(frame)
    assert len(by["BTCUSDT"]) > 500
    assert 1 <= len(by["DOGEUSDT"]) < 60
    for frames in by.values():
        stamps = [frame["E"] for frame in frames]
        assert all(b - a >= 1_000 for a, b in itertools.pairwise(stamps))
    listing = bench.market.listing("BTC-USDT")
    for frame in by["BTCUSDT"]:
        price = bench.market.last_price("BTC-USDT", frame["due"] * NS)
        assert float(frame["c"]) == price / listing.tick
        assert float(frame["b"]) < float(frame["a"])


@pytest.mark.parametrize("kind", ["trade", "aggTrade"])
def test_trades_are_told_whole_and_sum_to_the_candle(kind):
    bench = Bench()
    ear = bench.ear(f"btcusdt@{kind}", "btcusdt@kline_5m")
    bench.run(1200)
    name = "t" if kind == "trade" else "a"
    trades = [frame for frame in ear.heard if frame["e"] == kind]
    ids = [frame[name] for frame in trades]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert all(0 <= frame["E"] - frame["T"] <= 101 for frame in trades)
    whole = [k for k in ear.candles(closed=True) if k["f"] >= ids[0]]
    assert whole
    for k in whole:
        mine = [frame for frame in trades if k["f"] <= frame[name] <= k["L"]]
        assert sum(float(frame["q"]) for frame in mine) == pytest.approx(float(k["v"]))
        assert float(mine[-1]["p"]) == float(k["c"])


def test_what_is_paid_lies_within_the_prices_of_the_candle():
    bench = Bench()
    ear = bench.ear("ethusdt@kline_5m")
    bench.run(1800)
    for k in ear.candles():
        if k["n"]:
            mean = float(k["q"]) / float(k["v"])
            assert float(k["l"]) * 0.9999 <= mean <= float(k["h"]) * 1.0001


# --- faults


def test_an_unflagged_candle_is_not_closed_and_the_next_begins():
    bench = Bench()
    ear = bench.ear("btcusdt@kline_1m", "ethusdt@kline_1m")
    bench.inject(fault="unflagged", symbol="BTC-USDT", **{"for": 600})
    bench.run(590)
    closed = ear.candles(closed=True)
    assert {k["s"] for k in closed} == {"ETHUSDT"}
    assert len({k["t"] for k in ear.candles() if k["s"] == "BTCUSDT"}) >= 9
    bench.run(120)
    assert "BTCUSDT" in {k["s"] for k in ear.candles(closed=True)}


def test_only_idle_candles_are_unflagged_where_that_is_asked_for():
    bench = Bench()
    ear = bench.ear("avaxusdt@kline_1m")
    bench.inject(fault="unflagged", idle=True, **{"for": 7200})
    bench.run(7100)
    closed = ear.candles(closed=True)
    assert closed
    assert all(k["n"] for k in closed)


def test_late_flags_come_late_and_hold_back_the_next_candle():
    bench = Bench()
    ear = bench.ear("btcusdt@kline_1m")
    bench.inject(fault="late-flag", seconds=15.0, **{"for": 170})
    bench.run(300)
    late = [k["E"] - k["T"] - 1 for k in ear.candles(closed=True)]
    assert sorted(15_000 < one <= 17_000 for one in late) == [False, False, True, True, True]
    times = [k["t"] for k in ear.candles()]
    assert times == sorted(times)


@pytest.mark.parametrize("beside", [False, True])
def test_what_the_stream_had_wrong_is_closed_again_with_what_is_true(beside):
    bench = Bench()
    ear = bench.ear("btcusdt@kline_1m", "ethusdt@kline_1m")
    if beside:  # another fault, which goes on
        bench.inject(fault="stream-differs", symbol="BTC-USDT", **{"for": 3600})
    bench.inject(fault="late-correction", symbol="BTC-USDT", **{"for": 300})
    bench.run(299)
    spoilt = {k["t"]: k for k in ear.candles(closed=True) if k["s"] == "BTCUSDT"}
    heard = len(ear.heard)
    bench.run(2)
    again = [f["k"] for f in ear.heard[heard:] if f["k"]["t"] in spoilt and f["s"] == "BTCUSDT"]
    assert {k["t"] for k in again} == set(spoilt)
    assert all(k["x"] and k["s"] == "BTCUSDT" for k in again)
    assert all(float(k["v"]) < float(spoilt[k["t"]]["v"]) for k in again)
    trades = bench.market.tape("BTC-USDT").trades(spoilt[min(spoilt)]["t"] // 300_000)
    first = min(spoilt)
    true = trades.fold(trades.before(first * NS), trades.before((first + MINUTE) * NS))
    [k] = [k for k in again if k["t"] == first]
    assert float(k["v"]) == true.volume / bench.market.listing("BTC-USDT").unit


def test_in_a_halt_candles_are_flat_and_trades_go_on_after_it():
    bench = Bench()
    ear = bench.ear("btcusdt@kline_1m", "btcusdt@trade")
    bench.run(100)
    bench.inject(fault="halt", **{"for": 300})
    bench.run(400)
    trades = [frame for frame in ear.heard if frame["e"] == "trade"]
    stopped, resumed = START + 100_000, START + 400_000
    assert not [frame for frame in trades if stopped <= frame["T"] < resumed]
    assert [frame for frame in trades if frame["T"] >= resumed]
    ids = [frame["t"] for frame in trades]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    quiet = [k for k in ear.candles(closed=True) if stopped <= k["t"] and k["T"] < resumed]
    assert len(quiet) == 4
    assert all(k["n"] == 0 for k in quiet)


def test_skewed_stamps_are_off_and_the_candles_are_not():
    bench = Bench()
    ear = bench.ear("btcusdt@kline_1m")
    bench.inject(fault="skew", seconds=-7.0, **{"for": 300})
    bench.run(200)
    assert {frame["E"] - frame["due"] for frame in ear.heard} == {-7_000}
    assert all(k["t"] % MINUTE == 0 for k in ear.candles())


def test_who_left_is_not_spoken_to_and_costs_nothing():
    bench = Bench()
    ear = bench.ear("btcusdt@kline_1m", "btcusdt@ticker")
    other = bench.ear("btcusdt@kline_1m")
    bench.run(60)
    bench.voice.unsubscribe(ear, ["btcusdt@kline_1m", "btcusdt@ticker"])  # type: ignore[arg-type]
    heard, more = len(ear.heard), len(other.heard)
    bench.run(60)
    assert len(ear.heard) == heard
    assert len(other.heard) > more
    assert list(bench.voice._lines) == ["btcusdt@kline_1m"]


def test_halted_and_dead_symbols_are_silent():
    bench = Bench()
    ear = bench.ear(*(f"{one}usdt@{kind}" for one in ("halt", "oldc", "dead")
                      for kind in ("kline_1m", "ticker", "trade")))  # fmt: skip
    bench.run(600)
    assert ear.heard == []
