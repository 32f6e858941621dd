"""The daemon ends and another one goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from livermore.adapters import store
from livermore.adapters.redis import Client
from livermore.market.gap import Gap, Lane, encode_gap
from livermore.market.timeframe import Timeframe
from tests.simulator.whole_daemon import (
    EXCHANGE,
    agree,
    check_announcements,
    exchange,
    listening,
    now_of,
    running,
    stored,
)

pytestmark = pytest.mark.timeout(90)


async def test_a_restart_asks_only_for_what_happened_meanwhile_and_announces_nothing_twice(
    valkey_url: str, tmp_path: Path
):
    with trio.fail_after(80), listening(valkey_url) as heard:
        async with exchange(symbols=4) as simulator:
            async with running(simulator, valkey_url, tmp_path) as daemon:
                await daemon.whole()
                await trio.sleep(4)
                await agree(valkey_url, simulator, daemon.symbols)
                symbols = list(daemon.symbols)
            asked = simulator.stats.rest_requests
            await trio.sleep(6)  # a slot ends unseen
            assert simulator.stats.rest_requests == asked
            begun = now_of(simulator)
            async with running(simulator, valkey_url, tmp_path) as daemon:
                await daemon.whole()
                whole_at = now_of(simulator)
                candles = sum(
                    count
                    for path, count in simulator.stats.paths.items()
                    if path.endswith("/candles")
                )
                assert candles
                # Time and products, and a page per series that lacks something; no history anew.
                slots = (whole_at - begun) // Timeframe.M5.ms + 3
                assert simulator.stats.rest_requests - asked <= 2 + len(symbols) * (5 + 3 * slots)
                await trio.sleep(4)
                await agree(valkey_url, simulator, symbols)
            assert simulator.stats.rest_429 == 0

    def audit(client: Client) -> int:
        return check_announcements(client, heard, symbols, in_order=False)

    assert await stored(valkey_url, audit) > 0
    told = [
        json.dumps({name: value for name, value in reading.items() if name != "epoch"})
        for reading in heard.of("indicator:")
    ]
    assert told
    assert len(told) == len(set(told)), "a reading was announced twice"


async def test_a_restart_at_once_asks_for_no_candles_at_all(valkey_url: str, tmp_path: Path):
    with trio.fail_after(80):
        async with exchange(symbols=4, speed=1.0) as simulator:
            async with running(simulator, valkey_url, tmp_path) as daemon:
                await daemon.whole()
                # Deeper history, and what was read before it had settled.
                repairs = daemon.feed.report.repairs
                assert repairs is not None
                await daemon.until(lambda: not repairs.open_gaps)
                assert repairs.progress.total == 15
            asked = simulator.stats.rest_requests
            async with running(simulator, valkey_url, tmp_path) as daemon:
                await daemon.whole()
                assert daemon.feed.report.readings is not None
                assert daemon.feed.report.readings.work.replayed == 0
                await trio.sleep(1)
                assert simulator.stats.rest_requests == asked + 2


async def test_a_ledger_left_open_does_not_leave_the_history_unfinished(
    valkey_url: str, tmp_path: Path
):
    """A daemon that ended in the middle of its history left its open ranges in the ledger."""
    with trio.fail_after(80):
        async with exchange(symbols=4, speed=1.0) as simulator:
            now = now_of(simulator)
            symbol = "BTC-USD"
            gaps: list[Gap] = []
            for series in store.all_series(EXCHANGE, symbol):
                ms = series.timeframe.ms
                last = series.timeframe.last_closed(now)
                gaps.append(
                    Gap(
                        series, last - 400 * ms, last, "history", now, Lane.REPAIR,
                        attempts=1, next_try=now,
                    )
                )  # fmt: skip

            def leave(client: Client) -> None:
                for gap in gaps:
                    client.one("HSET", store.gaps_key(EXCHANGE), gap.name, encode_gap(gap))

            await stored(valkey_url, leave)
            async with running(
                simulator, valkey_url, tmp_path, top=None, symbols=(symbol,)
            ) as daemon:
                await daemon.until(lambda: daemon.feeds and daemon.feed.history_whole)
                counts = await stored(valkey_url, lambda client: [
                    client.one("ZCARD", store.keys(one).candles)
                    for one in store.all_series(EXCHANGE, symbol)
                ])  # fmt: skip
                assert min(counts) > 250, "the history was said to be whole before it was"
                await daemon.whole()
                await agree(valkey_url, simulator, daemon.symbols)
