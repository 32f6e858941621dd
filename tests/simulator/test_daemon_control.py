"""An operator and daemons on one Redis: what runs is changed while it runs, and survives a kill."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from livermore import daemon as daemon_module
from livermore.adapters.redis import Client, Redis
from livermore.config import Own, Settings
from livermore.control import Answer, memory, send
from livermore.control.announcing import network_log
from livermore.control.registry import read_instances
from livermore.errors import CommandRefused, NotRunning, TakenError
from livermore.simulator import Simulator
from tests.integration.command_line import Livermore
from tests.simulator.test_daemon_process import simulator as simulator_process
from tests.simulator.test_daemon_process import started
from tests.simulator.whole_daemon import EXCHANGE, Daemon, agree, exchange, limited, stored

RATE = 10
SPEED = 6.0
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def clock() -> MockClock:
    return MockClock(rate=RATE)


@contextlib.asynccontextmanager
async def idle(
    simulator: Simulator, url: str, directory: Path, **settings: Any
) -> AsyncIterator[Daemon]:
    """A daemon that connects to nothing until it is told to."""
    where = Own(
        symbols=("BTC-USD", "ETH-USD"),
        rest_url=simulator.rest_url,
        websocket_url=simulator.websocket_url,
    )
    told: dict[str, Any] = {
        "state_dir": directory, "idle": True, "redis_url": url, "own": {EXCHANGE: where},
    }  # fmt: skip
    given = Settings(**{**told, **settings})
    async with trio.open_nursery() as nursery:
        running = await nursery.start(daemon_module.serve, given, lambda: given)
        yield Daemon(running.redis_url, simulator, running.feeds)
        nursery.cancel_scope.cancel()


async def ctl(
    url: str, kind: str, payload: Any = None, name: str = EXCHANGE, **more: Any
) -> Answer:
    def work(client: Client) -> Answer:
        return send(client, name, kind, payload, **{"timeout": 40.0, **more})

    found: Answer = await stored(url, work)
    return found


async def events(url: str) -> list[str]:
    rows = await stored(url, lambda c: c.run([("XRANGE", network_log(EXCHANGE), "-", "+")])[0])
    return [fields[b"event"].split(b'"')[3].decode() for _, fields in rows]


async def test_an_idle_daemon_is_started_paused_changed_and_stopped(
    clock: MockClock, valkey_url: str, tmp_path: Path
):
    async with limited(120 * RATE), exchange(symbols=8, speed=SPEED) as simulator:
        async with idle(simulator, valkey_url, tmp_path) as daemon:
            [seen] = await stored(valkey_url, read_instances)
            assert seen.instance.exchanges == ()
            assert simulator.stats.rest_requests == simulator.stats.connections == 0
            with pytest.raises(CommandRefused, match="coinbase is idle, so pause is not possible"):
                await ctl(valkey_url, "pause")

            assert (await ctl(valkey_url, "start")).text in ("warming", "active")
            await daemon.whole()
            with pytest.raises(CommandRefused, match=r"coinbase is (active|warming) already"):
                await ctl(valkey_url, "start")

            told: list[str] = []
            added = await ctl(
                valkey_url, "add-symbol", {"symbols": ["SOL-USD", "XRP-USD"]},
                heard=lambda text, data: told.append(text),
            )  # fmt: skip
            assert added.data == {"symbols": ["SOL-USD", "XRP-USD"]}
            assert told[0] == "new: SOL-USD, XRP-USD"
            with pytest.raises(CommandRefused, match="NOPE-USD"):
                await ctl(valkey_url, "add-symbol", {"symbols": ["DOGE-USD", "NOPE-USD"]})
            assert "DOGE-USD" not in daemon.symbols, "all or nothing"

            assert (await ctl(valkey_url, "pause")).text == "paused"
            await daemon.until(lambda: simulator.stats.connections == 0)
            await trio.sleep(700 / SPEED)  # two closes and more that nobody hears
            assert daemon.told()[0] == "paused"
            assert (await ctl(valkey_url, "status")).data["condition"] == "paused"
            assert (await ctl(valkey_url, "resume")).text in ("warming", "active")
            await daemon.whole()
            await daemon.until(lambda: not daemon.feed.report.repairs.open_gaps)  # type: ignore[union-attr]
            await agree(valkey_url, simulator, daemon.symbols)

            filled = await ctl(valkey_url, "force-backfill", {"symbols": ["BTC-USD"]})
            assert filled.data["remaining"] == 0
            cleared = await ctl(valkey_url, "clear-cache", {"symbols": ["ETH-USD"]})
            assert cleared.data == {"symbols": ["ETH-USD"]}
            await agree(valkey_url, simulator, daemon.symbols)
            removed = await ctl(valkey_url, "remove-symbol", {"symbols": ["SOL-USD"]})
            assert removed.data == {"new": [], "gone": ["SOL-USD"]}
            with pytest.raises(CommandRefused, match="scalper-orderbook is not available"):
                await ctl(valkey_url, "switch-mode", {"mode": "scalper-orderbook"})
            assert (await ctl(valkey_url, "reload-settings")).text == "the symbols stay as they are"

            assert (await ctl(valkey_url, "stop")).text == "stopped"
            assert simulator.stats.connections == 0
            keys = await stored(valkey_url, lambda c: c.run([("EXISTS", "lease:coinbase")])[0])
            assert keys == 0
            [seen] = await stored(valkey_url, read_instances)
            assert [one.state for one in seen.instance.exchanges] == ["idle"]
        said = await events(valkey_url)
    assert said[0] == "exchange:connecting"
    assert said[-2:] == ["exchange:disconnecting", "exchange:disconnected"]
    assert "exchange:paused" in said


async def test_of_two_daemons_the_one_that_follows_it_hears_and_the_other_takes_over(
    clock: MockClock, valkey_url: str, tmp_path: Path
):
    async with (
        limited(120 * RATE),
        exchange(symbols=8, speed=SPEED) as simulator,
        idle(simulator, valkey_url, tmp_path / "a") as one,
        idle(simulator, valkey_url, tmp_path / "b") as other,
    ):
        first = await ctl(valkey_url, "start")
        follows, waits = (one, other) if one.feeds else (other, one)
        await follows.whole()
        assert not waits.feeds
        assert (await ctl(valkey_url, "status")).instance == first.instance
        assert (await ctl(valkey_url, "stop")).instance == first.instance
        second = await ctl(valkey_url, "start")
        assert second.instance in {
            seen.instance.id for seen in await stored(valkey_url, read_instances)
        }


async def test_what_another_daemon_holds_is_not_started(
    clock: MockClock, valkey_url: str, tmp_path: Path
):
    async with (
        limited(80 * RATE),
        exchange(symbols=8, speed=SPEED) as simulator,
        idle(simulator, valkey_url, tmp_path) as daemon,
    ):
        held = ("holder", "x", "epoch", "1", "description", '{"pid": 7, "host": "elsewhere"}')
        await stored(valkey_url, lambda c: c.run([("HSET", "lease:coinbase", *held)]))
        with pytest.raises(CommandRefused, match="held by process 7 on elsewhere") as caught:
            await ctl(valkey_url, "start")
        assert not isinstance(caught.value, TakenError)
        assert not daemon.feeds


async def test_a_start_that_does_not_come_on_can_be_stopped(
    clock: MockClock, valkey_url: str, tmp_path: Path
):
    """The exchange cannot be reached: the feed waits from try to try."""
    async with limited(80 * RATE), exchange(symbols=8, speed=SPEED) as simulator:
        nowhere = Own(rest_url="http://127.0.0.1:9", websocket_url="ws://127.0.0.1:9")
        async with idle(simulator, valkey_url, tmp_path, own={EXCHANGE: nowhere}):
            told: list[str] = []
            ended: list[str] = []

            async def start() -> None:
                try:
                    await ctl(valkey_url, "start", heard=lambda text, data: told.append(text))
                except CommandRefused as error:
                    ended.append(str(error))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(start)
                while not any("cannot reach" in text for text in told):  # noqa: ASYNC110
                    await trio.sleep(RATE * 0.05)
                assert (await ctl(valkey_url, "stop")).text == "stopped"
            assert ended == ["coinbase was stopped meanwhile"]


async def test_who_was_ended_by_a_failure_comes_back_to_what_he_was_told(
    valkey_url: str, tmp_path: Path
):
    """Killed while it was paused, it is started again before its own lease has lapsed."""
    place = memory.place_of(tmp_path)
    held = ("holder", "x", "epoch", "1", "description", '{"pid": 7, "host": "elsewhere"}')
    await stored(valkey_url, lambda c: c.run([("HSET", "lease:coinbase", *held)]))
    redis = Redis(valkey_url)
    try:
        await memory.remember(redis, EXCHANGE, place, memory.PAUSED)
        settings = Settings(state_dir=tmp_path, exchanges=(EXCHANGE,), redis_url=valkey_url)
        with trio.fail_after(30), pytest.raises(BaseExceptionGroup) as caught:
            await daemon_module.serve(settings)
        assert caught.group_contains(TakenError)
        assert await memory.recall(redis, [EXCHANGE], place) == {EXCHANGE: memory.PAUSED}
    finally:
        redis.close()


# -- killed at any moment ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    with simulator_process() as found:
        yield found


def test_killed_at_any_moment_it_comes_back_to_what_it_was_told(
    urls: dict[str, str], valkey_url: str, tmp_path: Path
):
    """Idle process, commands, SIGKILL at a random moment, the same command line again."""
    livermore = Livermore(tmp_path, "")
    chance = random.Random(7)
    where = {
        "LIVERMORE_REST_URL": f"coinbase={urls['rest']}",
        "LIVERMORE_WEBSOCKET_URL": f"coinbase={urls['websocket']}",
    }
    words = ("run", "--idle", "--top", "2", "--redis-url", valkey_url)
    client = Client(valkey_url)

    def state() -> tuple[str, int]:
        for seen in read_instances(client):
            if seen.instance.pid == process.popen.pid:
                for one in seen.instance.exchanges:
                    return one.state, one.symbols
                return "idle", 0
        return "", 0

    def until(wanted: set[str], symbols: int | None = None) -> None:
        deadline = time.monotonic() + 60
        while state()[0] not in wanted or symbols not in (None, state()[1]):
            assert time.monotonic() < deadline, (state(), wanted, process.lines)
            time.sleep(0.05)

    def tell(kind: str, **payload: Any) -> None:
        send(client, EXCHANGE, kind, payload, timeout=60)

    wanted, symbols = {"idle"}, 0
    for commands, then, count in (
        ([("start", {}), ("add-symbol", {"symbols": ["SOL-USD"]})], {"warming", "active"}, 3),
        ([("pause", {})], {"paused"}, 3),
        ([("stop", {})], {"idle"}, 0),
    ):
        with started(livermore.start(*words, **where)) as process:
            until(wanted, symbols)
            for kind, payload in commands:
                tell(kind, **payload)
            time.sleep(chance.random())
            process.popen.send_signal(signal.SIGKILL)
            process.popen.wait(10)
        wanted, symbols = then, count
    with started(livermore.start(*words, **where)) as process:
        until(wanted, symbols)
        tell("start")
        process.stops()
    with started(livermore.start(*words, **where)) as process:
        until({"idle"})  # it ended by itself, and starts with what it is told then
        process.stops()
    with pytest.raises(NotRunning):
        tell("status")
    client.close()
