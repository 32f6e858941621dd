"""The REST budget that every process on one Redis shares."""

from __future__ import annotations

import collections
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import trio

from livermore.adapters import store
from livermore.adapters.bans import Bans
from livermore.adapters.http import Http, Reply
from livermore.adapters.redis import Redis, script
from livermore.errors import StoreError
from livermore.exchanges import dialect
from livermore.market.gap import Lane
from livermore.runtime import rest as module
from livermore.runtime.rest import Budget, Rest

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


HAMMER = """
import sys, trio
from livermore.adapters.http import Http
from livermore.adapters.redis import Redis
from livermore.exchanges import dialect
from livermore.market.gap import Lane
from livermore.market.timeframe import Timeframe
from livermore.runtime.rest import SHARE, Budget, Rest

async def main(url, rest_url, seconds):
    coinbase = dialect("coinbase")
    budget = Budget(Redis(url), "coinbase", SHARE * coinbase.rest_per_second)
    asked = 0
    async with Http(rest_url) as http:
        rest = Rest(coinbase, http, budget, lambda: None)
        until = trio.current_time() + seconds
        now = await rest.time() // 300_000 * 300_000
        asked += 1
        async def ask():
            nonlocal asked
            while trio.current_time() < until:
                await rest.candles("BTC-USD", Timeframe.M5, now - 30_000_000, now, Lane.REPAIR)
                asked += 1
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask)
    print(asked)

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


async def test_when_the_address_has_used_its_share_the_next_window_is_waited_for(budget):
    """Others may share the address: what the exchange counts is more than what we asked for."""
    await budget.grant(Lane.LIVE)
    budget.told(used=79, limit=100, left=5.0)  # below our 80 %
    started = trio.current_time()
    await budget.grant(Lane.LIVE)
    assert trio.current_time() - started < 1.0
    budget.told(used=80, limit=100, left=0.7)
    started = trio.current_time()
    await budget.grant(Lane.LIVE)
    assert trio.current_time() - started >= 0.7 - 0.02
    assert budget.banned is None, "nobody refused us"
    assert budget.refusals == 0


async def test_what_is_used_is_what_requests_weighed(budget):
    await budget.grant(Lane.LIVE, weight=4)
    await budget.grant(Lane.LIVE)
    assert budget.used(60) == 5


async def test_the_window_ends_by_the_exchanges_clock():
    """What headers tell reaches the budget with how long the exchange's minute still lasts."""
    told: list[tuple[int, float, float]] = []
    budget = cast(Budget, SimpleNamespace(told=lambda *what: told.append(what)))
    minute = 1_700_000_000_000 // 60_000 * 60_000
    rest = Rest(dialect("binance"), cast(Http, None), budget, lambda: minute + 45_000)
    rest._account(Reply(200, {"x-mbx-used-weight-1m": "4800"}, b""))
    rest._account(Reply(200, {}, b""))
    [(used, limit, left)] = told
    assert (used, round(limit), round(left, 3)) == (4800, 6000, 15.0)


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
    [(granted, wait, why)] = await budget.redis.run([other])
    assert granted == -1
    assert wait > 28_000_000
    assert why == b"long"


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


# -- what a ban outlives ------------------------------------------------------------------------


@pytest.fixture
def bans(tmp_path: Path) -> Bans:
    return Bans.of(tmp_path / "state", "coinbase")


def again(budget: Budget, **changes: Any) -> Budget:
    """The same budget after a restart: nothing in memory."""
    return Budget(budget.redis, budget.exchange, PER_SECOND, **{"bans": budget.bans, **changes})


async def grants_within(budget: Budget, seconds: float) -> bool:
    with trio.move_on_after(seconds) as scope:
        await budget.grant(Lane.LIVE)
    return not scope.cancelled_caught


async def banned_in_redis(budget: Budget) -> float:
    """Seconds that Redis would make another process wait."""
    call = script("budget", (store.budget_key(budget.exchange),), 125_000, 0, 1)
    granted, wait, *_ = (await budget.redis.run([call]))[0]
    return int(wait) / 1_000_000 if int(granted) < 0 else 0.0


async def test_a_restart_with_an_emptied_redis_respects_the_ban_and_puts_it_back(budget, bans):
    budget.bans = bans
    await budget.refused(30.0, "429: slow down")
    await budget.redis.one("FLUSHALL")
    restarted = again(budget)
    assert not await grants_within(restarted, 0.3)
    assert restarted.banned is not None
    assert restarted.banned.why == "429: slow down"
    assert 28 < await banned_in_redis(budget) <= 30
    assert await budget.redis.one("HGET", store.budget_key(budget.exchange), "refusals") is None


async def test_a_redis_that_is_emptied_during_a_ban_is_told_again(budget, monkeypatch):
    monkeypatch.setattr(module, "REPEAT", 0.2)
    async with trio.open_nursery() as nursery:
        await budget.refused(30.0, "429")
        nursery.start_soon(budget.grant, Lane.LIVE)
        await trio.sleep(0.1)
        await budget.redis.one("FLUSHALL")
        await trio.sleep(0.6)
        assert await banned_in_redis(budget) > 28
        nursery.cancel_scope.cancel()


async def test_a_refusal_while_redis_is_away_reaches_it_when_it_is_back(own_valkey, monkeypatch):
    monkeypatch.setattr(module, "REPEAT", 0.2)
    lanes = Redis(own_valkey.url)
    budget = Budget(lanes, "coinbase", PER_SECOND)
    own_valkey.stop()
    await budget.refused(30.0, "429")
    own_valkey.start()
    assert not await grants_within(budget, 0.5)
    assert await banned_in_redis(budget) > 28
    lanes.close()


async def test_a_ban_that_another_process_told_is_remembered_when_redis_forgets_it(budget, bans):
    other = again(budget)
    await other.refused(30.0, "429: slow down")
    budget.bans = bans
    assert not await grants_within(budget, 0.3)
    assert budget.banned is not None
    assert budget.banned.why == "429: slow down"
    known = bans.read()
    assert known is not None
    assert known.until == budget.banned.until
    await budget.redis.one("FLUSHALL")
    assert not await grants_within(again(budget), 0.3)


async def test_a_ban_that_is_over_holds_nobody(budget, bans):
    budget.bans = bans
    await budget.refused(0.3, "429")
    await trio.sleep(0.35)
    assert budget.banned is None
    assert await grants_within(again(budget), 0.3)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"\xff\x00", b'{"said":1,"until":99999999999999,"why":""}',
     b'{"said":5,"until":4,"why":""}', b'{"said":"x","until":4,"why":""}', b"[" * 100_000],
)  # fmt: skip
async def test_a_damaged_file_is_ignored_with_a_line_and_replaced(budget, bans, caplog, text):
    bans.path.parent.mkdir(parents=True)
    bans.path.write_bytes(text)
    budget.bans = bans
    assert await grants_within(budget, 0.5)
    [line] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "a ban may be forgotten" in line.getMessage()
    assert str(bans.path) in line.fields["why"]
    await budget.refused(30.0, "429")
    known = bans.read()
    assert known is not None
    assert known.why == "429"


async def test_a_directory_that_takes_nothing_is_a_line_and_the_ban_holds(budget, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    budget.bans = Bans.of(tmp_path / "file", "coinbase")
    await budget.refused(30.0, "429")
    assert not await grants_within(budget, 0.2)
    assert any("not kept for a restart" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("off", "left"),
    [(0, 30.0), (-1000, 30.0), (-(10**9), 30.0), (10, 20.0), (29, 1.0), (30, 0.0), (10**9, 0.0)],
)
async def test_a_wall_clock_that_was_set_makes_no_ban_longer_than_it_was_said_to_be(
    budget, bans, off, left
):
    """Set back: all of it again. Set forward: it seems over, and the exchange says it again."""
    now = 1_790_000_000.0
    budget.bans, budget.wall = bans, lambda: now
    await budget.refused(30.0, "429")
    await budget.redis.one("FLUSHALL")
    restarted = again(budget, wall=lambda: now + off)
    if left:
        assert not await grants_within(restarted, 0.15)
        assert await banned_in_redis(budget) == pytest.approx(left, abs=0.5)
    else:
        assert await grants_within(restarted, 0.5)


async def test_without_redis_a_ban_of_before_the_restart_holds_as_well(own_valkey, bans):
    lanes = Redis(own_valkey.url)
    await Budget(lanes, "coinbase", PER_SECOND, bans).refused(1.0, "429")
    own_valkey.stop()
    restarted = Budget(lanes, "coinbase", PER_SECOND, bans)
    started = trio.current_time()
    with trio.fail_after(5):
        await restarted.grant_alone()
    assert 0.5 < trio.current_time() - started < 1.5
    lanes.close()


async def test_three_that_ask_at_once_without_redis_still_ask_once_a_second(own_valkey):
    lanes = Redis(own_valkey.url)
    budget = Budget(lanes, "coinbase", PER_SECOND)
    moments: list[float] = []

    async def ask() -> None:
        await budget.grant_alone()
        moments.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
    assert max(moments) - min(moments) >= 1.99
    lanes.close()


async def test_a_storm_of_refusals_is_one_line_and_its_end_another(budget, caplog):
    caplog.set_level("INFO")
    for _ in range(4):
        await budget.refused(2.0, "429")
        await trio.sleep(0.3)
    budget._stop_until = 0.0
    await budget.refused(3.0, "429")
    budget.answered()
    budget.answered()
    told = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    assert told == ["REST refuses us", "REST serves us again"]
    assert budget.refusals == 5


async def test_a_clock_of_redis_that_went_back_lengthens_no_ban_and_starves_no_lane(budget):
    key = store.budget_key(budget.exchange)
    await budget.redis.run(
        [script("ban", (key,), 400_000, "429", 1),
         ("HINCRBY", key, "banned_until", 3_600_000_000),
         ("HSET", key, "lane0", 99_999_999_999_999_999)]
    )  # fmt: skip
    assert await banned_in_redis(budget) <= 0.4
    await trio.sleep(0.45)
    with trio.fail_after(1):
        await budget.grant(Lane.BY_HAND)
    await budget.redis.one("HSET", key, "banned_until", 99_999_999_999_999_999)
    await budget.refused(0.3, "429")
    assert await banned_in_redis(budget) <= 0.4, "the longer of the two, not of the clocks"


def test_two_processes_that_hammer_are_never_refused(valkey_url):
    """Real requests to a server that counts them in a sliding second, as the exchange does."""
    words = [sys.executable, "-m", "livermore.simulator", "coinbase", "--symbols", "2"]
    with subprocess.Popen(words, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as exchange:
        assert exchange.stdout
        urls = json.loads(exchange.stdout.readline())
        command = [sys.executable, "-c", HAMMER, valkey_url, urls["rest"], "6"]
        processes = [
            subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        counts = [int(process.communicate(timeout=30)[0]) for process in processes]
        stats = httpx.get(urls["control"] + "/stats").json()
        exchange.terminate()
    assert stats["rest_429"] == 0
    assert stats["rest_requests"] == sum(counts)
    assert min(counts) >= 10
    assert sum(counts) >= 0.8 * PER_SECOND * 6
