"""MACD-V against a second implementation, written straight from the definition in Decimal."""

import itertools
import math
from decimal import Decimal, localcontext
from random import Random

import msgspec
import numpy as np
import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from livermore.errors import MalformedMessage
from livermore.signals.macdv import Steps, advance, replay
from livermore.signals.state import Ints, State, States, decode_state

TF = 300_000
START = 1_700_000_100_000


@frozen
class Bar:
    open_time: int
    high: float
    low: float
    close: float
    empty: bool


@frozen
class Expected:
    ema12: Decimal | None
    ema26: Decimal | None
    atr26: Decimal | None
    macdv: Decimal | None
    signal: Decimal | None
    observed: int
    gap_time: int


def ema(numbers: list[Decimal], n: int) -> list[Decimal | None]:
    if len(numbers) < n:
        return [None] * len(numbers)
    line: list[Decimal] = [sum(numbers[:n], Decimal(0)) / n]
    for number in numbers[n:]:
        line.append((2 * number + (n - 1) * line[-1]) / (n + 1))
    return [None] * (n - 1) + line


def wilder(numbers: list[Decimal], n: int) -> list[Decimal | None]:
    if len(numbers) < n:
        return [None] * len(numbers)
    line: list[Decimal] = [sum(numbers[:n], Decimal(0)) / n]
    for number in numbers[n:]:
        line.append(((n - 1) * line[-1] + number) / n)
    return [None] * (n - 1) + line


def reference(bars: list[Bar], tf: int = TF) -> list[Expected]:
    with localcontext() as context:
        context.prec = 50
        closes = [Decimal(bar.close) for bar in bars]
        fast, slow = ema(closes, 12), ema(closes, 26)
        ranges = []
        for i, bar in enumerate(bars):
            high, low = Decimal(bar.high), Decimal(bar.low)
            reach = [high - low]
            if i:
                reach += [abs(high - closes[i - 1]), abs(low - closes[i - 1])]
            if not bar.empty:
                ranges.append(max(reach))
        wild = wilder(ranges, 26)
        observed = list(itertools.accumulate(not bar.empty for bar in bars))
        atr = [wild[n - 1] if n else None for n in observed]
        macdv: list[Decimal | None] = []
        for i, close in enumerate(closes):
            a, b, volatility = fast[i], slow[i], atr[i]
            if (
                a is None
                or b is None
                or volatility is None
                or volatility <= Decimal("1e-11") * close
            ):
                macdv.append(None)
            else:
                macdv.append(100 * (a - b) / volatility)
        line = ema([v for v in macdv if v is not None], 9)
        signal: list[Decimal | None] = []
        seen = 0
        for v in macdv:
            seen += v is not None
            signal.append(line[seen - 1] if seen else None)
        gaps, gap = [], 0
        for i, bar in enumerate(bars):
            if i and bar.open_time != bars[i - 1].open_time + tf:
                gap = bar.open_time - tf
            gaps.append(gap)
        columns = zip(fast, slow, atr, macdv, signal, observed, gaps, strict=True)
        return [Expected(*row) for row in columns]


def near(number: float | None, expected: Decimal | None, tolerance: float) -> bool:
    if number is None or expected is None:
        return number is None and expected is None
    return abs(Decimal(number) - expected) <= Decimal(tolerance)


@st.composite
def bars(draw, longest: int = 140) -> list[Bar]:
    """A random walk in ticks, with empty candles, missing slots and a start without volatility."""
    random = Random(draw(st.integers(0, 2**32)))
    tick = draw(st.sampled_from([1e-8, 0.01, 250.0]))
    swing = draw(st.sampled_from([0, 1, 40]))
    quiet = draw(st.sampled_from([0, 0, 40]))
    empties = draw(st.sampled_from([0, 0.1, 0.5, 0.9]))
    holes = draw(st.sampled_from([0, 0.02, 0.3]))
    level, open_time, series = 1000, START, []
    for i in range(draw(st.integers(0, longest))):
        if random.random() < holes:
            open_time += TF * random.randint(1, 200)
        reach = 0 if i < quiet else swing
        if empty := random.random() < empties:
            high = low = level
        else:
            level = max(100, level + random.randint(-reach, reach))
            high, low = level + random.randint(0, reach), level - random.randint(0, reach)
        series.append(Bar(open_time, high * tick, low * tick, level * tick, empty))
        open_time += TF
    return series


def shifted(series: list[Bar], tf: int) -> list[Bar]:
    """The same candles on the grid of another timeframe."""
    return [
        Bar(START + (bar.open_time - START) // TF * tf, bar.high, bar.low, bar.close, bar.empty)
        for bar in series
    ]


def give(states: States, rows: list[int], candles: list[Bar], tf: int = TF) -> None:
    advance(
        states,
        np.array(rows, np.int64),
        np.array([bar.open_time for bar in candles], np.int64),
        np.array([bar.high for bar in candles], np.float64),
        np.array([bar.low for bar in candles], np.float64),
        np.array([bar.close for bar in candles], np.float64),
        np.array([bar.empty for bar in candles], np.bool_),
        tf,
    )


def one_by_one(series: list[Bar]) -> list[State]:
    states, passed = States.fresh(1), []
    for bar in series:
        give(states, [0], [bar])
        passed.append(states.state(0))
    return passed


def go(states: States, rows: Ints, many: list[list[Bar]], tf_ms: int | Ints = TF) -> Steps:
    """Replay series side by side, padded at the end with what must never be looked at."""
    shape = (max(map(len, many), default=0), len(many))
    present = np.zeros(shape, np.bool_)
    open_time, empty = np.full(shape, -1), np.zeros(shape, np.bool_)
    high, low, close = (np.full(shape, math.inf) for _ in range(3))
    for k, series in enumerate(many):
        for t, bar in enumerate(series):
            present[t, k], open_time[t, k], empty[t, k] = True, bar.open_time, bar.empty
            high[t, k], low[t, k], close[t, k] = bar.high, bar.low, bar.close
    whole = None if present.all() else present
    return replay(states, rows, open_time, high, low, close, empty, tf_ms, whole)


def ramp(n: int, empty: range = range(0)) -> list[Bar]:
    """A dense series that moves in every candle."""
    closes = [100 + 3 * math.sin(i / 5) for i in range(n)]
    return [
        Bar(START + i * TF, c, c, c, True)
        if i in empty
        else Bar(START + i * TF, c + 1, c - 1, c, False)
        for i, c in enumerate(closes)
    ]


@given(bars())
@settings(max_examples=150)
def test_every_number_is_that_of_the_definition(series):
    calm = cross = 0
    for i, (state, expected) in enumerate(zip(one_by_one(series), reference(series), strict=True)):
        price = series[i].close + 40 * abs(series[i].high - series[i].low)
        assert near(state.ema12, expected.ema12, 1e-12 * price)
        assert near(state.ema26, expected.ema26, 1e-12 * price)
        assert near(state.atr26, expected.atr26, 1e-12 * price)
        scale = price / float(expected.atr26) if expected.atr26 else 0
        assert near(state.macdv, expected.macdv, 1e-12 * scale + 1e-12)
        assert near(state.signal, expected.signal, 1e-11 * scale + 1e-9)
        assert (state.count, state.observed) == (i + 1, expected.observed)
        assert (state.open_time, state.gap_time) == (series[i].open_time, expected.gap_time)
        calm = calm + 1 if state.macdv is not None and abs(state.macdv) < 50 else 0
        assert state.calm == calm
        if state.macdv is not None and state.signal is not None:
            side = 1 if state.macdv >= state.signal else -1
            cross = cross + side if cross * side > 0 else side
        assert state.cross == cross  # an undefined value changes no side


@given(st.lists(bars(), min_size=1, max_size=5), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_grouping_and_restarts_do_not_change_a_bit(many, seed):
    """Turns of random series in random order, some of them saved and restored elsewhere between."""
    random = Random(seed)
    states = States.fresh(0)
    home = [int(states.extend(1)[0]) for _ in many]
    done = [0] * len(many)
    while left := [k for k, series in enumerate(many) if done[k] < len(series)]:
        turn = random.sample(left, random.randint(1, len(left)))
        give(states, [home[k] for k in turn], [many[k][done[k]] for k in turn])
        for k in turn:
            done[k] += 1
        if random.random() < 0.1:
            k = random.randrange(len(many))
            saved = states.to_json(home[k])
            home[k] = int(states.extend(random.randint(1, 3))[0])
            states.put(np.array([home[k]]), from_json(saved))
            assert states.to_json(home[k]) == saved
    for k, series in enumerate(many):
        alone = one_by_one(series)
        assert states.state(home[k]) == (alone[-1] if alone else States.fresh(1).state(0))


@given(st.lists(bars(), min_size=1, max_size=5), st.integers(0, 140))
@settings(max_examples=80, deadline=None)
def test_a_replay_from_anywhere_is_the_same_as_one_candle_at_a_time(many, start):
    alone = [one_by_one(series) for series in many]
    states = States.fresh(len(many) + 2)
    rows = np.arange(len(many))[::-1] + 1
    for series, row in zip(many, rows, strict=True):
        for bar in series[:start]:
            give(states, [int(row)], [bar])
    steps = go(states, rows, [series[start:] for series in many])
    for k, passed in enumerate(alone):
        assert states.state(int(rows[k])) == (passed[-1] if passed else States.fresh(1).state(0))
        for t, state in enumerate(passed[start:]):
            for name in ("ema12", "ema26", "atr26", "macdv", "signal"):
                number = float(getattr(steps, name)[t, k])
                assert (None if math.isnan(number) else number) == getattr(state, name)
            assert steps.calm[t, k] == state.calm
            if state.signal is not None and state.macdv is not None:
                assert steps.histogram[t, k] == state.macdv - state.signal
        present = np.arange(steps.calm.shape[0])[:, None] < [len(x[start:]) for x in many]
        assert steps.course(k, present).values() == passed[start:]
    for untouched in (0, len(many) + 1):
        assert states.state(untouched).count == 0


def test_the_first_numbers_come_at_their_index_and_nothing_before():
    passed = one_by_one(ramp(40))
    for name, first in {"ema12": 11, "ema26": 25, "atr26": 25, "macdv": 25, "signal": 33}.items():
        assert [getattr(state, name) is None for state in passed] == [i < first for i in range(40)]


def test_empty_candles_enter_the_averages_and_not_the_range():
    passed = one_by_one(ramp(80, empty=range(50, 60)))
    assert {state.atr26 for state in passed[49:60]} == {passed[49].atr26}
    assert len({state.ema12 for state in passed[49:60]}) == 11
    assert (passed[59].count, passed[59].observed) == (60, 50)


def test_a_series_may_begin_with_an_empty_candle():
    series = ramp(30, empty=range(1))
    passed = one_by_one(series)
    assert passed[0].observed == 0
    assert passed[25].atr26 is None
    assert passed[26].atr26 is not None
    assert near(passed[26].atr26, reference(series)[26].atr26, 1e-12)


def test_without_volatility_there_is_no_macdv_and_the_signal_stands_still():
    flat = [Bar(START + i * TF, 1.0, 1.0, 1.0, False) for i in range(40)]
    moved = [Bar(START + i * TF, 1.1, 1.0, 1.1, False) for i in range(40, 60)]
    passed = one_by_one(flat + moved)
    assert {(s.atr26, s.macdv, s.signal, s.calm) for s in passed[25:40]} == {(0.0, None, None, 0)}
    assert [s.macdv is None for s in passed[39:42]] == [True, False, False]
    assert [s.signal is None for s in passed[47:49]] == [True, False]


def test_rounding_is_not_shown_as_momentum_when_a_price_stands_still():
    """A stablecoin that trades at one price: the EMAs rest a few ulps apart, the ATR vanishes."""
    series = [Bar(START + i * TF, 1.0003, 0.9991, 0.9996 + i * 1e-5, False) for i in range(60)]
    for i in range(60, 2500):
        series.append(Bar(START + i * TF, 1.0001, 1.0001, 1.0001, False))
    passed, expected = one_by_one(series), reference(series)
    for state, right in zip(passed[100:], expected[100:], strict=True):
        assert state.macdv is None or abs(state.macdv - float(right.macdv or 0)) < 0.02
    still = [s for s in passed if s.count > 1500]
    assert {(s.macdv, s.signal, s.calm) for s in still} == {(None, still[0].signal, 0)}
    assert still[0].signal is not None


def test_the_signal_stands_still_also_right_after_its_seed():
    seeded = one_by_one(ramp(34))[-1]
    assert (seeded.values, seeded.macdv_sum) == (9, 0.0)
    faint = msgspec.structs.replace(seeded, close=1.0, ema12=1.0, ema26=1.0, atr26=1.01e-11)
    states = States.of([faint])
    give(states, [0], [Bar(faint.open_time + TF, 1.0, 1.0, 1.0, False)])
    after = states.state(0)
    assert (after.macdv, after.signal, after.values) == (None, seeded.signal, 9)


def test_calm_closes_are_counted_in_a_row():
    series = [Bar(START + i * TF, 101.0, 99.0, 100.0, False) for i in range(60)]
    series += [Bar(START + i * TF, 5.0 * i, 4.9 * i, 5.0 * i, False) for i in range(60, 70)]
    passed = one_by_one(series)
    assert [s.calm for s in passed[24:60]] == list(range(36))
    assert passed[-1].calm == 0


def test_the_newest_missing_slot_is_remembered():
    series = ramp(10)
    late = [Bar(b.open_time + 3 * TF, b.high, b.low, b.close, b.empty) for b in series[5:]]
    passed = one_by_one(series[:5] + late)
    assert [s.gap_time for s in passed] == [0] * 5 + [late[0].open_time - TF] * 5


def test_timeframes_may_differ_within_a_batch():
    states = States.fresh(2)
    for i in range(3):
        at = np.array([START + i * TF, START + i * 3 * TF])
        one = np.ones(2)
        advance(
            states, np.arange(2), at, one, one, one, np.zeros(2, np.bool_), np.array([TF, 3 * TF])
        )
    assert states.column("gap_time").tolist() == [0, 0]


@given(
    st.lists(st.tuples(bars(60), st.sampled_from([TF, 3 * TF, 12 * TF])), min_size=1, max_size=4)
)
@settings(max_examples=40, deadline=None)
def test_timeframes_may_differ_within_a_replay(many):
    states = States.fresh(len(many))
    series = [shifted(one, tf) for one, tf in many]
    go(states, np.arange(len(many)), series, np.array([tf for _, tf in many]))
    for k, (one, tf) in enumerate(many):
        assert states.column("gap_time")[k] == (reference(series[k], tf)[-1].gap_time if one else 0)


@pytest.mark.parametrize("open_time", [START + 9 * TF, START + 8 * TF, 0])
def test_a_candle_that_is_not_newer_is_refused_and_changes_nothing(open_time):
    states = States.fresh(2)
    for bar in ramp(10):
        give(states, [0, 1], [bar, bar])
    before = [states.to_json(0), states.to_json(1)]
    late = Bar(open_time, 1.0, 1.0, 1.0, False)
    with pytest.raises(ValueError, match="not later"):
        give(states, [0, 1], [ramp(11)[10], late])
    with pytest.raises(ValueError, match="not later"):
        go(states, np.arange(2), [ramp(12)[10:], [ramp(11)[10], late]])
    assert [states.to_json(0), states.to_json(1)] == before


def test_a_row_may_not_occur_twice():
    states, (bar, after) = States.fresh(3), ramp(2)
    with pytest.raises(ValueError, match="twice"):
        give(states, [1, 2, 1], [bar, bar, after])
    with pytest.raises(ValueError, match="twice"):
        go(states, np.array([1, 1]), [[bar], [after]])
    assert not states.column("count").any()


@pytest.mark.parametrize("row", [-1, 3, 100])
def test_a_row_that_is_not_there_is_refused(row):
    states = States.fresh(0)
    states.extend(2)
    states.extend(1)
    with pytest.raises(IndexError):
        give(states, [row], ramp(1))
    with pytest.raises(IndexError):
        states.state(row)
    with pytest.raises(IndexError):
        states.put(np.array([row]), States.fresh(1))


def test_as_many_states_as_rows_are_put():
    with pytest.raises(ValueError, match="2 states for 1 rows"):
        States.fresh(3).put(np.array([1]), States.fresh(2))


def test_no_candles_at_all_are_no_error():
    states = States.fresh(2)
    give(states, [], [])
    go(states, np.arange(2), [[], []])
    assert states.values() == States.fresh(2).values()


def test_added_series_leave_the_others_alone():
    states = States.fresh(1)
    for bar in ramp(30):
        give(states, [0], [bar])
    before = states.to_json(0)
    added = np.concatenate([states.extend(k) for k in (1, 1, 5, 40)])
    assert added.tolist() == list(range(1, 48))
    assert len(states) == 48
    assert states.to_json(0) == before
    assert {states.to_json(int(row)) for row in added} == {States.fresh(1).to_json(0)}


def test_room_for_more_series_grows_by_doubling():
    states = States.fresh(8)
    states.extend(1)
    grown = states.column("count")
    states.extend(7)
    assert np.shares_memory(grown, states.column("count"))
    states.extend(1)
    assert not np.shares_memory(grown, states.column("count"))


def test_taken_rows_are_a_copy():
    states = States.fresh(3)
    taken = states.take(np.array([2, 0]))
    give(taken, [0], ramp(1))
    assert not states.column("count").any()
    states.put(np.array([2, 0]), taken)
    assert states.column("count").tolist() == [0, 0, 1]


@given(bars(), st.data())
@settings(max_examples=50)
def test_values_and_rows_are_the_same_thing(series, data):
    passed = one_by_one(series)
    some = data.draw(st.lists(st.sampled_from(passed), max_size=6)) if passed else []
    assert States.of(some).values() == some


@given(st.data())
def test_a_damaged_state_is_refused_or_sound(data):
    bar = ramp(1)[0]
    text = bytearray(state_json := restored(ramp(data.draw(st.sampled_from([0, 5, 20, 30, 70])))))
    assert from_json(state_json).to_json(0) == state_json
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        states = from_json(bytes(text))
    except MalformedMessage:
        return
    assert from_json(states.to_json(0)).state(0) == states.state(0)
    give(states, [0], [Bar(2**62, bar.high, bar.low, bar.close, False)])


def from_json(data: bytes) -> States:
    return States.of([decode_state(data)])


def restored(series: list[Bar]) -> bytes:
    states = States.fresh(1)
    for bar in series:
        give(states, [0], [bar])
    return states.to_json(0)


@pytest.mark.parametrize(
    "damage",
    [
        {"close": None},
        {"close_sum": None},
        {"ema12": None},
        {"ema26": None},
        {"atr26": None},
        {"atr26": 0.0},
        {"signal": None},
        {"macdv": None},
        {"macdv": 51.0},
        {"calm": 0},
        {"calm": 36},
        {"values": 36},
        {"values": 8},
        {"observed": 25},
        {"observed": 61},
        {"count": 25},
        {"close_sum": 1.0},
        {"range_sum": 1.0},
        {"macdv_sum": 1.0},
        {"gap_time": START + 59 * TF},
        {"gap_time": -1},
        {"open_time": 2**63},
        {"unheard": 1},
    ],
)
def test_a_state_no_candles_lead_to_is_refused(damage):
    sound = msgspec.json.decode(
        restored([Bar(START + i * TF, 101, 99, 100, False) for i in range(60)])
    )
    assert (sound["values"], sound["calm"]) == (35, 35)
    with pytest.raises(MalformedMessage):
        from_json(msgspec.json.encode(sound | damage))


@pytest.mark.parametrize(
    "text", [b"", b"null", b"{}", b"\xff", b'{"ema12":1e999}', b"[" * 5000, b'{"x":' * 5000]
)
def test_what_is_no_state_is_refused(text):
    with pytest.raises(MalformedMessage):
        from_json(text)
    whole = restored(ramp(60)).replace(b'"close":', b'"close":1e999,"was":')
    with pytest.raises(MalformedMessage):
        from_json(whole)
