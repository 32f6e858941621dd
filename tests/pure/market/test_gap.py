"""Gaps: as the ledger holds them, and how ranges are cut."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.errors import MalformedMessage
from livermore.market.candle import Series
from livermore.market.certificate import Compared
from livermore.market.gap import VERIFY, Gap, Lane, Outcome, decode_gap, encode_gap, pages
from livermore.market.timeframe import Timeframe

MS = Timeframe.M5.ms
GAP = Gap(Series("coinbase", "BTC-USD", Timeframe.M5), 3 * MS, 5 * MS, "a restart", 77)
MOMENTS = st.integers(0, 2**53)


@given(
    timeframe=st.sampled_from(Timeframe),
    first=st.integers(0, 10**6),
    slots=st.integers(1, 1000),
    found=MOMENTS,
    lane=st.sampled_from(Lane),
    attempts=st.integers(0, 99),
    omitted_at=st.none() | MOMENTS,
    outcome=st.sampled_from(Outcome),
    ended=st.none() | MOMENTS,
    note=st.text(),
    compared=st.none() | st.builds(Compared, *[st.integers(0, 1000)] * 7),
    owner=st.sampled_from(["", "alice", "auth0|5f"]),
)
def test_the_ledger_gives_back_the_gap_it_was_given(
    timeframe: Timeframe, first: int, slots: int, found: int, lane: Lane, attempts: int,
    omitted_at: int | None, outcome: Outcome, ended: int | None, note: str,
    compared: Compared | None, owner: str,
) -> None:  # fmt: skip
    start = first * timeframe.ms
    gap = Gap(
        Series("coinbase", "BTC-USD", timeframe, owner), start, start + (slots - 1) * timeframe.ms,
        "cause", found, lane, attempts, found, omitted_at, outcome, ended, note, compared,
    )  # fmt: skip
    assert decode_gap("coinbase", encode_gap(gap)) == gap
    assert gap.slots == slots


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("5m", "7m"),
        ('"first":900000', '"first":900001'),
        ('"first":900000', '"first":1800000'),
        ('"first":900000', '"first":-300000'),
        ('"last":1500000', '"last":"x"'),
        ('"found":77', '"found":77,"lane":9'),
        ('"found":77', '"found":77,"outcome":"lost"'),
        ("{", ""),
    ],
)
def test_an_entry_that_is_no_gap_is_refused(old: str, new: str) -> None:
    text = encode_gap(GAP).decode()
    assert old in text
    with pytest.raises(MalformedMessage):
        decode_gap("coinbase", text.replace(old, new, 1).encode())


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        decode_gap("coinbase", b'{"symbol":"\xff\xfe"}')


def test_gaps_of_one_series_that_begin_together_have_one_name() -> None:
    assert GAP.name == "BTC-USD:5m:900000"


def test_no_slots_make_no_pages() -> None:
    assert list(pages(MS, 0, Timeframe.M5, 300)) == []


def test_a_page_too_small_for_a_seam_is_refused_instead_of_going_on_for_ever() -> None:
    with pytest.raises(ValueError, match="seam"):
        next(pages(0, MS, Timeframe.M5, 1))


def test_a_range_to_verify_and_a_gap_at_the_same_place_are_two_entries() -> None:
    to_verify = Gap(GAP.series, GAP.first, GAP.last, VERIFY, 77)
    assert to_verify.name != GAP.name
    assert decode_gap("coinbase", encode_gap(to_verify)) == to_verify


def test_the_same_gap_of_two_owners_is_two_entries() -> None:
    alice = attrs.evolve(GAP, series=attrs.evolve(GAP.series, owner="alice"))
    assert alice.name != GAP.name
    assert b"owner" not in encode_gap(GAP), "an older version reads it"
