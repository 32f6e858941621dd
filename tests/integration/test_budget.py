"""The REST budget that every process on one Redis shares."""

from __future__ import annotations

import collections
import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio

from livermore.adapters import store
from livermore.adapters.redis import Redis, script
from livermore.errors import StoreError
from livermore.market.gap import Lane
from livermore.runtime.rest import Budget

CHECKOUT = Path(__file__).resolve().parents[2]
PER_SECOND = 8.0
LIMIT = 10
NAMES = itertools.count()

PROCESS = """
import sys, time, trio
from livermore.adapters.redis import Redis
from livermore.market.gap import Lane
from livermore.runtime.rest import Budget

async def main(url, name, seconds):
    redis = Redis(url)
    budget = Budget(redis, name, 8.0)
    async def ask():
        while True:
            await budget.grant(Lane.REPAIR)
            print(time.time(), flush=True)
    await budget.redis.run([("PING",)], "publish")
    print("ready", flush=True)
    sys.stdin.readline()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)

trio.run(main, sys.argv[1], sys.argv[2], float(sys.argv[3]))
"""


@pytest.fixture
def budget(valkey_url: str) -> Iterator[Budget]:
    lanes = Redis(valkey_url)
    yield Budget(lanes, f"exchange{next(NAMES)}", PER_SECOND)
    lanes.close()


def most_in_a_second(moments: Sequence[float]) -> int:
    """The fullest sliding second."""
    ordered, most, first = sorted(moments), 0, 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


def in_two_processes(url: str, name: str, seconds: float) -> list[float]:
    """When requests were granted to three waiters in each of two processes, by one wall clock."""
    command = [sys.executable, "-c", PROCESS, url, name, str(seconds)]
    processes = [
        subprocess.Popen(
            command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    moments: list[float] = []
    for process in processes:
        out, _ = process.communicate(timeout=seconds + 20)
        moments += map(float, out.split())
    return moments


def test_two_processes_never_exceed_the_limit_and_use_the_budget_up(valkey_url):
    seconds = 4.0
    moments = in_two_processes(valkey_url, f"exchange{next(NAMES)}", seconds)
    assert most_in_a_second(moments) <= LIMIT
    span = max(moments) - min(moments)
    assert (len(moments) - 1) / span >= 0.95 * PER_SECOND
    assert (len(moments) - 1) / span <= 1.02 * PER_SECOND


async def test_an_unused_second_is_not_saved_up(budget):
    await budget.grant(Lane.LIVE)
    await trio.sleep(1.2)
    started = trio.current_time()
    for _ in range(5):
        await budget.grant(Lane.LIVE)
    assert trio.current_time() - started >= 4 / PER_SECOND - 0.02


async def test_a_heavy_request_takes_the_room_of_several(budget):
    await budget.grant(Lane.LIVE, weight=4)
    started = trio.current_time()
    await budget.grant(Lane.LIVE)
    assert trio.current_time() - started >= 4 / PER_SECOND - 0.05


async def test_lanes_are_served_in_their_order(budget):
    """Saturated from below, each higher lane still passes within a few requests."""
    served: list[Lane] = []

    async def ask(lane: Lane, times: int) -> None:
        for _ in range(times):
            await budget.grant(lane)
            served.append(lane)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, Lane.BY_HAND, 100)
            await trio.sleep(0.6)
            served.clear()
            for lane in (Lane.VERIFICATION, Lane.REPAIR, Lane.LIVE):
                for _ in range(3):
                    nursery.start_soon(ask, lane, 2)
            while collections.Counter(served)[Lane.VERIFICATION] < 6:  # noqa: ASYNC110 - counts
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
    place = {lane: max(i for i, one in enumerate(served) if one is lane) for lane in Lane}
    assert place[Lane.LIVE] < place[Lane.REPAIR] < place[Lane.VERIFICATION]
    ahead = served[: place[Lane.VERIFICATION] + 1]
    assert collections.Counter(ahead)[Lane.BY_HAND] <= 4, [int(x) for x in ahead]


async def test_a_waiter_that_gave_up_does_not_hold_the_lower_lanes_back(budget):
    with trio.move_on_after(0.3):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(budget.grant, Lane.LIVE)
    with trio.fail_after(3):
        await budget.grant(Lane.BY_HAND)


async def test_a_ban_stops_everyone_also_in_another_process(valkey_url, budget):
    other = Budget(Redis(valkey_url), budget.exchange, PER_SECOND)
    granted: list[float] = []

    async def ask(which: Budget, lane: Lane) -> None:
        while True:
            await which.grant(lane)
            granted.append(trio.current_time())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for which in (budget, other):
                for lane in (Lane.LIVE, Lane.REPAIR):
                    nursery.start_soon(ask, which, lane)
            await trio.sleep(0.6)
            await budget.refused(1.5, "429: slow down")
            banned = trio.current_time()
            await trio.sleep(2.2)
            nursery.cancel_scope.cancel()
    # The other process may have been promised one within two spaces before it could know.
    stopped = [moment for moment in granted if banned + 2.5 / PER_SECOND < moment < banned + 1.4]
    assert stopped == []
    assert [moment for moment in granted if moment > banned + 1.4]
    known = await budget.redis.one(
        "HMGET", store.budget_key(budget.exchange), "banned_why", "refusals"
    )
    assert known == [b"429: slow down", b"1"]
    other.redis.close()


async def test_a_request_granted_before_the_refusal_is_not_sent_into_the_ban(budget):
    granted: list[float] = []

    async def ask() -> None:
        await budget.grant(Lane.LIVE)
        granted.append(trio.current_time())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.sleep(0.06)
            await budget.refused(1.0, "429")
            banned = trio.current_time()
    assert len(granted) == 3
    assert [moment for moment in granted if banned < moment < banned + 0.95] == []


async def test_a_shorter_ban_does_not_shorten_a_longer_one(budget):
    await budget.refused(30.0, "long")
    await budget.refused(0.1, "short")
    with trio.move_on_after(0.5) as scope:
        await budget.grant(Lane.LIVE)
    assert scope.cancelled_caught
    other = script("budget", (store.budget_key(budget.exchange),), 125_000, 0, 1)
    [(granted, wait)] = await budget.redis.run([other])
    assert granted == 0
    assert wait > 28_000_000


async def test_without_redis_nothing_is_granted_but_the_slow_pace(own_valkey):
    lanes = Redis(own_valkey.url)
    budget = Budget(lanes, "coinbase", PER_SECOND)
    own_valkey.stop()
    with pytest.raises(StoreError):
        await budget.grant(Lane.LIVE)
    started = trio.current_time()
    for _ in range(3):
        await budget.grant_alone()
    assert 1.9 < trio.current_time() - started < 2.6
    await budget.refused(0.7, "429")  # remembered in memory
    started = trio.current_time()
    own_valkey.start()
    await budget.redis.run([("PING",)], "publish")
    await budget.grant(Lane.LIVE)
    assert trio.current_time() - started >= 0.6
    lanes.close()


async def test_a_clock_of_redis_that_went_back_does_not_stop_the_budget(budget):
    far = "HSET", store.budget_key(budget.exchange), "next", 99_999_999_999_999_999
    await budget.redis.one(*far)
    with trio.fail_after(1):
        await budget.grant(Lane.BY_HAND)


async def test_grants_that_waited_together_are_not_spent_together(budget, monkeypatch):
    async def at_once(*_: object) -> list[list[int]]:
        await trio.lowlevel.checkpoint()
        return [[1, 0]]  # as when six replies were read after one long pause

    monkeypatch.setattr(budget.redis, "run", at_once)
    moments: list[float] = []

    async def ask() -> None:
        await budget.grant(Lane.REPAIR)
        moments.append(trio.current_time())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask)
    assert max(moments) - min(moments) > 5 * 0.9 / PER_SECOND * 0.99
