#!/usr/bin/env python3
"""How long a closed candle takes from the socket to its reading in Redis, and where the time goes.

    python scripts/bench_pipeline.py [--symbols 100,1000]
        [--with recorder,verification,metrics,rules]

Two processes and a real Valkey: one sends frames in Coinbase's protocol over loopback sockets,
one, pinned to a core of its own, runs connection -> tracker -> writer -> readings. Every symbol's
slot is closed by one trade beyond its end, all sent at one instant; a candle counts as readable, a
reading as published, when Redis has acknowledged its batch. Times are the machine's monotonic
clock. Where it is busy with other things they say little: compare the CPU time that a round
costs this process and the server. Prints JSON; judges nothing.

What a daemon does beside that is switched on and off by ``--with`` (``none``: nothing of it):

recorder      keeps every frame, 32 MiB of them
verification  compares closed candles with REST, as fast as its share of 8 requests a second lets it
              (the market jumps from boundary to boundary, so its round has always too much to do);
              REST answers in this process, from what the market was
metrics       are served over loopback, and asked for every second by the other process
rules         the default ones follow every reading; an alert counts as published when its outbox is
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trio
import trio_websocket

from livermore.adapters import store
from livermore.adapters.http import Http, Reply
from livermore.adapters.redis import Redis
from livermore.adapters.valkey import open_private_valkey
from livermore.errors import StoreError
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Candle, Evidence, Series
from livermore.market.folding import child_series, fold_all
from livermore.market.timeframe import TIMEFRAMES, Timeframe, iso
from livermore.market.tracker import Missing, Pending, Suspect, Tracker
from livermore.runtime.alerting import Alerting
from livermore.runtime.connection import Connection, Health, State
from livermore.runtime.health import open_listeners, serve_health
from livermore.runtime.journal import Journal
from livermore.runtime.lease import Lease
from livermore.runtime.metrics import Source
from livermore.runtime.readings import Readings
from livermore.runtime.recorder import Recorder
from livermore.runtime.repairs import Repairs
from livermore.runtime.rest import Budget, Rest
from livermore.runtime.status import Report
from livermore.runtime.verification import Verification
from livermore.runtime.writer import Writer
from livermore.signals.rule import DEFAULT_RULES

M5 = Timeframe.M5.ms
MIDNIGHT = 1_795_046_400_000  # 2026-11-19T00:00:00Z
BEFORE = 6
"""Five-minute slots before midnight that are closed one by one."""
HISTORY = 300
UNCONFIRMED = 2
"""Of five minutes, the newest of them: not compared with REST yet."""
BESIDE = ("recorder", "verification", "metrics", "rules")
"""What runs beside the pipeline where ``--with`` does not say otherwise."""
MEMORY = 32 << 20
"""Bytes of frames the recorder keeps."""
REQUESTS = 8.0
"""Per second: what the exchange allows, as its budget takes it."""
ANSWERS_IN = 0.05
"""Seconds a request takes."""
SIZE = "0.01250000"


def symbols(count: int) -> list[str]:
    """Names of the products that trade here."""
    return [f"S{number:04d}-USD" for number in range(count)]


def stamp(ms: int) -> str:
    """The exchange's time as it writes it."""
    return iso(ms).replace("Z", f".{ms % 1000:03d}000000Z")


def price_of(trade_id: int) -> float:
    """What it traded at."""
    return 100 + trade_id % 17 * 0.25


def trade_frame(sequence: int, symbol: str, trade_id: int, ms: int, *, kind: str = "update") -> str:
    """One market_trades frame with one trade."""
    return json.dumps(
        {
            "channel": "market_trades",
            "client_id": "",
            "timestamp": stamp(ms + 120),
            "sequence_num": sequence,
            "events": [
                {
                    "type": kind,
                    "trades": [
                        {
                            "trade_id": str(trade_id),
                            "product_id": symbol,
                            "price": f"{price_of(trade_id):.2f}",
                            "size": SIZE,
                            "side": "BUY",
                            "time": stamp(ms),
                        }
                    ],
                }
            ],
        },
        separators=(",", ":"),
    )


def heartbeat_frame(sequence: int, ms: int) -> str:
    """One heartbeat."""
    return json.dumps(
        {
            "channel": "heartbeats",
            "client_id": "",
            "timestamp": stamp(ms),
            "sequence_num": sequence,
            "events": [{"current_time": str(ms), "heartbeat_counter": sequence}],
        },
        separators=(",", ":"),
    )


# -- the exchange -----------------------------------------------------------------------------


async def exchange(count: int, orders: Any) -> None:
    """Serve sockets; a line on standard input is a time: one trade of every symbol, then.

    A line that names a port has the metrics there asked for, every second from then on; an empty
    one is the end, and answered by when that was.
    """
    sockets: list[tuple[Any, list[str], list[int]]] = []
    scrapes: list[tuple[float, float, int]] = []

    async def serve(request: Any) -> None:
        socket = await request.accept()
        asked: dict[str, list[str]] = {}
        while len(asked) < 4:
            said = json.loads(await socket.get_message())
            asked[said["channel"]] = said.get("product_ids", [])
        own = asked["market_trades"]
        ack = {
            "channel": "subscriptions",
            "client_id": "",
            "timestamp": stamp(MIDNIGHT - (BEFORE + 1) * M5),
            "sequence_num": 0,
            "events": [{"subscriptions": asked}],
        }
        await socket.send_message(json.dumps(ack))
        sockets.append((socket, own, [1]))
        await trio.sleep_forever()

    async def scrape(port: int) -> None:
        due = trio.current_time()
        while True:
            began = time.monotonic()
            size = await scraped(port)
            scrapes.append((began, time.monotonic(), size))
            due += 1.0
            await trio.sleep_until(due)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, serve, "127.0.0.1", 0, None)
        print(json.dumps({"port": server.port}), flush=True)
        while True:
            line = await trio.to_thread.run_sync(orders.readline, abandon_on_cancel=True)
            if not line.strip():
                break
            order = json.loads(line)
            if "metrics" in order:
                nursery.start_soon(scrape, order["metrics"])
                continue
            ms, ids = order["ms"], order["id"]
            # The market did not run through the minutes between two boundaries: heartbeats move the
            # clock first, as they would have.
            for socket, _, sequence in sockets:
                for _ in range(2):
                    await socket.send_message(heartbeat_frame(sequence[0], ms - 50))
                    sequence[0] += 1
            frames = [
                (socket, trade_frame(sequence[0] + place, symbol, ids, ms, kind=order["kind"]))
                for socket, own, sequence in sockets
                for place, symbol in enumerate(own)
            ]
            for _, own, sequence in sockets:
                sequence[0] += len(own)
            await trio.sleep(0.2)
            # Every frame is encoded beforehand and handed to the kernel in one write per socket: at
            # "sent" all of them are at the sockets, and a slow sender is not our slowness.
            written = [
                (socket, b"".join(encoded(frame) for one, frame in frames if one is socket))
                for socket, _, _ in sockets
            ]
            sent = time.monotonic()
            async with trio.open_nursery() as senders:
                for socket, data in written:
                    senders.start_soon(socket._stream.send_all, data)
            print(json.dumps({"sent": sent, "done": time.monotonic()}), flush=True)
        print(json.dumps({"scrapes": scrapes}), flush=True)
        nursery.cancel_scope.cancel()


async def scraped(port: int) -> int:
    """Bytes of one answer, as Prometheus asks for it."""
    size = 0
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n")
        async for data in stream:
            size += len(data)
    return size


def encoded(text: str) -> bytes:
    """One unmasked text message, as a server sends it (RFC 6455, 5.2)."""
    data = text.encode()
    length = bytes([len(data)]) if len(data) < 126 else bytes([126]) + len(data).to_bytes(2, "big")
    return b"\x81" + length + data


# -- the pipeline -----------------------------------------------------------------------------


def history(series: Series, last: int) -> list[Candle]:
    """Candles up to open time ``last``, so that readings have something to stand on."""
    chance = random.Random(series.name)
    price, candles = 100.0, []
    ms = series.timeframe.ms
    confirmed = last - (UNCONFIRMED * ms if ms == M5 else 0)
    for open_time in range(last - (HISTORY - 1) * ms, last + 1, ms):
        close = round(max(1.0, price + chance.gauss(0, 0.5)), 2)
        candles.append(
            Candle(
                series,
                open_time,
                price,
                max(price, close) + 0.25,
                min(price, close) - 0.25,
                close,
                1.5,
                evidence=Evidence.REST if open_time <= confirmed else Evidence.STREAM,
                as_of=open_time + ms + 60_000,
            )
        )
        price = close
    return candles


def histories(name: str, first: int) -> list[tuple[Series, list[Candle]]]:
    """Of every timeframe, up to ``first``; parents are what their children make of them."""
    found: list[tuple[Series, list[Candle]]] = []
    for timeframe in TIMEFRAMES:
        series = Series("coinbase", name, timeframe)
        children = found[-1][1] if found else []
        folded = {candle.open_time: candle for candle in fold_all(series, children)}
        candles = history(series, timeframe.floor(first) - timeframe.ms)
        found.append((series, [folded.get(one.open_time, one) for one in candles]))
    return found


class Market:
    """What the exchange traded, for REST: the end of the history, then what was ordered since."""

    def __init__(self) -> None:
        self.traded: dict[int, int] = {}
        """Open time of a five-minute slot -> the id of its newest trade, the only one."""
        self.history: dict[Series, dict[int, Candle]] = {}
        """As much of it as is asked for, or folded with what follows."""

    def candles(self, series: Series, first: int, last: int) -> list[Candle]:
        """Those that there are, ascending."""
        times = range(series.timeframe.floor(first), last + 1, series.timeframe.ms)
        found = (self._candle(series, open_time) for open_time in times)
        return [candle for candle in found if candle is not None]

    def _candle(self, series: Series, open_time: int) -> Candle | None:
        if open_time in self.history[series]:
            return self.history[series][open_time]
        child = child_series(series)
        if child is not None:
            last = open_time + series.timeframe.ms - child.timeframe.ms
            return next(fold_all(series, self.candles(child, open_time, last)), None)
        if open_time not in self.traded:
            return None
        price = price_of(self.traded[open_time])
        return Candle(series, open_time, price, price, price, price, float(SIZE))


class MarketHttp(Http):
    """Coinbase's candles over REST, without a network."""

    def __init__(self, market: Market) -> None:
        super().__init__("http://127.0.0.1")
        self._market = market
        self._lengths = {
            COINBASE.candles_request("", timeframe, 0, 0).params["granularity"]: timeframe
            for timeframe in TIMEFRAMES
        }

    async def get(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> Reply:
        """The reply, newest row first."""
        await trio.sleep(ANSWERS_IN)
        series = Series("coinbase", path.split("/")[-2], self._lengths[params["granularity"]])
        first, last = int(params["start"]) * 1000, int(params["end"]) * 1000
        rows = [
            {
                "start": str(one.open_time // 1000),
                "low": str(one.low),
                "high": str(one.high),
                "open": str(one.open),
                "close": str(one.close),
                "volume": str(one.volume),
            }
            for one in reversed(self._market.candles(series, first, last))
        ]
        return Reply(200, {}, json.dumps({"candles": rows}).encode())


async def nothing_stored(series: Series, first: int, last: int) -> None:
    """What an incident's bundle would show of the store."""


async def pipeline(
    count: int,
    rounds: Sequence[tuple[str, int]],
    url: str,
    where: dict[str, float],
    beside: frozenset[str],
    directory: Path,
) -> dict[str, Any]:
    """Run the boundaries; returns latencies in ms by kind of boundary, and what ran beside."""
    names = symbols(count)
    redis = Redis(url)
    await redis.one("FLUSHALL")
    lease = Lease(redis, "coinbase", "bench", {})
    await lease.take()
    lease.valid_until = math.inf  # nobody else is here, and renewing is not what is measured
    first = rounds[0][1] - M5  # the slot that ends at the first boundary opens here
    pending = Pending()
    market = Market()
    trackers: list[Tracker] = []
    healths: list[Health] = []
    report = Report(exchange="coinbase", title="Coinbase", symbols=names)
    report.healths, report.trackers = healths, trackers

    def now() -> int:
        moment = trio.current_time()
        known = [tracker.clock.read(moment) for tracker in trackers]
        return max((time for time in known if time is not None), default=first)

    def say(event: str, fields: dict[str, object]) -> None:
        said[event] = said.get(event, 0) + 1

    said: dict[str, int] = {}
    journal = Journal("coinbase")
    recorder = Recorder(
        COINBASE, directory, MEMORY, journal, clock=lambda: None, stored=nothing_stored
    )
    alerting: Alerting | None = None
    verification: Verification | None = None
    repairs: Repairs | None = None
    if "rules" in beside:
        alerting = Alerting(
            redis, lease, DEFAULT_RULES,
            clock=now,
            price=lambda symbol: writer.prices.get(symbol),  # noqa: PLW0108 - defined below
            verify=lambda one, slot: verification.first(one, slot) if verification else None,
            say=say,
        )  # fmt: skip
    readings = Readings(redis, lease, random.random, alerting)

    def stored(written: store.Written) -> None:
        readings.submit(written)
        if verification is not None:
            verification.stored(written)

    def missing(slots: Iterable[Missing]) -> None:
        listed = list(slots)
        where["missing"] = where.get("missing", 0) + len(listed)
        if repairs is not None:
            repairs.missing(listed)

    def suspects(slots: Iterable[Suspect]) -> None:
        if repairs is not None:
            repairs.suspects(slots)

    writer = Writer(
        redis,
        lease,
        pending,
        clock=now,
        stored=stored,
        edge=readings.edge,
        missing=missing,
        suspects=suspects,
        back=lambda: None,
        chance=random.random,
    )
    report.writer, report.readings = writer, readings
    every = [Series("coinbase", name, tf) for tf in TIMEFRAMES for name in names]
    for at in range(0, count, 20):
        calls = []
        for name in names[at : at + 20]:
            for one, candles in histories(name, first):
                market.history[one] = {candle.open_time: candle for candle in candles[-6:]}
                calls.append(store.write(one, lease.epoch, candles, history=True))
        await redis.run(calls)
    if alerting is not None:
        await alerting.start(every)
    await readings.start(every)
    await readings.turn()
    await writer.seed(every, first)
    if "verification" in beside:
        budget = Budget(redis, "coinbase", REQUESTS)
        repairs = Repairs(
            COINBASE, redis, lease, Rest(COINBASE, MarketHttp(market), budget, now), writer,
            {name: name for name in names},
            clock=now, say=say, progressed=lambda: None, chance=random.random,
            incident=recorder.report,
        )  # fmt: skip
        verification = Verification(
            COINBASE, redis, repairs, every, requests_per_second=REQUESTS, clock=now, say=say,
            chance=random.random,
        )  # fmt: skip
        report.budget, report.repairs, report.verification = budget, repairs, verification
    _measure(writer, readings, where)
    readable: list[tuple[float, int]] = []
    store_candles = writer._store

    async def counted_candles(
        ordered: Sequence[Series], listed: Sequence[Sequence[Candle]], *, history: bool
    ) -> list[object]:
        replies = await store_candles(ordered, listed, history=history)
        if not history:
            readable.append((time.monotonic(), sum(map(len, listed))))
        return replies

    writer._store = counted_candles  # type: ignore[method-assign]
    published: list[tuple[float, int]] = []
    alerted: list[tuple[float, int]] = []
    publish, alert = readings._publish, readings._alert

    async def counted() -> None:
        before = readings.work.published
        await publish()
        if readings.work.published > before:
            published.append((time.monotonic(), readings.work.published - before))

    async def counted_alerts() -> StoreError | None:
        before = alerting.fired if alerting is not None else 0
        trouble = await alert()
        if alerting is not None and alerting.fired > before:
            alerted.append((time.monotonic(), alerting.fired - before))
        return trouble

    readings._publish, readings._alert = counted, counted_alerts  # type: ignore[method-assign]
    process = subprocess.Popen(  # noqa: ASYNC220 - a benchmark, before it begins
        [
            "taskset",
            "-c",
            "1",
            sys.executable,
            __file__,
            "--role",
            "exchange",
            "--symbols",
            str(count),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    port = json.loads(process.stdout.readline())["port"]
    size = COINBASE.products_per_connection
    shards = [names[at : at + size] for at in range(0, count, size)]
    stored_at: dict[str, list[float]] = {}
    latencies: dict[str, list[float]] = {}
    cpu: dict[str, dict[str, list[float]]] = {}
    alerts: dict[str, list[float]] = {}
    windows: list[tuple[float, float, int]] = []
    scrapes: list[tuple[float, float, int]] = []
    rss: list[int] = []

    async def server_cpu() -> float:
        """Milliseconds of CPU that the server has taken by now."""
        info = await redis.one("INFO", "cpu")
        return 1000 * float(info["used_cpu_user"] + info["used_cpu_sys"])

    def compared() -> int:
        return verification.figures.requests if verification is not None else 0

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recorder.run)
            nursery.start_soon(writer.run)
            nursery.start_soon(readings.run)
            if repairs is not None and verification is not None:
                nursery.start_soon(repairs.run)
                nursery.start_soon(verification.run)
            for number, shard in enumerate(shards):
                tracker = Tracker(
                    [(name, Series("coinbase", name, Timeframe.M5)) for name in shard],
                    settle=COINBASE.settle,
                    sample_lag=COINBASE.sample_lag,
                    pending=pending,
                )
                trackers.append(tracker)
                healths.append(Health(f"c/{number}", len(shard)))
                connection = Connection(
                    COINBASE,
                    f"ws://127.0.0.1:{port}",
                    shard,
                    tracker,
                    healths[-1],
                    writer.wake,
                    lambda _: None,
                    lambda _: None,
                )
                if "recorder" in beside:
                    own = {name: name for name in shard}
                    ring = recorder.attach(healths[-1].name, tracker, own, len(shards))
                    connection.heard = ring.heard
                nursery.start_soon(connection.live)
            with trio.fail_after(30):
                while not all(health.state is State.LIVE for health in healths):  # noqa: ASYNC110
                    await trio.sleep(0.05)
            report.started_following = True
            trade_id = 1000

            async def order(ms: int, kind: str) -> float:
                nonlocal trade_id
                trade_id += 1
                market.traded[ms - ms % M5] = trade_id
                assert process.stdin and process.stdout
                process.stdin.write(json.dumps({"ms": ms, "id": trade_id, "kind": kind}) + "\n")
                process.stdin.flush()
                line = await trio.to_thread.run_sync(process.stdout.readline)
                return float(json.loads(line)["sent"])

            # Trades from before the first slot: the chain is whole when it begins.
            await order(first - 9000, "snapshot")
            await order(first - 1000, "update")
            await order(first + 1000, "update")
            await trio.sleep(3.5)  # the slot before ours is given up only after this patience
            if "metrics" in beside:
                listeners = await open_listeners("127.0.0.1", 0)
                served = {"metrics": int(listeners[0].socket.getsockname()[1])}
                nursery.start_soon(
                    serve_health, listeners, lambda: {"coinbase": Source(report, now())}
                )
                process.stdin.write(json.dumps(served) + "\n")
            gc.collect()
            gc.freeze()
            for kind, boundary in rounds:
                expected = count * sum(1 for tf in TIMEFRAMES if boundary % tf.ms == 0)
                readable.clear()
                published.clear()
                alerted.clear()
                if verification is not None:
                    for one in every[:count]:
                        verification.first(one, boundary - 3 * M5)
                before, asked = readings.work.published, compared()
                costs = cpu.setdefault(kind, {})
                of_server, begun = await server_cpu(), time.process_time()
                sent = await order(boundary + 150, "update")
                with trio.move_on_after(10):
                    while readings.work.published < before + expected:  # noqa: ASYNC110
                        await trio.sleep(0.005)
                    spent = (time.process_time() - begun) * 1000
                    costs.setdefault("until the readings", []).append(spent)
                    while alerting is not None and alerting.waiting:  # noqa: ASYNC110
                        await trio.sleep(0.005)
                spent = (time.process_time() - begun) * 1000
                costs.setdefault("whole round", []).append(spent)
                costs.setdefault("server", []).append(await server_cpu() - of_server)
                stored_at.setdefault(kind, []).extend(
                    (moment - sent) * 1000 for moment, count in readable for _ in range(count)
                )
                # Redis has acknowledged a whole batch: each reading counts as late as the last.
                arrived = [moment for moment, count in published for _ in range(count)]
                latencies.setdefault(kind, []).extend((moment - sent) * 1000 for moment in arrived)
                alerts.setdefault(kind, []).extend(
                    (moment - sent) * 1000 for moment, count in alerted for _ in range(count)
                )
                windows.append((sent, time.monotonic(), compared() - asked))
                where["lost"] = where.get("lost", 0) + expected - len(arrived)
                rss.append(resident())
                await trio.sleep(0.1)
            process.stdin.write("\n")
            process.stdin.flush()
            answer = await trio.to_thread.run_sync(process.stdout.readline)
            scrapes = json.loads(answer)["scrapes"]
            nursery.cancel_scope.cancel()
    finally:
        process.terminate()
        process.wait()
        redis.close()
    ran: dict[str, Any] = {"seconds of closes": round(sum(end - at for at, end, _ in windows), 2)}
    if "recorder" in beside:
        ran["recorder"] = {"bytes held": sum(ring.size for ring in recorder._rings)}
    if verification is not None:
        ran["verification"] = {
            "requests": compared(),
            "answered during closes": sum(asked for *_, asked in windows),
            **{k: v for k, v in said.items() if k != "alert"},
        }
    if "metrics" in beside:
        ran["metrics"] = {
            "scrapes": len(scrapes),
            "during closes": sum(
                any(begin < end and at < done for at, end, _ in windows)
                for begin, done, _ in scrapes
            ),
            "longest, ms": round(max((done - at) * 1000 for at, done, _ in scrapes), 1),
            "bytes": scrapes[-1][2],
        }
    if alerting is not None:
        ran["rules"] = {"alerts": alerting.fired, "withdrawn": alerting.withdrawn}
    return {
        "candles": stored_at,
        "latencies": latencies,
        "alerts": alerts,
        "cpu": cpu,
        "beside": ran,
        "rss": rss,
    }


def _measure(writer: Writer, readings: Readings, where: dict[str, float]) -> None:
    """Count the time spent in the parts, by wrapping them."""

    def timed(owner: Any, name: str, label: str) -> None:
        inner = getattr(owner, name)

        async def outer(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return await inner(*args, **kwargs)
            finally:
                where[label] = where.get(label, 0.0) + (time.perf_counter() - started) * 1000

        setattr(owner, name, outer)

    def timed_sync(owner: Any, name: str, label: str) -> None:
        inner = getattr(owner, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                where[label] = where.get(label, 0.0) + (time.perf_counter() - started) * 1000

        setattr(owner, name, outer)

    timed_sync(writer, "_collect", "collect and fold")
    timed(writer, "_write", "write candles, whole")
    timed_sync(readings, "_step", "advance and encode readings")
    timed(readings, "_publish", "publish readings, whole")
    timed(readings, "_alert", "write what the rules found and remember, whole")


def resident() -> int:
    """Resident memory of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024
    return 0


# -- decode -> tracker ------------------------------------------------------------------------


def sustained(count: int = 100, frames: int = 60_000) -> dict[str, float]:
    """Frames per second of one core from text to tracker, on a realistic mixture."""
    names = symbols(count)
    tracker = Tracker(
        [(name, Series("coinbase", name, Timeframe.M5)) for name in names],
        settle=COINBASE.settle,
        sample_lag=COINBASE.sample_lag,
    )
    tracker.connected(0.0)
    texts: list[str] = []
    ids = dict.fromkeys(names, 1)
    chance = random.Random(7)
    for number in range(frames):
        ms = MIDNIGHT + number * 5
        name = chance.choice(names)
        kind = number % 10
        if kind < 5:
            texts.append(trade_frame(number, name, ids[name], ms))
            ids[name] += 1
        elif kind < 9:
            texts.append(
                json.dumps(
                    {
                        "channel": "ticker",
                        "client_id": "",
                        "timestamp": stamp(ms),
                        "sequence_num": number,
                        "events": [
                            {
                                "type": "update",
                                "tickers": [
                                    {
                                        "type": "ticker",
                                        "product_id": name,
                                        "price": "100.25",
                                        "volume_24_h": "15328.1",
                                        "low_24_h": "99",
                                        "high_24_h": "101",
                                        "low_52_w": "50",
                                        "high_52_w": "150",
                                        "price_percent_chg_24_h": "1.85",
                                        "best_bid": "100.2",
                                        "best_bid_quantity": "1.5",
                                        "best_ask": "100.3",
                                        "best_ask_quantity": "0.5",
                                    }
                                ],
                            }
                        ],
                    },
                    separators=(",", ":"),
                )
            )
        else:
            start = ms - ms % M5
            texts.append(
                json.dumps(
                    {
                        "channel": "candles",
                        "client_id": "",
                        "timestamp": stamp(ms),
                        "sequence_num": number,
                        "events": [
                            {
                                "type": "update",
                                "candles": [
                                    {
                                        "start": str(start // 1000),
                                        "high": "104.25",
                                        "low": "100",
                                        "open": "100",
                                        "close": "100.25",
                                        "volume": "42.15",
                                        "product_id": name,
                                    }
                                ],
                            }
                        ],
                    },
                    separators=(",", ":"),
                )
            )
    started = time.process_time()
    for number, text in enumerate(texts):
        tracker.take(COINBASE.read(text), number * 0.005)
    spent = time.process_time() - started
    return {
        "frames": frames,
        "frames_per_second": round(frames / spent),
        "us_per_frame": round(spent / frames * 1e6, 2),
    }


def rounded(values: Iterable[float]) -> list[float]:
    """For people."""
    return [round(value, 1) for value in values]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Percentiles in ms."""
    p50, p99 = np.percentile(np.array(values), [50, 99])
    return {
        "count": len(values),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "max_ms": round(max(values), 1),
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--symbols", default="100,1000")
    parser.add_argument("--with", dest="beside", default=",".join(BESIDE), metavar="LIST")
    parser.add_argument("--role", choices=("exchange",))
    given = parser.parse_args()
    beside = frozenset() if given.beside == "none" else frozenset(given.beside.split(","))
    if beside - set(BESIDE):
        parser.error(f"--with: some of {','.join(BESIDE)}, or none")
    if given.role == "exchange":
        trio.run(exchange, int(given.symbols), sys.stdin)
        return 0
    result: dict[str, Any] = {
        "with": [name for name in BESIDE if name in beside],
        "decode to tracker": sustained(),
        "pipeline": {},
    }
    os.sched_setaffinity(0, {1})
    with (
        tempfile.TemporaryDirectory(prefix="livermore-bench-") as directory,
        open_private_valkey(Path(directory)) as url,
    ):
        os.sched_setaffinity(0, {0})
        for count in map(int, given.symbols.split(",")):
            rounds = [
                ("15m" if boundary % Timeframe.M15.ms == 0 else "5m only", boundary)
                for boundary in range(MIDNIGHT - BEFORE * M5, MIDNIGHT, M5)
            ]
            rounds.append(("midnight, all five", MIDNIGHT))
            where: dict[str, float] = {}
            found = trio.run(pipeline, count, rounds, url, where, beside, Path(directory))
            result["pipeline"][f"{count} symbols"] = {
                **{
                    name: {kind: summary(values) for kind, values in found[of].items() if values}
                    for name, of in (
                        ("candle readable", "candles"),
                        ("reading published", "latencies"),
                        ("alerts", "alerts"),
                    )
                },
                "cpu_ms": {
                    kind: {name: rounded(values) for name, values in costs.items()}
                    for kind, costs in found["cpu"].items()
                },
                "beside": found["beside"],
                "rss_mb": {"first": found["rss"][0], "last": found["rss"][-1]},
                "where the time goes, ms in all rounds": {k: round(v, 1) for k, v in where.items()},
            }
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
