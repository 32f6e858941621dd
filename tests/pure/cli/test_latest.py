"""Readings as a table and as a list, from what may be stored; no store is involved."""

from __future__ import annotations

import json
from collections.abc import Sequence

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.cli import output
from livermore.cli.indicators import Board, Wanted, board_of, cell, document, table
from livermore.cli.latest import NONE_STORED, Latest, doubt, reading_document
from livermore.cli.scan import close_to, summary
from livermore.cli.store import Status
from livermore.cli.words import words_of
from livermore.market.candle import Series
from livermore.market.timeframe import TIMEFRAMES, Timeframe
from livermore.signals.liquidity import Liquidity
from livermore.signals.reading import Reading
from livermore.signals.stage import Stage, stage

NOW = 1_800_000_020_000
"""20 s after the end of a slot."""


def latest(
    symbol: str = "BTC-USD",
    timeframe: Timeframe = Timeframe.M5,
    macdv: float | None = 10.0,
    *,
    signal: float = 0.0,
    behind: int = 0,
    now: int = NOW,
    warm: bool = True,
    halted: bool = False,
) -> Latest:
    """The reading of the candle so many slots ``behind`` the newest closed one."""
    withheld = macdv is None
    reading = Reading(
        timeframe.last_closed(NOW) - behind * timeframe.ms,
        2,
        1,
        "coinbase",
        symbol,
        timeframe,
        macdv,
        None if withheld else signal,
        None if macdv is None else macdv - signal,
        None if macdv is None else stage(macdv, signal, 0),
        1.0,
        1.0,
        1.0,
        1.0,
        300,
        10,
        310,
        warm,
        "fewer than 60 candles: 4" if withheld else None,
        halted,
        Liquidity.HIGH,
    )
    return Latest(Series("coinbase", symbol, timeframe), reading, None, now)


def bare(symbol: str = "BTC-USD", timeframe: Timeframe = Timeframe.M5) -> Latest:
    return Latest(Series("coinbase", symbol, timeframe), None, NONE_STORED, NOW)


WANTED = Wanted("coinbase", None, TIMEFRAMES, None, "symbol")


def board(values: dict[str, Sequence[float | None]], wanted: Wanted = WANTED) -> Board:
    """``values`` of each symbol, shortest timeframe first."""
    found = [
        latest(symbol, timeframe, value)
        for symbol, row in values.items()
        for timeframe, value in zip(TIMEFRAMES, row, strict=True)
    ]
    return board_of(wanted, None, found, NOW)


def symbols(found: Board) -> list[str]:
    return [row.symbol for row in found.rows]


# -- what is current --------------------------------------------------------------------------


def test_a_reading_is_old_once_a_later_candle_has_closed():
    assert not latest(now=NOW).old
    assert latest(behind=1).old
    assert latest(behind=1).age == 20_000 + Timeframe.M5.ms
    assert latest(behind=1).current is None


def test_a_reading_has_some_seconds_to_come():
    end = Timeframe.M5.last_closed(NOW) + Timeframe.M5.ms
    assert not latest(behind=1, now=end + 14_000).old
    assert latest(behind=1, now=end + 15_000).old


def test_what_is_withheld_or_not_stored_is_never_current():
    for one in (latest(macdv=None), bare()):
        assert one.current is None
        assert one.why


def test_as_json_what_is_not_there_is_null_with_the_reason():
    said = reading_document(bare())
    assert (said["macdv"], said["open_time"], said["withheld"]) == (None, None, NONE_STORED)
    said = reading_document(latest(macdv=None))
    assert (said["macdv"], said["withheld"]) == (None, "fewer than 60 candles: 4")
    assert reading_document(latest(behind=3))["old"] is True


@pytest.mark.parametrize(
    ("said", "age", "told"),
    [
        ({"state": "live"}, 3_000, None),
        ({"state": "live"}, 25_000, "said nothing for 25 s"),
        ({"state": "blind", "note": "no frames", "since": NOW}, 0, "coinbase is blind since 2027"),
        ({"state": "halted"}, 0, "no reason is given"),
    ],
)
def test_a_daemon_that_does_not_see_is_told_in_one_line(
    said: dict[str, object], age: int, told: str | None
):
    line = doubt("coinbase", Status(words_of("coinbase", said), said, age))
    assert (line is None) == (told is None)
    assert told is None or told in (line or "")
    assert "livermore run coinbase" in (doubt("coinbase", None) or "")


# -- the table --------------------------------------------------------------------------------


@pytest.mark.parametrize("detail", [0, 1, 2])
def test_an_old_value_never_looks_current(detail: int):
    text = cell(latest(macdv=-163.2, behind=36), detail)
    assert "3h old" in text.plain
    assert "oversold" not in text.plain
    assert all(span.style == "dim" for span in text.spans if str(span.style))
    if detail < 2:
        assert "163" not in text.plain


@pytest.mark.parametrize("detail", [0, 1, 2])
def test_what_is_withheld_is_a_dash(detail: int):
    assert cell(latest(macdv=None), detail).plain.strip() == "–"
    assert cell(bare(), detail).plain.strip() == "–"


def test_zones_differ_in_style_and_a_weak_value_is_marked():
    values = (-170.0, -70.0, 0.0, 70.0, 170.0)
    styles = [str(cell(latest(macdv=v), 2).spans[-1].style) for v in values if abs(v) > 50]
    assert len(set(styles)) == 4
    assert cell(latest(macdv=-163.2, warm=False), 2).plain.strip() == "~-163.2 oversold"
    assert cell(latest(macdv=20.0, halted=True), 2).plain.strip() == "20.0 halted"
    assert cell(latest(macdv=-163.2), 1).plain.strip() == "-163.2 os"


@pytest.mark.parametrize(("width", "words"), [(140, "oversold"), (80, " os"), (60, "-163.2")])
def test_the_table_fits_the_terminal(width: int, words: str):
    found = board({f"FARTCOIN{k}-USD"[-12:]: [-163.2] * 5 for k in range(3)})
    from rich.console import Console

    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(table(found, width)[0])
    lines = captured.get().splitlines()
    assert len(lines) == 4
    assert lines[1].count(words) == 5


def test_signs_are_explained_where_they_occur_and_only_there():
    assert table(board({"BTC-USD": [10.0] * 5}), output.WIDE)[1] == ""
    assert "withheld" in table(board({"BTC-USD": [10.0, None, 1, 1, 1]}), output.WIDE)[1]
    assert "os oversold" in table(board({"BTC-USD": [-200.0] * 5}), 80)[1]
    weak = board_of(WANTED, None, [latest(timeframe=tf, warm=False) for tf in TIMEFRAMES], NOW)
    assert table(weak, output.WIDE)[1] == "~ not warm yet"


def test_only_symbols_in_the_stage_now_are_shown():
    wanted = attrs.evolve(WANTED, stage="oversold", timeframes=(Timeframe.H1,))
    values: dict[str, Sequence[float | None]] = {
        "A-USD": [0, 0, -200, 0, 0],
        "B-USD": [-200, 0, 0, 0, 0],
        "C-USD": [0, 0, None, 0, 0],
    }
    assert symbols(board(values, wanted)) == ["A-USD"]
    old = [latest("D-USD", tf, -200, behind=1) for tf in TIMEFRAMES]
    assert symbols(board_of(wanted, None, old, NOW)) == []


def test_rows_are_sorted_with_what_is_unknown_last():
    values: dict[str, Sequence[float | None]] = {
        "B-USD": [-200, 5, 3, 0, 0],
        "A-USD": [100, 5, 2, 0, 0],
        "C-USD": [None, None, 4, 0, 0],
        "D-USD": [None, None, None, None, None],
    }

    def order(name: str, *timeframes: Timeframe) -> str:
        found = board(values, attrs.evolve(WANTED, order=name, timeframes=timeframes or TIMEFRAMES))
        return "".join(symbol[0] for symbol in symbols(found))

    assert order("symbol") == "ABCD"
    assert order("macdv") == "ABCD"
    assert order("macdv", Timeframe.H1) == "CBAD"
    assert order("extreme") == "BACD"
    assert order("1h") == "CBAD"


def test_the_bias_is_of_the_readings_that_are_current():
    found = [
        latest(timeframe=tf, macdv=-200.0, behind=int(tf is not Timeframe.H1)) for tf in TIMEFRAMES
    ]
    (row,) = board_of(WANTED, None, found, NOW).rows
    assert (row.bias, row.bias_timeframes) == ("bullish", 1)
    (row,) = board({"BTC-USD": [None] * 5}).rows
    assert (row.bias, row.bias_timeframes) == (None, 0)


def test_as_json_there_is_one_entry_per_symbol_with_the_timeframes_that_were_asked_for():
    wanted = attrs.evolve(WANTED, timeframes=(Timeframe.H1,))
    said = json.loads(msgspec.json.encode(document(board({"BTC-USD": [1, 2, 3, 4, 5]}, wanted))))
    (one,) = said["symbols"]
    assert (one["symbol"], one["liquidity"]) == ("BTC-USD", "high")
    assert list(one["readings"]) == ["1h"]
    assert one["readings"]["1h"]["macdv"] == 3
    assert said["daemon"] is None


# -- close to a level -------------------------------------------------------------------------


def test_both_signs_are_meant_and_the_nearest_comes_first():
    found = [latest(f"{k}-USD", macdv=v) for k, v in enumerate([141.0, -152.0, 149.5, 161.0, 0.0])]
    hits, left_out = close_to(found, (150.0,), 10.0)
    assert [(hit.macdv, hit.level, hit.distance) for hit in hits] == [
        (149.5, 150.0, -0.5),
        (-152.0, -150.0, 2.0),
        (141.0, 150.0, -9.0),
    ]
    assert left_out == {}


@given(st.lists(st.floats(-500, 500), max_size=20), st.floats(0, 60))
def test_nothing_near_is_left_out_and_nothing_far_is_listed(values: list[float], within: float):
    levels = (150.0, 200.0)
    found = [latest(f"{k}-USD", macdv=v) for k, v in enumerate(values)]
    hits, _ = close_to(found, levels, within)
    near = {
        k
        for k, v in enumerate(values)
        if min(abs(v - sign * level) for level in levels for sign in (1, -1)) <= within
    }
    assert {int(hit.found.series.symbol.split("-")[0]) for hit in hits} == near
    distances = [abs(hit.distance) for hit in hits]
    assert distances == sorted(distances)


def test_what_is_not_current_is_left_out_and_counted():
    damaged = attrs.evolve(bare(), trouble="the stored reading is not understood: x")
    found = [latest(macdv=150.0, behind=1), latest(macdv=None), bare(), damaged]
    hits, left_out = close_to([*found, latest(macdv=150.0)], (150.0,), 10.0)
    assert len(hits) == 1
    assert left_out == {"old": 1, "withheld": 1, "not stored": 1, "not understood": 1}
    assert summary(hits, 5, left_out, (150.0,), 10.0) == (
        "1 of 1 readings within 10 of ±150; "
        "left out: 1 not stored, 1 not understood, 1 old, 1 withheld"
    )


def test_nothing_near_is_said():
    assert summary([], 3, {}, (150.0, 200.0), 5.0) == "none of 3 readings within 5 of ±150 or ±200"


def test_every_stage_has_an_abbreviation():
    for one in Stage:
        value = {"oversold": -200.0, "overbought": 200.0, "rallying": 60.0}.get(one, 10.0)
        reading = latest(macdv=value).reading
        assert reading is not None
        changed = attrs.evolve(latest(), reading=msgspec.structs.replace(reading, stage=one))
        assert len(cell(changed, 1).plain.split()[-1]) == 2
