"""What is asked of REST, and what its answers prove."""

from __future__ import annotations

import itertools
import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.market.candle import REST_SETTLED, Candle, Evidence, Kind, Series, empty
from livermore.market.gap import SECOND_LOOK, SETTLED, merge, pages
from livermore.market.history import (
    BELATED,
    DEEPEST,
    DEPTH,
    OBSERVED,
    Page,
    Row,
    against,
    deeper,
    read_page,
    wanted,
    window,
)
from livermore.market.timeframe import Timeframe

M5 = Series("coinbase", "BTC-USD", Timeframe.M5)
MS = Timeframe.M5.ms
T0 = 5_000_000 * MS
LATER = T0 + 1_000 * MS


def row(slot: int, price: float = 10.0, volume: float = 1.0) -> Row:
    return Row(T0 + slot * MS, price, price + 1, price - 1, price, volume)


def read(rows: list[Row], first: int, last: int, asked_at: int = LATER, **more: object) -> Page:
    return read_page(M5, rows, T0 + first * MS, T0 + last * MS, asked_at, **more)  # type: ignore[arg-type]


def kinds(page: Page) -> str:
    """One letter per slot of the page from T0 on: t traded, e empty, ? unproved."""
    found = {c.open_time: c.kind.value[0] for c in page.candles}
    found |= dict.fromkeys(page.unproved, "?")
    return "".join(found[t] for t in sorted(found))


def test_an_omitted_slot_before_a_newer_row_is_empty_at_the_close_before_it() -> None:
    page = read([row(0, 9.0), row(3)], 0, 3)
    assert kinds(page) == "teet"
    assert [c.close for c in page.candles] == [9.0, 9.0, 9.0, 10.0]
    assert {c.evidence for c in page.candles} == {Evidence.REST}


def test_an_omitted_slot_is_not_empty_before_two_minutes_have_passed() -> None:
    rows = [row(0), row(2)]
    end = T0 + 2 * MS
    assert kinds(read(rows, 0, 1, end + SETTLED - 1)) == "t?"
    assert kinds(read(rows, 0, 1, end + SETTLED)) == "te"


def test_an_omitted_slot_is_not_empty_without_a_newer_row_or_a_second_look() -> None:
    end = T0 + 2 * MS
    assert kinds(read([row(0)], 0, 1)) == "t?"
    asked = end + SECOND_LOOK + 10
    assert kinds(read([row(0)], 0, 1, asked, omitted_at=end + 11)) == "t?"
    assert kinds(read([row(0)], 0, 1, asked, omitted_at=end + 10)) == "te"


def test_a_first_look_before_the_slots_end_is_no_look() -> None:
    end = T0 + 2 * MS
    page = read([row(0)], 0, 1, end + SECOND_LOOK, omitted_at=end - 1)
    assert kinds(page) == "t?"


def test_an_empty_has_no_price_where_none_is_known() -> None:
    assert kinds(read([row(2)], 0, 2)) == "??t"
    assert kinds(read([row(2)], 0, 2, price_before=8.0)) == "eet"
    assert kinds(read([row(-1), row(2)], 0, 2)) == "eet"


def test_the_row_at_the_seam_goes_before_the_stored_price() -> None:
    page = read([row(-1, 20.0), row(1)], 0, 1, price_before=8.0)
    assert page.candles[0].close == 20.0


def test_the_price_is_unknown_behind_a_slot_that_is_unproved() -> None:
    bad = attrs.evolve(row(1), low=-1.0)
    assert kinds(read([row(0), bad, row(4)], 0, 4)) == "t???t"


def test_an_exchange_that_sends_every_slot_proves_nothing_by_leaving_one_out() -> None:
    assert kinds(read([row(0), row(2)], 0, 2, omits_empties=False)) == "t?t"


def test_the_running_candle_is_dropped_but_is_a_newer_row() -> None:
    asked = T0 + 2 * MS + SETTLED
    page = read([row(0), row(2)], 0, 2, asked)
    assert kinds(page) == "te"
    assert kinds(read([row(0), row(1)], 0, 1, T0 + 2 * MS - 1)) == "t"


@pytest.mark.parametrize(
    "bad",
    [
        attrs.evolve(row(1), high=1.0),
        attrs.evolve(row(1), close=math.nan),
        attrs.evolve(row(1), volume=-1.0),
        attrs.evolve(row(1), open_time=T0 + MS + 1),
    ],
)
def test_an_impossible_row_is_skipped_and_its_slot_is_not_empty(bad: Row) -> None:
    page = read([row(0), bad, row(2)], 0, 2)
    assert kinds(page) == "t?t"
    assert page.impossible == 1


def test_an_impossible_or_future_row_is_no_newer_row() -> None:
    for bad in (attrs.evolve(row(5), high=1.0), row(5_000)):
        page = read([row(0), bad], 0, 1)
        assert kinds(page) == "t?"
        assert page.impossible == 1


def test_order_and_repetition_of_rows_do_not_matter() -> None:
    rows = [row(0), row(1, 12.0, 3.0), row(3)]
    page = read(rows, 0, 3)
    assert read([rows[2], row(1, 12.0, 2.0), rows[1], rows[0], rows[1]], 0, 3) == page
    assert read([rows[1], row(1, 12.0, 2.0), rows[2], rows[0]], 0, 3) == page


def test_a_row_read_soon_after_its_end_ranks_as_stream() -> None:
    for age, evidence in ((REST_SETTLED - 1, Evidence.STREAM), (REST_SETTLED, Evidence.REST)):
        page = read([row(0)], 0, 0, T0 + MS + age)
        assert page.candles[0].evidence is evidence
        assert page.candles[0].as_of == T0 + MS + age


def test_a_flat_row_without_volume_is_empty_and_a_moving_one_is_not() -> None:
    flat = Row(T0, 5.0, 5.0, 5.0, 5.0, 0.0)
    page = read([flat, row(1, volume=0.0)], 0, 1)
    assert [c.kind for c in page.candles] == [Kind.EMPTY, Kind.TRADED]


@given(
    traded=st.sets(st.integers(0, 40)),
    asked=st.integers(0, 45),
    second=st.integers(0, MS - 1),
    first=st.integers(0, 20),
    length=st.integers(0, 20),
    looked=st.none() | st.integers(-MS, 45 * MS),
)
def test_every_ended_slot_is_in_the_page_once_and_no_trade_is_called_empty(
    traded: set[int], asked: int, second: int, first: int, length: int, looked: int | None
) -> None:
    asked_at = T0 + asked * MS + second
    rows = [row(slot) for slot in sorted(traded) if slot <= asked]
    omitted_at = None if looked is None else T0 + looked
    page = read(rows, first, first + length, asked_at, omitted_at=omitted_at, price_before=3.0)
    told = [c.open_time for c in page.candles]
    ended = [
        t for t in range(T0 + first * MS, T0 + (first + length) * MS + 1, MS) if t + MS <= asked_at
    ]
    assert told == sorted(told)
    assert sorted([*told, *page.unproved]) == ended
    for candle in page.candles:
        assert (candle.kind is Kind.TRADED) is ((candle.open_time - T0) // MS in traded)


@given(first=st.integers(0, 50), length=st.integers(1, 1500), rows=st.integers(2, 400))
def test_pages_cover_the_range_and_share_their_seams(first: int, length: int, rows: int) -> None:
    start, end = T0 + first * MS, T0 + (first + length - 1) * MS
    cut = list(pages(start, end, Timeframe.M5, rows))
    assert cut[0][1] == end
    assert cut[-1][0] == start
    assert all((last - begin) // MS + 1 <= rows for begin, last in cut)
    assert all(newer[0] == older[1] for newer, older in itertools.pairwise(cut))


@given(
    traded=st.sets(st.integers(0, 60), min_size=1),
    rows=st.integers(2, 12),
    loses=st.booleans(),
)
def test_a_download_page_by_page_loses_no_candle_at_its_seams(
    traded: set[int], rows: int, loses: bool
) -> None:
    """Even from an exchange that leaves out the newest row of a page."""
    traded |= {-1}
    found: set[int] = set()
    empties: set[int] = set()
    for begin, last in pages(T0, T0 + 60 * MS, Timeframe.M5, rows):
        low, high = (begin - T0) // MS, (last - T0) // MS
        given_rows = [row(s) for s in sorted(traded) if low <= s <= high - (loses and high < 60)]
        page = read_page(M5, given_rows, begin, last, LATER, price_before=1.0)
        for candle in page.candles:
            slot = (candle.open_time - T0) // MS
            (found if candle.kind is Kind.TRADED else empties).add(slot)
    assert found == {s for s in traded if s >= 0}
    assert not (empties & traded)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9))))
def test_merged_ranges_cover_the_same_slots_and_lie_apart(given_: list[tuple[int, int]]) -> None:
    ranges = [(T0 + a * MS, T0 + (a + n) * MS) for a, n in given_]
    merged = merge(ranges, Timeframe.M5)
    slots = {t for first, last in ranges for t in range(first, last + 1, MS)}
    assert [t for first, last in merged for t in range(first, last + 1, MS)] == sorted(slots)
    assert all(b[0] - a[1] > MS for a, b in itertools.pairwise(merged))


NOW = T0 + 100_000
FIRST, LAST = window(Timeframe.M5, NOW)


def test_the_window_holds_the_newest_closed_slots() -> None:
    assert T0 - MS == LAST
    assert (LAST - FIRST) // MS + 1 == DEPTH


def test_what_was_asked_for_before_the_oldest_candle_is_not_wanted_again() -> None:
    oldest = LAST - 10 * MS
    missing = [(FIRST, oldest - MS), (oldest + 2 * MS, oldest + 3 * MS)]
    want = wanted(Timeframe.M5, NOW, missing=missing, oldest=oldest, asked_from=FIRST)
    assert want == [missing[1]]
    half = LAST - 100 * MS
    want = wanted(Timeframe.M5, NOW, missing=missing, oldest=oldest, asked_from=half)
    assert want == [missing[1], (FIRST, half - MS)]


def test_everything_missing_is_wanted_newest_first_and_only_within_the_window() -> None:
    missing = [(FIRST - 5 * MS, FIRST + MS), (LAST, LAST + 3 * MS)]
    never = wanted(Timeframe.M5, NOW, missing=missing, oldest=None, asked_from=FIRST, ever=False)
    assert never == [], "REST had nothing at all: the first candle comes from the stream"
    want = wanted(Timeframe.M5, NOW, missing=missing, oldest=None, asked_from=None)
    assert want == [(LAST, LAST), (FIRST, FIRST + MS)]


def test_a_hole_between_stored_candles_is_wanted_however_old_in_a_range_of_its_own() -> None:
    oldest = FIRST - 200 * MS
    before = (oldest - 400 * MS, oldest - MS)
    across = (FIRST - 7 * MS, FIRST + 2 * MS)
    missing = [before, (oldest + MS, oldest + MS), across]
    want = wanted(Timeframe.M5, NOW, missing=missing, oldest=oldest, asked_from=oldest)
    assert want == [(FIRST, FIRST + 2 * MS), (FIRST - 7 * MS, FIRST - MS), missing[1]]


def test_the_first_bar_of_a_symbol_that_began_to_trade_within_it_is_wanted() -> None:
    hour = Timeframe.H1
    last = hour.last_closed(NOW)
    missing = [(last - 299 * hour.ms, last)]
    began = last - 2 * hour.ms + 25 * 60_000
    want = wanted(
        hour, NOW, missing=missing, oldest=None, asked_from=missing[0][0], ever=False,
        traded_from=began,
    )  # fmt: skip
    assert want == [(last - 2 * hour.ms, last)]
    want = wanted(
        hour, NOW, missing=missing, oldest=None, asked_from=missing[0][0], ever=False,
        traded_from=last + hour.ms + 60_000,
    )  # fmt: skip
    assert want == [], "its first bar still runs"


def test_history_is_deepened_until_enough_traded_or_the_depth_is_reached() -> None:
    def ask(traded: int, asked_from: int | None) -> tuple[int, int] | None:
        return deeper(
            Timeframe.M5, NOW, traded=traded, oldest_traded=asked_from, asked_from=asked_from
        )

    assert ask(OBSERVED, FIRST) is None
    assert ask(0, None) is None
    bottom = LAST - (DEEPEST - 1) * MS
    asked_from, steps = FIRST, 0
    while (further := ask(OBSERVED - 1, asked_from)) is not None:
        assert bottom <= further[0] <= further[1] == asked_from - MS
        assert (further[1] - further[0]) // MS + 1 <= DEPTH
        asked_from, steps = further[0], steps + 1
    assert asked_from == bottom
    assert steps == 3


def test_before_a_listing_history_is_deepened_by_pages_not_by_slots() -> None:
    asked_from, steps = FIRST, 0
    while (
        further := deeper(
            Timeframe.M5, NOW, traded=120, oldest_traded=FIRST + 5 * MS, asked_from=asked_from
        )
    ) is not None:
        assert further[1] == FIRST + 4 * MS, "the reply shows what proves the rest empty"
        asked_from, steps = further[0], steps + 1
    assert asked_from == LAST - (DEEPEST - 1) * MS
    assert steps == 3


@given(
    traded_ago=st.integers(0, DEEPEST + 50),
    asked_ago=st.integers(0, DEEPEST + 50),
    traded=st.integers(0, OBSERVED - 1),
)
def test_deeper_history_ends_before_what_traded_and_never_comes_twice(
    traded_ago: int, asked_ago: int, traded: int
) -> None:
    """What was asked for may be known too little of: a hole was filled after it was forgotten."""
    oldest_traded, asked_from = LAST - traded_ago * MS, LAST - asked_ago * MS
    for _ in range(6):
        further = deeper(
            Timeframe.M5, NOW, traded=traded, oldest_traded=oldest_traded, asked_from=asked_from
        )
        if further is None:
            break
        assert LAST - (DEEPEST - 1) * MS <= further[0] <= further[1] < oldest_traded
        assert further[0] < asked_from
        asked_from = further[0]
    assert further is None


# -- against what is held ---------------------------------------------------------------------


def held(
    slot: int, volume: float = 1.0, price: float = 10.0, evidence: Evidence = Evidence.STREAM
) -> Candle:
    prices = (price, price + 1, price - 1, price)
    return Candle(M5, T0 + slot * MS, *prices, volume, Kind.TRADED, evidence)


def weigh(page: Page, *candles: Candle, asked_at: int = LATER) -> Page:
    return against(page, {candle.open_time: candle for candle in candles}, asked_at)


def slots(times: tuple[int, ...]) -> list[int]:
    return [(time - T0) // MS for time in times]


def test_what_traded_is_not_made_empty_by_a_reply_that_lacks_its_row() -> None:
    page = read([row(0), row(3)], 0, 3)
    assert kinds(page) == "teet"
    found = weigh(
        page, held(0), held(1, price=12.0), empty(M5, T0 + 2 * MS, 9.0, Evidence.ASSUMED, 1)
    )
    assert slots(tuple(c.open_time for c in found.candles)) == [0, 2, 3]
    assert slots(found.kept) == [1]
    assert found.kept[0] in found.omitted


def test_a_row_that_says_nothing_was_traded_is_believed_against_what_is_held() -> None:
    flat = Row(T0 + MS, 10.0, 10.0, 10.0, 10.0, 0.0)
    page = read([row(0), flat, row(2)], 0, 2)
    found = weigh(page, held(0), held(1), held(2))
    assert kinds(found) == "tet"
    assert not found.kept


def test_a_row_that_is_not_the_newest_is_whole_and_corrects_what_is_held() -> None:
    page = read([row(0, volume=0.5), row(1)], 0, 0, T0 + MS + REST_SETTLED)
    found = weigh(page, held(0), asked_at=T0 + MS + REST_SETTLED)
    assert not found.kept
    assert found.candles[0].volume == 0.5


def test_the_newest_row_of_a_young_reply_does_not_lower_what_is_held() -> None:
    young = T0 + MS + BELATED - 1
    page = read([row(0, volume=0.5)], 0, 0, young)
    assert slots(weigh(page, held(0), asked_at=young).kept) == [0]
    assert not weigh(page, held(0), asked_at=young + 1).kept
    more = read([row(0, volume=1.5)], 0, 0, young)
    assert not weigh(more, held(0), asked_at=young).kept
    same = read([row(0, volume=1 - 1e-12)], 0, 0, young)
    assert not weigh(same, held(0), asked_at=young).kept
    assumed = held(0, evidence=Evidence.ASSUMED)
    assert not weigh(page, assumed, asked_at=young).kept


def test_the_newest_row_of_a_reply_that_is_behind_does_not_lower_what_is_held() -> None:
    page = read([row(0), row(1, volume=0.5)], 0, 1)
    assert not weigh(page, held(0), held(1)).kept
    found = weigh(page, held(0), held(1), held(2))
    assert slots(found.kept) == [1]
    assert kinds(found) == "t"


def test_where_nothing_is_held_the_reply_stands() -> None:
    page = read([row(0), row(3)], 0, 3, T0 + 4 * MS + REST_SETTLED)
    assert weigh(page).candles == page.candles
    assert not weigh(page).kept
