"""What a tracker knows can be written down, and what it was told can be told again."""

from __future__ import annotations

from decimal import Decimal

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livermore.errors import MalformedMessage
from livermore.market.candle import Candle, Series
from livermore.market.events import Frame, Sample, Trade, Trades
from livermore.market.recording import (
    PARTS,
    SETTINGS,
    TOLD,
    Row,
    Step,
    play,
    recall,
    remember,
    row_of,
)
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Tracker

M5 = Timeframe.M5
T0 = 1_700_000_100_000 // M5.ms * M5.ms
NATIVES = ("BTC-USD", "ETH-USD")


def series(native: str) -> Series:
    return Series("coinbase", native, M5)


def tracker(settle: int = 2_000) -> Tracker:
    return Tracker(
        [(native, series(native)) for native in NATIVES],
        settle=settle, sample_lag=8_000, sample_every=10_000, sample_delay=6_000,
    )  # fmt: skip


def trades(native: str, first: int, count: int, time: int) -> Trades:
    return Trades(
        native,
        [
            Trade(first + n, 100.5 + n, Decimal("0.10") + n, time + 1_000 * n)
            for n in range(count)
        ],
    )  # fmt: skip


FRAMES: dict[str, Frame] = {
    "before": Frame(T0 - 20_000, 1, [trades("BTC-USD", 7, 3, T0 - 21_000)]),
    "within": Frame(
        T0 + 30_000, 2,
        [trades("BTC-USD", 10, 5, T0 + 20_000), trades("ETH-USD", 1, 2, T0 + 25_000)],
    ),
    "sample": Frame(
        T0 + 46_700, 3, [Sample("ETH-USD", T0, 100.5, 101.5, 100.5, 101.5, 1.2)]
    ),
    "ahead": Frame(T0 + 60_000, 4, [trades("ETH-USD", 9, 2, T0 + 59_000)]),
    "after": Frame(T0 + M5.ms + 100, 5, [trades("BTC-USD", 15, 1, T0 + M5.ms + 50)]),
    "late": Frame(T0 + M5.ms + 20_000, 9, []),
}  # fmt: skip
EARLIER = Row("ETH-USD", T0 - M5.ms, 1.0, 2.0, 1.0, 2.0, 3.0, "traded", "rest")
STEPS = [
    Step(999.0, "connected"),
    Step(1_000.0, "frame", "before"),
    Step(1_000.5, "acknowledged", natives=list(NATIVES)),
    Step(1_001.0, "learned", candle=EARLIER),
    Step(1_050.0, "frame", "within"),
    Step(1_066.7, "frame", "sample"),
    Step(1_080.0, "frame", "ahead"),
    Step(1_100.0, "halted"),
    Step(1_110.0, "resumed"),
    Step(1_320.1, "frame", "after"),
    Step(1_325.0, "doubted", natives=["BTC-USD"]),
    Step(1_330.0, "tick"),
    Step(1_340.0, "frame", "late"),
    Step(1_341.0, "frame", "damaged"),
    Step(1_342.0, "lost"),
    Step(1_700.0, "ignored", natives=["ETH-USD"]),
    Step(1_701.0, "tick"),
]  # fmt: skip


def read(text: bytes | str) -> Frame:
    assert isinstance(text, str)
    if text not in FRAMES:
        raise MalformedMessage("no such frame", text)
    return FRAMES[text]


def told(steps: list[Step], to: Tracker | None = None) -> Tracker:
    """A tracker that was told ``steps``."""
    to = tracker() if to is None else to
    play(to, read, steps, "coinbase", M5)
    return to


def test_a_time_that_no_frame_told_moves_the_clock_and_is_replayed():
    heard: list[tuple[str, object, float | None]] = []
    asked = tracker()
    asked.witness = lambda what, about, now: heard.append((what, about, now))
    asked.told_time(T0, 10.0)
    asked.told_time(T0 + 90_000, 70.0)  # after a sleep of this machine: the second agrees
    asked.told_time(T0 + 150_000, 130.0)
    assert asked.clock.read(130.0) == T0 + 150_000
    assert [what for what, _, _ in heard] == ["told the time"] * 3
    steps = [
        Step(now, "told the time", time=about)
        for _, about, now in heard
        if now is not None and isinstance(about, int)
    ]
    assert told(steps).clock == asked.clock


def state(of: Tracker, at: float = 998.0) -> Step:
    return Step(at, "state", state=msgspec.Raw(remember(of)))


def test_everything_a_tracker_knows_is_remembered_or_named_as_not_its_own():
    known = vars(tracker())
    assert known.keys() >= SETTINGS | TOLD | PARTS
    for name in known.keys() - SETTINGS - TOLD - PARTS:
        assert known[name] is None or isinstance(known[name], bool | int | float), name


@pytest.mark.parametrize("cut", range(len(STEPS) + 1))
def test_a_tracker_goes_on_from_any_point_as_if_it_had_been_there(cut: int):
    whole = play(tracker(), read, [state(tracker()), *STEPS], "coinbase", M5)
    before = told(STEPS[:cut])
    fresh = tracker()
    recall(fresh, remember(before))
    assert remember(fresh) == remember(before)
    first = play(tracker(), read, [state(tracker()), *STEPS[:cut]], "coinbase", M5)
    second = play(tracker(), read, [state(before), *STEPS[cut:]], "coinbase", M5)
    assert first.closed + second.closed == whole.closed
    assert first.missing + second.missing == whole.missing
    assert first.suspects + second.suspects == whole.suspects
    assert second.counts == whole.counts
    assert first.malformed + second.malformed == 1


def test_a_replay_closes_and_misses_what_was_closed_and_missed():
    played = play(tracker(), read, [state(tracker()), *STEPS, state(told(STEPS))], "coinbase", M5)
    [closed] = [one for one in played.closed if one.candle.series.symbol == "BTC-USD"]
    assert (closed.candle.open_time, closed.by) == (T0, "frame")
    assert closed.candle.volume == pytest.approx(0.5 + 10)
    missing = [one.series.symbol for _, one in played.missing if one.open_time == T0]
    assert missing == ["ETH-USD"]
    assert (played.compared, played.differs_at) == (1, None)
    assert (played.frames, played.malformed, played.steps) == (7, 1, len(STEPS))


@pytest.mark.parametrize("left_out", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15])
def test_a_step_that_is_not_told_again_is_noticed(left_out: int):
    told_before, told_after = STEPS[:left_out], STEPS[left_out + 1 : left_out + 2]
    right = state(told([*told_before, STEPS[left_out]]))
    steps = [state(tracker()), *told_before, right, *told_after]
    played = play(tracker(), read, steps, "coinbase", M5)
    assert played.differs_at is not None
    assert played.differs


def test_another_rule_is_noticed_and_named():
    played = play(
        tracker(settle=60_000), read, [state(tracker()), *STEPS[:-3], state(told(STEPS[:-3]))],
        "coinbase", M5,
    )  # fmt: skip
    assert "ETH-USD" in played.differs


def test_a_state_of_another_version_is_done_without_and_said():
    other = msgspec.json.decode(remember(tracker()))
    other["scalars"]["_gone"] = 1
    step = Step(0.0, "state", state=msgspec.Raw(msgspec.json.encode(other)))
    played = play(tracker(), read, [step, *STEPS, state(told(STEPS))], "coinbase", M5)
    assert "another version" in played.began_without_state
    assert played.compared == 0
    assert any(one.candle.open_time == T0 for one in played.closed)


def test_a_tracker_that_fails_is_shown_and_goes_on():
    def failing(text: bytes | str) -> Frame:
        if text == "sample":
            raise IndexError("nothing there")
        return read(text)

    played = play(tracker(), failing, [state(tracker()), *STEPS], "coinbase", M5)
    assert played.failures == ["step 6: IndexError: nothing there"]
    assert any(one.candle.open_time == T0 for one in played.closed)


@pytest.mark.parametrize("at", [-1.0, 1e11])
def test_a_time_that_is_none_is_damage(at: float):
    with pytest.raises(MalformedMessage, match="is no time"):
        play(tracker(), read, [Step(at, "tick")], "coinbase", M5)


def test_a_candle_written_down_is_the_same_candle():
    candle = Candle(series("BTC-USD"), T0, 1.1, 2.2, 1.0, 1.5, 0.1 + 0.2, as_of=5, revision=2)
    row = msgspec.json.decode(msgspec.json.encode(row_of(candle)), type=Row)
    assert row.candle("coinbase", M5) == candle
    with pytest.raises(MalformedMessage):
        msgspec.structs.replace(row, high=0.5).candle("coinbase", M5)


words = st.text(max_size=5) | st.sampled_from(["NaN", "inf", "-1", "1e999"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_state_is_refused_or_leads_on(data: st.DataObject):
    """Whatever stands in it: no exception but ours leaves the replay, and it ends."""
    held = msgspec.json.decode(remember(told(STEPS[: data.draw(st.integers(0, len(STEPS)))])))
    place = held
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.integers(0, 3)) == 0:
            place[key] = data.draw(values)
            break
        place = place[key]
    raw = msgspec.json.encode(held)
    fresh = tracker()
    before = remember(fresh)
    try:
        recall(fresh, raw)
    except MalformedMessage as error:
        assert remember(fresh) == before
        assert "\n" not in str(error)
    step = Step(0.0, "state", state=msgspec.Raw(raw))
    play(tracker(), read, [step, *STEPS], "coinbase", M5)


def test_a_recorded_candle_of_another_series_is_refused():
    held = msgspec.json.decode(remember(tracker()))
    held["tapes"]["BTC-USD"]["series"]["symbol"] = "ETH-USD"
    with pytest.raises(MalformedMessage, match="other series"):
        recall(tracker(), msgspec.json.encode(held))


def test_recalling_touches_every_field():
    """A field that were forgotten would keep the value of a new tracker."""
    before = told(STEPS[:8])
    fresh = tracker()
    recall(fresh, remember(before))
    for native, tape in before._tapes.items():
        assert attrs.asdict(fresh._tapes[native]) == attrs.asdict(tape)
        assert fresh._by_series[tape.series] is fresh._tapes[native]
    assert fresh.clock == before.clock


def test_what_was_recorded_of_one_user_is_lived_again_by_anybody():
    alice = [(native, attrs.evolve(series(native), owner="alice")) for native in NATIVES]
    private = Tracker(
        alice, settle=2_000, sample_lag=8_000, sample_every=10_000, sample_delay=6_000
    )
    steps = [one for one in STEPS if one.what != "learned"]  # a recording's candles are nobody's
    begun = state(private)
    told(steps, private)
    played = play(tracker(), read, [begun, *steps, state(private)], "coinbase", M5)
    assert played.began_without_state == ""
    assert (played.compared, played.differs_at) == (1, None)
    assert played.closed
