"""What ``status`` shows, from what a daemon may say; no store is involved."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from livermore.adapters.store import Held
from livermore.cli.status import document, figures_of, line, not_running, panel
from livermore.cli.store import Status
from livermore.cli.words import words_of
from livermore.errors import MalformedMessage

NOW = 1_800_000_020_000
SAID: dict[str, Any] = {
    "exchange": "coinbase",
    "title": "Coinbase",
    "pid": 4711,
    "host": "box",
    "version": "0.1.0",
    "epoch": 3,
    "state": "live",
    "since": NOW - 3_600_000,
    "note": "a note",
    "clock": NOW,
    "started": NOW - 3_700_000,
    "symbols": ["BTC-USD"],
    "rejected": {"DOG-USD": "not listed"},
    "notices": ["BTC-USDC is BTC-USD"],
    "connections": [{"name": "coinbase/1", "state": "live", "since": NOW - 60_000, "symbols": 1}],
    "newest_close": NOW - 20_000,
    "newest_close_age": 20_000,
    "close_lag": {"p50": 150, "p99": 900, "count": 12},
    "history": {"done": 5, "total": 5},
    "gaps": 0,
    "budget": {"per_second": 8.0, "used_last_minute": 3, "refusals": 2},
    "reconnects": 0,
    "pending": 0,
    "counts": {"malformed": 1, "late_trades": 0},
}


def status(said: dict[str, Any], age: int = 0) -> Status:
    return Status(words_of("coinbase", said), said, age)


def shown(said: dict[str, Any], age: int = 0, width: int = 100) -> str:
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(panel("coinbase", status(said, age)))
    return captured.get()


@pytest.mark.parametrize("missing", sorted(SAID))
def test_a_missing_or_empty_field_is_no_reason_to_fail(missing: str):
    for said in ({k: v for k, v in SAID.items() if k != missing}, {**SAID, missing: None}):
        assert shown(said)
        assert line("coinbase", status(said))
        json.dumps(document(status(said)))


def test_those_that_stand_by_are_shown():
    found = attrs.evolve(status(SAID), standbys=("process 5 on box, since noon",))
    console = Console(width=100, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(panel("coinbase", found))
    assert "process 5 on box, since noon" in captured.get()
    assert document(found)["standbys"] == ["process 5 on box, since noon"]


def test_without_a_daemon_it_is_told_who_holds_the_lease_and_who_will():
    said = str(not_running("coinbase", Held("process 4 on box", 12_000, ())))
    assert said == "no daemon is running for coinbase: process 4 on box still holds it for 12 s"
    said = str(not_running("coinbase", Held("process 4 on box", 12_000, ("process 5 on box",))))
    assert said.endswith("for 12 s, then takes over: process 5 on box stands by")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(SAID)), JSON, max_size=6))
def test_fields_of_another_type_are_one_line(changes: dict[str, Any]):
    said = {**SAID, **changes}
    try:
        found = status(said)
    except MalformedMessage as error:
        assert "\n" not in str(error)
        return
    assert shown(said)
    assert line("coinbase", found)
    json.dumps(document(found))


def test_the_panel_says_what_a_person_asks_for():
    text = shown(SAID)
    for wanted in (
        "● live since 2027-01-15T07:00:20Z",
        "a note",
        "1 symbols: BTC-USD",
        "2027-01-15T08:00:00Z, 20 s ago",
        "150 ms after the end (p50), 900 ms (p99), 12 closes",
        "complete",
        "3 requests in the last minute, 8 per second allowed, refused 2 times",
        "malformed 1",
        "coinbase/1",
        "DOG-USD is not followed: not listed",
        "BTC-USDC is BTC-USD",
    ):
        assert wanted in text
    assert "late trades" not in text
    assert max(map(len, text.splitlines())) <= 100


CONNECTIONS = [
    {
        "name": "coinbase/1", "state": "connecting", "since": NOW - 60_000, "symbols": 25,
        "frames": 123_456, "reconnects": 12, "error": "ended by the exchange: 1006 abnormal",
    },
    {"name": "coinbase/2", "state": "live", "since": 5.0},
]  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_nothing_of_a_connection_is_cut_on_a_narrow_terminal(width: int):
    text = shown({**SAID, "connections": CONNECTIONS}, width=width)
    assert max(map(len, text.splitlines())) <= min(width, 140)
    words = " ".join(text.replace("│", " ").split())
    for wanted in ("coinbase/1", "connecting", "123456", "reconnects", "last error", "coinbase/2"):
        assert wanted in words
    assert "…" not in words
    if width >= 60:
        assert "ended by the exchange: 1006 abnormal" in words
    assert text.count("reconnects") == 1, "one line of headings, or one block"
    assert ("state for symbols frames" in words) == (width >= 100)


def figures(**changes: object) -> dict[str, str]:
    return dict(figures_of(words_of("coinbase", {**SAID, **changes})))


def test_unfinished_history_and_open_gaps_are_counted():
    said = figures(history={"done": 3, "total": 5}, gaps=2)
    assert said["history"] == "3 of 5 series"
    assert said["gaps"] == "2 (see: livermore gaps)"
    assert figures(newest_close=None)["newest close"] == "none yet"


def test_markup_in_the_words_of_others_is_shown_as_it_is():
    said = {**SAID, "note": "[red]boo[/]", "title": "[bold]x", "notices": ["[/] [link=x]"]}
    text = shown(said)
    assert "[red]boo[/]" in text
    assert "[bold]x" in text
    assert "[/] [link=x]" in text


def test_a_connections_age_may_be_a_time_or_seconds():
    for since, wanted in ((NOW - 60_000, "1 min"), (60.4, "1 min"), (None, "–")):
        connection = {"name": "c/1", "state": "live", "since": since}
        row = next(
            x for x in shown({**SAID, "connections": [connection]}).splitlines() if "c/1" in x
        )
        assert wanted in row
    found = status({"connections": [{"since": 60.4}]})
    assert document(found)["connections"] == [{"since": 60.4}]


def test_only_an_old_status_is_called_old():
    assert "may be gone" not in shown(SAID, age=19_999)
    assert "these words are 20 s old" in shown(SAID, age=20_000)


def test_a_history_that_was_not_looked_at_is_not_called_complete():
    said = {**SAID, "history": {"done": 0, "total": 0}}
    assert dict(figures_of(words_of("coinbase", said)))["history"] == "not looked at yet"
