"""Symbols change while the daemon runs: those that stay lose no candle and are told once of each.

The clock is ten times as fast as ours, the exchange's six times as fast as that.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from livermore import daemon
from livermore.adapters.redis import Client
from livermore.config import Settings
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
    stored,
)

RATE = 10.0
SPEED = 6.0
M5 = Timeframe.M5.ms
pytestmark = pytest.mark.timeout(90)

STAYED = ("BTC-USD",)
MOMENTS = (
    (("BTC-USD", "ETH-USD", "SOL-USD"), 100.0),  # in the middle of a slot
    (("BTC-USD", "SOL-USD"), 1.0),  # just before its end
    (("SOL-USD", "BTC-USD", "ETH-USD"), -1.0),  # just after
)
"""What is followed from when on: seconds of the exchange before the end of a slot."""


@pytest.fixture
def fast_clock() -> trio.testing.MockClock:
    """Ten seconds of Trio in one of ours; no autojump, so that threads work."""
    return trio.testing.MockClock(rate=RATE)


async def test_symbols_that_stay_lose_no_candle_and_hear_of_none_twice(
    valkey_url: str, tmp_path: Path, fast_clock: Any
):
    with trio.fail_after(80 * RATE), listening(valkey_url) as heard:
        async with exchange(speed=SPEED, symbols=4, start=START) as simulator:
            settings = Settings(
                state_dir=tmp_path, exchanges=(EXCHANGE,), symbols=("BTC-USD", "ETH-USD"),
                redis_url=valkey_url, rest_url=simulator.rest_url,
                websocket_url=simulator.websocket_url,
            )  # fmt: skip
            async with trio.open_nursery() as nursery:
                started: daemon.Running = await nursery.start(daemon.serve, settings)
                assert isinstance(started.feeds, dict)
                running = Daemon(valkey_url, simulator, started.feeds)
                await running.whole()
                for names, before in MOMENTS:
                    feed = running.feed
                    left = (M5 - now_of(simulator) % M5) / 1000
                    await trio.sleep(max(0.0, left - before) / SPEED)
                    fresh = attrs.evolve(settings, symbols=names)
                    settings = await daemon.reload(settings, partial(attrs.evolve, fresh), started)
                    await running.whole()
                    assert set(running.symbols) == set(names)
                    assert running.feed is feed, "those that stay are not disturbed"
                await trio.sleep(M5 / 1000 / SPEED)
                result = await agree(valkey_url, simulator, running.symbols)
                assert result["slots"] > 0
                nursery.cancel_scope.cancel()

        def audit(client: Client) -> None:
            assert check_announcements(client, heard, STAYED, in_order=False) > 3 * len(STAYED)
            assert all(gap["outcome"] != "unfillable" for gap in ledger(client))

        await stored(valkey_url, audit)
