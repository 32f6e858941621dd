"""Redis goes away and comes back, with its data or without: nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from livermore.adapters import store
from livermore.adapters.redis import Client
from tests.servers import RedisServer
from tests.simulator.whole_daemon import (
    EXCHANGE,
    Daemon,
    agree,
    exchange,
    lines,
    listening,
    running,
    stored,
)

pytestmark = pytest.mark.timeout(90)


async def off(server: RedisServer, seconds: float) -> None:
    """The server is not there for a while."""
    await trio.to_thread.run_sync(server.stop)
    await trio.sleep(seconds)
    await trio.to_thread.run_sync(server.start)


async def fenced(url: str, daemon: Daemon) -> None:
    """Until every series refuses whoever held the lease before."""

    def epochs(client: Client) -> set[bytes | None]:
        series = [one for s in daemon.symbols for one in store.all_series(EXCHANGE, s)]
        return {client.one("HGET", store.keys(one).companion, "epoch") for one in series}

    with trio.fail_after(20):
        while await stored(url, epochs) != {b"%d" % daemon.feed.report.epoch}:  # noqa: ASYNC110
            await trio.sleep(0.1)


def is_back(daemon: Daemon) -> bool:
    writer = daemon.feed.report.writer
    return writer is not None and writer.turns.away_since is None


async def test_redis_comes_back_with_its_data(own_valkey: RedisServer, tmp_path: Path, caplog: Any):
    caplog.set_level("INFO")
    with trio.fail_after(80), listening(own_valkey.url) as heard:
        async with exchange(symbols=4) as simulator:
            async with running(simulator, own_valkey.url, tmp_path) as daemon:
                await daemon.whole()
                await trio.to_thread.run_sync(own_valkey.stop)
                await daemon.until(lambda: daemon.told()[0] == "blind")
                assert "closed candles wait in memory" in daemon.told()[1]
                await daemon.until(lambda: "Redis is away" in caplog.text)
                simulator.inject(fault="drop")  # what happens meanwhile is said afterwards
                writer = daemon.feed.report.writer
                assert writer is not None
                await daemon.until(lambda: writer.waiting() >= 3)  # a slot of each symbol
                await trio.to_thread.run_sync(own_valkey.start)
                await daemon.until(lambda: is_back(daemon))
                await daemon.whole()
                await trio.sleep(3)
                await agree(own_valkey.url, simulator, daemon.symbols)
                symbols = list(daemon.symbols)
                assert simulator.stats.connections_total == 2
                assert len(lines(caplog, "Redis is away")) == 1
                assert len(lines(caplog, "Redis is back")) == 1
            assert simulator.stats.rest_429 == 0
    # Who listened from the start did not hear what was said before it listened again.
    told = heard.events()
    assert "connection coinbase/1 lost" in told, told
    assert "Redis is away" in told
    assert symbols


async def test_the_sockets_are_held_while_redis_is_away(own_valkey: RedisServer, tmp_path: Path):
    with trio.fail_after(80):
        async with (
            exchange(symbols=4) as simulator,
            running(simulator, own_valkey.url, tmp_path) as daemon,
        ):
            await daemon.whole()
            frames = daemon.feed.report.healths[0].frames
            await trio.to_thread.run_sync(own_valkey.pause)  # it accepts and says nothing
            await trio.sleep(5)
            assert daemon.feed.report.healths[0].frames > frames + 100
            await trio.to_thread.run_sync(own_valkey.resume)
            await daemon.until(lambda: is_back(daemon))
            await trio.sleep(2)
            await agree(own_valkey.url, simulator, daemon.symbols)
            assert simulator.stats.connections_total == 1
            assert daemon.feed.report.healths[0].reconnects == 0


async def test_redis_comes_back_empty(own_valkey: RedisServer, tmp_path: Path):
    with trio.fail_after(80):
        async with (
            exchange(symbols=4) as simulator,
            running(simulator, own_valkey.url, tmp_path) as daemon,
        ):
            await daemon.whole()
            await trio.to_thread.run_sync(own_valkey.stop)
            for file in own_valkey.directory.rglob("*.aof*"):
                if file.is_file():
                    file.unlink()
            for file in own_valkey.directory.rglob("*.manifest"):
                file.unlink()
            await trio.sleep(3)
            with_epoch = daemon.feed.report.epoch
            await trio.to_thread.run_sync(own_valkey.start)
            with listening(own_valkey.url) as heard:
                await daemon.until(lambda: is_back(daemon))
                await trio.sleep(2)
                await agree(own_valkey.url, simulator, daemon.symbols, within=40)
                await daemon.whole()
                symbols = list(daemon.symbols)
                await daemon.until(lambda: daemon.feed.report.epoch > with_epoch)  # at a renewal
                await fenced(own_valkey.url, daemon)
            assert simulator.stats.connections_total == 1
    assert heard.of("candle:close")

    def lease_is_gone(client: Client) -> bool:
        return not client.one("EXISTS", "lease:coinbase")

    assert await stored(own_valkey.url, lease_is_gone)
    assert symbols


async def test_redis_is_emptied_while_the_daemon_runs(own_valkey: RedisServer, tmp_path: Path):
    with trio.fail_after(80):
        async with (
            exchange(symbols=4) as simulator,
            running(simulator, own_valkey.url, tmp_path) as daemon,
        ):
            await daemon.whole()
            await trio.to_thread.run_sync(own_valkey.clean)
            await trio.sleep(2)
            await agree(own_valkey.url, simulator, daemon.symbols, within=40)
            assert simulator.stats.connections_total == 1


async def test_what_was_noted_as_asked_for_after_redis_was_emptied_is_asked_for_again(
    own_valkey: RedisServer, tmp_path: Path
):
    """A page of history was on its way: it was stored before, and noted after."""
    with trio.fail_after(80):
        async with (
            exchange(symbols=2) as simulator,
            running(simulator, own_valkey.url, tmp_path, top=2) as daemon,
        ):
            await daemon.whole()
            await trio.to_thread.run_sync(own_valkey.clean)
            notes = [
                ("HSET", store.keys(one).companion, "asked_from", "0")
                for symbol in daemon.symbols
                for one in store.all_series(EXCHANGE, symbol)
            ]
            await stored(own_valkey.url, lambda client: client.run(notes))
            await trio.sleep(2)
            await agree(own_valkey.url, simulator, daemon.symbols, within=40)
