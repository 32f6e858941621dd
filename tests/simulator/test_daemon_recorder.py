"""What was not right leaves a bundle, and its replay is what happened.

The clock of these runs is ten times as fast as ours, and the exchange's six times as fast as that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from livermore.adapters import incidents
from livermore.cli import main
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Missing
from livermore.runtime.repairs import Repairs
from tests.simulator.whole_daemon import (
    Daemon,
    agree,
    exchange,
    ledger,
    lines,
    now_of,
    running,
    stored,
)

M5 = Timeframe.M5.ms
RATE = 10.0
SPEED = 6.0

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def fast_clock() -> trio.testing.MockClock:
    """Ten seconds of Trio in one of ours; no autojump, so that threads work."""
    return trio.testing.MockClock(rate=RATE)


@pytest.fixture
def told_missing(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int, str]]:
    """What the trackers of a daemon give up: symbol, open time, cause."""
    found: set[tuple[str, int, str]] = set()
    before = Repairs.missing

    def missing(self: Repairs, slots: Iterable[Missing]) -> None:
        slots = list(slots)
        found.update((one.series.symbol, one.open_time, one.cause) for one in slots)
        before(self, slots)

    monkeypatch.setattr(Repairs, "missing", missing)
    return found


def replayed_missing(found: dict[str, Any]) -> set[tuple[str, int, str]]:
    return {(one["symbol"], one["open_time"], one["cause"]) for one in found["missing"]}


async def boundary(daemon: Daemon, before: float) -> None:
    """Until so many seconds of the exchange before the next end of a five-minute slot."""
    left = M5 - now_of(daemon.simulator) % M5
    await trio.sleep(max(0.0, left / 1000 - before) / SPEED)


def bundles(directory: Path, kind: str) -> list[Path]:
    found = incidents.listing(directory / "state" / incidents.DIRECTORY)
    return [path for path in found if incidents.Bundle(path).header.kind == kind]


async def bundle(daemon: Daemon, directory: Path, kind: str) -> Path:
    await daemon.until(lambda: bundles(directory, kind))
    [path] = bundles(directory, kind)
    return path


def replayed(path: Path, capsys: Any) -> dict[str, Any]:
    """The replay; the same twice over."""
    capsys.readouterr()
    said = []
    for _ in range(2):
        assert main(["replay", str(path), "--json"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    found: dict[str, Any] = json.loads(said[0])
    assert found["whole"]
    assert found["as_recorded"]
    assert found["compared_states"] >= 1
    assert not found["began_without_state"]
    assert not found["failures"]
    return found


async def test_a_lost_connection_leaves_one_bundle_that_replays_what_went_missing(
    valkey_url: str, tmp_path: Path, fast_clock: Any, caplog: Any, capsys: Any,
    told_missing: set[tuple[str, int, str]],
):  # fmt: skip
    caplog.set_level("INFO", "livermore")
    with trio.fail_after(60 * RATE):
        async with (
            exchange(symbols=4, speed=SPEED) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole()
            await boundary(daemon, -20.0)  # a slot that is heard from its start on
            await boundary(daemon, 100.0)
            simulator.inject(fault="refuse", status=503, **{"for": 460.0})
            simulator.inject(fault="drop")
            path = await bundle(daemon, tmp_path, "gap")
            await agree(valkey_url, simulator, daemon.symbols)
            told = await stored(valkey_url, ledger)
            symbols = set(daemon.symbols)
        found = replayed(path, capsys)
    gaps = [gap for gap in told if gap["timeframe"] == "5m" and gap["cause"] != "history"]
    lost = {(gap["symbol"], t) for gap in gaps for t in range(gap["first"], gap["last"] + 1, M5)}
    affected = {(one["symbol"], one["open_time"]): one for one in found["affected"]}
    assert affected.keys() <= lost
    # who trades little may be whole: what is sent at the subscription reaches back over the outage
    gone = {symbol for symbol, _ in affected}
    assert {"BTC-USD"} <= gone <= symbols
    again = replayed_missing(found)
    assert again
    assert again == {one for one in told_missing if one[:2] in {key[:2] for key in again}}
    assert {key[:2] for key in again} <= lost
    [line] = lines(caplog, "incident saved")
    fields = vars(line)["fields"]
    assert fields["file"] == path.name
    assert fields["cause"] == found["cause"]
    assert fields["symbols"] == len(gone)


async def test_frames_that_were_lost_replay_to_the_same_gaps(
    valkey_url: str, tmp_path: Path, fast_clock: Any, capsys: Any,
    told_missing: set[tuple[str, int, str]],
):  # fmt: skip
    with trio.fail_after(60 * RATE):
        async with (
            exchange(symbols=4, speed=SPEED) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole()
            await boundary(daemon, -20.0)
            await boundary(daemon, 120.0)
            channels = ["market_trades", "candles"]
            simulator.inject(fault="lose", share=0.7, channels=channels, **{"for": 200.0})
            path = await bundle(daemon, tmp_path, "gap")
            await agree(valkey_url, simulator, daemon.symbols)
        found = replayed(path, capsys)
    assert [one for one in found["affected"] if one["missing"]]
    again = replayed_missing(found)
    assert again == {one for one in told_missing if one[:2] in {key[:2] for key in again}}


async def test_what_rest_corrects_is_beside_what_the_stream_said(
    valkey_url: str, tmp_path: Path, fast_clock: Any, capsys: Any
):
    with trio.fail_after(60 * RATE):
        async with (
            exchange(symbols=4, speed=SPEED) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole()
            await boundary(daemon, -20.0)
            await boundary(daemon, 100.0)
            simulator.inject(fault="stream-differs", **{"for": 90.0})
            path = await bundle(daemon, tmp_path, "correction")
        found = replayed(path, capsys)
    compared = [one for one in found["affected"] if one["replayed"]]
    assert compared
    for one in compared:
        assert one["agrees"]["held"], "the replay closes it as the stream did"
        assert not one["agrees"]["said"], "and that is not what REST says"


async def test_without_the_recorder_nothing_is_kept(
    valkey_url: str, tmp_path: Path, fast_clock: Any
):
    with trio.fail_after(60 * RATE):
        async with (
            exchange(symbols=4, speed=SPEED) as simulator,
            running(simulator, valkey_url, tmp_path, recorder=0) as daemon,
        ):
            await daemon.whole()
            await boundary(daemon, -20.0)
            await boundary(daemon, 30.0)
            simulator.inject(fault="refuse", status=503, **{"for": 60.0})
            simulator.inject(fault="drop")
            await daemon.until(lambda: daemon.feed.report.repairs.open_gaps)  # type: ignore[union-attr]
            await trio.sleep(10)
            assert not (tmp_path / "state" / incidents.DIRECTORY).exists()
