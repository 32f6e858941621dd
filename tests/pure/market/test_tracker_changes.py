"""What a tracker follows changes while it runs: nothing of the others, and nothing of the past."""

from __future__ import annotations

from decimal import Decimal

import attrs
import msgspec
import pytest

from livermore.errors import MalformedMessage
from livermore.market.candle import Candle, Kind, Series
from livermore.market.events import Event, Frame, Heartbeat, Sample, Ticker, Trade, Trades
from livermore.market.flagged import FlagTracker
from livermore.market.folding import Folder
from livermore.market.recording import Step, play, remember
from livermore.market.rounds import Rounds, period
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import JOINED, Missing, Pending, Suspect, Tracker

MS = Timeframe.M5.ms
T0 = 1_700_000_100_000 // MS * MS
BTC = Series("coinbase", "BTC-USD", Timeframe.M5)
ETH = Series("coinbase", "ETH-USD", Timeframe.M5)
MINE = attrs.evolve(BTC, owner="ann")
CLASSES = (Tracker, FlagTracker)


def new(kind: type[Tracker] = Tracker, *followed: Series) -> Tracker:
    pending = Pending()
    tracker = kind(
        [(one.symbol, one) for one in followed or (BTC,)],
        settle=2_000 if kind is Tracker else 10_000,
        sample_lag=8_000 if kind is Tracker else None,
        pending=pending,
    )
    tracker.clock.hear(T0 - 60_000, 0.0)
    tracker.connected(0.0)
    tracker.acknowledged([one.symbol for one in followed or (BTC,)], 0.0)
    return tracker


def at(time: int) -> float:
    return (time - T0 + 60_000) / 1000


def say(tracker: Tracker, time: int, *events: Event) -> None:
    tracker.take(Frame(time, None, list(events)), at(time))


def trade(number: int, time: int, native: str = "BTC-USD", price: float = 10.0) -> Trades:
    return Trades(native, [Trade(number, price + number, Decimal(1), time)])


def flag(native: str, volume: float = 1.0) -> Sample:
    return Sample(native, T0, 10.0, 10.0, 10.0, 10.0, volume, closed=True)


def shut(tracker: Tracker, series: Series) -> dict[int, Candle]:
    return tracker.pending.closes.get(series, {})


def test_the_first_slot_of_a_new_product_is_joined_in_the_middle_and_the_next_is_whole():
    tracker = new()
    for n, time in enumerate(range(T0 - 50_000, T0 + 2 * MS + 20_001, 10_000)):
        if n == 11:
            tracker.add("ETH-USD", ETH)
            tracker.acknowledged(["ETH-USD"], at(time))
        if n % 10 == 2 and time < T0 + 2 * MS:
            say(tracker, time, trade(n // 10, time, "ETH-USD"), trade(n // 10, time))
        say(tracker, time, Heartbeat(n))
    assert [*shut(tracker, BTC)] == [T0, T0 + MS]
    assert [*shut(tracker, ETH)] == [T0 + MS]
    missing = [one for one in tracker.pending.missing.values() if one.open_time >= T0]
    assert [(one.series, one.open_time, one.cause) for one in missing] == [(ETH, T0, JOINED)]


@pytest.mark.parametrize("kind", CLASSES)
def test_the_running_slot_is_the_first_of_a_new_product_also_where_nothing_of_it_is_heard(
    kind: type[Tracker],
):
    tracker = new(kind)
    say(tracker, T0 + 60_000, Heartbeat(1))
    tracker.add("ETH-USD", ETH)
    say(tracker, T0 + 61_000, Heartbeat(2))
    say(tracker, T0 + MS + 30_000, Heartbeat(3))
    missing = [one.open_time for one in tracker.pending.missing.values() if one.series == ETH]
    assert missing == [T0]


@pytest.mark.parametrize("kind", CLASSES)
def test_nothing_of_a_product_that_is_left_waits_or_comes(kind: type[Tracker]):
    tracker = new(kind, BTC, ETH)
    both = ("BTC-USD", "ETH-USD")
    for n, time in enumerate((T0 - 1_000, T0 + 1_000, T0 + MS + 1_000)):
        events = [trade(n + 1, time, native) for native in both]
        say(tracker, time, *events, *(Ticker(native, 9.0, time) for native in both))
    if kind is FlagTracker:
        say(tracker, T0 + MS + 1_000, *map(flag, both))
    pending = tracker.pending
    for one in (BTC, ETH):
        pending.missing[one, T0] = Missing(one, T0, "")
        pending.suspects[one, T0] = Suspect(one, T0, "")
    assert shut(tracker, ETH)
    tracker.forget("ETH-USD")
    assert shut(tracker, BTC)
    for kept in (pending.closes, pending.past, pending.forming):
        assert ETH not in kept
    assert [*pending.tickers] == ["BTC-USD"]
    assert {one for one, _ in [*pending.missing, *pending.suspects]} == {BTC}
    foreign = tracker.counts.foreign
    late = T0 + 2 * MS + 30_000
    say(tracker, late, trade(4, late, "ETH-USD"), Ticker("ETH-USD", 9.0, late), flag("ETH-USD"))
    tracker.acknowledged(["ETH-USD"], at(late))
    tracker.ignore("ETH-USD")
    tracker.doubt("ETH-USD")
    assert tracker.counts.foreign == foreign + 3
    assert ETH not in pending.closes
    assert ETH not in pending.forming
    assert {one for one, _ in pending.missing} == {BTC}
    assert [one.native for one in tracker.silences(at(late))] == ["BTC-USD"]


def test_a_product_that_moves_goes_on_with_all_that_was_heard_of_it():
    tracker, other = new(), new()
    times = (T0 - 30_000, T0 + 1_000, T0 + MS + 1_000, T0 + MS + 90_000, T0 + 2 * MS + 1_000)
    for n, time in enumerate(times):
        if n == 4:
            tracker.move("BTC-USD", MINE)
            assert [*tracker.pending.closes] == [MINE], "what waits is the new one's"
        for one in (tracker, other):
            say(one, time, trade(n + 1, time))
    wanted = {t: attrs.evolve(c, series=MINE) for t, c in shut(other, BTC).items()}
    assert shut(tracker, MINE) == wanted
    assert [*wanted] == [T0, T0 + MS]
    assert BTC not in tracker.pending.closes
    assert BTC not in tracker.pending.forming
    tracker.pending.closes.clear()
    say(tracker, T0 + 2 * MS + 2_000, trade(6, T0 + MS + 299_999))
    assert [*shut(tracker, MINE)] == [T0 + MS], "a late trade belongs to what was closed before"


def test_the_running_children_move_with_their_product():
    folder, other = Folder(), Folder()
    slots = [T0 - T0 % (3 * MS) + n * MS for n in range(3)]
    candles = [Candle(BTC, t, 1.0, 2.0, 1.0, 2.0, 3.0) for t in slots]
    for candle in candles:
        assert bool(other.take(candle)) == (candle is candles[2])
    for candle in candles[:2]:
        folder.take(candle)
    for timeframe in (Timeframe.M15, Timeframe.H1, Timeframe.H4, Timeframe.D1):
        folder.move(attrs.evolve(BTC, timeframe=timeframe), attrs.evolve(MINE, timeframe=timeframe))
    assert not folder.take(candles[2]), "of the old one nothing is kept"
    [parent, *_] = folder.take(attrs.evolve(candles[2], series=MINE))
    assert (parent.series.owner, parent.volume, parent.kind) == ("ann", 9.0, Kind.TRADED)
    for series in (MINE, parent.series):
        folder.forget(series)
    assert not folder.take(attrs.evolve(candles[2], series=MINE))


def read(text: bytes | str) -> Frame:
    try:
        time, native, number = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise MalformedMessage(str(error)) from None
    return Frame(time, None, [trade(number, time, native)])


def test_a_recording_in_which_products_come_and_go_is_lived_again():
    tracker, steps = new(Tracker, BTC, ETH), []
    steps.append(Step(0.0, "state", state=msgspec.Raw(remember(tracker))))

    def witness(what: str, about: object, now: float | None) -> None:
        natives = [about] if isinstance(about, str) else about if isinstance(about, list) else []
        steps.append(Step(heard, what, natives=natives))  # type: ignore[arg-type]

    tracker.witness = witness
    heard = 0.0
    for number, time in enumerate(range(T0 - 20_000, T0 + 5 * MS, 10_000), start=1):
        heard = at(time)
        if number == 40:
            tracker.forget("ETH-USD")
            tracker.add("XRP-USD", attrs.evolve(ETH, symbol="XRP-USD"))
        if number == 41:
            tracker.acknowledged(["XRP-USD"], heard)
        native = ("BTC-USD", "ETH-USD", "XRP-USD")[number % 3]
        text = msgspec.json.encode([time, native, number // 3]).decode()
        steps.append(Step(heard, "frame", text=text))
        tracker.take(read(text), heard)
    steps.append(Step(heard, "state", state=msgspec.Raw(remember(tracker))))
    at_last = Tracker(
        [("BTC-USD", BTC), ("XRP-USD", attrs.evolve(ETH, symbol="XRP-USD"))],
        settle=2_000, sample_lag=8_000,
    )  # fmt: skip
    played = play(at_last, read, steps, "coinbase", Timeframe.M5)
    assert not played.began_without_state
    assert (played.compared, played.differs, played.failures) == (1, [], [])
    assert {one.candle.series.symbol for one in played.closed} == {"BTC-USD", "ETH-USD", "XRP-USD"}


def test_a_series_that_came_has_its_turns_and_one_that_left_has_none():
    rounds = Rounds([BTC], 0.0)
    rounds.add([ETH], 10.0)
    rounds.soon(BTC, 20.0)
    rounds.forget([BTC])
    assert (BTC in rounds, ETH in rounds) == (False, True)
    rounds.soon(BTC, 30.0)
    taken = [rounds.take(float(moment)) for moment in range(int(2 * period(Timeframe.M5)) + 20)]
    assert [one for one in taken if one is not None] == [ETH, ETH]
