"""Whoever is blind is told: once, in time, together with the others, and again when it sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.market.candle import Series
from livermore.market.timeframe import DAY, HOUR, MINUTE, TIMEFRAMES, Timeframe
from livermore.runtime.blind import (
    FLAPPING,
    FURTHER,
    GRACE,
    LOOK,
    PARTLY,
    Blind,
    Look,
    look_at,
    watch_blind,
)
from livermore.runtime.status import Report
from livermore.signals.alert import Blindness, Entry, Recovery

START = 1_767_225_600_000
SYMBOLS = tuple(f"S{n}-USD" for n in range(6))
WALL = START - 7 * HOUR
"""Our own clock is wrong."""
M5 = Timeframe.M5.ms


def series(symbol: str, timeframe: Timeframe = Timeframe.M5) -> Series:
    return Series("coinbase", symbol, timeframe)


def every(symbols: Iterable[str] = SYMBOLS) -> list[Series]:
    return [series(symbol, timeframe) for symbol in symbols for timeframe in TIMEFRAMES]


class World:
    """An exchange whose candles are stored ``late`` ms after their end, unless they are silent."""

    def __init__(self, followed: Iterable[Series] | None = None, now: int = START + 30_000) -> None:
        self.now = now
        self.began = now
        self.silent: set[Series] = set()
        self.late = 2_000
        self.halted: int | None = None
        self.clock_known = True
        self.newest: dict[Series, int] = {}
        self.follow(every() if followed is None else followed)
        self.restart()

    def follow(self, followed: Iterable[Series], *, stored: bool = True) -> None:
        self.newest |= {one: one.timeframe.floor(self.now) if stored else 0 for one in followed}

    def restart(self) -> None:
        self.blind = Blind("coinbase", WALL + self.now - START, self.moment)

    @property
    def moment(self) -> float:
        return 1000 + (self.now - self.began) / 1000

    def look(self) -> Sequence[Entry]:
        seen = Look(
            now=self.now if self.clock_known else None,
            newest=self.newest,
            halted=self.halted,
            why="blind: no data",
        )
        return self.blind.look(seen, self.moment)

    def run(self, until: int, step: int = 6_000) -> list[Entry]:
        """What is told up to ``until`` (exchange ms).

        Every second after full minutes, of the clock and since it was called; else every ``step``.
        """
        told: list[Entry] = []
        began = self.now
        while self.now < until:
            past = self.now % MINUTE, (self.now - began) % MINUTE
            wide = min(step, MINUTE - max(past))
            self.now = min(until, self.now + (1_000 if min(past) < 3_000 else wide))
            for one in self.newest:
                if one not in self.silent:
                    stored = one.timeframe.floor(self.now - self.late)
                    self.newest[one] = max(self.newest[one], stored)
            told += self.look()
        return told

    def hush(self, *some: Series) -> None:
        self.silent.update(some or self.newest)

    def speak(self, *some: Series) -> None:
        self.silent.difference_update(some or tuple(self.silent))


def blindness(entry: Entry) -> Blindness:
    assert isinstance(entry, Blindness)
    return entry


def recovery(entry: Entry) -> Recovery:
    assert isinstance(entry, Recovery)
    return entry


# -- the beginning ----------------------------------------------------------------------------


def test_nothing_is_told_while_candles_come():
    world = World()
    assert world.run(START + DAY + HOUR, step=11_000) == []
    world.late = GRACE
    assert world.run(START + 2 * DAY + HOUR, step=11_000) == []


def test_silence_is_told_when_a_timeframe_and_a_minute_have_passed_and_not_before():
    world = World()
    world.run(START + HOUR + 10_000)
    world.hush()
    due = START + HOUR + M5 + GRACE
    assert world.run(due) == []
    [entry] = world.run(due + 1)
    told = blindness(entry)
    assert told == Blindness(
        id=f"blind|coinbase|{START + HOUR}|6",
        source_exchange_id="coinbase",
        series=6,
        of=30,
        named=[f"{symbol} 5m" for symbol in SYMBOLS],
        since=START + HOUR,
        why="blind: no data",
        triggered=due + 1,
    )


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_each_timeframe_has_its_own_patience(timeframe):
    world = World()
    one = series(SYMBOLS[0], timeframe)
    world.run(START + DAY + 10_000, step=10_000)
    world.hush(one)
    due = START + DAY + timeframe.ms + GRACE
    assert world.run(due, step=10_000) == []
    told = blindness(world.run(due + 1)[0])
    assert (told.named, told.series, told.since) == ([str(one)], 1, START + DAY)


def test_an_outage_of_two_days_is_one_entry_and_one_recovery():
    world = World()
    world.run(START + HOUR + 10_000)
    world.hush()
    [first] = world.run(START + 2 * DAY + HOUR + 10_000, step=10_000)
    assert blindness(first).series == len(SYMBOLS)
    world.speak()
    [entry] = world.run(START + 2 * DAY + 2 * HOUR)
    told = recovery(entry)
    assert (told.recovered, told.still) == (30, 0)
    assert told.since == blindness(first).since
    assert told.lasted == told.triggered - told.since
    assert told.triggered == START + 2 * DAY + HOUR + 11_000


def test_a_longer_timeframe_is_told_when_the_shorter_ones_are_not_blind():
    world = World()
    world.run(START + HOUR + 10_000)
    world.hush(series(SYMBOLS[0], Timeframe.H1))
    world.hush(series(SYMBOLS[1], Timeframe.M5))
    told = [blindness(entry) for entry in world.run(START + 3 * HOUR)]
    assert [one.named for one in told] == [[f"{SYMBOLS[1]} 5m"], [f"{SYMBOLS[0]} 1h"]]


def test_a_shorter_timeframe_is_told_although_the_longer_one_was():
    world = World()
    world.run(START + HOUR + 10_000)
    world.hush(series(SYMBOLS[0], Timeframe.M15))
    [first] = world.run(START + HOUR + 20 * MINUTE)
    world.hush(series(SYMBOLS[0], Timeframe.M5))
    [second] = world.run(START + HOUR + 40 * MINUTE)
    assert blindness(first).named == [f"{SYMBOLS[0]} 15m"]
    assert blindness(second).named == [f"{SYMBOLS[0]} 5m"]


def test_between_timeframes_that_were_told_nothing_is_told():
    world = World(every(SYMBOLS[:1]))
    world.run(START + HOUR + 10_000)
    world.hush(series(SYMBOLS[0], Timeframe.H1))
    assert len(world.run(START + 2 * HOUR + 2 * MINUTE)) == 1
    world.hush(series(SYMBOLS[0], Timeframe.M5))
    assert len(world.run(START + 2 * HOUR + 12 * MINUTE)) == 1
    world.hush(series(SYMBOLS[0], Timeframe.M15))
    assert world.run(START + 3 * HOUR) == []


def test_what_turns_blind_beside_others_is_told_at_most_once_a_minute_and_together():
    # Ends on different slots, and never stored ones, so that they turn blind seconds apart.
    followed = [series(symbol) for symbol in SYMBOLS]
    world = World(followed)
    world.run(START + HOUR + 10_000)
    told: list[Blindness] = []
    ends = [START + HOUR - k * 7_000 for k in range(len(followed))]
    world.hush()
    world.newest = dict(zip(followed, ends, strict=True))
    world.restart()
    told = [blindness(entry) for entry in world.run(START + 2 * HOUR)]
    assert [one.series for one in told] == [1, 5]
    assert told[1].triggered - told[0].triggered == FURTHER
    assert sorted(name for one in told for name in one.named) == [str(one) for one in followed]
    assert len({one.id for one in told}) == 2


def test_a_series_that_never_had_a_candle_counts_from_the_first_end_after_it_was_followed():
    world = World([series(SYMBOLS[0])], now=START)
    world.newest.clear()
    world.now += 130_000
    world.restart()
    world.follow([series(SYMBOLS[1])], stored=False)
    world.hush()
    assert world.run(START + M5 + GRACE) == []
    told = blindness(world.run(START + M5 + GRACE + 1)[0])
    assert (told.named, told.since) == ([f"{SYMBOLS[1]} 5m"], START)


def test_a_series_followed_later_counts_from_then():
    world = World([series(SYMBOLS[0])])
    world.run(START + 2 * HOUR + 10_000)
    world.follow([series(SYMBOLS[1])], stored=False)
    world.hush(series(SYMBOLS[1]))
    due = START + 2 * HOUR + M5 + GRACE
    assert world.run(due) == []
    assert blindness(world.run(due + 1)[0]).since == START + 2 * HOUR


def test_history_that_is_missing_is_no_blindness_where_the_newest_candle_is_recent():
    world = World([series(SYMBOLS[0], Timeframe.D1)])
    assert world.run(START + HOUR) == []


def test_no_entry_names_more_than_a_person_reads():
    world = World([series(f"N{n}-USD") for n in range(50)])
    world.hush()
    told = blindness(world.run(START + HOUR)[0])
    assert (len(told.named), told.series, told.of) == (10, 50, 50)


# -- the end ----------------------------------------------------------------------------------


def test_the_end_is_told_once_when_the_last_one_is_back():
    world = World([series(symbol) for symbol in SYMBOLS])
    world.run(START + HOUR + 10_000)
    world.hush()
    assert len(world.run(START + HOUR + 20 * MINUTE)) == 1
    world.speak(*[series(symbol) for symbol in SYMBOLS[1:]])
    assert world.run(START + HOUR + 24 * MINUTE) == []
    world.speak()
    [entry] = world.run(START + 3 * HOUR)
    told = recovery(entry)
    assert (told.recovered, told.still) == (6, 0)
    assert told.lasted == 24 * MINUTE + 1_000


def test_some_that_are_back_are_told_after_five_minutes_with_those_that_are_not():
    world = World([series(symbol) for symbol in SYMBOLS])
    world.run(START + HOUR + 10_000)
    world.hush()
    world.run(START + HOUR + 20 * MINUTE)
    world.speak(*[series(symbol) for symbol in SYMBOLS[:4]])
    back = START + HOUR + 20 * MINUTE + 1_000
    assert world.run(back + PARTLY) == []
    [entry] = world.run(START + 3 * HOUR)
    told = recovery(entry)
    assert (told.recovered, told.still) == (4, 2)
    assert told.triggered == back + PARTLY + 1_000
    assert told.lasted == 20 * MINUTE + 1_000, "not the minutes in which it waited"
    world.speak()
    [entry] = world.run(START + 4 * HOUR)
    assert (recovery(entry).recovered, recovery(entry).still) == (2, 0)


def test_what_is_back_for_a_moment_only_is_not_told_to_be_back():
    world = World([series(symbol) for symbol in SYMBOLS[:2]])
    world.run(START + HOUR + 10_000)
    world.hush()
    world.run(START + HOUR + 20 * MINUTE)
    # One candle comes late: its series is blind again before five minutes are over.
    world.newest[series(SYMBOLS[0])] = START + HOUR + 15 * MINUTE
    assert world.run(START + 3 * HOUR) == []


def test_what_is_blind_for_good_hides_no_later_outage_and_delays_no_recovery():
    world = World()
    world.run(START + HOUR + 10_000)
    world.hush(*every(SYMBOLS[:1]))
    assert len(world.run(START + DAY + 10_000, step=5_000)) == 1
    for day in (1, 2):
        world.hush()
        [entry] = world.run(START + day * DAY + 20 * MINUTE)
        assert blindness(entry).series == 5
        assert blindness(entry).since == START + day * DAY
        world.speak(*every(SYMBOLS[1:]))
        [entry] = world.run(START + day * DAY + 30 * MINUTE)
        assert world.run(START + (day + 1) * DAY + 10_000, step=10_000) == []
        told = recovery(entry)
        # of the outage: 5m and 15m; still blind: all five of the one that stays away, as they turn
        assert told.recovered == 10
        assert told.lasted == 20 * MINUTE + 1_000
        assert told.triggered == told.since + told.lasted, "at once"
        assert told.still >= 4


def test_one_that_is_blind_again_soon_is_told_a_minute_later_and_not_if_it_is_back_by_then():
    one = series(SYMBOLS[0])
    world = World([one])
    world.run(START + HOUR + 10_000)
    world.hush()
    assert len(world.run(START + HOUR + 10 * MINUTE)) == 1
    world.newest[one] = START + HOUR + M5
    [entry] = world.run(START + HOUR + 10 * MINUTE + 1_000)
    assert isinstance(entry, Recovery)
    due = START + HOUR + 2 * M5 + GRACE
    assert due - entry.triggered < FLAPPING
    assert world.run(due + GRACE) == []
    [entry] = world.run(due + GRACE + 1_000)
    assert isinstance(entry, Blindness)
    # And back, and blind again, and back within the minute.
    world.newest[one] = START + HOUR + 2 * M5
    [entry] = world.run(world.now + 1_000)
    assert isinstance(entry, Recovery)
    assert world.run(START + HOUR + 3 * M5 + GRACE + 30_000) == []
    world.speak()
    assert world.run(START + 3 * HOUR) == []


def test_two_entries_never_share_an_id():
    calm, flapping = series(SYMBOLS[0]), series(SYMBOLS[1])
    world = World([calm, flapping])
    world.run(START + HOUR + 10_000)
    world.hush(flapping)
    assert len(world.run(START + HOUR + 13 * MINUTE)) == 1
    world.speak()
    assert len(world.run(START + HOUR + 14 * MINUTE)) == 1
    world.hush()
    told = [blindness(entry) for entry in world.run(START + 2 * HOUR)]
    assert [one.named for one in told] == [[str(calm)], [str(flapping)]]
    assert told[0].since == told[1].since
    assert told[0].id != told[1].id


def test_one_that_is_blind_again_after_a_while_is_told_at_once():
    one = series(SYMBOLS[0])
    world = World([one])
    world.run(START + HOUR + 10_000)
    world.hush()
    world.run(START + HOUR + 20 * MINUTE)
    world.speak()
    world.run(START + 2 * HOUR + 10_000)
    world.hush()
    due = START + 2 * HOUR + M5 + GRACE
    assert world.run(due) == []
    assert len(world.run(due + 1)) == 1


def test_what_is_not_followed_any_more_is_not_waited_for():
    world = World([series(symbol) for symbol in SYMBOLS[:2]])
    world.run(START + HOUR + 10_000)
    world.hush()
    world.run(START + HOUR + 20 * MINUTE)
    del world.newest[series(SYMBOLS[0])]
    world.speak()
    [entry] = world.run(START + 2 * HOUR)
    assert (recovery(entry).recovered, recovery(entry).still) == (1, 0)


def test_what_was_blind_and_is_not_followed_any_more_has_no_recovery():
    world = World([series(symbol) for symbol in SYMBOLS[:2]])
    world.hush(series(SYMBOLS[0]))
    assert len(world.run(START + HOUR)) == 1
    del world.newest[series(SYMBOLS[0])]
    assert world.run(START + 3 * HOUR) == []


# -- all of it --------------------------------------------------------------------------------


def test_a_halt_is_one_entry_and_one_recovery_however_long_it_lasts():
    world = World()
    world.run(START + HOUR + 10_000)
    world.halted = START + HOUR - 10 * MINUTE
    [entry] = world.run(START + HOUR + 11_000)
    told = blindness(entry)
    assert (told.series, told.of, told.since) == (30, 30, world.halted)
    assert told.id == f"blind|coinbase|{world.halted}|0"
    world.hush()
    assert world.run(START + 9 * HOUR + 90_000, step=5_000) == []
    world.halted = None
    assert world.run(START + 9 * HOUR + 4 * MINUTE) == [], "its candles are not here yet"
    world.speak()
    [entry] = world.run(START + DAY, step=5_000)
    assert recovery(entry).since == told.since
    assert (recovery(entry).recovered, recovery(entry).still) == (30, 0)


def test_a_halt_whose_empty_candles_came_ends_with_its_first_trade():
    world = World()
    world.halted = START - 10 * MINUTE
    assert len(world.run(START + 3 * HOUR)) == 1
    world.halted = None
    [entry] = world.run(START + 4 * HOUR)
    told = recovery(entry)
    assert (told.recovered, told.still) == (30, 0)
    assert told.triggered == START + 3 * HOUR + 1_000


def test_what_was_blind_before_a_halt_does_not_hide_its_end():
    world = World([series(symbol) for symbol in SYMBOLS])
    world.hush(series(SYMBOLS[0]))
    assert len(world.run(START + HOUR)) == 1
    world.halted = START + HOUR - 10 * MINUTE
    assert len(world.run(START + 2 * HOUR)) == 1
    world.halted = None
    [entry] = world.run(START + 3 * HOUR)
    assert (recovery(entry).recovered, recovery(entry).still) == (5, 1)


def test_one_that_stays_blind_after_a_halt_does_not_hide_its_end():
    world = World([series(symbol) for symbol in SYMBOLS])
    world.halted = START - 10 * MINUTE
    assert len(world.run(START + HOUR)) == 1
    world.hush(series(SYMBOLS[0]))
    assert world.run(START + 2 * HOUR) == []
    world.halted = None
    [entry] = world.run(START + 3 * HOUR)
    assert (recovery(entry).recovered, recovery(entry).still) == (5, 1)
    assert recovery(entry).triggered == START + 2 * HOUR + 1_000 + PARTLY + 1_000


def test_silence_that_turned_into_a_halt_ends_when_candles_come():
    world = World([series(symbol) for symbol in SYMBOLS])
    world.hush()
    assert len(world.run(START + 20 * MINUTE)) == 1
    world.halted = START
    assert len(world.run(START + 30 * MINUTE)) == 1
    world.halted = None
    assert world.run(START + 40 * MINUTE) == [], "nothing is back"
    world.speak()
    [entry] = world.run(START + HOUR)
    assert (recovery(entry).recovered, recovery(entry).still) == (6, 0)


def test_an_exchange_that_is_not_reached_at_all_is_told_and_its_end_as_well():
    world = World([])
    world.clock_known = False
    world.look()
    due = world.began + M5 + GRACE
    assert world.run(due) == []
    [entry] = world.run(due + 1_000)
    told = blindness(entry)
    assert (told.series, told.of, told.named) == (0, 0, [])
    assert told.since == WALL + world.began - START
    assert world.run(START + HOUR + 30_000) == []
    # Reached: the time is known, and what is stored.
    world.clock_known = True
    world.follow(every(), stored=False)
    world.hush()
    assert world.run(START + HOUR + 2 * MINUTE) == []
    world.speak()
    [entry] = world.run(START + 2 * HOUR)
    ended = recovery(entry)
    assert ended.still == 0
    assert ended.since == world.began, "by the exchange's clock, now that it is known"
    assert ended.lasted == ended.triggered - ended.since
    # Later outages are told by the exchange's clock, at once.
    world.hush()
    [entry] = world.run(START + 2 * HOUR + 20 * MINUTE)
    assert blindness(entry).since == START + 2 * HOUR - M5


def test_a_wrong_clock_of_ours_judges_no_candle():
    world = World()
    world.run(START + HOUR)
    world.clock_known = False  # a feed that starts again
    assert world.run(START + 3 * HOUR) == []
    fresh = World()
    fresh.blind = Blind("coinbase", START + 9 * DAY, fresh.moment)
    assert fresh.run(START + 3 * HOUR) == []


# -- restarts ---------------------------------------------------------------------------------


def test_a_restart_tells_the_same_blindness_under_the_same_id():
    world = World()
    world.run(START + HOUR + 10_000)
    world.hush()
    ids: set[str] = set()
    for minutes in (7, 20, 75, 6 * 60, 30 * 60):
        ids |= {blindness(one).id for one in world.run(START + HOUR + minutes * MINUTE, 5_000)}
        world.restart()
        ids |= {blindness(one).id for one in world.look()}
    assert len(ids) == 1
    world.speak()
    [entry] = world.run(START + 2 * DAY, step=5_000)
    assert recovery(entry).still == 0


def test_after_a_restart_what_was_blind_before_does_not_hide_what_turned_blind_since():
    world = World()
    world.hush(*every(SYMBOLS[:1]))
    [first] = world.run(START + DAY, step=5_000)
    world.restart()
    [again] = world.look()
    assert blindness(again).id == blindness(first).id
    world.hush()
    world.now += HOUR
    world.restart()
    [entry] = world.look()
    assert blindness(entry).id != blindness(first).id
    assert f"{SYMBOLS[5]} 5m" in blindness(entry).named


def test_a_feed_that_starts_again_keeps_what_it_followed():
    world = World()
    world.run(START + HOUR + 10_000)
    known, world.newest = world.newest, {}
    world.clock_known = False
    [entry] = world.run(START + HOUR + 20 * MINUTE)
    assert blindness(entry).since == START + HOUR
    world.newest, world.clock_known = known, True
    [entry] = world.run(START + 2 * HOUR)
    assert recovery(entry).still == 0


@pytest.mark.parametrize("halted", [True, False])
def test_what_another_daemon_follows_is_its_to_tell(halted):
    world = World()
    world.hush()
    world.halted = START if halted else None
    world.run(START + HOUR)
    world.halted = None
    world.blind.forget()
    world.now += DAY
    world.newest = {one: one.timeframe.floor(world.now) for one in world.newest}
    world.speak()
    assert world.run(START + DAY + 3 * HOUR, step=5_000) == []


def test_what_another_daemon_followed_before_counts_from_when_it_is_ours():
    world = World()
    world.run(START + HOUR)
    world.blind.forget()
    world.now += HOUR + 30_000
    world.newest = dict.fromkeys(world.newest, 0)
    world.hush()
    assert world.run(START + 2 * HOUR + M5 + GRACE) == []
    assert len(world.run(START + 2 * HOUR + M5 + GRACE + 1_000)) == 1


# -- the task ---------------------------------------------------------------------------------


@attrs.define
class FakeLiveness:
    halted_since: int | None = None


def test_a_look_shows_the_state_of_the_feed():
    async def main() -> None:
        report = Report(exchange="coinbase", title="Coinbase")
        report.note = "cannot reach http://x: refused"
        seen = look_at(report, None, {})
        assert seen is not None
        assert seen.why == "connecting: nothing is followed yet: cannot reach http://x: refused"
        assert seen.halted is None
        report.liveness = cast(Any, FakeLiveness(START))
        seen = look_at(report, START + 5, {series("S-USD"): 3})
        assert seen is not None
        assert (seen.now, seen.newest, seen.halted) == (START + 5, {series("S-USD"): 3}, START)
        report.note = ""
        seen = look_at(report, None, {})
        assert seen is not None
        assert seen.why == "starting: no closed candle arrives"
        report.standby = "somebody has it"
        assert look_at(report, None, {}) is None

    trio.run(main)


def test_what_closes_in_a_pause_is_told_by_nobody_and_not_missed_after_it():
    async def main() -> None:
        one = series("S-USD")
        report = Report(exchange="coinbase", title="Coinbase")
        report.paused = True
        assert look_at(report, START, {one: START}) is None
        resumed = START + 12 * M5 + 100_000
        report.paused, report.resumed = False, resumed
        blind = Blind("coinbase", START, 0.0)
        told: list[int] = []
        for second in range(0, (M5 + GRACE) // 1000 + 10, 5):
            seen = look_at(report, resumed + second * 1000, {one: START})
            assert seen is not None
            told += [second for _ in blind.look(seen, float(second))]
        [when] = told
        due = M5 + GRACE - 100_000
        assert due <= when * 1000 <= due + 10_000, "whether it comes back is watched"

    trio.run(main)


def test_who_follows_nothing_is_not_blind():
    async def main() -> None:
        report = Report(exchange="coinbase", title="Coinbase")
        report.started_following = True
        assert look_at(report, START, {}) is None

    trio.run(main)


async def test_the_task_posts_what_is_to_be_told_and_goes_on(autojump_clock: MockClock):
    one = series(SYMBOLS[0])
    newest = {one: START}
    posted: list[tuple[float, Sequence[Entry]]] = []
    others = False

    def look() -> Look | None:
        now = START + round(trio.current_time() * 1000)
        return None if others else Look(now=now, newest=newest, halted=None, why="blind: x")

    async def post(entries: Sequence[Entry]) -> None:
        posted.append((trio.current_time(), entries))

    begun = trio.current_time()
    blind = Blind("coinbase", START, begun)
    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_blind, blind, look, post)
            await trio.sleep(500)
            [(when, [entry])] = posted
            assert (M5 + GRACE) / 1000 <= when <= (M5 + GRACE) / 1000 + 2 * LOOK
            assert isinstance(entry, Blindness)
            newest[one] = START + 2 * M5
            await trio.sleep(100)
            [_, (_, [entry])] = posted
            assert isinstance(entry, Recovery)
            await trio.sleep(1_000)
            [_, _, (_, [entry])] = posted
            assert isinstance(entry, Blindness)
            others = True
            await trio.sleep(1_000)
            others = False
            newest[one] = START + 10 * M5
            await trio.sleep(100)
            assert len(posted) == 3, "whoever followed it told"
            nursery.cancel_scope.cancel()
