"""What a comparison found, and what is certified of it."""

from __future__ import annotations

import hashlib

import attrs
from hypothesis import given
from hypothesis import strategies as st

from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.certificate import (
    Certificate,
    Compared,
    certify,
    content_hash,
    judge,
    mismatches,
)
from livermore.market.history import Page
from livermore.market.timeframe import Timeframe

M5 = Timeframe.M5.ms
BTC = Series("coinbase", "BTC-USD", Timeframe.M5)


def traded(
    slot: int, close: float = 100.5, evidence: Evidence = Evidence.REST, volume: float = 3.25
) -> Candle:
    return Candle(
        BTC, slot * M5, 100.0, 102.25, 99.5, close, volume, Kind.TRADED, evidence, slot * M5
    )


def flat(slot: int, evidence: Evidence = Evidence.REST) -> Candle:
    return empty(BTC, slot * M5, 100.5, evidence, slot * M5)


def by_time(*candles: Candle) -> dict[int, Candle]:
    return {candle.open_time: candle for candle in candles}


# -- how slots compared -----------------------------------------------------------------------


def test_each_slot_counts_once_by_what_the_store_made_of_it():
    slots = range(10 * M5, 20 * M5, M5)
    stream = Evidence.STREAM
    held = by_time(
        traded(10, evidence=stream), traded(11, 101.0, stream), traded(12, volume=4.0),
        traded(14, evidence=stream), traded(15, evidence=stream), flat(16),
        flat(17, Evidence.ASSUMED), traded(18, evidence=stream),
    )  # fmt: skip
    page = Page(
        tuple(traded(slot) for slot in (10, 11, 12, 13, 15)),
        unproved=(16 * M5, 17 * M5, 18 * M5, 19 * M5),
        newest=15 * M5,
        omitted=frozenset({14 * M5}),
        kept=(14 * M5,),
    )
    codes = {10 * M5: "s", 11 * M5: "c", 12 * M5: "v", 13 * M5: "i", 15 * M5: "w"}
    found, left = judge(slots, held, page, codes)
    assert found == Compared(
        slots=10, confirmed=2, corrected=2, filled=1, omitted=1, differing=1, undecided=3
    )
    assert left == tuple(slot * M5 for slot in (14, 17, 18, 19))
    assert found.mismatches == 5


def test_what_was_read_too_early_confirms_and_contradicts_nothing():
    early = attrs.evolve(traded(10), evidence=Evidence.STREAM)
    for code in "sw":
        page = Page((early,), (), newest=10 * M5)
        found, left = judge([10 * M5], by_time(traded(10)), page, {10 * M5: code})
        assert found == Compared(slots=1, undecided=1)
        assert left == (10 * M5,)


def test_an_omission_proves_nothing_where_the_exchange_shows_empty_slots():
    held = by_time(attrs.evolve(flat(10), evidence=Evidence.REST))
    page = Page((), (10 * M5,))
    assert judge([10 * M5], held, page, {})[0] == Compared(slots=1, confirmed=1)
    found, left = judge([10 * M5], held, page, {}, omits_empties=False)
    assert found == Compared(slots=1, undecided=1)
    assert left == (10 * M5,)


def test_what_is_no_longer_kept_does_not_count():
    page = Page((traded(10),), (), newest=10 * M5)
    assert judge([10 * M5], {}, page, {10 * M5: "t"}) == (Compared(), ())


figures = st.builds(Compared, *[st.integers(0, 1000)] * 7)


@given(figures, figures)
def test_counts_add_up(a: Compared, b: Compared):
    assert (a + b) - b == a
    assert (a + b).mismatches == a.mismatches + b.mismatches


# -- the certificate --------------------------------------------------------------------------


def test_the_hash_is_of_one_documented_line_per_candle():
    text = "3000000,traded,100.0,102.25,99.5,100.5,3.25\n3300000,empty,100.5,100.5,100.5,100.5,0\n"
    assert content_hash([traded(10), flat(11)]) == hashlib.sha256(text.encode()).hexdigest()


def test_the_hash_depends_on_what_a_candle_says_and_not_on_how_well_it_is_known():
    plain = [traded(10), flat(11)]
    known = [attrs.evolve(c, evidence=Evidence.STREAM, as_of=7, revision=3) for c in plain]
    assert content_hash(known) == content_hash(plain)
    one = plain[0]
    changed = [
        attrs.evolve(one, open_time=12 * M5), attrs.evolve(one, open=100.25),
        attrs.evolve(one, high=103.0), attrs.evolve(one, low=99.25),
        attrs.evolve(one, close=100.0), attrs.evolve(one, volume=3.5),
        attrs.evolve(one, kind=Kind.EMPTY),
    ]  # fmt: skip
    hashes = {content_hash([candle, plain[1]]) for candle in [one, *changed]}
    assert len(hashes) == 8
    assert content_hash(plain[:1]) != content_hash(plain)


def test_the_hash_does_not_depend_on_the_last_digit_of_a_sum():
    told, summed = traded(10, volume=24.38843558), traded(10, volume=24.388435580000003)
    assert told.volume != summed.volume
    assert content_hash([told]) == content_hash([summed])
    assert content_hash([told]) != content_hash([traded(10, volume=24.3884355801)])


def test_a_mismatch_is_a_slot_that_says_something_else_than_before():
    before = [traded(10), traded(11), flat(12), traded(14, evidence=Evidence.STREAM)]
    sums = attrs.evolve(traded(10), volume=3.25 * (1 + 1e-12))  # the last digit of a float
    after = [sums, traded(11, 100.0), traded(12), traded(13), traded(14)]
    found = mismatches(before, after)
    assert [one.open_time // M5 for one in found] == [11, 12, 13]
    assert [one.before for one in found] == [traded(11), flat(12), None]


def certificate(
    after: list[Candle],
    before: list[Candle] | None = None,
    absent: int = 0,
    compared: Compared | None = None,
) -> Certificate:
    return certify(
        BTC, 10 * M5, 13 * M5, before=after if before is None else before, after=after,
        absent=absent, compared=compared or Compared(slots=len(after), confirmed=len(after)),
    )  # fmt: skip


def test_a_whole_series_is_certified():
    found = certificate([traded(10), flat(11), traded(12), traded(13)])
    assert (found.expected, found.traded, found.empty) == (4, 3, 1)
    assert (found.confirmed, found.corrected, found.missing) == (4, 0, 0)
    assert found.agreed


def test_assumed_and_streamed_candles_are_there_but_not_confirmed():
    found = certificate([traded(10), flat(11, Evidence.ASSUMED), traded(12), traded(13)])
    assert (found.confirmed, found.empty) == (3, 1)
    assert found.agreed, "nothing contradicts them"


def test_what_is_missing_is_no_agreement_unless_the_exchange_never_had_it():
    found = certificate([traded(12), traded(13)])
    assert (found.expected, found.missing, found.agreed) == (4, 2, False)
    found = certificate([traded(12), traded(13)], absent=2)
    assert (found.expected, found.missing, found.agreed) == (2, 0, True)


def test_what_was_corrected_omitted_or_stays_different_is_no_agreement():
    whole = [traded(10), flat(11), traded(12), traded(13)]
    found = certificate(whole, [traded(10, 101.0), *whole[1:]])
    assert (found.corrected, found.agreed) == (1, False)
    for name in ("corrected", "filled", "omitted", "differing"):
        assert not certificate(whole, compared=Compared(slots=4, **{name: 1})).agreed
    assert certificate(whole, compared=Compared(slots=4, undecided=1)).agreed
