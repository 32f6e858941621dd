"""Something that ends by failing is run again, patiently, and not for ever in silence."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from livermore.errors import ConnectionLost, TakenError
from livermore.runtime.journal import Journal
from livermore.runtime.supervise import HEALTHY, PATIENCE, first_of, supervise

MIDDLE = 0.5
"""The chance that makes every delay what it is without jitter."""


class Work:
    """Fails after each of ``lasts`` seconds, then runs for ever; remembers when it was begun."""

    def __init__(self, *lasts: float, error: Callable[[], Exception] | None = None) -> None:
        self.lasts = list(lasts)
        self.begun: list[float] = []
        self.waits: list[float] = []
        self.error = error or (lambda: ConnectionLost("it broke"))

    async def __call__(self) -> None:
        self.begun.append(trio.current_time())
        if not self.lasts:
            await trio.sleep_forever()
        await trio.sleep(self.lasts.pop(0))
        raise self.error()

    def failed(self, why: str, wait: float) -> None:
        self.waits.append(wait)


async def supervised(work: Work, seconds: float, chance: float = MIDDLE) -> None:
    with trio.move_on_after(seconds):
        await supervise(
            "the thing", work, Journal("coinbase"), chance=lambda: chance, failed=work.failed
        )


async def test_delays_double_from_1_to_60_seconds(autojump_clock: MockClock):
    work = Work(*[0.0] * 9)
    await supervised(work, 1000)
    assert work.waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    apart = [b - a for a, b in itertools.pairwise(work.begun)]
    assert apart == pytest.approx(work.waits)


@pytest.mark.parametrize("chance", [0.0, 0.999])
async def test_delays_are_spread_by_a_quarter(autojump_clock: MockClock, chance: float):
    work = Work(0, 0, 0)
    await supervised(work, 1000, chance)
    assert work.waits == pytest.approx([(0.75 + 0.5 * chance) * base for base in (1, 2, 4)])


async def test_only_a_healthy_run_starts_the_delays_anew(autojump_clock: MockClock):
    work = Work(0, 0, 0, HEALTHY - 1, HEALTHY + 1, 0)
    await supervised(work, 1000)
    assert work.waits == [1, 2, 4, 8, 1, 2]


async def test_it_says_once_that_this_looks_lasting_and_goes_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    work = Work(*[0.0] * (PATIENCE + 5))
    await supervised(work, 5000)
    said = [record for record in caplog.records if "times in a row" in record.getMessage()]
    assert len(said) == 1
    assert said[0].levelno == logging.WARNING
    assert len(work.begun) == PATIENCE + 6
    lost = [record for record in caplog.records if record.getMessage() == "the thing lost"]
    assert len(lost) == PATIENCE + 5


async def test_it_ends_at_once_when_cancelled_during_a_wait(
    autojump_clock: MockClock,
):
    work = Work(*[0.0] * 20)
    with trio.fail_after(10_000):
        await supervised(work, 100.5)  # in the middle of a wait of 60 s
    assert trio.current_time() == pytest.approx(100.5)
    assert len(work.begun) == 7


@pytest.mark.parametrize("grouped", [False, True])
async def test_exceptions_that_end_it_pass(autojump_clock: MockClock, grouped: bool):
    async def taken() -> None:
        error = TakenError("somebody else has it")
        if grouped:
            raise ExceptionGroup("", [ConnectionLost("it broke"), ExceptionGroup("", [error])])
        raise error

    with trio.fail_after(100), pytest.raises((TakenError, ExceptionGroup)) as caught:
        await supervise("x", taken, Journal("coinbase"), chance=lambda: MIDDLE, ends=(TakenError,))
    error = caught.value
    found = error.subgroup(TakenError) if isinstance(error, ExceptionGroup) else error
    assert isinstance(first_of(found), TakenError)
    assert trio.current_time() == 0


async def test_an_end_without_an_error_is_a_failure_too(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    runs = 0

    async def end() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            await trio.sleep_forever()

    with trio.move_on_after(100):
        await supervise("x", end, Journal("coinbase"), chance=lambda: MIDDLE)
    assert runs == 3


async def test_an_error_of_ours_is_logged_with_its_place_and_one_of_theirs_without(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    await supervised(Work(0, error=lambda: KeyError("BTC")), 10)
    [record] = [r for r in caplog.records if "failed unexpectedly" in r.getMessage()]
    assert record.fields["error"] == "KeyError: 'BTC'"  # type: ignore[attr-defined]
    assert "test_supervise.py" in record.fields["trace"]  # type: ignore[attr-defined]
    caplog.clear()
    await supervised(Work(0), 10)
    assert not [r for r in caplog.records if "unexpectedly" in r.getMessage()]


async def test_a_failure_during_cancellation_does_not_outlive_it(
    autojump_clock: MockClock,
):
    """What breaks while it is being stopped is no reason to fail the stopping."""

    async def breaks_when_stopped() -> None:
        async with trio.open_nursery() as nursery:

            async def stubborn() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    raise ConnectionLost("while leaving")

            nursery.start_soon(stubborn)
            await trio.sleep_forever()

    with trio.fail_after(100), trio.move_on_after(5) as scope:
        await supervise("x", breaks_when_stopped, Journal("coinbase"), chance=lambda: MIDDLE)
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(5)
