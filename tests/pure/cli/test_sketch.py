"""A chart in the terminal, as text."""

from __future__ import annotations

import itertools
import math

import attrs
import pytest
from rich.cells import cell_len

from livermore.cli.sketch import ASCII, COLOURED, UNCOLOURED, signs, sketch
from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.timeframe import Timeframe
from livermore.signals.anchor import Start
from livermore.signals.course import readings_along

BTC = Series("coinbase", "BTC-USD", Timeframe.H1)
START = 1_772_323_200_000
"""2026-03-01, midnight."""


PANELS = 32
"""Rows of both panels on a terminal of 40 lines."""


def wave(count: int) -> list[Candle]:
    closes = [round(100 + 10 * math.sin(k / 7) + 3 * math.sin(k / 2), 2) for k in range(count + 1)]
    return [
        Candle(
            BTC, START + k * BTC.timeframe.ms, a, max(a, b) + 0.5, min(a, b) - 0.5, b,
            2.0 + k % 5, Kind.TRADED, Evidence.REST,
        )
        for k, (a, b) in enumerate(itertools.pairwise(closes))
    ]  # fmt: skip


def drawn(candles: list[Candle], *, bars=60, width=120, height=40, using=COLOURED, note=""):
    readings = readings_along(Start(None, candles), bars)
    size = {"bars": bars, "width": width, "height": height}
    return [
        line.plain for line in sketch(candles[-bars:], readings, **size, using=using, note=note)
    ]


def columns(lines: list[str]) -> list[str]:
    """The cells of the panels, from left to right."""
    rows = [line.ljust(200) for line in lines[-PANELS - 2 : -2]]
    return ["".join(column).rstrip() for column in zip(*rows, strict=True)]


def test_it_fits_the_terminal():
    for width, height in ((120, 40), (80, 24), (40, 24), (44, 60)):
        lines = drawn(wave(300), width=width, height=height)
        assert max(map(cell_len, lines)) <= width
        assert len(lines) <= max(height - 1, 23), (width, height)


def test_as_many_candles_are_drawn_as_there_are_columns_for():
    lines = drawn(wave(300), width=40)
    assert any("there is no room for more" in line for line in lines)
    assert not any("there is no room" in line for line in drawn(wave(300), width=120))
    assert not any("there is no room" in line for line in drawn(wave(7), width=120))


def test_it_says_what_of_whom_and_when():
    lines = drawn(wave(300))
    assert lines[0].startswith("BTC-USD 1h coinbase  ")
    assert lines[1].endswith(" at 2026-03-13 12:00 UTC")
    assert lines[2].startswith("MACD-V ")
    assert "withheld" not in lines[2]


def test_every_candle_has_a_column_and_its_volume():
    lines = drawn(wave(300), bars=50, width=70)
    bodies = [c for c in columns(lines)[:50] if "█" in c or "│" in c]
    assert len(bodies) == 50


def test_a_missing_slot_is_a_column_of_its_own_in_both_panels():
    candles = wave(300)
    del candles[280:283]
    lines = drawn(candles, bars=60, width=75)
    gone = [k for k, column in enumerate(columns(lines)) if set(column) == {"░"}]
    assert gone == [40, 41, 42]
    assert "░ 3 missing" in lines[-1]


def test_withheld_readings_are_no_points_and_say_why():
    candles = wave(300)
    del candles[280:283]
    lines = drawn(candles, width=75)
    assert all("•" not in column for column in columns(lines)[43:60])
    assert any("MACD-V withheld: missing candle" in line for line in lines)


def test_an_empty_candle_has_no_body():
    candles = wave(299)
    candles.append(empty(BTC, candles[-1].close_time, candles[-1].close, Evidence.REST, 0))
    lines = drawn(candles, bars=60, width=75)
    last = columns(lines)[59]
    assert "o" in last
    assert "█" not in last
    assert "o 1 empty" in lines[-1]
    assert lines[1].endswith(", empty")


def test_what_rest_has_not_confirmed_is_counted():
    candles = wave(299)
    candles.append(
        attrs.evolve(candles[-1], open_time=candles[-1].close_time, evidence=Evidence.STREAM)
    )
    assert "1 not confirmed" in drawn(candles)[-1]


def test_a_warning_is_whole_on_a_narrow_terminal():
    note = "OLD: 12 closed candles are missing after this one; no daemon is running for coinbase"
    lines = drawn(wave(300), width=40, note=note)
    assert note in " ".join(lines)


@pytest.mark.parametrize(
    ("encoding", "coloured", "expected"),
    [
        ("utf-8", True, COLOURED),
        ("utf-8", False, UNCOLOURED),
        ("ascii", True, ASCII),
        ("latin-1", True, ASCII),
        ("no-such-encoding", True, ASCII),
    ],
)
def test_signs_are_those_the_terminal_can_show(encoding, coloured, expected):
    assert signs(encoding, coloured=coloured) is expected


def test_without_colours_rising_and_falling_differ():
    for using in (UNCOLOURED, ASCII):
        assert using.rising != using.falling
        panel = "".join(columns(drawn(wave(300), using=using)))
        assert using.rising in panel
        assert using.falling in panel


def test_ascii_is_ascii():
    candles = wave(300)
    del candles[280]
    assert all(line.isascii() for line in drawn(candles, using=ASCII))
