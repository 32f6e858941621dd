"""Who writes an exchange, on real servers."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator

import pytest
import trio

from livermore.adapters import store
from livermore.adapters.redis import Call, Redis, script
from livermore.errors import Fenced, LeaseLost, StoreError, TakenError
from livermore.market.candle import Candle, Series
from livermore.market.timeframe import Timeframe
from livermore.runtime import lease as module
from livermore.runtime.lease import Lease

EXCHANGE = "coinbase"
KEY = store.lease_key(EXCHANGE)
T0 = 1_760_000_100_000


def lease(lanes: Redis, holder: str, **said: object) -> Lease:
    return Lease(lanes, EXCHANGE, holder, {"pid": 4711, "host": "box", **said})


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease of a second, renewed every 0.15 s."""
    monkeypatch.setattr(module, "LASTS", 1.0)
    monkeypatch.setattr(module, "RENEW", 0.15)


@pytest.fixture(params=["valkey", "redis", "cluster"])
def lanes(request: pytest.FixtureRequest) -> Iterator[Redis]:
    lanes = Redis(request.getfixturevalue(f"{request.param}_url"))
    yield lanes
    lanes.close()


@pytest.fixture
def one(valkey_url: str) -> Iterator[Redis]:
    lanes = Redis(valkey_url)
    yield lanes
    lanes.close()


async def test_a_second_holder_is_refused_and_told_who_and_since_when(lanes):
    await lease(lanes, "first", since="2026-11-20 05:00").take()
    with pytest.raises(TakenError) as caught:
        await lease(lanes, "second").take()
    said = str(caught.value)
    assert "coinbase is held by process 4711 on box, since 2026-11-20 05:00" in said
    assert "stop that daemon" in said
    assert "\n" not in said


@pytest.mark.parametrize("description", [b"", b"no json", b"[]", b'"text"'])
async def test_a_holder_that_describes_itself_badly_still_holds(one, description):
    first = lease(one, "first")
    await first.take()
    await one.one("HSET", KEY, "description", description)
    with pytest.raises(TakenError, match="held by process"):
        await lease(one, "second").take()


async def test_the_epoch_is_redis_time_or_one_more_than_any_before(lanes):
    first = lease(lanes, "first")
    assert abs(await first.take() - time.time() * 1000) < 5_000
    await lanes.one("HSET", KEY, "epoch", 9_999_999_999_999)
    assert await first.take() == 10_000_000_000_000
    await lanes.one("DEL", KEY)
    assert await first.take() == 10_000_000_000_001  # the key was gone, we still know


async def test_a_released_lease_can_be_taken_at_once_and_ends_our_right_to_write(lanes):
    first, second = lease(lanes, "first"), lease(lanes, "second")
    epoch = await first.take()
    assert first.valid()
    await trio.sleep(0.005)
    await first.release()
    assert not first.valid()
    assert await second.take() > epoch


async def test_releasing_what_somebody_else_took_leaves_it_alone(one):
    first, second = lease(one, "first"), lease(one, "second")
    await first.take()
    await one.one("DEL", KEY)
    await second.take()
    await first.release()
    assert await one.one("HGET", KEY, "holder") == b"second"


async def test_the_lease_lapses_by_itself(one, short):
    first, second = lease(one, "first"), lease(one, "second")
    await first.take()
    assert 0 < await one.one("PTTL", KEY) <= 1000
    await trio.sleep(1.05)
    assert not first.valid()
    await second.take()


async def test_a_held_lease_outlives_its_length_under_the_same_epoch(one, short):
    first = lease(one, "first")
    epoch = await first.take()
    with trio.move_on_after(1.6):
        await first.hold(lambda: pytest.fail("taken anew"))
    assert first.valid()
    assert (first.epoch, await one.one("HGET", KEY, "epoch")) == (epoch, b"%d" % epoch)


async def test_its_length_counts_from_before_it_was_asked_for(own_valkey, short):
    lanes = Redis(own_valkey.url)
    first = lease(lanes, "first")
    await lanes.one("PING", lane="lease")
    own_valkey.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.take)
        await trio.sleep(1.2)
        own_valkey.resume()
    assert not first.valid()  # granted, but for a time that is over
    lanes.close()


async def test_somebody_elses_lease_ends_the_hold_naming_them(one, short):
    first, second = lease(one, "first"), lease(one, "second")
    await first.take()
    await one.one("DEL", KEY)
    await second.take()
    with trio.fail_after(3), pytest.raises(LeaseLost, match="held by process"):
        await first.hold(lambda: None)


async def test_an_away_redis_lapses_the_lease_and_its_return_gives_the_same_epoch(
    own_valkey, short
):
    """Away for less than the lease: nobody can have taken it."""
    lanes = Redis(own_valkey.url)
    first = lease(lanes, "first")
    epoch = await first.take()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.hold, lambda: pytest.fail("taken anew"))
            await trio.sleep(0.2)
            await trio.to_thread.run_sync(own_valkey.kill)
            await trio.to_thread.run_sync(own_valkey.start)
            await trio.sleep(0.8)
            assert first.valid()
            await trio.sleep(1.2)
            assert first.valid()
            nursery.cancel_scope.cancel()
    assert first.epoch == epoch
    lanes.close()


async def test_a_lease_that_lapsed_while_redis_was_away_is_taken_anew_under_a_higher_epoch(
    own_valkey, short
):
    lanes = Redis(own_valkey.url)
    first = lease(lanes, "first")
    epoch = await first.take()
    taken = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.hold, taken.set)
            await trio.to_thread.run_sync(own_valkey.kill)
            await trio.sleep(1.3)
            assert not first.valid()
            await trio.to_thread.run_sync(own_valkey.start)
            await taken.wait()
            assert first.valid()
            nursery.cancel_scope.cancel()
    assert first.epoch > epoch
    lanes.close()


async def test_a_lease_we_took_without_hearing_so_is_ours(one, short):
    first = lease(one, "first")
    epoch = await first.take()
    # The same holder took it again; the reply was lost with the connection.
    call = script("lease", (KEY,), "take", "first", 1000, json.dumps({}), epoch)
    await one.run([call], "lease")
    taken = trio.Event()
    with trio.fail_after(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.hold, taken.set)
            await taken.wait()
            nursery.cancel_scope.cancel()
    assert first.valid()
    assert first.epoch > epoch


async def test_a_renewal_that_failed_is_tried_again_within_a_second_or_so(own_valkey, monkeypatch):
    monkeypatch.setattr(module, "RENEW", 2.5)
    lanes = Redis(own_valkey.url)
    first = lease(lanes, "first")
    await first.take()
    taken_until = first.valid_until
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.hold, lambda: pytest.fail("taken anew"))
            await trio.to_thread.run_sync(own_valkey.kill)
            await trio.sleep(2.6)
            await trio.to_thread.run_sync(own_valkey.start)
            assert first.valid_until == taken_until
            await trio.sleep(1.4)
            assert first.valid_until > taken_until
            nursery.cancel_scope.cancel()
    lanes.close()


async def test_an_away_redis_is_told_when_taking_and_forgotten_when_releasing(own_valkey):
    lanes = Redis(own_valkey.url)
    first = lease(lanes, "first")
    await first.take()
    own_valkey.stop()
    with pytest.raises(StoreError):
        await first.take()
    await first.release()
    assert not first.valid()
    lanes.close()


async def test_a_paused_holder_is_refused_by_every_script_of_a_series_after_the_new_one_raised_it(
    lanes,
):
    series = Series(EXCHANGE, "BTC-USD", Timeframe.M5)
    named = store.keys(series)
    candle = Candle(series, T0 - T0 % 300_000, 1.0, 2.0, 1.0, 2.0, 1.0)
    old = await lease(lanes, "paused").take()
    await lanes.run([store.write(series, old, [candle])])
    await lanes.one("DEL", KEY)
    await trio.sleep(0.005)
    new = await lease(lanes, "new").take()
    assert new > old
    await lanes.run([script("epoch", (named.companion,), new)])
    reading = b'{"open_time":1,"revision":0,"epoch":%d,"x":1,"state":{}}'
    await lanes.run([store.reading(series, reading % new)])
    for call in (
        store.write(series, old, [candle]),
        script("asked", (named.companion,), old, T0),
        script("epoch", (named.companion,), old),
        store.reading(series, reading % old),
    ):
        with pytest.raises(Fenced):
            await lanes.run([call])
    assert await lanes.one("HGET", named.companion, "epoch") == b"%d" % new


async def test_two_that_ask_at_once_are_never_both_granted(valkey_url):
    granted: list[str] = []

    async def ask(name: str) -> None:
        lanes = Redis(valkey_url)
        try:
            await lease(lanes, name).take()
            granted.append(name)
        except TakenError:
            pass
        lanes.close()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(functools.partial(ask, f"holder {number}"))
    assert len(granted) == 1


# -- standing by --------------------------------------------------------------------------------


async def held(lanes: Redis) -> store.Held | None:
    return store.held(await lanes.run(store.held_calls(EXCHANGE)))


async def test_those_that_stand_by_are_named_beside_the_holder_until_they_are_gone(
    lanes, short, monkeypatch
):
    monkeypatch.setattr(module, "ASK", 0.1)
    monkeypatch.setattr(module, "REMEMBERED", 0.5)
    assert await held(lanes) is None
    first, second = lease(lanes, "first"), Lease(lanes, EXCHANGE, "second", {"pid": 5, "host": "b"})
    third = Lease(lanes, EXCHANGE, "third", {"pid": 6, "host": "c", "since": "noon"})
    epoch = await first.take()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.hold, lambda: pytest.fail("taken anew"))
            with trio.CancelScope() as waiting:
                async with trio.open_nursery() as standbys:
                    standbys.start_soon(second.stand_by, lambda _: None)
                    standbys.start_soon(third.stand_by, lambda _: None)
                    await trio.sleep(1.3)
                    found = await held(lanes)
                    assert found is not None
                    assert found.holder == "process 4711 on box"
                    assert 0 < found.left <= 1000
                    assert found.standbys == ("process 5 on b", "process 6 on c, since noon")
                    waiting.cancel()
            await second.release()  # as it does when it ends
            found = await held(lanes)
            assert found is not None
            assert found.standbys == ("process 6 on c, since noon",)
            await trio.sleep(0.9)  # the third was killed
            found = await held(lanes)
            assert found is not None
            assert found.standbys == ()
            nursery.cancel_scope.cancel()
    assert first.epoch == epoch


async def test_of_two_that_stand_by_one_takes_over_when_the_holder_is_gone(
    lanes, short, monkeypatch
):
    monkeypatch.setattr(module, "ASK", 0.1)
    first = lease(lanes, "first")
    epoch = await first.take()
    waiting = [lease(lanes, "second"), lease(lanes, "third")]
    with trio.move_on_after(1.8):
        async with trio.open_nursery() as nursery:
            for one in waiting:
                nursery.start_soon(hold_when_free, one)
    [taker] = [one for one in waiting if one.epoch]
    assert taker.epoch > epoch
    assert not first.valid()
    found = await held(lanes)
    assert found is not None
    assert len(found.standbys) == 1


async def hold_when_free(one: Lease) -> None:
    await one.stand_by(lambda _: None)
    await one.hold(lambda: None)


async def test_what_was_given_back_is_taken_at_the_next_try(one, monkeypatch):
    monkeypatch.setattr(module, "ASK", 0.1)
    first, second = lease(one, "first"), lease(one, "second")
    await first.take()
    with trio.fail_after(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.stand_by, lambda _: None)
            await trio.sleep(0.3)
            assert not second.valid()
            await first.release()
    assert second.valid()


# -- what is said beside the candles ------------------------------------------------------------


async def test_what_a_succeeded_holder_says_is_not_heard_or_stored(lanes):
    status, channel = store.status_key(EXCHANGE), store.lifecycle_channel(EXCHANGE)
    ticker, ticks = store.ticker_key(EXCHANGE, "BTC-USD"), store.ticker_channel(EXCHANGE, "BTC-USD")
    named = store.keys(Series(EXCHANGE, "BTC-USD", Timeframe.M5))
    new, old = b'{"pid":2,"epoch":20}', b'{"pid":1,"epoch":10}'

    def by(text: bytes, epoch: int) -> list[Call]:
        return [
            store.keep(status, text, 45, epoch),
            store.publish(status, channel, "words", epoch=epoch),
            store.publish(ticker, ticks, text, epoch=epoch, seconds=60),
            store.publish(named.companion, named.update_channel, "forming", epoch=epoch),
        ]

    assert await lanes.run(by(old, 10)) == [1] * 4, "nobody was there before"
    await lanes.run([script("epoch", (named.companion,), 20)])
    assert await lanes.run(by(new, 20)) == [1] * 4
    assert await lanes.run(by(old, 10)) == [store.SUCCEEDED] * 4
    assert await lanes.run([store.forget(status, 10)]) == [store.SUCCEEDED]
    assert await lanes.run([("GET", status), ("GET", ticker)]) == [new, new]
    assert await lanes.run([store.forget(status, 20)]) == [1]
    assert await lanes.one("EXISTS", status) == 0


async def test_values_of_somebody_else_in_their_place_do_not_end_it(one):
    await one.run([("RPUSH", "list", "x"), ("SET", "text", "x"), ("HSET", "hash", "epoch", "x")])
    for key in ("list", "text", "hash"):
        assert await one.run([store.publish(key, "channel:x", "words", epoch=1)]) == [1]
