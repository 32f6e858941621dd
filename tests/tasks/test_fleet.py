"""The fleet on virtual time, with feeds that do what the test says."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.errors import CommandRefused, LivermoreError, Refused
from livermore.market.lifecycle import State
from livermore.runtime.fleet import LOOK, Change, Fleet


@attrs.define
class FakePlan:
    paused: bool = False


@attrs.define
class FakeFeed:
    phase: str = "starting"
    pauses: int = 0
    handing_on: bool = False
    given_back: int = 0

    async def give_back(self) -> None:
        self.given_back += 1

    def pause(self) -> None:
        self.pauses += 1

    def resume(self) -> None:
        self.pauses -= 1


@attrs.define
class FakeFollowing:
    name: str
    plan: FakePlan
    feed: FakeFeed

    def pause(self) -> None:
        self.plan.paused = True
        self.feed.pause()

    def resume(self) -> None:
        self.plan.paused = False
        self.feed.resume()


@attrs.define
class World:
    """``closing`` is how long a feed takes for its last batch."""

    closing: float = 0.0
    refuses: dict[str, LivermoreError] = attrs.Factory(dict)
    changes: list[tuple[str, str, str]] = attrs.Factory(list)
    running: set[str] = attrs.Factory(set)
    begun: int = 0
    fleet: Any = None

    async def make(self, exchange: str, paused: bool) -> Any:
        await trio.sleep(0.1)
        if exchange in self.refuses:
            raise self.refuses[exchange]
        return FakeFollowing(
            exchange, FakePlan(paused), FakeFeed("paused" if paused else "starting")
        )

    async def live(self, following: Any) -> None:
        assert following.name not in self.running
        self.running.add(following.name)
        self.begun += 1
        if self.begun > 1:
            following.feed = FakeFeed()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.closing)
            self.running.discard(following.name)

    def told(self, change: Change) -> None:
        self.changes.append((change.exchange, change.before.value, change.after.value))

    def feed(self, name: str = "coinbase") -> FakeFeed:
        return cast(FakeFeed, self.fleet.cell(name).feed)

    async def phase(self, phase: str) -> None:
        self.feed().phase = phase
        await trio.sleep(LOOK * 1.5)


@asynccontextmanager
async def world(**given: Any) -> AsyncIterator[World]:
    made = World(**given)
    async with trio.open_nursery() as nursery:
        made.fleet = Fleet(nursery, made.make, made.live, made.told)
        nursery.start_soon(made.fleet.watch)
        yield made
        nursery.cancel_scope.cancel()


async def test_a_feed_goes_from_idle_to_active_and_back(autojump_clock: MockClock):
    async with world(closing=2.0) as one:
        await one.fleet.start("coinbase")
        await one.phase("warming")
        await one.phase("active")
        assert one.fleet.running == ("coinbase",)
        begun = trio.current_time()
        await one.fleet.stop("coinbase")
        assert trio.current_time() - begun == 2.0, "the last batch was not waited for"
        assert not one.running
        assert one.fleet.running == ()
    states = ["idle", "starting", "warming", "active", "stopping", "idle"]
    assert one.changes == [("coinbase", *pair) for pair in itertools.pairwise(states)]


async def test_a_pause_holds_whatever_the_feed_says_until_it_is_resumed(
    autojump_clock: MockClock,
):
    async with world() as one:
        await one.fleet.start("coinbase")
        one.fleet.pause("coinbase")
        assert one.feed().pauses == 1
        assert one.fleet.cell("coinbase").following.plan.paused, "a bug would resume it"
        await one.phase("warming")
        assert one.fleet.cell("coinbase").state is State.PAUSED
        one.fleet.resume("coinbase")
        assert one.feed().pauses == 0
        assert not one.fleet.cell("coinbase").following.plan.paused
        await one.phase("active")
        assert one.fleet.cell("coinbase").state is State.ACTIVE


async def test_what_was_paused_starts_paused(autojump_clock: MockClock):
    async with world() as one:
        await one.fleet.start("coinbase", paused=True)
        await trio.sleep(1)
        assert one.fleet.cell("coinbase").state is State.PAUSED
        assert one.running == {"coinbase"}, "lease and status live on"


async def test_two_that_start_it_at_once_make_one_feed(autojump_clock: MockClock):
    async with world() as one:
        refused = 0

        async def start() -> None:
            nonlocal refused
            try:
                await one.fleet.start("coinbase")
            except CommandRefused:
                refused += 1

        async with trio.open_nursery() as both:
            both.start_soon(start)
            both.start_soon(start)
        assert refused == 1
        await trio.sleep(1)
        assert one.running == {"coinbase"}


async def test_what_cannot_be_made_stays_idle(autojump_clock: MockClock):
    async with world(refuses={"coinbase": Refused("not from here")}) as one:
        with pytest.raises(Refused):
            await one.fleet.start("coinbase")
        assert one.fleet.cell("coinbase").state is State.IDLE
        assert one.changes == []


async def test_a_failed_feed_is_started_anew_or_forgotten(autojump_clock: MockClock):
    async with world() as one:
        for name in ("coinbase", "binance"):
            await one.fleet.start(name)
            one.fleet.failed(name, Refused("451"))
        await trio.sleep(1)
        assert one.running == {"coinbase", "binance"}, "it says so as long as it is wanted"
        await one.fleet.start("coinbase")
        await trio.sleep(1)
        await one.fleet.stop("binance")
        assert one.running == {"coinbase"}
        assert one.fleet.cell("binance").state is State.IDLE
        assert one.fleet.cell("coinbase").state is State.STARTING
        assert one.fleet.cell("coinbase").why == ""


async def test_one_feed_is_stopped_and_the_others_are_not(autojump_clock: MockClock):
    async with world() as one:
        await one.fleet.start("coinbase")
        await one.fleet.start("binance")
        await trio.sleep(1)
        await one.fleet.stop("binance")
        await trio.sleep(1)
        assert one.running == {"coinbase"}


async def test_a_renewed_feed_is_another_one_that_takes_over(autojump_clock: MockClock):
    async with world(closing=2.0) as one:
        await one.fleet.start("coinbase")
        await one.phase("active")
        before = one.feed()
        one.fleet.renew("coinbase")
        await trio.sleep(3)
        assert (one.begun, one.running) == (2, {"coinbase"})
        assert before.handing_on, "the lease stays ours in between"
        assert before.given_back == 0
        assert not one.feed().handing_on
        await one.phase("active")
        await one.fleet.stop("coinbase")
        assert (one.begun, one.fleet.running) == (2, ())


async def test_a_renewal_that_is_stopped_gives_the_lease_back(autojump_clock: MockClock):
    async with world(closing=2.0) as one:
        await one.fleet.start("coinbase")
        await one.phase("active")
        before = one.feed()
        one.fleet.renew("coinbase")
        await trio.sleep(1)
        await one.fleet.stop("coinbase")
        assert (one.begun, before.given_back) == (1, 1)
