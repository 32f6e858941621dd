"""The demo's screen: it fits, and it never lies about what it left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from livermore.cli.screen import Row, View, brief, price, screen, sparks
from livermore.cli.words import Words
from livermore.market.timeframe import TIMEFRAMES

READING = {"macdv": -180.25, "stage": "oversold"}
EVENT: tuple[str, Mapping[str, Any]] = (
    "close",
    {"open_time": 1_800_000_000_000, "symbol": "BTC-USD", "timeframe": "5m", "close": 91234.5},
)


def view(symbols: int, events: int = 100, **status: Any) -> View:
    rows = [
        Row(f"S{n}-USD", 91234.56, [1.0, 2.0, 3.0], dict.fromkeys(TIMEFRAMES, READING))
        for n in range(symbols)
    ]
    words = Words(**{"state": "live", **status})
    return View("coinbase, simulated", words, rows, [EVENT] * events)


def rendered(what: View, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as captured:
        console.print(screen(what, width, height))
    return captured.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (120, 40), (160, 50)])
@pytest.mark.parametrize("symbols", [1, 8, 60])
def test_it_fills_the_terminal_and_no_more(width: int, height: int, symbols: int):
    lines = rendered(view(symbols), width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines[4:])


def test_symbols_that_do_not_fit_are_counted():
    text = "\n".join(rendered(view(60), 80, 24))
    assert "S14-USD" in text
    assert "S15-USD" not in text
    assert "45 more symbols do not fit" in text
    assert "oversold" in "\n".join(rendered(view(8), 80, 24))


def test_before_anything_is_known_it_says_starting():
    lines = rendered(View("coinbase", Words(), (), ()), 80, 24)
    assert "● starting" in lines[1]


def test_blindness_has_its_reason_in_the_header():
    lines = rendered(view(1, state="blind", note="the socket is silent"), 80, 24)
    assert "● blind" in lines[1]
    assert "the socket is silent" in lines[2]


def test_stages_are_written_out_where_there_is_room():
    assert "-180.2 oversold" in rendered(view(1), 120, 24)[5]
    assert "oversold" not in rendered(view(1), 80, 24)[5]


def test_a_withheld_reading_gives_its_reason():
    said = {"open_time": 0, "symbol": "A-USD", "timeframe": "1h", "macdv": None, "withheld": "why"}
    assert brief("reading", said).plain == "00:00 A-USD      1h  reading    withheld: why"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (91234.5, "91,234.5"),
        (4.1e-06, "0.0000041"),
        (2.0, "2"),
    ],
)
def test_prices_are_exact(value: float | None, text: str):
    assert price(value) == text


def test_sparks_span_the_range():
    assert sparks([1, 2, 8]) == "▁▂█"
    assert sparks([5, 5]) == "▁▁"
    assert sparks([]) == ""
