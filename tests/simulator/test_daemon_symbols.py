"""What is followed changes while the feed runs: what stays hears of nothing, what goes is gone.

An exchange's minute takes one of our seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from livermore import daemon as daemon_module
from livermore.adapters import outbox, store
from livermore.adapters.redis import Client, Redis
from livermore.config import Settings
from livermore.market.candle import Series
from livermore.market.product import Change, Followed
from livermore.market.timeframe import Timeframe, iso
from livermore.market.tracker import JOINED
from livermore.runtime.connection import State
from livermore.runtime.feed import Feed
from livermore.simulator import Simulator
from tests.servers import RedisServer
from tests.simulator.whole_daemon import (
    EXCHANGE,
    Daemon,
    agree,
    check_announcements,
    exchange,
    ledger,
    lines,
    listening,
    now_of,
    stored,
)

SPEED = 60.0
LIMIT = 80
M5 = Timeframe.M5.ms
BREAKS = {
    "no connection", "the connection was lost when it ended", "frames were lost", JOINED,
}  # fmt: skip
pytestmark = pytest.mark.timeout(90)


@contextlib.asynccontextmanager
async def feeding(
    simulator: Simulator, url: str, directory: Path, top: int
) -> AsyncIterator[Daemon]:
    """A feed that nobody but the test leads; as the daemon runs it, in all else."""
    settings = Settings(
        state_dir=directory, exchanges=(simulator.exchange.name,), redis_url=url, top=top,
        rest_url=simulator.rest_url, websocket_url=simulator.websocket_url,
    )  # fmt: skip
    [plan] = daemon_module.plans(settings)
    redis = Redis(url)
    feed = Feed(plan, redis, lambda: 0.5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        yield Daemon(url, simulator, {simulator.exchange.name: feed})
        nursery.cancel_scope.cancel()
    redis.close()


def followed(daemon: Daemon, symbols: Sequence[str], owner: str = "") -> list[Followed]:
    """Of what the exchange lists."""
    listed = {product.symbol: product for product in daemon.feed.listed}
    return [Followed(listed[symbol], owner) for symbol in symbols]


async def until_slot(daemon: Daemon, before: float) -> None:
    """Wait until so many seconds of the exchange before the end of a slot."""
    left = (M5 - now_of(daemon.simulator) % M5) / 1000 - before
    await trio.sleep((left if left > 0 else left + M5 / 1000) / SPEED)


async def undisturbed_from(daemon: Daemon, caplog: Any) -> str:
    """Once a slot runs that is whole so far: its open time."""
    caplog.set_level("INFO")
    await daemon.whole()
    await until_slot(daemon, -30)
    return iso(Timeframe.M5.floor(now_of(daemon.simulator)))


def disturbed(caplog: Any, since: str) -> set[str]:
    """Symbols with a slot that a break in their delivery spoiled; a busy machine does not."""
    fields = [vars(one)["fields"] for one in lines(caplog, "gaps found")]
    broken = [one for one in fields if one["cause"] in BREAKS and one["first"] >= since]
    return {one["series"].split()[0] for one in broken}


def delivered(daemon: Daemon) -> set[str]:
    """Symbols that the connections promise to deliver."""
    moment = trio.current_time()
    return {s.symbol for one in daemon.feed.report.trackers for s in one.silences(moment)}


def keys_of(client: Client, exchange: str, symbol: str, owner: str = "") -> list[str]:
    """What is stored of a symbol, however it is called."""
    wanted = [store.ticker_key(exchange, symbol)]
    for series in store.all_series(exchange, symbol, owner):
        wanted += store.types(series)
    found = [key for key in wanted if client.one("EXISTS", key)]
    found += [f"gap {gap['first']}" for gap in ledger(client, exchange) if gap["symbol"] == symbol]
    memories = client.one("HGETALL", outbox.rules_key(exchange))
    return found + [name.decode() for name in [*memories][::2] if name.startswith(symbol.encode())]


@pytest.mark.parametrize("name", ["coinbase", "binance"])
async def test_symbols_come_and_go_beside_others_that_hear_nothing_of_it(
    valkey_url: str, tmp_path: Path, name: str, caplog: Any
):
    with trio.fail_after(LIMIT), listening(valkey_url, name) as heard:
        async with (
            exchange(exchange=name, speed=SPEED, symbols=7) as simulator,
            feeding(simulator, valkey_url, tmp_path, top=3) as daemon,
        ):
            since = await undisturbed_from(daemon, caplog)
            feed = daemon.feed
            stays, leaves = [*feed.report.symbols[:2]], feed.report.symbols[2]
            listed = [one.symbol for one in feed.listed if one.tradable and not one.alias]
            joins = [s for s in listed if s not in feed.report.symbols][:3]
            assert len(joins) == 3
            opened = simulator.stats.connections_total
            told: list[tuple[int, int]] = []

            change = await feed.follow(followed(daemon, [*stays, leaves, *joins]))
            assert [one.symbol for one in change.new] == joins
            assert not change.gone
            await feed.whole(joins, lambda done, total: told.append((done, total)))
            assert told[-1] == (15, 15)
            assert feed.phase == "active"
            await daemon.until(lambda: delivered(daemon) == {*stays, leaves, *joins})

            await until_slot(daemon, -20)
            again = await feed.follow(followed(daemon, [*stays, *joins]))
            assert [one.symbol for one in again.gone] == [leaves]
            assert await stored(valkey_url, lambda client: keys_of(client, name, leaves)) == []
            await until_slot(daemon, -20)
            foreign = [tracker.counts.foreign for tracker in feed.report.trackers]
            await until_slot(daemon, -20)
            assert await stored(valkey_url, lambda client: keys_of(client, name, leaves)) == []
            assert [tracker.counts.foreign for tracker in feed.report.trackers] == foreign
            assert delivered(daemon) == {*stays, *joins}
            assert await feed.follow(followed(daemon, [*joins, *stays])) == Change()
            await agree(valkey_url, simulator, [*stays, *joins])
            assert simulator.stats.connections_total == opened
            assert [health.error for health in feed.report.healths if health.reconnects] == []
    assert not disturbed(caplog, since) & set(stays), "their slots were whole all the time"

    def audit(client: Client) -> None:
        assert check_announcements(client, heard, stays, in_order=False) >= 2 * 4
        assert check_announcements(client, heard, joins, in_order=False) >= 3 * 2

    await stored(valkey_url, audit)


async def test_a_change_waits_for_redis_and_is_subscribed_when_the_exchange_is_back(
    own_valkey: RedisServer, tmp_path: Path
):
    url = own_valkey.url
    with trio.fail_after(LIMIT):
        async with (
            exchange(speed=SPEED, symbols=7) as simulator,
            feeding(simulator, url, tmp_path, top=3) as daemon,
        ):
            await daemon.whole()
            feed, changes = daemon.feed, []
            stays, leaves = feed.report.symbols[0], [*feed.report.symbols[1:3]]
            listed = [one.symbol for one in feed.listed if one.tradable and not one.alias]
            first, second = [s for s in listed if s not in feed.report.symbols][:2]

            async def change(symbols: Sequence[str]) -> None:
                changes.append(await feed.follow(followed(daemon, symbols)))

            async with trio.open_nursery() as nursery:
                await trio.to_thread.run_sync(own_valkey.stop)
                nursery.start_soon(change, [stays, leaves[0], first])
                await daemon.until(lambda: daemon.told()[0] == "blind")
                nursery.start_soon(change, [stays, first, leaves[0], leaves[1]])
                await trio.sleep(0.1)
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await feed.follow(followed(daemon, [stays, first]))  # nobody waits for it
                await trio.sleep(3)
                assert not changes
                await trio.to_thread.run_sync(own_valkey.start)
            told = [([w.symbol for w in one.new], [w.symbol for w in one.gone]) for one in changes]
            assert told == [([first], [leaves[1]]), ([leaves[1]], [])]
            await daemon.until(lambda: feed.report.symbols == [stays, first])
            simulator.inject(fault="refuse", **{"for": 20.0})
            simulator.inject(fault="drop")
            await daemon.until(lambda: feed.report.healths[0].state is not State.LIVE)
            await feed.follow(followed(daemon, [second, stays]))
            assert feed.report.healths[0].state is not State.LIVE
            await daemon.whole()
            await until_slot(daemon, -20)
            await agree(url, simulator, [stays, second])
            for symbol in (*leaves, first):
                left = await stored(url, partial(keys_of, exchange=EXCHANGE, symbol=symbol))
                assert left == [], symbol


@pytest.mark.parametrize("name", ["coinbase", "binance"])
async def test_what_becomes_everybodys_has_no_gap_and_is_told_once(
    valkey_url: str, tmp_path: Path, name: str, caplog: Any
):
    with trio.fail_after(LIMIT), listening(valkey_url, name) as heard:
        async with (
            exchange(exchange=name, speed=SPEED, symbols=4) as simulator,
            feeding(simulator, valkey_url, tmp_path, top=2) as daemon,
        ):
            since = await undisturbed_from(daemon, caplog)
            feed = daemon.feed
            symbols = [*feed.report.symbols]
            moves = symbols[1]
            opened = simulator.stats.connections_total
            for owner, before in (("ann", 100.0), ("", 3.0), ("bob", -3.0), ("", 100.0)):
                await until_slot(daemon, before)
                held = feed.report.owners.get(moves, "")
                change = await feed.follow(
                    [*followed(daemon, symbols[:1]), *followed(daemon, [moves], owner)]
                )
                assert [one.owner for one in change.new] == [owner]
                assert [one.owner for one in change.gone] == [held]
                assert feed.report.owners == ({moves: owner} if owner else {})
                series = store.all_series(name, moves, held)
                await daemon.until(lambda: feed.phase == "active")
                await stored(valkey_url, partial(is_gone, series))
            await until_slot(daemon, -20)
            await agree(valkey_url, simulator, symbols)
            assert simulator.stats.connections_total == opened
    assert not disturbed(caplog, since)

    def audit(client: Client) -> None:
        assert check_announcements(client, heard, symbols, in_order=False) >= 2 * 4

    await stored(valkey_url, audit)


def is_gone(series: Sequence[Series], client: Client) -> None:
    for one in series:
        for key in store.types(one):
            assert not client.one("EXISTS", key), key
