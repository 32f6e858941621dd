"""The repair queue on virtual time: whom it asks for first, when it asks again, when it gives up.

The store, REST and the writer are fakes; the exchange's clock is the virtual one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import pytest
import redis.exceptions
import trio
from trio.testing import MockClock

from livermore.adapters import store
from livermore.adapters.redis import DIGESTS, Call, Redis, key_of
from livermore.errors import RestError, StoreError
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.gap import VERIFY, Gap, Lane, Outcome, decode_gap, encode_gap
from livermore.market.history import DEEPEST, DEPTH, Row
from livermore.market.timeframe import TIMEFRAMES, Timeframe, iso
from livermore.market.tracker import Missing, Suspect
from livermore.runtime import repairs as module
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.lease import Lease
from livermore.runtime.recorder import Incident
from livermore.runtime.repairs import ATTEMPTS, DEEPER, HISTORY, LOOKS, Repairs
from livermore.runtime.rest import Rest
from livermore.runtime.writer import CONTRADICTED, Writer

NOON = 1_767_268_800_000  # 2026-01-01T12:00:00Z
BTC, ETH, SOL = "BTC-USD", "ETH-USD", "SOL-USD"
M5 = Timeframe.M5


def of(symbol: str, timeframe: Timeframe = M5) -> Series:
    return Series("coinbase", symbol, timeframe)


@attrs.frozen
class Question:
    """What REST was asked, and when (seconds)."""

    moment: float
    native: str
    timeframe: Timeframe
    first: int
    last: int
    lane: Lane


@attrs.define
class World:
    """A store, a REST and a writer that agree with each other."""

    candles: dict[Series, dict[int, Candle]] = attrs.Factory(dict)
    asked_from: dict[Series, int] = attrs.Factory(dict)
    gaps: dict[bytes, bytes] = attrs.Factory(dict)
    questions: list[Question] = attrs.Factory(list)
    said: list[tuple[str, dict[str, object]]] = attrs.Factory(list)
    answer: Callable[[Question], bool | Exception] = lambda _: True
    """Whether REST has the candle of a slot, or how it fails."""
    omits: frozenset[int] = frozenset()
    damaged: frozenset[int] = frozenset()
    """Slots whose row no market can have made."""
    away: bool = False
    unanswered: int = 0
    """So many entries of ended gaps are taken, and the answer is lost."""
    foreign: set[str] = attrs.Factory(set)
    """Keys that hold somebody else's value."""
    seconds: float = 0.0
    """How long REST takes."""
    repairs: Repairs = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        lease = cast(Lease, Holder())
        self.repairs = Repairs(
            COINBASE, cast(Redis, self), lease, cast(Rest, self), cast(Writer, self),
            {symbol: symbol for symbol in (BTC, ETH, SOL)},
            clock=self.now,
            say=lambda event, fields: self.said.append((event, fields)),
            progressed=lambda: None,
            chance=lambda: 0.5,
        )  # fmt: skip

    def now(self) -> int:
        return NOON + round(trio.current_time() * 1000)

    def slot(self, ago: int, timeframe: Timeframe = M5) -> int:
        """Open time of a closed slot; 0 is the newest at noon."""
        return timeframe.last_closed(NOON) - ago * timeframe.ms

    def put(self, series: Series, *slots: int) -> None:
        for slot in slots:
            self.candles.setdefault(series, {})[slot] = candle(series, slot)

    def ledger(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.gaps.values()]

    # -- as the store -----------------------------------------------------------------------

    async def run(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise StoreError("Redis is away")
        return [self._one(call) for call in calls]

    async def run_each(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        replies: list[Any] = []
        for call in calls:
            try:
                replies += await self.run([call], lane)
            except StoreError as error:
                replies.append(error)
        return replies

    async def one(self, *call: Any, lane: str = "read") -> Any:
        return (await self.run([call], lane))[0]

    def _one(self, call: Call) -> Any:
        if key_of(call) in self.foreign:
            raise wrong_type()
        match call:
            case ("EVALSHA", digest, _, key, _, first, last, ms) if digest == DIGESTS["survey"]:
                return self._survey(self._series(key), int(first), int(last), int(ms))
            case ("EVALSHA", digest, _, companion, _, first, *_) if digest == DIGESTS["asked"]:
                series = self._series(companion.removeprefix("series:{").removesuffix("}"))
                if first == "":
                    return 1
                known = self.asked_from.get(series, first)
                self.asked_from[series] = min(known, first)
                return 1
            case ("HSET", "gaps:coinbase", name, text):
                self.gaps[name.encode()] = text
                if self.unanswered and decode_gap("coinbase", text).outcome is not Outcome.OPEN:
                    self.unanswered -= 1
                    raise StoreError("Redis did not answer")
                return 1
            case ("HGETALL", "gaps:coinbase"):
                return dict(self.gaps)
            case ("HDEL", "gaps:coinbase", *names):
                for name in names:
                    del self.gaps[name]
                return len(names)
            case ("HDEL", companion, "asked_from"):
                self.asked_from.pop(self._series(companion[len("series:{") : -1]), None)
                return 1
            case ("ZRANGEBYSCORE", key, first, last):
                held = self.candles.get(self._series(key), {})
                return [_member(held[slot]) for slot in sorted(held) if first <= slot <= last]
        raise AssertionError(f"not expected: {call}")

    @staticmethod
    def _series(key: str) -> Series:
        found = store.parse_candles_key(key)
        assert found is not None
        return found

    def _survey(self, series: Series, first: int, last: int, ms: int) -> list[int]:
        held = dict(sorted(self.candles.get(series, {}).items()))
        times = list(held)
        traded = [slot for slot in times if held[slot].kind is Kind.TRADED]
        missing: list[int] = []
        for slot in range(first, last + 1, ms):
            if slot in held:
                continue
            if missing and missing[-1] == slot - ms:
                missing[-1] = slot
            else:
                missing += [slot, slot]
        oldest, newest = (times[0], times[-1]) if times else (-1, -1)
        asked, oldest_traded = self.asked_from.get(series, -1), traded[0] if traded else -1
        counts = [len(times), len(traded), oldest, newest, asked, oldest, oldest_traded]
        return [*counts, *missing]

    # -- as REST ----------------------------------------------------------------------------

    async def candles_of(self, question: Question) -> tuple[list[Row], int]:
        asked_at = self.now()
        await trio.sleep(self.seconds)
        answer = self.answer(question)
        if isinstance(answer, Exception):
            raise answer
        slots = range(question.first, question.last + 1, question.timeframe.ms)
        shown = [slot for slot in slots if answer and slot not in self.omits]
        return [
            Row(slot, 2.0, 1.0 if slot in self.damaged else 3.0, 1.0, 2.0, 5.0) for slot in shown
        ], asked_at

    # -- as the writer ----------------------------------------------------------------------

    async def history(self, series: Series, candles: Sequence[Candle]) -> store.Written | None:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise StoreError("Redis is away")
        if not candles:
            return None
        for one in candles:
            self.candles.setdefault(series, {})[one.open_time] = one
        return store.Written(series, candles, 1, 1, "i" * len(candles), b"", 0, True)


@attrs.define
class Asking:
    """The REST side of a world, as the repairs call it."""

    world: World

    async def candles(
        self, native: str, timeframe: Timeframe, first: int, last: int, lane: Lane
    ) -> tuple[list[Row], int]:
        question = Question(trio.current_time(), native, timeframe, first, last, lane)
        self.world.questions.append(question)
        return await self.world.candles_of(question)


def wrong_type() -> StoreError:
    error = StoreError("a key of ours holds another type of value")
    error.__cause__ = redis.exceptions.ResponseError("WRONGTYPE Operation against a key")
    return error


@attrs.define
class Holder:
    exchange: str = "coinbase"
    epoch: int = 1

    def valid(self) -> bool:
        return True


def _member(held: Candle) -> bytes:
    """A candle as the store holds it."""
    return (
        f'{{"open_time":{held.open_time},{store.prices(held)},"volume":{held.volume!r},'
        f'"kind":"{held.kind.value}","evidence":"{held.evidence.label}",'
        f'"as_of":{held.as_of},"revision":0}}'
    ).encode()


def candle(series: Series, slot: int) -> Candle:
    return Candle(series, slot, 2.0, 3.0, 1.0, 2.0, 5.0, Kind.TRADED)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(module, "WORKERS", 1)  # so that their order is the queue's
    world = World()
    world.repairs._rest = cast(Rest, Asking(world))
    return world


async def repaired(world: World, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await world.repairs.run()


async def test_the_shortest_timeframe_and_the_newest_range_go_first(
    autojump_clock: MockClock, world: World
):
    world.put(of(BTC), world.slot(100), world.slot(0))
    for timeframe in reversed(TIMEFRAMES):
        slot = world.slot(5, timeframe)
        world.put(of(ETH, timeframe), world.slot(200, timeframe))
        world.repairs.add(of(ETH, timeframe), slot, slot, "test", Lane.REPAIR)
    for ago in (70, 20, 50):
        world.repairs.add(of(BTC), world.slot(ago), world.slot(ago), "test", Lane.REPAIR)
    await repaired(world, 10)
    order = [(question.native, question.timeframe) for question in world.questions]
    assert order == [(ETH, M5), *[(BTC, M5)] * 3, *[(ETH, t) for t in TIMEFRAMES[1:]]]
    wanted = [
        next(ago for ago in (70, 20, 50) if q.first <= world.slot(ago) <= q.first + M5.ms)
        for q in world.questions[1:4]
    ]
    assert wanted == [20, 50, 70]


async def test_the_live_lane_goes_before_repair_and_by_hand_comes_last(
    autojump_clock: MockClock, world: World
):
    for symbol in (BTC, ETH, SOL):
        world.put(of(symbol), world.slot(250), world.slot(0))
    world.repairs.add(of(BTC), world.slot(3), world.slot(3), "asked for by hand", Lane.BY_HAND)
    world.repairs.add(of(ETH), world.slot(5), world.slot(5), "test", Lane.REPAIR)
    world.repairs.missing([Missing(of(SOL), world.slot(90), "no connection")])
    await repaired(world, 10)
    assert [question.native for question in world.questions] == [SOL, ETH, BTC]
    lanes = [question.lane for question in world.questions]
    assert lanes == [Lane.LIVE, Lane.REPAIR, Lane.BY_HAND]


async def test_slots_side_by_side_are_one_gap_and_one_request(
    autojump_clock: MockClock, world: World
):
    world.put(of(BTC), world.slot(250))
    lost = [Missing(of(BTC), world.slot(ago), "no connection") for ago in (4, 2, 3, 1)]
    world.repairs.missing(lost)
    world.repairs.missing(lost)
    assert len(world.repairs.open_gaps) == 1
    await repaired(world, 10)
    assert len(world.questions) == 1
    [entry] = world.ledger()
    assert (entry["outcome"], entry["first"], entry["last"]) == (
        "filled",
        world.slot(4),
        world.slot(1),
    )
    [(found, news), (filled, fields)] = world.said
    assert (found, filled) == ("gaps found", "gap filled")
    assert (news["gaps"], news["candles"], news["cause"]) == (1, 4, "no connection")
    assert fields == {
        "series": str(of(BTC)), "first": iso(world.slot(4)), "candles": 4,
        "cause": "no connection", "attempts": 1, "seconds": 0,
    }  # fmt: skip


async def test_a_slot_beside_an_open_gap_joins_it_and_is_asked_for_at_once(
    autojump_clock: MockClock, world: World
):
    world.answer = lambda _: RestError("503 Service Unavailable")
    world.put(of(BTC), world.slot(250))
    world.repairs.missing([Missing(of(BTC), world.slot(3), "no connection")])
    await repaired(world, 100)
    [gap] = world.repairs.open_gaps
    assert gap.attempts >= 3
    world.answer = lambda _: True
    world.repairs.missing([Missing(of(BTC), world.slot(2), "frames were lost")])
    [gap] = world.repairs.open_gaps
    assert (gap.first, gap.last, gap.lane) == (world.slot(3), world.slot(2), Lane.LIVE)
    asked = len(world.questions)
    await repaired(world, 1)
    assert len(world.questions) == asked + 1
    [entry] = world.ledger()
    assert (entry["outcome"], entry["last"]) == ("filled", world.slot(2))


async def test_of_a_range_only_what_no_open_gap_holds_is_new(world: World):
    world.put(of(BTC), world.slot(250))

    def add(oldest: int, newest: int) -> list[tuple[int, int]]:
        slots = world.slot(oldest), world.slot(newest)
        new = world.repairs.add(of(BTC), *slots, "found missing", Lane.REPAIR)
        ms = M5.ms
        return [((world.slot(0) - g.first) // ms, (world.slot(0) - g.last) // ms) for g in new]

    assert add(20, 11) == [(20, 11)]
    assert add(40, 31) == [(40, 31)]
    assert add(20, 11) == add(35, 33) == add(40, 35) == []
    assert add(50, 35) == [(50, 41)], "its newer end is known"
    assert add(33, 9) == [(30, 9)], "its older end is known"
    assert add(45, 15) == add(50, 9) == []


async def test_a_hole_across_the_border_of_the_newest_is_news_once_and_keeps_its_backoff(
    autojump_clock: MockClock, world: World
):
    """The border moves with each boundary, and part of the older gap is in the newer range."""
    incidents: list[Incident] = []
    world.repairs._incident = incidents.append
    world.answer = lambda _: RestError("503 Service Unavailable")
    await trio.sleep(40)
    last = M5.last_closed(world.now() - module.ALLOWANCE)
    world.put(of(BTC), *(last - ago * M5.ms for ago in (0, *range(400, 900))))
    world.asked_from[of(BTC)] = last - 899 * M5.ms
    await world.repairs.scan([of(BTC)], "found after a break")
    begun = [(gap.first, gap.last) for gap in world.repairs.open_gaps]
    assert len(begun) == len(incidents) == 2
    tries = 0
    for _ in range(12):
        await repaired(world, 300)
        world.put(of(BTC), M5.last_closed(world.now() - module.ALLOWANCE))
        await world.repairs.scan([of(BTC)], "found missing")
        assert [(gap.first, gap.last) for gap in world.repairs.open_gaps] == begun
        assert min(gap.attempts for gap in world.repairs.open_gaps) >= tries
        tries = min(gap.attempts for gap in world.repairs.open_gaps)
    assert sum(event == "gaps found" for event, _ in world.said) == 1
    assert len(incidents) == 2
    assert len(world.questions) <= 2 * (3600 / 60 + 6)


async def test_what_is_older_than_what_is_kept_is_no_gap_any_more(
    autojump_clock: MockClock, world: World
):
    world.answer = lambda _: RestError("503 Service Unavailable")
    world.put(of(BTC), world.slot(999))
    world.repairs.missing([Missing(of(BTC), world.slot(ago), "test") for ago in (998, 400)])
    assert len(world.repairs.open_gaps) == 2
    await trio.sleep(4 * M5.ms / 1000)
    await world.repairs.scan([], "found missing")
    assert [gap.first for gap in world.repairs.open_gaps] == [world.slot(400)]
    await world.repairs.read_ledger()
    old = next(entry for entry in world.ledger() if entry["first"] == world.slot(998))
    assert (old["outcome"], old["note"]) == ("unfillable", "older than the newest 1000 candles")


async def test_a_gap_is_in_the_ledger_before_rest_is_asked_for_it(
    autojump_clock: MockClock, world: World
):
    world.answer = lambda _: RestError("503 Service Unavailable")
    world.put(of(BTC), world.slot(250))
    world.repairs.missing([Missing(of(BTC), world.slot(1), "no connection")])
    await world.repairs.read_ledger()
    assert world.questions == []
    [entry] = world.ledger()
    assert (entry["first"], entry["cause"]) == (world.slot(1), "no connection")
    assert entry.get("outcome", "open") == "open"


async def test_what_the_exchange_does_not_serve_is_no_gap_that_waits(
    autojump_clock: MockClock, world: World
):
    world.put(of(BTC), world.slot(250))
    world.repairs.missing([Missing(of(BTC), world.slot(1), "no connection")])
    world.repairs.leave_out({BTC: "BTC-USD is delisted"})
    assert world.repairs.open_gaps == ()
    world.repairs.missing([Missing(of(BTC), world.slot(1), "no connection")])
    await repaired(world, 10)
    assert world.questions == []
    [entry] = world.ledger()
    assert (entry["outcome"], entry["note"]) == ("unfillable", "BTC-USD is delisted")
    world.repairs.leave_out({})
    world.repairs.missing([Missing(of(BTC), world.slot(1), "no connection")])
    await repaired(world, 10)
    assert len(world.questions) == 1


async def test_a_failing_rest_is_asked_again_at_growing_distances_and_never_given_up(
    autojump_clock: MockClock, world: World
):
    world.answer = lambda _: RestError("503 Service Unavailable")
    world.put(of(BTC), world.slot(250))
    world.repairs.add(of(BTC), world.slot(1), world.slot(1), "test", Lane.LIVE)
    await repaired(world, 1500)
    moments = [question.moment for question in world.questions]
    apart = [round(b - a) for a, b in itertools.pairwise(moments)]
    assert apart[:5] == pytest.approx([2, 4, 8, 16, 32], abs=1)
    assert apart[5:] == pytest.approx([60] * len(apart[5:]), abs=1)
    assert len(moments) > ATTEMPTS + 5
    [gap] = world.repairs.open_gaps
    assert gap.note == "503 Service Unavailable"
    [written] = [decode_gap("coinbase", text) for text in world.gaps.values()]
    assert (written.outcome, written.attempts) == (Outcome.OPEN, len(moments))


async def test_a_rest_that_failed_did_not_say_that_nothing_is_there(
    autojump_clock: MockClock, world: World
):
    """The stream stored the newest candle before REST was asked for what is before it."""
    world.answer = lambda _: RestError("503 Service Unavailable")
    world.put(of(BTC), world.slot(0))
    world.repairs.add(of(BTC), world.slot(300), world.slot(1), HISTORY, Lane.REPAIR)
    await repaired(world, 30)
    assert world.repairs.open_gaps
    assert world.repairs.wanting == 1
    world.answer = lambda _: True
    await repaired(world, 100)
    assert not world.repairs.open_gaps
    assert set(range(world.slot(300), world.slot(0) + 1, M5.ms)) <= set(world.candles[of(BTC)])


async def test_what_rest_does_not_show_in_twelve_tries_is_unfillable(
    autojump_clock: MockClock, world: World
):
    world.answer = lambda _: False
    world.put(of(BTC), world.slot(250))
    world.repairs.add(of(BTC), world.slot(1), world.slot(0), "test", Lane.LIVE)
    await repaired(world, 3600)
    assert len(world.questions) == ATTEMPTS
    assert not world.repairs.open_gaps
    [entry] = world.ledger()
    assert entry["outcome"] == "unfillable"
    assert entry["note"] == "REST did not give 2 of 2 candles in 12 tries"
    assert world.said[-1][0] == "gap unfillable"
    still_open = [fields["attempts"] for event, fields in world.said if event == "gap still open"]
    assert still_open == [3, 6, 10]


async def test_what_was_unfillable_is_left_alone_by_scans_for_a_while(
    autojump_clock: MockClock, world: World
):
    world.damaged = frozenset([world.slot(1)])
    world.put(of(BTC), *(world.slot(ago) for ago in range(301) if ago != 1))
    world.asked_from[of(BTC)] = world.slot(300)
    await world.repairs.scan([of(BTC)], "found missing")
    await repaired(world, 900)
    assert len(world.questions) == ATTEMPTS
    world.put(of(BTC), *(NOON + n * M5.ms for n in range(3)))  # what closed meanwhile
    await world.repairs.scan([of(BTC)], "found missing")
    await repaired(world, 60)
    assert len(world.questions) == ATTEMPTS
    assert [entry["outcome"] for entry in world.ledger()] == ["unfillable"]
    await trio.sleep(600)
    world.put(of(BTC), *(NOON + n * M5.ms for n in range(3, 6)))
    await world.repairs.scan([of(BTC)], "found missing")
    await repaired(world, 1)
    assert len(world.questions) == ATTEMPTS + 1, "ten minutes later it is asked for again"


async def test_a_look_that_is_not_answered_is_not_repeated_at_once(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "WORKERS", 6)
    world.answer = lambda _: RestError("404 no such product")
    world.put(of(BTC), world.slot(1), world.slot(0))
    world.repairs.suspects([Suspect(of(BTC), world.slot(1), "test")])
    await repaired(world, 100)
    assert 2 <= len(world.questions) <= 4
    world.repairs.leave_out({BTC: "BTC-USD is delisted"})
    asked = len(world.questions)
    await repaired(world, 100)
    assert len(world.questions) <= asked + 1


async def test_a_gap_that_was_left_out_does_not_come_back_from_the_ledger(
    autojump_clock: MockClock, world: World
):
    world.answer = lambda _: RestError("404 no such product")
    world.put(of(BTC), world.slot(250))
    world.repairs.missing([Missing(of(BTC), world.slot(1), "no connection")])
    await world.repairs.read_ledger()
    world.repairs.leave_out({BTC: "BTC-USD is delisted"})
    await world.repairs.read_ledger()
    await world.repairs.read_ledger()
    assert world.repairs.open_gaps == ()
    assert world.repairs.wanting == 0
    assert [entry["outcome"] for entry in world.ledger()] == ["unfillable"]


async def test_an_omitted_slot_is_asked_for_again_when_a_second_look_proves_something(
    autojump_clock: MockClock, world: World
):
    slot = world.slot(0)
    world.omits = frozenset([slot])
    world.put(of(BTC), world.slot(250))
    world.repairs.add(of(BTC), slot, slot, "test", Lane.LIVE)
    await repaired(world, 200)
    moments = [question.moment for question in world.questions]
    assert len(moments) == 2
    assert moments[1] >= 60, "two replies a minute apart"
    assert moments[1] < 70
    assert world.candles[of(BTC)][slot].kind is Kind.EMPTY
    [entry] = world.ledger()
    assert entry["outcome"] == "filled"


async def test_what_the_stream_fills_meanwhile_ends_the_gap_without_a_request(
    autojump_clock: MockClock, world: World
):
    world.answer = lambda _: RestError("503")
    world.put(of(BTC), world.slot(250))
    for _ in range(6):
        world.repairs.add(of(BTC), world.slot(1), world.slot(1), "test", Lane.LIVE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.repairs.run)
        await trio.sleep(35)
        asked = len(world.questions)
        world.put(of(BTC), world.slot(1))
        await trio.sleep(5)
        assert len(world.questions) == asked
        assert not world.repairs.open_gaps
        nursery.cancel_scope.cancel()
    assert world.ledger()[0]["outcome"] == "filled"


async def test_a_gap_that_grows_while_it_is_asked_for_is_filled_to_its_end(
    autojump_clock: MockClock, world: World
):
    world.put(of(BTC), world.slot(250))
    world.seconds = 3.0
    world.repairs.add(of(BTC), world.slot(9), world.slot(8), "test", Lane.LIVE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.repairs.run)
        await trio.sleep(1)
        world.omits = frozenset([world.slot(ago) for ago in range(6)])
        world.repairs.add(of(BTC), world.slot(9), world.slot(2), "test", Lane.LIVE)
        await trio.sleep(3)
        [gap] = world.repairs.open_gaps
        assert gap.last == world.slot(2)
        world.omits = frozenset()
        await trio.sleep(30)
        assert not world.repairs.open_gaps
        nursery.cancel_scope.cancel()
    held = world.candles[of(BTC)]
    assert all(world.slot(ago) in held for ago in range(2, 10))


async def test_the_ledger_is_taken_up_at_the_start_and_followed(
    autojump_clock: MockClock, world: World
):
    def entry(gap: Gap) -> None:
        world.gaps[gap.name.encode()] = encode_gap(gap)

    world.put(of(BTC), world.slot(250))
    slot = world.slot(4)
    entry(Gap(of(BTC), slot, slot, "left over", NOON, next_try=NOON))
    entry(Gap(of("GONE-USD"), slot, slot, "left over", NOON, next_try=NOON))
    old = NOON - 2 * 86_400_000
    entry(Gap(of(ETH), 0, 0, "old", old, outcome=Outcome.FILLED, ended=old))
    world.gaps[b"damaged"] = b"{}"
    await world.repairs.read_ledger()
    assert [gap.cause for gap in world.repairs.open_gaps] == ["left over"]
    assert world.repairs.wanting == 1
    assert len(world.gaps) == 2, "what ended long ago and what is no gap is forgotten"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.repairs.run)
        await trio.sleep(5)
        assert slot in world.candles[of(BTC)]
        other = world.slot(9)
        entry(Gap(of(BTC), other, other, "asked for by hand", NOON, Lane.BY_HAND, next_try=NOON))
        await trio.sleep(5)
        assert other in world.candles[of(BTC)]
        nursery.cancel_scope.cancel()
    assert {gap["outcome"] for gap in world.ledger() if gap["symbol"] == BTC} == {"filled"}


async def test_history_is_asked_once_in_one_page_and_never_again(
    autojump_clock: MockClock, world: World
):
    series = of(BTC)
    await trio.sleep(40)  # what REST says of the slot that ended at noon is no guess any more
    assert await world.repairs.scan([series], "start") == 1
    await repaired(world, 20)
    assert len(world.questions) == 1
    assert len(world.candles[series]) >= DEPTH
    assert await world.repairs.scan([series], "start") == 0
    await repaired(world, 20)
    assert len(world.questions) == 1


def bound_surveys(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Fail at survey number ``most``: what follows itself for ever takes no virtual time."""
    surveys, ask = itertools.count(1), World._survey

    def survey(self: World, *which: Any) -> list[int]:
        assert next(surveys) < most
        return ask(self, *which)

    monkeypatch.setattr(World, "_survey", survey)


def put_thin(world: World, series: Series, last: int, count: int, *, traded: int = 8) -> None:
    """The ``count`` slots up to ``last``, one in ``traded`` of them traded, the oldest as well."""
    for ago in range(count):
        slot = last - ago * series.timeframe.ms
        world.put(series, slot)
        if ago % traded and ago != count - 1:
            ended = slot + series.timeframe.ms
            world.candles[series][slot] = empty(series, slot, 2.0, Evidence.REST, ended + 600_000)


@pytest.mark.parametrize("stored", [700, 900])
async def test_deeper_history_is_asked_for_once_after_it_was_forgotten_what_was_asked_for(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch, stored: int
):
    """A hole at the end notes that it was asked for; what lies before it is stored long since."""
    series = of(BTC)
    bound_surveys(monkeypatch, 60)
    last = M5.last_closed(NOON - module.ALLOWANCE)
    put_thin(world, series, last, stored)
    world.asked_from[series] = last - (stored - 1) * M5.ms
    for ago in range(4):
        del world.candles[series][last - ago * M5.ms]
    await world.repairs.forget_asked([series])
    world.repairs.suspects([Suspect(series, last - 50 * M5.ms, "test")])
    for _ in range(3):
        await world.repairs.scan([series], "found after a break")
        await repaired(world, 1)
    assert world.asked_from[series] < last - (stored - 1) * M5.ms
    assert world.repairs.progress.looks >= 1, "nothing keeps a look waiting"
    asked = len(world.questions)
    assert asked <= 6
    await world.repairs.scan([series], "found missing")
    assert not world.repairs.open_gaps


async def test_what_went_missing_is_told_though_it_was_forgotten_what_was_asked_for(
    autojump_clock: MockClock, world: World
):
    """History is what lies before the oldest candle, and where there is none, all of it."""
    last = M5.last_closed(NOON - module.ALLOWANCE)
    world.put(of(BTC), *(last - ago * M5.ms for ago in range(4, 200)))
    world.asked_from[of(BTC)] = last - 199 * M5.ms
    await world.repairs.forget_asked([of(BTC), of(ETH)])
    await world.repairs.scan([of(BTC), of(ETH)], "found after a break")
    causes = {
        (gap.series.symbol, (last - gap.last) // M5.ms): gap.cause
        for gap in world.repairs.open_gaps
    }
    assert causes == {(BTC, 0): "found after a break", (BTC, 200): HISTORY, (ETH, 0): HISTORY}
    [(event, fields)] = world.said
    assert (event, fields["cause"], fields["candles"]) == ("gaps found", "found after a break", 4)


async def test_deeper_history_that_is_all_there_counts_as_asked_for(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
):
    """Nothing traded in the oldest slots that are kept: no trade says that they are there."""
    series = of(BTC)
    bound_surveys(monkeypatch, 20)
    last = M5.last_closed(NOON - module.ALLOWANCE)
    put_thin(world, series, last, DEEPEST)
    for ago in range(DEEPEST - 7, DEEPEST):
        slot = last - ago * M5.ms
        world.candles[series][slot] = empty(series, slot, 2.0, Evidence.REST, slot + 900_000)
    del world.candles[series][last]
    world.asked_from[series] = last
    await world.repairs.scan([series], "found missing")
    await repaired(world, 1)
    await world.repairs.scan([series], "found missing")
    await repaired(world, 1)
    assert len(world.questions) == 1
    assert world.asked_from[series] == last - (DEEPEST - 1) * M5.ms
    await world.repairs.scan([series], "found missing")
    assert not world.repairs.open_gaps, "a scan does not begin it again"


async def test_deeper_history_does_not_follow_itself(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
):
    """Even where nothing was noted: each range begins before the one it follows."""
    series = of(BTC)
    added: list[int] = []

    async def forgetful(self: Repairs, gap: Gap, doubts: int) -> None:
        added.append(gap.first)
        assert len(added) < 20

    monkeypatch.setattr(Repairs, "_note_asked", forgetful)
    last = M5.last_closed(NOON - module.ALLOWANCE)
    put_thin(world, series, last, DEEPEST)
    for ago in range(DEEPEST - 400, DEEPEST):
        slot = last - ago * M5.ms
        world.candles[series][slot] = empty(series, slot, 2.0, Evidence.REST, slot + 900_000)
    world.asked_from[series] = last
    await world.repairs.scan([series], "found missing")
    await repaired(world, 1)
    assert added == sorted(added, reverse=True)
    assert len(added) == len(set(added)) == 2


async def test_a_hole_between_stored_candles_is_a_gap_however_old_and_comes_last(
    autojump_clock: MockClock, world: World
):
    """Behind the newest 300 nobody needs all slots, but what is stored there tells of no hole."""
    await trio.sleep(40)
    last = M5.last_closed(world.now() - module.ALLOWANCE)
    hole = last - 450 * M5.ms
    world.put(of(BTC), *(last - ago * M5.ms for ago in range(600) if ago not in (450, 451, 5)))
    world.put(of(ETH), *(last - ago * M5.ms for ago in range(1, 300)))
    world.asked_from |= {of(BTC): last - 599 * M5.ms, of(ETH): last - 299 * M5.ms}
    assert await world.repairs.scan([of(BTC), of(ETH)], "found missing") == 2
    await repaired(world, 20)
    asked = [(question.native, question.lane) for question in world.questions]
    assert asked == [(ETH, Lane.REPAIR), (BTC, Lane.REPAIR), (BTC, Lane.VERIFICATION)]
    assert {hole - M5.ms, hole} <= world.candles[of(BTC)].keys()
    assert len(world.ledger()) == 3
    assert await world.repairs.scan([of(BTC), of(ETH)], "found missing") == 0


async def test_the_newest_are_there_before_a_hole_behind_them_after_a_long_absence(
    autojump_clock: MockClock, world: World
):
    last = M5.last_closed(NOON - module.ALLOWANCE)
    world.put(of(BTC), *(last - ago * M5.ms for ago in range(900, 1100)))
    world.asked_from[of(BTC)] = last - 1099 * M5.ms
    await world.repairs.scan([of(BTC)], "history")
    newest, behind = sorted(world.repairs.open_gaps, key=lambda gap: gap.lane)
    assert (newest.last, newest.slots, newest.lane) == (last, DEPTH, Lane.REPAIR)
    assert (behind.last, behind.lane) == (newest.first - M5.ms, Lane.VERIFICATION)
    assert behind.slots == 900 - DEPTH
    await repaired(world, 30)
    assert world.questions[0].last >= last
    times = sorted(world.candles[of(BTC)])
    assert {b - a for a, b in itertools.pairwise(times)} == {M5.ms}


async def test_a_reply_from_before_redis_was_emptied_does_not_say_what_was_asked_for(
    autojump_clock: MockClock, world: World
):
    """Deeper history was under way: its page is stored alone, and a slot passes meanwhile."""
    series = of(BTC)
    last = M5.last_closed(NOON - module.ALLOWANCE)
    world.put(series, *(last - ago * M5.ms for ago in range(100)))
    world.asked_from[series] = last - 99 * M5.ms
    world.repairs.add(series, last - 399 * M5.ms, last - 100 * M5.ms, DEEPER, Lane.VERIFICATION)
    world.seconds = 3.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.repairs.run)
        await trio.sleep(1.0)
        assert world.questions
        world.candles.clear()
        world.asked_from.clear()
        await world.repairs.forget_asked([series])
        await trio.sleep(8.0)
        assert world.candles[series], "it is true all the same"
        assert series not in world.asked_from
        await trio.sleep(M5.ms / 1000)
        assert await world.repairs.scan([series], "found after a break") == 1
        await trio.sleep(60.0)
        nursery.cancel_scope.cancel()
    newest = M5.last_closed(world.now() - 61_000 - module.ALLOWANCE)
    assert {*range(last - 399 * M5.ms, newest + 1, M5.ms)} <= world.candles[series].keys()


async def test_a_symbol_that_never_traded_does_not_eat_the_budget(
    autojump_clock: MockClock, world: World
):
    world.answer = lambda _: False
    await world.repairs.scan([of(BTC)], "start")
    await repaired(world, 600)
    asked = len(world.questions)
    assert asked <= 8, "the deepest history is asked for, then no more"
    await world.repairs.scan([of(BTC)], "found missing")
    await repaired(world, 3600)
    assert len(world.questions) <= asked + ATTEMPTS


async def test_repair_waits_while_redis_is_away(autojump_clock: MockClock, world: World):
    world.put(of(BTC), world.slot(250))
    world.repairs.add(of(BTC), world.slot(1), world.slot(1), "test", Lane.LIVE)
    world.away = True
    await repaired(world, 60)
    assert world.questions == []
    world.away = False
    await repaired(world, 15)
    assert len(world.questions) == 1
    assert not world.repairs.open_gaps


async def test_a_doubt_is_looked_at_once_rest_can_be_trusted_and_after_gaps(
    autojump_clock: MockClock, world: World
):
    series, slot = of(BTC), world.slot(0)
    world.put(series, world.slot(250), slot)
    world.repairs.suspects([Suspect(series, slot, "the candles channel differs")])
    await repaired(world, 30)
    assert world.questions == []
    await repaired(world, 5)
    [question] = world.questions
    assert (question.first, question.lane) == (slot, Lane.VERIFICATION)
    assert question.last == slot + M5.ms, "the running slot shows how far the reply goes"
    assert question.moment >= 31


@pytest.mark.parametrize("has", [True, False], ids=["filled", "unfillable"])
async def test_a_gap_whose_end_the_ledger_took_without_an_answer_is_ended(
    autojump_clock: MockClock, world: World, has: bool
):
    world.put(of(BTC), *(world.slot(n) for n in range(1, 20)))
    world.damaged = frozenset() if has else frozenset({world.slot(0)})
    world.unanswered = 2
    world.repairs.missing([Missing(of(BTC), world.slot(0), "lost")])
    await repaired(world, 3_600)
    assert world.unanswered == 0
    assert not world.repairs.open_gaps
    assert world.repairs.wanting == 0
    [entry] = world.ledger()
    outcome = "filled" if has else "unfillable"
    assert entry["outcome"] == outcome
    assert [event for event, _ in world.said].count(f"gap {outcome}") == 1


async def test_a_doubt_outlives_a_redis_that_is_away(autojump_clock: MockClock, world: World):
    world.put(of(BTC), world.slot(3), world.slot(4))
    world.repairs.suspects([Suspect(of(BTC), world.slot(3), "test")])
    world.away = True
    await repaired(world, 30)
    world.away = False
    await repaired(world, 30)
    assert world.repairs.progress.looks == 1


async def test_a_doubt_that_no_reply_decides_is_looked_at_three_times_a_minute_apart(
    autojump_clock: MockClock, world: World
):
    world.put(of(BTC), world.slot(3))
    world.omits = frozenset({world.slot(3)})
    world.repairs.suspects([Suspect(of(BTC), world.slot(3), "test")])
    await repaired(world, 600)
    moments = [question.moment for question in world.questions]
    assert len(moments) == 3
    assert all(later - earlier >= 60 for earlier, later in itertools.pairwise(moments))


async def test_an_empty_slot_that_is_assumed_is_proved_by_a_second_look_that_omits_it(
    autojump_clock: MockClock, world: World
):
    """Nothing newer traded, so that no reply holds a newer row."""
    slot = world.slot(0)
    world.put(of(BTC), world.slot(1))
    world.candles[of(BTC)][slot] = empty(of(BTC), slot, 2.0, Evidence.ASSUMED, 1)
    world.omits = frozenset({slot, slot + M5.ms})
    world.repairs.suspects([Suspect(of(BTC), slot, "test")])
    await repaired(world, 80)
    assert world.candles[of(BTC)][slot].evidence is Evidence.ASSUMED
    await repaired(world, 20)
    assert world.candles[of(BTC)][slot].evidence is Evidence.REST
    await repaired(world, 300)
    assert len(world.questions) == 2


async def test_a_candle_that_traded_is_not_made_empty_by_a_repair_beside_it(
    autojump_clock: MockClock, world: World
):
    world.put(of(BTC), *(world.slot(ago) for ago in (250, 3, 0)))
    world.omits = frozenset({world.slot(3)})
    world.repairs.add(of(BTC), world.slot(4), world.slot(2), "test", Lane.LIVE)
    await repaired(world, 10)
    assert not world.repairs.open_gaps
    assert world.candles[of(BTC)][world.slot(3)].kind is Kind.TRADED
    assert world.slot(4) in world.candles[of(BTC)]


async def test_the_newest_candle_of_a_young_reply_that_was_missing_is_looked_at_again(
    autojump_clock: MockClock, world: World
):
    world.put(of(BTC), world.slot(250))
    world.omits = frozenset({world.slot(0) + M5.ms})
    world.repairs.add(of(BTC), world.slot(2), world.slot(0), "test", Lane.LIVE)
    await repaired(world, 40)
    before = len(world.questions)
    await repaired(world, 120)
    later = [question for question in world.questions[before:] if question.moment >= 60]
    assert later
    assert later[-1].first <= world.slot(0) <= later[-1].last


async def test_a_range_to_verify_is_no_gap(autojump_clock: MockClock, world: World):
    world.put(of(BTC), world.slot(250), world.slot(0))
    gap = Gap(of(BTC), world.slot(3), world.slot(1), VERIFY, NOON, Lane.BY_HAND)
    world.gaps[gap.name.encode()] = encode_gap(gap)
    await world.repairs.read_ledger()
    assert list(world.repairs.to_verify.values()) == [gap]
    assert world.repairs.open_gaps == ()
    assert world.repairs.wanting == 0


# -- keys of somebody else ----------------------------------------------------------------------


async def test_a_series_whose_key_is_somebody_elses_keeps_no_other_from_its_repair(
    autojump_clock: MockClock, world: World
):
    foreign = store.keys(of(BTC)).candles
    world.foreign.add(foreign)
    lacking = await world.repairs.scan([of(BTC), of(ETH)], "test")
    assert lacking == 1
    assert list(world.repairs.foreign) == [of(BTC)]
    world.repairs.add(of(BTC), world.slot(0), world.slot(0), "test", Lane.LIVE)
    await repaired(world, 30)
    assert {question.native for question in world.questions} == {ETH}
    assert len(world.candles[of(ETH)]) >= 300
    world.foreign.clear()
    await world.repairs.scan([of(BTC), of(ETH)], "test")
    assert not world.repairs.foreign
    await repaired(world, 30)
    assert len(world.candles[of(BTC)]) >= 300


async def test_a_ledger_of_somebody_else_is_written_once_it_is_ours_again(
    autojump_clock: MockClock, world: World
):
    world.foreign.add("gaps:coinbase")
    world.put(of(BTC), world.slot(250), world.slot(0))
    await world.repairs.read_ledger()
    world.repairs.add(of(BTC), world.slot(5), world.slot(4), "test", Lane.REPAIR)
    await repaired(world, 10)
    assert world.slot(4) in world.candles[of(BTC)]
    assert not world.repairs.open_gaps
    assert not world.repairs.wanting
    assert not world.gaps
    world.foreign.clear()
    await repaired(world, 10)
    [entry] = world.ledger()
    assert entry["outcome"] == "filled"


async def test_a_budget_of_somebody_else_costs_no_attempt(autojump_clock: MockClock, world: World):
    world.answer = lambda _: wrong_type()
    world.put(of(BTC), world.slot(250), world.slot(0))
    world.repairs.add(of(BTC), world.slot(5), world.slot(4), "test", Lane.REPAIR)
    await repaired(world, 60)
    assert [gap.attempts for gap in world.repairs.open_gaps] == [0]
    world.answer = lambda _: True
    await repaired(world, 20)
    assert not world.repairs.open_gaps


async def test_the_newest_candle_of_a_reply_is_asked_for_until_it_changes_no_more(
    autojump_clock: MockClock, world: World
):
    """An exchange whose clock is ahead, or whose REST is behind, shows half a candle as whole."""

    class Changing:
        async def history(self, series: Series, candles: Sequence[Candle]) -> store.Written | None:
            written = await world.history(series, candles)
            code = "c" if len(world.questions) < 4 else "s"
            return written and attrs.evolve(written, codes=code * len(candles))

    world.repairs._writer = cast(Writer, Changing())
    world.omits = frozenset(range(NOON, NOON + 10 * M5.ms, M5.ms))
    world.put(of(BTC), world.slot(0))
    world.repairs.suspects([Suspect(of(BTC), world.slot(0), "test")])
    await repaired(world, 1000)
    assert len(world.questions) == 4
    moments = [question.moment for question in world.questions]
    assert all(b - a >= 60 for a, b in itertools.pairwise(moments)), moments


async def test_rest_that_says_again_what_the_stream_contradicts_is_asked_once_more_a_minute_later(
    autojump_clock: MockClock, world: World
):
    class Same:
        async def history(self, series: Series, candles: Sequence[Candle]) -> store.Written | None:
            written = await world.history(series, candles)
            return written and attrs.evolve(written, codes="s" * len(candles))

    world.repairs._writer = cast(Writer, Same())
    for symbol, cause in ((BTC, CONTRADICTED), (ETH, "the candles channel differs")):
        world.put(of(symbol), world.slot(2))
        world.repairs.suspects([Suspect(of(symbol), world.slot(2), cause)])
    await repaired(world, 1000)
    natives = [question.native for question in world.questions]
    assert sorted(natives[:2]) == [BTC, ETH]
    assert natives[2:] == [BTC] * (LOOKS - 1)
    moments = [question.moment for question in world.questions if question.native == BTC]
    assert all(b - a >= 60 for a, b in itertools.pairwise(moments))


# -- in the feed ------------------------------------------------------------------------------


@attrs.define
class Relapsing:
    """A lease that lapses once more while it is forgotten what was asked for, and then Redis."""

    lapses: Callable[[], None] = lambda: None
    epoch: int = 2
    forgotten: int = 0
    scans: int = 0

    async def hold(self, retaken: Callable[[], None]) -> None:
        await trio.lowlevel.checkpoint()
        self.lapses = retaken
        retaken()

    async def forget_asked(self, series: Sequence[Series]) -> None:
        await trio.lowlevel.checkpoint()
        self.forgotten += 1
        if self.forgotten == 1:
            self.lapses()
        if self.forgotten == 2:
            raise StoreError("Redis is away")

    async def scan(self, series: Sequence[Series], cause: str) -> int:
        await trio.lowlevel.checkpoint()
        self.scans += 1
        return 0


async def test_a_lease_that_lapses_while_it_is_forgotten_what_was_asked_for_has_it_forgotten_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    async def raised(self: Feed, series: Sequence[Series]) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Feed, "_raise_epochs", raised)
    plan = Plan(
        dialect=COINBASE, websocket_url="", rest_url="", symbols=None, top=1, holder="me",
        description={},
    )  # fmt: skip
    feed, fake = Feed(plan, cast(Redis, World()), lambda: 0.5), Relapsing()
    feed._lease = cast(Lease, fake)
    feed._repairs = cast(Repairs, fake)
    with trio.move_on_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed._hold_lease)
            nursery.start_soon(feed._scan)
    assert fake.forgotten == 3, "twice for what it was doubted, once more as Redis was away"
    assert fake.scans >= 2
