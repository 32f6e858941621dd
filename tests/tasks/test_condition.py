"""What is missing, since when, why, and what happens next: all four, in one line, every time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.market.candle import Series
from livermore.market.gap import Gap
from livermore.market.timeframe import Timeframe
from livermore.runtime.condition import BLIND, Condition
from livermore.runtime.connection import Health, State
from livermore.runtime.journal import MOST, WINDOW, Journal
from livermore.runtime.repairs import DEEPER, HISTORY, Progress
from livermore.runtime.sight import LOOK, watch
from livermore.runtime.status import HANGS, Report
from livermore.runtime.writer import Turns

NOW = 1_800_000_000_000
SERIES = Series("coinbase", "BTC-USD", Timeframe.M5)


@attrs.define
class FakeWriter:
    turns: Turns = attrs.Factory(Turns)
    closed: int = 0

    def waiting(self) -> int:
        return self.closed


@attrs.define
class FakeRepairs:
    open_gaps: list[Gap] = attrs.Factory(list)
    progress: Progress = attrs.Factory(lambda: Progress(done=15, total=15))


class World:
    """A feed that is live, until a test breaks something."""

    def __init__(self) -> None:
        self.writer, self.repairs = FakeWriter(), FakeRepairs()
        self.healths = [Health("coinbase/1", 2, State.LIVE), Health("coinbase/2", 1, State.LIVE)]
        self.report = Report(exchange="coinbase", title="Coinbase")
        self.report.description = {"started": NOW - 60_000}
        self.report.symbols = ["BTC-USD", "ETH-USD", "SOL-USD"]
        self.report.started_following = True
        self.report.healths = self.healths
        self.report.writer = cast(Any, self.writer)
        self.report.repairs = cast(Any, self.repairs)
        self.begun = trio.current_time()

    def clock(self) -> int:
        return NOW + round((trio.current_time() - self.begun) * 1000)

    def condition(self) -> Condition:
        return self.report.condition(self.clock())

    def line(self) -> str:
        return self.condition().line("coinbase")

    def drop(self, *healths: Health, wait: float = 8.0) -> None:
        for health in healths:
            health.state, health.reconnects = State.WAITING, health.reconnects + 1
            health.error = f"{health.name}: no frame for 30 s"
            health.again_at = trio.current_time() + wait

    def redis_away(self) -> None:
        self.writer.turns.away_since = trio.current_time()
        self.writer.turns.away_why = "Redis unix:///x: Connection refused"
        self.writer.closed = 12


def gap(cause: str = "found after a break", attempts: int = 1, **more: Any) -> Gap:
    return Gap(
        SERIES, NOW - 900_000, NOW - 600_000, cause, NOW - 60_000,
        attempts=attempts, next_try=NOW + 30_000, **more,
    )  # fmt: skip


def socket_down(world: World) -> None:
    world.drop(world.healths[0])


def redis_away(world: World) -> None:
    world.redis_away()


def gaps_open(world: World) -> None:
    world.repairs.open_gaps = [gap(note="REST does not show 2 of 2 candles yet")]


def rest_fails(world: World) -> None:
    world.repairs.open_gaps = [gap(note="coinbase says 429: Too Many Requests")]


def backfilling(world: World) -> None:
    world.repairs.progress.done = 3
    world.repairs.open_gaps = [gap(HISTORY, note="cannot reach http://rest: refused")]


def writer_hangs(world: World) -> None:
    world.writer.turns.beat = trio.current_time() - HANGS - 1


def a_bug(world: World) -> None:
    world.report.lost = "KeyError: 'x'"
    world.report.again_at = trio.current_time() + 4


@pytest.mark.parametrize(
    ("break_", "wanted"),
    [
        (
            socket_down,
            "coinbase: blind since 2027-01-15T08:00:00Z: no data for 2 of 3 symbols: "
            "coinbase/1: no frame for 30 s; reconnecting in 8 s",
        ),
        (
            redis_away,
            "coinbase: blind since 2027-01-15T08:00:00Z: what closes is neither stored nor "
            "published: Redis unix:///x: Connection refused; "
            "12 closed candles wait in memory; trying again",
        ),
        (
            gaps_open,
            "coinbase: live since 2027-01-15T08:00:00Z: 2 candles in 1 gap since "
            "2027-01-15T07:59:00Z: first BTC-USD 5m: found after a break "
            "(REST does not show 2 of 2 candles yet); REST is asked again in 30 s",
        ),
        (
            rest_fails,
            "coinbase: live since 2027-01-15T08:00:00Z: 2 candles in 1 gap since "
            "2027-01-15T07:59:00Z: first BTC-USD 5m: found after a break "
            "(coinbase says 429: Too Many Requests); REST is asked again in 30 s",
        ),
        (
            backfilling,
            "coinbase: backfilling since 2027-01-15T08:00:00Z: history of 12 of 15 series: "
            "cannot reach http://rest: refused; REST is asked for it",
        ),
        (
            writer_hangs,
            "coinbase: blind since 2027-01-15T08:00:00Z: nothing is stored: "
            "the writer hangs since 46 s; restart this daemon",
        ),
        (
            a_bug,
            "coinbase: blind since 2027-01-15T08:00:00Z: nothing is followed: KeyError: 'x'; "
            "starting again in 4 s",
        ),
    ],
)
async def test_an_outage_is_one_line_with_what_since_why_and_next(
    autojump_clock: MockClock, break_: Callable[[World], None], wanted: str
):
    await trio.sleep(1000)  # a monotonic clock that has not just begun
    world = World()
    break_(world)
    assert world.line() == wanted


async def test_live_without_more_is_all_there_is_to_say(autojump_clock: MockClock):
    world = World()
    assert world.line() == "coinbase: live since 2027-01-15T08:00:00Z"
    new = attrs.evolve(gap(attempts=0), found=NOW)
    world.repairs.open_gaps = [new, gap(DEEPER)]  # just found; a wish
    assert world.line() == "coinbase: live since 2027-01-15T08:00:00Z"


async def test_what_nobody_could_ask_for_yet_is_told_after_a_while(autojump_clock: MockClock):
    world = World()
    world.repairs.open_gaps = [attrs.evolve(gap(attempts=0), found=NOW)]
    await trio.sleep(11)
    assert "1 gap since 2027-01-15T08:00:00Z" in world.line()


async def test_history_that_is_gone_again_is_fetched_again(autojump_clock: MockClock):
    world = World()
    world.condition()
    world.repairs.open_gaps = [attrs.evolve(gap(HISTORY, attempts=0), found=NOW)]
    await trio.sleep(11)
    assert world.condition().state == "backfilling"
    assert "history of 1 of" in world.line()


async def test_an_exchange_that_serves_nothing_of_ours_leaves_us_blind(autojump_clock: MockClock):
    world = World()
    world.report.rejected = {world.report.symbols[0]: "not a valid product"}
    some = world.condition()
    assert (some.state, some.why) == ("live", "not a valid product")
    assert "not served" in some.missing
    world.report.rejected = dict.fromkeys(world.report.symbols, "not a valid product")
    all_ = world.condition()
    assert (all_.state, all_.blind) == ("blind", True)
    assert "asked for again" in all_.next


async def test_a_connection_that_nobody_vouches_for_leaves_us_blind_since_it_was_heard(
    autojump_clock: MockClock,
):
    world = World()
    world.condition()
    await trio.sleep(5)
    heard = trio.current_time()
    await trio.sleep(60)
    world.healths[0].unheard_since = heard
    condition = world.condition()
    assert (condition.state, condition.since, condition.blind) == ("blind", NOW + 5_000, True)
    assert condition.missing == "no data for 2 of 3 symbols"
    assert "REST does not say" in condition.why


async def test_frames_that_cannot_be_read_are_told_while_they_are_many(autojump_clock: MockClock):
    world = World()
    world.condition()
    health = world.healths[0]
    for damaged, said in ((90, True), (10, False)):
        await trio.sleep(10)
        health.frames += 100
        health.malformed += damaged
        assert ("cannot be read" in world.condition().missing) is said


async def test_a_silent_socket_was_blind_from_its_last_frame_on(autojump_clock: MockClock):
    world = World()
    world.condition()
    await trio.sleep(5)
    world.healths[0].heard_at = trio.current_time()
    await trio.sleep(30)
    world.drop(world.healths[0])
    assert world.condition().since == NOW + 5_000


async def test_a_state_keeps_its_beginning_while_its_reason_changes(autojump_clock: MockClock):
    world = World()
    world.condition()
    await trio.sleep(10)
    world.drop(*world.healths)
    begun = world.condition().since
    assert begun == NOW + 10_000
    await trio.sleep(100)
    world.drop(*world.healths)
    world.redis_away()
    assert world.condition().since == begun
    assert "Connection refused" in world.line()
    for health in world.healths:
        health.state = State.LIVE
    world.writer.turns.away_since = None
    assert world.condition().since == NOW + 110_000


async def test_an_outage_noticed_late_began_when_it_began(autojump_clock: MockClock):
    world = World()
    world.condition()
    world.redis_away()
    await trio.sleep(7)
    assert world.condition().since == NOW


async def test_before_the_exchange_said_the_time_a_state_is_as_old_as_the_process(
    autojump_clock: MockClock,
):
    world = World()
    world.report.started_following = False
    world.report.note = "cannot reach http://x: refused; trying again"
    line = world.report.condition(None).line("coinbase")
    assert line == (
        "coinbase: connecting since 2027-01-15T07:59:00Z: nothing is followed yet: "
        "cannot reach http://x: refused; trying again"
    )


async def test_a_connection_that_never_failed_is_connecting_not_lost(autojump_clock: MockClock):
    world = World()
    world.healths[0].state = State.SUBSCRIBING
    assert world.condition().state == "connecting"
    world.healths[0].reconnects = 1
    assert world.condition().state == "blind", "one that comes back has brought nothing yet"


async def test_a_writer_that_was_not_begun_or_turns_is_alive(autojump_clock: MockClock):
    await trio.sleep(1000)
    world = World()
    assert world.report.alive(trio.current_time())
    world.writer.turns.beat = trio.current_time()
    await trio.sleep(HANGS - 1)
    assert world.report.alive(trio.current_time())
    await trio.sleep(1)
    assert not world.report.alive(trio.current_time())


def test_a_start_a_pause_and_an_end_count_as_blind_and_waiting_for_a_lease_does_not():
    assert {"starting", "connecting", "blind", "ended", "paused"} == BLIND


# -- the log ----------------------------------------------------------------------------------


@attrs.define
class Said:
    """What a journal told the log."""

    caplog: pytest.LogCaptureFixture

    def of(self, event: str) -> list[dict[str, Any]]:
        return [
            getattr(record, "fields")  # noqa: B009 - it is no field of theirs
            for record in self.caplog.records
            if record.getMessage() == event
        ]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Said:
    caplog.set_level("INFO", "livermore")
    return Said(caplog)


async def test_turning_blind_and_seeing_again_are_a_line_each(
    autojump_clock: MockClock, said: Said
):
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, world.report, Journal("coinbase"), world.clock)
        await trio.sleep(10 * LOOK)
        assert not said.of("blind")
        world.drop(*world.healths)
        await trio.sleep(100 * LOOK)
        world.redis_away()  # another reason for the same blindness
        await trio.sleep(100 * LOOK)
        [blind] = said.of("blind")
        assert blind["since"].startswith("2027-01-15T08:00:1")
        assert blind["missing"] == "no data for 3 of 3 symbols"
        assert blind["why"] == "coinbase/1: no frame for 30 s"
        assert blind["next"].startswith("reconnecting in")
        assert not said.of("sees again")
        world.writer.turns.away_since = None
        for health in world.healths:
            health.state = State.LIVE
        await trio.sleep(2 * LOOK)
        [again] = said.of("sees again")
        assert again["after_seconds"] == pytest.approx(200 * LOOK, abs=2 * LOOK)
        assert again["was"] == "no data for 3 of 3 symbols"
        assert len(said.of("blind")) == 1
        nursery.cancel_scope.cancel()


async def test_a_start_is_not_told_as_blindness(autojump_clock: MockClock, said: Said):
    world = World()
    world.healths[0].state = State.CONNECTING
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, world.report, Journal("coinbase"), world.clock)
        await trio.sleep(5 * LOOK)
        world.healths[0].state = State.LIVE
        await trio.sleep(5 * LOOK)
        nursery.cancel_scope.cancel()
    assert not said.of("blind")
    assert not said.of("sees again")


async def test_a_storm_of_one_event_is_summed_up(autojump_clock: MockClock, said: Said):
    journal = Journal("coinbase")
    for number in range(300):
        journal.info("gap filled", series=str(number), candles=2)
        journal.info("other") if number == 0 else None
    assert len(said.of("gap filled")) == MOST
    assert len(said.of("other")) == 1, "another event is not held back"
    assert len(journal.take()) == MOST + 1
    await trio.sleep(WINDOW)
    assert len(journal.take()) == 1, "the lifecycle channel hears of the rest"
    *_, last = said.of("gap filled")
    assert (last["more"], last["candles"]) == (300 - MOST, 2 * (300 - MOST))
    assert journal.take() == []


async def test_what_a_storm_held_back_is_told_before_the_next_and_at_the_end(
    autojump_clock: MockClock, said: Said
):
    journal = Journal("coinbase")
    for _ in range(MOST + 1):
        journal.info("gap filled", candles=1)
    await trio.sleep(WINDOW)
    journal.info("gap filled", candles=7)
    assert [fields.get("more") for fields in said.of("gap filled")][-2:] == [1, None]
    for _ in range(MOST + 4):
        journal.info("gap filled", candles=1)
    journal.sum_up()
    assert said.of("gap filled")[-1]["more"] == 5


async def test_a_pause_says_what_that_means_and_how_it_ends(autojump_clock: MockClock):
    world = World()
    socket_down(world)
    world.report.paused = True
    found = world.condition()
    assert (found.state, found.blind) == ("paused", True)
    assert found.note == (
        "nothing is collected: it was paused; resume it: livermore ctl resume --exchange coinbase"
    )
    world.report.paused = False
    assert world.condition().state == "blind"


async def test_who_follows_nothing_is_live_and_says_so(autojump_clock: MockClock):
    world = World()
    world.report.symbols = []
    assert world.condition().state == "live"
    assert "nothing is followed" in world.line()
