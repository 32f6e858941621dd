"""The exchange misbehaves, then stops it: the store is the truth again, and somebody was told.

The clock of these runs is ten times as fast as ours, and the exchange's six times as fast as that:
a wait of half a minute takes three seconds, and an exchange's minute takes one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from livermore.adapters import store
from livermore.adapters.redis import Client
from livermore.market.timeframe import Timeframe
from tests.simulator.whole_daemon import (
    EXCHANGE,
    START,
    Daemon,
    agree,
    check_announcements,
    exchange,
    ledger,
    listening,
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


async def exchange_seconds(daemon: Daemon, seconds: float) -> None:
    await trio.sleep(seconds / SPEED)


async def boundary(daemon: Daemon, before: float) -> None:
    """Until so many seconds of the exchange before the next end of a five-minute slot."""
    left = M5 - now_of(daemon.simulator) % M5
    await exchange_seconds(daemon, max(0.0, left / 1000 - before))


async def published_status(url: str) -> dict[str, Any]:
    text = await stored(url, lambda client: client.one("GET", store.status_key(EXCHANGE)))
    found: dict[str, Any] = json.loads(text)
    return found


async def audit(url: str, heard: Any, symbols: list[str]) -> None:
    def work(client: Client) -> None:
        check_announcements(client, heard, symbols, in_order=False)
        assert all(gap["outcome"] != "unfillable" for gap in ledger(client))

    await stored(url, work)


@pytest.mark.parametrize(
    ("code", "moments"),
    [(0, (100.0, 2.0)), (1001, (0.0,))],  # within a slot, across its end; at its end
    ids=["reset", "close frame"],
)
async def test_dropped_sockets_leave_no_trace_in_the_store(
    valkey_url: str, tmp_path: Path, fast_clock: Any, code: int, moments: tuple[float, ...]
):
    with trio.fail_after(60 * RATE), listening(valkey_url) as heard:
        async with exchange(symbols=4, speed=SPEED) as simulator:
            async with running(simulator, valkey_url, tmp_path) as daemon:
                await daemon.whole()
                for before in moments:
                    await boundary(daemon, before)
                    simulator.inject(fault="drop", code=code)
                    await daemon.until(lambda: daemon.told()[0] == "blind")
                    assert "no data for 3 of 3 symbols: the exchange closed" in daemon.told()[1]
                    assert simulator.stats.connections == 0
                    await daemon.whole()
                    assert simulator.stats.connections == 1
                await exchange_seconds(daemon, 365)
                await agree(valkey_url, simulator, daemon.symbols)
                symbols = list(daemon.symbols)
                assert daemon.feed.report.healths[0].reconnects == len(moments)
            assert simulator.stats.connections_total == 1 + len(moments)
    await audit(valkey_url, heard, symbols)


async def test_an_exchange_that_refuses_is_asked_by_one_chain_of_tries(
    valkey_url: str, tmp_path: Path, fast_clock: Any, caplog: Any
):
    with trio.fail_after(60 * RATE), listening(valkey_url) as heard:
        async with exchange(symbols=4, speed=SPEED) as simulator:
            async with running(simulator, valkey_url, tmp_path) as daemon:
                await daemon.whole()
                simulator.inject(fault="refuse", status=503, **{"for": 360.0})
                simulator.inject(fault="drop")
                await daemon.until(lambda: simulator.stats.refused >= 3)
                shown = await published_status(valkey_url)
                assert shown["state"] == "blind"
                assert "no data for 3 of 3 symbols" in shown["note"]
                assert "503" in shown["note"]
                assert "reconnecting" in shown["note"]
                assert "\n" not in shown["note"]
                await daemon.whole()
                # 60 s of ours: tries after 1, 2, 4, 8, 16 and 32 s, each a quarter off at most.
                assert 4 <= simulator.stats.refused <= 8
                assert simulator.stats.connections == 1
                assert simulator.stats.connections_total == 2
                await exchange_seconds(daemon, 120)
                await agree(valkey_url, simulator, daemon.symbols)
                symbols = list(daemon.symbols)
            gaps = await stored(valkey_url, ledger)
            told = [gap for gap in gaps if gap["cause"] not in ("history", "deeper history")]
            assert told, "the slots that ended meanwhile are in the ledger"
            assert {gap["outcome"] for gap in told} == {"filled"}
    await audit(valkey_url, heard, symbols)


async def test_a_socket_that_falls_silent_after_its_acknowledgements_is_replaced(
    valkey_url: str, tmp_path: Path, fast_clock: Any
):
    with trio.fail_after(60 * RATE), listening(valkey_url) as heard:
        async with (
            exchange(symbols=4, speed=SPEED) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole()
            simulator.inject(fault="ack-then-mute", **{"for": 300.0})
            await daemon.until(lambda: daemon.told()[0] == "blind")
            said = daemon.told()[1]  # whoever notices first
            assert "no frame for 30 s" in said or "that did not arrive" in said
            await daemon.whole()
            await exchange_seconds(daemon, 120)
            await agree(valkey_url, simulator, daemon.symbols)
            symbols = list(daemon.symbols)
    await audit(valkey_url, heard, symbols)


@pytest.mark.parametrize("retry_after", [None, 2], ids=["untold", "retry after"])
async def test_a_429_stops_everyone_for_as_long_as_it_says(
    valkey_url: str, tmp_path: Path, fast_clock: Any, retry_after: int | None
):
    with trio.fail_after(60 * RATE), listening(valkey_url) as heard:
        async with (
            exchange(symbols=4, speed=SPEED) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.until(lambda: EXCHANGE in daemon.feeds and daemon.feed.history[0] >= 3)
            simulator.inject(fault="429", retry_after=retry_after, **{"for": 100.0})
            await daemon.until(lambda: simulator.stats.rest_429)
            # Those that were under way when it came.
            refused, asked = simulator.stats.rest_429, simulator.stats.rest_requests
            await trio.to_thread.run_sync(time.sleep, 0.9)  # bans count by the clock of Redis
            assert simulator.stats.rest_requests <= asked + 5
            assert simulator.stats.rest_429 <= refused + 5
            await daemon.whole()
            assert daemon.feed.report.budget is not None
            assert daemon.feed.report.budget.refusals >= 1
            await exchange_seconds(daemon, 120)
            await agree(valkey_url, simulator, daemon.symbols)
            symbols = list(daemon.symbols)
    await audit(valkey_url, heard, symbols)


async def test_a_429_while_a_gap_is_open_is_told_with_the_gap(
    valkey_url: str, tmp_path: Path, fast_clock: Any
):
    with trio.fail_after(60 * RATE):
        async with (
            exchange(symbols=4, speed=SPEED) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole()
            await boundary(daemon, 20.0)
            simulator.inject(fault="429", retry_after=1, **{"for": 200.0})
            simulator.inject(fault="refuse", **{"for": 60.0})
            simulator.inject(fault="drop")
            await daemon.until(
                lambda: "429" in daemon.told()[1] and "gaps since" in daemon.told()[1]
            )
            assert daemon.told()[0] == "live"
            await daemon.until(lambda: not daemon.feed.report.repairs.open_gaps)  # type: ignore[union-attr]
            await agree(valkey_url, simulator, daemon.symbols)


def test_the_runs_begin_shortly_before_midnight():
    assert 0 < (START + 400_000) % Timeframe.D1.ms < 400_000
