"""Nothing is collected for a while because a person wants it so: afterwards nothing is missing.

An exchange's minute takes one of our seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from livermore.adapters import store
from livermore.adapters.http import DEADLINE
from livermore.adapters.redis import Client, Redis
from livermore.adapters.urls import websocket_address
from livermore.errors import NotRunning
from livermore.exchanges import dialect as dialect_of
from livermore.market.product import Change, Followed, Product
from livermore.market.timeframe import Timeframe
from livermore.runtime.feed import Feed, Plan
from tests.simulator.test_daemon_symbols import M5, keys_of, until_slot
from tests.simulator.whole_daemon import (
    EXCHANGE,
    Daemon,
    agree,
    check_announcements,
    exchange,
    lines,
    listening,
    running,
    stored,
)

SPEED = 60.0
LIMIT = 80
pytestmark = pytest.mark.timeout(90)


def status(exchange: str, client: Client) -> Any:
    return json.loads(client.one("GET", store.status_key(exchange)))


@pytest.mark.parametrize("name", ["coinbase", "binance"])
async def test_what_closed_in_a_pause_is_repaired_and_told_once_in_order(
    valkey_url: str, tmp_path: Path, name: str, caplog: Any
):
    with trio.fail_after(LIMIT), listening(valkey_url, name) as heard:
        async with (
            exchange(exchange=name, speed=SPEED, symbols=4) as simulator,
            running(simulator, valkey_url, tmp_path, top=3) as daemon,
        ):
            await daemon.whole()
            feed = daemon.feed
            await until_slot(daemon, 200)
            assert feed.phase == "active"
            for _ in range(2):
                feed.pause()
                assert feed.phase == "paused"
            await daemon.until(lambda: simulator.stats.connections == 0)
            await trio.sleep(DEADLINE + 1)  # what was on its way has arrived
            asked, newest = simulator.stats.rest_requests, dict(feed.newest)
            await until_slot(daemon, 230)
            told = await stored(valkey_url, partial(status, name))
            assert (told["state"], told["missing"]) == ("paused", "nothing is collected")
            await until_slot(daemon, 230)
            assert simulator.stats.connections == 0
            assert (simulator.stats.rest_requests, feed.newest) == (asked, newest)
            lease = await stored(valkey_url, lambda client: client.one("PTTL", f"lease:{name}"))
            assert lease > 0
            for _ in range(2):
                feed.resume()
                assert feed.phase in ("active", "warming")
            await daemon.whole()
            await until_slot(daemon, -20)
            await agree(valkey_url, simulator, daemon.symbols)
            assert [one.error for one in feed.report.healths if one.reconnects] == []
            symbols = [*daemon.symbols]
    assert not lines(caplog, "blind")
    events = heard.events()
    assert (events.count("paused"), events.count("resumed")) == (1, 1)

    def audit(client: Client) -> None:
        assert check_announcements(client, heard, symbols, in_order=False) > 3 * 4

    for series, end in newest.items():
        if series.timeframe is Timeframe.M5:
            told = [
                one["open_time"] for one in heard.of(f"candle:close:{series.symbol}:5m")
                if end <= one["open_time"] < end + 2 * M5
            ]  # fmt: skip
            assert told == [end, end + M5], "those of the pause"
    await stored(valkey_url, audit)


async def test_a_feed_that_starts_paused_and_follows_nothing_is_led_by_commands(valkey_url: str):
    def choose(listed: Sequence[Product]) -> Sequence[Followed]:
        return []

    with trio.fail_after(LIMIT):
        async with exchange(speed=SPEED, symbols=4) as simulator:
            dialect, redis = dialect_of(EXCHANGE), Redis(valkey_url)
            plan = Plan(
                dialect=dialect, websocket_url=websocket_address(dialect, simulator.websocket_url),
                rest_url=simulator.rest_url, symbols=None, top=3, choose=choose, paused=True,
                holder="us", description={},
            )  # fmt: skip
            feed = Feed(plan, redis, lambda: 0.5)
            daemon = Daemon(valkey_url, simulator, {EXCHANGE: feed})
            assert feed.phase == "paused"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed.run)
                listed = {one.symbol: one for one in await feed.relist()}
                both = [Followed(listed[symbol]) for symbol in ("BTC-USD", "ETH-USD")]
                change = await feed.follow(both)
                assert change == Change(tuple(both), ())
                await trio.sleep(3)
                assert simulator.stats.connections_total == 0
                assert feed.phase == "paused"
                feed.resume()
                assert await feed.next_phase("paused") == "warming"
                await feed.whole(["BTC-USD", "ETH-USD"])
                assert feed.phase == "active"
                await daemon.whole()
                await agree(valkey_url, simulator, ["BTC-USD", "ETH-USD"])
                assert simulator.stats.connections_total == 1
                assert await feed.follow([]) == Change((), tuple(both))
                await daemon.until(lambda: simulator.stats.connections == 0)
                left = await stored(valkey_url, lambda client: keys_of(client, EXCHANGE, "BTC-USD"))
                assert left == []
                await trio.sleep(M5 / 1000 / SPEED)
                assert (feed.phase, daemon.told()[0]) == ("active", "live")
                await feed.follow(both[:1])
                await daemon.until(lambda: simulator.stats.connections == 1)
                await daemon.whole()
                nursery.cancel_scope.cancel()
            with pytest.raises(NotRunning):
                await feed.follow(both)
            redis.close()
