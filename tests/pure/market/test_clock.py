"""The exchange's clock: which stamps are believed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from livermore.market.clock import JUMP, ExchangeClock


def clock(*heard: tuple[int, float]) -> ExchangeClock:
    one = ExchangeClock()
    for stamp, now in heard:
        one.hear(stamp, now)
    return one


def test_it_tells_no_time_before_the_first_stamp() -> None:
    assert clock().read(5.0) is None


def test_time_passes_between_stamps() -> None:
    assert clock((1_000_000, 10.0)).read(12.5) == 1_002_500


def test_a_jump_is_not_believed_alone() -> None:
    one = clock((1_000_000, 10.0), (5_000_000, 10.1))
    assert one.read(10.1) in (1_000_099, 1_000_100)


def test_a_jump_is_believed_when_the_next_stamp_agrees() -> None:
    assert clock((1_000_000, 10.0), (5_000_000, 10.1), (5_000_200, 10.2)).read(10.2) == 5_000_200
    assert clock((5_000_000, 10.0), (1_000_000, 10.1), (1_000_200, 10.2)).read(10.2) == 1_000_200


def test_two_wild_stamps_that_disagree_are_not_believed() -> None:
    one = clock((1_000_000, 10.0), (5_000_000, 10.1), (9_000_000, 10.2))
    assert one.read(10.2) in (1_000_199, 1_000_200)


def test_agreement_allows_for_the_time_between_the_two_stamps() -> None:
    one = clock((1_000_000, 10.0), (5_000_000, 20.0), (5_030_000, 50.0))
    assert one.read(50.0) == 5_030_000


def test_a_good_stamp_between_two_wild_ones_discredits_the_first() -> None:
    for good in (1_000_000, 1_000_100):
        one = clock((1_000_000, 10.0), (5_000_000, 10.1), (good, 10.15), (5_000_100, 10.2))
        assert (one.read(10.2) or 0) < 2_000_000


def test_an_older_stamp_does_not_set_the_clock_back() -> None:
    assert clock((1_000_000, 10.0), (999_500, 10.1)).read(10.1) in (1_000_099, 1_000_100)


def test_frames_read_late_in_a_burst_set_it_to_what_they_say() -> None:
    one = clock((1_000_000, 10.0))
    for stamp in range(1_000_500, 1_004_000, 500):
        one.hear(stamp, 40.0)
    assert one.read(40.0) == 1_003_500


@given(skew=st.integers(-5_000, 5_000), gaps=st.lists(st.integers(1, 900), min_size=1))
def test_a_constant_skew_is_the_exchanges_time(skew: int, gaps: list[int]) -> None:
    one, time = ExchangeClock(), 10_000_000
    for gap in gaps:
        time += gap
        one.hear(time + skew, time / 1000)
    assert abs((one.read(time / 1000) or 0) - time - skew) <= 1


@given(st.lists(st.floats(0.010, 0.2), min_size=2, max_size=200))
def test_an_exchange_that_runs_sixty_times_faster_is_followed(gaps: list[float]) -> None:
    one, now = clock((1_000_000, 0.0)), 0.0
    told = [1_000_000]
    for gap in gaps:
        now += gap
        told.append(1_000_000 + int(now * 60_000))
        one.hear(told[-1], now)
        # A hiccup needs a second witness: never more than one stamp behind.
        assert (one.stamp or 0) >= told[-2] - JUMP or gap * 60_000 > JUMP


def test_second_by_second_stamps_at_sixty_times_are_believed_at_once() -> None:
    one = clock((1_000_000, 0.0))
    for beat in range(1, 100):
        one.hear(1_000_000 + beat * 1_000, beat / 60)
        assert one.stamp == 1_000_000 + beat * 1_000
