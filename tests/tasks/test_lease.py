"""The lease of one exchange on virtual time, with a Redis that answers what the test says."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.adapters.redis import Call, Redis
from livermore.errors import LeaseLost, StoreError, TakenError
from livermore.runtime.lease import ASK, LASTS, REMEMBERED, RENEW, Lease

OTHER = json.dumps({"pid": 7, "host": "elsewhere", "since": "2026-01-02T03:04:05Z"}).encode()


@attrs.define
class FakeRedis:
    """The lease script as a few lines of Python; ``away`` is a Redis that does not answer."""

    holder: bytes = b""
    epoch: int = 0
    description: bytes = b""
    until: float = math.inf
    """When it lapses."""
    away: bool = False
    slow: float = 0.0
    asked: list[tuple[float, str]] = attrs.Factory(list)

    async def run(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        assert lane == "lease", "a slow batch must not delay it"
        [call] = calls
        _, _, _, _, what, holder, milliseconds, description, epoch, remembered = call
        assert (milliseconds, remembered) == (LASTS * 1000, REMEMBERED * 1000)
        self.asked.append((trio.current_time(), what))
        await trio.sleep(self.slow)
        if self.away:
            raise StoreError("Redis is away")
        name = holder.encode()
        if self.holder and trio.current_time() >= self.until:
            self.holder, self.epoch = b"", 0  # it lapsed
        if what in ("take", "wait"):
            if self.holder and self.holder != name:
                return [self._other()]
            self.holder, self.epoch = name, max(self.epoch, epoch) + 1
            self.until = trio.current_time() + LASTS
            self.description = description.encode()
            return [[1, str(self.epoch).encode()]]
        if self.holder != name or self.epoch != epoch:
            return [self._other()]
        self.until = trio.current_time() + LASTS
        if what == "release":
            self.holder = b""
        return [[1, str(epoch).encode()]]

    def _other(self) -> list[Any]:
        return [0, str(self.epoch).encode(), self.holder, self.description, 12_000]


def lease_of(redis: FakeRedis) -> Lease:
    return Lease(cast(Redis, redis), "coinbase", "us:1", {"pid": 1, "host": "here"})


async def test_it_is_renewed_every_8_seconds_and_stays_valid(autojump_clock: MockClock):
    redis = FakeRedis()
    lease = lease_of(redis)
    await lease.take()
    with trio.move_on_after(100):
        await lease.hold(lambda: None)
    assert lease.valid()
    assert [moment for moment, what in redis.asked if what == "renew"] == pytest.approx(
        [RENEW * n for n in range(1, 13)]
    )


async def test_a_lease_that_somebody_holds_is_not_taken_and_its_holder_is_named(
    autojump_clock: MockClock,
):
    redis = FakeRedis(holder=b"them", epoch=5, description=OTHER)
    with pytest.raises(TakenError) as caught:
        await lease_of(redis).take()
    said = str(caught.value)
    assert "held by process 7 on elsewhere, since 2026-01-02T03:04:05Z" in said
    assert "its lease runs 12 s more" in said


async def test_it_counts_from_when_it_was_asked_for(autojump_clock: MockClock):
    redis = FakeRedis(slow=2.0)
    lease = lease_of(redis)
    await lease.take()
    assert lease.valid_until == pytest.approx(LASTS)


async def test_we_stop_writing_when_it_lapses_by_our_clock(autojump_clock: MockClock):
    redis = FakeRedis()
    lease = lease_of(redis)
    await lease.take()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease.hold, lambda: None)
        await trio.sleep(RENEW + 1)
        redis.away, redis.until = True, math.inf  # paused, it forgets nothing
        await trio.sleep(LASTS - 1.5)
        assert lease.valid()
        await trio.sleep(1)
        assert not lease.valid()
        tries = len(redis.asked)
        await trio.sleep(10)
        assert 9 <= len(redis.asked) - tries <= 11, "it asks each second, for it to come back"
        redis.away = False
        await trio.sleep(1.5)
        assert lease.valid()
        nursery.cancel_scope.cancel()
    assert redis.epoch == lease.epoch == 1, "it was ours all the time"


async def test_one_that_lapsed_in_redis_is_taken_anew_under_a_higher_epoch(
    autojump_clock: MockClock,
):
    redis = FakeRedis()
    lease = lease_of(redis)
    before = await lease.take()
    retaken: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease.hold, lambda: retaken.append(lease.epoch))
        await trio.sleep(1)
        redis.holder, redis.epoch = b"", 0  # Redis came back empty
        await trio.sleep(RENEW)
        nursery.cancel_scope.cancel()
    assert retaken == [lease.epoch]
    assert lease.epoch > before
    assert lease.valid()


async def test_one_that_somebody_took_is_lost(autojump_clock: MockClock):
    redis = FakeRedis()
    lease = lease_of(redis)
    await lease.take()
    redis.holder, redis.epoch, redis.description = b"them", 9, OTHER
    with trio.fail_after(100), pytest.raises(LeaseLost) as caught:
        await lease.hold(lambda: None)
    assert "process 7 on elsewhere" in str(caught.value)
    assert trio.current_time() == pytest.approx(RENEW)


async def test_releasing_stops_our_writing_even_when_redis_is_away(autojump_clock: MockClock):
    redis = FakeRedis()
    lease = lease_of(redis)
    await lease.take()
    redis.away = True
    await lease.release()
    assert not lease.valid()
    assert redis.holder == b"us:1"
    redis.away = False
    await lease.release()
    assert redis.holder == b""


async def test_one_that_stands_by_takes_it_within_seconds_of_its_lapse(autojump_clock: MockClock):
    redis = FakeRedis(holder=b"them", epoch=5, description=OTHER, until=LASTS)
    waits: list[str] = []
    lease = lease_of(redis)
    with trio.fail_after(100):
        epoch = await lease.stand_by(waits.append)
    assert LASTS <= trio.current_time() <= LASTS + ASK
    assert (redis.holder, redis.epoch) == (b"us:1", epoch)
    assert lease.valid()
    assert set(waits) == {
        "coinbase is held by process 7 on elsewhere, since 2026-01-02T03:04:05Z"
    }, "who holds it, in words that do not change from try to try"


async def test_one_that_stands_by_never_takes_what_is_renewed(autojump_clock: MockClock):
    redis = FakeRedis()
    first = lease_of(redis)
    await first.take()
    second = Lease(cast(Redis, redis), "coinbase", "us:2", {})
    with trio.move_on_after(500):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.hold, lambda: pytest.fail("taken anew"))
            nursery.start_soon(second.stand_by, lambda _: None)
    assert first.valid()
    assert not second.valid()
    assert redis.holder == b"us:1"


async def test_a_redis_that_is_away_does_not_end_standing_by(autojump_clock: MockClock):
    redis = FakeRedis(away=True)
    waits: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease_of(redis).stand_by, waits.append)
        await trio.sleep(60)
        assert set(waits) == {"Redis is away"}
        assert len(waits) == pytest.approx(60 / ASK, abs=1)
        redis.away = False
        await trio.sleep(ASK)
    assert redis.holder == b"us:1"


async def test_a_doubt_is_looked_into_at_once(autojump_clock: MockClock):
    redis = FakeRedis()
    lease = lease_of(redis)
    await lease.take()
    with trio.fail_after(100), pytest.RaisesGroup(LeaseLost):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lease.hold, lambda: None)
            await trio.sleep(0.1)
            lease.doubt()
            await trio.sleep(0.1)
            assert lease.valid(), "it was ours, and holding it goes on"
            redis.holder, redis.epoch, redis.description = b"them", 9, OTHER
            lease.doubt()
            await trio.sleep(RENEW)
    assert trio.current_time() == pytest.approx(0.2)


async def test_a_higher_epoch_can_be_had_by_its_holder_alone(autojump_clock: MockClock):
    redis = FakeRedis()
    lease = lease_of(redis)
    await lease.take()
    assert await lease.take(at_least=77) == 78
    redis.holder = b"them"
    with pytest.raises(TakenError):
        await lease.take(at_least=99)
    assert lease.epoch == 78, "one that was succeeded never speaks under its successor's epoch"


async def test_it_says_who_succeeded_it(autojump_clock: MockClock):
    redis = FakeRedis()
    lease = lease_of(redis)
    await lease.take()
    assert await lease.successor() is None, "we hold it"
    redis.holder = b""
    assert await lease.successor() is None, "nobody does"
    redis.holder, redis.epoch, redis.description = b"them", 9, OTHER
    found = await lease.successor()
    assert found is not None
    assert "livermore run coinbase --standby" in str(found)
    assert found.holder.endswith("held by process 7 on elsewhere, since 2026-01-02T03:04:05Z")
    redis.away = True
    assert await lease.successor() is None, "Redis does not say"
