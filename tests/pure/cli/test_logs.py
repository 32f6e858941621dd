"""A line of the log is a line, whatever others put into it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from livermore.cli.logs import JsonLines, Lines


def record(fields: dict[str, Any], level: int = logging.WARNING) -> logging.LogRecord:
    made = logging.LogRecord("livermore.coinbase", level, "", 0, "blind", (), None)
    made.created = 1_800_000_000.25
    made.fields = fields
    return made


def test_an_event_is_a_line_with_its_figures():
    line = Lines().format(record({"why": "no frame for 30 s", "symbols": 3}))
    assert line == "08:00:00 ! coinbase: blind why='no frame for 30 s' symbols=3"


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\u2028b", "\x1b[31mred", "a b\nc", "\x00"])
@pytest.mark.parametrize("formatter", [Lines(), JsonLines()])
def test_what_an_exchange_says_breaks_no_line_and_no_terminal(
    text: str, formatter: logging.Formatter
):
    line = formatter.format(record({"message": text}))
    assert line.isprintable()
    assert len(line.splitlines()) == 1


def test_json_lines_hold_the_text_as_it_was():
    entry = json.loads(JsonLines().format(record({"why": "a\nb", "count": 3})))
    assert entry == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "warning",
        "logger": "livermore.coinbase",
        "event": "blind",
        "why": "a\nb",
        "count": 3,
    }


def test_nothing_is_shown_as_nothing():
    assert Lines().format(record({"why": ""})).endswith("why=''")
