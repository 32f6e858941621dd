"""The lease of one exchange on virtual time, with a Redis that answers what the test says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.adapters.redis import Call, Redis
from livermore.errors import LeaseLost, StoreError, TakenError
from livermore.runtime.lease import LASTS, RENEW, Lease

OTHER = json.dumps({"pid": 7, "host": "elsewhere", "since": "2026-01-02T03:04:05Z"}).encode()


@attrs.define
class FakeRedis:
    """The lease script as a few lines of Python; ``away`` is a Redis that does not answer."""

    holder: bytes = b""
    epoch: int = 0
    description: bytes = b""
    away: bool = False
    slow: float = 0.0
    asked: list[tuple[float, str]] = attrs.Factory(list)

    async def run(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        assert lane == "lease", "a slow batch must not delay it"
        [call] = calls
        _, _, _, _, what, holder, milliseconds, description, epoch = call
        assert milliseconds == LASTS * 1000
        self.asked.append((trio.current_time(), what))
        await trio.sleep(self.slow)
        if self.away:
            raise StoreError("Redis is away")
        name = holder.encode()
        if what == "take":
            if self.holder and self.holder != name:
                return [self._other()]
            self.holder, self.epoch = name, max(self.epoch, epoch) + 1
            self.description = description.encode()
            return [[1, str(self.epoch).encode()]]
        if self.holder != name or self.epoch != epoch:
            return [self._other()]
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
        redis.away = True
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
