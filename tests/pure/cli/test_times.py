"""Times and durations as people write and read them."""

from __future__ import annotations

import contextlib
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.cli.times import iso, length, since
from livermore.errors import UsageError

NOW = 1_800_000_020_456


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2h", 1_799_992_820_000),
        ("2027-01-15T07:00:00Z", 1_799_996_400_000),
        ("2027-01-15T08:00:00+01:00", 1_799_996_400_000),
        ("2027-01-15 07:00", 1_799_996_400_000),
        ("2027-01-15", 1_799_971_200_000),
        ("1969-01-01", 0),
        ("5200w", 0),
    ],
)
def test_since_is_a_time_ago_or_an_iso_time_in_utc(text: str, time: int):
    assert since(text, NOW) == time


@pytest.mark.parametrize("text", ["", "yesterday", "5", "2027-13-01", "2028-01-01", "0h", "1x"])
def test_other_words_and_the_future_are_refused(text: str):
    with pytest.raises(UsageError):
        since(text, NOW)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_a_usage_error(text: str):
    with contextlib.suppress(UsageError):
        assert 0 <= since(text, NOW) <= NOW


@given(st.integers(0, 4_000_000_000_000))
def test_iso_loses_nothing(time: int):
    text = iso(time)
    assert text.endswith("Z")
    assert datetime.fromisoformat(text).timestamp() * 1000 == pytest.approx(time, abs=0.5)


def test_times_beyond_the_calendar_are_numbers():
    assert iso(10**17) == f"{10**17} ms"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "0 ms"),
        (850, "850 ms"),
        (12_999, "12 s"),
        (60_000, "1 min"),
        (200_000, "3 min 20 s"),
        (7_500_000, "2 h 5 min"),
        (86_400_000, "1 d"),
        (90_000_000, "1 d 1 h"),
    ],
)
def test_lengths_are_told_in_two_units(ms: int, text: str):
    assert length(ms) == text
