import math

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from livermore.errors import MalformedMessage
from livermore.market.timeframe import Timeframe
from livermore.signals.macdv import replay
from livermore.signals.reading import Reading, build_readings, decode_reading, encode_reading
from livermore.signals.stage import stage
from livermore.signals.state import Ints, States

TF = Timeframe.M5
START = 1_767_322_800_000  # 2026-01-02T03:00:00Z
NUMBERS = ("macdv", "signal", "histogram", "stage")


def waves(i: Ints, empty: range, swing: float):
    """High, low, close and empty of the candles with these indices, as columns."""
    close = 100 + swing * np.sin(i / 7)
    nothing = np.isin(i, empty)
    reach = np.where(nothing, 0, swing)
    return (close + reach)[:, None], (close - reach)[:, None], close[:, None], nothing[:, None]


def after(n: int, *, empty: range = range(0), swing: float = 1.0, hole: int | None = None):
    """One series after ``n`` candles; ``hole`` is the index before which one slot is missing."""
    i = np.arange(n)
    slots = i + (0 if hole is None else (i >= hole))
    high, low, close, nothing = waves(i, empty, swing)
    states = States.fresh(1)
    open_time = START + slots[:, None] * TF.ms
    replay(states, np.arange(1), open_time, high, low, close, nothing, TF.ms)
    return states


def read(states: States) -> tuple[Reading, bytes]:
    ((reading, state),) = build_readings(
        states,
        np.arange(1),
        exchange="coinbase",
        epoch=1_700_000_000_123,
        symbols=["BTC-USD"],
        timeframes=[TF],
        revisions=[3],
    )
    return reading, encode_reading(reading, state)


def test_a_reading_carries_values_terms_and_counts():
    states = after(250, empty=range(100, 140))
    reading, _ = read(states)
    state = states.state(0)
    assert reading.withheld is None
    assert (reading.exchange, reading.symbol, reading.timeframe) == ("coinbase", "BTC-USD", TF)
    assert (reading.open_time, reading.revision) == (START + 249 * TF.ms, 3)
    assert reading.epoch == 1_700_000_000_123
    assert (reading.macdv, reading.signal) == (state.macdv, state.signal)
    assert state.macdv is not None
    assert state.signal is not None
    assert reading.histogram == state.macdv - state.signal
    assert reading.stage is stage(state.macdv, state.signal, state.calm)
    terms = (state.ema12, state.ema26, state.atr26, state.close)
    assert (reading.ema12, reading.ema26, reading.atr26, reading.close) == terms
    assert (reading.count, reading.observed, reading.empty) == (250, 210, 40)


def test_warm_means_200_observed_and_not_200_candles():
    assert [read(after(n))[0].warm for n in (199, 200)] == [False, True]
    assert [read(after(n, empty=range(100, 110)))[0].warm for n in (209, 210)] == [False, True]


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        (after(1), "fewer than 60 candles: 1"),
        (after(41), "fewer than 60 candles: 41"),
        (after(59), "fewer than 60 candles: 59"),
        (after(60), None),
        (after(80, empty=range(3, 80)), "fewer than 26 observed candles: 3"),
        (after(80, empty=range(25, 80)), "fewer than 26 observed candles: 25"),
        (after(80, empty=range(26, 72)), None),
        (after(70, empty=range(25, 62)), "fewer than 9 MACD-V values: 8"),
        (after(71, empty=range(25, 62)), None),
        (after(59, hole=1), "fewer than 60 candles: 59"),
        (after(60, hole=1), "missing candle within the last 150: 2026-01-02T03:05:00Z"),
        (after(151, hole=1), "missing candle within the last 150: 2026-01-02T03:05:00Z"),
        (after(152, hole=1), None),
        (after(80, swing=0), "no volatility"),
    ],
)
def test_numbers_are_withheld_with_a_reason_or_all_there(states, reason):
    reading, text = read(states)
    assert reading.withheld == reason
    assert [getattr(reading, name) is None for name in NUMBERS] == [reason is not None] * 4
    document = msgspec.json.decode(text)
    assert document["withheld"] == reason
    assert [document[name] is None for name in NUMBERS] == [reason is not None] * 4
    assert reading.close is not None


def test_the_gate_for_missing_slots_counts_in_the_timeframe_of_the_series():
    states = after(160, hole=1)
    gap = START + TF.ms
    hours = [
        build_readings(
            States.of(
                [msgspec.structs.replace(states.state(0), open_time=gap + k * Timeframe.H4.ms)]
            ),
            np.arange(1),
            exchange="mexc",
            epoch=1,
            symbols=["A-B"],
            timeframes=[Timeframe.H4],
            revisions=[0],
        )[0][0].withheld
        for k in (150, 151)
    ]
    assert hours == ["missing candle within the last 150: 2026-01-02T03:05:00Z", None]


def test_time_may_begin_at_zero():
    states = after(160)
    state = msgspec.structs.replace(states.state(0), open_time=149 * TF.ms)
    assert read(States.of([state]))[0].withheld is None


def test_the_terms_are_told_even_when_the_values_are_withheld():
    reading, _ = read(after(41))
    assert None not in (reading.ema12, reading.ema26, reading.atr26)
    assert (read(after(11))[0].ema12, read(after(25))[0].atr26) == (None, None)


def test_the_text_begins_with_what_the_store_compares():
    text = read(after(100))[1]
    beginning = b'{"open_time":%d,"revision":3,"epoch":1700000000123,"' % (START + 99 * TF.ms)
    assert text.startswith(beginning)
    assert read(after(5))[1].startswith(
        b'{"open_time":%d,"revision":3,"epoch":' % (START + 4 * TF.ms)
    )


def test_readings_come_in_the_order_of_the_rows():
    states = States.fresh(3)
    for row, n in enumerate((70, 5, 300)):
        states.put(np.array([row]), after(n))
    built = build_readings(
        states,
        np.array([2, 0, 1]),
        exchange="kucoin",
        epoch=1,
        symbols=["C-X", "A-X", "B-X"],
        timeframes=[TF] * 3,
        revisions=[2, 0, 1],
    )
    found = [(r.symbol, r.revision, r.count, r.withheld is None) for r, _ in built]
    assert found == [("C-X", 2, 300, True), ("A-X", 0, 70, True), ("B-X", 1, 5, False)]
    assert [decode_reading(encode_reading(*one)) for one in built] == built


def test_names_for_every_row_are_needed():
    def build(states: States, symbols: list[str]):
        return build_readings(
            states,
            np.arange(1),
            exchange="x",
            epoch=1,
            symbols=symbols,
            timeframes=[TF],
            revisions=[0],
        )

    with pytest.raises(ValueError, match="zip"):
        build(after(70), [])
    with pytest.raises(ValueError, match="no candle"):
        build(States.fresh(1), ["A-B"])


def test_no_rows_give_no_readings():
    built = build_readings(
        States.fresh(0),
        np.arange(0),
        exchange="x",
        epoch=1,
        symbols=[],
        timeframes=[],
        revisions=[],
    )
    assert built == []


@given(st.integers(1, 320), st.integers(0, 200), st.sampled_from([0.0, 1e-7, 1.0, 99.0]))
@settings(max_examples=60, deadline=None)
def test_a_restart_resumes_from_the_stored_reading_alone(n, first_empty, swing):
    empty = range(first_empty, first_empty + 50)
    whole, part = after(n + 30, empty=empty, swing=swing), after(n, empty=empty, swing=swing)
    reading, text = read(part)
    decoded, state = decode_reading(text)
    assert decoded == reading
    assert state == part.state(0)
    assert encode_reading(decoded, state) == text
    assert b"NaN" not in text
    assert b"Infinity" not in text

    resumed = States.of([state])
    i = np.arange(n, n + 30)
    high, low, close, nothing = waves(i, empty, swing)
    open_time = START + i[:, None] * TF.ms
    replay(resumed, np.arange(1), open_time, high, low, close, nothing, TF.ms)
    assert resumed.state(0) == whole.state(0)


SAMPLES = [read(after(n, empty=range(30, 35)))[1] for n in (5, 50, 70, 300)]


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=400)
def test_a_damaged_reading_is_refused_or_still_agrees_with_itself(text, data):
    damaged = bytearray(text)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        cut = data.draw(st.integers(0, 3))
        damaged[at : at + cut] = data.draw(
            st.one_of(
                st.binary(max_size=3), st.sampled_from([b"-", b"9", b"null", b'"', b"}", b"e9"])
            )
        )
    try:
        reading, state = decode_reading(bytes(damaged))
    except MalformedMessage:
        return
    assert reading.open_time == state.open_time
    assert (reading.withheld is None) == (reading.macdv is not None) == (reading.stage is not None)
    for number in (reading.macdv, reading.signal, reading.ema12, reading.ema26, reading.atr26):
        assert number is None or math.isfinite(number)
    assert decode_reading(encode_reading(reading, state)) == (reading, state)


@given(st.binary(max_size=200))
@example(b"")
@example(b"null")
@example(b"{}")
@example(b"\xff\xfe")
@example(b"[" * 10_000)
@example(b'{"state":' * 5_000)
def test_what_is_no_reading_is_refused(text):
    with pytest.raises(MalformedMessage):
        decode_reading(text)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.999])
def test_half_a_reading_is_refused(cut):
    with pytest.raises(MalformedMessage, match="open_time"):
        decode_reading(SAMPLES[-1][: int(len(SAMPLES[-1]) * cut)])


@pytest.mark.parametrize(
    "name",
    [
        *("open_time", "macdv", "signal", "histogram", "ema12", "ema26", "atr26", "close"),
        *("observed", "empty", "count"),
    ],
)
def test_a_reading_that_contradicts_its_state_is_refused(name):
    document = msgspec.json.decode(SAMPLES[-1])
    document[name] += 1
    with pytest.raises(MalformedMessage, match="do not agree"):
        decode_reading(msgspec.json.encode(document))


@pytest.mark.parametrize(
    ("sample", "change"),
    [
        (-1, {"withheld": "because"}),
        (-1, {"stage": None}),
        (-1, {"macdv": None}),
        (-1, {"macdv": None, "signal": None, "histogram": None, "stage": None}),
        (0, {"withheld": None}),
        (0, {"stage": "ranging"}),
        (0, {"histogram": 0.0}),
        (1, {"withheld": None}),
    ],
)
def test_numbers_and_the_reason_for_none_exclude_each_other(sample, change):
    document = msgspec.json.decode(SAMPLES[sample])
    with pytest.raises(MalformedMessage):
        decode_reading(msgspec.json.encode(document | change))


def test_a_state_that_no_candles_lead_to_is_refused_in_a_reading_too():
    document = msgspec.json.decode(SAMPLES[-1])
    document["state"]["calm"] = document["state"]["values"] + 1
    with pytest.raises(MalformedMessage, match="no candles lead"):
        decode_reading(msgspec.json.encode(document))
