"""Another program's value lies at a key of ours: it costs what that key is for, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from livermore import daemon
from livermore.adapters import store
from livermore.adapters.redis import Client
from livermore.config import Settings
from livermore.errors import StoreUnusable, exit_code
from livermore.market.candle import Series
from livermore.market.timeframe import Timeframe
from livermore.runtime.supervise import first_of
from livermore.simulator import Simulator
from tests.simulator.whole_daemon import (
    EXCHANGE,
    Daemon,
    agree,
    exchange,
    lines,
    now_of,
    running,
    stored,
)

pytestmark = pytest.mark.timeout(90)

BTC, ETH = "BTC-USD", "ETH-USD"
FOLLOWED: dict[str, Any] = {"top": None, "symbols": (BTC, ETH)}
CANDLES = store.keys(Series(EXCHANGE, BTC, Timeframe.M5)).candles
COMPANION = store.keys(Series(EXCHANGE, BTC, Timeframe.M15)).companion
INDICATOR = store.keys(Series(EXCHANGE, BTC, Timeframe.H1)).indicator


async def occupy(url: str, *keys: str) -> None:
    """Somebody else's program writes a value of its own: a list, or a string over what is there."""

    def write(client: Client) -> None:
        for key in keys:
            client.one("DEL", key)
            client.one(*(("EVAL", "return redis.call('LPUSH', KEYS[1], 'x')", 1, key)
                         if key == INDICATOR else ("SET", key, "x")))  # fmt: skip

    await stored(url, write)


async def free(url: str, *keys: str) -> None:
    await stored(url, lambda client: [client.one("DEL", key) for key in keys])


async def reading_of(url: str, key: str) -> None:
    """Wait until there is one."""
    while not await stored(url, lambda client: client.one("EXISTS", key)):  # noqa: ASYNC110
        await trio.sleep(0.1)


def warned(caplog: Any) -> list[str]:
    """The keys that were warned of, in the order of their names."""
    return sorted(record.__dict__["fields"]["key"] for record in lines(caplog, "another type"))


def live(feed: Daemon) -> bool:
    return feed.told()[0] == "live"


async def others_agree(url: str, simulator: Simulator, blocked: tuple[str, ...]) -> None:
    """Wait until all but the series of ``blocked`` has newest candles and readings."""
    series = [
        one
        for symbol in (BTC, ETH)
        for one in store.all_series(EXCHANGE, symbol)
        if not set(attrs.astuple(store.keys(one))) & set(blocked)
    ]
    assert len(series) == 10 - len(blocked)
    wanted = now_of(simulator)

    def behind(client: Client) -> list[Series]:
        found = []
        for one in series:
            newest, _ = store.decode_candles(one, client.one(*store.newest_call(one, 1)))
            text = client.one("GET", store.keys(one).indicator)
            late = not newest or newest[0].close_time <= wanted - one.timeframe.ms
            if late or text is None or b'{"open_time":%d,' % newest[0].open_time not in text:
                found.append(one)
        return found

    with trio.fail_after(20):
        while await stored(url, behind):  # noqa: ASYNC110 - what others do, seen from outside
            await trio.sleep(0.2)


async def test_a_key_of_somebody_else_costs_its_series_and_heals_when_it_is_gone(
    valkey_url: str, tmp_path: Path, caplog: Any
):
    caplog.set_level("INFO")
    keys = (CANDLES, COMPANION, INDICATOR)
    await occupy(valkey_url, *keys)
    with trio.fail_after(80):
        async with (
            exchange(symbols=4) as simulator,
            running(simulator, valkey_url, tmp_path, **FOLLOWED) as feed,
        ):
            await feed.until(lambda: feed.feeds and live(feed))
            await trio.sleep(6)
            await agree(valkey_url, simulator, [ETH])
            await others_agree(valkey_url, simulator, keys)
            assert live(feed)
            note = feed.told()[1]
            assert any(key in note for key in keys), note
            assert "rename or delete" in note
            assert "\n" not in note
            assert warned(caplog) == sorted(keys)
            await free(valkey_url, *keys)
            await agree(valkey_url, simulator, [BTC, ETH], within=30)
            await feed.until(lambda: feed.told() == ("live", ""))
    assert not lines(caplog, "Redis is away")
    assert warned(caplog) == sorted(keys), "each is said once"


async def test_a_key_taken_over_while_we_run_is_told_once_and_filled_again_when_it_is_gone(
    valkey_url: str, tmp_path: Path, caplog: Any
):
    caplog.set_level("INFO")
    keys = (CANDLES, COMPANION, INDICATOR)
    with trio.fail_after(80):
        async with (
            exchange(symbols=4) as simulator,
            running(simulator, valkey_url, tmp_path, **FOLLOWED) as feed,
        ):
            await feed.whole()
            await occupy(valkey_url, *keys[:2])
            await feed.until(lambda: warned(caplog) == sorted(keys[:2]))
            await feed.until(lambda: "rename or delete" in feed.told()[1])
            await trio.sleep(3)
            await agree(valkey_url, simulator, [ETH])
            await others_agree(valkey_url, simulator, keys[:2])
            await free(valkey_url, *keys[:2])
            await agree(valkey_url, simulator, [BTC, ETH], within=30)
            await feed.until(lambda: feed.told() == ("live", ""))
    assert not lines(caplog, "Redis is away")
    assert warned(caplog) == sorted(keys[:2])


async def test_a_budget_and_a_ledger_of_somebody_else_wait_and_the_stream_goes_on(
    valkey_url: str, tmp_path: Path, caplog: Any
):
    caplog.set_level("INFO")
    keys = (store.budget_key(EXCHANGE), store.gaps_key(EXCHANGE))
    await occupy(valkey_url, *keys)
    with trio.fail_after(80):
        async with (
            exchange(symbols=4) as simulator,
            running(simulator, valkey_url, tmp_path, **FOLLOWED) as feed,
        ):
            await feed.until(lambda: feed.feeds and feed.feed.report.writer)
            writer = feed.feed.report.writer
            assert writer is not None
            await feed.until(lambda: writer.turns.closes >= 4)
            assert all(health.state.value == "live" for health in feed.feed.report.healths)
            assert keys[0] in feed.told()[1]
            assert warned(caplog) == sorted(keys)
            await free(valkey_url, keys[0])
            await feed.until(lambda: feed.feed.history_whole, within=40)
            await feed.until(lambda: keys[1] in feed.told()[1] and live(feed))
            await free(valkey_url, keys[1])
            await feed.until(lambda: feed.told() == ("live", ""))
            await agree(valkey_url, simulator, [BTC, ETH])
            # What could not be written into the ledger is written now.
            while await stored(valkey_url, lambda client: client.one("HLEN", keys[1])) < 10:  # noqa: ASYNC110
                await trio.sleep(0.1)
    assert not lines(caplog, "Redis is away")
    assert warned(caplog) == sorted(keys)


async def test_a_series_that_has_its_key_back_is_read_again_without_a_request(
    valkey_url: str, tmp_path: Path
):
    day = store.keys(Series(EXCHANGE, BTC, Timeframe.D1))
    budget = store.budget_key(EXCHANGE)
    with trio.fail_after(60):
        async with exchange(symbols=4, speed=1.0) as simulator:
            async with running(simulator, valkey_url, tmp_path, **FOLLOWED) as feed:
                await feed.until(lambda: feed.feeds and feed.feed.history_whole)
            await occupy(valkey_url, day.companion, budget)
            await free(valkey_url, day.indicator)
            async with running(simulator, valkey_url, tmp_path, **FOLLOWED) as feed:
                await feed.until(lambda: feed.feeds and live(feed))
                assert set(feed.feed.report.foreign) == {day.companion, budget}
                await free(valkey_url, day.companion)
                await reading_of(valkey_url, day.indicator)
                await feed.until(lambda: set(feed.feed.report.foreign) == {budget})


async def test_a_lease_of_somebody_else_ends_the_run_with_the_next_step(
    valkey_url: str, tmp_path: Path
):
    key = store.lease_key(EXCHANGE)
    await occupy(valkey_url, key)
    settings = Settings(
        state_dir=tmp_path / "state", exchanges=(EXCHANGE,), top=1, redis_url=valkey_url,
        rest_url="http://127.0.0.1:9", websocket_url="ws://127.0.0.1:9",
    )  # fmt: skip
    with trio.fail_after(10), pytest.raises(BaseExceptionGroup) as caught:
        await daemon.serve(settings)
    error = first_of(caught.value)
    assert isinstance(error, StoreUnusable)
    assert exit_code(error) == 4
    assert key in str(error)
    assert "rename or delete it" in str(error)
    assert "\n" not in str(error)


async def test_a_lease_that_is_taken_over_by_a_stranger_ends_the_run(
    valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("livermore.runtime.lease.RENEW", 0.3)
    key = store.lease_key(EXCHANGE)
    with trio.fail_after(40):
        with pytest.raises(BaseExceptionGroup) as caught:
            async with (
                exchange(symbols=4) as simulator,
                running(simulator, valkey_url, tmp_path, **FOLLOWED) as feed,
            ):
                await feed.whole()
                await occupy(valkey_url, key)
                await trio.sleep_forever()
        error = first_of(caught.value)
        assert isinstance(error, StoreUnusable)
        assert key in str(error)
