"""A daemon that ends at any moment, orderly or not, and the one after it: nothing is lost.

Most of an hour of one symbol is played to a writer, its readings, its repairs and its verification
over a real store: a close that REST corrects, empties behind it, a slot the stream never showed, a
late trade, parents. The process ends at a question it asks Redis, at each of them in turn; the next
one begins with what the store holds and hears only what the stream says from there on. It has to
end with the same candles and readings, and nobody may have heard anything twice.
"""

from __future__ import annotations

import enum
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import attrs
import pytest
import trio

from livermore.adapters import store
from livermore.adapters.redis import Call, Redis, script
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Candle, Evidence, Series, empty
from livermore.market.gap import Lane
from livermore.market.history import Row
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Missing, Pending, Suspect
from livermore.runtime import writer as module
from livermore.runtime.lease import Lease
from livermore.runtime.readings import Readings
from livermore.runtime.repairs import Repairs
from livermore.runtime.rest import Rest
from livermore.runtime.verification import Verification
from livermore.runtime.writer import Writer
from livermore.signals.reading import Reading, decode_reading
from tests.integration.test_readings import M5, assert_equal, price
from tests.integration.test_readings import T0 as MIDNIGHT
from tests.servers import RedisServer

EXCHANGE, SYMBOL = "coinbase", "BTC-USD"
SERIES = store.all_series(EXCHANGE, SYMBOL)
FIVE = SERIES[0]
T0 = MIDNIGHT + 5 * M5.ms
"""Where the stream begins: seven slots before a full hour."""
LISTED = -72
"""The slot with which trading began: six hours before."""
SILENT = {2, 3}
"""Slots without a trade."""
LAST = 7


class How(enum.Enum):
    """What a process still does of the question at which it ends."""

    UNASKED = "it was not asked"
    HALF = "Redis did the first half of it"
    UNHEARD = "Redis did it, the reply was not heard"
    STOPPED = "a signal: it was answered, and what waited was written"


class Ending(Redis):
    """A Redis at whose ``at``-th question the process ends. Without threads: it is quicker."""

    def __init__(self, url: str, at: int = 0, how: How = How.UNASKED) -> None:
        super().__init__(url)
        self.at, self.how = at, how
        self.asked: list[tuple[str, int]] = []
        """Lane and calls of each question."""
        self.scope = trio.CancelScope()

    async def run(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        return await self._ask(self._lanes[lane].client.run, calls, lane)

    async def run_each(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        return await self._ask(self._lanes[lane].client.run_each, calls, lane)

    async def _ask(
        self, ask: Callable[[Sequence[Call]], list[Any]], calls: Sequence[Call], lane: str
    ) -> list[Any]:
        if not calls:
            return []
        self.asked.append((lane, len(calls)))
        if len(self.asked) == self.at:
            if self.how is How.HALF:
                ask(calls[: len(calls) // 2])
            elif self.how is How.UNHEARD:
                ask(calls)
            self.scope.cancel()
            if self.how is not How.STOPPED:
                await trio.sleep_forever()
        replies = ask(calls)
        if len(self.asked) != self.at:
            await trio.lowlevel.checkpoint()
        return replies


# -- the exchange ------------------------------------------------------------------------------


def truth(slot: int) -> Candle:
    """What was traded."""
    time = T0 + slot * M5.ms
    if slot in SILENT:
        before = next(n for n in itertools.count(slot, -1) if n not in SILENT)
        return empty(FIVE, time, price(before), Evidence.REST, 0)
    opened, close = price(slot - 1), price(slot)
    high, low = max(opened, close) + 0.3, min(opened, close) - 0.4
    return Candle(FIVE, time, opened, high, low, close, 1.0, evidence=Evidence.REST)


@functools.cache
def bars(series: Series) -> Sequence[Candle]:
    """What the exchange's own candles are."""
    found: list[Candle] = []
    traded = [truth(slot) for slot in range(LISTED, LAST + 1) if slot not in SILENT]
    for open_time, those in itertools.groupby(
        traded, key=lambda one: series.timeframe.floor(one.open_time)
    ):
        mine = list(those)
        bar = Candle(
            series, open_time, mine[0].open, max(c.high for c in mine), min(c.low for c in mine),
            mine[-1].close, sum(c.volume for c in mine),
        )  # fmt: skip
        found.append(bar)
    return found


@attrs.define
class Exchange:
    """Its REST, and its clock."""

    now: int = T0 + 60_000

    async def candles(
        self, native: str, timeframe: Timeframe, first: int, last: int, lane: Lane
    ) -> tuple[Sequence[Row], int]:
        series = Series(EXCHANGE, native, timeframe)
        rows = [
            Row(c.open_time, c.open, c.high, c.low, c.close, c.volume)
            for c in bars(series)
            if first <= c.open_time <= last and c.open_time < self.now
        ]
        return rows, self.now


# -- a process ---------------------------------------------------------------------------------


class StepByStep(Writer):
    """Turns are taken when they are asked for, so that every run asks the same questions."""

    async def history(self, series: Series, candles: Sequence[Candle]) -> store.Written | None:
        if not candles:
            return None
        page = module._Page(series, candles)
        self._pages.append(page)
        while not page.done.is_set():
            await self._turn()
        return page.result


class Process:
    """What a feed joins, without sockets."""

    def __init__(self, redis: Ending, exchange: Exchange, number: int) -> None:
        self.exchange = exchange
        self.redis = redis
        self.lease = Lease(redis, EXCHANGE, f"process {number}", {})
        self.pending = Pending()
        self.readings = Readings(redis, self.lease, lambda: 0.5)
        self.writer = StepByStep(
            redis, self.lease, self.pending, clock=self.now, stored=self.readings.submit,
            edge=self.readings.edge, missing=lambda slots: self.repairs.missing(slots),  # noqa: PLW0108
            suspects=lambda slots: self.repairs.suspects(slots),  # noqa: PLW0108
            back=lambda: None, chance=lambda: 0.5,
        )  # fmt: skip
        self.repairs = Repairs(
            COINBASE, redis, self.lease, cast(Rest, exchange), self.writer, {SYMBOL: SYMBOL},
            clock=self.now, say=lambda event, fields: None, progressed=lambda: None,
            chance=lambda: 0.5,
        )  # fmt: skip
        self.verification = Verification(
            COINBASE, redis, self.repairs, SERIES, requests_per_second=1e6, clock=self.now,
            say=lambda event, fields: None, chance=lambda: 0.5,
        )  # fmt: skip

    def now(self) -> int:
        return self.exchange.now

    async def begin(self) -> None:
        await self.lease.take()
        await self.redis.run(
            [script("epoch", (store.keys(one).companion,), self.lease.epoch) for one in SERIES]
        )
        await self.readings.start(SERIES)
        await self.writer.seed(store.all_series(EXCHANGE, SYMBOL), self.now())
        await self.repairs.read_ledger()
        await self.work()

    async def work(self) -> None:
        """Everything that is due now."""
        await self.repairs.scan(SERIES, "found missing")
        await self.writer._turn()
        await self.readings.turn()
        while (gap := self.repairs._take()) is not None:
            await self.repairs._repair(gap)
            self.repairs._busy.discard(gap.name)
        while (look := self.repairs._take_look()) is not None:
            await self.repairs._look(look)
        await self.writer._turn()
        await self.readings.turn()

    async def verify(self) -> None:
        for one in SERIES:
            await self.verification._turn(one)
        await self.work()

    async def finish(self) -> None:
        """As a feed does when it is cancelled."""
        await self.writer.finish()
        await self.readings.turn()
        await self.lease.release()

    def hear(self, slot: int) -> None:
        """What the stream tells of a slot that just ended."""
        said, doubt = truth(slot), False
        stamp = said.close_time + 200
        if slot == 1:  # not what REST will say
            said, doubt = attrs.evolve(said, close=said.low), True
        if slot == 4:
            self.pending.missing[FIVE, said.open_time] = Missing(FIVE, said.open_time, "lost")
            return
        if slot in SILENT:
            said = attrs.evolve(said, evidence=Evidence.ASSUMED, as_of=stamp)
        else:
            said = attrs.evolve(said, evidence=Evidence.STREAM, as_of=stamp)
        if slot == 6:  # without its last trade
            said = attrs.evolve(said, volume=0.5, close=said.low)
        self.pending.closes.setdefault(FIVE, {})[said.open_time] = said
        if doubt:
            suspect = Suspect(FIVE, said.open_time, "the candles channel differs")
            self.pending.suspects[FIVE, said.open_time] = suspect

    def hear_late(self, slot: int) -> None:
        """A trade that came late."""
        said = attrs.evolve(
            truth(slot), evidence=Evidence.STREAM, as_of=T0 + (slot + 1) * M5.ms + 3_000
        )
        self.pending.closes.setdefault(FIVE, {})[said.open_time] = said


async def play(process: Process, steps: list[int]) -> None:
    """Live through ``steps``: slots, each gone when it begins. A last one verifies everything."""
    exchange = process.exchange
    await process.begin()
    while steps:
        slot = steps.pop(0)
        if slot > LAST:
            for seconds in (100, 170):
                exchange.now = T0 + slot * M5.ms + seconds * 1000
                await process.verify()
            continue
        end = T0 + (slot + 1) * M5.ms
        exchange.now = end + 2_000
        process.hear(slot)
        await process.writer._turn()
        await process.readings.turn()
        if slot == 6:
            process.hear_late(slot)
        exchange.now = end + 45_000
        await process.work()


@attrs.define
class Left:
    """What was heard, and what is stored."""

    asked: list[tuple[str, int]]
    candles: dict[Series, list[Candle]]
    told: list[tuple[str, bytes]]


async def story(server: RedisServer, at: int = 0, how: How = How.UNASKED) -> Left:
    """Play it; the first process ends at its ``at``-th question."""
    exchange = Exchange()
    steps = list(range(LAST + 2))
    with server.client() as client, client.pubsub(ignore_subscribe_messages=True) as ears:
        client.flushall()
        ears.psubscribe("channel:*")
        ears.get_message(timeout=1)
        first = Ending(server.url, at, how)
        process = Process(first, exchange, 1)
        with first.scope:
            await play(process, steps)
        if at:
            assert first.scope.cancelled_caught, "it asked less than that"
            first.at = 0
            if how is How.STOPPED:
                await process.finish()
            client.delete(store.lease_key(EXCHANGE))  # as when it lapsed
            second = Ending(server.url)
            await play(Process(second, exchange, 2), steps or [LAST + 1])
            second.close()
        first.close()
        lanes = Redis(server.url)
        candles = {}
        for one in SERIES:
            members = await lanes.one(*store.range_call(one, "-inf", "+inf"))
            candles[one], damaged = store.decode_candles(one, members)
            assert not damaged
            text = await lanes.one("GET", store.keys(one).indicator)
            check_reading(decode_reading(text)[0], candles[one])
        lanes.close()
        client.publish("channel:end", b"")
        told = list(iter(lambda: _next(ears), ("channel:end", b"")))
    return Left(first.asked, candles, told)


def check_reading(reading: Reading, candles: Sequence[Candle]) -> None:
    """It is the recursion; a change of its candle's volume alone made no reading."""
    newest = candles[-1]
    assert reading.revision <= newest.revision
    assert_equal(reading, [*candles[:-1], attrs.evolve(newest, revision=reading.revision)])


def _next(ears: Any) -> tuple[str, bytes]:
    message = ears.get_message(timeout=5)
    assert message is not None, "the end was not heard"
    return message["channel"].decode(), message["data"]


def values(left: Left) -> dict[Series, list[tuple[object, ...]]]:
    return {
        one: [(c.open_time, c.kind, c.open, c.high, c.low, c.close, c.volume) for c in candles]
        for one, candles in left.candles.items()
    }


def check_told(left: Left) -> None:
    """Each revision once and in order, from the first slot behind the history; no reading twice."""
    heard: dict[tuple[Series, int], list[tuple[str, int]]] = {}
    readings: list[str] = []
    for channel, data in left.told:
        said = json.loads(data)
        if ":indicator:" in channel:
            readings.append(json.dumps({k: v for k, v in said.items() if k != "epoch"}))
            continue
        _, _, _, _, kind, symbol, timeframe = channel.split(":")
        one = Series(EXCHANGE, symbol, Timeframe.parse(timeframe))
        heard.setdefault((one, said["open_time"]), []).append((kind, said["revision"]))
    assert len(readings) == len(set(readings)), "a reading was told twice"
    for one, candles in left.candles.items():
        for found in candles:
            if found.open_time >= T0:
                first = [("close", 0)]
            elif (one, found.open_time) not in heard:
                continue  # history is silent
            else:
                first = [("close", 0)] if heard[one, found.open_time][0][0] == "close" else []
            wanted = first + [("correct", n) for n in range(1, found.revision + 1)]
            assert heard.pop((one, found.open_time)) == wanted, found
    assert not heard


def points(asked: Sequence[tuple[str, int]], how: How) -> Iterator[int]:
    """Where ending makes a difference: what only reads changes nothing between two writes."""
    before = "write"
    for at, (lane, calls) in enumerate(asked, start=1):
        writes = lane != "read" and (how is not How.HALF or calls > 1)
        if writes or (how is How.UNASKED and before != "read"):
            yield at
        before = lane


async def test_undisturbed_it_ends_with_the_truth(valkey_server: RedisServer):
    left = await story(valkey_server)
    check_told(left)
    expected = [truth(slot) for slot in range(LISTED, LAST + 1)]
    found = [attrs.evolve(c, as_of=0, revision=0) for c in left.candles[FIVE]]
    assert found == expected
    over = T0 + (LAST + 1) * M5.ms
    for one in SERIES[1:]:
        closed = [bar for bar in bars(one) if bar.close_time <= over]
        assert [c.open_time for c in left.candles[one]] == [bar.open_time for bar in closed]
        assert all(c.same_values(bar) for c, bar in zip(left.candles[one], closed, strict=True))
    assert {c.evidence for c in left.candles[FIVE]} == {Evidence.REST}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", How)
async def test_a_restart_at_any_question_loses_nothing_and_tells_nothing_twice(
    valkey_server: RedisServer, how: How
):
    undisturbed = await story(valkey_server)
    for at in points(undisturbed.asked, how):
        left = await story(valkey_server, at, how)
        assert values(left) == values(undisturbed), at
        check_told(left)
