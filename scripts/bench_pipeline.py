#!/usr/bin/env python3
"""How long a closed candle takes from the socket to its reading in Redis, and where the time goes.

    scripts/bench_pipeline.py [--symbols 100,1000] [--days 2] [--memory 300]

Two processes and a real Valkey: one sends frames in Coinbase's protocol over loopback sockets,
one, pinned to a core of its own, runs connection -> tracker -> writer -> readings. Every symbol's
slot is closed by one trade beyond its end, all sent at one instant; a reading counts as published
when Redis has acknowledged its batch. Times are the machine's monotonic clock. Prints JSON; judges
nothing.
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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trio
import trio_websocket

from livermore.adapters import store
from livermore.adapters.redis import Redis
from livermore.adapters.valkey import open_private_valkey
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Candle, Evidence, Series
from livermore.market.timeframe import DAY, TIMEFRAMES, Timeframe, iso
from livermore.market.tracker import Missing, Pending, Tracker
from livermore.runtime.connection import Connection, Health, State
from livermore.runtime.journal import Journal
from livermore.runtime.lease import Lease
from livermore.runtime.readings import Readings
from livermore.runtime.recorder import Recorder
from livermore.runtime.writer import Writer

M5 = Timeframe.M5.ms
MIDNIGHT = 1_795_046_400_000  # 2026-11-19T00:00:00Z
BEFORE = 6
"""Five-minute slots before midnight that are closed one by one."""
HISTORY = 300


def symbols(count: int) -> list[str]:
    """Names of the products that trade here."""
    return [f"S{number:04d}-USD" for number in range(count)]


def stamp(ms: int) -> str:
    """The exchange's time as it writes it."""
    return iso(ms).replace("Z", f".{ms % 1000:03d}000000Z")


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
                            "price": f"{100 + trade_id % 17 * 0.25:.2f}",
                            "size": "0.01250000",
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
    """Serve sockets; a line on standard input is a time: one trade of every symbol, then."""
    sockets: list[tuple[Any, list[str], list[int]]] = []

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

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, serve, "127.0.0.1", 0, None)
        print(json.dumps({"port": server.port}), flush=True)
        while True:
            line = await trio.to_thread.run_sync(orders.readline, abandon_on_cancel=True)
            if not line.strip():
                break
            order = json.loads(line)
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
        nursery.cancel_scope.cancel()


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
                evidence=Evidence.REST,
                as_of=open_time + ms + 60_000,
            )
        )
        price = close
    return candles


async def nothing_stored(series: Series, first: int, last: int) -> None:
    """Nothing goes wrong here."""


async def pipeline(
    count: int, rounds: Sequence[tuple[str, int]], url: str, where: dict[str, float], memory: int
) -> dict[str, Any]:
    """Run the boundaries; returns latencies in ms by kind of boundary."""
    names = symbols(count)
    redis = Redis(url)
    await redis.one("FLUSHALL")
    lease = Lease(redis, "coinbase", "bench", {})
    await lease.take()
    lease.valid_until = math.inf  # nobody else is here, and renewing is not what is measured
    first = rounds[0][1] - M5  # the slot that ends at the first boundary opens here
    pending = Pending()
    readings = Readings(redis, lease, random.random)
    clock: list[Tracker] = []

    def count_missing(slots: Iterable[Missing]) -> None:
        where["missing"] = where.get("missing", 0) + len(list(slots))

    writer = Writer(
        redis,
        lease,
        pending,
        clock=lambda: clock[0].clock.read(trio.current_time()) if clock else None,
        stored=readings.submit,
        edge=readings.edge,
        missing=count_missing,
        suspects=lambda _: None,
        back=lambda: None,
        chance=random.random,
    )
    every = [Series("coinbase", name, tf) for tf in TIMEFRAMES for name in names]
    for at in range(0, len(every), 200):
        calls = [
            store.write(
                one,
                lease.epoch,
                history(one, one.timeframe.floor(first) - one.timeframe.ms),
                history=True,
            )
            for one in every[at : at + 200]
        ]
        await redis.run(calls)
    await readings.start(every)
    await readings.turn()
    await writer.seed((("coinbase", name) for name in names), first)
    _measure(writer, readings, where)
    published: list[tuple[float, int]] = []
    publish = readings._publish

    async def counted() -> None:
        before = readings.work.published
        await publish()
        if readings.work.published > before:
            published.append((time.monotonic(), readings.work.published - before))

    readings._publish = counted  # type: ignore[method-assign]
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
    latencies: dict[str, list[float]] = {}
    rss: list[int] = []
    healths: list[Health] = []
    recorder = Recorder(
        COINBASE, Path(), memory, Journal("coinbase"), clock=lambda: None, stored=nothing_stored
    )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recorder.run)
            nursery.start_soon(writer.run)
            nursery.start_soon(readings.run)
            for number, shard in enumerate(shards):
                tracker = Tracker(
                    [(name, Series("coinbase", name, Timeframe.M5)) for name in shard],
                    settle=COINBASE.settle,
                    sample_lag=COINBASE.sample_lag,
                    pending=pending,
                )
                clock.append(tracker)
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
                if memory:
                    own = {name: name for name in shard}
                    ring = recorder.attach(healths[-1].name, tracker, own, len(shards))
                    connection.heard = ring.heard
                nursery.start_soon(connection.live)
            with trio.fail_after(30):
                while not all(health.state is State.LIVE for health in healths):  # noqa: ASYNC110
                    await trio.sleep(0.05)
            trade_id = 1000

            async def order(ms: int, kind: str) -> float:
                nonlocal trade_id
                trade_id += 1
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
            gc.collect()
            gc.freeze()
            for kind, boundary in rounds:
                expected = count * sum(1 for tf in TIMEFRAMES if boundary % tf.ms == 0)
                published.clear()
                before = readings.work.published
                sent = await order(boundary + 150, "update")
                with trio.move_on_after(10):
                    while readings.work.published < before + expected:  # noqa: ASYNC110
                        await trio.sleep(0.005)
                # Redis has acknowledged a whole batch: each reading counts as late as the last.
                arrived = [moment for moment, count in published for _ in range(count)]
                latencies.setdefault(kind, []).extend((moment - sent) * 1000 for moment in arrived)
                where["lost"] = where.get("lost", 0) + expected - len(arrived)
                rss.append(resident())
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
    finally:
        process.terminate()
        process.wait()
        redis.close()
    return {"latencies": latencies, "rss": rss}


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
    parser.add_argument("--days", type=int, default=2, help="midnights per run")
    parser.add_argument("--recorder", type=int, default=32, help="its memory in MiB; 0: off")
    parser.add_argument("--role", choices=("exchange",))
    given = parser.parse_args()
    if given.role == "exchange":
        trio.run(exchange, int(given.symbols), sys.stdin)
        return 0
    result: dict[str, Any] = {"decode to tracker": sustained(), "pipeline": {}}
    os.sched_setaffinity(0, {1})
    with (
        tempfile.TemporaryDirectory(prefix="livermore-bench-") as directory,
        open_private_valkey(Path(directory)) as url,
    ):
        os.sched_setaffinity(0, {0})
        for count in map(int, given.symbols.split(",")):
            rounds = []
            for day in range(given.days):
                midnight = MIDNIGHT + day * DAY
                if day == 0:
                    rounds += [
                        (
                            "5m only" if (midnight - k * M5) % Timeframe.M15.ms else "15m",
                            midnight - k * M5,
                        )
                        for k in range(BEFORE, 0, -1)
                    ]
                    rounds.append(("midnight, all five", midnight))
            where: dict[str, float] = {}
            found = trio.run(pipeline, count, rounds, url, where, given.recorder << 20)
            result["pipeline"][f"{count} symbols"] = {
                **{kind: summary(values) for kind, values in found["latencies"].items() if values},
                "rss_mb": {"first": found["rss"][0], "last": found["rss"][-1]},
                "where the time goes, ms in all rounds": {k: round(v, 1) for k, v in where.items()},
            }
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
