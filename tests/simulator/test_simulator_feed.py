"""The feed on a clock moved by hand: hours of it without waiting for one."""

from __future__ import annotations

import json
from typing import Any

import attrs
import trio

from livermore.simulator.agenda import Agenda
from livermore.simulator.clock import ExchangeClock
from livermore.simulator.coinbase import COINBASE
from livermore.simulator.coinbase.voice import Voice
from livermore.simulator.coinbase.words import Frame
from livermore.simulator.exchange import Stage
from livermore.simulator.faults import Faults, read_fault
from livermore.simulator.feed import Feed
from livermore.simulator.market import Market
from livermore.simulator.slots import SLOT
from livermore.simulator.stats import Stats
from livermore.simulator.tape import SLOT_NS
from livermore.simulator.trades import NS

START = 1_763_600_200_000
SECOND = 1_000 * NS


@attrs.define(eq=False)
class Ear:
    """Hears frames where a socket would send them."""

    subscriptions: dict[str, dict[str, str]] = attrs.field(factory=dict)
    subscribed: trio.Event = attrs.field(factory=trio.Event)
    heard: list[Frame] = attrs.field(factory=list)

    def send(self, frame: Frame) -> None:
        self.heard.append(frame)

    def rows(self, channel: str, key: str) -> list[tuple[int, dict[str, str]]]:
        """(time of the frame, row), in the order in which a reader would sort them out."""
        return [
            (frame.time, row)
            for frame in self.heard
            if frame.channel == channel
            for event in json.loads(frame.events)
            for row in reversed(event[key])
        ]


class Bench:
    """A feed and a hand on its clock."""

    def __init__(self, speed: float = 1.0) -> None:
        self.seconds = 0.0
        self.market = Market(COINBASE.listings(25, 7), 7, START, history_days=5)
        clock = ExchangeClock(START * NS, speed, lambda: self.seconds / speed)
        self.clock = clock
        stage = Stage(
            self.market, clock, Faults(7), Stats(), Agenda(clock), COINBASE.limits, 7, lambda: 0.0
        )
        self.voice = Voice(stage)
        self.feed = Feed(stage, self.voice)

    def ear(self, channel: str, *symbols: str) -> Ear:
        ear = Ear()
        self.feed.sockets[ear] = None  # type: ignore[index]
        self.voice.subscribe(ear, channel, {s: s for s in symbols})  # type: ignore[arg-type]
        return ear

    def run(self, seconds: float) -> None:
        """Let simulated time pass, and everything due with it."""
        self.seconds += seconds
        assert not self.feed.produce(self.clock.now(), 10**9)


def test_who_joins_in_the_middle_of_a_batch_hears_every_trade_once():
    bench = Bench()
    joined = [bench.ear("market_trades", "BTC-USD", "SUI-USD")]
    for _ in range(60):  # steps that are no multiple of a batch
        bench.run(0.137)
        joined.append(bench.ear("market_trades", "BTC-USD", "SUI-USD"))
    bench.run(700)
    for ear in joined:
        for symbol in ("BTC-USD", "SUI-USD"):
            trades = ear.rows("market_trades", "trades")
            ids = [int(t["trade_id"]) for _, t in trades if t["product_id"] == symbol]
            assert ids == list(range(ids[0], ids[0] + len(ids)))


def test_trades_are_told_a_moment_after_they_happened():
    bench = Bench()
    ear = bench.ear("market_trades", "BTC-USD")
    bench.run(1)
    del ear.heard[:]
    bench.run(300)
    tape = bench.market.tape("BTC-USD")
    times: dict[int, int] = {}
    for slot in (START // SLOT, START // SLOT + 1):
        trades = tape.trades(slot)
        times |= dict(enumerate(trades.time.tolist(), trades.first_id))
    late = [told - times[int(t["trade_id"])] for told, t in ear.rows("market_trades", "trades")]
    assert len(late) > 500
    assert min(late) >= 0.02 * SECOND
    assert max(late) <= 0.33 * SECOND


def test_a_quiet_product_is_silent_until_it_trades():
    bench = Bench()
    ear = bench.ear("candles", "LDO-USD")
    bench.run(6 * 3600)
    begun = START * NS + SECOND
    updates = [row for time, row in ear.rows("candles", "candles") if time > begun]
    states = [(row["start"], row["volume"]) for row in updates]
    assert states, "it trades now and then"
    assert len(set(states)) == len(states), "a state is told once"


def test_the_last_sample_of_a_slot_is_sometimes_absent_or_late():
    bench = Bench()
    ear = bench.ear("candles", "BTC-USD")
    slots = 200
    bench.run(slots * 300)
    final: dict[int, list[float]] = {}
    for time, row in ear.rows("candles", "candles"):
        slot = int(row["start"]) // 300
        since_end = (time - (slot + 1) * SLOT_NS) / SECOND
        if since_end > 0 and slot >= START // SLOT:
            final.setdefault(slot, []).append(since_end)
    absent = slots - len(final)
    late = sum(times[-1] > 6.9 for times in final.values())
    assert 0.05 < absent / slots < 0.17
    assert 0.05 < late / slots < 0.17
    assert all(6.65 <= min(times) <= 15 for times in final.values())


def test_no_stamp_goes_back_whatever_happens():
    bench = Bench(speed=60)
    ears = [bench.ear("heartbeats", "")]
    for step in range(40):
        bench.run(7.3)
        ears.append(bench.ear(("ticker", "candles", "market_trades")[step % 3], "BTC-USD"))
        if step == 20:
            bench.feed.inject(read_fault({"fault": "halt", "for": 30}, ()))
    for ear in ears:
        times = [frame.time for frame in ear.heard]
        assert times == sorted(times)


def test_a_ticker_is_the_price_of_the_newest_trade():
    for speed in (1.0, 60.0):
        bench = Bench(speed)
        ear = bench.ear("ticker", "BTC-USD")
        bench.run(120)
        found = ear.rows("ticker", "tickers")
        assert len(found) > (200 if speed == 1.0 else 100)
        trades = bench.market.tape("BTC-USD")
        for time, row in found[1:]:
            slot = trades.trades((time - 300 * NS) // SLOT_NS)
            price = round(float(row["price"]) * 100)
            nearby = slot.price[slot.before(time - 400 * NS) : slot.before(time)]
            assert price in nearby.tolist() or time % SLOT_NS < 500 * NS


def test_what_nobody_hears_is_forgotten():
    bench = Bench()
    ear: Any = bench.ear("market_trades", "BTC-USD")
    bench.run(2)
    bench.feed.leave(ear)
    told = len(ear.heard)
    bench.run(400)
    assert len(ear.heard) == told
    again = bench.ear("market_trades", "BTC-USD")
    bench.run(10)
    assert len(again.rows("market_trades", "trades")) > 100
