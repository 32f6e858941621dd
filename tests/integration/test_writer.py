"""The writer on a real Valkey: closes, parents, outages, and what one bad key may not do."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence

import attrs
import pytest
import redis
import trio
import trio.testing

from livermore.adapters import store
from livermore.adapters.redis import Call
from livermore.errors import Fenced, StoreError
from livermore.market.candle import Candle, Evidence, Kind, Series
from livermore.market.events import Ticker
from livermore.market.timeframe import TIMEFRAMES, Timeframe
from livermore.market.tracker import Forming, Missing, Suspect
from livermore.runtime import readings as readings_module
from livermore.runtime import writer as module
from tests.integration.test_readings import M5, T0, Desk, assert_equal, candle, nothing, price
from tests.servers import RedisServer

M15, H1 = Timeframe.M15, Timeframe.H1


class Ears:
    """Candles announced on one server, in order: channel kind, timeframe, open time, revision."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.psubscribe("channel:*", "end")
        self._pubsub.get_message(timeout=1)
        self._pubsub.get_message(timeout=1)

    def raw(self) -> list[tuple[str, bytes]]:
        self._client.publish("end", "")
        found: list[tuple[str, bytes]] = []
        while True:
            message = self._pubsub.get_message(timeout=2)
            assert message is not None, "the end was not heard"
            if message["channel"] == b"end":
                return found
            found.append((message["channel"].decode(), message["data"]))

    def candles(self) -> list[tuple[str, str, int, int]]:
        told = []
        for channel, data in self.raw():
            parts = channel.split(":")
            if parts[3] == "candle" and parts[4] in ("close", "correct"):
                row = store._stored.decode(data)
                told.append((parts[4], parts[6], (row.open_time - T0) // M5.ms, row.revision))
        return told

    def close(self) -> None:
        self._pubsub.close()
        self._client.close()


@pytest.fixture
async def desk(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    yield desk
    desk.shut()


@pytest.fixture
def ears(valkey_url):
    ears = Ears(valkey_url)
    yield ears
    ears.close()


async def wait_until(what: Callable[[], bool]) -> None:
    with trio.fail_after(15):
        while not what():  # noqa: ASYNC110 - what others do, seen from outside
            await trio.sleep(0.01)


def folded(children: list[Candle]) -> tuple[object, ...]:
    return (
        children[0].open, max(c.high for c in children), min(c.low for c in children),
        children[-1].close, pytest.approx(sum(c.volume for c in children)),
    )  # fmt: skip


async def assert_parents_fold(desk: Desk) -> None:
    """Every stored parent that REST did not speak of is the fold of its stored children."""
    for child, parent in itertools.pairwise(TIMEFRAMES):
        children = {c.open_time: c for c in await desk.stored(desk.series(child))}
        for bar in await desk.stored(desk.series(parent)):
            slots = [bar.open_time + n * child.ms for n in range(parent.ms // child.ms)]
            if all(slot in children for slot in slots) and bar.evidence is not Evidence.REST:
                traded = [children[s] for s in slots if children[s].kind is Kind.TRADED]
                if traded:
                    assert (bar.open, bar.high, bar.low, bar.close, bar.volume) == folded(traded)


# -- closes and parents --------------------------------------------------------------------------


async def test_the_last_child_closes_its_parents_in_the_same_turn_shortest_first(desk, ears):
    await desk.close(*(candle(desk, slot) for slot in range(11)))
    ears.raw()
    await desk.close(candle(desk, 11))
    assert ears.candles() == [
        ("close", "5m", 11, 0), ("close", "15m", 9, 0), ("close", "1h", 0, 0)
    ]  # fmt: skip
    await assert_parents_fold(desk)


async def test_an_empty_child_is_announced_before_the_parents_it_completes(valkey_url, ears):
    """And what trades beside it goes to Redis a few in a call, as if it were not there."""
    desk = Desk(valkey_url, [f"S{n}-USD" for n in range(40)])
    await desk.start()

    def slot(number: int, quiet: bool) -> list[Candle]:
        return [
            attrs.evolve(
                (nothing if quiet and n % 2 else candle)(desk, number),
                series=desk.series(symbol=symbol),
            )
            for n, symbol in enumerate(desk.symbols)
        ]

    for number in range(11):
        await desk.close(*slot(number, quiet=False), reading=False)
    ears.raw()
    with redis.Redis.from_url(valkey_url) as client:
        client.config_resetstat()
        await desk.close(*slot(11, quiet=True), reading=False)
        scripts = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    told = [timeframe for _, timeframe, _, _ in ears.candles()]
    assert told == ["5m"] * 40 + ["15m"] * 40 + ["1h"] * 40
    assert scripts == 2 + 20 + 4 + 40 + 4, "each hour is the first of its series"
    desk.shut()


async def test_a_day_of_closes_gives_every_timeframe(desk):
    for start in range(0, 288, 24):
        await desk.close(*(candle(desk, slot) for slot in range(start, start + 24)))
    counts = [len(await desk.stored(desk.series(timeframe))) for timeframe in TIMEFRAMES]
    assert counts == [288, 96, 24, 6, 1]
    await assert_parents_fold(desk)


async def test_a_parent_with_a_missing_child_is_not_written(desk):
    await desk.close(candle(desk, 0), candle(desk, 2), candle(desk, 3))
    assert await desk.stored(desk.series(M15)) == []


async def test_a_repaired_child_gives_its_old_parents(desk, ears):
    await desk.close(*(candle(desk, slot) for slot in range(-12, 26) if slot != 7))
    assert len(await desk.stored(desk.series(H1))) == 2
    ears.raw()
    await desk.history([candle(desk, 7, rest=True)])
    assert [told[:3] for told in ears.candles()] == [
        ("close", "5m", 7), ("close", "15m", 6), ("close", "1h", 0)
    ]  # fmt: skip
    await assert_parents_fold(desk)


@pytest.mark.parametrize("count", [4, 12, 14, 26])
async def test_a_correction_refolds_every_parent_it_changes_stored_or_running(desk, count):
    """With 14 the 15m slot is done and its hour too; with 4 only the 15m slot is, the hour runs."""
    await desk.close(*(candle(desk, slot) for slot in range(count)))
    await desk.history([candle(desk, 1, shift=12.0, rest=True)])
    await assert_parents_fold(desk)
    for slot in range(count, 30):
        await desk.close(candle(desk, slot))
    await assert_parents_fold(desk)
    [first, *_] = await desk.stored(desk.series(M15))
    assert first.revision == 1
    assert first.high == price(1) + 12.0 + 0.3
    assert (await desk.stored(desk.series(H1)))[0].revision == (count > 11)


async def test_an_older_stamp_in_a_stronger_child_still_changes_the_parent(desk):
    late = attrs.evolve(candle(desk, 2), as_of=T0 + 9 * M5.ms)
    await desk.close(candle(desk, 0), candle(desk, 1), late)
    stamp = T0 + 3 * M5.ms + 40_000
    await desk.history([attrs.evolve(candle(desk, 2, shift=12.0, rest=True), as_of=stamp)])
    assert (await desk.stored(desk.series(M15)))[0].high == price(2) + 12.0 + 0.3
    await assert_parents_fold(desk)


async def test_a_weaker_child_that_is_refused_does_not_shape_the_parent(desk):
    await desk.close(candle(desk, 0))
    await desk.history([candle(desk, 0, shift=9.0, rest=True)])
    await desk.close(attrs.evolve(candle(desk, 0), as_of=T0 + 3 * M5.ms))
    assert [(s.open_time - T0) // M5.ms for s in desk.suspects] == [0]
    await desk.close(candle(desk, 1), candle(desk, 2))
    await assert_parents_fold(desk)


async def test_a_parent_rest_spoke_of_is_asked_again_and_not_overwritten(desk):
    await desk.close(*(candle(desk, slot) for slot in range(5)))
    [bar] = await desk.stored(desk.series(M15))
    said = attrs.evolve(bar, high=bar.high + 9, evidence=Evidence.REST, revision=0)
    await desk.history([said])
    desk.suspects.clear()
    await desk.close(candle(desk, 1, shift=3.0, rest=True))
    assert desk.suspects == [Suspect(desk.series(M15), T0, "its children say otherwise")]
    assert (await desk.stored(desk.series(M15)))[0].high == said.high


async def test_a_restart_goes_on_folding_and_finishes_what_a_crash_left(desk):
    await desk.close(*(candle(desk, slot) for slot in range(10)))
    # The crash came between the children and their parents; the next slot already runs.
    last = [candle(desk, slot) for slot in (10, 11)]
    await desk.lanes.run([store.write(desk.series(), desk.lease.epoch, last)])
    desk.now = T0 + 12 * M5.ms + 60_000
    await desk.start()
    await desk.close()
    assert [len(await desk.stored(desk.series(t))) for t in (M15, H1)] == [4, 1]
    desk.now = T0 + 13 * M5.ms
    await desk.close(candle(desk, 12))
    await desk.start()
    await desk.close(candle(desk, 13), candle(desk, 14))
    assert len(await desk.stored(desk.series(M15))) == 5
    await assert_parents_fold(desk)


async def test_four_hours_of_empties_fold_to_empties(desk):
    await desk.close(candle(desk, 0), *(nothing(desk, slot) for slot in range(1, 24)))
    hours = await desk.stored(desk.series(H1))
    assert [c.kind for c in hours] == [Kind.TRADED, Kind.EMPTY]
    assert hours[1].close == hours[0].close == price(0)


# -- what the script refuses ---------------------------------------------------------------------


async def test_the_newest_of_a_slot_wins_and_is_announced_once(desk, ears):
    desk.put([candle(desk, 0)])
    desk.put([candle(desk, 0, shift=1.0)])
    await desk.close()
    assert ears.candles() == [("close", "5m", 0, 0)]
    assert (await desk.stored())[0].close == price(0) + 1.0


async def test_updates_and_tickers_are_published_and_only_the_ticker_is_kept(desk, ears):
    series = desk.series()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.writer.run)
        desk.pending.forming[series] = Forming(series, T0, 1.0, 2.0, 0.5, 1.5, 3.0, T0 + 5)
        desk.pending.tickers["BTC-USD"] = Ticker("BTC-USD", 1.5, T0 + 5)
        desk.writer.wake()
        await wait_until(lambda: not desk.pending.tickers)
        await trio.sleep(0.3)
        nursery.cancel_scope.cancel()
    channels = sorted(channel for channel, _ in ears.raw())
    # T0 begins a day: the running parents consist of the running candle alone, and are shown.
    every = store.all_series(desk.exchange, series.symbol)
    expected = [store.keys(one).update_channel for one in every]
    assert channels == sorted([*expected, store.ticker_channel(desk.exchange, "BTC-USD")])
    ticker = store.ticker_key(desk.exchange, "BTC-USD")
    assert 50 < await desk.lanes.one("TTL", ticker) <= 60
    assert await desk.stored() == []


async def test_what_is_shown_is_made_a_few_at_a_time_and_a_symbol_that_left_is_not(
    desk, monkeypatch
):
    names = [f"S{number}-USD" for number in range(450)]
    for name in names:
        series = Series(desk.exchange, name, M5)
        desk.pending.forming[series] = Forming(series, T0, 1.0, 2.0, 0.5, 1.5, 3.0, T0 + 5)
        desk.pending.tickers[name] = Ticker(name, 1.5, T0 + 5)
    shown: list[list[str]] = []

    async def run(calls: Sequence[Call], lane: str) -> None:
        assert lane == "show"
        shown.append([str(call[3]) for call in calls])

    monkeypatch.setattr(desk.lanes, "run", run)
    await desk.writer._show()
    desk.writer.forget(store.all_series(desk.exchange, names[0]))
    desk.writer.forget(store.all_series(desk.exchange, names[-1]))
    while desk.writer._to_show:
        await desk.writer._show()
    assert max(map(len, shown)) == module.SHOWN_AT_ONCE
    told = [key for some in shown for key in some]
    every = {
        key
        for name in names
        for key in (
            store.ticker_key(desk.exchange, name),
            *(store.keys(one).companion for one in store.all_series(desk.exchange, name)),
        )
    }
    last = {store.keys(one).companion for one in store.all_series(desk.exchange, names[-1])}
    gone = last | {store.ticker_key(desk.exchange, name) for name in (names[0], names[-1])}
    assert sorted(told) == sorted(every - gone)


def wait_to_be_shown(desk: Desk, number: int) -> list[str]:
    """Tickers of so many symbols."""
    names = [f"S{n}-USD" for n in range(number)]
    for name in names:
        desk.pending.tickers[name] = Ticker(name, 1.5, T0 + 5)
    return names


async def test_what_waits_to_be_shown_is_not_shown_under_a_later_epoch(desk):
    """Another held the exchange meanwhile: what it said is newer."""
    last = wait_to_be_shown(desk, module.SHOWN_AT_ONCE + 1)[-1]
    await desk.writer._show()
    key, channel = store.ticker_key(desk.exchange, last), store.ticker_channel(desk.exchange, last)
    newer = Ticker(last, 99.0, T0 + 60_000)
    text = module.ticker_text(desk.exchange, last, newer, desk.lease.epoch + 1)
    await desk.lanes.run(
        [store.publish(key, channel, text, epoch=desk.lease.epoch + 1, seconds=60)], "show"
    )
    desk.lease.epoch += 2
    while desk.writer._to_show:
        await desk.writer._show()
    assert await desk.lanes.one("GET", key) == text


async def test_what_waits_to_be_shown_does_not_outlast_a_lapsed_lease(desk):
    last = wait_to_be_shown(desk, module.SHOWN_AT_ONCE + 1)[-1]
    async with trio.open_nursery() as nursery:
        await desk.writer._show()
        desk.lease.valid_until = trio.current_time() - 0.001
        nursery.start_soon(desk.writer.run)
        desk.writer.wake()
        await wait_until(lambda: "lapsed" in desk.writer.turns.away_why)
        desk.lease.valid_until = trio.current_time() + 30
        await wait_until(lambda: desk.back == 1)
        await trio.sleep(module.SHOW + 0.1)
        nursery.cancel_scope.cancel()
    assert await desk.lanes.one("GET", store.ticker_key(desk.exchange, last)) is None


async def test_a_slot_that_closed_is_not_shown_any_more_and_the_next_is(desk, ears):
    """Wherever its running candle waits: with the trackers, or to be shown in this round."""
    every = [Series(desk.exchange, f"S{n}-USD", M5) for n in range(300)]

    def runs(number: int) -> None:
        for one in every:
            time = T0 + number * M5.ms
            desk.pending.forming[one] = Forming(one, time, 1.0, 2.0, 0.5, 1.5, 3.0, time + 5)

    async def show() -> None:
        await desk.writer._show()
        while desk.writer._to_show:
            await desk.writer._show()

    runs(0)
    await desk.writer._show()
    assert desk.writer._to_show, "some wait"
    runs(0)
    await desk.close(*(attrs.evolve(candle(desk, 0), series=one) for one in every), reading=False)
    await show()
    await show()
    runs(1)
    # What comes late of an older slot changes nothing.
    await desk.close(*(attrs.evolve(candle(desk, -1), series=one) for one in every), reading=False)
    desk.pending.forming[every[0]] = attrs.evolve(desk.pending.forming[every[0]], open_time=T0)
    await show()
    over: set[tuple[str, int]] = set()
    running: set[tuple[str, int]] = set()
    for channel, text in ears.raw():
        _, _, _, _, kind, symbol, timeframe = channel.split(":")
        slot = (symbol, (int(json.loads(text)["open_time"]) - T0) // M5.ms)
        if timeframe == "5m" and kind == "close":
            over.add(slot)
        elif timeframe == "5m":
            assert slot not in over
            running.add(slot)
    assert {symbol for symbol, slot in running if slot == 1} == {one.symbol for one in every[1:]}
    desk.writer.move(every[1], attrs.evolve(every[1], symbol="OTHER-USD"))
    desk.writer.forget(every)
    assert [one.symbol for one in desk.writer._newest] == ["OTHER-USD"], "it is bounded"


async def test_a_newer_holder_ends_the_writer(desk):
    await desk.close(candle(desk, 0))
    await desk.lanes.one("HSET", store.keys(desk.series()).companion, "epoch", desk.lease.epoch + 1)
    desk.put([candle(desk, 1)])
    with trio.fail_after(5), pytest.raises(Fenced):
        await desk.writer.run()
    assert len(await desk.stored()) == 1


async def test_nothing_is_written_under_a_lapsed_lease_and_everything_once_it_is_ours_again(desk):
    desk.lease.valid_until = trio.current_time() - 0.001
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.writer.run)
        desk.put([candle(desk, 0)])
        desk.writer.wake()
        with pytest.raises(StoreError, match="lapsed"):
            await desk.writer.history(desk.series(), [candle(desk, 5)])
        await trio.sleep(0.5)
        assert await desk.stored() == []
        assert desk.writer.turns.away_since is not None
        assert "lapsed" in desk.writer.turns.away_why
        desk.lease.valid_until = trio.current_time() + 30
        await wait_until(lambda: desk.writer.waiting() == 0 and desk.back == 1)
        nursery.cancel_scope.cancel()
    assert len(await desk.stored()) == 1


# -- one bad key ---------------------------------------------------------------------------------


async def test_one_key_of_somebody_else_holds_back_its_own_series_only(valkey_url):
    desk = Desk(valkey_url, ("A-USD", "B-USD", "C-USD"))
    await desk.start()
    bad, good = desk.series(symbol="B-USD"), desk.series(symbol="C-USD")
    await desk.lanes.one("SET", store.keys(bad).candles, "mine")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.writer.run)
        nursery.start_soon(desk.readings.run)
        for start in range(0, 70, 10):
            for symbol in desk.symbols:
                desk.put(
                    attrs.evolve(candle(desk, slot), series=desk.series(symbol=symbol))
                    for slot in range(start, start + 10)
                )
            desk.writer.wake()
            await trio.sleep(0.02)
        await wait_until(lambda: desk.writer.turns.closes >= 2 * (70 + 23 + 5 + 1))
        with trio.fail_after(10):
            page = [attrs.evolve(candle(desk, -1), series=good)]
            assert (await desk.writer.history(good, page)) is not None
        with trio.fail_after(10), pytest.raises(StoreError, match="another type"):
            await desk.writer.history(bad, [attrs.evolve(candle(desk, -1), series=bad)])
        assert set(desk.writer.foreign) == {bad}
        assert desk.writer.turns.away_since is None, "Redis is there"
        await desk.lanes.one("DEL", store.keys(bad).candles)
        await wait_until(lambda: desk.writer.waiting() == 0 and desk.back == 1)
        assert not desk.writer.foreign
        nursery.cancel_scope.cancel()
    await desk.readings.turn()
    for symbol in desk.symbols:
        series = desk.series(symbol=symbol)
        stored = await desk.stored(series)
        assert len(stored) >= 70
        assert_equal(await desk.reading(series), stored)
    desk.shut()


async def test_of_a_series_that_waits_for_its_key_the_newest_candles_are_kept(desk, monkeypatch):
    monkeypatch.setattr(module, "HELD", 7)
    await desk.lanes.one("SET", store.keys(desk.series()).candles, "mine")
    desk.put(candle(desk, slot) for slot in range(20))
    await desk.writer._turn()
    assert desk.writer.waiting() == 7
    await desk.lanes.one("DEL", store.keys(desk.series()).candles)
    await desk.writer._turn()
    assert desk.writer.waiting() == 7, "it is not tried again at every turn"
    monkeypatch.setattr(module, "RETRY", 0.0)
    desk.writer._foreign[desk.series()] = trio.current_time()
    await desk.writer._turn()
    stored = await desk.stored()
    assert [c.open_time for c in stored] == [candle(desk, slot).open_time for slot in range(13, 20)]
    assert desk.back == 1


async def test_a_full_redis_is_an_outage_and_no_key_of_somebody_else(own_valkey: RedisServer):
    desk = Desk(own_valkey.url)
    await desk.start()
    await desk.lanes.one("CONFIG", "SET", "maxmemory", "1")
    desk.put(candle(desk, slot) for slot in range(20))
    with pytest.raises(StoreError, match="maxmemory"):
        await desk.writer._turn()
    assert not desk.writer.foreign
    desk.shut()


# -- outages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("emptied", [False, True])
async def test_an_outage_loses_nothing_and_announces_each_close_once(own_valkey, emptied):
    desk = Desk(own_valkey.url)
    await desk.start()
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.writer.run)
            nursery.start_soon(desk.readings.run)
            desk.put(candle(desk, slot) for slot in range(70))
            desk.writer.wake()
            await wait_until(lambda: desk.writer.waiting() == 0 and desk.writer.turns.closes == 99)
            await trio.to_thread.run_sync(own_valkey.kill)
            for slot in range(70, 76):
                desk.put([candle(desk, slot)])
                desk.put([candle(desk, slot, shift=0.5)])  # the newest of a slot wins
                desk.writer.wake()
                await trio.sleep(0.05)
            with pytest.raises(StoreError):
                await desk.writer.history(desk.series(), [candle(desk, 3)])
            assert desk.writer.turns.away_since is not None
            assert desk.writer.waiting() == 6 + 2 + 1
            await trio.to_thread.run_sync(own_valkey.start)
            if emptied:
                own_valkey.clean()
            ears = Ears(own_valkey.url)
            await wait_until(lambda: desk.writer.waiting() == 0 and desk.back == 1)
            await trio.sleep(0.3)
            nursery.cancel_scope.cancel()
    told = ears.candles()
    assert [one for one in told if one[1] == "5m"] == [("close", "5m", n, 0) for n in range(70, 76)]
    assert len(told) == len(set(told)) == 9
    stored = await desk.stored()
    assert [c.close for c in stored[-6:]] == [price(n) + 0.5 for n in range(70, 76)]
    assert len(stored) == (6 if emptied else 76)
    assert_equal(await desk.reading(), stored)
    await assert_parents_fold(desk)
    assert desk.missing == []
    ears.close()
    desk.shut()


async def test_a_correction_whose_reply_was_lost_still_reaches_its_parents(own_valkey):
    desk = Desk(own_valkey.url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(26)))
    changed = candle(desk, 4, shift=3.0, rest=True)
    own_valkey.pause()
    desk.put([changed])
    await desk.writer.finish()  # three seconds, and nobody knows whether it was run
    own_valkey.resume()
    desk.writer.turns.away_why = ""
    await desk.close()
    assert (await desk.stored())[4].close == price(4) + 3.0
    await assert_parents_fold(desk)
    assert_equal(await desk.reading(), await desk.stored())
    fifteen = desk.series(M15)
    assert_equal(await desk.reading(fifteen), await desk.stored(fifteen))
    desk.shut()


async def test_a_close_does_not_wait_for_all_the_parents_of_a_correction(desk, monkeypatch):
    """Where each answer takes a second, eight of them in a row are too many."""
    await desk.close(*(candle(desk, slot) for slot in range(300)))
    asked = desk.lanes.run_each
    batches: list[list[str]] = []

    async def closes_meanwhile(calls: list[Call], lane: str = "write") -> list[object]:
        replies: list[object] = await asked(calls, lane)
        batches.append([str(call[3]) for call in calls if call[0] == "EVALSHA"])
        if len(batches) == 2:  # the correction is stored; its first parent is being looked at
            desk.put([candle(desk, 300)])
        return replies

    monkeypatch.setattr(desk.lanes, "run_each", closes_meanwhile)
    desk.put([candle(desk, 4, shift=30.0, rest=True)])
    await desk.writer.finish()
    lowest, day = store.keys(desk.series()).candles, store.keys(desk.series(Timeframe.D1)).candles
    written = [key for keys in batches for key in keys]
    assert written.index(lowest, 1) < 4
    assert written[-1] == day
    assert len(await desk.stored()) == 301
    await assert_parents_fold(desk)


async def test_what_closes_while_others_are_written_goes_next(valkey_url, monkeypatch):
    """Not after the rest of the turn: a thousand that close at one instant come in parts."""
    desk = Desk(valkey_url, ("A-USD", "B-USD", "C-USD", "D-USD"))
    await desk.start()
    asked, stored = desk.lanes.run_each, desk.writer._stored
    batches: list[int] = []
    seen: list[int] = []

    def put(symbol: str) -> None:
        desk.put([attrs.evolve(candle(desk, 0), series=desk.series(symbol=symbol))])

    async def closes_meanwhile(calls: Sequence[Call], lane: str = "write") -> list[object]:
        batches.append(len(calls))
        assert desk.writer.closing()
        if len(batches) < 4:
            put(desk.symbols[len(batches)])
        replies: list[object] = await asked(calls, lane)
        return replies

    def told(written: store.Written) -> None:
        seen.append(len(batches))
        stored(written)

    monkeypatch.setattr(desk.lanes, "run_each", closes_meanwhile)
    monkeypatch.setattr(desk.writer, "_stored", told)
    put("A-USD")
    assert desk.writer.closing()
    await desk.writer.finish()
    assert not desk.writer.closing()
    assert desk.writer.turns.turns == 1
    assert batches == [1] * 4
    assert seen == [4] * 4, "what became of them was looked at when all were written"
    assert desk.writer.turns.closes == 4
    desk.shut()


async def test_who_closes_without_end_does_not_keep_the_rest_of_a_turn_from_its_work(
    desk, monkeypatch
):
    asked = desk.lanes.run_each
    slots = itertools.count(1)

    async def closes_meanwhile(calls: Sequence[Call], lane: str = "write") -> list[object]:
        desk.put([candle(desk, next(slots))])
        replies: list[object] = await asked(calls, lane)
        return replies

    monkeypatch.setattr(desk.lanes, "run_each", closes_meanwhile)
    desk.put([candle(desk, 0)])
    with trio.fail_after(10):
        await desk.writer.finish()
    assert desk.writer.turns.closes >= module.IN_A_ROW


async def test_readings_give_way_to_closes_but_not_for_long(desk, monkeypatch):
    monkeypatch.setattr(readings_module, "GIVE_WAY", 3600.0)
    busy, key = True, store.keys(desk.series()).indicator
    monkeypatch.setattr(desk.readings, "_first", lambda: busy)
    await desk.readings.turn()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.readings.run)
        for slot in range(2):
            await desk.close(candle(desk, slot), reading=False)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert await desk.lanes.one("GET", key) is None
        busy = False
        await desk.close(candle(desk, 2), reading=False)
        with trio.fail_after(10):
            while await desk.lanes.one("GET", key) is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert (await desk.reading()).open_time == T0 + 2 * M5.ms
        busy = True
        monkeypatch.setattr(readings_module, "GIVE_WAY", 0.05)
        await desk.close(candle(desk, 3), reading=False)
        with trio.fail_after(10):
            while (await desk.reading()).open_time < T0 + 3 * M5.ms:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_readings_give_way_until_no_close_comes_for_a_moment(desk, monkeypatch):
    """Of a burst the first are written before the last are here: nothing waits just then."""
    monkeypatch.setattr(readings_module, "GIVE_WAY", 3600.0)
    key = store.keys(desk.series()).indicator
    looks = itertools.chain([False, True, True], itertools.repeat(False))
    monkeypatch.setattr(desk.readings, "_first", lambda: next(looks))
    await desk.readings.turn()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.readings.run)
        await desk.close(candle(desk, 0), reading=False)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await desk.lanes.one("GET", key) is None
        await desk.close(candle(desk, 1), reading=False)
        with trio.fail_after(10):
            while await desk.lanes.one("GET", key) is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_refold_that_redis_interrupts_is_made_up_for(own_valkey: RedisServer, monkeypatch):
    desk = Desk(own_valkey.url)
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(26)))
    asked = desk.lanes.run_each
    calls = 0

    async def breaks(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:  # the child is stored; now its parents are to be folded
            own_valkey.stop()
        return await asked(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(desk.lanes, "run_each", breaks)
    desk.put([candle(desk, 4, shift=3.0, rest=True)])
    await desk.writer.finish()
    assert desk.writer.turns.away_since is not None
    own_valkey.start()
    desk.writer.turns.away_why = ""
    await desk.close()
    await assert_parents_fold(desk)
    assert (await desk.stored(desk.series(H1)))[0].revision == 1
    desk.shut()


async def test_what_is_too_much_to_keep_becomes_gaps_and_the_newest_stays(own_valkey, monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 100)
    desk = Desk(own_valkey.url)
    await desk.start()
    await desk.close(candle(desk, 0))
    own_valkey.stop()
    for slot in range(1, 160):
        desk.put([candle(desk, slot)])
        if slot % 20 == 0:
            desk.lanes._lanes["write"].client.timeout = 0.1
            await desk.writer.finish()
    await desk.writer.finish()
    assert desk.writer.waiting() <= 100
    lost = {(m.series, m.open_time) for m in desk.missing}
    assert len(lost) == desk.writer.turns.overflow
    own_valkey.start()
    desk.writer.turns.away_why = ""
    await desk.close()
    stored = {(desk.series(), c.open_time) for c in await desk.stored()}
    wanted = {(desk.series(), T0 + slot * M5.ms) for slot in range(160)}
    assert stored | lost >= wanted
    assert not stored & lost
    assert (desk.series(), T0 + 159 * M5.ms) in stored
    assert all(m == Missing(m.series, m.open_time, "Redis was away too long") for m in desk.missing)
    desk.shut()


async def test_a_server_that_refuses_everything_is_not_asked_at_every_frame(own_valkey):
    desk = Desk(own_valkey.url)
    await desk.start()
    own_valkey_says(own_valkey, "maxmemory", 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.writer.run)
        for slot in range(100):
            desk.put([candle(desk, slot)])
            desk.writer.wake()
            await trio.sleep(0.01)
        tries = list(desk.writer.turns.took.buckets())[-1][1]
        assert tries < 20
        own_valkey_says(own_valkey, "maxmemory", 0)
        await wait_until(lambda: desk.writer.waiting() == 0 and desk.back == 1)
        nursery.cancel_scope.cancel()
    assert len(await desk.stored()) == 100
    desk.shut()


@pytest.mark.parametrize("chance", [0.0, 0.999])
async def test_a_call_that_is_refused_is_tried_again_however_short_the_wait(own_valkey, chance):
    """A server that forgets its scripts as fast as they are loaded refuses one call, then others.

    The wait after a refusal is spread: its shortest is shorter than a turn waits anyway.
    """
    desk = Desk(own_valkey.url)
    desk.chance = chance
    await desk.start()

    def forget() -> None:
        with own_valkey.client() as client:
            while "No matching script" not in desk.writer.turns.away_why:
                client.script_flush()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.writer.run)
        with trio.fail_after(30):
            async with trio.open_nursery() as forgetting:
                forgetting.start_soon(trio.to_thread.run_sync, forget)
                for slot in itertools.count():
                    if desk.writer.turns.away_why:
                        break
                    desk.put([candle(desk, slot)])
                    desk.writer.wake()
                    await trio.sleep(0.01)
        await wait_until(lambda: desk.writer.waiting() == 0 and desk.back == 1)
        nursery.cancel_scope.cancel()
    assert len(await desk.stored()) == slot
    desk.shut()


async def test_redis_is_back_when_it_took_a_write_not_when_there_was_none(own_valkey):
    """A ticker was refused, and nothing else is to be written for minutes."""
    desk = Desk(own_valkey.url)
    await desk.start()
    await desk.close(candle(desk, 0))
    own_valkey_says(own_valkey, "maxmemory", 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.writer.run)
        desk.pending.tickers["BTC-USD"] = Ticker("BTC-USD", 1.5, T0 + 5)
        await wait_until(lambda: desk.writer.turns.away_since is not None)
        since, turns = desk.writer.turns.away_since, desk.writer.turns.turns
        desk.writer.wake()
        await wait_until(lambda: desk.writer.turns.turns > turns + 1)
        assert desk.writer.turns.away_since == since
        assert desk.back == 0
        own_valkey_says(own_valkey, "maxmemory", 0)
        await wait_until(lambda: desk.back == 1)
        nursery.cancel_scope.cancel()
    desk.shut()


async def test_a_lapsed_lease_is_told_before_there_is_a_close_to_write(desk):
    desk.lease.valid_until = trio.current_time() - 0.001
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.writer.run)
        desk.pending.tickers["BTC-USD"] = Ticker("BTC-USD", 1.5, T0 + 5)
        await wait_until(lambda: "lapsed" in desk.writer.turns.away_why)
        desk.lease.valid_until = trio.current_time() + 30
        await wait_until(lambda: desk.back == 1)
        nursery.cancel_scope.cancel()


async def test_what_waits_for_a_redis_that_is_away_is_bounded_however_many_and_long(
    own_valkey, monkeypatch
):
    """100 symbols, two days of closes, updates and tickers on top of each other."""
    monkeypatch.setattr(module, "MOST_WAITING", 2_000)
    desk = Desk(own_valkey.url)
    await desk.start()
    names = [f"S{number}-USD" for number in range(100)]
    series = [Series(desk.exchange, name, M5) for name in names]
    shape = candle(desk, 0)
    own_valkey.stop()
    most = 0
    for slot in range(2 * 288):
        time = T0 + slot * M5.ms
        for name, one in zip(names, series, strict=True):
            closed = attrs.evolve(shape, series=one, open_time=time, as_of=time + M5.ms)
            desk.pending.closes.setdefault(one, {})[time] = closed
            desk.pending.forming[one] = Forming(one, time, 1.0, 2.0, 0.5, 1.5, 3.0, time + 5)
            desk.pending.tickers[name] = Ticker(name, 1.5, time)
        if slot % 12 == 11:  # between two tries: an hour
            desk.missing.clear()
            await desk.writer.finish()
            most = max(most, desk.writer.waiting())
            assert len(desk.pending.forming) == len(desk.pending.tickers) == 100
    assert most <= 2_000
    assert desk.writer.turns.overflow > 100 * 288
    assert not desk.writer._touched
    assert not desk.writer._to_show
    newest = T0 + (2 * 288 - 1) * M5.ms
    assert all(newest in desk.writer._batch[one] for one in series), "the newest stay"
    desk.shut()


def own_valkey_says(server: RedisServer, name: str, value: object) -> None:
    with server.client() as client:
        client.config_set(name, value)


async def test_a_batch_of_many_series_is_written_in_one_go_and_in_their_order(desk):
    names = [f"S{number}-USD" for number in range(500)]
    for name in names:
        series = Series(desk.exchange, name, M5)
        desk.put(attrs.evolve(candle(desk, slot), series=series) for slot in range(12))
    await desk.close()
    assert desk.writer.turns.closes == 500 * (12 + 4 + 1)
    assert desk.writer.waiting() == 0
    for name in (names[0], names[499]):
        series = Series(desk.exchange, name, H1)
        assert len(await desk.stored(series)) == 1
