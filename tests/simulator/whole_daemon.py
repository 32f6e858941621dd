"""The whole daemon beside a simulated exchange, and what must be true of what it leaves behind."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import redis
import redis.cluster
import trio

from livermore import daemon
from livermore.adapters import store
from livermore.adapters.redis import Client
from livermore.config import Settings
from livermore.market.candle import Candle, Series, same_volume
from livermore.market.timeframe import TIMEFRAMES
from livermore.runtime.feed import Feed
from livermore.simulator import Simulator, SimulatorSettings
from livermore.simulator import serve as simulate
from livermore.simulator.trades import NS

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_truth.py"
EXCHANGE = "coinbase"
START = 1_750_000_000_000 - 1_750_000_000_000 % 86_400_000 + 23 * 3_600_000 + 57 * 60_000
"""Three minutes before midnight UTC: every timeframe closes within the first minutes."""


@contextlib.asynccontextmanager
async def limited(seconds: float = 80) -> AsyncIterator[None]:
    """Nothing waits for ever."""
    with trio.fail_after(seconds):
        yield


@contextlib.asynccontextmanager
async def exchange(**settings: Any) -> AsyncIterator[Simulator]:
    """A simulated exchange; ends with the block."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(
            simulate, SimulatorSettings(**{"speed": 60.0, "start": START, **settings})
        )
        nursery.cancel_scope.cancel()


@attrs.define
class Daemon:
    """A daemon that runs in this process."""

    url: str
    simulator: Simulator
    feeds: dict[str, Feed]
    metrics_url: str = ""

    @property
    def feed(self) -> Feed:
        return self.feeds[self.simulator.exchange.name]

    @property
    def symbols(self) -> Sequence[str]:
        return self.feed.report.symbols

    async def until(self, what: Callable[[], object], within: float = 25.0) -> None:
        """Wait until ``what`` holds; real seconds, whatever the clock."""
        deadline = time.monotonic() + within
        while not what():
            assert time.monotonic() < deadline, f"not within {within} s: {self.told()}"
            await trio.sleep(0.05)

    async def whole(self, within: float = 25.0) -> None:
        """Wait until the history is there and the stream is live."""
        await self.until(
            lambda: (
                self.simulator.exchange.name in self.feeds
                and self.feed.history_whole
                and self.told()[0] == "live"
                and all(health.state.value == "live" for health in self.feed.report.healths)
            ),
            within,
        )

    def told(self) -> tuple[str, str]:
        """State and note as status shows them."""
        if self.simulator.exchange.name not in self.feeds:
            return "", ""
        state, _, note = self.feed.report.state(self.feed.now())
        return state, note


@contextlib.asynccontextmanager
async def running(
    simulator: Simulator, url: str, directory: Path, **settings: Any
) -> AsyncIterator[Daemon]:
    """The daemon; cancelled at the end of the block, as a signal does it."""
    given = Settings(
        **{
            "state_dir": directory / "state",
            "exchanges": (simulator.exchange.name,),
            "top": 3,
            "redis_url": url,
            "rest_url": simulator.rest_url,
            "websocket_url": simulator.websocket_url,
            **settings,
        }
    )
    async with trio.open_nursery() as nursery:
        started: daemon.Running = await nursery.start(daemon.serve, given)
        assert isinstance(started.feeds, dict)
        yield Daemon(started.redis_url, simulator, started.feeds, started.metrics_url)
        nursery.cancel_scope.cancel()


async def stored(url: str, work: Callable[[Client], Any]) -> Any:
    """What ``work`` finds in the store, from a thread."""

    def run() -> Any:
        client = Client(url)
        try:
            return work(client)
        finally:
            client.close()

    return await trio.to_thread.run_sync(run)


def _script() -> Any:
    """``scripts/check_truth.py`` as a library: it is no module of a package."""
    spec = importlib.util.spec_from_file_location("check_truth", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = _script().check


def now_of(simulator: Simulator) -> int:
    """The exchange's true time in ms."""
    return simulator.clock.now() // NS


async def agree(
    url: str, simulator: Simulator, symbols: Sequence[str], within: float = 15.0
) -> dict[str, Any]:
    """Wait until the store equals the truth of this moment; what differs at last is shown.

    Half the time is for that; what was filled later begins later, and is compared as of then.
    """
    until = now_of(simulator)
    deadline = time.monotonic() + within
    while True:
        if time.monotonic() > deadline - within / 2:
            until = now_of(simulator)
        compare = partial(
            check,
            control=simulator.control_url,
            exchange=simulator.exchange.name,
            symbols=symbols,
            until=until,
        )
        result: dict[str, Any] = await stored(url, compare)
        if not result["wrong"]:
            return result
        assert time.monotonic() < deadline, (len(result["wrong"]), result["wrong"][:8])
        await trio.sleep(0.2)


def ledger(client: Client, exchange: str = EXCHANGE) -> list[dict[str, Any]]:
    """The gaps, open and ended."""
    fields = client.one("HGETALL", store.gaps_key(exchange))
    values = fields.values() if isinstance(fields, dict) else fields[1::2]
    return [json.loads(text) for text in values]


# -- what is heard ----------------------------------------------------------------------------


@attrs.define
class Heard:
    """Everything published for the exchange, in order."""

    messages: list[tuple[str, dict[str, Any]]] = attrs.Factory(list)
    exchange: str = EXCHANGE

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Messages of one kind of channel: ``candle:close``, ``lifecycle`` …"""
        prefix = f"channel:exchange:{self.exchange}:{kind}"
        return [message for channel, message in self.messages if channel.startswith(prefix)]

    def events(self) -> list[str]:
        """Names of the events on the lifecycle channel."""
        return [message["event"] for message in self.of("lifecycle")]


@contextlib.contextmanager
def listening(url: str, exchange: str = EXCHANGE) -> Iterator[Heard]:
    """Hear what the daemon publishes within the block; a Redis that goes away is waited for."""
    heard, ready, stop = Heard(exchange=exchange), threading.Event(), threading.Event()

    def listen() -> None:
        while not stop.is_set():
            try:
                with _client(url) as client, client.pubsub(ignore_subscribe_messages=True) as ears:
                    ears.psubscribe(f"channel:exchange:{exchange}:*")
                    ears.get_message(timeout=0.5)
                    ready.set()
                    while True:
                        message = ears.get_message(timeout=0.1)
                        if message is not None:
                            channel = message["channel"].decode()
                            heard.messages.append((channel, json.loads(message["data"])))
                        elif stop.is_set():
                            return
            except redis.RedisError:
                stop.wait(0.02)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield heard
    finally:
        stop.set()
        thread.join(60)  # beside a busy event loop it may be far behind
        assert not thread.is_alive(), "what was published is not all heard yet"


def _client(url: str) -> redis.Redis:
    if "+cluster" in url:  # any node hears what is published on another
        url = url.replace("+cluster", "", 1)
    return redis.Redis.from_url(url, socket_timeout=5)


def check_announcements(
    client: Client, heard: Heard, symbols: Sequence[str], *, in_order: bool = True
) -> int:
    """Every stored candle behind the announce cursor was announced once per revision, in order.

    Returns how many closes were announced. Call it when the daemon has ended.
    """
    closes: dict[Series, list[dict[str, Any]]] = defaultdict(list)
    corrections: dict[Series, list[dict[str, Any]]] = defaultdict(list)
    for kind, found in (("candle:close", closes), ("candle:correct", corrections)):
        for message in heard.of(kind):
            timeframe = next(t for t in TIMEFRAMES if t.value == message["timeframe"])
            found[Series(heard.exchange, message["symbol"], timeframe)].append(message)
    count = 0
    for series in (one for symbol in symbols for one in store.all_series(heard.exchange, symbol)):
        cursor = store.surveyed(series, client.one(*store.survey(series, 0, 0))).cursor
        assert cursor is not None, series
        members = client.one(*store.range_call(series, "-inf", "+inf"))
        candles, damaged = store.decode_candles(series, members)
        assert not damaged
        told = [message["open_time"] for message in closes[series]]
        count += len(told)
        assert len(told) == len(set(told)), f"{series}: announced twice"
        behind = [candle.open_time for candle in candles if candle.open_time > cursor]
        untold, unstored = set(behind) - set(told), set(told) - set(behind)
        assert not untold, (f"{series}: stored behind {cursor} and not announced", untold)
        assert not unstored, (f"{series}: announced and not stored behind {cursor}", unstored)
        assert all(message["revision"] == 0 for message in closes[series]), series
        if in_order:
            assert told == behind, f"{series}: announced out of order"
        revisions: dict[int, list[int]] = defaultdict(list)
        newest: dict[int, dict[str, Any]] = {m["open_time"]: m for m in closes[series]}
        for message in corrections[series]:
            revisions[message["open_time"]].append(message["revision"])
            newest[message["open_time"]] = message
        for candle in candles:
            wanted = list(range(1, candle.revision + 1))
            assert revisions[candle.open_time] == wanted, (series, candle, revisions)
            if candle.open_time in newest:
                _same(newest[candle.open_time], candle)
    return count


def _same(message: dict[str, Any], candle: Candle) -> None:
    for name in ("open", "high", "low", "close", "revision"):
        assert message[name] == getattr(candle, name), (name, message, candle)
    assert same_volume(message["volume"], candle.volume), (message, candle)
    assert message["kind"] == candle.kind.value


def lines(caplog: Any, text: str) -> list[logging.LogRecord]:
    """Log records whose event contains ``text``, but for what a channel writes of alerts."""
    return [
        record
        for record in caplog.records
        if text in record.getMessage() and record.name != "livermore.alerts"
    ]
