"""The flight recorder: what it keeps, for how long, and when it says so."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock

from livermore.adapters import incidents
from livermore.dialect import tracker_of
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Candle, Series
from livermore.market.recording import Step, play, remember
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import DIFFERS, Missing, Suspect, Tracker
from livermore.runtime.journal import Journal
from livermore.runtime.recorder import (
    COLLECT,
    PATIENCE,
    QUIET,
    REMEMBERED,
    SEGMENT,
    Incident,
    Kind,
    Recorder,
    Ring,
)
from livermore.runtime.repairs import HISTORY, Repairs

M5 = Timeframe.M5
T0 = 1_750_000_200_000 // M5.ms * M5.ms
SYMBOLS = ("BTC-USD", "ETH-USD")
MIB = 1024 * 1024


def series(symbol: str, timeframe: Timeframe = M5) -> Series:
    return Series("coinbase", symbol, timeframe)


def new_tracker(symbols: Sequence[str] = SYMBOLS, clock: int = T0, now: float = 0.0) -> Tracker:
    tracker = tracker_of(COINBASE, [(symbol, series(symbol)) for symbol in symbols])
    tracker.clock.hear(clock, now)
    return tracker


def entries(ring: Ring) -> Iterator[tuple[float, str | bytes] | Step]:
    """Everything a ring holds, oldest first."""
    for segment in ring._closed:
        yield from segment.entries
    assert ring._open is not None
    yield from ring._open.entries


def frames(ring: Ring) -> list[tuple[float, str | bytes]]:
    return [entry for entry in entries(ring) if isinstance(entry, tuple)]


# -- a ring -----------------------------------------------------------------------------------


def test_a_ring_keeps_within_its_bytes_whatever_the_size_of_frames():
    tracker = new_tracker()
    ring = Ring("one", tracker, {}, MIB, lambda: None, lambda: 0.0)
    for number in range(3000):
        ring.heard(number / 1000, "x" * (number % 7 * 300))
        assert ring.size <= MIB * 1.01
    held = frames(ring)
    assert held[-1][0] == 2.999
    assert sum(len(text) for _, text in held) > MIB / 2
    assert [at for at, _ in held] == [n / 1000 for n in range(3000 - len(held), 3000)]


def test_a_ring_of_tiny_frames_is_bounded_in_their_number():
    ring = Ring("one", new_tracker(), {}, MIB, lambda: None, lambda: 0.0)
    for number in range(20_000):
        ring.heard(number / 1e6, "")
    assert len(frames(ring)) < MIB / 100


def test_a_frame_larger_than_the_ring_does_not_stay():
    ring = Ring("one", new_tracker(), {}, MIB, lambda: None, lambda: 0.0)
    ring.heard(1.0, "x" * 3 * MIB)
    ring.heard(2.0, "y")
    assert frames(ring) == [(2.0, "y")]


def test_a_ring_reaches_back_as_long_as_it_should_and_hardly_longer():
    tracker = new_tracker()
    ring = Ring("one", tracker, {}, 100 * MIB, lambda: None, lambda: 0.0)
    for now in range(4000):
        ring.heard(float(now), "x")
        oldest = frames(ring)[0][0]
        assert oldest <= max(0.0, now - REMEMBERED)
        assert now - oldest <= REMEMBERED + 2 * SEGMENT


@pytest.mark.parametrize("second", [0.0, 7.5, 29.9, 30.0, 31.0, 59.0])
def test_what_is_known_is_not_written_down_where_candles_end(second: float):
    """That costs milliseconds, which who waits for the close would wait as well."""
    tracker = new_tracker(clock=T0 + int(second * 1000))
    ring = Ring("a", tracker, {}, 16 * MIB, lambda: None, lambda: 0.0)
    begun = []
    for step in range(3000):
        ring.heard(step / 10, "frame")
        begun.append(ring.reaches if step == 0 else len(ring._closed))
    turns = [i / 10 for i in range(2, 3000) if begun[i] != begun[i - 1]]
    assert [round((second + at) % 60, 1) for at in turns] == [30.0] * len(turns)
    assert len(turns) in (4, 5, 6)


def test_a_segment_that_is_full_when_candles_end_has_room_for_their_frames():
    frame = "x" * 1000
    for began in (T0 // 60_000 * 60_000 + 30_000, T0 // 60_000 * 60_000 + 60_000):
        tracker = new_tracker(clock=began)
        ring = Ring("a", tracker, {}, MIB, lambda: None, lambda: 0.0)
        ends = 0.0 if began % 60_000 == 0 else 30.0
        turns: list[tuple[float, int]] = []
        for step in range(400):
            now = step * 0.9 / 400 + ends  # all within the busy second
            closed = len(ring._closed)
            ring.heard(now, frame)
            if len(ring._closed) > closed:
                turns.append((now, len(ring._closed[-1].entries)))
        # Full segments end all the same: the bound on bytes comes first.
        assert [count for _, count in turns[1:]] == [turns[1][1]] * len(turns[1:])
        assert turns[1][1] > 100
        assert ring.size <= MIB
    tracker = new_tracker(clock=T0 // 60_000 * 60_000 + 30_000)
    ring = Ring("a", tracker, {}, MIB, lambda: None, lambda: 0.0)
    for step in range(200):
        ring.heard(step / 100, frame)
    usual = len(ring._closed[0].entries)
    assert usual * 1.2 < turns[1][1] < usual * 1.5


def test_many_symbols_in_little_memory_do_not_remember_at_every_frame(
    monkeypatch: pytest.MonkeyPatch,
):
    symbols = [f"S{number}-USD" for number in range(300)]
    ring = Ring("one", new_tracker(symbols), {}, MIB // 4, lambda: None, lambda: 0.0)
    calls = itertools.count()

    def counted(tracker: Tracker) -> bytes:
        next(calls)
        return remember(tracker)

    monkeypatch.setattr("livermore.runtime.recorder.remember", counted)
    for number in range(5000):
        ring.heard(number / 1000, "x" * 400)
    assert next(calls) < 20


def test_a_ring_notes_all_that_its_tracker_is_told():
    tracker = new_tracker()
    ring = Ring("one", tracker, {}, MIB, lambda: None, lambda: 5.0)
    tracker.connected(1.0)
    tracker.acknowledged(SYMBOLS, 2.0)
    candle = Candle(series("BTC-USD"), T0, 1.0, 2.0, 1.0, 2.0, 3.0)
    tracker.learn(candle)
    tracker.doubt("BTC-USD")
    tracker.ignore("ETH-USD")
    tracker.halted = True
    tracker.halted = False
    tracker.tick(6.0)
    tracker.lost()
    noted = [one for one in entries(ring) if isinstance(one, Step)]
    assert [(one.what, one.at) for one in noted] == [
        ("state", 1.0), ("connected", 1.0), ("acknowledged", 2.0), ("learned", 5.0),
        ("doubted", 5.0), ("ignored", 5.0), ("halted", 5.0), ("resumed", 5.0), ("tick", 6.0),
        ("lost", 5.0),
    ]  # fmt: skip
    assert [one.natives for one in noted if one.natives] == [
        list(SYMBOLS), ["BTC-USD"], ["ETH-USD"],
    ]  # fmt: skip
    assert noted[3].candle is not None
    assert noted[3].candle.candle("coinbase", M5) == candle


# -- incidents --------------------------------------------------------------------------------


@attrs.define
class Bench:
    """A recorder with two connections that hear something every second."""

    recorder: Recorder
    directory: Path
    trackers: list[Tracker]
    rings: list[Ring]
    said: list[tuple[str, dict[str, Any]]]
    stored: list[Candle] | None = attrs.Factory(list)

    def clock(self) -> int:
        return T0 + int(trio.current_time() * 1000)

    def gap(self, symbol: str = "BTC-USD", *, at: int | None = None, kind: Kind = Kind.GAP) -> None:
        open_time = (at if at is not None else self.clock()) // M5.ms * M5.ms
        self.recorder.report(Incident(kind, series(symbol), open_time, open_time, "lost"))

    def bundles(self) -> list[incidents.Bundle]:
        return [incidents.Bundle(path) for path in incidents.listing(self.directory)]


@pytest.fixture
def fast_clock() -> MockClock:
    """A thousand seconds in one; no autojump, so that threads work."""
    return MockClock(rate=1000)


@pytest.fixture
async def bench(tmp_path: Path, fast_clock: MockClock, nursery: Any) -> AsyncIterator[Bench]:
    said: list[tuple[str, dict[str, Any]]] = []

    class Noted(Journal):
        def info(self, event: str, **fields: object) -> None:
            said.append((event, fields))

        warning = info

    async def held(one: Series, first: int, last: int) -> list[Candle] | None:
        return made.stored

    recorder = Recorder(
        COINBASE, tmp_path / "incidents", 4 * MIB, Noted("coinbase"),
        clock=lambda: made.clock(), stored=held,  # noqa: PLW0108 - made below
    )  # fmt: skip
    now = trio.current_time()
    trackers, rings = [], []
    for name, symbol in zip(("one", "two"), SYMBOLS, strict=True):
        tracker = new_tracker([symbol], T0 + int(now * 1000), now)
        trackers.append(tracker)
        rings.append(recorder.attach(name, tracker, {symbol: symbol}, 2))
        tracker.connected(now)
        tracker.acknowledged([symbol], now)
    made = Bench(recorder, tmp_path / "incidents", trackers, rings, said)

    async def hear() -> None:
        while True:
            for ring, tracker in zip(rings, trackers, strict=True):
                ring.heard(trio.current_time(), '{"no": "frame"}')
                tracker.tick(trio.current_time())
            await trio.sleep(1)

    nursery.start_soon(recorder.run)
    nursery.start_soon(hear)
    await trio.sleep(2 * M5.ms / 1000)
    yield made


async def until(what: Callable[[], object]) -> None:
    with trio.fail_after(60 * 1000):
        while not what():  # noqa: ASYNC110 - nothing tells
            await trio.sleep(1)


async def until_saved(bench: Bench, count: int = 1) -> None:
    await until(lambda: bench.recorder.saved >= count)


async def test_an_outage_of_everything_is_one_bundle_that_names_it_all(
    bench: Bench, fast_clock: MockClock
):
    for _ in range(150):
        for symbol in SYMBOLS:
            bench.gap(symbol)
    await until_saved(bench)
    await trio.sleep(3 * COLLECT)
    [bundle] = bench.bundles()
    assert bundle.header.kind == "gap"
    assert bundle.header.connection == "one"
    assert {one.symbol for one in bundle.header.affected} == set(SYMBOLS)
    assert len(bundle.header.affected) == 300
    [(event, fields)] = bench.said
    assert event == "incident saved"
    assert fields["file"] == bundle.path.name
    assert (fields["kind"], fields["cause"], fields["symbols"]) == ("gap", "lost", 2)


async def test_a_kind_is_quiet_for_a_while_and_another_kind_is_not(
    bench: Bench, fast_clock: MockClock
):
    bench.gap()
    await until_saved(bench)
    for _ in range(7):
        bench.gap()
    bench.gap(kind=Kind.MISMATCH)
    await until_saved(bench, 2)
    await trio.sleep(3 * COLLECT)
    assert sorted(one.header.kind for one in bench.bundles()) == ["gap", "mismatch"]
    await trio.sleep(QUIET)
    bench.gap()
    await until_saved(bench, 3)
    newest = max(bench.bundles(), key=lambda one: one.header.found)
    assert newest.header.unsaved == 7


async def test_a_bundle_holds_the_frames_from_before_the_slot_and_replays_as_recorded(
    bench: Bench, fast_clock: MockClock
):
    await trio.sleep(M5.ms / 1000 + 2.5 * SEGMENT)
    now, began = trio.current_time(), bench.clock() // M5.ms * M5.ms
    bench.gap()
    await until_saved(bench)
    [bundle] = bench.bundles()
    recorded_from = bundle.header.recorded_from
    assert recorded_from is not None
    assert began - 2 * SEGMENT * 1000 - 5_000 < recorded_from <= began
    tracker = tracker_of(COINBASE, [("BTC-USD", series("BTC-USD"))])
    steps = list(bundle.steps())
    assert max(step.at for step in steps if step.what == "frame") > now
    played = play(tracker, COINBASE.read, steps, "coinbase", M5)
    assert bundle.whole
    assert played.frames > 0
    assert played.malformed == played.frames
    assert played.compared >= 1
    assert played.differs_at is None


async def test_what_began_before_we_listened_is_no_incident(bench: Bench, fast_clock: MockClock):
    began = bench.rings[0].began
    assert began is not None
    bench.gap(at=began - 1)
    await trio.sleep(3 * COLLECT)
    assert not bench.bundles()
    bench.gap(at=began + M5.ms)
    await until_saved(bench)


async def test_a_longer_timeframe_and_a_symbol_of_nobody_are_no_incidents(
    bench: Bench, fast_clock: MockClock
):
    hour = bench.clock() // 3_600_000 * 3_600_000
    for one in (series("BTC-USD", Timeframe.H1), series("XRP-USD")):
        bench.recorder.report(Incident(Kind.CORRECTION, one, hour, hour, "REST says otherwise"))
    await trio.sleep(3 * COLLECT)
    assert not bench.bundles()


async def test_a_lost_connection_is_waited_for_but_not_for_ever(
    bench: Bench, fast_clock: MockClock
):
    bench.trackers[0].lost()
    bench.gap()
    await trio.sleep(PATIENCE / 2)
    assert not bench.bundles()
    bench.trackers[0].connected(trio.current_time())
    back = trio.current_time()
    bench.trackers[0].acknowledged(["BTC-USD"], back)
    await until_saved(bench)
    steps = list(bench.bundles()[0].steps())
    assert [step.what for step in steps if step.what in ("lost", "connected")][-2:] == [
        "lost", "connected",
    ]  # fmt: skip
    assert steps[-1].at >= back + COLLECT
    await trio.sleep(QUIET)
    bench.trackers[0].lost()
    bench.gap()
    await until_saved(bench, 2)


async def test_a_correction_tells_what_was_held_and_what_rest_said(
    bench: Bench, fast_clock: MockClock
):
    open_time = bench.clock() // M5.ms * M5.ms - M5.ms
    held = Candle(series("BTC-USD"), open_time, 1.0, 2.0, 1.0, 2.0, 3.0)
    said = attrs.evolve(held, close=1.5)
    bench.stored = [said]
    bench.recorder.report(
        Incident(
            Kind.CORRECTION, held.series, open_time, open_time, "REST says otherwise",
            [held], [said],
        )
    )  # fmt: skip
    await until_saved(bench)
    [bundle] = bench.bundles()
    for rows, candle in (
        (bundle.header.held, held), (bundle.header.said, said), (bundle.header.stored, said),
    ):  # fmt: skip
        assert rows is not None
        assert [row.candle("coinbase", M5) for row in rows] == [candle]


async def test_a_store_that_is_away_is_said_to_be(bench: Bench, fast_clock: MockClock):
    bench.stored = None
    bench.gap()
    await until_saved(bench)
    [bundle] = bench.bundles()
    assert bundle.header.stored is None


async def test_a_directory_that_cannot_be_written_is_told_and_survived(
    bench: Bench, fast_clock: MockClock
):
    bench.directory.write_text("in the way")
    bench.gap()
    await until(lambda: bench.said)
    assert bench.said[0][0] == "an incident could not be saved"
    bench.directory.unlink()
    bench.gap(kind=Kind.MISMATCH)
    await until_saved(bench)


async def test_finished_segments_are_packed_and_take_little(bench: Bench, fast_clock: MockClock):
    await trio.sleep(10 * SEGMENT)
    [*closed, newest] = bench.rings[0]._closed
    assert all(one.packed is not None and not one.entries for one in closed)
    assert all(one.size < 3_000 for one in closed)
    assert msgspec.json.decode(msgspec.json.encode(newest.began)) == newest.began


# -- what repairs call an incident ------------------------------------------------------------


@pytest.fixture
def reported() -> tuple[Repairs, list[Incident]]:
    found: list[Incident] = []
    nobody: Any = None
    repairs = Repairs(
        COINBASE, nobody, nobody, nobody, nobody, {symbol: symbol for symbol in SYMBOLS},
        clock=lambda: T0 + M5.ms, say=lambda *_: None, progressed=lambda: None,
        chance=lambda: 0.5, incident=found.append,
    )  # fmt: skip
    return repairs, found


def test_slots_that_are_given_up_are_an_incident_once(reported: tuple[Repairs, list[Incident]]):
    repairs, found = reported
    slots = [Missing(series("BTC-USD"), T0 - n * M5.ms, "frames were lost") for n in (0, 1)]
    repairs.missing(slots)
    repairs.missing(slots)
    assert [(one.kind, one.first, one.last, one.cause) for one in found] == [
        (Kind.GAP, T0 - M5.ms, T0, "frames were lost")
    ]


def test_history_that_was_never_fetched_is_no_incident(reported: tuple[Repairs, list[Incident]]):
    repairs, found = reported
    repairs.missing([Missing(series("BTC-USD"), T0, HISTORY)])
    assert repairs.open_gaps
    assert not found


def test_of_what_is_suspect_only_a_contradiction_is_an_incident(
    reported: tuple[Repairs, list[Incident]],
):
    repairs, found = reported
    repairs.suspects(
        Suspect(series("BTC-USD"), T0 + n * M5.ms, cause)
        for n, cause in enumerate(("read before it settled", DIFFERS, "connected in the middle"))
    )
    assert [(one.kind, one.first) for one in found] == [(Kind.MISMATCH, T0 + M5.ms)]
