"""Who is compared when, on virtual time: in time, evenly, the doubtful first, slower when scarce.

The store and the comparing itself are fakes; the exchange's clock is the virtual one.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.adapters import store
from livermore.adapters.redis import Call, Redis
from livermore.errors import StoreError
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.certificate import Compared
from livermore.market.gap import SECOND_LOOK, SETTLED, VERIFY, Gap, Lane, Outcome
from livermore.market.history import settled
from livermore.market.rounds import LOOK_AFTER, SHARE, period
from livermore.market.timeframe import HOUR, TIMEFRAMES, Timeframe
from livermore.market.tracker import Suspect
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.lease import Lease
from livermore.runtime.readings import Readings
from livermore.runtime.repairs import Asked, Repairs
from livermore.runtime.rest import Rest
from livermore.runtime.verification import BEHIND, NEWER, TRIES, Verification
from tests.tasks import test_repairs as repairing

NOON = 1_767_268_800_000  # 2026-01-01T12:00:00Z
M5 = Timeframe.M5
BUDGET = 8.0


def of(number: int, timeframe: Timeframe = M5) -> Series:
    return Series("coinbase", f"S{number}-USD", timeframe)


def streamed(series: Series, open_time: int) -> Candle:
    return Candle(series, open_time, 2.0, 3.0, 1.0, 2.0, 5.0, Kind.TRADED, Evidence.STREAM, 1)


def by_rest(series: Series, open_time: int, after: int) -> Candle:
    """As REST told it ``after`` its end (ms)."""
    candle = streamed(series, open_time)
    return attrs.evolve(candle, evidence=Evidence.REST, as_of=candle.close_time + after)


@attrs.frozen
class Look:
    """A comparison that was asked for, at ``moment`` (seconds)."""

    moment: float
    series: Series
    first: int
    last: int
    lane: Lane
    omitted_at: int | None

    @property
    def slots(self) -> int:
        return (self.last - self.first) // self.series.timeframe.ms + 1


@attrs.define
class World:
    """A store that fills by itself and a REST that agrees with it."""

    series: Sequence[Series]
    quiet: frozenset[Series] = frozenset()
    """Series that never trade: their slots are empty, as far as the stream tells."""
    decides: Callable[[Look, int], bool] = lambda look, open_time: True
    answer: Callable[[Look], str] = lambda look: ""
    candles: dict[Series, dict[int, Candle]] = attrs.Factory(lambda: defaultdict(dict))
    looks: list[Look] = attrs.Factory(list)
    confirmed_at: dict[tuple[Series, int], int] = attrs.Factory(dict)
    said: list[tuple[str, dict[str, object]]] = attrs.Factory(list)
    to_verify: dict[str, Gap] = attrs.Factory(dict)
    written: list[Gap] = attrs.Factory(list)
    suspected: list[Suspect] = attrs.Factory(list)
    left_out: frozenset[Series] = frozenset()
    away: bool = False
    seconds: float = 0.2
    """How long a comparison takes."""
    verification: Verification = attrs.field(init=False)

    def start(self) -> None:
        self.verification = Verification(
            COINBASE, cast(Redis, self), cast(Repairs, self), self.series,
            requests_per_second=BUDGET,
            clock=self.now,
            say=lambda event, fields: self.said.append((event, fields)),
            chance=lambda: 0.5,
        )  # fmt: skip

    def now(self) -> int:
        return NOON + round(trio.current_time() * 1000)

    async def market(self) -> None:
        """Every series closes a candle at each end of its slot, a moment later."""
        while True:
            now = self.now()
            await trio.sleep((M5.ceil(now + 1) + 200 - now) / 1000)
            for one in self.series:
                slot = one.timeframe.last_closed(self.now())
                if slot + one.timeframe.ms != M5.floor(self.now()):
                    continue
                self.close(one, slot)

    def close(self, one: Series, slot: int) -> None:
        candle = streamed(one, slot)
        if one in self.quiet:
            candle = empty(one, slot, 2.0, Evidence.ASSUMED, 1)
        self.candles[one][slot] = candle
        self.verification.stored(store.Written(one, [candle], 1, 1, "a", b"", 0))

    async def run(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise StoreError("Redis is away")
        replies: list[Any] = []
        for _, key, first, last in calls:
            series = store.parse_candles_key(key)
            assert series is not None
            held = self.candles[series]
            replies.append([_member(held[t]) for t in sorted(held) if first <= t <= last])
        return replies

    # -- as the repairs ---------------------------------------------------------------------

    def leaves_out(self, series: Series) -> bool:
        return series in self.left_out

    def suspects(self, slots: Iterable[Suspect]) -> None:
        self.suspected += slots

    async def write_entry(self, gap: Gap) -> bool:
        await trio.lowlevel.checkpoint()
        self.written.append(gap)
        return True

    async def compare(
        self, series: Series, first: int, last: int, cause: str, *,
        lane: Lane = Lane.VERIFICATION, omitted_at: int | None = None,
    ) -> Asked:  # fmt: skip
        at = self.now()
        look = Look(trio.current_time(), series, first, last, lane, omitted_at)
        self.looks.append(look)
        await trio.sleep(self.seconds)
        if problem := self.answer(look):
            return Asked(problem=problem)
        left = []
        slots = range(first, last + 1, series.timeframe.ms)
        for slot in slots:
            if not self.decides(look, slot):
                left.append(slot)
            elif slot in self.candles[series]:
                held = self.candles[series][slot]
                self.candles[series][slot] = attrs.evolve(held, evidence=Evidence.REST, as_of=at)
                self.confirmed_at.setdefault((series, slot), self.now())
        compared = Compared(len(slots), len(slots) - len(left), undecided=len(left))
        return Asked(None, (), at, "", compared, left)


def _member(candle: Candle) -> bytes:
    return (
        f'{{"open_time":{candle.open_time},{store.prices(candle)},"volume":{candle.volume!r},'
        f'"kind":"{candle.kind.value}","evidence":"{candle.evidence.label}",'
        f'"as_of":{candle.as_of},"revision":0}}'
    ).encode()


async def lived(world: World, seconds: float) -> None:
    world.start()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.market)
            nursery.start_soon(world.verification.run)


def within(world: World, slack: float = 0.0) -> None:
    """Every candle that had its time was compared, when REST could be trusted and in time."""
    for series, held in world.candles.items():
        bound = min(series.timeframe.ms, HOUR)
        for slot in held:
            end = slot + series.timeframe.ms
            at = world.confirmed_at.get((series, slot))
            if at is None:
                assert world.now() - end <= bound * (1 + slack), (series, slot)
            else:
                assert LOOK_AFTER <= at - end <= bound * (1 + slack), (series, slot)


async def test_every_candle_is_compared_within_an_interval_and_parents_within_the_hour(
    autojump_clock: MockClock,
):
    world = World([of(n, timeframe) for n in range(12) for timeframe in TIMEFRAMES])
    await lived(world, 2.2 * 3600)
    within(world)
    assert {look.lane for look in world.looks} == {Lane.VERIFICATION}
    slots = sum(len(held) for held in world.candles.values())
    assert len(world.confirmed_at) > 0.85 * slots
    found = world.verification.figures
    assert found.requests == len(world.looks)
    assert found.compared.confirmed == found.compared.slots >= len(world.confirmed_at)
    fives = [look for look in world.looks if look.series.timeframe is M5]
    assert len(fives) <= 12 * math.ceil(2.2 * 3600 / period(M5)), "a turn serves for both looks"
    assert world.verification.behind() == 0


async def test_requests_are_spread_over_the_interval(autojump_clock: MockClock):
    world = World([of(n) for n in range(60)])
    await lived(world, 3600)
    moments = [look.moment for look in world.looks if look.moment > 600]
    busiest = max(sum(start <= m < start + 30 for m in moments) for start in range(600, 3570, 5))
    assert busiest <= 2 * 60 * 30 / 300


async def test_what_is_confirmed_already_costs_no_request(autojump_clock: MockClock):
    world = World([of(0)])
    world.start()
    for ago in range(1, 200):
        slot = M5.floor(NOON) - ago * M5.ms
        world.candles[of(0)][slot] = by_rest(of(0), slot, SETTLED)
    with trio.move_on_after(280):
        await world.verification.run()
    assert world.looks == []
    assert world.verification.behind() == 0


async def test_what_rest_said_before_it_settled_is_compared_once_more(autojump_clock: MockClock):
    """A cache may have been behind; who knew that may have been killed."""
    world = World([of(0)])
    world.start()
    hasty = M5.floor(NOON) - 50 * M5.ms
    for ago in range(1, 200):
        slot = M5.floor(NOON) - ago * M5.ms
        world.candles[of(0)][slot] = by_rest(of(0), slot, SETTLED - (slot == hasty))
    with trio.move_on_after(900):
        await world.verification.run()
    [look] = world.looks
    assert (look.first, look.slots) == (hasty, 50)
    assert world.verification.behind() == 0, "it counts as compared all the time"


async def test_what_a_predecessor_was_going_to_look_at_again_goes_first(
    autojump_clock: MockClock,
):
    """Not before its reply is sure to show all: otherwise it would be asked for a third time."""
    world = World([of(n) for n in range(20)])
    world.start()
    slots = {19: 45_000, 18: 100_000, 17: SETTLED}
    for number, after in slots.items():
        slot = M5.floor(NOON) - M5.ms * (2 if number == 18 else 1)
        world.candles[of(number)][slot] = by_rest(of(number), slot, after)
        world.verification.resume([world.candles[of(number)][slot]])
    world.close(of(16), M5.floor(NOON) - M5.ms)
    world.verification.resume(world.candles[of(16)].values())
    with trio.move_on_after(130):
        await world.verification.run()
    assert [look.series for look in world.looks] == [of(18), of(19)]
    assert world.looks[0].moment < 5
    assert SETTLED / 1000 <= world.looks[1].moment < SETTLED / 1000 + 5


async def test_what_no_turn_reaches_after_an_absence_is_a_suspect(autojump_clock: MockClock):
    """Whatever it was stored as, unless REST had settled; what a turn reaches is left to it."""
    world = World([of(0)])
    world.start()
    reach = COINBASE.rest_rows - NEWER

    def resume(ago: int, after: int | None) -> bool:
        slot = M5.floor(NOON) - ago * M5.ms
        candle = streamed(of(0), slot) if after is None else by_rest(of(0), slot, after)
        world.suspected.clear()
        world.verification.resume([candle])
        assert world.suspected in ([], [Suspect(of(0), slot, BEHIND)])
        return bool(world.suspected)

    assert resume(400, 40_000)
    assert resume(400, None)
    assert not resume(400, SETTLED)
    assert resume(reach, 40_000), "its turn would come too late"
    assert not resume(reach - NEWER - 1, 40_000)
    assert not resume(100, None)


@pytest.mark.parametrize("ago", [100, 400])
async def test_a_hasty_candle_is_looked_at_once_however_long_ago_it_was(
    autojump_clock: MockClock, ago: int
):
    world = repairing.World()
    world.repairs._rest = cast(Rest, repairing.Asking(world))
    one = repairing.of(repairing.BTC)
    verification = Verification(
        COINBASE, cast(Redis, world), world.repairs, [one], requests_per_second=BUDGET,
        clock=world.now, say=lambda event, fields: None, chance=lambda: 0.5,
    )  # fmt: skip
    hasty = world.slot(ago)
    for slot in range(hasty, world.slot(0) + M5.ms, M5.ms):
        after = 40_000 if slot == hasty else SETTLED
        world.candles.setdefault(one, {})[slot] = by_rest(one, slot, after)
    verification.resume([world.candles[one][hasty]])
    with trio.move_on_after(250):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(verification.run)
            nursery.start_soon(world.repairs.run)
    assert world.repairs.progress.looks == len(world.questions) == 1
    assert settled(world.candles[one][hasty])


async def test_one_page_covers_everything_that_is_not_confirmed_yet(autojump_clock: MockClock):
    world = World([of(0)])
    world.start()
    for ago in range(1, 50):
        world.close(of(0), M5.floor(NOON) - ago * M5.ms)
    with trio.move_on_after(280):
        await world.verification.run()
    [look] = world.looks
    assert look.slots == 49


async def test_no_page_is_so_long_that_nothing_newer_fits(autojump_clock: MockClock):
    world = World([of(0)])
    world.start()
    for ago in range(1, 900):
        world.close(of(0), M5.floor(NOON) - ago * M5.ms)
    with trio.move_on_after(280):
        await world.verification.run()
    assert {look.slots for look in world.looks} == {COINBASE.rest_rows - NEWER}


async def test_an_empty_slot_that_is_assumed_is_compared_first(autojump_clock: MockClock):
    world = World([of(n) for n in range(40)], quiet=frozenset([of(7), of(23)]))
    await lived(world, 1500)
    within(world)
    for one in world.quiet:
        for slot in world.candles[one]:
            at = world.confirmed_at.get((one, slot))
            if at is not None:
                assert at - slot - M5.ms < LOOK_AFTER + 5000


async def test_a_candle_somebody_waits_for_is_compared_at_once(autojump_clock: MockClock):
    world = World([of(n) for n in range(40)])
    world.start()
    old, fresh = M5.floor(NOON) - 2 * M5.ms, M5.floor(NOON) - M5.ms
    world.close(of(39), old)
    world.close(of(38), fresh)
    world.verification.first(of(39), old)
    world.verification.first(of(38), fresh)
    with trio.move_on_after(60):
        await world.verification.run()
    moments = {look.series: look.moment for look in world.looks}
    assert moments[of(39)] < 1.5
    assert LOOK_AFTER / 1000 <= moments[of(38)] < LOOK_AFTER / 1000 + 1.5


async def test_what_a_reply_does_not_decide_is_looked_at_again_with_the_first_ones_time(
    autojump_clock: MockClock,
):
    world = World([of(0)], quiet=frozenset([of(0)]))
    world.decides = lambda look, open_time: (
        look.omitted_at is not None and NOON + look.moment * 1000 >= look.omitted_at + SECOND_LOOK
    )
    await lived(world, 590)
    slot = M5.floor(NOON)
    first, last = world.looks[0], world.looks[-1]
    assert first.moment == pytest.approx((300_000 + LOOK_AFTER) / 1000, abs=2)
    assert first.omitted_at is None
    assert {look.omitted_at for look in world.looks[1:]} == {NOON + round(first.moment * 1000)}
    assert 60 <= last.moment - first.moment < 65
    assert (last.first, last.last) == (slot, slot)
    assert (of(0), slot) in world.confirmed_at


async def test_what_no_reply_decides_is_asked_for_once_in_a_while_and_said_to_be_behind(
    autojump_clock: MockClock,
):
    world = World([of(0), of(1)])
    never = M5.floor(NOON)
    world.decides = lambda look, open_time: open_time != never or look.series != of(0)
    await lived(world, 3600)
    assert len([look for look in world.looks if look.series == of(0)]) <= 3600 / 259 + 3
    assert world.verification.behind() == pytest.approx((3600 - 600) * 1000, abs=2000)
    assert all((of(0), never + n * M5.ms) in world.confirmed_at for n in range(1, 8))


async def test_with_more_series_than_the_budget_has_requests_for_the_round_gets_longer(
    autojump_clock: MockClock,
):
    count = 1000  # 2.4 requests per second make 720 in five minutes
    world = World([of(n) for n in range(count)], quiet=frozenset(of(n) for n in range(0, count, 9)))
    await lived(world, 4500)
    steady = [look for look in world.looks if look.moment > 1500]
    rate = len(steady) / 3000
    assert rate <= SHARE * BUDGET * 1.001
    assert rate >= SHARE * BUDGET * 0.95
    round_ = count / (SHARE * BUDGET)
    by_series = defaultdict(list)
    for look in steady:
        by_series[look.series].append(look.moment)
    assert len(by_series) == count, "nobody starves"
    longest = max(b - a for m in by_series.values() for a, b in itertools.pairwise(m))
    assert longest <= 2.2 * round_
    assert max(look.slots for look in steady) >= 2


async def test_a_rest_that_fails_is_asked_ever_more_slowly_and_caught_up_with(
    autojump_clock: MockClock,
):
    world = World([of(n) for n in range(30)])
    world.answer = lambda look: "503" if 400 < look.moment < 2200 else ""
    await lived(world, 3600)
    failed = [look for look in world.looks if 400 < look.moment < 2200]
    assert world.verification.figures.failures == len(failed)
    assert len(failed) < 3 * (1800 / 45 + 8)
    for series, held in world.candles.items():
        for slot in held:
            if slot + M5.ms < NOON + 2_700_000:
                assert (series, slot) in world.confirmed_at


async def test_a_series_of_which_rest_did_not_answer_is_tried_again_before_its_next_turn(
    autojump_clock: MockClock,
):
    world = World([of(0)])
    world.answer = lambda look: "503" if len(world.looks) == 1 else ""
    await lived(world, 900)
    first, second = world.looks[:2]
    assert 60 <= second.moment - first.moment < 70
    within(world)


async def test_a_redis_that_is_away_costs_no_request_and_no_task(autojump_clock: MockClock):
    world = World([of(n) for n in range(5)])
    world.away = True
    world.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.market)
        nursery.start_soon(world.verification.run)
        await trio.sleep(1000)
        assert world.looks == []
        world.away = False
        await trio.sleep(600)
        nursery.cancel_scope.cancel()
    within(world, slack=4)
    assert len(world.confirmed_at) >= 5 * 4


async def test_what_the_exchange_does_not_serve_is_not_asked_for(autojump_clock: MockClock):
    world = World([of(0), of(1)], left_out=frozenset([of(1)]))
    await lived(world, 1200)
    assert {look.series for look in world.looks} == {of(0)}


async def test_once_an_hour_it_is_told_what_was_compared_and_what_differed(
    autojump_clock: MockClock,
):
    world = World([of(n) for n in range(10)])
    await lived(world, 2 * 3600 + 60)
    told = [fields for event, fields in world.said if event == "verified in the last hour"]
    assert len(told) == 2
    assert told[0]["slots"] == told[0]["confirmed"]
    twice = (SETTLED - LOOK_AFTER) / 1000 / period(M5)  # those that were compared early
    assert told[1]["slots"] == pytest.approx(120 * (1 + twice), abs=10)
    turns = 10 * math.ceil(3600 / period(M5))
    assert told[1]["requests"] == pytest.approx((120 + turns) / 2, abs=15), "no more than turns"
    assert {"corrected", "filled", "omitted", "differing", "undecided", "behind"} <= told[0].keys()
    assert (told[0]["failures"], told[0]["behind"]) == (0, 0)


# -- by hand ----------------------------------------------------------------------------------


def wish(series: Series, slots: int) -> Gap:
    last = M5.floor(NOON) - M5.ms
    return Gap(series, last - (slots - 1) * M5.ms, last, VERIFY, NOON, Lane.BY_HAND)


async def test_a_range_of_the_ledger_is_compared_page_by_page_and_its_outcome_written(
    autojump_clock: MockClock,
):
    world = World([of(0)])
    gap = wish(of(0), 1000)
    world.to_verify[gap.name] = gap
    await lived(world, 20)
    assert [look.lane for look in world.looks] == [Lane.BY_HAND] * 4
    covered = [range(look.first, look.last + 1, M5.ms) for look in world.looks]
    assert sorted(slot for page in covered for slot in page) == list(
        range(gap.first, gap.last + 1, M5.ms)
    )
    [written] = world.written
    assert written.outcome is Outcome.FILLED
    assert written.compared == Compared(slots=1000, confirmed=1000)
    assert not world.to_verify


async def test_a_range_that_rest_does_not_answer_for_ends_with_its_reason(
    autojump_clock: MockClock,
):
    world = World([of(0)])
    world.answer = lambda look: "503 Service Unavailable"
    gap = wish(of(0), 5)
    world.to_verify[gap.name] = gap
    await lived(world, 120)
    assert [one.attempts for one in world.written] == list(range(1, TRIES + 1))
    assert [one.outcome for one in world.written[:-1]] == [Outcome.OPEN] * (TRIES - 1)
    last = world.written[-1]
    assert (last.outcome, last.note) == (Outcome.UNFILLABLE, "503 Service Unavailable")
    assert last.compared is None
    assert not world.to_verify


async def test_a_range_of_what_is_not_followed_ends_at_once(autojump_clock: MockClock):
    world = World([of(0)], left_out=frozenset([of(5)]))
    gap = wish(of(5), 5)
    world.to_verify[gap.name] = gap
    await lived(world, 5)
    [written] = world.written
    assert (written.outcome, written.note) == (Outcome.UNFILLABLE, "S5-USD is not followed")
    assert world.looks == []


# -- in the feed ------------------------------------------------------------------------------


async def test_the_feed_hands_on_what_was_stored(autojump_clock: MockClock):
    """Else an assumed empty would wait for its turn in the round."""
    world = World([of(0)])
    world.start()
    plan = Plan(
        dialect=COINBASE, websocket_url="", rest_url="", symbols=None, top=1, holder="me",
        description={},
    )  # fmt: skip
    feed = Feed(plan, cast(Redis, world), lambda: 0.5)
    feed.report.verification = world.verification
    slot = M5.floor(NOON) - M5.ms
    candle = empty(of(0), slot, 2.0, Evidence.ASSUMED, 1)
    world.candles[of(0)][slot] = candle
    readings = Readings(cast(Redis, world), cast(Lease, None), lambda: 0.5)
    feed._stored(store.Written(of(0), [candle], 1, 1, "a", b"", 0), readings)
    with trio.move_on_after(LOOK_AFTER / 1000 + 2):
        await world.verification.run()
    assert [look.first for look in world.looks] == [slot]
