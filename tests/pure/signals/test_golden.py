"""MACD-V against the published vectors, and the vectors against the script that makes them."""

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from livermore.market.timeframe import Timeframe
from livermore.signals.macdv import advance, replay
from livermore.signals.reading import Reading, build_readings
from livermore.signals.stage import STAGES, Stage, stage, stages
from livermore.signals.state import States

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "golden.py"
GOLDEN = json.loads((Path(__file__).parent / "golden" / "macdv.json").read_text())
CASES: dict[str, Any] = GOLDEN["cases"]
TF = Timeframe.M5
AVERAGES = ("ema12", "ema26", "atr26")
NUMBERS = (*AVERAGES, "macdv", "signal", "histogram")
PLAIN = ("about", "timeframe_ms", "tolerance", "stages")


def numbers(column: list[float | None]) -> Any:
    return np.array(column, np.float64)  # None becomes NaN


def astray(found: Any, right: list[float | None], name: str) -> list[int]:
    """Where ``found`` is not ``right`` to 1e-9, or one of them is no number."""
    ours, theirs = numbers(found), numbers(right)
    loose = GOLDEN["tolerance"] * (np.abs(theirs) if name in AVERAGES else 1.0)
    near = (np.abs(ours - theirs) <= loose) | (np.isnan(ours) & np.isnan(theirs))
    listed: list[int] = np.flatnonzero(~near).tolist()
    return listed


def columns(name: str) -> list[Any]:
    """Open time, high, low, close, empty of a case."""
    candles = CASES[name]["candles"]
    prices = (np.array(candles[column]) for column in ("high", "low", "close"))
    return [np.array(candles["open_time"]), *prices, np.array(candles["empty"], np.bool_)]


@functools.cache
def one_by_one(name: str) -> tuple[list[Reading], dict[str, list[Any]]]:
    """The reading and the terms after each candle of a case."""
    states, row = States.fresh(1), np.zeros(1, np.int64)
    shown: list[Reading] = []
    terms: dict[str, list[Any]] = {column: [] for column in (*NUMBERS, "cross")}
    open_time, high, low, close, empty = columns(name)
    for i in range(len(empty)):
        at = slice(i, i + 1)
        advance(states, row, open_time[at], high[at], low[at], close[at], empty[at], TF.ms)
        state = states.state(0)
        for column in NUMBERS[:-1]:
            terms[column].append(getattr(state, column))
        terms["cross"].append(state.cross)
        v, s = state.macdv, state.signal
        terms["histogram"].append(None if v is None or s is None else v - s)
        ((reading, _),) = build_readings(
            states, row, exchange="x", epoch=1, symbols=["A-B"], timeframes=[TF], revisions=[0]
        )
        shown.append(reading)
    return shown, terms


@pytest.mark.parametrize("name", CASES)
def test_one_candle_at_a_time_gives_the_published_numbers(name):
    shown, terms = one_by_one(name)
    expected = CASES[name]["expected"]
    for column in NUMBERS:
        assert astray(terms[column], expected[column], column) == [], column
    assert terms["cross"] == expected["cross"]
    assert [reading.withheld is not None for reading in shown] == list(
        map(bool, expected["withheld"])
    )
    for i, reading in enumerate(shown):
        if reading.withheld is None:
            assert reading.stage == expected["stage"][i], i
            assert reading.macdv == terms["macdv"][i]
            assert reading.signal == terms["signal"][i]
            assert reading.histogram == terms["histogram"][i]
        else:
            assert (reading.macdv, reading.signal, reading.stage) == (None, None, None)


def test_a_replay_of_all_cases_side_by_side_gives_the_published_numbers():
    longest = max(len(case["candles"]["empty"]) for case in CASES.values())
    shape = (longest, len(CASES))
    present = np.zeros(shape, np.bool_)
    open_time, empty = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    high, low, close = np.full((3, *shape), np.nan)
    for k, name in enumerate(CASES):
        matrices = (open_time, high, low, close, empty)
        for matrix, column in zip(matrices, columns(name), strict=True):
            matrix[: len(column), k] = column
            present[: len(column), k] = True
    rows = np.arange(len(CASES))
    states = States.fresh(len(CASES))
    steps = replay(states, rows, open_time, high, low, close, empty, TF.ms, present)
    codes = stages(steps.macdv, steps.signal, steps.calm)
    for k, (name, case) in enumerate(CASES.items()):
        n, expected = len(case["candles"]["empty"]), case["expected"]
        for column in NUMBERS:
            found = getattr(steps, column)[:n, k]
            assert astray(found, expected[column], column) == [], (name, column)
        named = [str(STAGES[code]) if code >= 0 else None for code in codes[:n, k].tolist()]
        assert named == expected["stage"], name


def test_the_stages_at_their_bounds_are_the_published_ones():
    rows = GOLDEN["stages"]
    at = [np.array([row[name] for row in rows]) for name in ("macdv", "signal", "calm")]
    for row, code in zip(rows, stages(*at).tolist(), strict=True):
        assert stage(row["macdv"], row["signal"], row["calm"]) == row["stage"], row
        assert STAGES[code] == row["stage"], row


def test_the_vectors_have_what_is_hard_in_them():
    def first(name: str, column: str) -> int:
        found: list[Any] = CASES[name]["expected"][column]
        return next(i for i, number in enumerate(found) if number is not None)

    assert GOLDEN["tolerance"] == 1e-9
    assert (first("traded", "macdv"), first("traded", "signal")) == (25, 33)
    assert (first("empty_first", "ema26"), first("empty_first", "atr26")) == (25, 38)
    for count in (12, 26):
        assert 0 < sum(CASES["sparse"]["candles"]["empty"][:count]) < count
    vanishing = CASES["vanishing"]["expected"]["macdv"]
    assert vanishing[100] == 0
    assert vanishing[259] is None
    assert len(CASES["long"]["candles"]["empty"]) >= 1_000
    reached = {name for case in CASES.values() for name in case["expected"]["stage"]}
    assert reached == {*map(str, Stage), None}
    reasons = set()
    for name in CASES:
        for reading in one_by_one(name)[0]:
            reasons.add((reading.withheld or "shown").split(":")[0])
    assert reasons == {
        "shown",
        "fewer than 60 candles",
        "fewer than 26 observed candles",
        "fewer than 9 MACD-V values",
        "missing candle within the last 150",
        "no volatility",
    }


def test_the_file_is_what_its_script_writes():
    pytest.importorskip("talib", reason="NOT COMPARED WITH ITS SCRIPT: TA-Lib is not installed")
    spec = importlib.util.spec_from_file_location("golden", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    fresh = json.loads(script.lay_out(script.document()))
    assert {name: case["candles"] for name, case in fresh["cases"].items()} == {
        name: case["candles"] for name, case in CASES.items()
    }
    for name, case in fresh["cases"].items():
        for column, right in case["expected"].items():
            published = CASES[name]["expected"][column]
            if column in NUMBERS:  # the last digit is the processor's
                assert astray(published, right, column) == [], (name, column)
            else:
                assert published == right, (name, column)
    assert [fresh[key] for key in PLAIN] == [GOLDEN[key] for key in PLAIN]
    assert {*fresh} == {*GOLDEN} == {*PLAIN, "cases", "made_with"}
