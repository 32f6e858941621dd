"""Repairs and comparisons of what is not followed any more: nothing of them is done, or written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.adapters.redis import Call
from livermore.market.gap import VERIFY, Gap, Lane, encode_gap
from livermore.market.history import Row
from livermore.market.timeframe import TIMEFRAMES, Timeframe
from livermore.market.tracker import Missing, Suspect
from livermore.runtime.repairs import GONE, Repairs
from livermore.runtime.rest import Rest
from livermore.runtime.verification import Verification
from tests.tasks.test_repairs import BTC, ETH, NOON, Asking, World, of, world

__all__ = ["world"]  # the fixture

ALL = [of(BTC, timeframe) for timeframe in TIMEFRAMES]


class Stubborn(Asking):
    """A request that is on its way is answered, whoever does not want to know any more."""

    async def candles(
        self, native: str, timeframe: Timeframe, first: int, last: int, lane: Lane
    ) -> tuple[list[Row], int]:
        with trio.CancelScope(shield=True):
            answer = await super().candles(native, timeframe, first, last, lane)
        return answer


@pytest.fixture
def repairs(world: World) -> Repairs:
    world.seconds = 2.0
    world.repairs._rest = cast(Rest, Stubborn(world))
    for symbol in (BTC, ETH):
        world.put(of(symbol), world.slot(200), world.slot(0))
    return world.repairs


def about(world: World, symbol: str) -> list[str]:
    """What the ledger says of a symbol."""
    return [name.decode() for name in world.gaps if name.decode().startswith(symbol)]


async def test_a_page_that_arrives_for_what_was_left_is_not_stored(
    autojump_clock: MockClock, world: World, repairs: Repairs
):
    repairs.add(of(BTC), world.slot(9), world.slot(5), "test", Lane.REPAIR)
    repairs.add(of(ETH), world.slot(9), world.slot(5), "test", Lane.VERIFICATION)
    repairs.suspects([Suspect(of(BTC), world.slot(0), "test")])
    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(repairs.run)
            await trio.sleep(1)  # its page is on its way
            assert [question.native for question in world.questions] == [BTC]
            repairs.forget(ALL)
            await repairs.clear_ledger(ALL)
            assert (about(world, BTC), len(about(world, ETH))) == ([], 1)
    assert sorted(world.candles[of(BTC)]) == [world.slot(200), world.slot(0)]
    assert world.slot(7) in world.candles[of(ETH)]
    assert [question.native for question in world.questions] == [BTC, ETH]
    assert about(world, BTC) == []
    assert of(BTC) not in world.asked_from


async def test_what_was_left_is_not_asked_about_whoever_wants_it(
    autojump_clock: MockClock, world: World, repairs: Repairs
):
    repairs.forget(ALL)
    repairs.missing([Missing(of(BTC), world.slot(3), "late")])
    repairs.suspects([Suspect(of(BTC), world.slot(3), "late")])
    await repairs.scan([of(BTC), of(ETH)], "found missing")
    with trio.move_on_after(120):
        await repairs.run()
    assert {question.native for question in world.questions} == {ETH}
    assert about(world, BTC) == []
    assert (repairs.wanting, repairs.lacking({BTC})) == (0, 0)


async def test_what_comes_back_starts_clean(
    autojump_clock: MockClock, world: World, repairs: Repairs
):
    repairs.add(of(BTC), world.slot(9), world.slot(5), "test", Lane.REPAIR)
    repairs.progress.total, repairs.progress.done = 10, 9
    repairs.forget(ALL)
    assert (repairs.progress.total, repairs.progress.done) == (5, 5)
    repairs.follow(BTC, "XBT-USD")
    repairs.add(of(BTC), world.slot(3), world.slot(3), "test", Lane.REPAIR)
    with trio.move_on_after(30):
        await repairs.run()
    assert [question.native for question in world.questions] == ["XBT-USD"]
    assert sorted(world.candles[of(BTC)])[1:-1] == [world.slot(3)]


async def test_the_series_of_one_user_and_of_all_are_told_apart(
    autojump_clock: MockClock, world: World, repairs: Repairs
):
    mine = attrs.evolve(of(BTC), owner="ann")
    repairs.suspects([Suspect(of(BTC), world.slot(0), "test")])
    repairs.move(of(BTC), mine)
    repairs.forget(ALL)
    repairs.follow(BTC, BTC, "ann")
    world.put(mine, world.slot(200), world.slot(0))
    assert repairs.leaves_out(of(BTC))
    assert not repairs.leaves_out(mine)
    assert repairs.add(of(BTC), world.slot(3), world.slot(3), "test", Lane.REPAIR) == ()
    with trio.move_on_after(60):
        await repairs.run()
    assert len(world.questions) == 1, "what was to be looked at still is"


async def test_a_comparison_under_way_ends_and_says_why(
    autojump_clock: MockClock, world: World, repairs: Repairs
):
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            await trio.sleep(1)
            repairs.forget(ALL)

        nursery.start_soon(leave)
        asked = await repairs.compare(of(BTC), world.slot(0), world.slot(0), "test")
    assert (asked.problem, asked.written) == (GONE, None)


async def test_a_look_that_a_pause_broke_off_is_made_after_it(
    autojump_clock: MockClock, world: World, repairs: Repairs
):
    repairs.suspects([Suspect(of(BTC), world.slot(1), "test")])
    for _ in range(2):
        with trio.move_on_after(1):
            await repairs.run()
    assert len(world.questions) == 1, "the second one waits for its time"
    before = repairs.progress.looks
    with trio.move_on_after(60):
        await repairs.run()
    assert (before, repairs.progress.looks) == (0, 1)


async def test_a_range_a_person_wants_compared_is_not_in_the_ledger_of_what_was_left(
    autojump_clock: MockClock, world: World, repairs: Repairs
):
    verification = Verification(
        repairs._dialect, repairs._redis, repairs, ALL,
        requests_per_second=8.0, clock=world.now, say=lambda event, fields: None,
        chance=lambda: 0.5,
    )  # fmt: skip
    gap = Gap(of(BTC), world.slot(0), world.slot(0), VERIFY, NOON, Lane.BY_HAND)
    world.gaps[gap.name.encode()] = encode_gap(gap)
    with trio.move_on_after(400):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(repairs.run)
            nursery.start_soon(verification.run)
            await trio.sleep(1.5)
            assert len(world.questions) == 1
            verification.forget(ALL)
            repairs.forget(ALL)
            await repairs.clear_ledger(ALL)
    assert about(world, BTC) == []
    assert len(world.questions) == 1
    assert verification.behind() == 0


async def test_what_is_left_while_the_store_is_asked_is_not_asked_of_rest(
    autojump_clock: MockClock, world: World, repairs: Repairs, monkeypatch: pytest.MonkeyPatch
):
    run = world.run

    async def slowly(calls: Sequence[Call], lane: str = "write") -> list[Any]:
        with trio.CancelScope(shield=True):  # a thread is not abandoned
            await trio.sleep(0.5)
            replies = await run(calls, lane)
        return replies

    monkeypatch.setattr(World, "run", lambda world, *given: slowly(*given))
    repairs.add(of(BTC), world.slot(9), world.slot(5), "test", Lane.REPAIR)
    with trio.move_on_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(repairs._work)
            await trio.sleep(0.2)
            repairs.forget(ALL)
    assert world.questions == []
