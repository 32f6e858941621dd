"""Alerts of real candles against those that a plain script finds in reference readings."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from livermore.signals.macdv import replay
from livermore.signals.reading import shown
from livermore.signals.rules import DEFAULT_RULES, Kind, Memory, Point, adopt, evaluate
from livermore.signals.state import States
from tests.alert_judge import Found, Row, alerts_of

CANDLES = Path(__file__).resolve().parents[2].parent / "shared" / "candles"
EXPECTED = CANDLES / "expected"
SPARSE = "sparse_XRP-ETH_1m_filled"
LENGTHS = {"1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000, "4h": 14_400_000}
LENGTHS["1d"] = 86_400_000
FILES = {
    **{f"binance_BTC-USDT_{name}": LENGTHS[name] for name in ("5m", "15m", "1h", "4h", "1d")},
    SPARSE: LENGTHS["1m"],
}
FEWEST_CANDLES, FEWEST_TRADED = 60, 26
"""Under these there is no reading."""
UNMISSED = 150
"""Slots in which none may be missing."""

recorded = pytest.mark.skipif(
    not EXPECTED.is_dir(),
    reason=f"ALERTS NOT CHECKED AGAINST THE REFERENCES: no recorded candles at {CANDLES}",
)

T = 1000
"""Length of a candle in the examples."""


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def reference(name: str) -> list[Row]:
    """The readings of a file as somebody else computed them."""
    rows: list[Row] = []
    lines = table(EXPECTED / f"{name}.csv")
    prefix = "" if name == SPARSE else "a_"
    times = [int(line["ts_ms"]) for line in lines]
    missing = set(range(times[0], times[-1], FILES[name])) - set(times)
    traded = 0
    for open_time, line in zip(times, lines, strict=True):
        traded += line.get("synthetic") != "1"
        v, h = line[f"{prefix}macdv"], line[f"{prefix}hist"]
        withheld = (
            not h
            or len(rows) + 1 < FEWEST_CANDLES
            or traded < FEWEST_TRADED
            or any(open_time - k * FILES[name] in missing for k in range(1, UNMISSED + 1))
        )
        row = Row(open_time, None, None, traded)
        rows.append(row if withheld else row._replace(v=float(v), h=float(h)))
    return rows


def ours(name: str, timeframe: int) -> list[Point]:
    """The readings of the same file as we compute them from its candles."""
    count = len(table(EXPECTED / f"{name}.csv"))
    lines = table((EXPECTED if name == SPARSE else CANDLES) / f"{name}.csv")[:count]
    times = np.array([int(line["ts_ms"]) for line in lines])[:, None]
    high, low, close = (
        np.array([float(line[key]) for line in lines])[:, None] for key in ("high", "low", "close")
    )
    empty = np.array([line.get("synthetic") == "1" for line in lines])[:, None]
    steps = replay(States.fresh(1), np.arange(1), times, high, low, close, empty, timeframe)
    course = steps.course(0)
    macdv, signal, _ = shown(course, np.full(count, timeframe))
    return [
        Point(
            open_time,
            None if np.isnan(v) else float(v),
            None if np.isnan(s) else float(s),
            None if np.isnan(v) else float(v - s),
            None,
            float(price),
            int(observed),
        )
        for open_time, v, s, price, observed in zip(
            times[:, 0].tolist(), macdv, signal, close[:, 0], course.column("observed"), strict=True
        )
    ]


def found_by_rules(points: Sequence[Point], timeframe: int, batch: int) -> list[Found]:
    rules = [rule for rule in DEFAULT_RULES if rule.kind is not Kind.BLIND]
    memory = Memory()
    adopt(rules, memory, [], timeframe, now=0)
    found: list[Found] = []
    previous = None
    for at in range(0, len(points), batch):
        some = points[at : at + batch]
        outcome = evaluate(rules, memory, some, timeframe, previous=previous)
        assert not outcome.unmade
        assert outcome.held is None
        found += [
            Found(
                one.rule,
                one.open_time,
                one.direction,
                None if one.level is None else int(one.level),
            )
            for one in outcome.fired
        ]
        previous = some[-1]
    return found


@recorded
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("batch", [1, 10_000])
def test_real_candles_give_the_alerts_of_the_reference_and_no_other(name, batch):
    right = alerts_of(reference(name), FILES[name])
    found = found_by_rules(ours(name, FILES[name]), FILES[name], batch)
    assert sorted(set(found) - set(right)) == [], "too many"
    assert sorted(set(right) - set(found)) == [], "missing"
    assert Counter(found) == Counter(right)


@recorded
def test_the_recorded_candles_make_every_kind_of_alert():
    found = [one for name in FILES for one in alerts_of(reference(name), FILES[name])]
    kinds = Counter((one.rule, one.direction) for one in found)
    assert kinds.keys() == {(r, d) for r in ("level", "reversal") for d in ("up", "down")}
    assert kinds.total() > 30
    assert {one.level for one in found} >= {150, 200}


# -- the plain script itself, by hand -----------------------------------------------------------


def course(
    *values: float | None, h: Iterable[float] | None = None, observed: int = 200
) -> list[Row]:
    """Candles 0, 1, 2, …; a histogram that means nothing unless ``h`` gives it."""
    given = [0.0] * len(values) if h is None else list(h)
    return [
        Row(k * T, v, None if v is None else one, observed)
        for k, (v, one) in enumerate(zip(values, given, strict=True))
    ]


def levels(rows: Sequence[Row], since: int = 0) -> list[tuple[int, str, int | None]]:
    found = alerts_of(rows, T, since)
    return [(one.open_time // T, one.direction, one.level) for one in found if one.rule == "level"]


def reversals(rows: Sequence[Row]) -> list[tuple[int, str]]:
    found = alerts_of(rows, T)
    return [(one.open_time // T, one.direction) for one in found if one.rule == "reversal"]


def test_the_script_takes_the_most_extreme_level():
    assert levels(course(149, 151)) == [(1, "up", 150)]
    assert levels(course(150, 150.1)) == [(1, "up", 150)], "previous on it"
    assert levels(course(149, 150)) == [], "on it is not beyond it"
    assert levels(course(0, 251)) == [(1, "up", 250)]
    assert levels(course(-140, -201, -260)) == [(1, "down", 200), (2, "down", 250)]
    assert levels(course(200, -200.5)) == [(1, "down", 200)]


def test_the_script_arms_a_level_again_ten_points_inside():
    assert levels(course(140, 160, 141, 141, 141, 141, 160)) == [(1, "up", 150)]
    assert levels(course(140, 160, 140, 141, 141, 141, 160)) == [(1, "up", 150), (6, "up", 150)]
    # 200 disarms 150 as well, and is armed again without it.
    assert levels(course(140, 205, 190, 190, 190, 190, 205)) == [(1, "up", 200), (6, "up", 200)]
    assert levels(course(140, 205, 145, 145, 145, 145, 160, 205)) == [
        (1, "up", 200),
        (7, "up", 200),
    ]
    assert levels(course(-140, -160, -140, -140, -140, -160)) == [
        (1, "down", 150),
        (5, "down", 150),
    ]


def test_the_script_lets_a_level_cool_down_for_three_candles():
    assert levels(course(140, 160, 140, 140, 160)) == [(1, "up", 150)]
    assert levels(course(140, 160, 140, 140, 140, 160)) == [(1, "up", 150), (5, "up", 150)]
    # What was not told for that disarms all the same.
    assert levels(course(140, 160, 140, 140, 160, 145, 160)) == [(1, "up", 150)]
    # Another level, or the other direction, is not cooling.
    assert levels(course(140, 160, 210)) == [(1, "up", 150), (2, "up", 200)]
    assert levels(course(140, 160, -160)) == [(1, "up", 150), (2, "down", 150)]


def test_the_script_needs_the_candle_before():
    assert levels(course(140, None, 160)) == []
    assert levels([row for row in course(140, 145, 160) if row.open_time != T]) == []
    # Without it nothing is disarmed, and an arming counts.
    assert levels(course(None, 160, 145, 160)) == [(3, "up", 150)]
    assert levels(course(140, 160, None, 140, None, 145, 160)) == [(1, "up", 150), (6, "up", 150)]


def test_the_script_tells_nothing_below_a_hundred_traded_candles_and_remembers_it():
    few, many = course(140, 160, 145, 145, observed=99), course(*[0] * 4, 145, 160, 0, 160)[4:]
    assert levels(few + many) == [(7, "up", 150)]
    assert levels(course(140, 160, observed=100)) == [(1, "up", 150)]


def test_the_script_is_silent_of_what_was_before_and_remembers_it():
    rows = course(140, 160, 140, 140, 160, 140, 140, 140, 160)
    assert levels(rows, since=2 * T) == [(8, "up", 150)]
    assert levels(rows, since=9 * T) == []


def test_the_script_waits_at_an_assumed_candle_that_would_alert():
    rows = course(140, 160, 210)
    rows[0] = rows[0]._replace(assumed=True)
    assert levels(rows) == [(1, "up", 150), (2, "up", 200)]
    rows[1] = rows[1]._replace(assumed=True)
    assert levels(rows) == []


def test_the_script_finds_reversals_beyond_the_buffer_once_per_excursion():
    assert reversals(course(-160, -200, h=[0, 10.1])) == [(1, "up")]
    assert reversals(course(-160, -200, h=[0, 10.0])) == [], "5 % exactly"
    assert reversals(course(-150, -200, h=[0, 99])) == [], "previous on the line"
    assert reversals(course(160, 200, h=[0, -6.1])) == [(1, "down")]
    assert reversals(course(160, 200, h=[0, -6.0])) == [], "3 % exactly"
    deep = [-160, -200, -141, -170, -170, -170, -170]
    assert reversals(course(*deep, h=[0] + [99] * 6)) == [(1, "up")]
    ended = [-160, -200, -139, -170, -170, -170, -170]
    assert reversals(course(*ended, h=[0] + [99] * 6)) == [(1, "up"), (5, "up")], "cooled down"
    withheld = [-160, -200, None, -170, -170, -170, -170]
    assert reversals(course(*withheld, h=[0] + [99] * 6)) == [(1, "up")]
    flipped = [-160, -200, 170, 170]
    assert reversals(course(*flipped, h=[0, 99, 0, -99])) == [(1, "up"), (3, "down")]
