"""Redis is there and does not serve: full, read-only, loading, slow, torn, evicting, failing over.

Through all of it the sockets stay open and somebody is told; afterwards the store is the truth, and
every candle was announced once. Trio's clock is ten times as fast as ours, and the exchange's
twelve times as fast as that: its five minutes take two and a half seconds.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import redis
import trio
import trio.testing

from livermore.adapters import store
from livermore.adapters.redis import DIGESTS, Client
from livermore.market.timeframe import Timeframe
from livermore.simulator import Simulator
from tests.proxy import Proxy
from tests.servers import Cluster, RedisServer, free_port
from tests.simulator.whole_daemon import (
    EXCHANGE,
    Daemon,
    Heard,
    agree,
    check_announcements,
    exchange,
    lines,
    listening,
    now_of,
    running,
    stored,
)

RATE = 10.0
SPEED = 12.0
M5, M15 = Timeframe.M5.ms, Timeframe.M15.ms

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def fast_clock() -> trio.testing.MockClock:
    """Ten seconds of Trio in one of ours; no autojump, so that threads work."""
    return trio.testing.MockClock(rate=RATE)


@attrs.define
class Run:
    """A daemon beside a simulated exchange, in trouble with its Redis."""

    server: RedisServer | None
    url: str
    daemon: Daemon
    simulator: Simulator
    heard: Heard
    frames: int = 0

    def is_back(self) -> bool:
        writer = self.daemon.feed.report.writer
        return writer is not None and writer.turns.away_since is None

    def waiting(self) -> int:
        writer = self.daemon.feed.report.writer
        assert writer is not None
        return writer.waiting()

    async def blind(self, text: str) -> None:
        """Until the daemon says that it is blind, and why."""
        await self.daemon.until(lambda: self.told("blind", text))
        self.frames = self.daemon.feed.report.healths[0].frames

    def told(self, state: str, text: str) -> bool:
        told = self.daemon.told()
        return told[0] == state and text in told[1]

    async def closes_wait(self) -> None:
        """Until a slot of every symbol has ended meanwhile, and the sockets were read as before."""
        health, symbols = self.daemon.feed.report.healths[0], self.daemon.symbols
        await self.daemon.until(
            lambda: self.waiting() >= len(symbols) and health.frames > self.frames + 50
        )

    async def boundary(self, before: float = 0.0) -> None:
        """Until so many seconds of the exchange before the next end of a five-minute slot."""
        left = M5 - now_of(self.simulator) % M5
        await trio.sleep(max(0.0, left / 1000 - before) / SPEED)

    async def in_the_server(self, work: Callable[[redis.Redis], object]) -> None:
        """Do something to the server itself."""
        assert self.server is not None
        server = self.server

        def run() -> None:
            with server.client() as client:
                work(client)

        await trio.to_thread.run_sync(run)

    async def heals(self) -> None:
        """The store becomes the truth, over the sockets there were."""
        await self.daemon.until(self.is_back)
        await self.daemon.whole()
        await agree(self.url, self.simulator, self.daemon.symbols)
        assert self.simulator.stats.connections_total == 1
        assert self.daemon.feed.report.healths[0].reconnects == 0


@contextlib.asynccontextmanager
async def in_trouble(
    server: RedisServer | None,
    directory: Path,
    *,
    url: str = "",
    through: str = "",
    once: bool = True,
) -> AsyncIterator[Run]:
    """A daemon with its history; at the end everything it announced is looked through.

    It reaches its Redis ``through`` another URL, where one is given. ``once`` is false where Redis
    lost what it had acknowledged.
    """
    url = url or (server.url if server else "")
    with trio.fail_after(60 * RATE), listening(url) as heard:
        async with exchange(symbols=3, speed=SPEED) as simulator:
            async with running(simulator, through or url, directory, top=2) as daemon:
                await daemon.whole()
                run = Run(server, url, daemon, simulator, heard)
                yield run
                symbols = list(daemon.symbols)
            assert simulator.stats.rest_429 == 0
    if once:
        await stored(url, lambda one: check_announcements(one, heard, symbols, in_order=False))


# -- a server that refuses what changes it -----------------------------------------------------


@attrs.frozen
class Trouble:
    """What is done to the server, how it is mended, and what the daemon is to say meanwhile."""

    begin: Callable[[RedisServer, redis.Redis], object]
    end: Callable[[RedisServer, redis.Redis], object]
    says: str


def cannot_save(server: RedisServer, client: redis.Redis) -> None:
    """A snapshot cannot be written where a directory has its name."""
    (server.directory / "dump.rdb" / "in the way").mkdir(parents=True)
    client.config_set("save", "3600 1")
    client.bgsave()


def can_save(server: RedisServer, client: redis.Redis) -> None:
    (server.directory / "dump.rdb" / "in the way").rmdir()
    (server.directory / "dump.rdb").rmdir()
    client.bgsave()


REFUSALS = {
    "full": Trouble(
        lambda _, client: client.config_set("maxmemory", 1),
        lambda _, client: client.config_set("maxmemory", 0),
        "is full",
    ),
    "read-only": Trouble(
        lambda _, client: client.replicaof("127.0.0.1", free_port()),
        lambda _, client: client.replicaof("NO", "ONE"),
        "read-only replica",
    ),
    "cannot save": Trouble(cannot_save, can_save, "cannot save to its disk"),
}


@pytest.mark.parametrize("trouble", REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_server_that_refuses_writes_holds_nothing_up_but_what_is_to_be_written(
    own_valkey: RedisServer, tmp_path: Path, fast_clock: Any, caplog: Any, trouble: Trouble
):
    caplog.set_level("INFO")
    async with in_trouble(own_valkey, tmp_path) as run:
        await run.in_the_server(lambda client: trouble.begin(own_valkey, client))
        await run.blind(trouble.says)
        await run.closes_wait()
        assert run.daemon.told()[0] == "blind"
        await run.in_the_server(lambda client: trouble.end(own_valkey, client))
        await run.heals()
        await run.daemon.until(lambda: lines(caplog, "Redis is back"))
    assert len(lines(caplog, "Redis is away")) == 1
    assert trouble.says in str(lines(caplog, "Redis is away")[0].__dict__)
    assert len(lines(caplog, "Redis is back")) == 1
    assert "Redis is away" in run.heard.events()


def rewritten(client: redis.Redis) -> None:
    """What the server holds is in one snapshot, which it answers beside while it loads it."""
    client.bgrewriteaof()
    while client.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.01)


async def test_a_server_that_loads_is_waited_for(
    own_valkey: RedisServer, tmp_path: Path, fast_clock: Any
):
    slowly = ("--key-load-delay", "30000", "--loading-process-events-interval-bytes", "1024")
    async with in_trouble(own_valkey, tmp_path) as run:
        await run.in_the_server(rewritten)
        await run.boundary(before=60)
        await trio.to_thread.run_sync(own_valkey.stop)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, own_valkey.start, *slowly)
            await run.blind("loading the dataset")
        await run.heals()


async def test_what_redis_acknowledged_and_lost_is_stored_again(
    own_valkey: RedisServer, tmp_path: Path, fast_clock: Any
):
    """It crashed, and what it has on its disk is of some minutes ago."""
    kept, old = own_valkey.directory / "appendonlydir", own_valkey.directory / "old"
    async with in_trouble(own_valkey, tmp_path, once=False) as run:
        shutil.copytree(kept, old)
        moment = now_of(run.simulator)
        closed = len(run.heard.of("candle:close"))
        await run.daemon.until(lambda: len(run.heard.of("candle:close")) >= closed + 4)
        await trio.to_thread.run_sync(own_valkey.kill)
        shutil.rmtree(kept)
        shutil.move(old, kept)
        await run.blind("")
        await trio.to_thread.run_sync(own_valkey.start)
        await run.heals()
    told = Counter(
        (one["symbol"], one["timeframe"], one["open_time"], one["revision"])
        for kind in ("candle:close", "candle:correct")
        for one in run.heard.of(kind)
    )
    again = {what for what, times in told.items() if times > 1}
    assert all(open_time > moment - 2 * M5 for _, tf, open_time, _ in again if tf == "5m")
    assert max(told.values()) <= 2


# -- a network that is slow, silent or torn ----------------------------------------------------

LANES = {
    "write": DIGESTS["candles"],
    "readings": DIGESTS["reading"],
    "lease": DIGESTS["lease"],
    "publish": store.status_key(EXCHANGE),
    "show": ":candle:update:",
    "read": DIGESTS["survey"],
}


@pytest.mark.parametrize(
    ("request_", "reply"), [(60, 0), (None, 0), (None, 7)], ids=["request", "no reply", "reply"]
)
async def test_a_connection_torn_in_the_middle_of_a_batch_costs_nothing_on_any_lane(
    own_valkey: RedisServer,
    proxy: Proxy,
    tmp_path: Path,
    fast_clock: Any,
    request_: int | None,
    reply: int,
):
    async with in_trouble(own_valkey, tmp_path, through=proxy.url) as run:
        cuts = {
            lane: proxy.cut(marker, request=request_, reply=reply) for lane, marker in LANES.items()
        }
        await run.daemon.until(lambda: all(cut.made.is_set() for cut in cuts.values()))
        await run.heals()
        await run.boundary()
        await run.heals()


async def test_answers_after_a_second_are_slow_and_nothing_else(
    own_valkey: RedisServer, proxy: Proxy, tmp_path: Path, fast_clock: Any, caplog: Any
):
    caplog.set_level("INFO")
    async with in_trouble(own_valkey, tmp_path, through=proxy.url) as run:
        proxy.delay = 1.0
        await run.daemon.until(lambda: run.told("live", "Redis needs 1.0 s for an answer"))
        closed = len(run.heard.of("candle:close"))
        await run.daemon.until(lambda: len(run.heard.of("candle:close")) >= closed + 2)
        await agree(own_valkey.url, run.simulator, run.daemon.symbols)
        proxy.delay = 0.0
        await run.daemon.until(lambda: run.daemon.told() == ("live", ""))
        await run.heals()
    assert not lines(caplog, "Redis is away")
    assert len(lines(caplog, "Redis is slow")) == 1


async def test_answers_that_come_too_late_are_asked_for_again(
    own_valkey: RedisServer, proxy: Proxy, tmp_path: Path, fast_clock: Any
):
    """Each write is run, and nobody hears so: three seconds are as long as is waited."""
    async with in_trouble(own_valkey, tmp_path, through=proxy.url) as run:
        proxy.delay = 3.4
        await run.blind("Timeout")
        await run.closes_wait()
        proxy.delay = 0.0
        await run.heals()


async def test_connections_killed_and_scripts_flushed_at_the_moment_of_a_close_are_no_outage(
    own_valkey: RedisServer, tmp_path: Path, fast_clock: Any, caplog: Any
):
    async with in_trouble(own_valkey, tmp_path) as run:

        def harass(client: redis.Redis) -> None:
            for _ in range(40):
                client.script_flush()
                client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
                time.sleep(0.02)

        closed = len(run.heard.of("candle:close"))
        await run.boundary(before=50)
        await run.in_the_server(harass)
        await run.heals()
        assert len(run.heard.of("candle:close")) > closed


# -- keys that vanish --------------------------------------------------------------------------


def drop_one_of_each(client: redis.Redis, keys: Sequence[store.Keys]) -> None:
    """Each kind of key alone, a pair, and all of one series."""
    client.delete(keys[0].candles, keys[1].companion, keys[2].indicator, keys[3].candles)
    client.delete(keys[4].indicator, keys[4].candles)
    client.delete(keys[8].candles, keys[8].companion, keys[8].indicator)


def evict_some(client: redis.Redis, _: Sequence[store.Keys]) -> None:
    """Whatever the server chooses when it is full."""
    evicted = client.info("stats")["evicted_keys"]
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 200_000)
    while client.info("stats")["evicted_keys"] < evicted + 4:
        client.set("more", "x" * 10_000)
    client.config_set("maxmemory", 0)
    client.delete("more")


@pytest.mark.parametrize("drop", [drop_one_of_each, evict_some])
async def test_keys_that_vanish_are_noticed_by_the_scan_and_filled_again(
    own_valkey: RedisServer,
    tmp_path: Path,
    fast_clock: Any,
    caplog: Any,
    drop: Callable[[redis.Redis, Sequence[store.Keys]], object],
):
    with own_valkey.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    async with in_trouble(own_valkey, tmp_path, once=False) as run:
        [warned] = lines(caplog, "Redis evicts candles when it is full")
        assert "noeviction" in str(warned.__dict__)
        series = [one for s in run.daemon.symbols for one in store.all_series(EXCHANGE, s)]
        keys = [store.keys(one) for one in series]
        # The next slots that end are of 5m only: what is longer is not written for a while.
        await run.daemon.until(lambda: 30_000 < now_of(run.simulator) % M15 < 240_000)
        await run.in_the_server(lambda client: drop(client, keys))
        await run.boundary()
        await run.heals()

        def companions(client: Client) -> None:
            for key in keys:
                fields = client.one("HMGET", key.companion, "epoch", "asked_from", "cursor")
                assert None not in fields, (key.companion, fields)
                assert int(fields[0]) == run.daemon.feed.report.epoch

        await stored(own_valkey.url, companions)


# -- clusters ----------------------------------------------------------------------------------


async def test_a_master_that_dies_is_followed_to_its_replica(
    replicated_cluster: Cluster, tmp_path: Path, fast_clock: Any
):
    """The daemon was told the address of the very node that dies."""
    urls = [f"redis+cluster://127.0.0.1:{node.port}" for node in replicated_cluster.nodes]
    async with in_trouble(None, tmp_path, url=urls[1], through=urls[0]) as run:
        await trio.to_thread.run_sync(replicated_cluster.nodes[0].kill)
        await run.daemon.until(lambda: run.daemon.told()[0] == "blind")
        await run.heals()
        await run.boundary()
        await run.heals()
