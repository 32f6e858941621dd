"""What comes from outside and may be anything."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.errors import MalformedMessage
from livermore.market.wire import converted, decoded, figure, one_line, retry_after, unreadable


class Shape(msgspec.Struct):
    number: int


@pytest.mark.parametrize(
    ("value", "figured"),
    [("1.5", 1.5), (2, 2.0), ("0", 0.0), (0.0, 0.0), (None, None), ("", None), ("x", None)]
    + [(text, None) for text in ("nan", "inf", "-1", "1e400")],
)
def test_a_figure_is_finite_and_not_negative_or_missing(
    value: str | float | None, figured: float | None
) -> None:
    assert figure(value) == figured


def test_numbers_in_quotes_are_numbers_and_other_text_is_none() -> None:
    assert converted({"number": "7"}, Shape) == Shape(7)
    assert converted({"number": "x"}, Shape) is None
    assert converted(None, Shape) is None
    assert decoded(b'{"number":"7"}', Shape, "here", "odd") == Shape(7)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"number":7,"more":"\xff"}', b"[" * 100_000])
def test_a_reply_that_cannot_be_read_is_refused_in_one_line(body: bytes) -> None:
    with pytest.raises(MalformedMessage, match=r"^here: unreadable odd reply") as refused:
        decoded(body, Shape, "here", "odd")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


def test_what_nests_too_deep_is_called_so() -> None:
    assert str(unreadable("here", RecursionError(), "[[")) == "here: frame nested too deep: '[['"
    assert str(unreadable("here", ValueError("a\nb"), "x")) == "here: unreadable frame (a b): 'x'"


@given(st.text(), st.integers(1, 50))
def test_somebody_elses_words_are_one_short_printable_line(text: str, length: int) -> None:
    line = one_line(text, length)
    assert line.isprintable()
    assert len(line) <= length
    assert "  " not in line
    assert line == line.strip()


DATE = "Fri, 20 Nov 2026 05:00:00 GMT"


@pytest.mark.parametrize(
    ("told", "wait"),
    [
        ("7", 7.0),
        ("0", 2.0),
        ("9" * 5000, 50.0),
        ("Fri, 20 Nov 2026 05:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 04:00:00 GMT", 2.0),
        ("Sat, 21 Nov 2026 05:00:00 GMT", 50.0),
        ("", 10.0),
        ("soon", 10.0),
        ("-5", 10.0),
        ("\u0667", 10.0),
    ],
)
def test_how_long_to_stay_away_is_told_in_seconds_or_as_a_date(told: str, wait: float) -> None:
    headers = {"retry-after": told, "date": DATE}
    assert retry_after(headers, untold=10.0, least=2.0, most=50.0) == wait


def test_a_date_without_the_date_of_the_reply_says_nothing() -> None:
    assert retry_after({"retry-after": DATE}, untold=10.0, least=2.0, most=50.0) == 10.0
    assert retry_after({}, untold=10.0, least=2.0, most=50.0) == 10.0
