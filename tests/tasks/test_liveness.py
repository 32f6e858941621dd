"""Quiet or mute: a real tracker, a REST that shows what the test says, virtual time."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.errors import RestError
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Candle, Evidence, Series
from livermore.market.events import Event, Frame, Heartbeat, Sample, Ticker, Trade, Trades
from livermore.market.gap import Lane
from livermore.market.history import Row
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Tracker
from livermore.runtime.connection import Connection, Health, State
from livermore.runtime.liveness import HALTED, PROBES, Liveness, Shard
from livermore.runtime.rest import Rest

M5 = Timeframe.M5
START = 1_767_225_600_000
NATIVES = tuple(f"S{n}-USD" for n in range(40))
BTC, ETH = NATIVES[:2]


@attrs.define
class Replaced:
    """The connection as the watch sees it."""

    reasons: list[str] = attrs.Factory(list)
    moments: list[float] = attrs.Factory(list)

    def replace(self, why: str) -> None:
        self.reasons.append(why)
        self.moments.append(trio.current_time())


@attrs.define
class Market:
    """Trades of every symbol; what arrives of them, and what REST shows of them."""

    tracker: Tracker
    health: Health
    connection: Replaced
    volume: dict[tuple[str, int], int] = attrs.Factory(dict)
    number: dict[str, int] = attrs.Factory(dict)
    times: dict[str, list[int]] = attrs.Factory(lambda: defaultdict(list))
    asked: list[tuple[float, str, Lane]] = attrs.Factory(list)
    said: list[tuple[str, dict[str, object]]] = attrs.Factory(list)
    halts: list[bool] = attrs.Factory(list)
    was_asked: trio.Event = attrs.Factory(trio.Event)
    problem: Exception | None = None
    broken: frozenset[str] = frozenset()
    """Symbols that REST does not answer for."""
    seconds: float = 0.0
    """How long REST takes."""
    liveness: Liveness = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        shard = Shard(self.tracker, self.health, cast(Connection, self.connection))
        self.liveness = Liveness(
            [shard], cast(Rest, self), M5, clock=self.now,
            say=lambda event, fields: self.said.append((event, fields)), halted=self.halts.append,
        )  # fmt: skip

    def now(self) -> int:
        return START - 5_000 + round(trio.current_time() * 1000)

    def take(self, *events: Event) -> None:
        self.tracker.take(Frame(self.now(), None, list(events)), trio.current_time())

    def trade(self, native: str, *, heard: bool = True, snapshot: bool = False) -> None:
        """One trade of one unit."""
        slot = M5.floor(self.now())
        self.volume[native, slot] = self.volume.get((native, slot), 0) + 1
        self.number[native] = self.number.get(native, 0) + 1
        self.times[native].append(self.now())
        if heard:
            trade = Trade(self.number[native], 100.0, Decimal(1), self.now())
            self.take(Trades(native, [trade], snapshot))

    def events(self) -> list[str]:
        return [event for event, _ in self.said]

    async def candles(
        self, native: str, timeframe: Timeframe, first: int, last: int, lane: Lane
    ) -> tuple[Sequence[Row], int]:
        """As :class:`Rest`."""
        self.asked.append((trio.current_time(), native, lane))
        self.was_asked.set()
        await trio.lowlevel.checkpoint()
        await trio.sleep(self.seconds)
        if self.problem is not None:
            raise self.problem
        if native in self.broken:
            raise RestError("404")
        shown = [(slot, volume) for (n, slot), volume in self.volume.items() if n == native]
        return [
            Row(slot, 100.0, 100.0, 100.0, 100.0, float(volume))
            for slot, volume in sorted(shown)
            if first <= slot <= last
        ], self.now()


@pytest.fixture
def market(autojump_clock: MockClock) -> Iterator[Market]:
    series = [(native, Series("coinbase", native, M5)) for native in NATIVES]
    tracker = Tracker(series, settle=COINBASE.settle, sample_lag=COINBASE.sample_lag)
    yield Market(tracker, Health("coinbase/1", len(NATIVES), State.LIVE), Replaced())


def begin(market: Market, natives: Sequence[str] = NATIVES) -> None:
    market.tracker.connected(trio.current_time())
    market.take(Heartbeat(1))
    market.tracker.acknowledged(natives, trio.current_time())


async def trading(
    market: Market, seconds: float, *, mute: Sequence[str] = (), quiet: Sequence[str] = ()
) -> None:
    """Every symbol trades twice a second and is sampled; the mute ones are not heard."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(market.liveness.run)
        for step in range(int(seconds * 2)):
            for native in NATIVES:
                if native not in quiet:
                    market.trade(native, heard=native not in mute)
                    if step % 20 == 0 and native not in mute:
                        market.take(sample(native, market.now()))
            market.take(Heartbeat(step))
            await trio.sleep(0.5)
        for native in NATIVES:
            if native not in mute:
                market.take(sample(native, market.now()))
        nursery.cancel_scope.cancel()


def sample(native: str, now: int) -> Sample:
    return Sample(native, M5.floor(now), 100.0, 100.0, 100.0, 100.0, 0.5)


async def test_one_mute_symbol_among_many_is_noticed_within_30_seconds(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        assert market.asked == []
        muted_at = trio.current_time()
        await trading(market, 30, mute=[BTC])
    assert {native for _, native, _ in market.asked} == {BTC}
    assert market.asked[0][0] - muted_at <= 13
    assert market.connection.reasons == [
        "coinbase/1: REST shows trades of S0-USD that did not arrive"
    ]
    assert market.events() == ["a symbol is mute"]
    assert market.health.mute == {BTC}


async def test_nothing_of_a_mute_symbol_is_closed_by_the_clock(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 250)
        await trading(market, 100, mute=[BTC])  # across the end of a slot
        closed = {series.symbol for series in market.tracker.pending.closes}
        missing = [one.series.symbol for one in market.tracker.pending.missing.values()]
    assert ETH in closed
    assert BTC not in closed
    assert missing.count(BTC) >= 1


async def test_what_was_closed_while_nobody_knew_is_suspect(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 300)
        await trading(market, 30, mute=[BTC])  # mute from 5 s before the end of the slot
        suspects = list(market.tracker.pending.suspects.values())
    assert [(one.series.symbol, one.cause) for one in suspects if one.series.symbol == BTC] == [
        (BTC, "its trades do not arrive")
    ]


async def test_a_quiet_symbol_costs_a_request_now_and_then_and_no_connection(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        await trading(market, 400, quiet=[BTC])
    assert market.connection.reasons == []
    assert market.health.mute == frozenset()
    assert 3 <= len(market.asked) <= 6  # after 10, 20, 40 … seconds
    apart = [later[0] - one[0] for one, later in itertools.pairwise(market.asked)]
    assert apart == sorted(apart)


async def test_a_symbol_that_always_was_slow_is_not_asked_about(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        for _ in range(10):
            market.trade(BTC)
            market.take(sample(BTC, market.now()))
            await trading(market, 50, quiet=[BTC])
        asked = len(market.asked)
        market.trade(BTC)
        market.take(sample(BTC, market.now()))
        await trading(market, 100, quiet=[BTC])
        assert len(market.asked) == asked


async def test_a_market_that_is_quiet_as_a_whole_causes_no_reconnect_and_no_storm(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        await trading(market, 300, quiet=NATIVES)
    assert market.connection.reasons == []
    assert len(market.asked) <= 6 * len(NATIVES) < 300 / 2 * PROBES  # after 10, 20, 40 … seconds


async def test_when_all_are_mute_the_first_answer_replaces_the_connection(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        muted_at = trio.current_time()
        await trading(market, 25, mute=NATIVES)
    assert len(market.connection.reasons) == 1
    assert market.asked[0][0] - muted_at <= 13


async def test_what_arrives_late_is_not_mute(market: Market, autojump_clock: MockClock):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(market.liveness.run)
            market.trade(BTC, heard=False)
            await market.was_asked.wait()
            trade = Trade(market.number[BTC], 100.0, Decimal(1), market.now())
            market.take(Trades(BTC, [trade]))
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
    assert market.connection.reasons == []
    assert market.health.mute == frozenset()


async def test_tickers_do_not_keep_a_dead_trade_channel_alive(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        muted_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(market.liveness.run)
            for _ in range(40):
                market.trade(BTC, heard=False)
                market.take(Ticker(BTC, 100.0, market.now()))
                await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
    assert market.connection.reasons
    first = next(at for at, native, _ in market.asked if native == BTC)
    assert first - muted_at <= 8


async def test_a_starved_candle_channel_is_told_and_costs_no_connection(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(market.liveness.run)
            for step in range(90):
                for native in NATIVES:
                    market.trade(native)
                    if native != BTC and step % 10 == 0:
                        market.take(sample(native, market.now()))
                await trio.sleep(0.5)
            assert market.health.starved == {BTC}
            market.take(sample(BTC, market.now()))
            await trio.sleep(3)
            assert market.health.starved == frozenset()
            nursery.cancel_scope.cancel()
    assert market.events() == ["the candle channel is starved"]
    assert market.connection.reasons == []


async def test_replacements_of_a_symbol_that_stays_mute_grow_apart(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(100_000):
        begin(market)
        await trading(market, 100)
        await trading(market, 600, mute=[BTC])
    moments = market.connection.moments
    apart = [later - one for one, later in itertools.pairwise(moments)]
    assert len(moments) >= 3
    assert apart[0] >= 60
    assert apart[1] >= 120
    assert market.events().count("a symbol is mute") == 1


async def test_a_symbol_that_was_mute_is_not_taken_for_a_slow_one(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        await trading(market, 60, mute=[BTC])
        await trading(market, 60)
        silences = {one.native: one for one in market.tracker.silences(trio.current_time())}
        assert silences[BTC].usual < 2


async def test_it_is_mute_until_it_speaks_not_until_a_snapshot(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        await trading(market, 30, mute=[BTC])
        market.tracker.lost()
        begin(market)
        market.trade(BTC, snapshot=True)
        await trading(market, 5, mute=[BTC])
        assert market.health.mute == {BTC}
        await trading(market, 5)
        assert market.health.mute == frozenset()
    assert market.events()[-1] == "a mute symbol speaks again"


async def test_a_symbol_that_never_said_anything_is_found_by_what_rest_shows_grow(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        market.tracker.connected(trio.current_time())
        market.tracker.clock.hear(market.now(), trio.current_time())
        begin(market)
        await trading(market, 35, mute=[BTC])
    assert market.connection.reasons


async def test_a_rest_that_fails_says_nothing(market: Market, autojump_clock: MockClock):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        market.problem = RestError("503")
        await trading(market, 30, mute=[BTC])
        assert market.connection.reasons == []
        market.problem = None
        await trading(market, 10, mute=[BTC])
    assert market.connection.reasons


def unheard(market: Market) -> float | None:
    """Since when nothing arrives, while REST does not say why."""
    return market.health.unheard_since


async def test_where_nothing_arrives_and_rest_does_not_answer_we_are_blind(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        market.problem = RestError("503")
        heard = market.tracker.fed_at
        await trading(market, 55, mute=NATIVES)
        assert unheard(market) is None, "a moment ago data came"
        await trading(market, 20, mute=NATIVES)
        assert unheard(market) == heard
        assert market.connection.reasons == [], "a new socket is no answer"
        market.tracker.pending.closes.clear()
        market.tracker.pending.missing.clear()
        await trading(market, 300, mute=NATIVES)  # over the end of a slot
        assert not market.tracker.pending.closes, "nothing is assumed"
        assert market.tracker.pending.missing
        await trading(market, 5)
        assert unheard(market) is None
        await trading(market, 450)
        closed = market.tracker.pending.closes
        assert [set(slots) for slots in closed.values()] == [{START + 2 * M5.ms}] * len(NATIVES)


async def test_who_is_quiet_after_we_were_blind_is_closed_by_the_clock_again(
    market: Market, autojump_clock: MockClock
):
    quiet = NATIVES[1:]
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        market.problem = RestError("503")
        await trading(market, 100, mute=NATIVES, quiet=NATIVES)
        assert unheard(market) is not None
        await trading(market, 10, quiet=quiet, mute=quiet)
        assert unheard(market) is None
        market.problem = None
        pending = market.tracker.pending
        await trading(market, 120, quiet=quiet, mute=quiet)  # over the end of what was doubted
        pending.closes.clear()
        pending.missing.clear()
        for native in NATIVES:  # REST has shown it, it is stored
            market.tracker.learn(
                Candle(
                    Series("coinbase", native, M5), START, 100.0, 100.0, 100.0, 100.0, 1.0,
                    evidence=Evidence.REST, as_of=START + M5.ms,
                )
            )  # fmt: skip
        await trading(market, 620, quiet=quiet, mute=quiet)
    slots = {START + M5.ms, START + 2 * M5.ms}
    assert [set(closed) for closed in pending.closes.values()] == [slots] * len(NATIVES)
    assert not pending.missing


async def test_a_rest_that_never_answers_vouches_for_nobody(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        market.seconds = 1e6
        await trading(market, 120, mute=NATIVES)
        assert unheard(market) is not None


async def test_who_is_unheard_and_found_mute_is_replaced_once_rest_says_so(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        market.problem = RestError("503")
        await trading(market, 100, mute=NATIVES)
        market.problem = None
        await trading(market, 30, mute=NATIVES)
        assert unheard(market) is None
        assert market.health.mute
    assert market.connection.reasons


async def test_a_quiet_market_is_not_unheard_while_rest_answers_or_failed_once(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unheard_never, market)
            await trading(market, 310, quiet=NATIVES, mute=NATIVES)
            before = len(market.asked)
            market.problem = RestError("503")
            await trading(market, 28, quiet=NATIVES, mute=NATIVES)
            assert len(market.asked) > before
            market.problem = None
            await trading(market, 100, quiet=NATIVES)
            nursery.cancel_scope.cancel()


async def test_a_slow_market_is_not_unheard_within_its_own_pace(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(100_000):
        begin(market)
        for _ in range(8):  # a trade of every symbol in 100 s is what is usual here
            for native in NATIVES:
                market.trade(native)
            await trading(market, 100, quiet=NATIVES)
        market.problem = RestError("503")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unheard_never, market)
            await trading(market, 190, quiet=NATIVES)
            nursery.cancel_scope.cancel()


async def test_a_request_in_vain_of_an_earlier_silence_proves_nothing(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(100_000):
        begin(market)
        for _ in range(4):
            for native in NATIVES:
                market.trade(native)
            await trading(market, 100, quiet=NATIVES)
        market.problem = RestError("503")
        before = market.liveness.probes
        await trading(market, 310, quiet=NATIVES, mute=NATIVES)
        assert market.liveness.probes > before
        await trading(market, 5)
        assert unheard(market) is None
        market.problem = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unheard_never, market)
            await trading(market, 1100, quiet=NATIVES, mute=NATIVES)
            nursery.cancel_scope.cancel()


async def test_a_slow_connection_beside_one_that_is_unheard_is_not_unheard(
    market: Market, autojump_clock: MockClock
):
    series = [("SLOW-USD", Series("coinbase", "SLOW-USD", M5))]
    slow = Market(
        Tracker(series, settle=COINBASE.settle, sample_lag=COINBASE.sample_lag),
        Health("coinbase/2", 1, State.LIVE),
        Replaced(),
    )
    with trio.fail_after(10_000):
        begin(market)
        begin(slow, ["SLOW-USD"])
        times = (slow.now() - 300_000, slow.now())
        trades = [Trade(id_, 100.0, Decimal(1), time) for id_, time in enumerate(times, start=1)]
        slow.take(Trades("SLOW-USD", trades, snapshot=True))
        market.liveness.shards += slow.liveness.shards
        await trading(market, 30)
        market.problem = RestError("503")
        await trading(market, 400, mute=NATIVES)
    assert unheard(market) is not None
    assert unheard(slow) is None


async def test_a_candle_channel_that_tells_every_close_is_heard(
    market: Market, autojump_clock: MockClock
):
    market.problem = RestError("503")
    with trio.fail_after(100_000):
        market.tracker.connected(trio.current_time())
        market.tracker.clock.hear(market.now(), trio.current_time())
        begin(market)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unheard_never, market)
            for _ in range(4):
                market.take(sample(BTC, market.now()))
                await trading(market, 300, quiet=NATIVES, mute=NATIVES)
            nursery.cancel_scope.cancel()
        await trading(market, 120, quiet=NATIVES, mute=NATIVES)
        assert unheard(market) is not None


async def unheard_never(market: Market) -> None:
    while True:
        assert unheard(market) is None
        await trio.sleep(1)


async def test_symbols_that_rest_does_not_answer_for_keep_no_other_from_its_turn(
    market: Market, autojump_clock: MockClock
):
    market.broken = frozenset(NATIVES[5:9])
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        await trading(market, 60, quiet=NATIVES[5:9])
        await trading(market, 30, quiet=NATIVES[5:9], mute=[BTC])
        assert market.health.mute == {BTC}


async def test_a_rest_that_never_answers_stops_neither_halts_nor_their_end(
    market: Market, autojump_clock: MockClock
):
    market.seconds = 1e6
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 60)
        await trading(market, HALTED / 1000 + 60, quiet=NATIVES)
        assert market.halts == [True]
        await trading(market, 60)
    assert market.halts == [True, False]


async def test_a_reconnect_during_a_halt_is_not_its_end(market: Market, autojump_clock: MockClock):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 60)
        last = Trade(market.number[BTC], 100.0, Decimal(1), market.now() - 500)
        await trading(market, HALTED / 1000 + 30, quiet=NATIVES)
        assert market.halts == [True]
        market.tracker.lost()
        begin(market)
        market.take(Trades(BTC, [last], snapshot=True))
        await trading(market, 30, quiet=NATIVES)
        assert market.halts == [True]
        await trading(market, 5)
    assert market.halts == [True, False]


async def test_a_symbol_served_after_all_closes_nothing_of_what_nobody_saw(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 10)
        market.tracker.ignore(BTC)
        await trading(market, 400, mute=[BTC])
        market.tracker.acknowledged([BTC], trio.current_time())
        pending = market.tracker.pending
        pending.closes.clear()
        pending.missing.clear()
        await trading(market, 550, quiet=[BTC])
    assert BTC not in {series.symbol for series in pending.closes}
    missing = [one.open_time for one in pending.missing.values() if one.series.symbol == BTC]
    assert missing[0] == START + M5.ms, "the slot in which it was served again"


async def test_where_nothing_is_served_nothing_is_halted(market: Market, autojump_clock: MockClock):
    with trio.fail_after(10_000):
        begin(market)
        for native in NATIVES:
            market.tracker.ignore(native)
        await trading(market, 1000, quiet=NATIVES)
    assert market.halts == []


async def test_a_mute_symbol_that_a_snapshot_healed_is_not_mute_until_its_next_trade(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 100)
        await trading(market, 20, mute=[BTC])
        assert market.health.mute == {BTC}
        market.tracker.lost()
        begin(market)
        trades = [
            Trade(number, 100.0, Decimal(1), time)
            for number, time in enumerate(market.times[BTC], start=1)
        ]
        market.take(Trades(BTC, trades, snapshot=True))
        await trading(market, 40, quiet=[BTC])
        assert market.health.mute == frozenset()


async def test_ten_minutes_without_any_trade_are_a_halt(market: Market, autojump_clock: MockClock):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 60)
        last = market.now()
        await trading(market, HALTED / 1000 - 20, quiet=NATIVES)
        assert market.halts == []
        await trading(market, 30, quiet=NATIVES)
        assert market.halts == [True]
        assert abs((market.liveness.halted_since or 0) - last) < 2_000
        pending = market.tracker.pending
        pending.closes.clear()
        pending.missing.clear()
        await trading(market, 320, quiet=NATIVES)
        assert not pending.closes  # nothing is assumed
        assert {one.cause for one in pending.missing.values()} == {"nothing trades"}
        await trading(market, 5)
    assert market.halts == [True, False]
    assert market.events() == ["the exchange is halted", "the exchange trades again"]


async def test_without_a_live_connection_silence_is_no_halt(
    market: Market, autojump_clock: MockClock
):
    with trio.fail_after(10_000):
        begin(market)
        await trading(market, 60)
        market.health.state = State.WAITING
        await trading(market, 1000, quiet=NATIVES)
        market.health.state = State.LIVE
        await trading(market, 100, quiet=NATIVES)
    assert market.halts == []
