"""What the stream told wrongly is corrected by comparing it with REST; a poor REST spoils nothing.

The clock of these runs is thirty times as fast as ours, and the exchange's is the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from livermore.adapters import store
from livermore.adapters.redis import Client
from livermore.market.candle import Candle, Evidence, Series
from livermore.market.timeframe import Timeframe
from tests.simulator.whole_daemon import (
    EXCHANGE,
    Daemon,
    agree,
    check_announcements,
    exchange,
    listening,
    now_of,
    running,
    stored,
)

M5 = Timeframe.M5
RATE = 30.0
pytestmark = pytest.mark.timeout(110)


@pytest.fixture
def fast_clock() -> trio.testing.MockClock:
    """Thirty seconds of Trio in one of ours; no autojump, so that threads work."""
    return trio.testing.MockClock(rate=RATE)


async def candles(url: str, symbol: str, exchange: str = EXCHANGE) -> list[Candle]:
    series = Series(exchange, symbol, M5)

    def work(client: Client) -> list[Candle]:
        return store.decode_candles(series, client.one(*store.newest_call(series, 300)))[0]

    found: list[Candle] = await stored(url, work)
    return found


async def until(daemon: Daemon, moment: int) -> None:
    """Until this moment of the exchange (ms)."""
    await trio.sleep(max(0, moment - now_of(daemon.simulator)) / 1000)


async def audit(url: str, heard: Any, symbols: list[str]) -> None:
    """Everything was announced, once per revision."""
    await stored(url, lambda client: check_announcements(client, heard, symbols, in_order=False))


async def test_what_the_stream_tells_wrongly_is_corrected_and_announced_once(
    valkey_url: str, tmp_path: Path, fast_clock: Any, caplog: Any
):
    caplog.set_level("INFO", "livermore")
    with trio.fail_after(100 * RATE), listening(valkey_url) as heard:
        async with exchange(symbols=4, speed=1.0) as simulator:
            async with running(simulator, valkey_url, tmp_path) as daemon:
                await daemon.whole()
                wrong, late, thin = symbols = list(daemon.symbols)
                slot = M5.ceil(now_of(simulator))
                await until(daemon, slot)
                simulator.inject(fault="stream-differs", symbol=wrong, **{"for": 320.0})
                simulator.inject(fault="late-correction", symbol=late, **{"for": 320.0})
                simulator.inject(fault="sparse-rest", symbol=thin, share=0.3, **{"for": 900.0})
                await until(daemon, slot + 2 * M5.ms + 330_000)
                await agree(valkey_url, simulator, symbols, within=30.0)
                verification = daemon.feed.report.verification
                assert verification is not None
                assert verification.figures.compared.corrected >= 1
                [held] = [c for c in await candles(valkey_url, wrong) if c.open_time == slot]
                assert (held.revision, held.evidence) == (1, Evidence.REST)
                for one in await candles(valkey_url, wrong):
                    if one.close_time < slot + 2 * M5.ms:
                        assert one.evidence is Evidence.REST, one
            told = [m for m in heard.of(f"candle:correct:{wrong}:5m") if m["open_time"] == slot]
            assert [message["revision"] for message in told] == [1]
            assert "REST corrected what was stored" in heard.events()
    await audit(valkey_url, heard, symbols)


async def test_a_rest_that_is_minutes_behind_spoils_nothing_that_is_stored(
    valkey_url: str, tmp_path: Path, fast_clock: Any
):
    with trio.fail_after(100 * RATE), listening(valkey_url) as heard:
        async with (
            exchange(symbols=4, speed=1.0) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole()
            symbols = list(daemon.symbols)
            slot = M5.ceil(now_of(simulator))
            await until(daemon, slot - 120_000)
            simulator.inject(fault="stale-rest", seconds=200.0, **{"for": 700.0})
            await until(daemon, slot + 2 * M5.ms + 30_000)
            verification = daemon.feed.report.verification
            assert verification is not None
            assert verification.figures.compared.undecided, "it was asked, and not believed"
            await until(daemon, slot + 3 * M5.ms + 60_000)
            await agree(valkey_url, simulator, symbols, within=30.0)
            for symbol in symbols:
                for one in await candles(valkey_url, symbol):
                    if one.close_time != slot:  # that one was joined in the middle
                        assert one.revision == 0, one
    await audit(valkey_url, heard, symbols)


async def test_what_a_killed_daemon_took_from_a_rest_that_was_behind_is_compared_by_the_next(
    valkey_url: str, tmp_path: Path, fast_clock: Any
):
    """Half a candle, from a reply 45 s after its end: who was to look again is gone.

    Binance: what Coinbase says when it is joined tells of such a candle by itself.
    """
    with trio.fail_after(100 * RATE), listening(valkey_url, "binance") as heard:
        async with exchange(exchange="binance", symbols=4, speed=1.0) as simulator:
            async with running(simulator, valkey_url, tmp_path) as daemon:
                await daemon.whole()
                symbols = daemon.symbols
                # The last whose turn it is: in three and a half minutes.
                *_, series = (one for one in daemon.feed.newest if one.timeframe is M5)

            def halve(client: Client) -> Candle:
                key = store.keys(series).candles
                members = client.one(*store.newest_call(series, 3))
                newest, member = next(
                    (one, member)
                    for member in reversed(members)
                    if (one := store.decode_candle(series, member)).volume
                )
                early = {
                    **json.loads(member),
                    "volume": newest.volume / 2,
                    "evidence": Evidence.REST.label,
                    "as_of": newest.close_time + 45_000,
                }
                client.one("ZREM", key, member)
                client.one("ZADD", key, newest.open_time, json.dumps(early, separators=(",", ":")))
                return newest

            newest: Candle = await stored(valkey_url, halve)
            async with running(simulator, valkey_url, tmp_path) as daemon:
                begun = now_of(simulator)
                await daemon.whole()
                due = max(begun, newest.close_time + 120_000)
                await until(daemon, due + 60_000)
                held = {
                    one.open_time: one
                    for one in await candles(valkey_url, series.symbol, "binance")
                }
                assert held[newest.open_time].volume == newest.volume
                await agree(valkey_url, simulator, symbols, within=30.0)
                told = [
                    message["volume"]
                    for message in heard.of(f"candle:correct:{series.symbol}:5m")
                    if message["open_time"] == newest.open_time
                ]
                assert told == [newest.volume]
